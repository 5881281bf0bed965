//! The windows of the fake EL2's cores.

use penumbra_abi::{Error, ScheduleStatus, ScheduleWindow};

use super::Fake;
use crate::hypervisor::Result;

impl Fake {
    pub(super) fn draft_window(&mut self, core: u64, place: u64, window: (u64, u64)) -> Result<()> {
        let draft = self.draft.entry(core).or_default();
        draft.truncate(usize::try_from(place).unwrap());
        draft.push(window);
        Ok(())
    }

    pub(super) fn install_windows(&mut self, core: u64, windows: u64, frame_us: u64) -> Result<()> {
        if core >= self.board.cores {
            return Err(Error::NoSuchObject);
        }
        let draft = self.draft.remove(&core).unwrap_or_default();
        assert_eq!(u64::try_from(draft.len()).unwrap(), windows);
        self.tables.insert(core, (draft, frame_us));
        Ok(())
    }

    pub(super) fn frames_begun(&self, core: u64) -> Result<ScheduleStatus> {
        let table = self.tables.get(&core).ok_or(Error::NoSuchObject)?;
        Ok(ScheduleStatus {
            windows: u64::try_from(table.0.len()).unwrap(),
            frame_us: table.1,
            frames: 1000,
            missed: 1,
            pending: false,
        })
    }

    pub(super) fn window(&self, core: u64, place: u64) -> Result<ScheduleWindow> {
        let table = self.tables.get(&core).ok_or(Error::NoSuchObject)?;
        let (owner, us) = table.0[usize::try_from(place).unwrap()];
        Ok(ScheduleWindow {
            owner,
            us,
            starts: 999,
            least_ticks: 2,
            most_ticks: 30,
            sum_ticks: 999 * 7,
        })
    }
}

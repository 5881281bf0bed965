//! Fixed cyclic schedules: what the scenario says, handed to EL2.

use alloc::format;
use alloc::string::{String, ToString};

use penumbra_abi::{Error, MANAGER_VM, ScheduleStatus, ScheduleWindow};
use penumbra_bundle::Schedule;

use crate::hypervisor::Hypervisor;
use crate::manager::{Manager, tag_of};
use crate::refusal::{ErrorText, Line};

impl Manager<'_> {
    /// Installs the schedules that are not in force yet. A manager that was restarted finds its own.
    pub(crate) fn schedule_cores<H: Hypervisor>(&mut self, hv: &mut H) {
        for schedule in self.manifest.schedules() {
            let core = u64::from(schedule.core);
            let known = hv.schedule_status(core).unwrap_or_default();
            if known.windows != 0 || known.pending {
                continue;
            }
            let line = Line {
                file: self.manifest.file,
                line: schedule.line,
            };
            match install(hv, &schedule) {
                Ok(()) => {}
                Err(Error::NoSuchObject) => {
                    let last = self.board.cores.saturating_sub(1);
                    self.console.say(
                        hv,
                        format_args!(
                            "core {core} has no schedule: the board has cores 0 to {last} {line}"
                        ),
                    );
                }
                Err(error) => {
                    let why = ErrorText(error);
                    self.console.say(
                        hv,
                        format_args!("core {core} has no schedule: {why} {line}"),
                    );
                }
            }
        }
    }

    /// The schedules in force, window by window.
    pub(crate) fn show_schedule<H: Hypervisor>(&mut self, hv: &mut H) {
        let mut any = false;
        for core in 0..self.board.cores {
            let status = hv.schedule_status(core).unwrap_or_default();
            if status.windows == 0 {
                continue;
            }
            any = true;
            self.show_core(hv, core, &status);
        }
        if !any {
            let text = "no core has a schedule: guests that share one take turns";
            self.console.print(hv, format_args!("{text}"));
        }
    }

    fn show_core<H: Hypervisor>(&mut self, hv: &mut H, core: u64, status: &ScheduleStatus) {
        let ScheduleStatus {
            windows,
            frame_us,
            frames,
            missed,
            pending,
        } = *status;
        let next = if pending { "; another table waits" } else { "" };
        self.console.print(
            hv,
            format_args!(
                "core {core}: frame of {frame_us} us, {frames} begun, {missed} missed{next}"
            ),
        );
        self.console.print(
            hv,
            format_args!(
                "    at us  length us  window of         starts  late by us: least, average, most"
            ),
        );
        let hz = u128::from(self.board.counter_hz.max(1));
        // Hundredths, so that a microsecond of a fast core is no zero.
        let us = |ticks: u64| {
            let hundredths = u128::from(ticks).saturating_mul(100_000_000) / hz;
            format!("{}.{:02}", hundredths / 100, hundredths % 100)
        };
        let mut at = 0u64;
        for place in 0..windows {
            let Ok(window) = hv.schedule_window(core, place) else {
                continue;
            };
            let ScheduleWindow {
                owner: _,
                us: length,
                starts,
                least_ticks: least,
                most_ticks: most,
                sum_ticks: sum,
            } = window;
            let average = sum.checked_div(starts).unwrap_or(0);
            let name = self.owner_name(window.owner);
            let [least, average, most] = [least, average, most].map(us);
            self.console.print(
                hv,
                format_args!(
                    "  {at:>7}  {length:>9}  {name:<12} {starts:>11}  {least}, {average}, {most}"
                ),
            );
            at = at.saturating_add(length);
        }
        if at < frame_us {
            let rest = frame_us.saturating_sub(at);
            self.console
                .print(hv, format_args!("  {at:>7}  {rest:>9}  nobody"));
        }
    }

    fn owner_name(&self, owner: u64) -> String {
        if owner == MANAGER_VM {
            return "the manager".into();
        }
        let mut slots = self.slots.iter().enumerate();
        let slot = slots.find(|(index, _)| tag_of(*index) == owner);
        slot.map_or("?".into(), |(_, slot)| slot.guest.name.to_string())
    }
}

fn install<H: Hypervisor>(hv: &mut H, schedule: &Schedule<'_>) -> Result<(), Error> {
    let core = u64::from(schedule.core);
    let mut count = 0;
    for window in schedule.windows {
        let owner = window
            .guest
            .map_or(MANAGER_VM, |guest| tag_of(usize::from(guest)));
        hv.schedule_set(core, count, owner, u64::from(window.us))?;
        count = count.saturating_add(1);
    }
    hv.schedule_install(core, count, u64::from(schedule.frame_us))
}

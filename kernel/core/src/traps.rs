//! The log of what a VM tried and was refused: unknown system registers, addresses where nothing is,
//! accesses that a device does not take, unknown calls.
//!
//! Each VM has its own, under its own lock, of fixed size: accesses of one kind share a record and are
//! counted, and when all records are taken the one that was used longest ago makes room. So a guest that
//! floods its log keeps nobody waiting but its own vCPUs, and loses only its own records.
//!
//! Pure. Only paths that refuse something come here.

use penumbra_abi::{Error, TRAP_RECORDS, TrapRecord, TrapsStatus};
use penumbra_trap::esr::ec;

use crate::machine::{GuestRegister, Machine};
use crate::vcpu::{Place, Vcpu};

/// There is no address and no function.
pub(crate) const NOTHING: u64 = u64::MAX;
/// Bits of an address in its page.
const IN_PAGE: u64 = 0xfff;

/// The log of a VM. All zero while there is nothing in it.
#[derive(Debug)]
pub(crate) struct TrapLog {
    records: [TrapRecord; TRAP_RECORDS],
    all: u64,
    forgotten: u64,
}

impl TrapLog {
    /// Nothing was refused.
    pub(crate) const fn new() -> Self {
        const NONE: TrapRecord = TrapRecord {
            esr: 0,
            vcpu: 0,
            pc: 0,
            far: 0,
            what: 0,
            count: 0,
            when: 0,
        };
        Self {
            records: [NONE; TRAP_RECORDS],
            all: 0,
            forgotten: 0,
        }
    }

    /// Notes one more; its count is ignored.
    pub(crate) fn note(&mut self, new: TrapRecord) {
        self.all = self.all.saturating_add(1);
        let kind = kind(&new);
        // The record of its kind, else one that is free, else the one that was used longest ago.
        let order = |record: &TrapRecord| match record.count {
            0 => (1, 0),
            _ if self::kind(record) == kind => (0, 0),
            _ => (2, record.when),
        };
        let Some(slot) = self.records.iter_mut().min_by_key(|record| order(record)) else {
            return;
        };
        let count = match order(slot) {
            (0, _) => slot.count,
            _ => {
                self.forgotten = self.forgotten.saturating_add(slot.count);
                0
            }
        };
        *slot = TrapRecord {
            count: count.saturating_add(1),
            ..new
        };
    }

    /// How much there is.
    pub(crate) fn status(&self) -> TrapsStatus {
        let used = self.records.iter().filter(|record| record.count != 0);
        TrapsStatus {
            records: u64::try_from(used.count()).unwrap_or(0),
            all: self.all,
            forgotten: self.forgotten,
        }
    }

    /// A record.
    pub(crate) fn record(&self, number: u64) -> Result<TrapRecord, Error> {
        let number = usize::try_from(number).map_err(|_| Error::NoSuchObject)?;
        let record = self.records.get(number).filter(|record| record.count != 0);
        record.copied().ok_or(Error::NoSuchObject)
    }
}

/// What accesses of one kind have in common.
const fn kind(record: &TrapRecord) -> (u32, u64) {
    /// Bit 6 of the syndrome of a data abort: a write.
    const WRITE: u32 = 1 << 6;
    /// The syndrome of MSR and MRS without Rt (bits 9:5).
    const REGISTER: u32 = 0x3f_fc1f;
    let class = record.esr >> 26;
    let detail = match class as u8 {
        ec::SYSREG => record.esr & REGISTER,
        ec::DATA_ABORT_LOWER => record.esr & WRITE,
        _ => 0,
    };
    let what = match class as u8 {
        ec::DATA_ABORT_LOWER | ec::INSTRUCTION_ABORT_LOWER => record.what & !IN_PAGE,
        _ => record.what,
    };
    (class << 26 | detail, what)
}

/// Notes what the vCPU is being refused. `what` is as [`TrapRecord::what`], `behind` how far PC is
/// behind the instruction already.
// Apart, so that the answers it is called from stay as they are for what is not refused.
#[cold]
#[inline(never)]
pub(crate) fn note(
    vcpu: &Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    what: u64,
    behind: u64,
) {
    let syndrome = machine.syndrome();
    let class = (syndrome.esr >> 26 & 0x3f) as u8;
    let is_abort = matches!(class, ec::DATA_ABORT_LOWER | ec::INSTRUCTION_ABORT_LOWER);
    let record = TrapRecord {
        // Bits 63:32 hold no class and no detail that is shown.
        esr: (syndrome.esr & 0xffff_ffff) as u32,
        vcpu: u8::try_from(vcpu.id.index()).unwrap_or(u8::MAX),
        pc: machine.guest(GuestRegister::Pc).wrapping_sub(behind),
        far: if is_abort { syndrome.far } else { 0 },
        what,
        count: 0,
        when: machine.counter(),
    };
    place.vm.traps.lock().note(record);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A load from an address.
    fn load(ipa: u64, when: u64) -> TrapRecord {
        TrapRecord {
            esr: 0x9200_0006,
            what: ipa,
            when,
            ..TrapRecord::default()
        }
    }

    fn register(esr: u32) -> TrapRecord {
        TrapRecord {
            esr,
            what: NOTHING,
            ..TrapRecord::default()
        }
    }

    fn records(log: &TrapLog) -> Vec<TrapRecord> {
        (0..).map_while(|number| log.record(number).ok()).collect()
    }

    #[test]
    fn accesses_of_one_kind_share_a_record_that_shows_the_last() {
        let mut log = TrapLog::new();
        log.note(load(0x1000, 1));
        log.note(load(0x1ff8, 2));
        log.note(load(0x2000, 3));
        // A store to the first page.
        log.note(TrapRecord {
            esr: 0x9200_0046,
            ..load(0x1000, 4)
        });
        let seen: Vec<_> = records(&log)
            .iter()
            .map(|r| (r.what, r.count, r.when))
            .collect();
        assert_eq!(seen, [(0x1ff8, 2, 2), (0x2000, 1, 3), (0x1000, 1, 4)]);
        let status = log.status();
        assert_eq!((status.records, status.all, status.forgotten), (3, 4, 0));
    }

    #[test]
    fn registers_are_told_apart_by_name_and_direction_only() {
        let mut log = TrapLog::new();
        let read = 0x6236_f801;
        log.note(register(read));
        log.note(register(read | 5 << 5));
        log.note(register(read & !1));
        log.note(register(read | 1 << 10));
        let counts: Vec<_> = records(&log).iter().map(|r| r.count).collect();
        assert_eq!(counts, [2, 1, 1]);
    }

    #[test]
    fn a_flood_forgets_its_oldest_and_counts_them() {
        let mut log = TrapLog::new();
        log.note(load(0x10_0000, 1));
        log.note(load(0x10_0000, 2));
        for n in 0..1000 {
            log.note(load(0x20_0000 + n * 0x1000, 10 + n));
        }
        let status = log.status();
        assert_eq!(status.records, TRAP_RECORDS as u64);
        assert_eq!(status.all, 1002);
        assert_eq!(status.forgotten, 1002 - TRAP_RECORDS as u64);
        let oldest = records(&log).iter().map(|r| r.when).min();
        assert_eq!(oldest, Some(1010 - TRAP_RECORDS as u64));
        assert_eq!(log.record(TRAP_RECORDS as u64), Err(Error::NoSuchObject));
        assert_eq!(log.record(u64::MAX), Err(Error::NoSuchObject));
    }
}

//! What guests tried and were refused: EL2's log, in words.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use penumbra_abi::{Call, TrapRecord};
use penumbra_bundle::Key;
use penumbra_devices::BoardTree;

use crate::granted::ram_ipa;
use crate::hypervisor::Hypervisor;
use crate::manager::Manager;
use crate::map::{self, Place};
use crate::refusal::{ErrorText, Line};
use crate::report::{PlaceText, regions};
use crate::syndrome::Syndrome;

/// Exception classes of HVC, SMC, MSR or MRS, and aborts (Arm ARM DDI 0487 L.b, "ESR_EL2").
const HVC: u32 = 0x16;
const SMC: u32 = 0x17;
const REGISTER: u32 = 0x18;
const INSTRUCTION_ABORT: u32 = 0x20;
const DATA_ABORT: u32 = 0x24;

impl Manager<'_> {
    pub(super) fn show_traps<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let name = slot.guest.name;
        let Some(vm) = slot.vm else {
            let text = format_args!("guest '{name}' has no VM, so there is no log");
            return self.console.print(hv, text);
        };
        let status = match hv.vm_traps(vm) {
            Ok(status) => status,
            Err(error) => {
                let why = ErrorText(error);
                return self.console.print(hv, format_args!("no answer: {why}"));
            }
        };
        let records = (0..status.records).filter_map(|number| hv.vm_trap(vm, number).ok());
        let mut records: Vec<TrapRecord> = records.collect();
        records.sort_by_key(|record| core::cmp::Reverse(record.when));
        let board = BoardTree::parse(hv.board_tree());
        let now = hv.now();
        let mut lines = Vec::new();
        lines.push(match status.all {
            0 => format!("guest '{name}': nothing was refused since it was loaded"),
            all => format!("guest '{name}': {all} accesses were refused since it was loaded"),
        });
        for record in &records {
            let ago = self.seconds(now.saturating_sub(record.when));
            let TrapRecord {
                count, vcpu, pc, ..
            } = record;
            lines.push(format!(
                "  {count} times, last {ago} ago by vCPU {vcpu} at PC {pc:#x}: {}",
                deed(record)
            ));
            self.explain(index, record, board.as_ref(), &mut lines);
        }
        if status.forgotten > 0 {
            let (forgotten, kept) = (status.forgotten, records.len());
            lines.push(format!(
                "  {forgotten} more, of other kinds: the log keeps the last {kept} kinds"
            ));
        }
        for line in lines {
            self.console.print(hv, format_args!("{line}"));
        }
    }

    /// Where it was, and what to change.
    fn explain(
        &self,
        index: usize,
        record: &TrapRecord,
        board: Option<&BoardTree<'_>>,
        lines: &mut Vec<String>,
    ) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let guest = &slot.guest;
        let class = record.esr >> 26;
        let is_abort = matches!(class, DATA_ABORT | INSTRUCTION_ABORT);
        let (advice, key) = if is_abort && record.what != u64::MAX {
            let (ipa, far) = (record.what, record.far);
            let regions = regions(&self.board, guest, slot.plan.as_ref());
            let nearest = map::nearest(&regions, ipa);
            let place = nearest.map_or(String::new(), |place| PlaceText(place).to_string());
            lines.push(format!("    address {ipa:#x} (virtual {far:#x}), {place}"));
            let of_board = board.and_then(|tree| {
                let path = tree.device_at(ipa)?;
                let may_be_given = tree.device(&path).is_ok();
                Some((path, may_be_given))
            });
            let end = ram_ipa(guest).saturating_add(guest.memory_bytes);
            match (nearest, of_board) {
                (Some(Place::Within(..)), _) => (
                    "an emulated device takes loads and stores of one register; to change: \
                     the payload in `kernel`"
                        .into(),
                    Key::Kernel,
                ),
                (_, Some((path, true))) => (
                    format!("the board has {path} there; to change: name it in `devices`"),
                    Key::Devices,
                ),
                (_, Some((path, false))) => (
                    format!("the board has {path} there, which no guest can have"),
                    Key::Guest,
                ),
                _ if ipa >= end => ("to change: raise `memory`".into(), Key::Memory),
                _ => ("this guest is defined here:".into(), Key::Guest),
            }
        } else {
            (
                String::from("no key changes that; the payload in `kernel` does it"),
                Key::Kernel,
            )
        };
        let line = Line::of(self.manifest.file, guest, key);
        lines.push(format!("    {advice} {line}"));
    }
}

/// What the guest did, and what it got for that.
fn deed(record: &TrapRecord) -> String {
    let function = (record.what & 0xffff_ffff) as u32;
    let immediate = record.what >> 32 & 0xffff;
    match record.esr >> 26 {
        class @ (HVC | SMC) => {
            let name = if class == HVC { "HVC" } else { "SMC" };
            let why = match Call::from_id(function) {
                _ if immediate != 0 => "only #0 has a meaning",
                Some(_) => "only the manager may call it",
                None => "there is no such function",
            };
            format!("{name} #{immediate}, function {function:#010x}: {why}; NOT_SUPPORTED")
        }
        REGISTER => {
            let way = if record.esr & 1 == 1 { "read" } else { "write" };
            format!("{way} of {}: UNDEFINED", register(record.esr))
        }
        INSTRUCTION_ABORT | DATA_ABORT => {
            format!("{}; External abort", Syndrome(record.esr.into()))
        }
        _ => format!("{}: UNDEFINED", Syndrome(record.esr.into())),
    }
}

/// The register of a syndrome by its generic name, which assemblers take, and what it belongs to.
fn register(iss: u32) -> String {
    let field = |shift: u32, bits: u32| iss >> shift & ((1 << bits) - 1);
    let (op0, op2, op1) = (field(20, 2), field(17, 3), field(14, 3));
    let (crn, crm) = (field(10, 4), field(1, 4));
    let family = match (op0, op1, crn, crm) {
        (1, ..) => "a system instruction",
        (2, ..) => "debug or trace",
        (3, 0 | 3, 9, 12..=14) | (3, 3, 14, 8..=15) => "performance monitors",
        (3, 0, 9, 9 | 10) => "statistical profiling",
        (3, 0, 10, 4) => "memory partitioning or limited ordering regions",
        (3, 3, 13, 2..=15) => "activity monitors",
        (3, 4, ..) => "a register of EL2",
        (3, 6, ..) => "a register of EL3",
        (3, _, 11 | 15, _) => "the core's maker's own",
        _ => "no guest has it",
    };
    format!("S{op0}_{op1}_C{crn}_C{crm}_{op2} ({family})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(esr: u32, what: u64) -> TrapRecord {
        TrapRecord {
            esr,
            what,
            ..TrapRecord::default()
        }
    }

    #[test]
    fn deeds_are_put_in_words() {
        // MRS X1, PMCCNTR_EL0.
        let mrs = 0x18 << 26 | 3 << 20 | 3 << 14 | 9 << 10 | 1 << 5 | 13 << 1 | 1;
        for (record, said) in [
            (
                record(mrs, u64::MAX),
                "read of S3_3_C9_C13_0 (performance monitors): UNDEFINED",
            ),
            (
                record(mrs & !1, u64::MAX),
                "write of S3_3_C9_C13_0 (performance monitors): UNDEFINED",
            ),
            (
                record(HVC << 26, 0x8600_1234),
                "HVC #0, function 0x86001234: there is no such function; NOT_SUPPORTED",
            ),
            (
                record(SMC << 26, 7 << 32 | 1),
                "SMC #7, function 0x00000001: only #0 has a meaning; NOT_SUPPORTED",
            ),
            (
                record(HVC << 26, Call::VmStop.id().into()),
                "HVC #0, function 0xc600011a: only the manager may call it; NOT_SUPPORTED",
            ),
            (
                record(0x9200_0046, 0x3000_0000),
                "data abort on a write: translation fault at level 2; External abort",
            ),
            (record(0x19 << 26, u64::MAX), "access to SVE: UNDEFINED"),
        ] {
            assert_eq!(deed(&record), said);
        }
    }

    #[test]
    fn every_class_has_words() {
        for class in 0..64 {
            for iss in [0, 1, 0x3f_ffff] {
                assert!(!deed(&record(class << 26 | iss, u64::MAX)).is_empty());
            }
        }
    }
}

//! Replays a recorded trace of a guest's paging against the manager's policy.

use std::fmt::Write as _;

use penumbra_manager::paging::policy::{Action, Changes, Config, Mode, REGION_BYTES};
use penumbra_manager::paging::replay::Replay;
use penumbra_manager::paging::sample::Form;
use penumbra_manager::paging::{cost, trace};

use crate::problem::Problem;
use crate::scenario::size;

const PAGE_BYTES: u64 = 4096;

/// The limits to replay with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The mode.
    pub mode: Mode,
    /// Bytes for mirror tables.
    pub pool_bytes: u64,
    /// Bytes that may be moved each second.
    pub copy_bytes: u64,
    /// Whether roots may be trapped.
    pub may_trap: bool,
}

/// Decisions, costs and gains as text for people.
///
/// # Errors
/// A line of the trace makes no sense, or there is none.
pub fn simulate(text: &str, limits: &Limits) -> Result<String, Problem> {
    let config = Config {
        mode: limits.mode,
        changes: Changes::Free,
        pool_frames: limits.pool_bytes / PAGE_BYTES,
        copy_pages_per_s: limits.copy_bytes / PAGE_BYTES,
        may_trap: limits.may_trap,
        machine: cost::Machine {
            thin: false,
            vcpus: 1,
        },
    };
    let replay = Replay::run(text, config)
        .map_err(|error| Problem::new(format!("the trace cannot be replayed: {error}")))?;
    if replay.passes == 0 {
        let help = "`paging trace GUEST on` in the operator's shell prints one; save what the console shows";
        return Err(Problem::new("there is no trace in this file").help(help));
    }
    Ok(show(&replay))
}

fn show(replay: &Replay) -> String {
    let mut out = String::new();
    for step in &replay.steps {
        let _ = writeln!(out, "{step}");
    }
    let machine = replay.policy.config().machine;
    let backing = if machine.thin { "thin" } else { "reserved" };
    let _ = writeln!(
        out,
        "{} passes of a {backing} guest with {} vCPU(s); {} of them sooner than this policy would look",
        replay.passes, machine.vcpus, replay.early
    );
    let _ = writeln!(
        out,
        "{} shadowed, {} re-laid out, {} demoted, {} given up by EL2 after a store",
        replay.done(|action| matches!(action, Action::Shadow { .. })),
        replay.done(|action| matches!(action, Action::Relayout { .. })),
        replay.done(|action| matches!(action, Action::Demote { .. })),
        replay.taken_back
    );
    let _ = writeln!(
        out,
        "{} trials of trapped roots, {} ended; {} user spaces added, {} dropped; {} root mirrors made anew",
        replay.done(|action| action == Action::Trap(true)),
        replay.done(|action| action == Action::Trap(false)),
        replay.done(|action| matches!(action, Action::AddSpace { .. })),
        replay.done(|action| matches!(action, Action::DropSpace { .. })),
        replay.done(|action| matches!(action, Action::Revive { .. })),
    );
    for form in [Form::Nested, Form::Mirror, Form::Leaf, Form::Relaid] {
        let count = u64::try_from(replay.count(form)).unwrap_or(u64::MAX);
        let bytes = size::show(count.saturating_mul(REGION_BYTES));
        let _ = writeln!(
            out,
            "  {:<8}{count:>6} regions, {bytes}",
            trace::form_name(form)
        );
    }
    let ledger = replay.policy.ledger();
    let _ = writeln!(out, "estimated cycles");
    for (what, cycles) in [
        ("surveys", ledger.survey),
        ("shadowing", ledger.shadow),
        ("moved pages", ledger.moves),
        ("demotions", ledger.demotions),
        ("mirrored stores", ledger.stores),
        ("walk samples", ledger.samples),
        ("trapped roots", ledger.traps),
        ("spent", ledger.spent()),
        ("saved", ledger.saved),
    ] {
        let _ = writeln!(out, "  {what:<16}{cycles:>14}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        mode: Mode::Compound,
        pool_bytes: 2 << 20,
        copy_bytes: 4 << 20,
        may_trap: false,
    };

    #[test]
    fn a_console_with_a_trace_in_it_is_replayed() {
        let mut text = String::from("boot\npenumbra: trace machine reserved 2\r\n");
        for pass in 0..4 {
            let _ = writeln!(text, "penumbra: trace pass {} 0 0 0 0 3 512 0", pass * 500);
            text += "penumbra: trace space 0 kernel 0x41000000 mirrored\nlinux | hello\n";
            for n in 0..8_u64 {
                let (va, table) = (
                    0xffff_0000_4000_0000 + n * REGION_BYTES,
                    0x7fe0_0000 + n * 4096,
                );
                let line = format!("region 0 {va:#x} {table:#x} 512 32 uniform nested 0 -");
                let _ = writeln!(text, "penumbra: trace {line}");
            }
        }
        let out = simulate(&text, &LIMITS).unwrap();
        assert!(out.contains("8 shadowed, 0 re-laid out"), "{out}");
        assert!(out.contains("leaf         8 regions, 16 MiB"), "{out}");
        assert!(out.contains("pays: saves 5000 cycles/s"), "{out}");
        let nested = Limits {
            mode: Mode::Nested,
            ..LIMITS
        };
        assert!(simulate(&text, &nested).unwrap().contains("0 shadowed"));
    }

    #[test]
    fn a_file_without_a_trace_is_refused() {
        assert!(
            simulate("", &LIMITS)
                .unwrap_err()
                .message
                .contains("no trace")
        );
        let bad = simulate("pass\n", &LIMITS).unwrap_err().message;
        assert!(bad.contains("line 1 is not"), "{bad}");
    }
}

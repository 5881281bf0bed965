//! What `paging show` says of a guest.

use std::time::Duration;

use crate::board::Board;

/// Asks in the operator's shell, which is open. What is said within a limit, from the guest's mode on.
pub(crate) fn paging(board: &mut Board, guest: &str, limit: Duration) -> Result<String, String> {
    board.send(&format!("paging show {guest}"))?;
    board.expect(&format!("guest '{guest}': "), limit)?;
    board.until("penumbra> ", limit)
}

/// A counter.
pub(crate) fn counter(shown: &str, what: &str) -> Result<u64, String> {
    let rest = shown.split_once(&format!("{what:<24}"));
    let word = rest.and_then(|(_, rest)| rest.split_whitespace().next());
    word.and_then(|word| word.parse().ok())
        .ok_or(format!("no \"{what}\" in:\n{shown}"))
}

/// Whether a guest is in the mode that it is to be in, and something of it was shadowed: nested paging passes
/// whatever looks for faults of another mode.
pub(crate) fn has_worked(shown: &str, mode: &str) -> Result<(), String> {
    if !shown.starts_with(&format!("{mode};")) {
        return Err(format!("the guest is not in {mode} mode: {shown}"));
    }
    for what in ["roots planted", "tables shadowed"] {
        if counter(shown, what)? == 0 {
            return Err(format!("the service had no work, no {what}: {shown}"));
        }
    }
    match counter(shown, "violations")? {
        0 => Ok(()),
        violations => Err(format!("{violations} violations: {shown}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(mode: &str, counters: [u64; 3]) -> String {
        let names = ["roots planted", "tables shadowed", "violations"];
        let mut text = format!(
            "{mode}; kernel root in place on vCPU 0\n  table frames 1 of 512, tables shadowed 0 of 1024\n  "
        );
        for (name, value) in names.iter().zip(counters) {
            text += &format!("{name:<24}{value:>10}   ");
        }
        text
    }

    #[test]
    fn a_guest_that_is_nested_or_has_nothing_shadowed_has_not_worked() {
        assert_eq!(
            has_worked(&shown("compound", [1, 2, 0]), "compound"),
            Ok(())
        );
        for (mode, counters) in [
            ("nested", [1, 2, 0]),
            ("shadow", [1, 2, 0]),
            ("compound", [0, 2, 0]),
            ("compound", [1, 0, 0]),
            ("compound", [1, 2, 1]),
        ] {
            assert!(has_worked(&shown(mode, counters), "compound").is_err());
        }
        assert!(has_worked("nested", "compound").is_err());
        assert!(counter("", "violations").is_err());
    }
}

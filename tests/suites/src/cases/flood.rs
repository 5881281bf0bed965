//! Guests that flood, beside one whose events are counted.

use crate::bench_floods::{self, ALL, FIRST, KINDS, WORST};
use crate::case::Case;
use crate::workshop::Workshop;

/// Events of each kind.
const N: u64 = 20;

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for gic in [3, 2] {
        let name = format!("flood-costs-nothing-gicv{gic}");
        let own = name.clone();
        cases.push(Case::new(name, false, move |w| costs_nothing(w, &own, gic)));
        for kind in KINDS.into_iter().chain([ALL]) {
            let word = if kind == ALL { "all" } else { kind };
            let name = format!("flood-stays-short-{word}-gicv{gic}");
            let own = name.clone();
            // Faults have the longest stay of what a guest does by itself.
            let quick = gic == 3 && kind == "faults";
            cases.push(Case::new(name, quick, move |w| {
                stays_short(w, &own, gic, kind)
            }));
        }
    }
    cases
}

/// A guest that floods in one window of its core: EL2 is never so long on that core at once that the next window would
/// begin later than the schedule's jitter allows.
fn stays_short(w: &Workshop, name: &str, gic: u8, kind: &str) -> Result<(), String> {
    let (windows, stay) = bench_floods::windows(w, name, gic, (kind, ""))?;
    println!("{}; longest stay at EL2: {stay}", windows.said);
    let limit = bench_floods::longest_stay(kind);
    if stay > limit {
        return Err(format!(
            "EL2 kept the core for {stay} instructions at once, not up to {limit}"
        ));
    }
    if stay == 0 {
        return Err("EL2 was never left and entered again".into());
    }
    Ok(())
}

/// Two guests that flood EL2 and the manager from cores of their own: no event of the neighbour takes more EL2
/// instructions on its cores than without them.
fn costs_nothing(w: &Workshop, name: &str, gic: u8) -> Result<(), String> {
    let alone = bench_floods::crowded(w, &format!("{name}-alone"), gic, N, &[])?;
    let beside = bench_floods::crowded(w, name, gic, N, &WORST)?;
    let dearer = bench_floods::dearer(&alone, &beside);
    if !dearer.is_empty() {
        return Err(format!("dearer beside floods: {}", dearer.join(", ")));
    }
    if alone.tests.len() < 15 {
        return Err(format!("only {} events were counted", alone.tests.len()));
    }
    // There was a flood: each of the two did more at EL2 than the measured guest's two cores together.
    let el2 = |core| beside.of_core(core, "el2");
    let measured = el2(1) + el2(2);
    match (FIRST..FIRST + WORST.len()).find(|&core| el2(core) < measured) {
        Some(core) => Err(format!(
            "core {core} did not flood: {} instructions at EL2, {measured} on the measured cores",
            el2(core)
        )),
        None => Ok(()),
    }
}

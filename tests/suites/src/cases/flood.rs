//! Guests that flood, beside one whose events are counted.

use crate::bench_floods::{self, FIRST, WORST};
use crate::case::Case;
use crate::workshop::Workshop;

/// Events of each kind.
const N: u64 = 20;

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    [3, 2]
        .map(|gic| {
            let name = format!("flood-costs-nothing-gicv{gic}");
            Case::new(name.clone(), false, move |w| costs_nothing(w, &name, gic))
        })
        .into()
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

//! All tests.

mod crash;
mod devices;
mod flood;
mod linux;
mod lives;
mod mitigated;
mod negative;
mod operator;
mod paging;
mod paging_attack;
mod paging_load;
mod paging_roots;
mod paging_storm;
mod paging_user;
mod paging_wide;
mod partitions;
mod payload;
mod refused;
mod rpi4;
mod rpi4_devices;
mod rpi4_suites;
mod schedule;
mod walls;

use crate::case::Case;

pub use lives::soak;
pub use paging_storm::soak as soak_paging;
pub(crate) use schedule::{Windows, beside};

/// Every test, the quick ones first.
#[must_use]
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(negative::cases());
    cases.extend(payload::cases());
    cases.extend(crash::cases());
    cases.extend(schedule::cases());
    cases.extend(flood::cases());
    cases.extend(refused::cases());
    cases.extend(devices::cases());
    cases.extend(linux::cases());
    cases.extend(operator::cases());
    cases.extend(partitions::cases());
    cases.extend(lives::cases());
    cases.extend(walls::cases());
    cases.extend(paging::cases());
    cases.extend(rpi4::cases());
    cases.extend(rpi4_devices::cases());
    cases.extend(rpi4_suites::cases());
    cases.extend(paging_load::cases());
    cases.extend(paging_storm::cases());
    cases.extend(paging_roots::cases());
    cases.extend(paging_user::cases());
    cases.extend(paging_attack::cases());
    cases.extend(paging_wide::cases());
    cases.extend(mitigated::cases());
    cases.sort_by_key(|case| !case.quick);
    cases
}

/// A guest table of a scenario.
fn guest(name: &str, vcpus: u8, memory: &str, more: &str) -> String {
    format!("[[guest]]\nname = \"{name}\"\nvcpus = {vcpus}\nmemory = \"{memory}\"\n{more}\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_both_suites_have_tests() {
        let cases = super::all();
        let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        assert_eq!(names.len(), cases.len());
        let quick = cases.iter().filter(|case| case.quick).count();
        assert!(
            quick > 15 && cases.len() > 100,
            "{quick} of {}",
            cases.len()
        );
    }
}

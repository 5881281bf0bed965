//! What each of the manager's calls costs at EL2.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::count;
use crate::report::{Moment, Test};

/// Whether a call is under way: looked at in each of the manager's blocks.
static UNDER_WAY: AtomicBool = AtomicBool::new(false);

static CALLS: Mutex<Calls> = Mutex::new(Calls {
    groups: Vec::new(),
    current: None,
    tests: BTreeMap::new(),
});

/// Ranges that are added up.
struct Group {
    name: String,
    ranges: Vec<usize>,
}

struct Calls {
    groups: Vec<Group>,
    /// The function of the call under way.
    current: Option<u64>,
    /// By function: all of EL2, and each group.
    tests: BTreeMap<u64, Vec<Test>>,
}

impl Calls {
    /// What has run at EL2 by now, and of it in each group.
    fn now(&self) -> Vec<Moment> {
        let groups = self.groups.iter();
        let sums = groups.map(|group| {
            group
                .ranges
                .iter()
                .map(|range| count::range_sum(*range))
                .sum()
        });
        let moment = |el2| Moment {
            el2,
            ..Moment::default()
        };
        std::iter::once(count::sum(count::EL2))
            .chain(sums)
            .map(moment)
            .collect()
    }
}

/// Learns the names of the ranges.
pub(crate) fn watch<'n>(names: impl Iterator<Item = &'n str>) {
    let Ok(mut calls) = CALLS.lock() else { return };
    for (index, name) in names.enumerate() {
        let Some((group, _)) = name.split_once('/') else {
            continue;
        };
        match calls.groups.iter_mut().find(|known| known.name == group) {
            Some(known) => known.ranges.push(index),
            None => calls.groups.push(Group {
                name: group.to_owned(),
                ranges: vec![index],
            }),
        }
    }
}

/// A call begins; `function` is the manager's X0.
pub(crate) fn begin(function: u64) {
    let Ok(mut calls) = CALLS.lock() else { return };
    let now = calls.now();
    let number = function & 0xff;
    let tests = calls.tests.entry(number).or_default();
    tests.resize_with(now.len(), Test::default);
    for (test, now) in tests.iter_mut().zip(now) {
        test.begin(now);
    }
    calls.current = Some(number);
    UNDER_WAY.store(true, Ordering::Relaxed);
}

/// The manager runs: a call that was under way is over.
pub(crate) fn end() {
    if !UNDER_WAY.swap(false, Ordering::Relaxed) {
        return;
    }
    let Ok(mut calls) = CALLS.lock() else { return };
    let now = calls.now();
    let Some(number) = calls.current.take() else {
        return;
    };
    for (test, now) in calls.tests.entry(number).or_default().iter_mut().zip(now) {
        test.end(now, 0);
    }
}

/// Adds a line for each function, and one for each group of it that ran.
pub(crate) fn write(text: &mut String) {
    let Ok(calls) = CALLS.lock() else { return };
    for (number, tests) in &calls.tests {
        let number = usize::try_from(*number).unwrap_or(0);
        let names = std::iter::once("call".to_owned());
        let groups = calls
            .groups
            .iter()
            .map(|group| format!("call_{}", group.name));
        for (name, test) in names.chain(groups).zip(tests) {
            if let Some(line) = test.line_of(&name, number) {
                let _ = writeln!(text, "{line}");
            }
        }
    }
}

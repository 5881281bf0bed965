//! The figures of a test: samples and their order statistics.

use std::fmt::Write as _;

/// Tests that markers can name.
#[cfg(not(test))]
pub(crate) const TESTS: usize = 32;

/// Instructions up to some moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moment {
    pub(crate) el2: u64,
    /// Of the management partition.
    pub(crate) manager: u64,
    /// At EL0 and EL1, the manager apart.
    pub(crate) guests: u64,
}

/// The windows of one test.
#[derive(Clone, Debug, Default)]
pub(crate) struct Test {
    /// When the window opened.
    open: Option<Moment>,
    el2: Vec<u64>,
    manager: Vec<u64>,
    guests: Vec<u64>,
    /// Instructions of the longest stay at EL2 in any window.
    longest: u64,
}

impl Test {
    /// Opens a window; one that is open already is forgotten.
    pub(crate) fn begin(&mut self, now: Moment) {
        self.open = Some(now);
    }

    /// Closes the window, if one is open, in which the longest stay at EL2 was of `longest` instructions.
    pub(crate) fn end(&mut self, now: Moment, longest: u64) {
        if let Some(before) = self.open.take() {
            self.longest = self.longest.max(longest);
            self.el2.push(now.el2 - before.el2);
            self.manager.push(now.manager - before.manager);
            self.guests.push(now.guests - before.guests);
        }
    }

    /// The line for test `number`; `None` if it had no window.
    pub(crate) fn line(&self, number: usize) -> Option<String> {
        self.line_of("test", number)
    }

    /// The same for something else that has a number.
    pub(crate) fn line_of(&self, what: &str, number: usize) -> Option<String> {
        let mut sorted = self.el2.clone();
        sorted.sort_unstable();
        let (min, max) = (sorted.first()?, sorted.last()?);
        let mut line = format!("{{\"{what}\":{number},\"n\":{}", sorted.len());
        let (median, p99) = (quantile(&sorted, 50)?, quantile(&sorted, 99)?);
        let (manager, guests) = (middle(&self.manager)?, middle(&self.guests)?);
        let _ = write!(
            line,
            ",\"min\":{min},\"median\":{median},\"p99\":{p99},\"max\":{max},\"manager_median\":{manager},\"guests_median\":{guests},\"longest_stay\":{}",
            self.longest
        );
        let sums = [&self.el2, &self.manager, &self.guests].map(|all| all.iter().sum::<u64>());
        let _ = write!(
            line,
            ",\"sum\":{},\"manager_sum\":{},\"guests_sum\":{}",
            sums[0], sums[1], sums[2]
        );
        let samples: Vec<String> = self.el2.iter().map(u64::to_string).collect();
        let _ = write!(line, ",\"samples\":[{}]}}", samples.join(","));
        Some(line)
    }
}

/// The median of values in any order.
fn middle(values: &[u64]) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable();
    quantile(&sorted, 50)
}

/// The value below which `percent` of the sorted samples lie.
fn quantile(sorted: &[u64], percent: usize) -> Option<u64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get((last * percent).div_ceil(100)).copied()
}

/// The range that a line `NAME:LOW:HIGH` describes; the name may have colons in it.
pub(crate) fn range(line: &str) -> Option<(String, u64, u64)> {
    let mut fields = line.rsplitn(3, ':');
    let mut number = || u64::from_str_radix(fields.next()?, 16).ok();
    let (high, low) = (number()?, number()?);
    Some((fields.next()?.to_owned(), low, high))
}

/// Whether an instruction is HVC, with any immediate.
pub(crate) const fn is_hvc(opcode: u32) -> bool {
    opcode & 0xffe0_001f == 0xd400_0002
}

/// The cores that a list such as `1+2` names, a bit for each.
pub(crate) fn cores(list: &str) -> Option<u64> {
    list.split('+').try_fold(0, |cores, word| {
        Some(cores | 1_u64.checked_shl(word.parse().ok()?)?)
    })
}

/// Whether code at `address` is where a lower level in AArch64 state comes to EL2 whose vectors are at `vectors`
/// (Arm ARM DDI 0487, D1.3.1 "Exception vectors").
pub(crate) fn is_exit(address: u64, vectors: u64) -> bool {
    matches!(
        address.checked_sub(vectors),
        Some(0x400 | 0x480 | 0x500 | 0x580)
    )
}

/// The test and side (`true`: opening) that an instruction marks, if it is a marker.
pub(crate) fn marker(opcode: u32) -> Option<(usize, bool)> {
    const HINT: u32 = 0xd503_201f;
    let number = (opcode >> 5) & 0x7f;
    if opcode & !(0x7f << 5) != HINT || number < 64 {
        return None;
    }
    Some(((number & 31) as usize, number < 96))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markers_are_the_upper_hints() {
        assert_eq!(marker(0xd503_201f), None);
        assert_eq!(marker(0xd503_201f | 63 << 5), None);
        assert_eq!(marker(0xd503_201f | 64 << 5), Some((0, true)));
        assert_eq!(marker(0xd503_201f | 95 << 5), Some((31, true)));
        assert_eq!(marker(0xd503_201f | 97 << 5), Some((1, false)));
        assert_eq!(marker(0xd503_201e | 97 << 5), None);
    }

    #[test]
    fn hvc_is_told_by_all_but_its_immediate() {
        assert!(is_hvc(0xd400_0002) && is_hvc(0xd41f_ffe2));
        // SVC, SMC, BRK.
        assert!(!is_hvc(0xd400_0001) && !is_hvc(0xd400_0003) && !is_hvc(0xd420_0000));
    }

    #[test]
    fn a_range_is_a_name_and_two_numbers() {
        let range_of = |name: &str, low, high| Some((name.to_owned(), low, high));
        assert_eq!(range("el2.a::b:40:4c"), range_of("el2.a::b", 0x40, 0x4c));
        assert_eq!(range("a:b:c:d"), range_of("a:b", 0xc, 0xd));
        assert_eq!(range("40:4c"), None);
        assert_eq!(range("el2.a:0x40:4c"), None);
    }

    #[test]
    fn exits_are_the_vectors_of_a_lower_level() {
        let exits: Vec<u64> = (0..16)
            .filter(|n| is_exit(0x8000 + n * 0x80, 0x8000))
            .collect();
        assert_eq!(exits, [8, 9, 10, 11]);
        assert!(!is_exit(0x404, 0) && !is_exit(0x400, 0x800));
    }

    #[test]
    fn cores_are_a_list_of_numbers() {
        assert_eq!(cores("0"), Some(1));
        assert_eq!(cores("1+2"), Some(0b110));
        assert_eq!(cores("3+3+5"), Some(0b10_1000));
        for bad in ["", "1+", "a", "64", "1,2"] {
            assert_eq!(cores(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_test_reports_order_statistics_of_its_windows() {
        let mut test = Test::default();
        let moment = |el2, manager, guests| Moment {
            el2,
            manager,
            guests,
        };
        test.end(moment(5, 0, 0), 9);
        assert_eq!(test.line(3), None);
        for (value, longest) in [(10, 4), (30, 8), (20, 7)] {
            test.begin(moment(100, 7, 1000));
            test.end(moment(100 + value, 8, 1003), longest);
        }
        let line = test.line(3).unwrap();
        assert!(
            line.starts_with("{\"test\":3,\"n\":3,\"min\":10,\"median\":20,"),
            "{line}"
        );
        assert!(
            line.ends_with("\"manager_median\":1,\"guests_median\":3,\"longest_stay\":8,\"sum\":60,\"manager_sum\":3,\"guests_sum\":9,\"samples\":[10,30,20]}"),
            "{line}"
        );
    }
}

//! `[[schedule]]`: fixed windows on a core.

use std::ops::Range;

use penumbra_bundle::{
    Key, MAX_FRAME_US, MAX_WINDOWS, MIN_MANAGER_WINDOW_US, MIN_WINDOW_US, ScheduleSpec, Window,
};
use toml::de::DeTable;

use super::read::{Reader, Value};
use super::{Guest, MAX_BOARD_CORES, suggest};

pub(super) const SCHEDULE_KEYS: [&str; 3] = ["core", "frame_us", "windows"];
pub(super) const WINDOW_KEYS: [&str; 2] = ["guest", "us"];
/// What a window of the manager names instead of a guest.
const MANAGER: &str = "manager";
/// The core of the manager.
const MANAGER_CORE: u8 = 0;
const HELP: &str = "like `windows = [{guest = \"rt\", us = 2000}, {guest = \"linux\", us = 7000}]`";

impl Reader<'_> {
    pub(super) fn schedules(&mut self, root: &DeTable<'_>, guests: &[Guest]) -> Vec<ScheduleSpec> {
        let Some(list) = root.get("schedule") else {
            return Vec::new();
        };
        let Some(array) = list.get_ref().as_array() else {
            let help = "a schedule starts with a line `[[schedule]]`";
            self.complain(list.span(), "`schedule` is not a list of tables", help);
            return Vec::new();
        };
        let mut schedules: Vec<ScheduleSpec> = Vec::new();
        for item in array.iter() {
            let Some(table) = item.get_ref().as_table() else {
                self.complain(item.span(), "a schedule is a table", "");
                continue;
            };
            self.unknown_keys(table, &SCHEDULE_KEYS, "a schedule");
            let Some(schedule) = self.schedule(table, item.span(), guests) else {
                continue;
            };
            if let Some(twin) = schedules.iter().find(|other| other.core == schedule.core) {
                let message = format!(
                    "core {} has two schedules; the other is on line {}",
                    schedule.core, twin.line
                );
                self.complain(item.span(), message, "leave one of the two out");
            }
            schedules.push(schedule);
        }
        self.guests_are_placed(guests, &schedules);
        schedules
    }

    fn schedule(
        &mut self,
        table: &DeTable<'_>,
        whole: Range<usize>,
        guests: &[Guest],
    ) -> Option<ScheduleSpec> {
        let [core, frame, windows] = SCHEDULE_KEYS.map(|key| table.get(key));
        for (key, value) in SCHEDULE_KEYS.iter().zip([core, frame, windows]) {
            if value.is_none() {
                let message = format!("this schedule has no `{key}`");
                self.complain(whole.clone(), message, "a schedule has all three keys");
            }
        }
        let core = core.and_then(|value| {
            let most = i64::from(MAX_BOARD_CORES) - 1;
            self.bounded("core", value, (0, most))
        });
        let most = i64::from(MAX_FRAME_US);
        let frame_us = frame.and_then(|value| self.bounded("frame_us", value, (1, most)));
        let core: u8 = core?;
        let (frame_us, span) = (frame_us?, windows?.span());
        let windows = self.windows(windows?, core, guests)?;
        let sum: u64 = windows.iter().map(|window| u64::from(window.us)).sum();
        if sum > u64::from(frame_us) {
            let message =
                format!("the windows have {sum} us together, more than the frame ({frame_us})");
            let help = "make windows shorter or raise `frame_us`";
            self.complain(span.clone(), message, help);
        }
        self.manager_has_a_window(core, &windows, span);
        Some(ScheduleSpec {
            line: self.line(whole),
            core,
            frame_us,
            windows,
        })
    }

    /// An integer in a range, as what the caller wants.
    fn bounded<T: TryFrom<i64>>(
        &mut self,
        key: &str,
        value: &Value<'_>,
        (least, most): (i64, i64),
    ) -> Option<T> {
        let number = self.integer(key, value)?;
        if !(least..=most).contains(&number) {
            let message = format!("`{key}` is {least} to {most}, not {number}");
            self.complain(value.span(), message, "");
            return None;
        }
        T::try_from(number).ok()
    }

    fn windows(&mut self, value: &Value<'_>, core: u8, guests: &[Guest]) -> Option<Vec<Window>> {
        let Some(array) = value.get_ref().as_array() else {
            self.complain(value.span(), "`windows` is a list of tables", HELP);
            return None;
        };
        if array.is_empty() || array.len() > MAX_WINDOWS {
            let count = array.len();
            let message = format!("{count} windows: a schedule has 1 to {MAX_WINDOWS}");
            self.complain(value.span(), message, HELP);
        }
        let windows: Vec<Option<Window>> = array
            .iter()
            .map(|item| self.window(item, core, guests))
            .collect();
        windows.into_iter().collect()
    }

    fn window(&mut self, item: &Value<'_>, core: u8, guests: &[Guest]) -> Option<Window> {
        let Some(table) = item.get_ref().as_table() else {
            self.complain(item.span(), "a window is a table", HELP);
            return None;
        };
        self.unknown_keys(table, &WINDOW_KEYS, "a window");
        let [guest, us] = WINDOW_KEYS.map(|key| table.get(key));
        let (Some(guest), Some(us)) = (guest, us) else {
            self.complain(item.span(), "a window has `guest` and `us`", HELP);
            return None;
        };
        let name = self.text("guest", guest)?;
        let range = (i64::from(MIN_WINDOW_US), i64::from(MAX_FRAME_US));
        let us = self.bounded("us", us, range);
        let position = guests.iter().position(|known| known.name == name);
        let found = position.and_then(|position| guests.get(position));
        match found {
            None if name == MANAGER => {}
            None => {
                let names: Vec<&str> = guests.iter().map(|guest| guest.name.as_str()).collect();
                let help = match suggest::nearest(name, &names) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("name one of: {}, {MANAGER}", names.join(", ")),
                };
                self.complain(guest.span(), format!("there is no guest \"{name}\""), &help);
                return None;
            }
            Some(known) => {
                let pinned = known.cores.as_ref();
                if pinned.is_some_and(|cores| !cores.contains(&core)) {
                    let line = known.lines.nearest(Key::Cores);
                    let message =
                        format!("guest \"{name}\" has no vCPU on core {core} (line {line})");
                    let help = "change its `cores`, or leave the window out";
                    self.complain(guest.span(), message, help);
                }
            }
        }
        Some(Window {
            line: self.line(item.span()),
            guest: position.and_then(|position| u8::try_from(position).ok()),
            us: us?,
        })
    }

    /// The manager runs on core 0 and there alone.
    fn manager_has_a_window(&mut self, core: u8, windows: &[Window], span: Range<usize>) {
        let managers = windows.iter().filter(|window| window.guest.is_none());
        let longest = managers.map(|window| window.us).max();
        let message = match (core == MANAGER_CORE, longest) {
            (true, None) => "the manager runs on core 0 and has no window there".to_owned(),
            (true, Some(us)) if us < MIN_MANAGER_WINDOW_US => format!(
                "the manager's window has {us} us, less than the {MIN_MANAGER_WINDOW_US} that it needs"
            ),
            (false, Some(_)) => format!("the manager runs on core 0, not on core {core}"),
            _ => return,
        };
        let help = "core 0, and no other, needs a window like `{guest = \"manager\", us = 1000}`";
        self.complain(span, message, help);
    }

    /// Every vCPU on a scheduled core must have a window, or it would never run.
    fn guests_are_placed(&mut self, guests: &[Guest], schedules: &[ScheduleSpec]) {
        for (position, guest) in guests.iter().enumerate() {
            let source = self.source;
            let line = |key| span_of_line(&source.text, guest.lines.nearest(key));
            let Some(cores) = &guest.cores else {
                let message = format!("guest \"{}\" has no `cores`", guest.name);
                let help =
                    "where a core has a schedule, say for every guest on which cores it runs";
                self.complain(line(Key::Guest), message, help);
                continue;
            };
            if guest.name == MANAGER {
                let help = "give the guest another name";
                let message = "in schedules \"manager\" is the manager";
                self.complain(line(Key::Name), message, help);
            }
            let me = u8::try_from(position).ok();
            for schedule in schedules.iter().filter(|one| cores.contains(&one.core)) {
                if !schedule.windows.iter().any(|window| window.guest == me) {
                    let message = format!(
                        "guest \"{}\" has no window on core {} (line {}), so it would never run there",
                        guest.name, schedule.core, schedule.line
                    );
                    let help = "add a window, or change its `cores`";
                    self.complain(line(Key::Cores), message, help);
                }
            }
        }
    }
}

/// The text of a line.
fn span_of_line(text: &str, line: u32) -> Range<usize> {
    let mut start = 0;
    for (number, text) in (1..).zip(text.split_inclusive('\n')) {
        if number == line {
            return start..start + text.trim_end().len();
        }
        start += text.len();
    }
    0..0
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::problem::Source;
    use crate::scenario::Scenario;

    const GOOD: &str = "\
[[guest]]
name = \"rt\"
vcpus = 1
cores = [1]
memory = \"16 MiB\"
kernel = \"a\"
[[guest]]
name = \"linux\"
vcpus = 2
cores = [1, 2]
memory = \"64 MiB\"
kernel = \"b\"
[[schedule]]
core = 1
frame_us = 10_000
windows = [{guest = \"rt\", us = 2000}, {guest = \"linux\", us = 7000}]
";

    fn read(text: &str) -> Result<Scenario, Vec<String>> {
        let source = Source {
            path: Path::new("demo.toml").into(),
            text: text.to_owned().into(),
        };
        Scenario::read(source).map_err(|problems| {
            let source = problems.source.unwrap();
            let list = problems.list.into_iter();
            list.map(|problem| {
                let line = source.line(problem.span.map_or(0, |span| span.start));
                let help = problem.help.unwrap_or_default();
                format!("{line}: {} [{help}]", problem.message)
            })
            .collect()
        })
    }

    /// One problem, on a line, when a piece of the good scenario is replaced.
    #[track_caller]
    fn refused(from: &str, to: &str, line: u32, parts: &[&str]) {
        assert!(GOOD.contains(from));
        let found = read(&GOOD.replacen(from, to, 1)).expect_err("it should be refused");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(&format!("{line}: ")), "{found:?}");
        for part in parts {
            assert!(found[0].contains(part), "{part}: {found:?}");
        }
    }

    #[test]
    fn a_schedule_is_read_with_its_lines() {
        let scenario = read(GOOD).unwrap();
        let schedule = &scenario.schedules[0];
        assert_eq!((schedule.line, schedule.core), (13, 1));
        let windows: Vec<_> = schedule
            .windows
            .iter()
            .map(|w| (w.guest, w.us, w.line))
            .collect();
        assert_eq!(windows, [(Some(0), 2000, 16), (Some(1), 7000, 16)]);
        let manager = "core = 0\nframe_us = 9000\nwindows = [{guest = \"manager\", us = 500}]";
        let both = read(&format!("{GOOD}[[schedule]]\n{manager}\n")).unwrap();
        assert_eq!(both.schedules[1].windows[0].guest, None);
    }

    #[test]
    fn windows_that_exceed_the_frame() {
        refused(
            "us = 7000",
            "us = 8001",
            16,
            &["10001 us together", "frame (10000)"],
        );
    }

    #[test]
    fn a_guest_that_does_not_exist() {
        refused(
            "guest = \"rt\"",
            "guest = \"tr\"",
            16,
            &["no guest \"tr\"", "did you mean"],
        );
    }

    #[test]
    fn a_guest_that_is_not_on_the_core() {
        refused(
            "cores = [1]",
            "cores = [3]",
            16,
            &["no vCPU on core 1 (line 4)"],
        );
    }

    #[test]
    fn a_guest_without_a_window() {
        refused(
            ", {guest = \"linux\", us = 7000}",
            "",
            10,
            &["no window on core 1 (line 13)"],
        );
    }

    #[test]
    fn a_guest_without_cores() {
        refused("cores = [1]\n", "", 1, &["\"rt\" has no `cores`"]);
    }

    #[test]
    fn the_manager_on_a_core_without_a_window_for_it() {
        let text = GOOD
            .replace("core = 1", "core = 0")
            .replace("cores = [1", "cores = [0");
        let found = read(&text).unwrap_err();
        assert!(
            found[0].contains("runs on core 0 and has no window"),
            "{found:?}"
        );
    }

    #[test]
    fn a_window_of_the_manager_that_is_too_short_or_elsewhere() {
        let last = "core = 0\nframe_us = 900\nwindows = [{guest = \"manager\", us = 499}]";
        let found = read(&format!("{GOOD}[[schedule]]\n{last}\n")).unwrap_err();
        assert!(
            found[0].contains("has 499 us, less than the 500"),
            "{found:?}"
        );
        let to = "{guest = \"manager\", us = 900}, {guest = \"rt\", us = 2000}";
        refused(
            "{guest = \"rt\", us = 2000}",
            to,
            16,
            &["on core 0, not on core 1"],
        );
    }

    #[test]
    fn two_schedules_of_one_core() {
        let schedule = &GOOD[GOOD.find("[[schedule]]").unwrap()..];
        let found = read(&format!("{GOOD}{schedule}")).unwrap_err();
        assert!(found[0].contains("core 1 has two schedules"), "{found:?}");
    }

    #[test]
    fn values_out_of_range_and_keys_unknown_or_left_out() {
        refused("us = 2000", "us = 99", 16, &["`us` is 100 to"]);
        refused(
            "frame_us = 10_000",
            "frame_us = 1_000_001",
            15,
            &["1 to 1000000"],
        );
        refused(
            "core = 1\nframe",
            "core = 8\nframe",
            14,
            &["`core` is 0 to 7"],
        );
        refused("frame_us = 10_000\n", "", 13, &["has no `frame_us`"]);
        refused(
            "frame_us",
            "frame_ms = 1\nframe_us",
            15,
            &["did you mean `frame_us`"],
        );
        refused(
            ", us = 2000",
            ", us = 2000, core = 1",
            16,
            &["a window has no key `core`"],
        );
        refused(
            "{guest = \"rt\", us = 2000}, ",
            "{us = 500}, ",
            16,
            &["`guest` and `us`"],
        );
    }
}

//! Scenarios that are good, and one test for each way in which they are not.

mod board;
mod policies;

use super::*;

pub(super) const GOOD: &str = "\
[[guest]]
name = \"linux\"
vcpus = 2
memory = \"512 MiB\"
kernel = \"Image\"
";

pub(super) fn read(text: &str) -> Result<Scenario, Problems> {
    Scenario::read(Source {
        path: "folder/test.toml".into(),
        text: text.into(),
    })
}

/// The problems of a scenario, each as `line: sentence [hint]`.
fn problems(text: &str) -> Vec<String> {
    let problems = read(text).expect_err("the scenario should be refused");
    let source = problems.source.expect("a source");
    problems
        .list
        .into_iter()
        .map(|problem| {
            let line = source.line(problem.span.map_or(0, |span| span.start));
            format!(
                "{line}: {} [{}]",
                problem.message,
                problem.help.unwrap_or_default()
            )
        })
        .collect()
}

/// Checks that the good scenario with one more line has exactly one problem, on that line.
#[track_caller]
pub(super) fn extra(line: &str, parts: &[&str]) {
    one(&format!("{GOOD}{line}\n"), "6: ", parts);
}

/// Checks that the good scenario with one line changed has exactly one problem, on that line.
#[track_caller]
fn changed(from: &str, to: &str, parts: &[&str]) {
    assert!(GOOD.contains(from));
    let text = GOOD.replace(from, to);
    let line = text.lines().position(|line| line.contains(to)).unwrap() + 1;
    one(&text, &format!("{line}: "), parts);
}

#[track_caller]
fn one(text: &str, place: &str, parts: &[&str]) {
    let found = problems(text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(place), "{place} {found:?}");
    for part in parts {
        assert!(found[0].contains(part), "{part} in {found:?}");
    }
}

#[test]
fn the_smallest_scenario_has_defaults() {
    let scenario = read(GOOD).unwrap();
    assert_eq!(scenario.when_all_off, WhenAllOff::PowerOff);
    let guest = &scenario.guests[0];
    assert_eq!((guest.vcpus, guest.memory_bytes), (2, 512 << 20));
    assert_eq!(
        (guest.backing, guest.quota_bytes),
        (Backing::Reserved, None)
    );
    assert_eq!(guest.kernel.path, Path::new("folder/Image"));
    assert_eq!(
        (guest.payload, guest.on_crash),
        (Payload::Linux, OnCrash::Stay)
    );
    assert_eq!(guest.lines.get(penumbra_bundle::Key::Vcpus), Some(3));
    assert_eq!(scenario.placement(4).unwrap(), [[1, 2]]);
}

#[test]
fn every_key_is_read() {
    let scenario = read(
        "[board]\nwhen_all_off = \"wait\"\n\n[[guest]]\nname = \"rt\"\nvcpus = 1\ncores = [3]\n\
         memory = \"64 MiB\"\nbacking = \"thin\"\nquota = \"32 MiB\"\nkernel = \"/a/k\"\n\
         initrd = \"i\"\ncmdline = \"quiet\"\npayload = \"flat\"\nentry = 0x40\non_crash = \"restart\"\n",
    )
    .unwrap();
    assert_eq!(
        (scenario.when_all_off, scenario.when_all_off_line),
        (WhenAllOff::Wait, 2)
    );
    let guest = &scenario.guests[0];
    assert_eq!(
        (guest.backing, guest.quota_bytes),
        (Backing::Thin, Some(32 << 20))
    );
    assert_eq!(
        (guest.payload, guest.on_crash),
        (Payload::Flat { entry: 0x40 }, OnCrash::Restart)
    );
    assert_eq!(
        (guest.kernel.path.to_str(), guest.cmdline.as_str()),
        (Some("/a/k"), "quiet")
    );
    assert_eq!(guest.initrd.as_ref().unwrap().path, Path::new("folder/i"));
    assert_eq!(scenario.placement(4).unwrap(), [[3]]);
}

#[test]
fn paths_are_seen_from_the_scenarios_folder() {
    for (written, path) in [
        ("../k", "k"),
        ("./k", "folder/k"),
        ("../../k", "../k"),
        ("a/../k", "folder/k"),
        ("/k", "/k"),
    ] {
        let guest = read(&GOOD.replace("Image", written))
            .unwrap()
            .guests
            .remove(0);
        assert_eq!(guest.kernel.path, Path::new(path), "{written}");
    }
}

#[test]
fn vcpus_are_spread_from_core_1() {
    let two = GOOD.to_owned() + &GOOD.replace("\"linux\"", "\"other\"").replace("= 2", "= 3");
    let scenario = read(&two).unwrap();
    assert_eq!(scenario.placement(4).unwrap(), [vec![1, 2], vec![3, 0, 1]]);
    assert_eq!(scenario.placement(1).unwrap(), [vec![0, 0], vec![0, 0, 0]]);
}

#[test]
fn a_core_that_the_board_lacks_is_refused() {
    let scenario = read(&format!("{GOOD}cores = [1, 5]\n")).unwrap();
    let message = scenario.placement(4).unwrap_err().message;
    assert!(
        message.contains("test.toml:6") && message.contains("core 5"),
        "{message}"
    );
    assert!(scenario.placement(6).is_ok());
}

#[test]
fn memory_from_the_command_line_is_checked_too() {
    let mut guest = read(GOOD).unwrap().guests.remove(0);
    assert!(guest.set_memory(None, None, Some(2 << 20)).is_err());
    assert!(
        guest
            .set_memory(None, Some(Backing::Thin), Some(1 << 30))
            .is_err()
    );
    assert!(
        guest
            .set_memory(Some(2 << 30), Some(Backing::Thin), Some(1 << 30))
            .is_ok()
    );
    assert!(
        guest
            .set_memory(None, Some(Backing::Reserved), None)
            .is_ok()
    );
    assert_eq!((guest.memory_bytes, guest.quota_bytes), (2 << 30, None));
    assert!(guest.set_cmdline("a\nb").is_err());
}

#[test]
fn text_that_is_not_toml() {
    changed("vcpus = 2", "vcpus = = 2", &["not valid TOML"]);
}

#[test]
fn the_same_key_twice() {
    extra("vcpus = 2", &["not valid TOML", "duplicate key"]);
}

#[test]
fn no_guest() {
    one("", "1: ", &["no guest", "[[guest]]"]);
}

#[test]
fn a_guest_that_is_no_list() {
    one(
        "[guest]\nname = \"a\"\n",
        "1: ",
        &["not a list", "[[guest]]"],
    );
}

#[test]
fn an_empty_list_of_guests() {
    one("guest = []\n", "1: ", &["0 guests"]);
}

#[test]
fn too_many_guests() {
    let text: String = (0..8)
        .map(|n| GOOD.replace("\"linux\"", &format!("\"linux{n}\"")))
        .collect();
    one(&text, "1: ", &["8 guests", "1 to 7"]);
}

#[test]
fn an_unknown_table() {
    extra("[gest]", &["no key `gest`", "did you mean `guest`"]);
}

#[test]
fn an_unknown_key_of_a_guest() {
    extra(
        "vcpu = 2",
        &["a guest has no key `vcpu`", "did you mean `vcpus`"],
    );
}

#[test]
fn an_unknown_key_that_is_like_no_other() {
    extra(
        "colour = 2",
        &["no key `colour`", "known keys: name, vcpus"],
    );
}

#[test]
fn an_unknown_key_of_the_board() {
    let text = format!("{GOOD}[board]\nwhen_alloff = \"wait\"\n");
    one(
        &text,
        "7: ",
        &[
            "[board] has no key `when_alloff`",
            "did you mean `when_all_off`",
        ],
    );
}

#[test]
fn a_board_that_is_no_table() {
    one(
        &format!("board = 1\n{GOOD}"),
        "1: ",
        &["`board` is not a table"],
    );
}

#[test]
fn a_policy_that_does_not_exist() {
    let text = format!("{GOOD}[board]\nwhen_all_off = \"poweroff\"\n");
    one(
        &text,
        "7: ",
        &["cannot be \"poweroff\"", "did you mean \"power-off\""],
    );
}

#[test]
fn missing_keys() {
    for (line, key) in [
        ("name = \"linux\"\n", "`name`"),
        ("vcpus = 2\n", "`vcpus`"),
        ("memory = \"512 MiB\"\n", "`memory`"),
        ("kernel = \"Image\"\n", "`kernel`"),
    ] {
        one(
            &GOOD.replace(line, ""),
            "1: ",
            &["this guest has no", key, "add a line like"],
        );
    }
}

#[test]
fn no_vcpus() {
    changed("vcpus = 2", "vcpus = 0", &["1 to 8 vCPUs, not 0"]);
}

#[test]
fn too_many_vcpus() {
    changed("vcpus = 2", "vcpus = 9", &["1 to 8 vCPUs, not 9"]);
}

#[test]
fn fewer_than_no_vcpus() {
    changed("vcpus = 2", "vcpus = -1", &["not -1"]);
}

#[test]
fn vcpus_as_text() {
    changed(
        "vcpus = 2",
        "vcpus = \"2\"",
        &["a whole number, not string"],
    );
}

#[test]
fn vcpus_beyond_all_numbers() {
    changed(
        "vcpus = 2",
        "vcpus = 99999999999999999999",
        &["out of range"],
    );
}

#[test]
fn memory_without_a_unit() {
    changed("512 MiB", "512", &["has no unit"]);
}

#[test]
fn memory_as_a_number() {
    changed(
        "memory = \"512 MiB\"",
        "memory = 512",
        &["a size in quotes, not integer"],
    );
}

#[test]
fn memory_in_decimal_units() {
    changed("512 MiB", "512 MB", &["unknown unit \"MB\""]);
}

#[test]
fn memory_of_nothing() {
    changed("512 MiB", "0 MiB", &["`memory` is 0"]);
}

#[test]
fn memory_in_odd_pieces() {
    changed(
        "512 MiB",
        "511 MiB",
        &["not a multiple of 2 MiB", "\"512 MiB\""],
    );
}

#[test]
fn more_memory_than_a_guest_can_have() {
    changed(
        "512 MiB",
        "512 GiB",
        &["more than a guest can have (511 GiB)"],
    );
}

#[test]
fn an_unknown_backing() {
    extra(
        "backing = \"thick\"",
        &["cannot be \"thick\"", "did you mean \"thin\""],
    );
}

#[test]
fn a_quota_without_thin() {
    extra("quota = \"64 MiB\"", &["only a thin guest has a quota"]);
}

#[test]
fn a_quota_above_the_memory() {
    let text = format!("{GOOD}backing = \"thin\"\nquota = \"1 GiB\"\n");
    one(
        &text,
        "7: ",
        &["the quota (1 GiB) is more than the memory (512 MiB)"],
    );
}

#[test]
fn a_core_named_twice() {
    extra("cores = [1, 1]", &["core 1 is named twice"]);
}

#[test]
fn a_core_that_no_board_has() {
    extra(
        "cores = [1, 8]",
        &["core 8 does not exist", "0 to at most 7"],
    );
}

#[test]
fn too_few_cores() {
    extra("cores = [1]", &["1 cores for 2 vCPUs"]);
}

#[test]
fn cores_that_are_no_list() {
    extra("cores = 1", &["a list of core numbers"]);
}

#[test]
fn a_core_that_is_no_number() {
    extra("cores = [1, \"2\"]", &["a whole number, not string"]);
}

#[test]
fn an_empty_name() {
    changed("\"linux\"", "\"\"", &["name is empty"]);
}

#[test]
fn a_name_with_odd_characters() {
    changed(
        "\"linux\"",
        "\"my guest\"",
        &["no good name", "letters, digits"],
    );
}

#[test]
fn a_name_that_is_too_long() {
    let name = format!("\"{}\"", "x".repeat(33));
    changed(
        "\"linux\"",
        &name,
        &["at most 32 characters, this one has 33"],
    );
}

#[test]
fn two_guests_of_one_name() {
    one(
        &format!("{GOOD}{GOOD}"),
        "7: ",
        &["two guests are named \"linux\"", "line 2"],
    );
}

#[test]
fn a_command_line_that_linux_would_cut() {
    let line = format!("cmdline = \"{}\"", "x".repeat(2048));
    extra(&line, &["2048 bytes", "2047"]);
}

#[test]
fn a_command_line_of_two_lines() {
    extra("cmdline = \"a\\nb\"", &["control character"]);
}

#[test]
fn a_kernel_without_a_name() {
    changed("\"Image\"", "\"\"", &["`kernel` names no file"]);
}

#[test]
fn a_kernel_that_is_no_text() {
    changed(
        "kernel = \"Image\"",
        "kernel = true",
        &["text in quotes, not boolean"],
    );
}

#[test]
fn an_entry_without_a_flat_payload() {
    extra("entry = 64", &["only a flat binary has an `entry`"]);
}

#[test]
fn an_entry_between_two_instructions() {
    let text = format!("{GOOD}payload = \"flat\"\nentry = 2\n");
    one(&text, "7: ", &["not a multiple of 4"]);
}

#[test]
fn all_problems_are_told_at_once_in_the_order_of_lines() {
    let text = "[[guest]]\nname = \"\"\nvcpus = 0\nmemory = \"1\"\nkernel = \"\"\nfoo = 1\n";
    let lines: Vec<String> = problems(text).iter().map(|p| p[..2].to_owned()).collect();
    assert_eq!(lines, ["2:", "3:", "4:", "5:", "6:"]);
}

#[test]
fn the_documentation_names_every_key() {
    let page = include_str!("../../../../docs/scenarios.md");
    for key in guest::keys().iter().chain(&read::BOARD_KEYS) {
        assert!(
            page.contains(&format!("\n| `{key}` |")),
            "docs/scenarios.md lacks `{key}`"
        );
    }
}

proptest::proptest! {
    /// Whatever the text is, it is read or refused with at least one sentence.
    #[test]
    fn no_text_stops_the_reader(text in "(\\[\\[guest\\]\\]|name|vcpus|memory|=|\"|[0-9]|\\[|\\]|,|\n| |MiB|.){0,60}") {
        if let Err(problems) = read(&text) {
            assert!(!problems.list.is_empty());
        }
    }
}

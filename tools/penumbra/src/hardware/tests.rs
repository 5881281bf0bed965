//! Scenarios that want something of the example's board, and one test for each way in which they cannot
//! have it.

use super::*;
use crate::problem::Source;

const GOOD: &str = "\
[[guest]]
name = \"linux\"
vcpus = 2
memory = \"64 MiB\"
kernel = \"Image\"
";

const DIRECT: &str = "backing = \"direct\"\ndma = \"trusted\"\n";

fn find_in(text: &str) -> Result<Vec<Hardware>, Problems> {
    let source = Source {
        path: "folder/test.toml".into(),
        text: text.into(),
    };
    let scenario = Scenario::read(source)?;
    assert!(is_wanted(&scenario));
    find(&scenario, &penumbra_devices::example::board())
}

/// Checks that a scenario has exactly one problem: its line, parts of its sentence and of its hint.
#[track_caller]
fn refused(text: &str, line: u32, parts: &[&str]) {
    let problems = find_in(text).expect_err("the scenario should be refused");
    let source = problems.source.expect("a source");
    let [problem] = &problems.list[..] else {
        panic!("{:?}", problems.list);
    };
    let at = problem.span.as_ref().map_or(0, |span| span.start);
    assert_eq!(source.line(at), line, "{problem:?}");
    let help = problem.help.as_deref().unwrap_or_default();
    let said = format!("{} [{help}]", problem.message);
    for part in parts {
        assert!(said.contains(part), "{part} in {said}");
    }
}

/// The good scenario with devices on line 6.
fn with(devices: &str) -> String {
    format!("{GOOD}devices = [{devices}]\n")
}

/// The same, direct and trusted; devices on line 8.
fn trusted(devices: &str) -> String {
    format!("{GOOD}{DIRECT}devices = [{devices}]\n")
}

#[test]
fn paths_aliases_and_beginnings_are_made_out() {
    let found = find_in(&with("\"rtc0\", \"/pl061@9030000\"")).unwrap();
    assert_eq!(
        found[0].devices,
        [(6, "/pl031@9010000".into()), (6, "/pl061@9030000".into())]
    );
    assert_eq!(found[0].address, 0);
    let found = find_in(&trusted("\"/virtio_mmio@a003*\"")).unwrap();
    assert_eq!(found[0].devices.len(), 8);
    // The last 16 MiB of RAM but 16 are reserved on this board.
    assert_eq!(found[0].address, 0x7e00_0000 - (64 << 20));
}

#[test]
fn chosen_addresses_keep_out_of_given_ones() {
    let second = GOOD.replace("linux", "second") + DIRECT + "address = 0x7a00_0000\n";
    let found = find_in(&format!("{GOOD}{DIRECT}{second}")).unwrap();
    assert_eq!(
        (found[0].address, found[1].address),
        (0x7600_0000, 0x7a00_0000)
    );
}

#[test]
fn a_tree_without_its_ram() {
    let mut blob = penumbra_devices::example::board();
    let ram = [0x4000_0000_u64.to_be_bytes(); 2].concat();
    let at = blob.windows(16).position(|bytes| bytes == ram).unwrap();
    blob[at..at + 16].fill(0);
    let source = Source {
        path: "folder/test.toml".into(),
        text: with("\"rtc0\"").into(),
    };
    let scenario = Scenario::read(source).unwrap();
    let problems = find(&scenario, &blob).unwrap_err();
    assert!(problems.list[0].message.contains("names no RAM"));
}

#[test]
fn a_device_that_the_board_lacks() {
    let parts = [
        "device \"/pl031@9011000\"",
        "no such device",
        "did you mean \"/pl031@9010000\"?",
    ];
    refused(&with("\"/pl031@9011000\""), 6, &parts);
    refused(&with("\"rtc\""), 6, &["did you mean \"rtc0\"?"]);
    refused(
        &with("\"/virtio_nmio@a003*\""),
        6,
        &["no such device", "did you mean"],
    );
    refused(&with("\"/a/b/c/d\""), 6, &["name a device by its path"]);
}

#[test]
fn devices_that_the_hypervisor_keeps() {
    for (path, sentence) in [
        ("/intc@8000000", "it is the interrupt controller"),
        (
            "/intc@8000000/its@8080000",
            "it is the interrupt controller",
        ),
        ("/pl011@9000000", "it is the board's console"),
        ("serial0", "it is the board's console"),
        ("/memory@40000000", "it is RAM"),
        ("/smmu@9140000", "it is an IOMMU"),
    ] {
        refused(
            &trusted(&format!("\"{path}\"")),
            8,
            &[sentence, "the hypervisor keeps"],
        );
    }
}

#[test]
fn devices_that_cannot_be_passed_on() {
    for (path, sentence) in [
        ("/pcie@10000000", "it is a PCI host bridge"),
        ("/watchdog@9100000", "the tree of the running board"),
        ("/gpio-keys", "it has no registers"),
        ("/soc/lost@1000", "have no address for the CPUs"),
        ("/soc/mmc@7e340000", "only from 0x0 to 0x40000000"),
        ("/pl022@9110000", "it needs the clock /clocks@9200000"),
        ("/pmu@9120000", "each core has for itself"),
        (
            "/sensor@9130000",
            "its interrupt goes to /pl061@9030000, not to the GIC",
        ),
    ] {
        refused(&trusted(&format!("\"{path}\"")), 8, &[sentence]);
    }
}

#[test]
fn two_owners_of_a_device() {
    let second = with("\"/pl031@9010000\"").replace("linux", "second");
    let text = with("\"rtc0\"") + &second;
    refused(&text, 12, &["guest \"linux\" has it already", "one owner"]);
}

#[test]
fn one_device_by_two_names() {
    refused(
        &with("\"rtc0\", \"/pl031@9010000\""),
        6,
        &["names it twice"],
    );
}

#[test]
fn a_page_with_somebody_elses_device() {
    let parts = [
        "shares the page at 0xa003000 with /virtio_mmio@a003000 and 6 more",
        "a page (4 KiB) is the least",
    ];
    refused(&trusted("\"/virtio_mmio@a003e00\""), 8, &parts);
}

#[test]
fn an_interrupt_with_somebody_elses_device() {
    let second = with("\"/timer@9150000\"").replace("linux", "second");
    let text = with("\"rtc0\"") + &second;
    refused(&text, 12, &["shares interrupt 34 with /pl031@9010000"]);
}

#[test]
fn a_bus_master_without_a_policy() {
    let devices = "devices = [\"/virtio_mmio@a003*\"]\n";
    let parts = [
        "may be a bus master (virtio,mmio)",
        "only a `direct` guest with `dma",
    ];
    refused(&format!("{GOOD}{devices}"), 6, &parts);
    let parts = [
        "may be a bus master",
        "only a guest with `dma = \"trusted\"`",
    ];
    refused(&format!("{GOOD}backing = \"direct\"\n{devices}"), 7, &parts);
}

#[test]
fn a_device_where_the_guest_has_ram() {
    let text = with("\"/pl031@60000000\"").replace("64 MiB", "2 GiB");
    let board_has = [
        "the guests need 2 GiB, the board has 1 GiB of RAM",
        "lower `memory`",
    ];
    refused(&text, 4, &board_has);
    let thin = format!("{text}backing = \"thin\"\nquota = \"64 MiB\"\n");
    refused(
        &thin,
        6,
        &["its registers at 0x90000000 lie where the guest has RAM"],
    );
}

#[test]
fn what_starts_must_fit_into_the_ram_together() {
    let wants = |guests: &[&str]| {
        let text: String = guests
            .iter()
            .enumerate()
            .fold(String::new(), |text, (n, keys)| {
                let guest = GOOD.replace("linux", &format!("g{n}"));
                text + &guest.replace("memory = \"64 MiB\"", keys)
            });
        let source = Source {
            path: "test.toml".into(),
            text: text.into(),
        };
        let scenario = Scenario::read(source).unwrap();
        budget(&scenario, 2 << 30).map_err(|problem| {
            let line = scenario.source.line(problem.span.unwrap().start);
            (line, problem.message)
        })
    };
    let (one, two, off) = (
        "memory = \"1 GiB\"",
        "memory = \"2 GiB\"",
        "memory = \"1 GiB\"\nautostart = false",
    );
    let thin = "memory = \"4 GiB\"\nbacking = \"thin\"\nquota = \"1 GiB\"";
    let greedy = "memory = \"4 GiB\"\nbacking = \"thin\"";
    for good in [&[two][..], &[one, one], &[two, off], &[one, thin, thin]] {
        assert_eq!(wants(good), Ok(()), "{good:?}");
    }
    let said = |need: &str| format!("the guests need {need}, the board has 2 GiB of RAM");
    for (bad, line, need) in [
        (&[one, two][..], 9, "3 GiB"),
        (&[two, thin], 4, "3 GiB"),
        (&[greedy], 4, "4 GiB"),
    ] {
        assert_eq!(wants(bad), Err((line, said(need))), "{bad:?}");
    }
}

#[test]
fn ram_that_the_board_does_not_have() {
    let at = |address: &str| format!("{GOOD}{DIRECT}address = {address}\n");
    refused(
        &at("0x2000_0000"),
        8,
        &["no RAM from 0x20000000 to 0x24000000"],
    );
    refused(
        &at("0x7c00_0000"),
        8,
        &["wanted by the board's reserved memory"],
    );
    let large = format!("{GOOD}{DIRECT}").replace("64 MiB", "1000 MiB");
    refused(&large, 4, &["no 1000 MiB of RAM in one piece"]);
}

/// The Raspberry Pi 4 has RAM where guests have their emulated devices.
#[test]
fn ram_where_devices_are_emulated() {
    let on_a_pi = |text: String| {
        let path = "folder/test.toml".into();
        let source = Source {
            path,
            text: text.into(),
        };
        find(
            &Scenario::read(source)?,
            &penumbra_devices::example_rpi4::board(),
        )
    };
    let text = format!("{GOOD}{DIRECT}address = 0x0700_0000\n");
    let problems = on_a_pi(text).unwrap_err();
    let problem = &problems.list[0];
    assert_eq!(
        problem.message,
        "guest \"linux\": RAM at 0x7000000 would lie where every guest has its emulated interrupt \
         controller, watchdog and UART (0x8000000 to 0x9001000)"
    );
    let line = problem
        .span
        .as_ref()
        .map(|span| problems.source.as_ref().unwrap().line(span.start));
    assert_eq!(line, Some(8));
    assert_eq!(
        problem.help.as_deref(),
        Some("leave `address` out to have one chosen")
    );
    // A chosen address keeps out of them, and there may be none.
    let all = |memory: &str| on_a_pi(format!("{GOOD}{DIRECT}").replace("64 MiB", memory));
    assert_eq!(all("800 MiB").unwrap()[0].address, 0x0a00_0000);
    let problems = all("832 MiB").unwrap_err();
    assert!(
        problems.list[0]
            .message
            .contains("no 832 MiB of RAM in one piece")
    );
}

#[test]
fn two_guests_at_one_address() {
    let at = |name: &str, address: &str| {
        GOOD.replace("linux", name) + DIRECT + &format!("address = {address}\n")
    };
    let text = at("a", "0x5000_0000") + &at("b", "0x5200_0000");
    refused(&text, 16, &["guest \"b\"", "wanted by guest \"a\""]);
}

#[test]
fn more_memory_than_the_board_has() {
    let second = GOOD.replace("linux", "second").replace("64 MiB", "768 MiB");
    let text = with("\"rtc0\"").replace("64 MiB", "512 MiB") + &second;
    refused(
        &text,
        10,
        &["the guests need 1280 MiB, the board has 1 GiB"],
    );
}

#[test]
fn a_damaged_tree_is_told() {
    let source = Source {
        path: "a.toml".into(),
        text: with("\"rtc0\"").into(),
    };
    let scenario = Scenario::read(source).unwrap();
    let problems = find(&scenario, b"no tree").unwrap_err();
    assert!(problems.list[0].message.contains("damaged"));
}

#[test]
fn the_scenario_of_the_book_is_good() {
    let page = include_str!("../../../../docs/partition.md");
    let (_, rest) = page.split_once("```toml\n").expect("a scenario");
    let (text, _) = rest.split_once("```").expect("its end");
    let found = find_in(text).expect("it is good");
    let devices: Vec<usize> = found
        .iter()
        .map(|hardware| hardware.devices.len())
        .collect();
    assert_eq!(devices, [8, 0, 1]);
}

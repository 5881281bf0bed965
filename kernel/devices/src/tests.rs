//! What the example's board gives, and what it refuses.

use dtoolkit::fdt::Fdt;
use dtoolkit::model::DeviceTree;
use dtoolkit::{Node, Property};

use crate::node::{References, copy};
use crate::*;

const MIB: u64 = 1 << 20;
const EMULATED: Range = Range {
    base: 0x0800_0000,
    bytes: 0x0100_1000,
};

fn wishes<'a>(guest: &'a str, devices: &[&'a str], trusted: bool) -> Wishes<'a> {
    Wishes {
        guest,
        devices: devices.to_vec(),
        ram: Range {
            base: 0x5000_0000,
            bytes: 256 * MIB,
        },
        direct: trusted,
        trusted,
        emulated: EMULATED,
    }
}

/// The only finding.
#[track_caller]
fn finding(guests: &[Wishes<'_>]) -> Problem {
    let blob = example::board();
    let tree = BoardTree::parse(&blob).unwrap();
    let mut found = check(&tree, guests).unwrap_err();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0).problem
}

#[test]
fn a_device_is_found_with_all_that_belongs_to_it() {
    let blob = example::board();
    let tree = BoardTree::parse(&blob).unwrap();
    let found = check(&tree, &[wishes("a", &["rtc0", "/soc/rng@7e104000"], false)]).unwrap();
    let [rtc, rng] = &found[0][..] else { panic!() };
    assert_eq!(rtc.path, "/pl031@9010000");
    assert_eq!(
        (rtc.registers[0].base, rtc.registers[0].bytes),
        (0x0901_0000, 0x1000)
    );
    assert_eq!(
        rtc.interrupts,
        [Interrupt {
            intid: 34,
            edge: false
        }]
    );
    assert_eq!(
        rtc.clocks,
        [Clock {
            hz: 24_000_000,
            firmware: None
        }]
    );
    assert!(!rtc.master && !rtc.virtio);
    // Through the bus's own addresses.
    assert_eq!(
        (rng.registers[0].base, rng.registers[0].bytes),
        (0x0a90_4000, 0x100)
    );
}

#[test]
fn a_page_of_devices_goes_to_one_guest() {
    let blob = example::board();
    let tree = BoardTree::parse(&blob).unwrap();
    let page = tree.expand("/virtio_mmio@a003*").unwrap();
    assert_eq!(page.len(), 8);
    let page: Vec<&str> = page.iter().map(String::as_str).collect();
    let found = check(&tree, &[wishes("a", &page, true)]).unwrap();
    assert_eq!(found[0].len(), 8);
    assert!(found[0].iter().all(|device| device.master && device.virtio));
    assert!(found[0][7].interrupts[0].edge);
    assert_eq!(
        found[0][0].pages(),
        [Range {
            base: 0x0a00_3000,
            bytes: 4096
        }]
    );
    let some = finding(&[wishes("a", &page[..1], true)]);
    assert_eq!(
        some.to_string(),
        "it shares the page at 0xa003000 with /virtio_mmio@a003200 and 6 more, which the guest does \
         not have"
    );
    let mut two = [wishes("a", &page[..4], true), wishes("b", &page[4..], true)];
    two[1].ram.base += 256 * MIB;
    let found = check(&tree, &two).unwrap_err();
    assert_eq!(found.len(), 8);
    assert!(
        found[0]
            .problem
            .to_string()
            .ends_with(", which guest \"b\" has")
    );
}

#[test]
fn what_no_guest_can_have_is_refused_by_name() {
    for (path, sentence) in [
        (
            "/intc@8000000",
            "the interrupt controller, which the hypervisor keeps",
        ),
        ("/intc@8000000/its@8080000", "the interrupt controller"),
        ("serial0", "the board's console"),
        ("/memory@40000000", "it is RAM"),
        ("/reserved-memory/firmware@7e000000", "it is RAM"),
        ("/smmu@9140000", "an IOMMU"),
        ("/pcie@10000000", "a PCI host bridge"),
        ("/watchdog@9100000", "says that it is not there"),
        ("/gpio-keys", "has no registers"),
        ("/soc", "has no registers"),
        ("/soc/lost@1000", "have no address for the CPUs"),
        (
            "/soc/mmc@7e340000",
            "only from 0x0 to 0x40000000 (`dma-ranges` of its bus)",
        ),
        (
            "/pl022@9110000",
            "the clock /clocks@9200000, which is not a fixed one",
        ),
        ("/pmu@9120000", "(PPI)"),
        ("/sensor@9130000", "its interrupt goes to /pl061@9030000"),
        ("/nothing", "has no such device"),
    ] {
        let said = finding(&[wishes("a", &[path], true)]).to_string();
        assert!(said.contains(sentence), "{path}: {said}");
    }
}

#[test]
fn dma_needs_a_word() {
    let blob = example::board();
    let tree = BoardTree::parse(&blob).unwrap();
    let page = tree.expand("/virtio_mmio@a003*").unwrap();
    let page: Vec<&str> = page.iter().map(String::as_str).collect();
    let mut guest = wishes("a", &page, false);
    let found = check(&tree, &[guest.clone()]).unwrap_err();
    assert_eq!(found.len(), 8);
    assert_eq!(found[3].device, Some(3));
    let said = found[0].problem.to_string();
    assert!(
        said.contains("bus master (virtio,mmio)") && said.contains("`direct`"),
        "{said}"
    );
    guest.direct = true;
    let problem = check(&tree, &[guest.clone()])
        .unwrap_err()
        .remove(0)
        .problem;
    assert!(problem.help().starts_with("add `dma = \"trusted\"`"));
    // Trust without memory at its address is of no use.
    (guest.direct, guest.trusted) = (false, true);
    assert!(check(&tree, &[guest]).is_err());
}

#[test]
fn a_device_has_one_owner() {
    let rtc = "/pl031@9010000";
    let two = [wishes("a", &[rtc], false), wishes("b", &[rtc], false)];
    let said = finding(&two);
    assert_eq!(said.to_string(), "guest \"a\" has it already");
    let twice = finding(&[wishes("a", &[rtc, rtc], false)]);
    assert_eq!(twice, Problem::Twice);
    // The timer has the clock's interrupt.
    let blob = example::board();
    let tree = BoardTree::parse(&blob).unwrap();
    let shared = [
        wishes("a", &[rtc], false),
        wishes("b", &["/timer@9150000"], false),
    ];
    let found = check(&tree, &shared).unwrap_err();
    assert_eq!(found[0].guest, 1);
    assert_eq!(
        found[0].problem.to_string(),
        "it shares interrupt 34 with /pl031@9010000"
    );
}

#[test]
fn ram_at_its_address_is_the_boards_and_nobody_elses() {
    let at = |base, bytes| {
        let mut guest = wishes("a", &[], true);
        guest.ram = Range { base, bytes };
        guest
    };
    for (base, bytes) in [
        (0x3000_0000, 64 * MIB),
        (0x7f00_0000, 64 * MIB),
        (1 << 40, 64 * MIB),
    ] {
        let said = finding(&[at(base, bytes)]);
        assert!(matches!(said, Problem::OutsideRam { .. }), "{said}");
    }
    let said = finding(&[at(0x7d00_0000, 32 * MIB)]);
    assert!(
        said.to_string().contains("the board's reserved memory"),
        "{said}"
    );
    let two = [at(0x5000_0000, 64 * MIB), at(0x5200_0000, 64 * MIB)];
    let said = finding(&two);
    assert!(said.to_string().contains("guest \"a\""), "{said}");
    // A device where the guest has RAM.
    let mut guest = wishes("a", &["/pl031@60000000"], false);
    guest.ram = Range {
        base: 0x4000_0000,
        bytes: 0x8000_0000,
    };
    assert_eq!(
        finding(&[guest]),
        Problem::OverlapsRam { base: 0x9000_0000 }
    );
}

#[test]
fn ram_is_chosen_from_the_top() {
    let blob = example::board();
    let tree = BoardTree::parse(&blob).unwrap();
    let all = Range {
        base: 0,
        bytes: u64::MAX,
    };
    let free = |bytes, taken: &[Range]| highest_free(&tree, all, (bytes, 2 * MIB), taken);
    let range = free(16 * MIB, &[]).unwrap();
    assert_eq!(range.base, 0x7f00_0000);
    let next = free(16 * MIB, &[range]).unwrap();
    assert_eq!(next.base, 0x7d00_0000);
    assert_eq!(free(1 << 40, &[]), None);
}

#[test]
fn unknown_names_are_near_known_ones() {
    let blob = example::board();
    let tree = BoardTree::parse(&blob).unwrap();
    for (word, near) in [
        ("/pl031@9011000", Some("/pl031@9010000")),
        ("rtc1", Some("rtc0")),
        ("/rtc@9010000", Some("/pl031@9010000")),
        ("/virtio-mmio@a003e00", Some("/virtio_mmio@a003e00")),
        ("/completely/else", None),
        ("*", None),
    ] {
        let Err(Problem::Unknown { near: said }) = tree.expand(word) else {
            panic!("{word}");
        };
        assert_eq!(said.as_deref(), near, "{word}");
    }
}

#[test]
fn the_device_at_an_address_is_found() {
    let blob = example::board();
    let tree = BoardTree::parse(&blob).unwrap();
    for (address, path) in [
        (0x0901_0000, Some("/pl031@9010000")),
        (0x0901_0fff, Some("/pl031@9010000")),
        (0x0901_1000, None),
        (0x0900_0018, Some("/pl011@9000000")),
        (0x4000_0000, None),
        (0, None),
    ] {
        assert_eq!(tree.device_at(address).as_deref(), path, "{address:#x}");
    }
}

#[test]
fn the_copy_has_what_the_guest_has() {
    let blob = example::board();
    let tree = BoardTree::parse(&blob).unwrap();
    let gpio = tree.device("/pl061@9030000").unwrap();
    let names = References {
        interrupts: &[200],
        clocks: &[77],
    };
    let mut out = DeviceTree::new();
    out.root.add_child(copy(&tree, &gpio, &names));
    let virtio = tree.device("/virtio_mmio@a003e00").unwrap();
    let names = References {
        interrupts: &[79],
        clocks: &[],
    };
    out.root.add_child(copy(&tree, &virtio, &names));
    let blob = out.to_dtb();
    let fdt = Fdt::new(&blob).unwrap();
    let value = |path: &str, name: &str| {
        let node = fdt.find_node(path).unwrap();
        node.property(name).map(|p| tree::cells(p.value()))
    };
    let gpio = "/pl061@9030000";
    assert_eq!(value(gpio, "interrupts").unwrap(), [0, 168, 4]);
    assert_eq!(value(gpio, "clocks").unwrap(), [77]);
    assert_eq!(value(gpio, "reg").unwrap(), [0, 0x0903_0000, 0, 0x1000]);
    assert!(value(gpio, "gpio-controller").is_some());
    assert!(value(gpio, "phandle").is_none() && value(gpio, "dma-coherent").is_none());
    let virtio = "/virtio_mmio@a003e00";
    assert_eq!(value(virtio, "interrupts").unwrap(), [0, 47, 1]);
    assert!(value(virtio, "dma-coherent").is_some());
}

#[test]
fn no_damaged_tree_is_read() {
    assert!(BoardTree::parse(&[]).is_none());
    let blob = example::board();
    assert!(BoardTree::parse(&blob[..blob.len() / 2]).is_none());
}

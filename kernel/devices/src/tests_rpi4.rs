//! What the Raspberry Pi 4's tree gives, and what it refuses.

use dtoolkit::fdt::Fdt;
use dtoolkit::model::DeviceTree;
use dtoolkit::{Node, Property};

use crate::node::{References, copy, with_bus};
use crate::*;

const MIB: u64 = 1 << 20;
const EMULATED: Range = Range {
    base: 0x0800_0000,
    bytes: 0x0100_1000,
};
const GIB: u64 = 1 << 30;
const EMMC: &str = "/soc/mmc@7e300000";
const EMMC2: &str = "/emmc2bus/mmc@7e340000";
const GPIO: &str = "/soc/gpio@7e200000";
const I2C: &str = "/soc/i2c@7e804000";
const UART: &str = "/soc/serial@7e201000";
const WINDOW: DmaWindow = DmaWindow {
    bus: 0xc000_0000,
    cpu: 0,
    bytes: GIB,
};

fn wishes<'a>(guest: &'a str, devices: &[&'a str], trusted: bool) -> Wishes<'a> {
    Wishes {
        guest,
        devices: devices.to_vec(),
        ram: Range {
            base: 0x2000_0000,
            bytes: 128 * MIB,
        },
        direct: trusted,
        trusted,
        emulated: EMULATED,
    }
}

/// Why the guests do not get what they wish, or nothing.
fn said(guests: &[Wishes<'_>]) -> Vec<String> {
    let blob = example_rpi4::board();
    let tree = BoardTree::parse(&blob).unwrap();
    match check(&tree, guests) {
        Ok(_) => Vec::new(),
        Err(found) => found.iter().map(|f| f.problem.to_string()).collect(),
    }
}

#[test]
fn a_card_reaches_memory_through_its_bus() {
    let blob = example_rpi4::board();
    let tree = BoardTree::parse(&blob).unwrap();
    for (path, base, hz) in [
        (EMMC, 0xfe30_0000, 250_000_000),
        (EMMC2, 0xfe34_0000, 100_000_000),
    ] {
        let found = check(&tree, &[wishes("a", &[path], true)]).unwrap();
        let card = &found[0][0];
        assert_eq!((card.registers[0].base, card.clocks[0].hz), (base, hz));
        assert!(card.master && card.dma == [WINDOW]);
        assert_eq!(tree.reach(path), Some(WINDOW.reach()));
    }
    let uart = tree.device(UART).unwrap();
    let clock = |hz, number| Clock {
        hz,
        firmware: Some(number),
    };
    assert_eq!(uart.clocks, [clock(48_000_000, 19), clock(250_000_000, 20)]);
    // What is no bus master has no addresses for it.
    assert!(tree.device(UART).unwrap().dma.is_empty());
    assert_eq!(tree.reach(UART), None);
}

#[test]
fn a_legacy_master_reaches_a_gibibyte() {
    let mut guest = wishes("a", &[EMMC], true);
    guest.ram = Range {
        base: GIB - 64 * MIB,
        bytes: 128 * MIB,
    };
    // A board with more RAM than its legacy masters reach.
    let mut blob = example_rpi4::board();
    let ram = [0u32, 0, 0x3c00_0000].map(u32::to_be_bytes).concat();
    let at = blob.windows(12).position(|bytes| bytes == ram).unwrap();
    blob[at + 8..at + 12].copy_from_slice(&0xc000_0000_u32.to_be_bytes());
    let tree = BoardTree::parse(&blob).unwrap();
    let found = check(&tree, &[guest]).unwrap_err().remove(0).problem;
    let sentence =
        "only from 0x0 to 0x40000000 (`dma-ranges` of its bus), and the guest has RAM elsewhere";
    assert!(found.to_string().ends_with(sentence), "{found}");
    let size = (128 * MIB, 2 * MIB);
    let all = Range {
        base: 0,
        bytes: u64::MAX,
    };
    assert_eq!(highest_free(&tree, all, size, &[]).unwrap().end(), 3 * GIB);
    let within = highest_free(&tree, WINDOW.reach(), size, &[]).unwrap();
    assert_eq!(within.end(), GIB);
}

#[test]
fn nothing_of_the_board_lies_where_devices_are_emulated() {
    let ram = |base, bytes| {
        let mut guest = wishes("a", &[], true);
        guest.ram = Range { base, bytes };
        guest
    };
    let end = EMULATED.end().next_multiple_of(2 * MIB);
    for good in [ram(EMULATED.base - MIB, MIB), ram(end, 64 * MIB)] {
        assert!(said(&[good]).is_empty());
    }
    let sentence = "would lie where every guest has its emulated interrupt controller, watchdog and UART \
                    (0x8000000 to 0x9001000)";
    for bad in [ram(EMULATED.base - MIB, 2 * MIB), ram(end - 2 * MIB, MIB)] {
        let wanted = format!("RAM at {:#x} {sentence}", bad.ram.base);
        assert_eq!(said(&[bad]), [wanted]);
    }
    // Of the board's devices none is there; a guest whose own are elsewhere has the same choice.
    let mut guest = wishes("a", &[UART], false);
    guest.emulated.base = 0xfe20_1000;
    let found = said(&[guest]);
    assert!(
        found[0].starts_with("its registers at 0xfe201000 would lie"),
        "{found:?}"
    );
}

#[test]
fn a_master_needs_a_direct_guest_that_is_trusted() {
    let found = said(&[wishes("a", &[EMMC2], false)]);
    assert!(
        found[0].contains("bus master (brcm,bcm2711-emmc2)"),
        "{found:?}"
    );
}

#[test]
fn the_copy_hangs_behind_a_bus_of_its_own() {
    let blob = example_rpi4::board();
    let tree = BoardTree::parse(&blob).unwrap();
    let names = References {
        interrupts: &[158],
        clocks: &[16],
    };
    let mut out = DeviceTree::new();
    for path in [EMMC2, UART] {
        let device = tree.device(path).unwrap();
        out.root
            .add_child(with_bus(&device, copy(&tree, &device, &names)));
    }
    let blob = out.to_dtb();
    let fdt = Fdt::new(&blob).unwrap();
    let cells = |path: &str, name: &str| {
        let node = fdt.find_node(path).unwrap();
        node.property(name).map(|p| tree::cells(p.value()))
    };
    let windows = cells("/bus-fe340000", "dma-ranges").unwrap();
    assert_eq!(windows, [0, 0xc000_0000, 0, 0, 0, 0x4000_0000]);
    assert_eq!(cells("/bus-fe340000", "ranges").unwrap(), []);
    let card = "/bus-fe340000/mmc@fe340000";
    assert_eq!(cells(card, "reg").unwrap(), [0, 0xfe34_0000, 0, 0x100]);
    assert!(cells(card, "vmmc-supply").is_none());
    assert!(cells("/serial@fe201000", "reg").is_some());
}

#[test]
fn what_the_hypervisor_needs_it_keeps() {
    for (path, sentence) in [
        ("serial1", "the board's console"),
        (
            "/soc/cprman@7e101000",
            "a clock controller, which the hypervisor keeps",
        ),
        ("/soc/aux@7e215000", "a clock controller"),
        ("/soc/mailbox@7e00b880", "a mailbox to the board's firmware"),
        (
            "/soc/watchdog@7e100000",
            "the board's watchdog and power switch",
        ),
        ("/soc/serial@7e201400", "says that it is not there"),
        (
            "/soc/pwm@7e20c000",
            "it needs the clock /soc/cprman@7e101000, which is not a fixed one and is shared with 4 other",
        ),
    ] {
        let found = said(&[wishes("a", &[path], true)]);
        assert!(
            found.len() == 1 && found[0].contains(sentence),
            "{path}: {found:?}"
        );
    }
}

#[test]
fn idle_neighbours_on_a_page_go_with_it_unless_they_are_masters() {
    assert!(said(&[wishes("a", &[UART], false)]).is_empty());
    let found = said(&[wishes("a", &["/soc/rng@7e104000"], false)]);
    assert!(
        found[0].contains("shares the page at 0xfe104000 with /soc/dma@7e104800"),
        "{found:?}"
    );
}

#[test]
fn who_sets_the_pins_has_what_hangs_on_them() {
    // The console's are among them.
    let found = said(&[wishes("a", &[GPIO, I2C], false)]);
    let sentence = "it sets the pins of /soc/serial@7e215040, which is the board's console";
    assert_eq!(found, [sentence]);
    assert!(said(&[wishes("a", &[GPIO, I2C], true)]).is_empty());
    let mut two = [wishes("a", &[GPIO], true), wishes("b", &[I2C], false)];
    let sentence = "it sets the pins of /soc/i2c@7e804000, which guest \"b\" has";
    assert_eq!(said(&two), [sentence]);
    two[1].devices.clear();
    assert!(said(&two).is_empty());
}

#[test]
fn both_cards_have_one_interrupt() {
    let mut two = [wishes("a", &[EMMC], true), wishes("b", &[EMMC2], true)];
    two[1].ram.base = 0x3000_0000;
    assert_eq!(
        said(&two),
        ["it shares interrupt 158 with /soc/mmc@7e300000"]
    );
}

#[test]
fn windows_are_taken_through_every_bus() {
    let mut tree = DeviceTree::new();
    let root = &mut tree.root;
    example::set(root, "#address-cells", 1u32);
    example::set(root, "#size-cells", 1u32);
    let bus = |name: &str, map: &[u32]| {
        let mut bus = example::node(name, "simple-bus");
        example::set(&mut bus, "#address-cells", 1u32);
        example::set(&mut bus, "#size-cells", 1u32);
        example::set(&mut bus, "ranges", [0u8; 0]);
        if !map.is_empty() {
            example::set(&mut bus, "dma-ranges", map);
        }
        bus
    };
    let master = || {
        let mut master = example::node("master@1000", "vendor,master");
        example::set(&mut master, "reg", [0x1000u32, 0x100]);
        master
    };
    // 0x4000 bytes from 0x8000 on the bus are at 0x2000 above it, of which the outer bus passes two parts.
    let mut outer = bus(
        "outer",
        &[0x3000, 0x10_0000, 0x1000, 0x5000, 0x20_0000, 0x8000],
    );
    let mut inner = bus("inner", &[0x8000, 0x2000, 0x4000]);
    inner.add_child(master());
    outer.add_child(inner);
    root.add_child(outer);
    let mut shut = bus("shut", &[0x9000, 0, 0x1000]);
    let mut inner = bus("inner", &[0, 0, 0x1000]);
    inner.add_child(master());
    shut.add_child(inner);
    root.add_child(shut);
    let mut plain = bus("plain", &[]);
    plain.add_child(master());
    root.add_child(plain);
    let blob = tree.to_dtb();
    let tree = BoardTree::parse(&blob).unwrap();
    let dma = |path| tree.device(path).map(|device| device.dma);
    let window = |bus, cpu, bytes| DmaWindow { bus, cpu, bytes };
    assert_eq!(
        dma("/outer/inner/master@1000").unwrap(),
        [
            window(0x9000, 0x10_0000, 0x1000),
            window(0xb000, 0x20_0000, 0x1000)
        ]
    );
    assert_eq!(dma("/plain/master@1000").unwrap(), []);
    let problem = dma("/shut/inner/master@1000").unwrap_err();
    assert!(
        problem
            .to_string()
            .contains("see the `dma-ranges` of its bus /shut"),
        "{problem}"
    );
}

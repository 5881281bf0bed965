//! Devices of the board: given, refused, given again to the next life.

use dtoolkit::fdt::Fdt;
use dtoolkit::{Node, Property};
use penumbra_abi::{CrashCause, StopReason};
use penumbra_bundle::{Backing, GuestSpec, Key};

use super::{booted, bundle, guest, settle};
use crate::fake::{Fake, MIB};
use crate::hypervisor::Revival;
use crate::manager::{Ending, Manager};

const BASE: u64 = 0x5000_0000;

/// An EL2 on the example's board.
fn fake() -> Fake {
    let mut fake = Fake::new();
    fake.tree = penumbra_devices::example::board().leak();
    fake
}

/// A guest with devices, the first on line 20.
fn with(name: &str, devices: &[&str]) -> GuestSpec<'static> {
    let mut guest = guest(name);
    guest.lines.set(Key::Address, 15);
    let devices = (20..).zip(devices);
    guest.devices = devices.map(|(line, path)| (line, (*path).into())).collect();
    guest
}

fn direct(name: &str, base: u64, devices: &[&str]) -> GuestSpec<'static> {
    GuestSpec {
        backing: Backing::Direct,
        address: base,
        dma_trusted: true,
        ..with(name, devices)
    }
}

fn page() -> Vec<String> {
    (0..8)
        .map(|n| format!("/virtio_mmio@{:x}", 0x0a00_3000 + n * 0x200))
        .collect()
}

/// What the manager says when it refuses.
fn refused(fake: &mut Fake, guests: Vec<GuestSpec<'static>>) -> String {
    let bundle = bundle(guests);
    let ending = Manager::boot(fake, &bundle, Revival::default()).err();
    assert_eq!(ending, Some(Ending::Fatal), "{}", fake.screen);
    assert!(fake.vms.is_empty(), "{:?}", fake.log);
    fake.screen.clone()
}

fn cells(blob: &[u8], path: &str, name: &str) -> Vec<u32> {
    let fdt = Fdt::new(blob).unwrap();
    let node = fdt.find_node(path).unwrap_or_else(|| panic!("no {path}"));
    let property = node.property(name).unwrap();
    let (cells, _) = property.value().as_chunks::<4>();
    cells.iter().map(|cell| u32::from_be_bytes(*cell)).collect()
}

/// The device tree that VM `number` got.
fn tree(fake: &mut Fake, number: u64) -> Vec<u8> {
    let at = fake.vm(number).entry.unwrap().1;
    let written = fake.vm(number).written.iter().rev();
    let tree = written.into_iter().find(|(ipa, _)| *ipa == at);
    tree.unwrap().1.clone()
}

#[test]
fn a_device_without_dma_goes_to_any_guest() {
    let mut fake = fake();
    let bundle = bundle(vec![with("a", &["/pl031@9010000", "/pl061@9030000"])]);
    booted(&mut fake, &bundle);
    let vm = fake.vm(1);
    assert_eq!(vm.pages, [(0x0901_0000, 0x1000), (0x0903_0000, 0x1000)]);
    assert_eq!(vm.spis, [(34, 34, false), (39, 39, false)]);
    assert!(vm.writes.is_empty());
    let tree = tree(&mut fake, 1);
    assert_eq!(cells(&tree, "/pl031@9010000", "interrupts"), [0, 2, 4]);
    assert_eq!(cells(&tree, "/pl031@9010000", "clocks"), [16]);
    assert_eq!(cells(&tree, "/clock-24000000", "phandle"), [16]);
    assert_eq!(
        cells(&tree, "/clock-24000000", "clock-frequency"),
        [24_000_000]
    );
}

/// The rates of the firmware come before those of the documents; what it does not tell stays as it is.
#[test]
fn the_firmware_says_how_fast_clocks_run() {
    let mut fake = fake();
    fake.tree = penumbra_devices::example_rpi4::board().leak();
    fake.clocks = [(19, 3_000_000), (28, 0)].into();
    let bundle = bundle(vec![with("a", &["/soc/serial@7e201000"])]);
    booted(&mut fake, &bundle);
    let tree = tree(&mut fake, 1);
    let hz = |name: &str| cells(&tree, name, "clock-frequency");
    assert_eq!(hz("/clock-3000000"), [3_000_000]);
    assert_eq!(hz("/clock-250000000"), [250_000_000]);
    assert_eq!(cells(&tree, "/serial@fe201000", "clocks"), [16, 17]);
}

#[test]
fn a_bus_master_goes_to_a_guest_at_its_own_address_and_is_reset_before() {
    let mut fake = fake();
    let page = page();
    let page: Vec<&str> = page.iter().map(String::as_str).collect();
    let bundle = bundle(vec![direct("a", BASE, &page)]);
    let mut manager = booted(&mut fake, &bundle);
    for life in 0..2 {
        let number = *fake.vms.keys().next().unwrap();
        let vm = fake.vm(number);
        assert_eq!(vm.pages, [(0x0a00_3000, 0x1000)]);
        assert_eq!(vm.spis.len(), 8);
        assert!(
            vm.spis
                .iter()
                .all(|(intid, physical, edge)| intid == physical && *edge)
        );
        let resets: Vec<(u64, u32)> = (0..8).map(|n| (0x0a00_3070 + n * 0x200, 0)).collect();
        assert_eq!(vm.writes, resets);
        assert_eq!(vm.backing(), Some(penumbra_abi::Backing::Direct));
        assert_eq!(vm.ram.unwrap().ipa, BASE);
        assert_eq!(vm.entry.unwrap().0, BASE);
        assert_eq!(fake.aside, [(BASE, 64 * MIB)]);
        assert!(fake.position("DeviceLend") < fake.position("VmMapRam"));
        let tree = tree(&mut fake, number);
        assert_eq!(
            cells(&tree, "/memory@50000000", "reg"),
            [0, 0x5000_0000, 0, 0x400_0000]
        );
        assert_eq!(
            cells(&tree, "/virtio_mmio@a003e00", "interrupts"),
            [0, 47, 1]
        );
        if life == 0 {
            fake.forget();
            fake.stop(number, StopReason::Reset, CrashCause::None);
            assert_eq!(settle(&mut manager, &mut fake), None);
        }
    }
    assert_eq!(fake.misuse, Vec::<String>::new());
}

#[test]
fn what_the_host_let_pass_is_refused_with_its_line() {
    let page = page();
    let page: Vec<&str> = page.iter().map(String::as_str).collect();
    for (guests, parts) in [
        (
            vec![with("a", &["/pl031@9010000", "/nothing@1"])],
            [
                "cannot have /nothing@1: the board's device tree has no such device",
                "line 21",
            ],
        ),
        (
            vec![with("a", &page)],
            ["may be a bus master (virtio,mmio)", "line 20"],
        ),
        (
            vec![direct("a", BASE, &page[1..])],
            [
                "shares the page at 0xa003000 with /virtio_mmio@a003000",
                "line 20",
            ],
        ),
        (
            vec![
                with("a", &["/pl031@9010000"]),
                with("b", &["/pl031@9010000"]),
            ],
            [
                "guest 'b': it cannot have /pl031@9010000: guest \"a\" has it already",
                "line 20",
            ],
        ),
        (
            vec![direct("a", 0x3000_0000, &[])],
            ["no RAM from 0x30000000 to 0x34000000", "line 15"],
        ),
        (
            vec![direct("a", 0x0800_0000, &[])],
            [
                "RAM at 0x8000000 would lie where every guest has its emulated interrupt controller",
                "line 15",
            ],
        ),
        (
            vec![direct("a", BASE, &[]), direct("b", BASE + 32 * MIB, &[])],
            [
                "guest 'b': the RAM at 0x52000000 is wanted by guest \"a\"",
                "line 15",
            ],
        ),
        (
            vec![with("a", &["/pl011@9000000"])],
            ["the board's console, which the hypervisor keeps", "line 20"],
        ),
    ] {
        let said = refused(&mut fake(), guests);
        for part in parts {
            assert!(said.contains(part), "{part} in {said}");
        }
    }
}

#[test]
fn ram_in_use_and_a_missing_tree_are_refused() {
    let mut used = fake();
    used.in_use = Some((BASE + 2 * MIB, 2 * MIB));
    let said = refused(&mut used, vec![direct("a", BASE, &[])]);
    assert!(
        said.contains("from 0x50000000 on (64 MiB) is not all free"),
        "{said}"
    );
    assert!(said.contains("line 15"), "{said}");
    let mut none = Fake::new();
    let said = refused(&mut none, vec![with("a", &["/pl031@9010000"])]);
    assert!(said.contains("gave no device tree"), "{said}");
}

#[test]
fn a_crash_in_a_device_names_its_node() {
    let mut fake = fake();
    let bundle = bundle(vec![with("a", &["/pl031@9010000"])]);
    let mut manager = booted(&mut fake, &bundle);
    fake.stop(1, StopReason::Crash, CrashCause::Serror);
    fake.vm(1).status.ipa = 0x0901_0ff8;
    let _ = settle(&mut manager, &mut fake);
    let text = "0xff8 into node /pl031@9010000 of its device tree";
    assert!(fake.screen.contains(text), "{}", fake.screen);
}

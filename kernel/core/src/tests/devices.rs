//! Devices, physical interrupts, and RAM at its own address.

use penumbra_abi::{Call, Error, MANAGER_WINDOW_IPA};
use penumbra_vmsa::{MIB, PAGE_SIZE};

use super::Bench;
use super::fake::{GICD, GICR, Op, RAM, RAM_BYTES, UART};

/// Registers of a device: pages beside the console.
const DEVICE: u64 = 0x0901_0000;
const DIRECT: u64 = RAM + 64 * MIB;

/// A VM with 4 MiB at its own address and one vCPU, not started.
fn direct(bench: &mut Bench) -> u64 {
    bench.ok(Call::RamSetAside, &[DIRECT, 4 * MIB]);
    let vm = bench.create(1);
    bench.finish(Call::VmMapRam, &[vm, DIRECT, 4 * MIB, 2, 0], 4 * MIB);
    vm
}

fn start(bench: &mut Bench, vm: u64, core: u64) {
    bench.ok(Call::VcpuPin, &[vm, 0, core]);
    bench.ok(Call::VmStart, &[vm, DIRECT, 0]);
}

#[test]
fn direct_memory_has_its_own_address_in_every_life() {
    let mut bench = Bench::new(2);
    let before = bench.cores[0].used_bytes();
    for _ in 0..3 {
        let vm = direct(&mut bench);
        start(&mut bench, vm, 1);
        let number = super::number(vm, 0);
        bench.cores[0].shared.lock().unwrap().log.remove(&number);
        bench.program(
            vm,
            0,
            [Op::Load(DIRECT, 8), Op::Load(DIRECT + 4 * MIB - 8, 8)],
        );
        bench.cores[0].interrupt(1, 0);
        bench.steps(5);
        assert_eq!(bench.log(vm, 0).len(), 2);
        assert_eq!(bench.status(vm).held_bytes, 4 * MIB);
        assert_eq!(bench.audit(), 0);
        bench.ok(Call::VmStop, &[vm]);
        bench.destroy(vm);
        // It is free for nobody else.
        assert_eq!(bench.cores[0].used_bytes(), before + 4 * MIB);
        assert_eq!(bench.audit(), 0);
    }
}

#[test]
fn no_frame_of_direct_memory_is_moved() {
    let mut bench = Bench::new(2);
    let vm = direct(&mut bench);
    start(&mut bench, vm, 1);
    bench.finish(Call::PagingMode, &[vm, 1], 1);
    let relayout = [vm, 0, 0, DIRECT + 2 * MIB, 0];
    assert_eq!(
        bench.error(Call::PagingRelayout, &relayout),
        Error::NotRequired
    );
    let plain = bench.guest(&[1]);
    bench.finish(Call::PagingMode, &[plain, 1], 1);
    let relayout = [plain, 0, 0, RAM + 2 * MIB, 0];
    assert_ne!(
        bench.error(Call::PagingRelayout, &relayout),
        Error::NotRequired
    );
}

#[test]
fn ram_is_set_aside_whole_or_not_at_all() {
    let mut bench = Bench::new(1);
    let before = bench.cores[0].used_bytes();
    let wrong = [
        (DIRECT + PAGE_SIZE, 2 * MIB, Error::InvalidParameter),
        (DIRECT, 0, Error::InvalidParameter),
        (DIRECT, 3 * MIB, Error::InvalidParameter),
        (u64::MAX - 2 * MIB + 1, 4 * MIB, Error::InvalidParameter),
        // The manager has some of it; there is no RAM at its end.
        (RAM, 32 * MIB, Error::NoMemory),
        (RAM + RAM_BYTES - 2 * MIB, 4 * MIB, Error::NoMemory),
    ];
    for (base, bytes, error) in wrong {
        assert_eq!(bench.error(Call::RamSetAside, &[base, bytes]), error);
        assert_eq!(bench.cores[0].used_bytes(), before);
    }
    // RAM that was not set aside is not to be had at its address.
    let vm = bench.create(1);
    let arguments = [vm, DIRECT, 2 * MIB, 2, 0];
    assert_eq!(bench.error(Call::VmMapRam, &arguments), Error::NoMemory);
    bench.destroy(vm);
    assert_eq!(bench.audit(), 0);
}

#[test]
fn a_direct_vm_may_end_at_any_point_of_its_building() {
    let mut bench = Bench::new(1);
    bench.ok(Call::RamSetAside, &[DIRECT, 4 * MIB]);
    let before = bench.cores[0].used_bytes();
    for pieces in 0..70 {
        let vm = bench.create(1);
        for _ in 0..pieces {
            if bench.ok(Call::VmMapRam, &[vm, DIRECT, 4 * MIB, 2, 0]) == 4 * MIB {
                break;
            }
        }
        assert_eq!(bench.audit(), 0);
        bench.destroy(vm);
        assert_eq!(bench.cores[0].used_bytes(), before);
    }
}

#[test]
fn a_region_that_gets_smaller_while_it_is_built_is_complete() {
    let mut bench = Bench::new(1);
    // So that it is built from two pieces.
    let base = DIRECT + 2 * MIB;
    bench.ok(Call::RamSetAside, &[base, 4 * MIB]);
    let vm = bench.create(1);
    bench.finish(Call::VmMapRam, &[vm, base, 4 * MIB, 2, 0], 2 * MIB);
    bench.finish(Call::VmMapRam, &[vm, base, 2 * MIB, 2, 0], 2 * MIB);
    bench.ok(Call::VcpuPin, &[vm, 0, 0]);
    bench.ok(Call::VmStart, &[vm, base, 0]);
    assert_eq!(bench.status(vm).held_bytes, 2 * MIB);
    bench.ok(Call::VmStop, &[vm]);
    bench.destroy(vm);
    assert_eq!(bench.audit(), 0);
}

#[test]
fn a_device_has_one_owner_and_no_page_that_matters() {
    let mut bench = Bench::new(1);
    let (one, two) = (bench.create(1), bench.create(1));
    bench.reserve(two, 2 * MIB);
    bench.ok(Call::VmMapDevice, &[one, DEVICE, 2 * PAGE_SIZE]);
    bench.ok(Call::VmMapDevice, &[two, DEVICE + 2 * PAGE_SIZE, PAGE_SIZE]);
    let wrong = [
        (DEVICE, PAGE_SIZE, Error::AlreadyMapped),
        (DEVICE - PAGE_SIZE, 2 * PAGE_SIZE, Error::AlreadyMapped),
        (DEVICE + 0x800, PAGE_SIZE, Error::InvalidParameter),
        (DEVICE, 0, Error::InvalidParameter),
        (DEVICE, 4 * MIB, Error::InvalidParameter),
        (u64::MAX - PAGE_SIZE + 1, PAGE_SIZE, Error::InvalidParameter),
        (1 << 39, PAGE_SIZE, Error::InvalidParameter),
        (RAM + 128 * MIB, PAGE_SIZE, Error::NotRequired),
        (RAM - PAGE_SIZE, 2 * PAGE_SIZE, Error::NotRequired),
        (GICD, PAGE_SIZE, Error::NotRequired),
        (GICR + 0x1_0000, PAGE_SIZE, Error::NotRequired),
        (UART, PAGE_SIZE, Error::NotRequired),
    ];
    for (base, bytes, error) in wrong {
        let said = bench.error(Call::VmMapDevice, &[two, base, bytes]);
        assert_eq!(said, error, "{base:#x}");
    }
    assert_eq!(bench.audit(), 0);
    // Free again when its owner is gone.
    bench.destroy(one);
    bench.ok(Call::VmMapDevice, &[two, DEVICE, PAGE_SIZE]);
    assert_eq!(bench.audit(), 0);
}

#[test]
fn ram_and_devices_of_a_vm_do_not_overlap() {
    let mut bench = Bench::new(1);
    let vm = bench.create(1);
    // A guest's address space may have RAM where the board has a device.
    let device = RAM + 1024 * MIB;
    bench.ok(Call::VmMapDevice, &[vm, device, PAGE_SIZE]);
    let ram = [vm, RAM + 1022 * MIB, 4 * MIB, 1, 4 * MIB];
    assert_eq!(bench.error(Call::VmMapRam, &ram), Error::AlreadyMapped);
    let uart = [vm, device, 40];
    assert_eq!(bench.error(Call::VmUart, &uart), Error::AlreadyMapped);
}

#[test]
fn a_physical_interrupt_reaches_its_owner_and_dies_with_it() {
    let mut bench = Bench::new(3);
    for _ in 0..3 {
        let vm = direct(&mut bench);
        bench.ok(Call::VmAssignSpi, &[vm, 48, 48, 1]);
        assert!(bench.cores[0].shared.lock().unwrap().spis.is_empty());
        start(&mut bench, vm, 2);
        let spis = bench.cores[0].shared.lock().unwrap().spis.clone();
        assert_eq!(spis.get(&48), Some(&(2, true)));
        // The guest switches its controller and the interrupt on, and is then interrupted.
        let enable = [
            Op::Store(GICD, 4, 0x12),
            Op::Store(GICD + 0x104, 4, 1 << 16),
        ];
        bench.program(vm, 0, enable);
        bench.steps(4);
        bench.cores[0].interrupt(2, 48);
        bench.steps(2);
        let held = bench.cores[2].lr.iter().filter(|lr| **lr & 0x3ff == 48);
        let linked = held.filter(|lr| **lr >> 61 & 1 == 1 && **lr >> 32 & 0x3ff == 48);
        assert_eq!(linked.count(), 1, "{:x?}", bench.cores[2].lr);
        // Its deactivation is left to the guest.
        let deactivated = bench.cores[0].shared.lock().unwrap().deactivated.clone();
        assert!(!deactivated.contains(&48));
        bench.ok(Call::VmStop, &[vm]);
        bench.destroy(vm);
        assert!(bench.cores[0].shared.lock().unwrap().spis.is_empty());
    }
}

#[test]
fn an_interrupt_taken_on_another_core_finds_its_owner() {
    let mut bench = Bench::new(3);
    let vm = direct(&mut bench);
    bench.ok(Call::VmAssignSpi, &[vm, 48, 48, 0]);
    start(&mut bench, vm, 2);
    let enable = [
        Op::Store(GICD, 4, 0x12),
        Op::Store(GICD + 0x104, 4, 1 << 16),
    ];
    bench.program(vm, 0, enable);
    bench.steps(4);
    // Core 1 is idle, core 0 runs the manager.
    for core in [1, 0] {
        bench.cores[0].interrupt(core, 48);
        bench.cores[0].interrupt(0, crate::machine::intid::KICK);
        bench.steps(3);
        let held = bench.cores[2].lr.iter().any(|lr| lr & 0x3ff == 48);
        assert!(held, "core {core}: {:x?}", bench.cores[2].lr);
        bench.cores[2].lr = [0; 4];
    }
}

#[test]
fn an_interrupt_has_one_owner() {
    let mut bench = Bench::new(1);
    let (one, two) = (bench.create(1), bench.create(1));
    bench.ok(Call::VmAssignSpi, &[one, 48, 48, 0]);
    let wrong = [
        ([two, 48, 48, 0], Error::AlreadyMapped),
        ([one, 48, 49, 0], Error::AlreadyMapped),
        ([two, 48, 33, 0], Error::NotRequired),
        ([two, 33, 50, 0], Error::InvalidParameter),
        ([two, 48, 31, 0], Error::InvalidParameter),
        ([two, 48, 1020, 0], Error::InvalidParameter),
        ([two, 224, 50, 0], Error::InvalidParameter),
        ([two, 48, 50, 2], Error::InvalidParameter),
        ([two, 1 << 32 | 48, 50, 0], Error::InvalidParameter),
        ([0, 48, 50, 0], Error::NoSuchObject),
    ];
    for (arguments, error) in wrong {
        let said = bench.error(Call::VmAssignSpi, &arguments);
        assert_eq!(said, error, "{arguments:?}");
    }
    // What was refused was not taken.
    bench.ok(Call::VmAssignSpi, &[two, 50, 50, 0]);
}

#[test]
fn an_interrupt_is_an_emulated_devices_or_a_physical_one() {
    let mut bench = Bench::new(1);
    let vm = bench.create(1);
    let watchdog = |intid| [vm, 0x0a00_0000, intid];
    // The UART has 33.
    let call = Call::VmWatchdog;
    assert_eq!(bench.error(call, &watchdog(33)), Error::AlreadyMapped);
    bench.ok(call, &watchdog(42));
    for intid in [33, 42] {
        let said = bench.error(Call::VmAssignSpi, &[vm, intid, 50, 0]);
        assert_eq!(said, Error::InvalidParameter, "{intid}");
    }
    bench.ok(Call::VmAssignSpi, &[vm, 50, 50, 0]);
    // Nor are they moved there, or onto each other; elsewhere they may go.
    assert_eq!(bench.error(call, &watchdog(50)), Error::AlreadyMapped);
    let uart = |intid| [vm, UART, intid];
    for intid in [42, 50] {
        let said = bench.error(Call::VmUart, &uart(intid));
        assert_eq!(said, Error::AlreadyMapped, "{intid}");
    }
    bench.ok(Call::VmUart, &uart(34));
    bench.ok(Call::VmAssignSpi, &[vm, 33, 51, 0]);
}

#[test]
fn a_page_is_lent_before_the_start_and_not_after() {
    let mut bench = Bench::new(2);
    let vm = direct(&mut bench);
    let window = MANAGER_WINDOW_IPA + 64 * MIB;
    let lend = [vm, DEVICE, window];
    assert_eq!(bench.error(Call::DeviceLend, &lend), Error::NotMapped);
    bench.ok(Call::VmMapDevice, &[vm, DEVICE, PAGE_SIZE]);
    for wrong in [[vm, DEVICE + 8, window], [vm, DEVICE, RAM]] {
        assert_eq!(
            bench.error(Call::DeviceLend, &wrong),
            Error::InvalidParameter
        );
    }
    bench.ok(Call::DeviceLend, &lend);
    assert_eq!(bench.error(Call::DeviceLend, &lend), Error::BadState);
    assert_eq!(bench.audit(), 0);
    bench.ok(Call::VcpuPin, &[vm, 0, 1]);
    assert_eq!(
        bench.error(Call::VmStart, &[vm, DIRECT, 0]),
        Error::BadState
    );
    bench.ok(Call::DeviceLend, &[vm, 0, 0]);
    assert_eq!(bench.error(Call::DeviceLend, &[vm, 0, 0]), Error::NotMapped);
    bench.ok(Call::VmStart, &[vm, DIRECT, 0]);
    assert_eq!(bench.error(Call::DeviceLend, &lend), Error::BadState);
    bench.ok(Call::VmStop, &[vm]);
    bench.destroy(vm);
    // A loan ends with the VM.
    let vm = bench.create(1);
    bench.ok(Call::VmMapDevice, &[vm, DEVICE, PAGE_SIZE]);
    bench.ok(Call::DeviceLend, &[vm, DEVICE, window]);
    bench.destroy(vm);
    assert_eq!(bench.audit(), 0);
    let vm = bench.create(1);
    bench.ok(Call::VmMapDevice, &[vm, DEVICE, PAGE_SIZE]);
    bench.ok(Call::DeviceLend, &[vm, DEVICE, window]);
}

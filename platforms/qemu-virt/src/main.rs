//! Penumbra for QEMU `virt` with `virtualization=on`: the board's facts come from its device tree.
#![no_std]
#![no_main]

mod board;
mod ranges;

use core::panic::PanicInfo;

use penumbra_abi::GicVersion;
use penumbra_core::system::MAX_RAM_RANGES;
use penumbra_core::{BootFacts, PaRange, System};
use penumbra_hal::boot::{self, EarlyBoot};
use penumbra_hal::gic::{Gic, GicV2, GicV3, RedistributorRegion};
use penumbra_hal::mmio::Mmio;
use penumbra_hal::{Hardware, epitaph, image, secondary};
use penumbra_vmsa::{MIB, Pa};

use crate::board::{Facts, GicFacts};
use crate::ranges::{Range, Ranges};

/// The PL011 of the machine; the device tree must confirm it.
const EARLY_UART: u64 = 0x0900_0000;
/// RAM of the manager.
const MANAGER_BYTES: u64 = 8 * MIB;
/// The manager's image, flat; aligned, so that it is copied by words.
static MANAGER: &Aligned<[u8]> = &Aligned(*include_bytes!(env!("PENUMBRA_MANAGER")));

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static SYSTEM: System = System::new();

/// Continues the reset code on the boot core.
#[unsafe(no_mangle)]
extern "C" fn penumbra_main(tree: usize) -> ! {
    // SAFETY: the first call, on the boot core; QEMU virt has a PL011 there.
    let early = unsafe { boot::begin(EARLY_UART) };
    match start(early, tree) {
        Ok(mut hardware) => {
            secondary::release();
            hardware.serve(&SYSTEM)
        }
        Err(sentence) => epitaph::fatal(sentence),
    }
}

/// Continues the reset code on every other core.
#[unsafe(no_mangle)]
extern "C" fn penumbra_secondary_main(index: usize) -> ! {
    let mut hardware = secondary::enter(index);
    hardware.serve(&SYSTEM)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    epitaph::panic(info)
}

fn start(mut early: EarlyBoot, tree: usize) -> Result<Hardware, &'static str> {
    // SAFETY: the reset code kept what firmware gave in X0, and nothing writes there.
    let Some(tree) = (unsafe { early.device_tree(tree) }) else {
        return Err("no device tree at the address in x0");
    };
    let facts = board::read(tree)?;
    let tree_range = Range::new(tree.as_ptr().addr() as u64, tree.len() as u64)
        .ok_or("the device tree is damaged")?;
    let free = take_memory(&mut early, &facts, tree_range)?;
    let gic = take_devices(&mut early, &facts)?;
    let mut hardware = early
        .finish(gic)
        .map_err(|_| "the interrupt controller does not answer as described")?;
    let cpus = start_cores(&facts);
    log::info!(
        "{} on QEMU virt: {cpus} core{}, GICv{}, {} MiB",
        env!("CARGO_PKG_VERSION"),
        if cpus == 1 { "" } else { "s" },
        gic.version() as u64,
        facts.ram.bytes() / MIB
    );
    let facts = boot_facts(&facts, &free, tree_range, cpus, gic.version());
    hardware
        .boot(&SYSTEM, &facts)
        .map_err(|_| "there is no free RAM for the manager")?;
    Ok(hardware)
}

/// Maps RAM and gives what is free to the frame pool. Returns what is free.
fn take_memory(
    early: &mut EarlyBoot,
    facts: &Facts,
    tree: Range,
) -> Result<Ranges<16>, &'static str> {
    const TOO_MANY: &str = "RAM is in too many pieces";
    let image = Range {
        base: image::start() as u64,
        end: image::end() as u64,
    };
    if !facts.ram.iter().any(|ram| ram.contains(image)) {
        return Err("the image lies outside the RAM that the device tree describes");
    }
    if let Some(bundle) = facts.bundle {
        if !facts.ram.iter().any(|ram| ram.contains(bundle)) {
            return Err("the bundle (initrd) lies outside the RAM that the device tree describes");
        }
        if bundle.overlaps(image) || bundle.overlaps(tree) {
            return Err("the bundle (initrd) overlaps the image or the device tree");
        }
    }
    let mut mapped = Ranges::<16>::new();
    for ram in facts.ram.iter() {
        // Page 0 is never used: a null pointer must fault.
        let low = ram.base.max(penumbra_vmsa::PAGE_SIZE);
        let high = ram.end.min(1 << penumbra_hal::el2_map::ADDRESS_BITS);
        if let Some(pages) = (Range {
            base: low,
            end: high.max(low),
        })
        .pages_within()
        {
            mapped.push(pages).map_err(|()| TOO_MANY)?;
        }
    }
    for hole in facts.reserved.iter().chain([image]) {
        mapped.remove(hole.pages_around()).map_err(|()| TOO_MANY)?;
    }
    let mut free = mapped;
    for hole in facts.bundle.into_iter().chain([tree]) {
        free.remove(hole.pages_around()).map_err(|()| TOO_MANY)?;
    }
    for range in mapped.iter().chain(facts.bundle.map(Range::pages_around)) {
        // SAFETY: RAM by the device tree, without the image and what is reserved; the bundle is
        // RAM as checked above.
        unsafe { early.map_ram(range.base, range.bytes()) }
            .map_err(|_| "RAM is in too many pieces for EL2's map")?;
    }
    for range in free.iter() {
        // SAFETY: mapped just now; each range once, and none overlaps what is in use.
        unsafe { early.add_frames(range.base, range.bytes()) };
    }
    Ok(free)
}

/// Maps interrupt controller and console.
fn take_devices(early: &mut EarlyBoot, facts: &Facts) -> Result<Gic, &'static str> {
    let mut map = |range: Range| -> Result<Mmio, &'static str> {
        if facts.ram.iter().any(|ram| ram.overlaps(range)) {
            return Err("the device tree describes a device inside RAM");
        }
        // SAFETY: a device by the device tree, and not RAM as checked above.
        unsafe { early.map_device(range.base, range.bytes()) }
            .map_err(|_| "a device's registers are too many for EL2's map")
    };
    let gic = match facts.gic {
        GicFacts::V2([distributor, cpu, control, _]) => {
            Gic::V2(GicV2::new(map(distributor)?, map(cpu)?, map(control)?))
        }
        GicFacts::V3(distributor, redistributors) => {
            let distributor = map(distributor)?;
            let mut regions = [None; 4];
            for (slot, range) in regions.iter_mut().zip(redistributors.iter()) {
                *slot = Some(RedistributorRegion {
                    registers: map(range)?,
                });
            }
            Gic::V3(GicV3::new(distributor, regions.into_iter().flatten()))
        }
    };
    let (uart, _) = facts.uart;
    if uart.base != EARLY_UART {
        let registers = map(uart)?;
        early.set_console(registers);
    }
    Ok(gic)
}

fn start_cores(facts: &Facts) -> usize {
    if facts.cpus_described > facts.cpu_count {
        log::warn!(
            "{} cores, of which {} are used",
            facts.cpus_described,
            facts.cpu_count
        );
    }
    let (cpus, _) = facts.cpus.split_at(facts.cpu_count.min(facts.cpus.len()));
    if cpus.len() > 1 && !facts.psci_by_smc {
        log::warn!("no PSCI by SMC: only the boot core is used");
        return 1;
    }
    secondary::start_others(cpus)
}

fn pa_range(range: Range) -> PaRange {
    PaRange {
        base: Pa::truncated(range.base),
        bytes: range.bytes(),
    }
}

fn boot_facts(
    facts: &Facts,
    free: &Ranges<16>,
    tree: Range,
    cpus: usize,
    gic: GicVersion,
) -> BootFacts {
    let mut ram = [PaRange::default(); MAX_RAM_RANGES];
    for (slot, range) in ram.iter_mut().zip(free.iter()) {
        *slot = pa_range(range);
    }
    let gicv = match facts.gic {
        // GICV's second page follows the first one: QEMU's GIC has no 64 KiB stride.
        GicFacts::V2([_, _, _, interface]) => [
            interface.base,
            interface.base.wrapping_add(penumbra_vmsa::PAGE_SIZE),
        ],
        GicFacts::V3(..) => [0; 2],
    };
    BootFacts {
        cpus,
        gic,
        gicv: gicv.map(Pa::truncated),
        counter_hz: boot::counter_hz(),
        console_intid: facts.uart.1,
        manager_image: &MANAGER.0,
        manager_bytes: MANAGER_BYTES,
        bundle: facts.bundle.map(pa_range).unwrap_or_default(),
        device_tree: pa_range(tree),
        ram,
    }
}

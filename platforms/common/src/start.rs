//! From the device tree to the run loop.

use core::fmt;

use penumbra_abi::{GicVersion, MAX_CPUS};
use penumbra_board::plan::{self, FREE_RANGES};
use penumbra_board::{Cpu, Facts, GicFacts, MemoryPlan, Range, StartMethod, UartKind};
use penumbra_core::machine::intid;
use penumbra_core::system::{BootError, MAX_KEPT_RANGES, MAX_RAM_RANGES};
use penumbra_core::{BootFacts, PaRange, System};
use penumbra_hal::boot::{self, EarlyBoot, StartError};
use penumbra_hal::console::Uart;
use penumbra_hal::gic::{Gic, GicError, GicV2, GicV3, RedistributorRegion};
use penumbra_hal::mmio::Mmio;
use penumbra_hal::secondary::Start;
use penumbra_hal::{Hardware, el2_map, epitaph, image, secondary};
use penumbra_vmsa::{MIB, PAGE_SIZE, Pa};

use crate::firmware::{Firmware, uart_divisor};

/// RAM of the manager.
const MANAGER_BYTES: u64 = 8 * MIB;

const _: () = assert!(FREE_RANGES == MAX_RAM_RANGES);

/// What a platform knows before it reads the device tree.
#[derive(Clone, Copy, Debug)]
pub struct Platform {
    /// The board, for people.
    pub name: &'static str,
    /// What the root of its device tree is compatible with.
    pub compatible: &'static str,
    /// Physical address of the UART that is the console already.
    pub early_console: u64,
    /// Whether each stage of the boot says a line, for boards whose silence nobody can look into.
    pub trail: bool,
    /// What the board's firmware says, once the device tree is read. It may have nothing to say.
    pub ask_firmware: fn(&mut EarlyBoot, &Facts<'_>) -> Firmware,
    /// The manager's image, flat.
    pub manager: &'static [u8],
}

/// Text that is written as it is. A mere `str` brings the code that fills it up to a width, 1 KiB of the image.
struct Plain(&'static str);

impl fmt::Display for Plain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Platform {
    /// Boots the hypervisor with the device tree at `tree` and enters the run loop; ends the boot with
    /// one sentence if it cannot.
    pub fn run(&self, early: EarlyBoot, tree: usize, system: &'static System) -> ! {
        match self.start(early, tree, system) {
            Ok(mut hardware) => {
                secondary::release();
                hardware.serve(system)
            }
            Err(sentence) => epitaph::fatal(sentence),
        }
    }

    // Not part of `run`, whose frame stays on the boot core's stack for ever.
    #[inline(never)]
    fn start(
        &self,
        mut early: EarlyBoot,
        tree: usize,
        system: &'static System,
    ) -> Result<Hardware, &'static str> {
        // SAFETY: the reset code kept what firmware gave in X0, and nothing writes there.
        let Some(tree) = (unsafe { early.device_tree(tree) }) else {
            return Err("no device tree at the address in x0");
        };
        let facts = penumbra_board::read(tree)?;
        if !facts.is(self.compatible) {
            return Err("the device tree is another board's: boot the image made for it");
        }
        let firmware = (self.ask_firmware)(&mut early, &facts);
        self.take_console(&mut early, &facts, &firmware)?;
        check_timers(&facts)?;
        let tree = Range::new(tree.as_ptr().addr() as u64, tree.len() as u64)
            .ok_or("the device tree is damaged")?;
        self.say(format_args!(
            "device tree at {:#x}: {} MiB of RAM, {} cores",
            tree.base,
            facts.ram.bytes() / MIB,
            facts.cpus_described
        ));
        if firmware.revision != 0 {
            self.say(format_args!("{firmware}"));
        }
        let plan = take_memory(&mut early, &facts, tree)?;
        self.say(format_args!(
            "memory: image at {:#x}, {} MiB free, {} KiB reserved",
            image::start(),
            plan.free.bytes() / MIB,
            facts.reserved.bytes() / 1024
        ));
        let gic = take_gic(&mut early, &facts)?;
        let cores = find_cores(&mut early, &facts);
        let mut hardware = early.finish(gic).map_err(no_interrupts)?;
        self.say(format_args!(
            "interrupt controller: ours; starting the other cores"
        ));
        let cpus = secondary::start_others(cores.into_iter().flatten());
        log::info!(
            "{} on {}: {cpus} core{}, GICv{}, {} MiB",
            env!("CARGO_PKG_VERSION"),
            Plain(self.name),
            Plain(if cpus == 1 { "" } else { "s" }),
            gic.version() as u64,
            facts.ram.bytes() / MIB
        );
        let facts = self.boot_facts(&facts, &plan, tree, (cpus, gic.version()), &firmware);
        system.boot(&mut hardware, &facts).map_err(no_manager)?;
        Ok(hardware)
    }

    /// Makes the UART that the tree names the console, before anything else can go wrong.
    fn take_console(
        &self,
        early: &mut EarlyBoot,
        facts: &Facts<'_>,
        firmware: &Firmware,
    ) -> Result<(), &'static str> {
        let uart = facts.uart;
        if uart.registers.base == self.early_console {
            early.keep_console();
            return Ok(());
        }
        self.say(format_args!(
            "the console goes on at {:#x}, the tree's stdout-path",
            uart.registers.base
        ));
        let registers = map_device(early, facts, uart.registers)?;
        let uart = match uart.kind {
            UartKind::Pl011 => Uart::pl011(registers, uart_divisor(firmware.uart_hz)),
            UartKind::Mini => Uart::mini(registers),
        };
        early.set_console(uart, None);
        Ok(())
    }

    /// A line of the trail.
    fn say(&self, line: fmt::Arguments<'_>) {
        if self.trail {
            log::info!("{line}");
        }
    }

    fn boot_facts(
        &self,
        facts: &Facts<'_>,
        plan: &MemoryPlan,
        tree: Range,
        (cpus, gic): (usize, GicVersion),
        firmware: &Firmware,
    ) -> BootFacts {
        let mut ram = [PaRange::default(); MAX_RAM_RANGES];
        for (slot, range) in ram.iter_mut().zip(plan.free.iter()) {
            *slot = pa_range(range);
        }
        let gicv = match facts.gic {
            // GICV's second page follows the first one: no board here has a stride of 64 KiB.
            GicFacts::V2([_, _, _, interface]) => {
                [interface.base, interface.base.wrapping_add(PAGE_SIZE)]
            }
            GicFacts::V3(..) => [0; 2],
        };
        BootFacts {
            cpus,
            gic,
            gicv: gicv.map(Pa::truncated),
            counter_hz: boot::counter_hz(),
            console_intid: facts.uart.intid,
            manager_image: self.manager,
            manager_bytes: MANAGER_BYTES,
            bundle: facts.bundle.map(pa_range).unwrap_or_default(),
            device_tree: pa_range(tree),
            ram,
            kept: kept(facts),
            clocks: firmware.clocks,
        }
    }
}

/// Maps RAM and gives what is free to the frame pool.
fn take_memory(
    early: &mut EarlyBoot,
    facts: &Facts<'_>,
    tree: Range,
) -> Result<MemoryPlan, &'static str> {
    let image = Range {
        base: image::start() as u64,
        end: image::end() as u64,
    };
    let plan = plan::plan(facts, image, tree, el2_map::IDENTITY_END)?;
    let bundle = facts.bundle.map(Range::pages_around);
    for range in plan.mapped.iter().chain(bundle) {
        // SAFETY: RAM by the device tree, without the image and what is reserved; the bundle is
        // RAM too, as the plan has checked.
        unsafe { early.map_ram(range.base, range.bytes()) }
            .map_err(|_| "RAM is in too many pieces for EL2's map")?;
    }
    for range in plan.free.iter() {
        // SAFETY: mapped just now; each range once, and none overlaps what is in use.
        unsafe { early.add_frames(range.base, range.bytes()) };
    }
    Ok(plan)
}

/// Maps the interrupt controller.
fn take_gic(early: &mut EarlyBoot, facts: &Facts<'_>) -> Result<Gic, &'static str> {
    Ok(match facts.gic {
        GicFacts::V2([distributor, cpu, control, _]) => Gic::V2(GicV2::new(
            map_device(early, facts, distributor)?,
            map_device(early, facts, cpu)?,
            map_device(early, facts, control)?,
        )),
        GicFacts::V3(distributor, redistributors) => {
            let distributor = map_device(early, facts, distributor)?;
            let mut regions = [None; 4];
            for (slot, range) in regions.iter_mut().zip(redistributors) {
                let Some(range) = range else { break };
                let registers = map_device(early, facts, range)?;
                *slot = Some(RedistributorRegion { registers });
            }
            Gic::V3(GicV3::new(distributor, regions.into_iter().flatten()))
        }
    })
}

fn map_device(
    early: &mut EarlyBoot,
    facts: &Facts<'_>,
    range: Range,
) -> Result<Mmio, &'static str> {
    if facts.ram.overlap(range) {
        return Err("the device tree describes a device inside RAM");
    }
    // SAFETY: a device by the device tree, and not RAM as checked above.
    unsafe { early.map_device(range.base, range.bytes()) }
        .map_err(|_| "a device's registers are too many for EL2's map")
}

/// Cores that can be started, and how; the boot core is among them.
fn find_cores(early: &mut EarlyBoot, facts: &Facts<'_>) -> [Option<Start>; MAX_CPUS] {
    if facts.cpus_described > facts.cpu_count {
        log::warn!(
            "{} cores, of which {} are used",
            facts.cpus_described,
            facts.cpu_count
        );
    }
    let mut cores = [None; MAX_CPUS];
    for (slot, cpu) in cores
        .iter_mut()
        .zip(facts.cpus.iter().take(facts.cpu_count))
    {
        *slot = find_core(early, facts, cpu);
        if slot.is_none() && facts.cpu_count > 1 {
            log::warn!(
                "core {:#x} has no PSCI by SMC and no usable slot of a spin table: it stays off",
                cpu.mpidr
            );
        }
    }
    cores
}

fn find_core(early: &mut EarlyBoot, facts: &Facts<'_>, cpu: &Cpu) -> Option<Start> {
    let slot = match cpu.start {
        StartMethod::Psci if facts.psci_by_smc => None,
        StartMethod::SpinTable(slot)
            if slot < PAGE_SIZE || facts.reserved.overlap(Range::new(slot, 8)?) =>
        {
            // SAFETY: EL2 leaves page 0 alone, and what the tree reserves.
            Some(unsafe { early.map_spin_slot(slot) }.ok()?)
        }
        _ => return None,
    };
    Some(Start {
        mpidr: cpu.mpidr,
        slot,
    })
}

/// EL2 takes its timer and the guests' by fixed PPIs.
fn check_timers(facts: &Facts<'_>) -> Result<(), &'static str> {
    let own = (intid::VIRTUAL_TIMER, intid::HYP_TIMER);
    if (facts.timers.el1_virtual, facts.timers.hypervisor) != own {
        return Err(
            "the device tree does not give the generic timer PPI 27 (virtual) and 26 (EL2)",
        );
    }
    Ok(())
}

fn no_interrupts(error: StartError) -> &'static str {
    match error {
        StartError::Gic(GicError::NotOurs) => {
            "the interrupt controller does not let EL2 enable interrupts: the firmware has not set \
             it up (Raspberry Pi: enable_gic=1 in config.txt), or it is not where the tree says"
        }
        _ => "the interrupt controller does not answer as described",
    }
}

fn no_manager(error: BootError) -> &'static str {
    match error {
        BootError::NoMemory => "there is no free RAM for the manager",
        BootError::ImageTooLarge => "the manager's image does not fit its RAM",
        BootError::BadFacts => "the counter has no frequency: the firmware left CNTFRQ_EL0 at 0",
    }
}

/// What no guest gets as a device: at most 8 ranges of RAM, 9 of the interrupt controller and 2 more.
fn kept(facts: &Facts<'_>) -> [PaRange; MAX_KEPT_RANGES] {
    let mut kept = [PaRange::default(); MAX_KEPT_RANGES];
    let mut slots = kept.iter_mut();
    let mut keep = |range| {
        if let Some(slot) = slots.next() {
            *slot = pa_range(range);
        }
    };
    facts.ram.iter().for_each(&mut keep);
    match facts.gic {
        GicFacts::V2(parts) => parts.into_iter().for_each(&mut keep),
        GicFacts::V3(distributor, redistributors) => {
            keep(distributor);
            redistributors.into_iter().flatten().for_each(&mut keep);
        }
    }
    facts.msi.iter().for_each(&mut keep);
    keep(facts.uart.registers);
    facts.mailbox.into_iter().for_each(&mut keep);
    kept
}

fn pa_range(range: Range) -> PaRange {
    PaRange {
        base: Pa::truncated(range.base),
        bytes: range.bytes(),
    }
}

//! From the device tree to the run loop.

use penumbra_abi::{GicVersion, MAX_CPUS};
use penumbra_board::plan::{self, FREE_RANGES};
use penumbra_board::{Facts, GicFacts, MemoryPlan, Range, StartMethod};
use penumbra_core::system::MAX_RAM_RANGES;
use penumbra_core::{BootFacts, PaRange, System};
use penumbra_hal::boot::{self, EarlyBoot};
use penumbra_hal::gic::{Gic, GicV2, GicV3, RedistributorRegion};
use penumbra_hal::mmio::Mmio;
use penumbra_hal::{Hardware, el2_map, epitaph, image, secondary};
use penumbra_vmsa::{MIB, PAGE_SIZE, Pa};

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
    /// The manager's image, flat.
    pub manager: &'static [u8],
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
        let tree = Range::new(tree.as_ptr().addr() as u64, tree.len() as u64)
            .ok_or("the device tree is damaged")?;
        let plan = take_memory(&mut early, &facts, tree)?;
        let gic = self.take_devices(&mut early, &facts)?;
        let mut hardware = early
            .finish(gic)
            .map_err(|_| "the interrupt controller does not answer as described")?;
        let cpus = start_cores(&facts);
        log::info!(
            "{} on {}: {cpus} core{}, GICv{}, {} MiB",
            env!("CARGO_PKG_VERSION"),
            self.name,
            if cpus == 1 { "" } else { "s" },
            gic.version() as u64,
            facts.ram.bytes() / MIB
        );
        let facts = self.boot_facts(&facts, &plan, tree, cpus, gic.version());
        hardware
            .boot(system, &facts)
            .map_err(|_| "there is no free RAM for the manager")?;
        Ok(hardware)
    }

    /// Maps interrupt controller and console.
    fn take_devices(&self, early: &mut EarlyBoot, facts: &Facts<'_>) -> Result<Gic, &'static str> {
        let gic = match facts.gic {
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
        };
        if facts.uart.registers.base != self.early_console {
            let registers = map_device(early, facts, facts.uart.registers)?;
            early.set_console(registers);
        }
        Ok(gic)
    }

    fn boot_facts(
        &self,
        facts: &Facts<'_>,
        plan: &MemoryPlan,
        tree: Range,
        cpus: usize,
        gic: GicVersion,
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
    let plan = plan::plan(facts, image, tree, 1 << el2_map::ADDRESS_BITS)?;
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

/// Starts the other cores by PSCI; returns how many cores there are.
fn start_cores(facts: &Facts<'_>) -> usize {
    if facts.cpus_described > facts.cpu_count {
        log::warn!(
            "{} cores, of which {} are used",
            facts.cpus_described,
            facts.cpu_count
        );
    }
    let mut mpidrs = [0; MAX_CPUS];
    for (slot, cpu) in mpidrs.iter_mut().zip(&facts.cpus) {
        *slot = cpu.mpidr;
    }
    let (cpus, _) = mpidrs.split_at(facts.cpu_count.min(MAX_CPUS));
    let psci = |cpu: &penumbra_board::Cpu| cpu.start == StartMethod::Psci;
    if cpus.len() > 1 && !(facts.psci_by_smc && facts.cpus.iter().take(cpus.len()).all(psci)) {
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

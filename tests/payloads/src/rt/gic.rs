//! What both interrupt controllers have in common, by INTID.

use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use super::{cpu, gicv2, gicv3, io, layout};
use crate::mrs;

/// An interrupt controller version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// GICv2.
    V2,
    /// GICv3.
    V3,
}

/// INTIDs from here on are special (IHI 0069 H, "INTIDs").
pub const SPECIAL: u32 = 1020;

static SPURIOUS: AtomicU32 = AtomicU32::new(0);

/// 0: not asked yet, else 2 or 3.
static VERSION: AtomicU8 = AtomicU8::new(0);

/// The version, from ID_AA64PFR0_EL1.GIC. The register is read once: under a hypervisor that is a
/// trap, which must not count among the costs of an interrupt.
#[must_use]
pub fn version() -> Version {
    match VERSION.load(Ordering::Relaxed) {
        2 => return Version::V2,
        3 => return Version::V3,
        _ => {}
    }
    let found = mrs!("id_aa64pfr0_el1") >> 24 & 0xf;
    VERSION.store(if found == 0 { 2 } else { 3 }, Ordering::Relaxed);
    if found == 0 { Version::V2 } else { Version::V3 }
}

/// A register array of the distributor with one bit for each INTID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Bits {
    /// IGROUPR.
    Group = 0x80,
    /// ISENABLER.
    SetEnable = 0x100,
    /// ICENABLER.
    ClearEnable = 0x180,
    /// ISPENDR.
    SetPending = 0x200,
    /// ICPENDR.
    ClearPending = 0x280,
    /// ISACTIVER.
    SetActive = 0x300,
    /// ICACTIVER.
    ClearActive = 0x380,
}

/// Number of INTIDs that the distributor says it has.
#[must_use]
pub fn lines() -> u32 {
    32 * ((io::read32(layout::GICD + 4) & 0x1f) + 1)
}

/// The frame in which `intid` of this vCPU has its registers.
#[must_use]
pub fn frame(intid: u32) -> usize {
    if intid < 32 && version() == Version::V3 {
        gicv3::redistributor(cpu::index()) + gicv3::SGI_FRAME
    } else {
        layout::GICD
    }
}

/// Address of the word of `bits` that holds `intid`.
#[must_use]
pub fn word(bits: Bits, intid: u32) -> usize {
    frame(intid) + bits as usize + (intid as usize / 32) * 4
}

/// Writes a one for `intid` to `bits`.
pub fn set(bits: Bits, intid: u32) {
    io::write32(word(bits, intid), 1 << (intid % 32));
    io::barrier();
}

/// Reads the bit of `intid` in `bits`.
#[must_use]
pub fn test(bits: Bits, intid: u32) -> bool {
    io::barrier();
    io::read32(word(bits, intid)) >> (intid % 32) & 1 == 1
}

/// Sets a priority.
pub fn set_priority(intid: u32, priority: u8) {
    io::write8(frame(intid) + 0x400 + intid as usize, priority);
    io::barrier();
}

/// Makes `intid` edge-triggered or level-sensitive.
pub fn set_edge(intid: u32, edge: bool) {
    let address = frame(intid) + 0xc00 + (intid as usize / 16) * 4;
    let bit = 2 << (intid % 16 * 2);
    let old = io::read32(address);
    io::write32(address, if edge { old | bit } else { old & !bit });
    io::barrier();
}

/// Routes an SPI to vCPU `index`.
pub fn route(intid: u32, index: usize) {
    match version() {
        Version::V2 => io::write8(gicv2::GICD_ITARGETSR + intid as usize, 1 << index),
        Version::V3 => io::write64(
            gicv3::GICD_IROUTER + intid as usize * 8,
            cpu::affinity(index),
        ),
    }
    io::barrier();
}

/// Makes `intid` ready: group 1 where there are groups, priority, route, enabled.
pub fn enable(intid: u32, priority: u8) {
    set_priority(intid, priority);
    if version() == Version::V3 {
        let address = word(Bits::Group, intid);
        io::write32(address, io::read32(address) | 1 << (intid % 32));
    }
    if intid >= 32 {
        route(intid, cpu::index());
    }
    set(Bits::SetEnable, intid);
}

/// Disables `intid` and takes away what is pending or active.
pub fn reset(intid: u32) {
    set(Bits::ClearEnable, intid);
    set(Bits::ClearPending, intid);
    set(Bits::ClearActive, intid);
    if intid < 16 && version() == Version::V2 {
        io::write8(gicv2::GICD_CPENDSGIR + intid as usize, 0xff);
    }
    io::barrier();
}

/// Sends an SGI to the vCPUs in `targets`.
pub fn send_sgi(intid: u32, targets: u32) {
    match version() {
        Version::V2 => gicv2::send_sgi(intid, targets),
        Version::V3 => gicv3::send_sgi(intid, targets),
    }
}

/// Acknowledges: the value read from IAR.
#[must_use]
pub fn acknowledge() -> u32 {
    match version() {
        Version::V2 => io::read32(gicv2::GICC_IAR),
        Version::V3 => gicv3::acknowledge(),
    }
}

/// Ends what `acknowledge` returned.
pub fn end(acknowledged: u32) {
    match version() {
        Version::V2 => io::write32(gicv2::GICC_EOIR, acknowledged),
        Version::V3 => gicv3::end(acknowledged),
    }
}

/// Deactivates (split EOI mode).
pub fn deactivate(acknowledged: u32) {
    match version() {
        Version::V2 => io::write32(gicv2::GICC_DIR, acknowledged),
        Version::V3 => crate::msr!("icc_dir_el1", u64::from(acknowledged)),
    }
}

/// Chooses whether `end` deactivates too.
pub fn set_split_eoi(split: bool) {
    match version() {
        Version::V2 => io::write32(gicv2::GICC_CTLR, 1 | u32::from(split) << 9),
        Version::V3 => crate::msr!("icc_ctlr_el1", u64::from(split) << 1),
    }
}

/// Sets the priority mask.
pub fn set_mask(priority: u8) {
    match version() {
        Version::V2 => io::write32(gicv2::GICC_PMR, u32::from(priority)),
        Version::V3 => crate::msr!("icc_pmr_el1", u64::from(priority)),
    }
    io::barrier();
}

/// The INTID of what would be acknowledged.
#[must_use]
pub fn highest_pending() -> u32 {
    match version() {
        Version::V2 => io::read32(gicv2::GICC_HPPIR) & 0x3ff,
        Version::V3 => mrs!("icc_hppir1_el1") as u32,
    }
}

/// The running priority.
#[must_use]
pub fn running_priority() -> u32 {
    match version() {
        Version::V2 => io::read32(gicv2::GICC_RPR) & 0xff,
        Version::V3 => mrs!("icc_rpr_el1") as u32 & 0xff,
    }
}

/// The INTID in what `acknowledge` returned.
#[must_use]
pub fn intid(acknowledged: u32) -> u32 {
    match version() {
        Version::V2 => acknowledged & 0x3ff,
        Version::V3 => acknowledged & 0xff_ffff,
    }
}

/// Interrupts acknowledged as spurious so far.
#[must_use]
pub fn spurious() -> u32 {
    SPURIOUS.load(Ordering::Relaxed)
}

/// Sets up the distributor and the boot vCPU.
pub fn init() {
    match version() {
        Version::V2 => gicv2::init(),
        Version::V3 => gicv3::init(),
    }
    init_cpu();
}

/// Sets up this vCPU: everything private reset, the interface on.
pub fn init_cpu() {
    for intid in 0..32 {
        set(Bits::ClearEnable, intid);
        set(Bits::ClearActive, intid);
        set(Bits::ClearPending, intid);
        set_priority(intid, 0xa0);
    }
    match version() {
        Version::V2 => gicv2::init_cpu(),
        Version::V3 => gicv3::init_cpu(),
    }
}

/// The IRQ vector.
pub(super) fn interrupted() {
    let acknowledged = acknowledge();
    let id = intid(acknowledged);
    let cpu = cpu::this();
    if id >= SPECIAL {
        SPURIOUS.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let n = cpu.irqs.fetch_add(1, Ordering::SeqCst) as usize;
    if let Some(slot) = cpu.log.get(n) {
        slot.store(acknowledged, Ordering::SeqCst);
    }
    if id == layout::VTIMER_INTID {
        crate::msr!("cntv_ctl_el0", super::time::ENABLE | super::time::MASK);
    }
    let hook = cpu.hook.load(Ordering::SeqCst);
    if hook == 0 {
        end(acknowledged);
    } else {
        // SAFETY: `set_hook` is the only writer and stores the address of a function of this type.
        let hook = unsafe { core::mem::transmute::<usize, fn(u32)>(hook) };
        hook(acknowledged);
    }
}

/// Installs what this vCPU does with an acknowledged interrupt, its end included; `None`: end it.
pub fn set_hook(hook: Option<fn(u32)>) {
    let address = hook.map_or(0, |hook| (hook as *const ()).addr());
    cpu::this().hook.store(address, Ordering::SeqCst);
}

/// Forgets the interrupts logged on vCPU `index`.
pub fn clear_log(index: usize) {
    let cpu = cpu::get(index);
    cpu.irqs.store(0, Ordering::SeqCst);
}

/// Number of interrupts that vCPU `index` took since `clear_log`.
#[must_use]
pub fn taken(index: usize) -> u32 {
    cpu::get(index).irqs.load(Ordering::SeqCst)
}

/// The `n`th acknowledged value of vCPU `index`.
#[must_use]
pub fn logged(index: usize, n: usize) -> u32 {
    cpu::get(index).log[n].load(Ordering::SeqCst)
}

/// Makes an SPI or PPI edge-triggered; SGIs always are.
pub fn set_edge_if_allowed(intid: u32) {
    if intid >= 16 {
        set_edge(intid, true);
    }
}

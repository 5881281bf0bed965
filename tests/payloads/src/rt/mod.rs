//! The runtime's modules.

pub mod check;
pub mod console;
pub mod cpu;
mod elsewhere;
pub mod fault;
pub mod fdt;
pub mod gic;
pub mod gicv2;
pub mod gicv3;
pub mod io;
pub mod psci;
pub mod start;
pub mod sysreg;
pub mod time;

/// Fixed addresses of the guest, the same on QEMU `virt` and under Penumbra.
pub mod layout {
    /// GIC distributor.
    pub const GICD: usize = 0x0800_0000;
    /// GICv2 CPU interface.
    pub const GICC: usize = 0x0801_0000;
    /// GICv3 redistributors, 128 KiB for each vCPU.
    pub const GICR: usize = 0x080a_0000;
    /// The PL011.
    pub const UART: usize = 0x0900_0000;
    /// INTID of the PL011.
    pub const UART_INTID: u32 = 33;
    /// First byte of RAM.
    pub const RAM: usize = 0x4000_0000;
    /// INTID of the virtual timer.
    pub const VTIMER_INTID: u32 = 27;
    /// Added to an IPA below 512 GiB, gives an executable alias of it.
    pub const EXEC_ALIAS: usize = 4 << 39;
}

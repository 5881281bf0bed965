//! The virtual interrupt controller of a VM: GICv2 or GICv3, whatever the guest was told.
//!
//! [`Vgic`] is what all vCPUs of a VM share: the distributor, and of every vCPU the SGIs and PPIs.
//! [`CpuInterface`] belongs to one vCPU and is used only by the core that runs it; it knows which
//! interrupt sits in which list register.
//!
//! **Who calls what.** Whoever changes something (a trapped register, a device, another vCPU) gets
//! a [`VcpuSet`]: vCPUs that must [`flush`](Vgic::flush) before they run guest code again. The run
//! loop flushes the vCPU of its own core at once, sends the kick SGI to cores where another vCPU of
//! the set is resident, and makes the rest runnable, except those that are off. A kicked core
//! flushes. A vCPU that enters a core is [loaded](Vgic::load), one that leaves it
//! [saved](Vgic::save); between the two nothing of it is in hardware.
//!
//! **Where the state of an interrupt is.** Pending and active are either in memory or, while
//! the interrupt is *held*, in a list register, and then memory has only what came on top.
//! Only the vCPU's core moves it. Two ways lead into list registers: the short one
//! ([`Vgic::inject_vtimer`], [`Vgic::flush`] with only new SGIs and edge PPIs) puts an interrupt in a
//! free list register without a lock; the long one *rebuilds*: it takes everything out of the list
//! registers, applies what others asked for, and puts the best candidates back. Whatever is not new
//! and simple (disabling, priorities, level changes, SPIs, too few list registers) is a rebuild.
//!
//! **Asking a vCPU on another core.** Reading pending or active state that another core holds makes
//! [`Vgic::mmio_read`] answer [`MmioRead::Retry`]: the run loop notifies the named vCPUs and resumes
//! the reader *at the same instruction*. The other core rebuilds when it is kicked, which publishes
//! what its list registers held; the second attempt finds that. No core ever waits in EL2 for
//! another, so two vCPUs that ask each other are both served.
//!
//! **Limits.** An active interrupt that finds no list register waits in memory and comes back when a
//! more urgent one ends. A guest that splits priority drop and deactivation and deactivates out of
//! order, with as many active as there are list registers, may deactivate one while it waits: that is
//! lost, as it is under KVM; so is the end of one whose priority it changed while it was active.
//! Pending state *written* to a linked interrupt that is active is delivered at the next rebuild.
//!
//! **Locks.** One per VM, around the SPIs; nothing is taken under it. No lock is shared
//! between VMs.

mod interface;
mod lr;
mod mmio;
mod passthrough;
mod private;
mod rebuild;
mod residency;
mod select;
mod sgi;
mod spi;
mod state;
mod vcpu_set;

#[cfg(test)]
pub(crate) mod tests;

pub use interface::CpuInterface;
pub use lr::ListReg;
pub use mmio::{Frame, MmioRead};
pub use passthrough::SpiError;
pub use sgi::{Sent, SgiRegister};
pub use spi::{FIRST_SPI, SPI_COUNT};
pub use state::{Hardware, Vgic};
pub use vcpu_set::VcpuSet;

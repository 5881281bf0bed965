//! Sending SGIs: GICv3 by system register, GICv2 by GICD_SGIR.

use super::{VcpuSet, Vgic};

/// The system register by which a GICv3 guest sends an SGI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SgiRegister {
    /// ICC_SGI0R_EL1.
    Sgi0,
    /// ICC_SGI1R_EL1.
    Sgi1,
    /// ICC_ASGI1R_EL1.
    AliasedSgi1,
}

impl Vgic {
    /// vCPU `from` of a GICv3 guest wrote `value` to `register`. Returns the vCPUs that must flush,
    /// which may include `from`.
    #[inline]
    pub fn send_sgi(&self, from: usize, register: SgiRegister, value: u64) -> VcpuSet {
        let _ = (from, register, value);
        VcpuSet::EMPTY
    }
}

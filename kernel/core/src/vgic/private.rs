//! SGIs and PPIs of one vCPU.

/// SGIs (0 to 15) and PPIs (16 to 31) of one vCPU.
#[derive(Debug)]
pub(super) struct PrivateIrqs {}

impl PrivateIrqs {
    /// All at reset.
    pub(super) const fn new() -> Self {
        Self {}
    }
}

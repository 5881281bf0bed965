//! What happens when a guest stops executing, fastest answers first.

use crate::machine::{ExitKind, Machine};
use crate::vcpu::Vcpu;

/// Handles an exit that needs no scheduling. All general-purpose registers are in the frame.
/// Returns whether the guest is to be entered again at once.
pub fn fast(_vcpu: &mut Vcpu, _machine: &mut impl Machine, _kind: ExitKind) -> bool {
    false
}

/// Handles the cheapest calls (HVC and SMC of the 64-bit state). Only X0 to X18 and X30 are in the
/// frame, the others are live; of the frame only X0 to X17 may change. Returns whether the guest is to
/// be entered again at once; if not, the hal saves the rest and calls [`fast`].
pub fn fast_call(_vcpu: &mut Vcpu, _machine: &mut impl Machine) -> bool {
    false
}

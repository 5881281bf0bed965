//! Entering a guest, and what the vectors call when it stops (vectors.S).

use core::ffi::c_void;
use core::mem::offset_of;

use penumbra_core::exit::Next;
use penumbra_core::machine::{ExitKind, GprFrame};
use penumbra_core::{Vcpu, exit};

use crate::Hardware;

// The assembly addresses X0 to X30 from a pointer to the vCPU.
const _: () = assert!(offset_of!(Vcpu, gpr) == 0 && offset_of!(GprFrame, x) == 0);
const _: () = assert!(size_of::<GprFrame>() == 32 * 8);

unsafe extern "C" {
    /// Enters the resident vCPU and comes back with the kind of an exit that nothing handled.
    fn penumbra_guest_run(vcpu: *mut c_void, hardware: *mut c_void) -> u64;
}

/// Runs the resident vCPU until an exit that needs the run loop.
pub(crate) fn run(hardware: &mut Hardware, vcpu: &mut Vcpu) -> ExitKind {
    // SAFETY: both pointers come from unique references that live until the call is over; the
    // vectors hand them to the functions below, one at a time.
    let kind = unsafe {
        penumbra_guest_run(
            core::ptr::from_mut(vcpu).cast(),
            core::ptr::from_mut(hardware).cast(),
        )
    };
    match kind {
        0 => ExitKind::Sync,
        1 => ExitKind::Irq,
        _ => ExitKind::Serror,
    }
}

const _: () = assert!(ExitKind::Sync as u64 == 0 && ExitKind::Irq as u64 == 1);

/// A synchronous exit with its ESR_EL2; X18 to X30 of the guest are live in the registers, but for an abort
/// that moves X16 or above, which finds them in the frame and leaves them there.
///
/// # Safety
/// Called by the vectors only, with the pointers that [`run`] gave.
#[unsafe(no_mangle)]
unsafe extern "C" fn penumbra_first_synchronous(
    vcpu: *mut Vcpu,
    hardware: *mut Hardware,
    esr: u64,
) -> Next {
    // SAFETY: `run` holds the only reference and waits for this exit.
    let vcpu = unsafe { &mut *vcpu };
    // SAFETY: as above.
    let hardware = unsafe { &mut *hardware };
    exit::first_synchronous(vcpu, hardware, esr)
}

/// A physical interrupt; X18 to X30 of the guest are live in the registers.
///
/// # Safety
/// Called by the vectors only, with the pointers that [`run`] gave.
#[unsafe(no_mangle)]
unsafe extern "C" fn penumbra_first_interrupt(vcpu: *mut Vcpu, hardware: *mut Hardware) -> Next {
    // SAFETY: `run` holds the only reference and waits for this exit.
    let vcpu = unsafe { &mut *vcpu };
    // SAFETY: as above.
    let hardware = unsafe { &mut *hardware };
    exit::first_interrupt(vcpu, hardware)
}

/// An exit that the first look left; all registers of the guest are in the frame.
///
/// # Safety
/// Called by the vectors only, with the pointers that [`run`] gave and the number of an [`ExitKind`].
#[unsafe(no_mangle)]
unsafe extern "C" fn penumbra_fast_exit(
    vcpu: *mut Vcpu,
    hardware: *mut Hardware,
    kind: ExitKind,
) -> bool {
    // SAFETY: `run` holds the only reference and waits for this exit.
    let vcpu = unsafe { &mut *vcpu };
    // SAFETY: as above.
    let hardware = unsafe { &mut *hardware };
    exit::fast(vcpu, hardware, kind)
}

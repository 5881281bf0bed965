//! EL2's control registers for each vCPU.

use penumbra_abi::MAX_CPUS;
use penumbra_trap::controls::{
    CNTHCTL_EL2, HcrPolicy, cptr, cptr_el2, hcr_el2, hfgwtr_el2, mdcr, mdcr_el2,
};
use penumbra_vmsa::CpuIndex;

use crate::machine::Controls;
use crate::system::{BoardState, System};
use crate::vcpu::{VcpuId, VcpuShared};

/// MPIDR_EL1: bit 31 is RES1; U = 0, the VM has more than one PE or might have.
const MPIDR_RES1: u64 = 1 << 31;

/// Controls of vCPU `id` on a core where neither FP nor debug registers are its own.
pub(crate) fn for_vcpu(system: &System, board: &BoardState, id: VcpuId) -> Controls {
    let policy = policy(system, id);
    Controls {
        hcr_el2: hcr_el2(&board.cpu, policy),
        hfgwtr_el2: board.cpu.fgt.then(|| hfgwtr_el2(policy)),
        cptr_el2: cptr_el2(&board.cpu, true),
        mdcr_el2: mdcr_el2(&board.cpu, board.event_counters),
        cnthctl_el2: CNTHCTL_EL2,
        vttbr_el2: system.vm(id.vm()).map_or(0, |vm| vm.vttbr()),
        vmpidr_el2: MPIDR_RES1 | u64::try_from(id.index()).unwrap_or(0),
    }
}

/// Brings controls up to date with who shares the core of the vCPU and what is made of its VM's roots,
/// and traps WFI as well if `trap_wfi`. Returns whether anything has changed.
pub(crate) fn refresh(
    controls: &mut Controls,
    (system, board): (&System, &BoardState),
    id: VcpuId,
    trap_wfi: bool,
) -> bool {
    let mut policy = policy(system, id);
    policy.trap_wfi |= trap_wfi;
    let old = (controls.hcr_el2, controls.hfgwtr_el2);
    controls.hcr_el2 = hcr_el2(&board.cpu, policy);
    controls.hfgwtr_el2 = board.cpu.fgt.then(|| hfgwtr_el2(policy));
    old != (controls.hcr_el2, controls.hfgwtr_el2)
}

fn policy(system: &System, id: VcpuId) -> HcrPolicy {
    let core = system.shared(id).and_then(VcpuShared::core);
    let here = core
        .and_then(|cpu| system.core(cpu))
        .map_or(0, |core| core.pinned());
    HcrPolicy {
        // Local maintenance of a vCPU must reach its siblings' entries where they share a core.
        broadcast: shares_a_core(system, id),
        trap_wfi: here.count_ones() > 1,
        trap_stage1: system.vm(id.vm()).is_some_and(|vm| vm.paging.traps_roots()),
        ..HcrPolicy::default()
    }
}

/// Whether any core has more than one vCPU of the VM.
fn shares_a_core(system: &System, id: VcpuId) -> bool {
    let vm = id.bit() >> id.index();
    let siblings = vm.wrapping_mul(0xff);
    (0..MAX_CPUS)
        .filter_map(|n| CpuIndex::new(n, MAX_CPUS))
        .any(|cpu| {
            system
                .core(cpu)
                .is_some_and(|core| (core.pinned() & siblings).count_ones() > 1)
        })
}

/// Whether the use of debug registers is trapped.
pub(crate) const fn debug_is_trapped(controls: &Controls) -> bool {
    controls.mdcr_el2 & mdcr::TDA != 0
}

/// Traps the use of debug registers or lets it through.
pub(crate) const fn trap_debug(controls: &mut Controls, trap: bool) {
    controls.mdcr_el2 = controls.mdcr_el2 & !mdcr::TDA | if trap { mdcr::TDA } else { 0 };
}

/// Traps the use of FP and SIMD registers or lets it through.
pub(crate) const fn trap_fp(controls: &mut Controls, trap: bool) {
    controls.cptr_el2 = controls.cptr_el2 & !cptr::TFP | if trap { cptr::TFP } else { 0 };
}

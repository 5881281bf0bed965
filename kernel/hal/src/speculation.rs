//! What the vectors do about the branch history that a guest leaves, on this core. Only in a build with `mitigations`.

use penumbra_trap::speculation::HistoryClearing;
use penumbra_vmsa::CpuIndex;

use crate::id_table::IdTable;

/// How often the vectors branch at each exit on the core with these ID registers; 0: they do nothing. The log says so.
pub(crate) fn branches(cpu: CpuIndex, ids: &IdTable) -> u64 {
    let clearing = HistoryClearing::of(ids.get(0, 0), ids.get(4, 0), ids.get(6, 2));
    let cpu = cpu.get();
    match clearing {
        HistoryClearing::NotNeeded => {
            log::info!("core {cpu}: its branch history needs no clearing")
        }
        HistoryClearing::Instruction => {
            log::info!("core {cpu}: each exit clears the branch history by CLRBHB");
        }
        HistoryClearing::Loop(turns) => {
            log::info!(
                "core {cpu}: each exit clears the branch history by {turns} turns of a loop"
            );
        }
    }
    clearing.branches()
}

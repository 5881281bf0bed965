//! The assembly: reset entry, vectors and guest switch, with the offsets they need.

use core::arch::global_asm;
use core::mem::{offset_of, size_of};

use penumbra_core::exit::Next;
use penumbra_core::machine::ExitKind;
use penumbra_core::vectors;
use penumbra_trap::advance;

use crate::el2_map::EarlyTables;
use crate::image::STACK_STRIDE;
use crate::percpu::PerCpu;

global_asm!(
    include_str!("start.S"),
    MMU_TTBR = const offset_of!(EarlyTables, ttbr0),
    MMU_MAIR = const offset_of!(EarlyTables, mair),
    STACK_STRIDE = const STACK_STRIDE,
    PERCPU_STRIDE = const size_of::<PerCpu>(),
    MAX_CPUS = const penumbra_abi::MAX_CPUS,
);

/// In the hal's core: how often an exit branches to clear the branch history.
#[cfg(feature = "mitigations")]
const HISTORY: usize = offset_of!(crate::Hardware, history);
/// There is none.
#[cfg(not(feature = "mitigations"))]
const HISTORY: usize = 0;

global_asm!(
    include_str!("vectors.S"),
    EXIT_SYNC = const ExitKind::Sync as u64,
    EXIT_IRQ = const ExitKind::Irq as u64,
    EXIT_SERROR = const ExitKind::Serror as u64,
    ESR_ABORT_BIT = const 31, // of the exception class: aborts, and what has no register
    ISS_SRT_HIGH_BIT = const 20, // of the number of the register that an access moves
    ROOT_CANDIDATE_BIT = const vectors::CANDIDATE_BIT,
    TTBR0_WRITE = const vectors::TTBR0_WRITE,
    HIGH_HALF_BIT = const vectors::HIGH_HALF_BIT,
    RT_SHIFT = const vectors::RT_SHIFT,
    VCPU_PLACE = const vectors::VCPU_PLACE,
    VCPU_ROOTS = const vectors::VCPU_ROOTS,
    PLACE_GENERATION = const vectors::PLACE_GENERATION,
    PLACE_SHARED = const vectors::PLACE_SHARED,
    ROOT_TRAPS = const vectors::ROOT_TRAPS,
    GENERATION = const vectors::GENERATION,
    KNOWN = const vectors::KNOWN,
    KNOWN_SHIFT = const vectors::KNOWN_SHIFT,
    KNOWN_BITS = const vectors::KNOWN_BITS,
    LOOK_BIT = const vectors::LOOK_BIT,
    STEP_BIT = const advance::STEP_BIT,
    BRANCH_TYPE = const advance::BTYPE,
    WINDOW = const vectors::WINDOW,
    MITIGATIONS = const cfg!(feature = "mitigations") as u32,
    HISTORY = const HISTORY,
    NEXT_FAST = const Next::Fast as u32,
    NEXT_ENTER_BIT = const (Next::Enter as u32).trailing_zeros(),
    NEXT_RUN_LOOP_BIT = const (Next::RunLoop as u32).trailing_zeros(),
    EPITAPH_MAGIC = const offset_of!(PerCpu, epitaph.magic),
    EPITAPH_VECTOR = const offset_of!(PerCpu, epitaph.vector),
    EPITAPH_ESR = const offset_of!(PerCpu, epitaph.esr),
    EPITAPH_FAR = const offset_of!(PerCpu, epitaph.far),
    EPITAPH_X = const offset_of!(PerCpu, epitaph.x),
    EPITAPH_STACK_END = const offset_of!(PerCpu, end_of_stack),
);

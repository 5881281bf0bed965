//! A QEMU TCG plugin that counts executed instructions by exception level and VM, and what runs
//! outside the guest between two markers.
//!
//! A guest executes `HINT #(64 + t)` before and `HINT #(96 + t)` after an event of test `t` (both
//! are unallocated hints, NOPs to the architecture). For each such window the plugin notes how many
//! instructions ran at EL2 (and, apart, in the management partition and in all guests), on all cores together or on some. At the
//! end of the run it writes JSON lines: one for each test, with the longest stay at EL2 from one exit to the next, too, one for
//! each core, level and VMID, and one for each VMID when its first instruction ran.
//!
//! Options: `out=FILE`; `manager=on` if the first VMID that runs at EL1 is the management
//! partition's; `cores=1+2`: windows count what these cores ran only; `guests=off`: code below EL2 is not counted, which beside guests that flood takes a quarter of the time; `ranges=FILE`, with a line `NAME:LOW:HIGH` (hexadecimal) for each range, counts blocks that
//! start in `[LOW, HIGH)` apart, too; of two ranges that overlap the first one counts;
//! `blocks=on` counts whole blocks, for long runs ([`blocks`]; on all cores, no ranges, no calls).
//!
//! `calls=on`, with `manager=on`, adds a line for each function that the manager calls by HVC, by the low byte of
//! X0: EL2's instructions, on all cores, from the call until the manager goes on. Of ranges named `GROUP/NAME` the
//! line has the median for each group besides.
//!
//! `penumbra-qemu-plugin` declares QEMU's interface; [`plugin`] holds the callbacks, [`count`] the counters and [`report`] the figures. A translation block belongs to
//! one exception level and, its frames having one owner, to one VM, so the level is read once for
//! each block and each instruction costs one call.
//!
//! Which core runs a block of EL2 is found each time it runs ([`penumbra_qemu_plugin::Running`] says how, and why QEMU's word is not enough).
//! Code of a guest is counted for the core that QEMU names, with `-icount` the one of that guest's that ran it first.

#[cfg(not(test))]
mod blocks;
#[cfg(not(test))]
mod calls;
#[cfg(not(test))]
mod count;
#[cfg(not(test))]
mod plugin;
mod report;

//! A QEMU TCG plugin that feeds every fetch and data access of EL0 and EL1, every TLBI and every change of
//! a translation register to `penumbra-walkscope-model`, and writes what was counted as JSON.
//!
//! Options: `out=FILE`; `ram=FILE:BASE`, the file behind the guest's RAM and its address (hexadecimal);
//! `smp=N`; `cores=a53+a72`, where `a72@PARAMETER:VALUE` is a core with a change and `a72@sweep` one for each
//! change of a sweep; `modes=as-is+native+4k+2m+1g`; `verify=on` compares each TLB hit with a fresh walk;
//! `progress=on` says on standard error when a window closes.
//!
//! A guest executes `HINT #(64 + t)` before and `HINT #(96 + t)` after what is to be measured as test
//! `t`. Run QEMU with `-icount`: then one thread runs all cores, and two runs give the same counts.
//!
//! `penumbra-qemu-plugin` declares QEMU's interface and finds the core, [`decode`] finds the instructions of interest, [`state`] counts,
//! [`plugin`] holds the callbacks, [`ram`] reads tables, [`output`] writes.

mod decode;
mod options;
mod state;

#[cfg(not(test))]
mod output;
#[cfg(not(test))]
mod plugin;
#[cfg(not(test))]
mod ram;
#[cfg(not(test))]
mod registers;

//! Tests that boot QEMU afresh, and measurements with the eventscope plugin.
//!
//! A [`case::Case`] is one test: a name and a function that drives one board through a
//! [`board::Board`] and returns a sentence if something is wrong. [`cases`] has them all: payloads
//! that take every trap, guests that die, Linux under load, bad input. [`workshop::Workshop`] builds
//! what they need. [`mod@bench`] runs the same boards under eventscope and compares the figures with the
//! peers'. See docs/testing.md and docs/performance.md.
#![forbid(unsafe_code)]

pub mod bench;
pub mod bench_floods;
pub mod bench_paging;
pub mod bench_reset;
pub mod bench_shadow;
pub mod bench_wakeups;
pub mod board;
pub mod case;
pub mod cases;
#[cfg(test)]
mod docs;
pub mod gdb;
pub mod peers;
mod shown;
pub mod workshop;

//! Tests on trees that are made here and, where QEMU and `.cache` are at hand, on the boards' own.

mod blob;
mod facts;
mod plan;
mod real;
mod uart;

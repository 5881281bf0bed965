//! Decoding of what a guest does that reaches EL2, and the architecture's answers to it.
//!
//! Everything here is a pure function of register values: nothing is read, written or remembered.
//! `kernel/core` carries out what these functions say, `kernel/hal` supplies the values.
//!
//! | module | question |
//! |---|---|
//! | [`esr`] | why was the exception taken? |
//! | [`abort`] | what memory access aborted, and may EL2 emulate it? |
//! | [`condition`] | did an AArch32 instruction that trapped pass its condition? |
//! | [`advance`] | where does the guest go on after an instruction that EL2 carried out? |
//! | [`sysreg`] | which system register is accessed, and what does a guest get? |
//! | [`idregs`] | what does a guest see in an ID register? |
//! | [`controls`] | which EL2 controls make that true? |
//! | [`smccc`], [`psci`] | which service is called? |
//! | [`speculation`] | what clears the branch history that a guest leaves? |
//! | [`inject`] | how does EL1 take the exception that answers? |
//!
//! Two rules hold throughout: every function is total over its input, and what is unknown has the
//! answer that gives a guest least (UNDEFINED, `NOT_SUPPORTED`, a field that reads zero).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod abort;
pub mod advance;
mod bits;
pub mod condition;
pub mod controls;
pub mod esr;
pub mod idregs;
pub mod inject;
pub mod psci;
pub mod smccc;
pub mod speculation;
pub mod sysreg;

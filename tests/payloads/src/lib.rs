//! Runtime of the bare-metal guests in `tests/payloads`.
//!
//! A payload is an arm64 Image for EL1. It runs unchanged under Penumbra and on QEMU's own `virt`
//! machine without EL2, which serves as the oracle for what the architecture answers.
//!
//! The runtime gives it: start-up of all vCPUs with an identity map ([`rt::start`]), exceptions that
//! are recorded instead of being fatal ([`rt::fault`]), a console ([`rt::console`]), both interrupt
//! controllers ([`rt::gic`]), PSCI and SMCCC ([`rt::psci`]), work on other vCPUs ([`rt::cpu`]) and a
//! check counter ([`rt::check`]). The address layout is that of QEMU `virt`, which Penumbra's guests
//! share.
#![no_std]

pub mod rt;

//! What to shadow, what to re-lay out and what to leave nested: the paging policy.
//!
//! A pure state machine. EL2 has the mechanism and reports what it
//! sees ([`sample`]); [`policy::Policy`] keeps a bounded record of each 2 MiB region of a VM, weighs
//! gains against costs in one unit ([`cost`]) and answers with [`policy::Action`]s and the reason for
//! each ([`reason`]). What is kept is only what was learned: a manager that was restarted finds the
//! forms of all regions by asking, and learns the rest again.
//!
//! [`trace`] is a text form of what the policy was told, [`replay`] runs the policy on such a text
//! against a model of EL2, so that it can be tuned without a board.

pub mod cost;
pub mod policy;
pub mod reason;
mod record;
pub mod replay;
pub mod sample;
#[cfg(test)]
mod tests;
pub mod trace;

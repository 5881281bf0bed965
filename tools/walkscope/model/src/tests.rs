//! Validation: counts that follow from arithmetic, TLBI semantics, and a second model.

mod arithmetic;
mod invalidation;
mod published;
mod reference;
mod regions;
pub(crate) mod space;
mod spaces;
mod streams;
mod sweep;

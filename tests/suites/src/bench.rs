//! (in work)
use crate::workshop::Workshop;
pub fn events(_: &Workshop) -> Result<bool, String> { Ok(true) }
pub fn boot(_: &Workshop) -> Result<bool, String> { Ok(true) }

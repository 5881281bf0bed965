//! What the pager says, in words.

use core::fmt;

use penumbra_abi::PagingRefusal;

use super::Trouble;
use crate::refusal::ErrorText;

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Call(what, error) => {
                write!(f, "the hypervisor would not {what}: {}", ErrorText(error))
            }
            Self::Fallen(refusal) => write!(f, "{}", RefusalText(refusal)),
        }
    }
}

/// Why a root is not replaced, in words.
pub(crate) struct RefusalText(pub(crate) PagingRefusal);

impl fmt::Display for RefusalText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            PagingRefusal::None => "the hypervisor made it nested",
            PagingRefusal::Off => "its MMU or caches are off",
            PagingRefusal::BigEndian => "its walks are big-endian",
            PagingRefusal::Granule => "it does not use the 4 KiB granule",
            PagingRefusal::RootSize => "its root does not fill a page",
            PagingRefusal::OutputSize => "its walks give less than 40 bits of address",
            PagingRefusal::Uncached => "its walks are not cached",
            PagingRefusal::HardwareFlags => "hardware updates its descriptors",
            PagingRefusal::CommonNotPrivate => "it shares translations between cores (CnP)",
            PagingRefusal::RootAddress => "its root lies too high",
            PagingRefusal::Geometry => "it uses one root in two ways",
            PagingRefusal::Full => "there is no room for its root",
            PagingRefusal::NotRam => "its root cannot be write-protected",
            PagingRefusal::Crowded => "its root is a table at too many places",
            PagingRefusal::Astray => "it walks tables that are not its own",
            PagingRefusal::Empty => "its root has no entry",
            PagingRefusal::Storm => "it replaces its root too often",
            PagingRefusal::Violation => "it broke what shadowing relies on",
        })
    }
}

//! What EL2 answers, as the policy wants it.

use penumbra_abi::{Error, PagingForm, PagingRefusal, PagingRegion, PagingSpace};

use crate::paging::reason::Failure;
use crate::paging::sample::{Form, Half, RegionSample, SpaceSample};

pub(super) const fn space_sample(space: u8, found: &PagingSpace) -> SpaceSample {
    SpaceSample {
        space,
        half: if found.high { Half::Kernel } else { Half::User },
        root: found.root,
        mirrored: found.shadowed,
    }
}

pub(super) fn region_sample(space: u8, region: &PagingRegion) -> RegionSample {
    RegionSample {
        space,
        va: region.va,
        table: region.table,
        valid: region.valid,
        runs: u16::from(region.runs),
        uniform: region.uniform,
        full: region.full,
        form: form_of(region.form),
        writes: region.writes,
        walked: region.walks_known.then_some(region.walks > 0),
    }
}

pub(super) const fn form_of(form: PagingForm) -> Form {
    match form {
        PagingForm::Nested => Form::Nested,
        PagingForm::Mirror => Form::Mirror,
        PagingForm::Leaf => Form::Leaf,
    }
}

/// Why a root got no space.
pub(super) const fn refused(refusal: PagingRefusal) -> Option<Failure> {
    Some(match refusal {
        PagingRefusal::None => return None,
        PagingRefusal::Full => Failure::Full,
        PagingRefusal::NotRam | PagingRefusal::RootAddress => Failure::NotRam,
        PagingRefusal::Crowded => Failure::Crowded,
        PagingRefusal::Empty => Failure::NoProcess,
        _ => Failure::Unsupported,
    })
}

pub(super) const fn failure(error: Error) -> Failure {
    match error {
        Error::NoSlot | Error::NoMemory | Error::QuotaExceeded => Failure::Full,
        Error::Busy => Failure::Busy,
        Error::InvalidParameter => Failure::NotRam,
        Error::Crowded => Failure::Crowded,
        Error::NotSupported => Failure::Unsupported,
        _ => Failure::Changed,
    }
}

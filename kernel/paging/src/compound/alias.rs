//! Data aliases: where in the window the 2 MiB frames of re-laid-out regions are shown.

use penumbra_vmsa::{Ipa, Pa};

use super::ALIAS_BASE;
use crate::thin::REGION_BYTES;

/// Data aliases of one VM at most.
const MAX_ALIASES: usize = 128;
/// Chains of aliases, by frame.
const CHAINS: usize = 256;

/// Number of a data alias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AliasId(u8);

/// The 2 MiB frames that data aliases show. It is asked about each page of each region that is moved, so they
/// are found by their frames.
#[derive(Debug)]
pub(super) struct Aliases {
    frames: [Option<Pa>; MAX_ALIASES],
    /// The first alias of each chain, and the one behind each alias; numbers from 1 on, 0 ends a chain.
    heads: [u8; CHAINS],
    next: [u8; MAX_ALIASES],
}

impl Aliases {
    pub(super) const fn new() -> Self {
        Self {
            frames: [None; MAX_ALIASES],
            heads: [0; CHAINS],
            next: [0; MAX_ALIASES],
        }
    }

    fn chain(frame: Pa) -> usize {
        usize::try_from(frame.raw() / REGION_BYTES).unwrap_or(0) % CHAINS
    }

    /// An alias for a frame that has none.
    pub(super) fn take(&mut self, frame: Pa) -> Option<AliasId> {
        let free = self.frames.iter().position(Option::is_none)?;
        let number = u8::try_from(free).ok()?;
        let head = self.heads.get_mut(Self::chain(frame))?;
        *self.next.get_mut(free)? = core::mem::replace(head, number.saturating_add(1));
        *self.frames.get_mut(free)? = Some(frame);
        Some(AliasId(number))
    }

    pub(super) fn give(&mut self, AliasId(number): AliasId) {
        let slot = self.frames.get_mut(usize::from(number));
        let Some(frame) = slot.and_then(Option::take) else {
            return;
        };
        let behind = self.next.get(usize::from(number)).copied().unwrap_or(0);
        let mut link = self.heads.get_mut(Self::chain(frame));
        // A chain holds each alias once at most.
        for _ in 0..MAX_ALIASES {
            match link {
                Some(at) if *at == number.saturating_add(1) => {
                    *at = behind;
                    return;
                }
                Some(&mut at) => {
                    let before = at.checked_sub(1).map(usize::from);
                    link = before.and_then(|before| self.next.get_mut(before));
                }
                None => return,
            }
        }
    }

    /// No alias is left, in place.
    pub(super) fn clear(&mut self) {
        self.frames.fill(None);
        self.heads.fill(0);
        self.next.fill(0);
    }

    pub(super) fn is_full(&self) -> bool {
        self.frames.iter().all(Option::is_some)
    }

    /// The alias that shows a frame, given any address in it.
    #[inline]
    pub(super) fn of(&self, pa: Pa) -> Option<AliasId> {
        let frame = pa.align_down(REGION_BYTES);
        let mut at = self.heads.get(Self::chain(frame)).copied()?;
        loop {
            let number = at.checked_sub(1)?;
            if self.frames.get(usize::from(number)) == Some(&Some(frame)) {
                return Some(AliasId(number));
            }
            at = self.next.get(usize::from(number)).copied()?;
        }
    }

    pub(super) const fn ipa(AliasId(number): AliasId) -> Ipa {
        let offset = (number as u64).saturating_mul(REGION_BYTES);
        Ipa::truncated(ALIAS_BASE.saturating_add(offset))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_found_by_frame_whatever_came_and_went() {
        let mut aliases = Aliases::new();
        // Three frames of each chain that is used, so that chains have a middle.
        let frame = |number: u64| Pa::truncated((number % 43 + number / 43 * 256) * REGION_BYTES);
        let ids: Vec<AliasId> = (0..128).map(|n| aliases.take(frame(n)).unwrap()).collect();
        assert!(aliases.is_full() && aliases.take(frame(128)).is_none());
        for (n, id) in (0..).zip(&ids) {
            assert_eq!(
                aliases.of(Pa::truncated(frame(n).raw() + 0x1f_f000)),
                Some(*id)
            );
        }
        for n in (0..128).filter(|n| n % 3 != 1) {
            aliases.give(ids[usize::try_from(n).unwrap()]);
        }
        for (n, id) in (0..).zip(&ids) {
            assert_eq!(aliases.of(frame(n)), (n % 3 == 1).then_some(*id));
        }
        let again = aliases.take(frame(0)).unwrap();
        assert_eq!(aliases.of(frame(0)), Some(again));
        assert_eq!(aliases.of(frame(42)), None);
        assert_eq!(aliases.of(frame(86)), None);
        aliases.clear();
        assert_eq!(aliases.of(frame(1)), None);
    }
}

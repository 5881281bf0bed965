//! How often a guest is restarted, and after what delay.

use penumbra_bundle::{Guest, MAX_RESTART_DELAY_MS};

/// A guest that has run so long starts a new row of restarts.
pub(crate) const ROW_SECONDS: u64 = 10;

/// The restarts of one guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Restarts {
    in_a_row: u32,
    /// Since the manager runs.
    pub(crate) all: u32,
}

impl Restarts {
    /// The guest went down after `ran_seconds`. Milliseconds until it is to be started again, or how
    /// often that was done in a row, if it was often enough.
    pub(crate) fn next(&mut self, guest: &Guest<'_>, ran_seconds: u64) -> Result<u64, u32> {
        if ran_seconds >= ROW_SECONDS {
            self.in_a_row = 0;
        }
        if self.in_a_row >= guest.restart_limit {
            return Err(self.in_a_row);
        }
        let doubled = 1_u64.checked_shl(self.in_a_row).unwrap_or(u64::MAX);
        let delay = u64::from(guest.restart_delay_ms).saturating_mul(doubled);
        self.in_a_row = self.in_a_row.saturating_add(1);
        Ok(delay.min(u64::from(MAX_RESTART_DELAY_MS)))
    }

    /// A person has started the guest: that is no row.
    pub(crate) const fn forgive(&mut self) {
        self.in_a_row = 0;
    }
}

#[cfg(test)]
mod tests {
    use penumbra_bundle::Bundle;

    use super::*;
    use crate::tests::{bundle, guest};

    #[test]
    fn the_delay_doubles_and_the_row_ends() {
        let mut spec = guest("linux");
        (spec.restart_limit, spec.restart_delay_ms) = (9, 500);
        let bytes = bundle(vec![spec]);
        let manifest = Bundle::parse(&bytes).unwrap().manifest().unwrap();
        let guest = manifest.guests().next().unwrap();
        let mut restarts = Restarts::default();
        let delays: Vec<u64> = (0..9)
            .map_while(|_| restarts.next(&guest, 1).ok())
            .collect();
        assert_eq!(
            delays,
            [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]
        );
        assert_eq!(restarts.next(&guest, 9), Err(9));
        assert_eq!(restarts.next(&guest, 10), Ok(500));
        restarts.forgive();
        assert_eq!(restarts.next(&guest, 0), Ok(500));
    }
}

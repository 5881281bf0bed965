//! What user spaces would gain: how often their regions are walked, and for how long they will be there.

use super::super::cost::{Balance, HORIZON_S, MOST_WALKS, SAMPLED_WALKS};
use super::super::record::Record;
use super::super::sample::{Form, Half};
use super::Policy;

/// Regions of small pages that a TLB holds: 1,024 entries. Whoever uses no more than that walks only after a flush, as there
/// is one at the start of each epoch of samples.
const TLB_REGIONS: u64 = 2;

impl Policy {
    /// Hears what stage 2 maps the VM's RAM by: bytes by pages, and by blocks. Whether that changes what is expected of
    /// walks.
    pub fn mapped(&mut self, pages: u64, blocks: u64) -> bool {
        let machine = &mut self.config.machine;
        let before = machine.thin;
        if pages == 0 && blocks == 0 {
            return false;
        }
        // Between a quarter and a half nothing changes, so that it does not go to and fro.
        machine.thin = match before {
            true => pages.saturating_mul(3) > blocks,
            false => pages > blocks,
        };
        machine.thin != before
    }

    /// Hears how many of the samples that began together were hit behind the first, and for how long all of them waited
    /// for that or did so in vain, in ns, added up.
    ///
    /// A sample is one bit, so a region that is walked without a pause looks like one that is walked now and then. How soon
    /// the bits come tells: where walks come at random, hits by the time that was waited are their rate (the most likely one,
    /// with what was not hit cut off at the end). Whatever comes between, a host that has others to run, makes that too
    /// low, so the highest of the last looks is taken. Where nothing was hit, the process did not run: half of the time, if that is what
    /// every second look finds.
    pub fn window(&mut self, hits: u64, waited_ns: u64) {
        if hits == 0 && waited_ns == 0 {
            return;
        }
        let before = self.walk_rate;
        if hits == 0 {
            self.walk_rate = Some(before.unwrap_or(SAMPLED_WALKS) / 2);
            return;
        }
        let rate = hits.saturating_mul(1_000_000_000) / waited_ns.max(1);
        let before = before.unwrap_or(0);
        let before = before.saturating_sub(before / 8);
        self.walk_rate = Some(rate.min(MOST_WALKS).max(before));
    }

    /// Walks a second that a hit sample stands for.
    #[must_use]
    pub fn walk_rate(&self) -> u64 {
        self.walk_rate.unwrap_or(SAMPLED_WALKS)
    }

    /// Counts the regions of each user space that are walked.
    pub(super) fn count_walked(&mut self) {
        for space in &mut self.spaces {
            let number = space.seen.space;
            let records = self.records.iter();
            let walked = records.filter(|r| r.seen.space == number && r.walks.unwrap_or(0) > 0);
            space.walked = u64::try_from(walked.count()).unwrap_or(u64::MAX);
        }
    }

    /// Walks a second of a region, but for those that a TLB saves once it is warm.
    pub(super) fn walks_of(&self, record: &Record) -> u64 {
        let walks = record.walks_per_s();
        if record.half == Half::Kernel {
            return walks;
        }
        let mut spaces = self.spaces.iter();
        let space = spaces.find(|space| space.seen.space == record.seen.space);
        let regions = space.map_or(0, |space| space.walked);
        let missing = regions.saturating_sub(TLB_REGIONS);
        let missed = walks.saturating_mul(missing).checked_div(regions);
        missed.unwrap_or(0)
    }

    /// For how many ms a decision on a region may be expected to hold.
    pub(super) fn life_ms(&self, record: &Record, now_ms: u64) -> u64 {
        if record.half == Half::Kernel {
            return HORIZON_S * 1_000;
        }
        let mut spaces = self.spaces.iter();
        let space = spaces.find(|space| space.seen.space == record.seen.space);
        let root = space.map_or(0, |space| space.seen.root);
        let known = self.roots.iter().find(|known| known.seen.root == root);
        expected_life_ms(known.map_or(0, |root| now_ms.saturating_sub(root.first_ms)))
    }

    /// What the user regions of the chosen roots would save each second if they were shadowed as well
    /// as it pays.
    pub(super) fn gain_of(&self, now_ms: u64, chosen: impl Fn(u64) -> bool) -> u64 {
        let machine = &self.config.machine;
        let may_move = self.config.copy_pages_per_s > 0;
        let mut gain = 0_u64;
        for record in self.records.iter().filter(|r| r.half == Half::User) {
            let mut spaces = self.spaces.iter().map(|space| &space.seen);
            let root = spaces.find(|space| space.space == record.seen.space);
            if !root.is_some_and(|space| chosen(space.root)) {
                continue;
            }
            let walks = self.walks_of(record);
            let balance = if record.seen.uniform || record.seen.form == Form::Relaid {
                machine.leaf(walks, 0)
            } else if record.seen.full && may_move {
                machine.relayout(walks, 0)
            } else {
                machine.mirror(walks, 0)
            };
            // What has been made costs nothing once more.
            let made = record.seen.form != Form::Nested && !record.seen.full;
            let made = made || matches!(record.seen.form, Form::Leaf | Form::Relaid);
            let once = if made { 0 } else { balance.once };
            let balance = Balance { once, ..balance };
            let life_ms = self.life_ms(record, now_ms).max(1);
            if balance.pays_within(life_ms) {
                let share = once.saturating_mul(1_000) / life_ms;
                gain = gain.saturating_add(balance.worth().saturating_sub(share));
            }
        }
        gain
    }
}

/// For how long a process that has lived for so long may be expected to live on, within [`HORIZON_S`].
///
/// Of processes that have lived for a second a share of 1/T lives for T seconds (Harchol-Balter and Downey, "Exploiting Process
/// Lifetime Distributions for Dynamic Load Balancing", 1997), so one of the age A lives through the next X seconds with a
/// probability of A / (A + X). The integral of that up to H is A ln(1 + H / A).
fn expected_life_ms(age_ms: u64) -> u64 {
    let horizon = HORIZON_S * 1_000;
    let age = age_ms.clamp(1, horizon);
    // Fixed point, 10 bits; between powers of two the logarithm is taken for a line.
    let ratio = age.saturating_add(horizon).saturating_mul(1 << 10) / age;
    let power = ratio.max(1).ilog2();
    let rest = (ratio << 10 >> power).saturating_sub(1 << 10);
    let log2 = u64::from(power)
        .saturating_sub(10)
        .saturating_mul(1 << 10)
        .saturating_add(rest);
    // ln 2 = 693/1000.
    age.saturating_mul(log2).saturating_mul(693) / 1_000 / (1 << 10)
}

#[cfg(test)]
mod tests {
    use super::super::{Changes, Config, Machine, Mode};
    use super::*;

    #[test]
    fn the_highest_of_the_last_looks_is_taken() {
        let mut policy = Policy::new(Config {
            mode: Mode::Compound,
            changes: Changes::Free,
            pool_frames: 512,
            copy_pages_per_s: 512,
            may_trap: true,
            machine: Machine {
                thin: true,
                vcpus: 1,
            },
        });
        policy.window(0, 0);
        assert_eq!(policy.walk_rate(), SAMPLED_WALKS, "nothing was learned");
        policy.window(8, 400_000);
        assert_eq!(policy.walk_rate(), 20_000);
        policy.window(1, 800_000);
        assert_eq!(policy.walk_rate(), 17_500);
        policy.window(0, 800_000);
        assert_eq!(policy.walk_rate(), 8_750, "it has not run");
        policy.window(8, 0);
        assert_eq!(policy.walk_rate(), MOST_WALKS);
    }

    #[test]
    fn the_old_are_expected_to_live_on() {
        // A ln(1 + 60 / A), but for what the line between powers of two is off.
        for (age_ms, exact) in [
            (100, 640),
            (1_000, 4_111),
            (2_500, 8_047),
            (5_000, 12_825),
            (10_000, 19_459),
            (30_000, 32_958),
            (60_000, 41_589),
        ] {
            let life = expected_life_ms(age_ms);
            assert!(life.abs_diff(exact) <= exact / 8, "{age_ms}: {life}");
        }
        assert_eq!(expected_life_ms(0), expected_life_ms(1));
        assert_eq!(expected_life_ms(u64::MAX), expected_life_ms(60_000));
    }
}

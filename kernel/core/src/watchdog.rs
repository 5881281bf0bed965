//! The watchdog that a guest sees: the Generic Watchdog of the Base System Architecture (Arm DEN 0094 C,
//! "Generic Watchdog"; formerly SBSA, DEN 0029), architecture revision 1.
//!
//! Two frames of registers: *control*, and *refresh*, whose one register puts the expiry off. An offset
//! after the last refresh comes WS0, an interrupt to the guest; another offset later WS1, by which EL2
//! stops the VM. The counter is CNTPCT. Time during which the VM is paused does not count.
//!
//! Pure: nothing is raised or stopped here, [`Watchdog::advance`] says what the time has brought.

/// Distance of the refresh frame from the control frame: with translation granules of 64 KiB each can be
/// mapped alone.
pub(crate) const REFRESH_OFFSET: u64 = 64 * 1024;
/// Bytes of both frames and what lies between them.
pub(crate) const WATCHDOG_BYTES: u64 = 2 * REFRESH_OFFSET;

mod reg {
    use super::REFRESH_OFFSET;

    pub(super) const WCS: u64 = 0x00;
    pub(super) const WOR_LOW: u64 = 0x08;
    pub(super) const WOR_HIGH: u64 = 0x0c;
    pub(super) const WCV_LOW: u64 = 0x10;
    pub(super) const WCV_HIGH: u64 = 0x14;
    pub(super) const CONTROL_IIDR: u64 = 0xfcc;
    pub(super) const WRR: u64 = REFRESH_OFFSET;
    pub(super) const REFRESH_IIDR: u64 = REFRESH_OFFSET + 0xfcc;
}

/// WCS.
pub(crate) mod status {
    /// EN.
    pub(crate) const EN: u32 = 1 << 0;
    /// WS0.
    pub(crate) const WS0: u32 = 1 << 1;
    /// WS1.
    pub(crate) const WS1: u32 = 1 << 2;
}

/// W_IIDR: architecture revision 1 in bits 19:16, Arm as implementer (JEP106) in bits 11:0.
const IIDR: u32 = 1 << 16 | 0x43b;
/// WOR has 48 bits in revision 1.
const OFFSET_MASK: u64 = (1 << 48) - 1;
const LOW: u64 = 0xffff_ffff;

/// The device. All zero after a reset.
#[derive(Debug)]
pub(crate) struct Watchdog {
    status: u32,
    /// WOR.
    offset: u64,
    /// WCV.
    compare: u64,
    /// When it was last refreshed by the guest.
    refreshed: u64,
    /// How often it was.
    refreshes: u64,
    /// Since when the VM has been paused or stopped; 0: it is not.
    paused: u64,
    /// The expiry that the core which watches it knows of; 0: none.
    pub(crate) known: u64,
    /// What its interrupt line was last set to.
    pub(crate) line: bool,
}

impl Watchdog {
    /// A disabled one.
    pub(crate) const fn new() -> Self {
        Self {
            status: 0,
            offset: 0,
            compare: 0,
            refreshed: 0,
            refreshes: 0,
            paused: 0,
            known: 0,
            line: false,
        }
    }

    /// The time that counts for it.
    const fn time(&self, now: u64) -> u64 {
        if self.paused == 0 { now } else { self.paused }
    }

    /// Lets the time come to `now`: sets WS0 or WS1 if it has run out.
    pub(crate) const fn advance(&mut self, now: u64) {
        let now = self.time(now);
        if self.status & (status::EN | status::WS1) != status::EN || now <= self.compare {
            return;
        }
        if self.status & status::WS0 == 0 {
            self.status |= status::WS0;
            self.compare = now.saturating_add(self.offset);
        } else {
            self.status |= status::WS1;
            // The VM stops, and its age stands still.
            self.paused = now;
        }
    }

    /// What a guest's read of a word returns. Registers that do not exist read as zero.
    pub(crate) const fn read(&self, register: u64) -> u32 {
        match register {
            reg::WCS => self.status,
            reg::WOR_LOW => (self.offset & LOW) as u32,
            reg::WOR_HIGH => (self.offset >> 32) as u32,
            reg::WCV_LOW => (self.compare & LOW) as u32,
            reg::WCV_HIGH => (self.compare >> 32) as u32,
            reg::CONTROL_IIDR | reg::REFRESH_IIDR => IIDR,
            _ => 0,
        }
    }

    /// What a guest's write of a word does. Registers that do not exist ignore it.
    pub(crate) const fn write(&mut self, register: u64, value: u32, now: u64) {
        let word = value as u64;
        match register {
            reg::WCS => self.status = value & status::EN,
            reg::WOR_LOW => self.offset = self.offset & !LOW | word,
            reg::WOR_HIGH => self.offset = (word << 32 | self.offset & LOW) & OFFSET_MASK,
            reg::WRR => {}
            reg::WCV_LOW => {
                self.compare = self.compare & !LOW | word;
                return;
            }
            reg::WCV_HIGH => {
                self.compare = word << 32 | self.compare & LOW;
                return;
            }
            _ => return,
        }
        self.refresh(now);
    }

    const fn refresh(&mut self, now: u64) {
        let now = self.time(now);
        self.status &= status::EN;
        self.compare = now.saturating_add(self.offset);
        self.refreshed = now;
        self.refreshes = self.refreshes.wrapping_add(1);
    }

    /// When it has to be looked at next, if ever.
    pub(crate) const fn deadline(&self) -> Option<u64> {
        let runs = self.status & (status::EN | status::WS1) == status::EN && self.paused == 0;
        if runs {
            Some(self.compare.saturating_add(1))
        } else {
            None
        }
    }

    /// WCS.
    pub(crate) const fn status(&self) -> u32 {
        self.status
    }

    /// The interrupt line.
    pub(crate) const fn level(&self) -> bool {
        self.status & status::WS0 != 0
    }

    /// Counter ticks since the last refresh, paused time apart.
    pub(crate) const fn age(&self, now: u64) -> u64 {
        self.time(now).saturating_sub(self.refreshed)
    }

    /// WOR.
    pub(crate) const fn offset(&self) -> u64 {
        self.offset
    }

    /// How often it was refreshed.
    pub(crate) const fn refreshes(&self) -> u64 {
        self.refreshes
    }

    /// The VM is paused.
    pub(crate) const fn pause(&mut self, now: u64) {
        if self.paused == 0 {
            self.paused = if now == 0 { 1 } else { now };
        }
    }

    /// The VM goes on.
    pub(crate) const fn resume(&mut self, now: u64) {
        if self.paused == 0 {
            return;
        }
        let pause = now.saturating_sub(self.paused);
        self.compare = self.compare.saturating_add(pause);
        self.refreshed = self.refreshed.saturating_add(pause);
        self.paused = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITABLE: [u64; 6] = [
        reg::WCS,
        reg::WOR_LOW,
        reg::WOR_HIGH,
        reg::WCV_LOW,
        reg::WCV_HIGH,
        reg::WRR,
    ];

    fn enabled(offset: u32, now: u64) -> Watchdog {
        let mut watchdog = Watchdog::new();
        watchdog.write(reg::WOR_LOW, offset, now);
        watchdog.write(reg::WCS, u32::MAX, now);
        watchdog
    }

    #[test]
    fn it_is_off_until_enabled() {
        let mut watchdog = Watchdog::new();
        watchdog.write(reg::WOR_LOW, 10, 100);
        watchdog.advance(u64::MAX);
        assert_eq!((watchdog.status(), watchdog.deadline()), (0, None));
        assert_eq!(watchdog.read(reg::WCV_LOW), 110);
        // WS0 and WS1 are read-only.
        watchdog.write(reg::WCS, status::WS0 | status::WS1, 100);
        assert_eq!(watchdog.read(reg::WCS), 0);
    }

    #[test]
    fn two_offsets_lead_to_the_two_signals() {
        let mut watchdog = enabled(10, 100);
        assert_eq!(watchdog.deadline(), Some(111));
        watchdog.advance(110);
        assert_eq!(watchdog.status(), status::EN);
        watchdog.advance(111);
        assert_eq!(watchdog.status(), status::EN | status::WS0);
        assert!(watchdog.level());
        assert_eq!(watchdog.deadline(), Some(122));
        watchdog.advance(121);
        assert_eq!(watchdog.read(reg::WCS), status::EN | status::WS0);
        watchdog.advance(122);
        assert_eq!(watchdog.status() & status::WS1, status::WS1);
        assert_eq!((watchdog.deadline(), watchdog.age(500)), (None, 22));
    }

    #[test]
    fn a_write_of_wrr_wor_or_wcs_refreshes_and_no_other() {
        for register in WRITABLE {
            let mut watchdog = enabled(10, 100);
            watchdog.advance(115);
            let refreshes = watchdog.refreshes();
            let value = if register == reg::WOR_HIGH { 0 } else { 1 };
            watchdog.write(register, value, 115);
            let refreshed = matches!(register, reg::WRR | reg::WCS | reg::WOR_LOW | reg::WOR_HIGH);
            assert_eq!(
                watchdog.refreshes() != refreshes,
                refreshed,
                "{register:#x}"
            );
            assert_eq!(watchdog.level(), !refreshed, "{register:#x}");
            assert_eq!(watchdog.age(120), if refreshed { 5 } else { 20 });
        }
        let mut watchdog = enabled(10, 100);
        for register in [0x04, 0x18, 0xfcc, REFRESH_OFFSET + 4, 0xffff] {
            watchdog.write(register, 0, 105);
            assert_eq!(watchdog.deadline(), Some(111), "{register:#x}");
        }
    }

    #[test]
    fn offset_and_compare_value_are_wide() {
        let mut watchdog = enabled(0x89ab_cdef, 0);
        watchdog.write(reg::WOR_HIGH, 0xffff_4567, 16);
        assert_eq!(watchdog.offset(), 0x4567_89ab_cdef);
        assert_eq!(watchdog.read(reg::WOR_LOW), 0x89ab_cdef);
        assert_eq!(watchdog.read(reg::WOR_HIGH), 0x4567);
        assert_eq!(watchdog.deadline(), Some(0x4567_89ab_ce00));
        watchdog.write(reg::WCV_HIGH, 7, 16);
        watchdog.write(reg::WCV_LOW, 9, 16);
        assert_eq!(watchdog.read(reg::WCV_HIGH), 7);
        assert_eq!(watchdog.deadline(), Some((7 << 32) + 10));
        watchdog.write(reg::WCV_HIGH, u32::MAX, 16);
        watchdog.write(reg::WCV_LOW, u32::MAX, 16);
        watchdog.advance(u64::MAX);
        assert_eq!(watchdog.status(), status::EN);
    }

    #[test]
    fn it_says_what_it_is() {
        let watchdog = Watchdog::new();
        for register in [0xfcc, REFRESH_OFFSET + 0xfcc] {
            assert_eq!(watchdog.read(register), 0x1_043b);
        }
        assert_eq!(watchdog.read(reg::WRR), 0);
    }

    #[test]
    fn paused_time_does_not_count() {
        let mut watchdog = enabled(10, 100);
        watchdog.pause(105);
        assert_eq!(watchdog.deadline(), None);
        watchdog.advance(1_000_000);
        assert_eq!((watchdog.status(), watchdog.age(2000)), (status::EN, 5));
        watchdog.pause(900);
        watchdog.resume(1105);
        assert_eq!(watchdog.deadline(), Some(1111));
        assert_eq!(watchdog.age(1106), 6);
        watchdog.resume(5000);
        assert_eq!(watchdog.deadline(), Some(1111));
    }
}

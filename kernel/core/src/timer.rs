//! Time that EL2 keeps for vCPUs: the EL1 physical timer, which is emulated, and when a virtual timer
//! that is not in hardware will expire.
//!
//! Sources: Arm ARM DDI 0487 L.b, D12.2.4 "Timers" and D24.10 "Generic Timer registers".

/// CNTx_CTL.ENABLE.
const ENABLE: u64 = 1 << 0;
/// CNTx_CTL.IMASK.
const IMASK: u64 = 1 << 1;
/// CNTx_CTL.ISTATUS.
const ISTATUS: u64 = 1 << 2;

/// Counter value at which a timer with these registers asks for an interrupt, if it ever does.
#[must_use]
pub(crate) const fn expiry(ctl: u64, cval: u64) -> Option<u64> {
    if ctl & (ENABLE | IMASK) == ENABLE {
        Some(cval)
    } else {
        None
    }
}

/// CNTP_CTL_EL0 and CNTP_CVAL_EL0 of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PhysicalTimer {
    ctl: u64,
    cval: u64,
}

impl PhysicalTimer {
    /// Disabled.
    pub(crate) const OFF: Self = Self { ctl: 0, cval: 0 };

    /// CNTP_CTL_EL0.
    #[must_use]
    pub(crate) const fn ctl(self, now: u64) -> u64 {
        let met = self.ctl & ENABLE != 0 && now >= self.cval;
        self.ctl | if met { ISTATUS } else { 0 }
    }

    /// Writes CNTP_CTL_EL0.
    pub(crate) const fn set_ctl(&mut self, value: u64) {
        self.ctl = value & (ENABLE | IMASK);
    }

    /// CNTP_CVAL_EL0.
    #[must_use]
    pub(crate) const fn cval(self) -> u64 {
        self.cval
    }

    /// Writes CNTP_CVAL_EL0.
    pub(crate) const fn set_cval(&mut self, value: u64) {
        self.cval = value;
    }

    /// CNTP_TVAL_EL0: the signed 32-bit distance to the expiry.
    #[must_use]
    pub(crate) const fn tval(self, now: u64) -> u64 {
        self.cval.wrapping_sub(now) & 0xffff_ffff
    }

    /// Writes CNTP_TVAL_EL0.
    pub(crate) const fn set_tval(&mut self, value: u64, now: u64) {
        // The low 32 bits, sign-extended.
        let distance = ((value << 32).cast_signed() >> 32).cast_unsigned();
        self.cval = now.wrapping_add(distance);
    }

    /// The interrupt line.
    #[must_use]
    pub(crate) const fn line(self, now: u64) -> bool {
        self.ctl(now) & (IMASK | ISTATUS) == ISTATUS
    }

    /// When the line will rise, or did.
    #[must_use]
    pub(crate) const fn expiry(self) -> Option<u64> {
        expiry(self.ctl, self.cval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_follows_the_registers() {
        let mut timer = PhysicalTimer::OFF;
        timer.set_tval(100, 1000);
        assert_eq!((timer.cval(), timer.tval(1050)), (1100, 50));
        timer.set_ctl(u64::MAX);
        assert_eq!(timer.expiry(), None);
        timer.set_ctl(ENABLE);
        assert_eq!(timer.expiry(), Some(1100));
        assert!(!timer.line(1099) && timer.line(1100));
        assert_eq!(timer.ctl(1100), ENABLE | ISTATUS);
        assert_eq!(timer.tval(1101), 0xffff_ffff);
        timer.set_tval(0xffff_fffe, 1000);
        assert_eq!(timer.cval(), 998);
    }
}

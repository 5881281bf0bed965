//! Exception syndromes in words (Arm ARM DDI 0487 L.b, D24.2 "General system control registers",
//! ESR_EL2).

use core::fmt;

/// A value of ESR_ELx, shown as a clause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syndrome(pub u64);

impl Syndrome {
    const fn class(self) -> u64 {
        (self.0 >> 26) & 0x3f
    }

    const fn status(self) -> u64 {
        self.0 & 0x3f
    }

    const fn is_write(self) -> bool {
        self.0 & (1 << 6) != 0
    }

    const fn is_table_walk(self) -> bool {
        self.0 & (1 << 7) != 0
    }

    fn class_text(self) -> &'static str {
        match self.class() {
            0x00 => "unknown reason",
            0x01 => "WFI or WFE",
            0x07 => "access to SIMD or floating point",
            0x0e => "illegal execution state",
            0x11 | 0x15 => "SVC",
            0x12 | 0x16 => "HVC",
            0x13 | 0x17 => "SMC",
            0x18 => "access to a system register",
            0x19 => "access to SVE",
            0x20 | 0x21 => "instruction abort",
            0x22 => "misaligned PC",
            0x24 | 0x25 => "data abort",
            0x26 => "misaligned SP",
            0x2f => "SError interrupt",
            0x30 | 0x31 => "breakpoint",
            0x32 | 0x33 => "software step",
            0x34 | 0x35 => "watchpoint",
            0x3c => "BRK instruction",
            _ => "an exception class without a name here",
        }
    }

    /// What a fault status code means (Arm ARM, DFSC and IFSC of ISS encodings).
    fn status_text(self) -> (&'static str, Option<u64>) {
        let level = Some(self.0 & 3);
        match self.status() {
            0x00..=0x03 => ("address size fault", level),
            0x04..=0x07 => ("translation fault", level),
            0x08..=0x0b => ("access flag fault", level),
            0x0c..=0x0f => ("permission fault", level),
            0x10 => ("external abort", None),
            0x14..=0x17 => ("external abort on a table walk", level),
            0x18 => ("parity or ECC error", None),
            0x21 => ("alignment fault", None),
            0x30 => ("TLB conflict", None),
            0x31 => ("unsupported atomic update", None),
            _ => ("a fault status without a name here", None),
        }
    }
}

impl fmt::Display for Syndrome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class_text())?;
        let is_data = matches!(self.class(), 0x24 | 0x25);
        if !is_data && !matches!(self.class(), 0x20 | 0x21) {
            return Ok(());
        }
        let (text, level) = self.status_text();
        if is_data {
            f.write_str(if self.is_write() {
                " on a write"
            } else {
                " on a read"
            })?;
        }
        write!(f, ": {text}")?;
        if let Some(level) = level {
            write!(f, " at level {level}")?;
        }
        if self.is_table_walk() {
            f.write_str(", on a walk of the guest's translation tables")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aborts_are_put_in_words() {
        let text = |esr| Syndrome(esr).to_string();
        assert_eq!(
            text(0x9200_0046),
            "data abort on a write: translation fault at level 2"
        );
        assert_eq!(
            text(0x9200_000f),
            "data abort on a read: permission fault at level 3"
        );
        assert_eq!(
            text(0x8200_0085),
            "instruction abort: translation fault at level 1, on a walk of the guest's \
             translation tables"
        );
        assert_eq!(text(0x5a00_0000), "HVC");
        assert_eq!(text(0xbe00_0000), "SError interrupt");
        assert_eq!(text(0), "unknown reason");
    }

    #[test]
    fn every_value_has_words() {
        for class in 0..64u64 {
            for status in 0..64u64 {
                assert!(!Syndrome(class << 26 | status).to_string().is_empty());
            }
        }
    }
}

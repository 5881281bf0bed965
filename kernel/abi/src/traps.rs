//! What a guest tried and was refused, as EL2 shows it to the manager.

/// Kinds of refused accesses that EL2 keeps of one VM at most.
pub const TRAP_RECORDS: usize = 16;

/// What `VmTraps` returns in X1 to X3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrapsStatus {
    /// Records that there are, numbered from 0.
    pub records: u64,
    /// Refused accesses since the VM was created.
    pub all: u64,
    /// Those among them whose records had to make room for newer ones.
    pub forgotten: u64,
}

impl TrapsStatus {
    /// Registers X1 to X6.
    #[must_use]
    pub const fn to_regs(self) -> [u64; 6] {
        [self.records, self.all, self.forgotten, 0, 0, 0]
    }

    /// Reads registers X1 to X6.
    #[must_use]
    pub const fn from_regs(regs: [u64; 6]) -> Self {
        let [records, all, forgotten, ..] = regs;
        Self {
            records,
            all,
            forgotten,
        }
    }
}

/// What `VmTrap` returns in X1 to X6: accesses of one kind. Of a kind are accesses by the same system
/// register and direction, to the same page in the same way, by the same function of HVC or SMC, or by
/// instructions of the same exception class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrapRecord {
    /// ESR_EL2 of the last one, bits 31:0.
    pub esr: u32,
    /// vCPU of the last one.
    pub vcpu: u8,
    /// Address of the last instruction.
    pub pc: u64,
    /// FAR_EL2 of the last one, where the access was to memory.
    pub far: u64,
    /// Where the access was to memory, the last IPA; of calls the function identifier (X0) in bits 31:0
    /// and the immediate in bits 47:32. `u64::MAX`: there is none.
    pub what: u64,
    /// How often.
    pub count: u64,
    /// CNTPCT at the last one.
    pub when: u64,
}

impl TrapRecord {
    /// Registers X1 to X6.
    #[must_use]
    pub const fn to_regs(self) -> [u64; 6] {
        let first = self.esr as u64 | (self.vcpu as u64) << 32;
        [first, self.pc, self.far, self.what, self.count, self.when]
    }

    /// Reads registers X1 to X6.
    #[must_use]
    pub const fn from_regs(regs: [u64; 6]) -> Self {
        let [first, pc, far, what, count, when] = regs;
        Self {
            esr: first as u32,
            vcpu: (first >> 32) as u8,
            pc,
            far,
            what,
            count,
            when,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_survive_the_registers() {
        let record = TrapRecord {
            esr: 0x9200_0046,
            vcpu: 7,
            pc: 1,
            far: 2,
            what: u64::MAX,
            count: 4,
            when: 5,
        };
        assert_eq!(TrapRecord::from_regs(record.to_regs()), record);
        let status = TrapsStatus {
            records: 1,
            all: 2,
            forgotten: 3,
        };
        assert_eq!(TrapsStatus::from_regs(status.to_regs()), status);
    }
}

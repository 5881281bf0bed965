//! The core's ID registers, read once: op0 = 3, op1 = 0, CRn = 0, by CRm and op2.

use core::arch::asm;

/// Values by CRm and op2.
#[derive(Clone, Debug)]
pub(crate) struct IdTable([[u64; 8]; 8]);

macro_rules! read {
    ($crm:literal, $op2:literal) => {{
        let value: u64;
        // SAFETY: ID registers read without effect; those of this space that are not allocated
        // read as zero (Arm ARM DDI 0487 L.b, D18.3.1 "op0==0b11, Moves to and from
        // non-debug System registers, Special-purpose registers").
        unsafe {
            asm!(concat!("mrs {}, S3_0_C0_C", $crm, "_", $op2), out(reg) value,
                options(nostack, preserves_flags, nomem));
        }
        value
    }};
}

macro_rules! row {
    ($crm:literal) => {
        [
            read!($crm, 0),
            read!($crm, 1),
            read!($crm, 2),
            read!($crm, 3),
            read!($crm, 4),
            read!($crm, 5),
            read!($crm, 6),
            read!($crm, 7),
        ]
    };
}

impl IdTable {
    pub(crate) fn read() -> Self {
        // CRm 0 holds MIDR, MPIDR and REVIDR only; its other encodings are not ID space.
        let first = [read!(0, 0), 0, 0, 0, 0, read!(0, 5), read!(0, 6), 0];
        Self([
            first,
            row!(1),
            row!(2),
            row!(3),
            row!(4),
            row!(5),
            row!(6),
            row!(7),
        ])
    }

    #[inline]
    pub(crate) fn get(&self, crm: u8, op2: u8) -> u64 {
        self.0
            .get(usize::from(crm))
            .and_then(|row| row.get(usize::from(op2)))
            .copied()
            .unwrap_or(0)
    }
}

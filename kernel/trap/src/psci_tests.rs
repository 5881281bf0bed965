use super::*;
use Convention::{Smc32, Smc64};

fn decode(id: u32, arguments: [u64; 3]) -> Request {
    let (function, convention) = Function::decode(id).unwrap();
    Request::decode(function, convention, arguments)
}

fn code(code: Return) -> Request {
    Request::Done(Reply::Code(code))
}

fn value(value: u64) -> Request {
    Request::Done(Reply::Value(value))
}

#[test]
fn every_row_of_the_function_table() {
    // Identifiers as DEN 0022 prints them; the second column says whether SMC64 exists.
    let rows = [
        (0x8400_0000, false, Function::Version),
        (0x8400_0001, true, Function::CpuSuspend),
        (0x8400_0002, false, Function::CpuOff),
        (0x8400_0003, true, Function::CpuOn),
        (0x8400_0004, true, Function::AffinityInfo),
        (0x8400_0005, true, Function::Migrate),
        (0x8400_0006, false, Function::MigrateInfoType),
        (0x8400_0007, true, Function::MigrateInfoUpCpu),
        (0x8400_0008, false, Function::SystemOff),
        (0x8400_0009, false, Function::SystemReset),
        (0x8400_000a, false, Function::Features),
        (0x8400_000b, false, Function::CpuFreeze),
        (0x8400_000c, true, Function::CpuDefaultSuspend),
        (0x8400_000d, true, Function::NodeHwState),
        (0x8400_000e, true, Function::SystemSuspend),
        (0x8400_000f, false, Function::SetSuspendMode),
        (0x8400_0010, true, Function::StatResidency),
        (0x8400_0011, true, Function::StatCount),
        (0x8400_0012, true, Function::SystemReset2),
        (0x8400_0013, false, Function::MemProtect),
        (0x8400_0014, true, Function::MemProtectCheckRange),
        (0x8400_0015, true, Function::SystemOff2),
    ];
    assert_eq!(rows.len(), Function::ALL.len());
    for (id, wide, function) in rows {
        assert_eq!(Function::decode(id), Some((function, Smc32)));
        assert_eq!(
            Function::decode(id | WIDE),
            wide.then_some((function, Smc64))
        );
        assert_eq!(function.id(Smc32), id);
        assert_eq!(function.id(Smc64), id | WIDE);
    }
    for id in [
        0,
        0x8400_0016,
        0xc400_0016,
        0x8400_001f,
        0x83ff_ffff,
        0x0400_0000,
        u32::MAX,
    ] {
        assert_eq!(Function::decode(id), None, "{id:#x}");
    }
}

#[test]
fn what_is_not_implemented_says_so() {
    for function in Function::ALL {
        for convention in [Smc32, Smc64] {
            let refused =
                Request::decode(function, convention, [0; 3]) == code(Return::NotSupported);
            assert_eq!(refused, !function.is_implemented(), "{function:?}");
            let id = u64::from(function.id(convention));
            let known =
                function.is_implemented() && (convention == Smc32 || function.has_64_bit_form());
            let expected = if known { 0 } else { NOT_SUPPORTED };
            assert_eq!(
                decode(0x8400_000a, [id, 0, 0]),
                value(expected),
                "{function:?}"
            );
        }
    }
    assert_eq!(decode(0x8400_000a, [0x8000_0000, 0, 0]), value(0));
    assert_eq!(
        decode(0x8400_000a, [0x8000_0001, 0, 0]),
        value(NOT_SUPPORTED)
    );
}

#[test]
fn fixed_answers() {
    assert_eq!(decode(0x8400_0000, [7; 3]), value(0x1_0001));
    assert_eq!(decode(0x8400_0006, [7; 3]), value(2));
    assert_eq!(decode(0x8400_0002, [7; 3]), Request::CpuOff);
    assert_eq!(decode(0x8400_0008, [7; 3]), Request::SystemOff);
    assert_eq!(decode(0x8400_0009, [7; 3]), Request::SystemReset);
}

#[test]
fn cpu_on_checks_its_target_and_truncates_smc32() {
    let entry = 0x1_4000_0000;
    let on = decode(0xc400_0003, [0x01_0002_0304, entry, u64::MAX]);
    let target = Affinity::from_mpidr(0x01_8102_0304);
    assert_eq!(target.raw(), 0x01_0002_0304);
    assert_eq!(
        on,
        Request::CpuOn {
            target,
            entry,
            context: u64::MAX
        }
    );

    // SMC32: no Aff3, 32-bit entry and context, whatever is above.
    let narrow = decode(0x8400_0003, [0xdead_0000_0001, entry, u64::MAX]);
    let target = Affinity::from_mpidr(1);
    assert_eq!(
        narrow,
        Request::CpuOn {
            target,
            entry: 0x4000_0000,
            context: 0xffff_ffff
        }
    );

    for bad in [1 << 24, 1 << 31, 1 << 40, 1 << 63] {
        assert_eq!(
            decode(0xc400_0003, [bad, entry, 0]),
            code(Return::InvalidParameters)
        );
    }
    assert_eq!(
        decode(0x8400_0003, [1 << 31, entry, 0]),
        code(Return::InvalidParameters)
    );
}

#[test]
fn affinity_info() {
    for level in 0..=3 {
        let info = decode(0xc400_0004, [5, u64::from(level) | 7 << 32, 0]);
        let target = Affinity::from_mpidr(5);
        assert_eq!(
            info,
            Request::AffinityInfo {
                target,
                lowest_level: level
            }
        );
    }
    assert_eq!(
        decode(0xc400_0004, [5, 4, 0]),
        code(Return::InvalidParameters)
    );
    assert_eq!(
        decode(0xc400_0004, [1 << 31, 0, 0]),
        code(Return::InvalidParameters)
    );

    let (a, b) = (Affinity::from_mpidr(0x0102), Affinity::from_mpidr(0x0103));
    assert!(!a.same_from(b, 0) && a.same_from(b, 1));
    let far = Affinity::from_mpidr(0x01_0000_0102);
    assert!(!a.same_from(far, 3) && a.same_from(Affinity::from_mpidr(0xff_ffff), 3));
    assert!(!a.same_from(Affinity::from_mpidr(0x02_0102), 2));
}

#[test]
fn cpu_suspend() {
    let suspend = |state| decode(0xc400_0001, [state, 0x4000_0000, 9]);
    let expected = |power_down| Request::CpuSuspend {
        power_down,
        entry: 0x4000_0000,
        context: 9,
    };
    assert_eq!(suspend(0), expected(false));
    assert_eq!(suspend(0x0300_ffff), expected(false));
    assert_eq!(suspend(0x0101_0000), expected(true));
    for bad in [1 << 17, 1 << 23, 1 << 26, 1 << 31] {
        assert_eq!(suspend(bad), code(Return::InvalidParameters), "{bad:#x}");
    }
}

#[test]
fn system_reset2_knows_the_warm_reset_only() {
    assert_eq!(decode(0xc400_0012, [0, 5, 0]), Request::SystemReset);
    assert_eq!(
        decode(0xc400_0012, [1, 0, 0]),
        code(Return::InvalidParameters)
    );
    assert_eq!(
        decode(0xc400_0012, [0x8000_0000, 0, 0]),
        code(Return::NotSupported)
    );
}

#[test]
fn codes_are_sign_extended() {
    assert_eq!(Return::Success.to_bits(), 0);
    assert_eq!(Return::NotSupported.to_bits(), NOT_SUPPORTED);
    assert_eq!(Return::InvalidAddress.to_bits(), 9u64.wrapping_neg());
}

#[test]
fn total_over_functions_and_arguments() {
    let values = [0, 1, 3, 4, 1 << 16, 1 << 31, 1 << 32, 1 << 63, u64::MAX];
    for function in Function::ALL {
        for convention in [Smc32, Smc64] {
            for x1 in values {
                for x2 in values {
                    let _ = Request::decode(function, convention, [x1, x2, u64::MAX]);
                }
            }
        }
    }
}

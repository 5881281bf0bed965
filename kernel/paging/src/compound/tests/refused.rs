//! Roots that get no space.

use super::*;

#[test]
fn unsuitable_registers_are_refused_with_the_reason() {
    let good = regs();
    let with_tcr = |change: u64| Stage1Regs {
        tcr: Tcr::new(good.tcr.raw() ^ change),
        ..good
    };
    let cases = [
        (
            Stage1Regs {
                sctlr: 0b100,
                ..good
            },
            Refusal::Off,
        ),
        (
            Stage1Regs {
                sctlr: 0b001,
                ..good
            },
            Refusal::Off,
        ),
        (
            Stage1Regs {
                sctlr: 0b101 | 1 << 25,
                ..good
            },
            Refusal::BigEndian,
        ),
        (with_tcr(1 << 14), Refusal::Granule),
        (with_tcr(1 << 59), Refusal::Granule),
        (with_tcr(1), Refusal::RootSize),
        (with_tcr(3 << 32), Refusal::OutputSize),
        (with_tcr(1 << 8), Refusal::Uncached),
        (with_tcr(1 << 39), Refusal::HardwareFlags),
        (
            Stage1Regs {
                ttbr0: Ttbr::new(ROOT | 1),
                ..good
            },
            Refusal::CommonNotPrivate,
        ),
        (
            Stage1Regs {
                ttbr0: Ttbr::new(1 << 38),
                ..good
            },
            Refusal::RootAddress,
        ),
    ];
    for (regs, refusal) in cases {
        let mut rig = Rig::new();
        let planted = rig.compound.plant(vm!(rig), &regs, Half::Low);
        assert_eq!(planted, Err(ShadowError::Refused(refusal)));
        assert!(!rig.compound.is_watched(Ipa::truncated(ROOT)));
    }
}

#[test]
fn without_tables_for_stage_2_nothing_is_left_half_done() {
    const BLOCK: u64 = 2 * MIB;
    let mut rig = Rig::<4>::with_nodes();
    let ram = Mapping::new(
        Ipa::truncated(BLOCK),
        Pa::truncated(BLOCK),
        BLOCK,
        Stage2Attrs::RAM,
    );
    rig.stage2.map(&mut rig.memory, ram).unwrap();
    for frame in 0..512 {
        rig.memory.live.insert(BLOCK + frame * 4096);
    }
    let regs = Stage1Regs {
        ttbr0: Ttbr::new(BLOCK + ROOT),
        ..regs()
    };
    let page = Ipa::truncated(BLOCK + ROOT);
    // One more each time: the block cannot be split, or the alias cannot be shown, until it goes.
    for more in 0..10 {
        rig.memory.limit = Some(rig.memory.live.len() + more);
        let planted = rig.compound.plant(vm!(rig), &regs, Half::Low);
        assert_eq!(rig.audit(), 0);
        let leaf = rig.stage2.lookup(&rig.memory, page).unwrap();
        assert_eq!(leaf.attrs.access.writes(), planted.is_err());
        if planted.is_ok() {
            assert!(more > 0);
            return;
        }
        assert_eq!(planted, Err(ShadowError::Stage2(Stage2Error::NoTable)));
    }
    panic!("never planted");
}

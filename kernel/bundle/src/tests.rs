//! Tests of writer and reader together, and of the reader on damaged bundles.

use std::borrow::Cow;

use proptest::prelude::*;

use crate::*;

fn guest(name: &str) -> GuestSpec<'static> {
    let mut lines = Lines::NONE;
    lines.set(Key::Guest, 3);
    lines.set(Key::Memory, 5);
    GuestSpec {
        name: name.into(),
        lines,
        cores: vec![1, 2],
        memory_bytes: 512 << 20,
        backing: Backing::Reserved,
        quota_bytes: None,
        kernel: PayloadFile {
            name: "Image".into(),
            bytes: Cow::Borrowed(&[7; 5000]),
        },
        initrd: Some(PayloadFile {
            name: "initrd.gz".into(),
            bytes: Cow::Borrowed(b"disk"),
        }),
        cmdline: "console=ttyAMA0".into(),
        payload: Payload::Linux,
        on_crash: OnCrash::Stay,
        on_power_off: OnPowerOff::Stay,
        restart_limit: DEFAULT_RESTART_LIMIT,
        restart_delay_ms: DEFAULT_RESTART_DELAY_MS,
        autostart: true,
        paging: Paging::default(),
        address: 0,
        dma_trusted: false,
        devices: Vec::new(),
        watchdog: None,
    }
}

fn window(guest: Option<u8>, us: u32) -> Window {
    Window {
        line: 12,
        guest,
        us,
    }
}

fn schedule(core: u8, windows: Vec<Window>) -> ScheduleSpec {
    ScheduleSpec {
        line: 11,
        core,
        frame_us: 1000,
        windows,
    }
}

fn scenario() -> ScenarioSpec<'static> {
    let mut second = guest("second");
    second.backing = Backing::Thin;
    second.quota_bytes = Some(64 << 20);
    second.initrd = None;
    second.payload = Payload::Flat { entry: 64 };
    second.on_crash = OnCrash::Restart;
    second.on_power_off = OnPowerOff::PowerOff;
    second.watchdog = Some(OnWatchdog::PowerOff);
    second.restart_limit = 7;
    second.restart_delay_ms = 60_000;
    second.autostart = false;
    second.paging = Paging {
        mode: PagingMode::Shadow,
        changes: PagingChanges::Lock,
        pool_bytes: 8 << 20,
        copy_bytes: 0,
    };
    second.dma_trusted = true;
    second.devices = vec![(9, "/a@1".into()), (10, "/b/c@2".into())];
    ScenarioSpec {
        file: "demo.toml".into(),
        when_all_off: WhenAllOff::Wait,
        when_all_off_line: 2,
        guests: vec![guest("linux"), second],
        schedules: vec![schedule(1, vec![window(Some(1), 300), window(None, 700)])],
    }
}

fn refused(change: impl FnOnce(&mut GuestSpec<'static>)) -> WriteError {
    let mut scenario = scenario();
    change(&mut scenario.guests[1]);
    write_bundle(&scenario).unwrap_err()
}

#[test]
fn what_is_written_is_read_back() {
    let bytes = write_bundle(&scenario()).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    let manifest = bundle.manifest().unwrap();
    assert_eq!(manifest.file, "demo.toml");
    assert_eq!(manifest.when_all_off, WhenAllOff::Wait);
    assert_eq!(manifest.when_all_off_line, 2);
    let guests: Vec<_> = manifest.guests().collect();
    assert_eq!(guests.len(), 2);
    assert_eq!(guests[0].name, "linux");
    assert_eq!(guests[0].lines.get(Key::Memory), Some(5));
    assert_eq!(guests[0].cores, [1, 2]);
    assert_eq!(guests[0].quota_bytes, 512 << 20);
    assert_eq!(
        bundle.part(guests[0].kernel).unwrap().verified().unwrap(),
        [7; 5000]
    );
    let initrd = bundle.part(guests[0].initrd.unwrap()).unwrap();
    assert_eq!(initrd.verified().unwrap(), b"disk");
    assert_eq!(guests[1].initrd, None);
    assert_eq!(guests[1].quota_bytes, 64 << 20);
    assert_eq!(guests[1].payload, Payload::Flat { entry: 64 });
    assert_eq!(guests[1].on_crash, OnCrash::Restart);
    assert_eq!(guests[1].on_power_off, OnPowerOff::PowerOff);
    assert_eq!(
        (guests[1].restart_limit, guests[1].restart_delay_ms),
        (7, 60_000)
    );
    assert!(guests[0].autostart && !guests[1].autostart);
    assert_eq!(guests[0].paging, Paging::default());
    assert_eq!(guests[1].paging, scenario().guests[1].paging);
    assert!(!guests[0].dma_trusted && guests[1].dma_trusted);
    assert_eq!(guests[0].watchdog, None);
    assert_eq!(guests[1].watchdog, Some(OnWatchdog::PowerOff));
    assert_eq!(guests[0].devices.count(), 0);
    let devices: Vec<_> = guests[1].devices.map(|d| (d.line, d.path)).collect();
    assert_eq!(devices, [(9, "/a@1"), (10, "/b/c@2")]);
}

#[test]
fn a_policy_that_does_not_exist_is_refused() {
    use sha2::{Digest, Sha256};
    let good = write_bundle(&scenario()).unwrap();
    let bytes = usize::try_from(u64::from_le_bytes(good[80..88].try_into().unwrap())).unwrap();
    // The last fields of the last guest, from the end of the manifest.
    for (from_end, field) in [
        (5, Field::Schedule),
        (30, Field::Watchdog),
        (54, Field::Dma),
        (79, Field::PagingChanges),
        (80, Field::Paging),
        (81, Field::Autostart),
        (90, Field::OnPowerOff),
        (91, Field::OnCrash),
    ] {
        let mut forged = good.clone();
        forged[4096 + bytes - from_end] = 4;
        let digest = Sha256::digest(&forged[4096..4096 + bytes]);
        forged[96..128].copy_from_slice(&digest);
        reseal(&mut forged);
        let manifest = Bundle::parse(&forged).unwrap().manifest().map(|_| ());
        assert_eq!(manifest, Err(Error::ManifestValue(field)));
    }
}

#[test]
fn schedules_are_read_back_and_checked() {
    let bytes = write_bundle(&scenario()).unwrap();
    let manifest = Bundle::parse(&bytes).unwrap().manifest().unwrap();
    let schedules: Vec<_> = manifest.schedules().collect();
    assert_eq!(schedules.len(), 1);
    let read = (schedules[0].line, schedules[0].core, schedules[0].frame_us);
    assert_eq!(read, (11, 1, 1000));
    let windows: Vec<_> = schedules[0].windows.collect();
    assert_eq!(windows, [window(Some(1), 300), window(None, 700)]);
    let good = || schedule(2, vec![window(None, 500)]);
    for bad in [
        vec![schedule(8, vec![window(None, 500)])],
        vec![good(), good()],
        vec![schedule(1, Vec::new())],
        vec![schedule(1, vec![window(Some(2), 500)])],
        vec![schedule(1, vec![window(None, 500), window(None, 501)])],
        vec![schedule(1, vec![window(None, u32::MAX); 2])],
        vec![schedule(1, vec![window(None, 1); MAX_WINDOWS + 1])],
    ] {
        let mut scenario = scenario();
        scenario.schedules = bad;
        let refused = WriteError::Refused(Error::ManifestValue(Field::Schedule));
        assert_eq!(write_bundle(&scenario), Err(refused));
    }
}

#[test]
fn equal_payloads_are_stored_once() {
    let bytes = write_bundle(&scenario()).unwrap();
    let bundle = Bundle::parse(&bytes).unwrap();
    assert_eq!(bundle.part_count(), 3);
}

#[test]
fn bytes_behind_the_bundle_do_not_matter() {
    let mut bytes = write_bundle(&scenario()).unwrap();
    bytes.extend([0xa5; 3000]);
    assert!(Bundle::parse(&bytes).unwrap().manifest().is_ok());
}

#[test]
fn the_writer_refuses_what_the_reader_would() {
    let value = |field| WriteError::Refused(Error::ManifestValue(field));
    let text = |field| WriteError::Refused(Error::ManifestText(field));
    assert_eq!(refused(|g| g.cores.clear()), value(Field::Vcpus));
    assert_eq!(refused(|g| g.cores = vec![0; 9]), value(Field::Vcpus));
    assert_eq!(refused(|g| g.memory_bytes = 0), value(Field::Memory));
    assert_eq!(refused(|g| g.memory_bytes = 4096), value(Field::Memory));
    assert_eq!(
        refused(|g| g.memory_bytes = 512 << 30),
        value(Field::Memory)
    );
    assert_eq!(
        refused(|g| g.quota_bytes = Some(1 << 30)),
        value(Field::Quota)
    );
    assert_eq!(refused(|g| g.quota_bytes = Some(1)), value(Field::Quota));
    assert_eq!(refused(|g| g.name.clear()), text(Field::Name));
    assert_eq!(refused(|g| g.name = "x".repeat(33)), text(Field::Name));
    assert_eq!(
        refused(|g| g.cmdline = "x".repeat(2048)),
        text(Field::Cmdline)
    );
    assert_eq!(refused(|g| g.cmdline = "a\nb".into()), text(Field::Cmdline));
    assert_eq!(
        refused(|g| g.payload = Payload::Flat { entry: 5000 }),
        value(Field::Payload)
    );
    assert_eq!(refused(|g| g.restart_limit = 0), value(Field::RestartLimit));
    assert_eq!(
        refused(|g| g.restart_limit = 1001),
        value(Field::RestartLimit)
    );
    assert_eq!(
        refused(|g| g.restart_delay_ms = 60_001),
        value(Field::RestartDelay)
    );
    for pool_bytes in [0, 1 << 20, 10 << 20] {
        let pool = refused(|g| g.paging.pool_bytes = pool_bytes);
        assert_eq!(pool, value(Field::PagingPool));
    }
    for copy_bytes in [1, 2 << 30] {
        let copy = refused(|g| g.paging.copy_bytes = copy_bytes);
        assert_eq!(copy, value(Field::PagingCopy));
    }
    assert_eq!(
        refused(|g| g.paging.changes = PagingChanges::Never),
        value(Field::PagingChanges)
    );
    assert_eq!(
        refused(|g| g.name = "linux".into()),
        WriteError::Refused(Error::DuplicateName)
    );
    let mut many = scenario();
    many.guests = (0..8).map(|n| guest(&n.to_string())).collect();
    assert_eq!(write_bundle(&many).unwrap_err(), value(Field::GuestCount));
}

#[test]
fn each_damage_has_its_name() {
    let bytes = write_bundle(&scenario()).unwrap();
    let with = |at: usize, value: u8| {
        let mut copy = bytes.clone();
        copy[at] = value;
        copy
    };
    let parse = |bytes: &[u8]| Bundle::parse(bytes).map(|_| ()).unwrap_err();
    assert_eq!(parse(&[]), Error::NotABundle);
    assert_eq!(parse(&with(0, b'p')), Error::NotABundle);
    assert_eq!(parse(&bytes[..63]), Error::Truncated { have: 63, need: 64 });
    assert_eq!(parse(&with(8, 1)), Error::Version(1));
    assert_eq!(parse(&with(12, 0)), Error::PartCount(0));
    assert_eq!(parse(&with(12, 65)), Error::PartCount(65));
    assert_eq!(parse(&with(24, 1)), Error::TableDigest);
    assert_eq!(parse(&with(32, bytes[32] ^ 1)), Error::TableDigest);
    assert_eq!(parse(&with(70, 1)), Error::TableDigest);
    let (have, need) = (bytes.len() as u64 - 1, bytes.len() as u64);
    assert_eq!(
        parse(&bytes[..bytes.len() - 1]),
        Error::Truncated { have, need }
    );
    let damaged = with(4096, bytes[4096] ^ 1);
    let manifest = Bundle::parse(&damaged).unwrap().manifest().map(|_| ());
    assert_eq!(manifest, Err(Error::PartDigest(0)));
    let damaged = with(8192 + 4999, 6);
    let kernel = Bundle::parse(&damaged).unwrap().part(1).unwrap();
    assert_eq!(kernel.verified(), Err(Error::PartDigest(1)));
    assert_eq!(
        Bundle::parse(&bytes).unwrap().part(3).map(|_| ()),
        Err(Error::NoSuchPart(3))
    );
}

/// Puts the right digest over header and table after they were changed.
fn reseal(bytes: &mut [u8]) {
    use sha2::{Digest, Sha256};
    let end = 64 + 64 * usize::from(bytes[12]);
    let digest = Sha256::new()
        .chain_update(&bytes[..32])
        .chain_update(&bytes[64..end])
        .finalize();
    bytes[32..64].copy_from_slice(&digest);
}

#[test]
fn a_forged_table_is_checked_too() {
    let good = write_bundle(&scenario()).unwrap();
    let forged = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        reseal(&mut bytes);
        Bundle::parse(&bytes).map(|_| ()).unwrap_err()
    };
    let second = 64 + 64;
    assert_eq!(forged(24, &[1]), Error::HeaderReserved);
    assert_eq!(forged(second + 4, &[1]), Error::PartReserved(1));
    assert_eq!(forged(second, &[9]), Error::PartKind { part: 1, kind: 9 });
    assert_eq!(forged(second, &[1]), Error::ManifestPlace);
    assert_eq!(forged(64, &[2]), Error::ManifestPlace);
    assert_eq!(
        forged(second + 8, &8193u64.to_le_bytes()),
        Error::PartOffset(1)
    );
    assert_eq!(
        forged(second + 8, &4096u64.to_le_bytes()),
        Error::PartOffset(1)
    );
    assert_eq!(
        forged(second + 8, &0u64.to_le_bytes()),
        Error::PartOffset(1)
    );
    assert_eq!(
        forged(second + 16, &u64::MAX.to_le_bytes()),
        Error::PartBounds(1)
    );
    assert_eq!(
        forged(second + 16, &(1u64 << 40).to_le_bytes()),
        Error::PartBounds(1)
    );
}

/// Reads everything that a bundle offers. Each part that is handed out must be one of the originals.
fn explore(bytes: &[u8], originals: &[Vec<u8>]) {
    let Ok(bundle) = Bundle::parse(bytes) else {
        return;
    };
    if let Ok(manifest) = bundle.manifest() {
        assert_eq!(
            manifest.guests().count(),
            usize::from(manifest.guest_count())
        );
    }
    for index in 0..bundle.part_count() {
        if let Ok(content) = bundle.part(index).and_then(|part| part.verified()) {
            assert!(originals.iter().any(|original| original == content));
        }
    }
}

fn originals(bytes: &[u8]) -> Vec<Vec<u8>> {
    let bundle = Bundle::parse(bytes).unwrap();
    let part = |index| bundle.part(index).unwrap().verified().unwrap().to_vec();
    (0..bundle.part_count()).map(part).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn mutated_bundles_are_refused_or_whole(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        near_start in any::<bool>(),
    ) {
        let good = write_bundle(&scenario()).unwrap();
        let originals = originals(&good);
        let mut bytes = good;
        let reach = if near_start { 256 } else { bytes.len() };
        for (at, value) in flips {
            let at = at.index(reach);
            bytes[at] ^= value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        explore(&bytes, &originals);
    }

    #[test]
    fn a_forged_manifest_never_panics(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        len in prop::option::of(0u64..400),
    ) {
        use sha2::{Digest, Sha256};
        let mut bytes = write_bundle(&scenario()).unwrap();
        let mut manifest_bytes = usize::try_from(u64::from_le_bytes(bytes[80..88].try_into().unwrap())).unwrap();
        for (at, value) in flips {
            bytes[4096 + at.index(manifest_bytes)] ^= value;
        }
        if let Some(len) = len {
            manifest_bytes = usize::try_from(len).unwrap();
            bytes[80..88].copy_from_slice(&len.to_le_bytes());
        }
        let digest = Sha256::digest(&bytes[4096..4096 + manifest_bytes]);
        bytes[96..128].copy_from_slice(&digest);
        reseal(&mut bytes);
        let bundle = Bundle::parse(&bytes).unwrap();
        if let Ok(manifest) = bundle.manifest() {
            for guest in manifest.guests() {
                prop_assert!(!guest.cores.is_empty() && guest.cores.len() <= 8);
                prop_assert!(guest.memory_bytes.is_multiple_of(MEMORY_UNIT_BYTES));
                prop_assert!(bundle.part(guest.kernel).is_ok());
            }
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        explore(&bytes, &[]);
        let mut with_magic = MAGIC.to_vec();
        with_magic.extend(&bytes);
        explore(&with_magic, &[]);
    }
}

//! Each bad input gets one clear sentence, and nothing is started.

use penumbra_abi::{AbiVersion, Error};
use penumbra_bundle::Payload;

use super::*;
use crate::serve;

/// Serves, expects a fatal ending, and returns the fatal line.
fn fatal(fake: &mut Fake, bundle: &[u8]) -> String {
    assert_eq!(serve(fake, bundle, revival(0)), Ending::Fatal);
    assert_eq!(fake.count("VmStart"), 0, "nothing may be started");
    assert!(fake.vms.is_empty(), "nothing may be left behind");
    let lines = fake
        .screen
        .lines()
        .filter_map(|line| line.strip_prefix("penumbra: fatal: "));
    let lines: Vec<_> = lines.collect();
    assert_eq!(lines.len(), 1, "one sentence:\n{}", fake.screen);
    lines[0].into()
}

fn refused(change: impl FnOnce(&mut GuestSpec<'static>)) -> String {
    let mut linux = guest("linux");
    change(&mut linux);
    fatal(&mut Fake::new(), &bundle(vec![linux]))
}

#[test]
fn no_bundle() {
    let sentence = fatal(&mut Fake::new(), &[]);
    assert!(sentence.starts_with("there is no bundle: "), "{sentence}");
}

#[test]
fn damaged_bundles() {
    let good = bundle(vec![guest("linux")]);
    let cut = fatal(&mut Fake::new(), &good[..good.len() - 1]);
    assert!(cut.starts_with("the bundle is cut short"), "{cut}");
    let not = fatal(&mut Fake::new(), b"\x1f\x8b, an initrd");
    assert!(not.starts_with("this is not a bundle"), "{not}");
    let mut flipped = good.clone();
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    let initrd = fatal(&mut Fake::new(), &flipped);
    assert_eq!(
        initrd,
        "guest 'linux': the initrd cannot be read: part 2 is damaged: its digest is wrong; make \
         the bundle again (demo.toml, line 6)"
    );
    let mut flipped = good;
    flipped[8192] ^= 1;
    let kernel = fatal(&mut Fake::new(), &flipped);
    assert!(
        kernel.contains("the kernel cannot be read: part 1 is damaged"),
        "{kernel}"
    );
}

#[test]
fn wrong_kernels() {
    let elf = refused(|guest| guest.kernel.bytes = b"\x7fELF and so on".to_vec().into());
    assert_eq!(
        elf,
        "guest 'linux': vmlinuz is an ELF file; name the Image (arch/arm64/boot/Image): see \
         `kernel` (demo.toml, line 6)"
    );
    let pages = refused(|guest| guest.kernel.bytes = kernel(4096, 8192, 0, 0xc).into());
    assert!(pages.contains("16 KiB pages"), "{pages}");
    let short = refused(|guest| guest.kernel.bytes = vec![0; 5].into());
    assert!(short.contains("too short"), "{short}");
}

#[test]
fn too_little_memory_for_the_payload() {
    let kernel = refused(|guest| guest.memory_bytes = 2 * MIB);
    assert_eq!(
        kernel,
        "guest 'linux': the kernel needs 3 MiB but memory is 2 MiB; raise `memory` \
         (demo.toml, line 5)"
    );
    let initrd = refused(|guest| {
        guest.memory_bytes = 4 * MIB;
        guest.initrd.as_mut().unwrap().bytes = vec![0; 2 << 20].into();
    });
    assert!(
        initrd.contains("the kernel with its initrd needs 5 MiB but memory is 4"),
        "{initrd}"
    );
    let flat = refused(|guest| {
        guest.payload = Payload::Flat { entry: 0 };
        guest.initrd = None;
        guest.memory_bytes = 2 * MIB;
        guest.kernel.bytes = vec![0; 2 << 20].into();
    });
    assert!(
        flat.contains("device tree needs 3 MiB but memory is 2 MiB"),
        "{flat}"
    );
}

#[test]
fn too_small_a_quota_for_the_payload() {
    let quota = fatal(&mut Fake::new(), &bundle(vec![thin("linux", 2 * MIB)]));
    assert_eq!(
        quota,
        "guest 'linux': the payload needs 4 MiB but the quota is 2 MiB; raise `quota` \
         (demo.toml, line 1)"
    );
}

#[test]
fn too_little_memory_on_the_board() {
    let mut fake = Fake::new();
    fake.board.free_bytes = 100 * MIB;
    let mut large = guest("large");
    large.memory_bytes = 96 * MIB;
    let board = fatal(&mut fake, &bundle(vec![guest("small"), large]));
    assert_eq!(
        board,
        "guest 'large': the guests need 160 MiB but the board has 100 MiB free; lower `memory` or \
         give the board more (demo.toml, line 5)"
    );
}

#[test]
fn quotas_may_add_up_to_more_than_there_is_but_not_alone() {
    let mut fake = Fake::new();
    fake.board.free_bytes = 100 * MIB;
    let mut a = thin("a", 64 * MIB);
    a.memory_bytes = 256 * MIB;
    let b = GuestSpec {
        name: "b".into(),
        ..a.clone()
    };
    let both = bundle(vec![a.clone(), b]);
    booted(&mut fake, &both);
    assert!(fake.screen.contains("note: the quotas"), "{}", fake.screen);
    let mut fake = Fake::new();
    fake.board.free_bytes = 60 * MIB;
    let alone = fatal(&mut fake, &bundle(vec![a]));
    assert!(
        alone.contains("need 64 MiB but the board has 60 MiB free"),
        "{alone}"
    );
}

#[test]
fn cores_that_are_not_there() {
    let core = refused(|guest| guest.cores = vec![1, 4]);
    assert_eq!(
        core,
        "guest 'linux': vCPU 1 is to run on core 4 but the board has cores 0 to 3; change `cores` \
         (demo.toml, line 4)"
    );
}

#[test]
fn another_interface() {
    let mut fake = Fake::new();
    fake.version = AbiVersion { major: 9, minor: 0 };
    let version = fatal(&mut fake, &bundle(vec![guest("linux")]));
    assert!(
        version.contains("interface 9, the manager needs 1"),
        "{version}"
    );
}

#[test]
fn whatever_el2_refuses_is_said_and_cleaned_up() {
    for (call, words) in [
        ("VmCreate", "would not create the VM: a table is full"),
        ("VmMapRam", "would not give it memory: a table is full"),
        ("VmGic", "would not give it an interrupt controller"),
        ("VmUart", "would not give it a console"),
        ("VcpuPin", "would not pin a vCPU"),
        ("GrantBegin", "would not lend its memory"),
        ("GrantEnd", "would not end the loan"),
    ] {
        let mut fake = Fake::new();
        fake.failures.insert(call, Error::NoSlot);
        let sentence = fatal(&mut fake, &bundle(vec![guest("linux")]));
        assert!(sentence.contains(words), "{call}: {sentence}");
        assert!(
            sentence.ends_with("(demo.toml, line 1)"),
            "{call}: {sentence}"
        );
    }
    let mut fake = Fake::new();
    fake.failures.insert("VmMapRam", Error::NoMemory);
    let sentence = fatal(&mut fake, &bundle(vec![guest("linux")]));
    assert!(
        sentence.contains("need 64 MiB but the board has 1024 MiB free"),
        "{sentence}"
    );
}

#[test]
fn one_bad_guest_keeps_the_good_ones_from_starting() {
    let mut bad = guest("bad");
    bad.kernel.bytes = vec![0; 100].into();
    let sentence = fatal(&mut Fake::new(), &bundle(vec![guest("good"), bad]));
    assert!(sentence.starts_with("guest 'bad': "), "{sentence}");
}

//! Loading and starting, and taking over after a restart.

use penumbra_abi::{Backing, CrashCause, MANAGER_WINDOW_IPA, StopReason, VmState};
use penumbra_bundle::Payload;

use super::*;
use crate::hypervisor::Hypervisor;
use crate::map::RAM_IPA;
use crate::serve;

#[test]
fn a_guest_is_loaded_and_started_in_order() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    booted(&mut fake, &bundle);
    let order = [
        "VmCreate 1",
        "VmMapRam 1",
        "VmGic 1",
        "VmUart 1",
        "VcpuPin 1",
        "GrantBegin 1",
        "GrantEnd 1",
        "VmStart 1",
    ];
    assert_eq!(fake.log, order);
    let vm = fake.vm(1);
    assert_eq!(vm.status.state, VmState::Running);
    assert_eq!(vm.status.tag, 1);
    assert_eq!(vm.backing(), Some(Backing::Reserved));
    assert_eq!((vm.pin(0), vm.pin(1)), (Some(1), Some(2)));
    assert!(vm.grants.is_empty(), "no loan is left when the guest runs");
}

#[test]
fn payloads_lie_where_the_tree_and_x0_say() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    booted(&mut fake, &bundle);
    let vm = fake.vm(1);
    let [kernel, initrd, tree] = vm.written.as_slice() else {
        panic!("{}", vm.written.len())
    };
    assert_eq!(kernel.0, RAM_IPA);
    assert_eq!(kernel.1.len(), 100_000);
    // Behind all that the kernel uses, not behind its file.
    assert_eq!(initrd.0, RAM_IPA + 3 * MIB);
    assert_eq!(initrd.1, [0xd1; 5000]);
    assert!(tree.0 > initrd.0 + 5000 && tree.0 % 8 == 0);
    assert_eq!(tree.1[..4], [0xd0, 0x0d, 0xfe, 0xed]);
    assert_eq!(vm.entry, Some((RAM_IPA, tree.0)));
    let start = initrd.0.to_be_bytes();
    assert!(tree.1.windows(8).any(|window| window == start));
}

#[test]
fn a_flat_binary_gets_its_tree_at_the_end_of_memory() {
    let mut flat = guest("bare");
    flat.payload = Payload::Flat { entry: 8 };
    flat.kernel.bytes = vec![1; 9000].into();
    flat.initrd = None;
    flat.memory_bytes = 2 * MIB;
    flat.cores = vec![3];
    let mut fake = Fake::new();
    let bundle = bundle(vec![flat]);
    booted(&mut fake, &bundle);
    let vm = fake.vm(1);
    let (entry, tree) = vm.entry.unwrap();
    assert_eq!(entry, RAM_IPA + 8);
    assert_eq!(tree, RAM_IPA + 2 * MIB - (64 << 10));
    assert_eq!(vm.written[0].0, RAM_IPA);
}

#[test]
fn thin_guests_start_with_a_stock() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![thin("linux", 32 * MIB)]);
    booted(&mut fake, &bundle);
    assert_eq!(fake.vm(1).backing(), Some(Backing::Thin));
    assert_eq!(fake.vm(1).ram.unwrap().quota_bytes, 32 * MIB);
    assert_eq!(fake.vm(1).status.stock_frames, 8);
    assert!(fake.position("GrantEnd") < fake.position("VmStockAdd"));
    assert!(fake.position("VmStockAdd") < fake.position("VmStart"));
}

#[test]
fn several_guests_are_started_one_after_the_other() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("a"), guest("b"), thin("c", 16 * MIB)]);
    booted(&mut fake, &bundle);
    for number in 1..=3 {
        assert_eq!(fake.vm(number).status.state, VmState::Running);
        assert_eq!(fake.vm(number).status.tag, number);
    }
    assert!(fake.screen.contains("guest 'b'"), "{}", fake.screen);
}

#[test]
fn the_legend_says_what_runs_and_how_to_get_out() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    booted(&mut fake, &bundle);
    for text in [
        "demo.toml",
        "'linux'",
        "64 MiB reserved",
        "vmlinuz",
        "poweroff",
        "Ctrl-A X",
    ] {
        assert!(fake.screen.contains(text), "{text} in\n{}", fake.screen);
    }
    assert!(
        fake.screen
            .lines()
            .all(|line| line.starts_with("penumbra: ")),
        "{}",
        fake.screen
    );
}

#[test]
fn left_out_cores_follow_the_board() {
    let mut one = guest("linux");
    one.lines = Lines::NONE;
    let mut fake = Fake::new();
    fake.board.cores = 1;
    let bundle = bundle(vec![one]);
    booted(&mut fake, &bundle);
    assert_eq!((fake.vm(1).pin(0), fake.vm(1).pin(1)), (Some(0), Some(0)));
}

#[test]
fn a_restarted_manager_leaves_running_guests_alone() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("a"), guest("b")]);
    booted(&mut fake, &bundle);
    fake.forget();
    fake.vm(2).output.extend(b"still here\r\n");
    let mut manager = Manager::boot(&mut fake, &bundle, revival(1)).unwrap_or_else(|_| panic!());
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.log, Vec::<String>::new());
    assert!(fake.screen.contains("restarted"), "{}", fake.screen);
    assert!(fake.screen.contains("b| still here\r\n"), "{}", fake.screen);
}

#[test]
fn a_restarted_manager_finishes_what_was_half_done() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("a"), guest("b")]);
    booted(&mut fake, &bundle);
    // Guest b was being loaded: created, not started.
    fake.vm(2).status.state = VmState::Created;
    fake.forget();
    let manager = Manager::boot(&mut fake, &bundle, revival(1));
    assert!(manager.is_ok());
    assert_eq!(fake.count("VmCreate"), 1);
    assert!(fake.position("VmDestroy 2") < fake.position("VmCreate 2"));
    assert_eq!(fake.vm(2).status.state, VmState::Running);
    assert_eq!(fake.vm(1).status.state, VmState::Running);
}

#[test]
fn a_restarted_manager_answers_what_happened_meanwhile() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("a"), guest("b")]);
    booted(&mut fake, &bundle);
    fake.stop(1, StopReason::Reset, CrashCause::None);
    fake.stop(2, StopReason::PowerOff, CrashCause::None);
    let mut manager = Manager::boot(&mut fake, &bundle, revival(1)).unwrap_or_else(|_| panic!());
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert_eq!(fake.vm(1).status.state, VmState::Running);
    assert!(
        fake.screen.contains("guest 'a' resets itself"),
        "{}",
        fake.screen
    );
    assert!(fake.screen.contains("guest 'b' is off"), "{}", fake.screen);
}

#[test]
fn a_guest_that_is_off_stays_off_when_the_manager_restarts() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("a"), guest("b")]);
    let mut manager = booted(&mut fake, &bundle);
    fake.stop(1, StopReason::PowerOff, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), None);
    fake.forget();
    let mut manager = Manager::boot(&mut fake, &bundle, revival(1)).unwrap_or_else(|_| panic!());
    assert_eq!(fake.log, Vec::<String>::new());
    fake.stop(2, StopReason::PowerOff, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Off));
}

#[test]
fn a_manager_that_never_gets_anywhere_gives_up() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("a")]);
    assert_eq!(serve(&mut fake, &bundle, revival(5)), Ending::Fatal);
    assert!(
        fake.screen
            .contains("penumbra: fatal: the manager was restarted 5 times")
    );
}

#[test]
fn nothing_can_be_written_once_the_guest_runs() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("linux")]);
    booted(&mut fake, &bundle);
    assert_eq!(
        fake.window_write(MANAGER_WINDOW_IPA, &[0]),
        Err(penumbra_abi::Error::NotMapped)
    );
}

#[test]
fn a_guest_that_cannot_be_started_does_not_end_the_others() {
    let mut fake = Fake::new();
    let bundle = bundle(vec![guest("a"), guest("b")]);
    fake.slots = 1;
    let mut manager = Manager::boot(&mut fake, &bundle, revival(0)).unwrap_or_else(|_| panic!());
    assert_eq!(settle(&mut manager, &mut fake), None);
    assert!(
        fake.screen
            .contains("guest 'b': the hypervisor would not create"),
        "{}",
        fake.screen
    );
    assert!(!fake.screen.contains("fatal"), "{}", fake.screen);
    fake.stop(1, StopReason::PowerOff, CrashCause::None);
    assert_eq!(settle(&mut manager, &mut fake), Some(Ending::Fatal));
}

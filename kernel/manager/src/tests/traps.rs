//! The log of refused accesses, in the shell.

use penumbra_abi::TrapRecord;

use super::shell::{at_shell, pair, shows, typed};
use super::*;

fn record(esr: u32, what: u64, when: u64) -> TrapRecord {
    TrapRecord {
        esr,
        vcpu: 1,
        pc: 0x4008_0000 + when,
        far: what,
        what,
        count: 10 + when,
        when,
    }
}

#[test]
fn what_was_refused_is_shown_latest_first_with_what_to_change() {
    let mut fake = Fake::new();
    fake.tree = penumbra_devices::example::board().leak();
    let bundle = pair();
    let mut manager = at_shell(&mut fake, &bundle);
    shows(
        &typed(&mut manager, &mut fake, "traps linux\r"),
        &["guest 'linux': nothing was refused since it was loaded"],
    );
    let end = 0x4000_0000 + 64 * MIB;
    fake.vm(1).refused = vec![
        record(0x9200_0046, 0x0901_0010, 1),
        record(0x9200_0006, end + 0x1000, 2),
        record(0x9200_0006, 0x0900_0018, 3),
        record(0x9200_0006, 0x2000, 4),
        record(0x6236_f801, u64::MAX, 5),
        record(0x5a00_0000, 0x8600_1234, 6),
        record(0x9200_0006, 0x0803_0000, 7),
    ];
    let screen = typed(&mut manager, &mut fake, "traps linux\r");
    shows(
        &screen,
        &[
            "guest 'linux': 99 accesses were refused",
            "  11 times, last ",
            "by vCPU 1 at PC 0x40080001: data abort on a write: translation fault at level 2",
            "address 0x9010010 (virtual 0x9010010), in no node of its device tree; the nearest, /pl011@9000000",
            "the board has /pl031@9010000 there; to change: name it in `devices` (demo.toml, line ",
            "to change: raise `memory` (demo.toml, line ",
            "0x18 into node /pl011@9000000",
            "loads and stores of one register; to change: the payload in `kernel`",
            "this guest is defined here: (demo.toml, line ",
            "HVC #0, function 0x86001234",
            "1 more, of other kinds: the log keeps the last 7 kinds",
        ],
    );
    let place = |part: &str| screen.find(part).unwrap();
    assert!(place("0x86001234") < place("0x9010010"), "{screen}");
    // Without a name: all. A guest that is off has none.
    typed(&mut manager, &mut fake, "stop bare\rdestroy bare\r");
    let screen = typed(&mut manager, &mut fake, "traps\r");
    shows(&screen, &["guest 'linux': 99", "guest 'bare' has no VM"]);
    assert_eq!(fake.misuse, Vec::<String>::new());
}

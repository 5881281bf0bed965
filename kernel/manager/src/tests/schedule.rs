//! Schedules of cores, from the bundle to EL2 and back to the screen.

use penumbra_bundle::{ScheduleSpec, Window};

use super::*;

fn scheduled(core: u8) -> Vec<u8> {
    let window = |guest, us| Window {
        line: 20,
        guest,
        us,
    };
    let spec = ScenarioSpec {
        file: "demo.toml".into(),
        when_all_off: WhenAllOff::PowerOff,
        when_all_off_line: 0,
        guests: vec![guest("linux"), guest("rt")],
        schedules: vec![
            ScheduleSpec {
                line: 17,
                core,
                frame_us: 10_000,
                windows: vec![window(Some(1), 2000), window(Some(0), 6000)],
            },
            ScheduleSpec {
                line: 30,
                core: 0,
                frame_us: 5000,
                windows: vec![window(None, 5000)],
            },
        ],
    };
    write_bundle(&spec).unwrap()
}

#[test]
fn host_and_hypervisor_have_the_same_limits() {
    assert_eq!(penumbra_bundle::MAX_WINDOWS, penumbra_abi::MAX_WINDOWS);
    let host = [
        penumbra_bundle::MIN_WINDOW_US,
        penumbra_bundle::MIN_MANAGER_WINDOW_US,
        penumbra_bundle::MAX_FRAME_US,
    ];
    let hypervisor = [
        penumbra_abi::MIN_WINDOW_US,
        penumbra_abi::MIN_MANAGER_WINDOW_US,
        penumbra_abi::MAX_FRAME_US,
    ];
    assert_eq!(host.map(u64::from), hypervisor);
}

#[test]
fn schedules_are_installed_once_after_the_guests_are_there() {
    let mut fake = Fake::new();
    let bundle = scheduled(1);
    let _manager = booted(&mut fake, &bundle);
    assert_eq!(fake.tables[&1], (vec![(2, 2000), (1, 6000)], 10_000));
    assert_eq!(fake.tables[&0], (vec![(0, 5000)], 5000));
    assert!(fake.position("VmStart 2") < fake.position("ScheduleInstall 1"));
    // One that is restarted finds them in force.
    fake.forget();
    let again = Manager::boot(&mut fake, &bundle, revival(1));
    assert!(again.is_ok());
    assert_eq!(fake.count("ScheduleInstall"), 0);
}

#[test]
fn a_core_that_the_board_lacks_is_reported_with_its_line() {
    let mut fake = Fake::new();
    let bundle = scheduled(7);
    let _manager = booted(&mut fake, &bundle);
    let said = "core 7 has no schedule: the board has cores 0 to 3 (demo.toml, line 17)";
    assert!(fake.screen.contains(said), "{}", fake.screen);
    assert_eq!(fake.tables.len(), 1);
}

#[test]
fn the_shell_shows_windows_and_their_lateness() {
    let mut fake = Fake::new();
    let bundle = scheduled(1);
    let mut manager = booted(&mut fake, &bundle);
    fake.forget();
    fake.keys.extend(b"\x1dsschedule\r");
    settle(&mut manager, &mut fake);
    for said in [
        "core 0: frame of 5000 us, 1000 begun, 1 missed",
        "        0       5000  the manager          999  2000.00, 7000.00, 30000.00",
        "     2000       6000  linux                999  2000.00, 7000.00, 30000.00",
        "     8000       2000  nobody",
    ] {
        assert!(fake.screen.contains(said), "{said}: {}", fake.screen);
    }
    fake.tables.clear();
    fake.keys.extend(b"schedule\r");
    settle(&mut manager, &mut fake);
    assert!(fake.screen.contains("no core has a schedule"));
}

//! Tests of the whole policy against the fake EL2.

mod boot;
mod console;
mod devices;
mod figures;
mod fuzz;
mod life;
mod paging;
mod refuse;
mod schedule;
mod shell;
mod traps;

use std::borrow::Cow;

use penumbra_abi::Events;
use penumbra_bundle::{
    Backing, GuestSpec, Key, Lines, OnCrash, OnPowerOff, Paging, Payload, PayloadFile,
    ScenarioSpec, WhenAllOff, write_bundle,
};

use crate::fake::{Fake, MIB};
use crate::hypervisor::Revival;
use crate::image::tests::kernel;
use crate::manager::{Ending, Manager};

/// A guest whose keys stand on the lines that people would give them.
pub(crate) fn guest(name: &str) -> GuestSpec<'static> {
    let mut lines = Lines::NONE;
    for (line, key) in (1..).zip([
        Key::Guest,
        Key::Name,
        Key::Vcpus,
        Key::Cores,
        Key::Memory,
        Key::Kernel,
        Key::Initrd,
        Key::Cmdline,
    ]) {
        lines.set(key, line);
    }
    GuestSpec {
        name: name.into(),
        lines,
        cores: vec![1, 2],
        memory_bytes: 64 * MIB,
        backing: Backing::Reserved,
        quota_bytes: None,
        kernel: PayloadFile {
            name: "vmlinuz".into(),
            bytes: Cow::Owned(kernel(100_000, 3 * MIB, 0, 0xa)),
        },
        initrd: Some(PayloadFile {
            name: "initrd".into(),
            bytes: Cow::Borrowed(&[0xd1; 5000]),
        }),
        cmdline: "console=ttyAMA0".into(),
        payload: Payload::Linux,
        on_crash: OnCrash::Stay,
        on_power_off: OnPowerOff::Stay,
        restart_limit: 2,
        restart_delay_ms: 0,
        autostart: true,
        paging: Paging::default(),
        address: 0,
        dma_trusted: false,
        devices: Vec::new(),
        watchdog: None,
    }
}

fn thin(name: &str, quota_bytes: u64) -> GuestSpec<'static> {
    GuestSpec {
        backing: Backing::Thin,
        quota_bytes: Some(quota_bytes),
        ..guest(name)
    }
}

fn bundle_of(guests: Vec<GuestSpec<'static>>, when_all_off: WhenAllOff) -> Vec<u8> {
    let file = "demo.toml".into();
    write_bundle(&ScenarioSpec {
        file,
        when_all_off,
        when_all_off_line: 0,
        guests,
        schedules: Vec::new(),
    })
    .unwrap()
}

pub(crate) fn bundle(guests: Vec<GuestSpec<'static>>) -> Vec<u8> {
    bundle_of(guests, WhenAllOff::PowerOff)
}

/// A manager that was restarted so often.
fn revival(restarts: u64) -> Revival {
    Revival {
        restarts,
        ..Revival::default()
    }
}

/// Boots and expects the guests to run; nothing was done that EL2 would refuse.
fn booted<'a>(fake: &mut Fake, bundle: &'a [u8]) -> Manager<'a> {
    let manager = Manager::boot(fake, bundle, revival(0));
    let manager = manager.unwrap_or_else(|_| panic!("no boot:\n{}", fake.screen));
    assert_eq!(fake.misuse, Vec::<String>::new());
    manager
}

/// Lets the manager answer until nothing is left to answer. Returns its ending, if it came to one.
fn settle(manager: &mut Manager<'_>, fake: &mut Fake) -> Option<Ending> {
    loop {
        if fake.events() == Events::default() && manager.deadline(fake) == u64::MAX {
            return manager.ending(fake);
        }
        if let Some(ending) = manager.step(fake) {
            return Some(ending);
        }
    }
}

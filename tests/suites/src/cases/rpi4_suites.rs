//! The suites of QEMU's `virt` on the Raspberry Pi 4: what they do is told where they are.

use super::linux::{self, Point};
use super::paging::Mode;
use super::{crash, lives, operator, paging, paging_attack, paging_load, payload, schedule};
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = payloads();
    cases.extend(loads());
    cases.extend(compound());
    cases.extend([
        on("operator-shell-two-linux", true, operator::shell),
        on("manager-dies-beside-linux", true, lives::dies_thrice),
        on("manager-dies-in-every-way", false, lives::dies_in_every_way),
        on("watchdog-restarts-linux", false, lives::watchdog),
        on("schedule-hog", false, schedule::hog),
        on("schedule-linux-pair", false, schedule::linux_pair),
        on("linux-pair-on-one-core", false, linux::pair),
    ]);
    cases
}

/// A test of another board on this one.
fn on(
    name: &str,
    quick: bool,
    run: impl Fn(&Workshop, &str, &Setup) -> Result<(), String> + Send + Sync + 'static,
) -> Case {
    let name = format!("rpi4-{name}");
    Case::named(name, quick, move |w, name| run(w, name, &w.rpi4()))
}

/// Bare-metal guests.
fn payloads() -> Vec<Case> {
    let mut cases = vec![
        on("traps-one-core", false, payload::one_core),
        on("twins", false, payload::twins),
    ];
    for vcpus in 1..=4 {
        for backing in ["reserved", "thin"] {
            let quick = [(1, "thin"), (4, "reserved")].contains(&(vcpus, backing));
            let name = format!("traps-{vcpus}vcpu-{backing}");
            cases.push(on(&name, quick, move |w, name, setup| {
                payload::traps_on(w, name, setup, vcpus, backing)
            }));
        }
    }
    for (way, words) in crash::DEATHS {
        let quick = way == "wild-jump";
        cases.push(on(&format!("crash-{way}"), quick, move |w, name, setup| {
            crash::dies(w, name, setup, way, words)
        }));
    }
    for (way, end) in crash::LIVES {
        cases.push(on(&format!("crash-{way}"), false, move |w, name, setup| {
            crash::lives(w, name, setup, way, end)
        }));
    }
    for (name, run) in crash::BESIDES {
        cases.push(on(name, false, run));
    }
    cases
}

/// Debian's kernels under load.
fn loads() -> Vec<Case> {
    let mut cases = vec![load(true, linux::CLOUD, 2, "thin")];
    for kernel in [linux::DEBIAN, linux::BACKPORTS] {
        for vcpus in 1..=4 {
            for backing in ["reserved", "thin"] {
                cases.push(load(false, kernel, vcpus, backing));
            }
        }
    }
    for (vcpus, backing) in [(2, "thin"), (4, "reserved")] {
        cases.push(load(false, linux::RT, vcpus, backing));
    }
    cases
}

fn load(quick: bool, kernel: &'static str, vcpus: u8, backing: &'static str) -> Case {
    let seconds = match quick {
        true => linux::QUICK_SECONDS,
        false => linux::FULL_SECONDS,
    };
    // The board has no choice of the first two.
    let point = Point {
        gic: 2,
        cpu: "cortex-a72",
        vcpus,
        backing,
        kernel,
        seconds,
    };
    let name = format!("{kernel}-{vcpus}vcpu-{backing}-{seconds}s");
    on(&name, quick, move |w, name, setup| {
        linux::load_on(w, name, setup, point)
    })
}

/// Guests with `paging = "compound"` or `"shadow"`.
fn compound() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kernel, vcpus, backing, mode) in [
        (linux::CLOUD, 2, "reserved", Mode::Compound),
        (linux::DEBIAN, 4, "thin", Mode::Compound),
        (linux::BACKPORTS, 2, "reserved", Mode::Compound),
        (linux::CLOUD, 2, "reserved", Mode::Shadow),
    ] {
        let point = paging::Point {
            kernel,
            vcpus,
            backing,
            mode,
        };
        let name = format!("{}-{kernel}-{vcpus}vcpu-{backing}", mode.family());
        let quick = kernel == linux::CLOUD && mode == Mode::Compound;
        cases.push(on(&name, quick, move |w, name, setup| {
            paging::kernel_map(w, name, setup, point)
        }));
    }
    for vcpus in [1, 2, 4] {
        for backing in ["reserved", "thin"] {
            let seconds = paging_load::FULL_SECONDS;
            let point = paging_load::Point {
                kernel: linux::DEBIAN,
                vcpus,
                backing,
                seconds,
            };
            let name = format!("compound-load-linux-{vcpus}vcpu-{backing}-{seconds}s");
            cases.push(on(&name, false, move |w, name, setup| {
                paging_load::load(w, name, setup, point)
            }));
            let seconds = paging_attack::FULL_SECONDS;
            let point = paging_attack::Point {
                vcpus,
                backing,
                seconds,
            };
            let name = format!("compound-attack-{vcpus}vcpu-{backing}-{seconds}s");
            cases.push(on(&name, false, move |w, name, setup| {
                paging_attack::attack(w, name, setup, point)
            }));
        }
    }
    cases
}

//! Debian's kernels under load, and at their shell.

use std::time::Duration;

use super::guest;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

/// Load of the quick suite.
pub(super) const QUICK_SECONDS: u64 = 4;
/// Load of the full suite.
pub(super) const FULL_SECONDS: u64 = 60;
/// To boot, and to come to the end once the load is over.
const BOOT: Duration = Duration::from_secs(150);

/// A guest to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) gic: u8,
    pub(super) cpu: &'static str,
    pub(super) vcpus: u8,
    pub(super) backing: &'static str,
    pub(super) kernel: &'static str,
    pub(super) seconds: u64,
}

const CPUS: [&str; 5] = [
    "cortex-a53",
    "cortex-a72",
    "cortex-a76",
    "neoverse-n1",
    "max",
];
pub(super) const DEBIAN: &str = "linux";
pub(super) const CLOUD: &str = "linux-cloud";
pub(super) const BACKPORTS: &str = "linux-backports";
pub(super) const RT: &str = "linux-rt";

/// Interrupt controller, core, vCPUs, backing, kernel.
type Row = (u8, &'static str, u8, &'static str, &'static str);

const QUICK: [Row; 5] = [
    (3, "cortex-a72", 2, "reserved", CLOUD),
    (2, "cortex-a53", 4, "thin", CLOUD),
    (3, "max", 4, "thin", CLOUD),
    (2, "cortex-a76", 1, "reserved", CLOUD),
    (3, "neoverse-n1", 1, "thin", CLOUD),
];

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = QUICK.into_iter().map(|row| case(true, row)).collect();
    for gic in [3, 2] {
        for cpu in CPUS {
            for vcpus in [1, 2, 4] {
                for backing in ["reserved", "thin"] {
                    cases.push(case(false, (gic, cpu, vcpus, backing, DEBIAN)));
                }
            }
        }
        for kernel in [BACKPORTS, RT] {
            for (cpu, backing) in [("cortex-a72", "reserved"), ("max", "thin")] {
                cases.push(case(false, (gic, cpu, 2, backing, kernel)));
            }
        }
    }
    cases.push(Case::new("linux-shell-reboot-poweroff", true, shell));
    cases.push(Case::new("linux-above-4gib", false, above_4gib));
    cases.push(Case::new("linux-pair-on-one-core", false, |w| {
        let setup = Setup {
            ram_mib: 2048,
            ..Setup::default()
        };
        pair(w, "linux-pair", &setup)
    }));
    cases
}

fn case(quick: bool, (gic, cpu, vcpus, backing, kernel): Row) -> Case {
    let seconds = if quick { QUICK_SECONDS } else { FULL_SECONDS };
    let name = format!("{kernel}-gicv{gic}-{cpu}-{vcpus}vcpu-{backing}-{seconds}s");
    let point = Point {
        gic,
        cpu,
        vcpus,
        backing,
        kernel,
        seconds,
    };
    Case::named(name, quick, move |w, name| load(w, name, point))
}

pub(super) fn linux(
    w: &Workshop,
    kernel: &str,
    cmdline: &str,
    backing: &str,
    more: &str,
) -> String {
    format!(
        "backing = \"{backing}\"\nkernel = \"{}\"\ninitrd = \"{}\"\ncmdline = \"console=ttyAMA0 {cmdline}\"\n{more}",
        w.cached(&format!("{kernel}/vmlinuz")).display(),
        w.initramfs().display(),
    )
}

/// Memory of a guest at 8 GiB of the board, which takes addresses of 34 bits in all that EL2 keeps about frames.
fn above_4gib(w: &Workshop) -> Result<(), String> {
    let name = "linux-above-4gib";
    let setup = Setup {
        ram_mib: 10 << 10,
        ..Setup::default()
    };
    let keys = linux(
        w,
        CLOUD,
        "load.seconds=4 load.vcpus=2",
        "direct",
        "address = 0x2_0000_0000",
    );
    let mut board = w.boot(name, &guest("g", 2, "512 MiB", &keys), &setup)?;
    board.expect("load: verdict good", BOOT)?;
    board.off(BOOT).map(drop)
}

/// Boots, loads, looks for complaints, powers off.
fn load(w: &Workshop, name: &str, point: Point) -> Result<(), String> {
    let setup = Setup {
        gic: point.gic,
        cpu: point.cpu,
        ram_mib: 2048,
        ..Setup::default()
    };
    load_on(w, name, &setup, point)
}

/// The same on any board.
pub(super) fn load_on(w: &Workshop, name: &str, setup: &Setup, point: Point) -> Result<(), String> {
    let Point {
        vcpus,
        backing,
        kernel,
        seconds,
        ..
    } = point;
    let cmdline = format!("load.seconds={seconds} load.vcpus={vcpus}");
    let toml = guest(
        "linux",
        vcpus,
        "512 MiB",
        &linux(w, kernel, &cmdline, backing, ""),
    );
    let mut board = w.boot(name, &toml, setup)?;
    board.expect("load: Linux", BOOT)?;
    board.expect("load: verdict", BOOT + Duration::from_secs(3 * seconds))?;
    verdict(&board.off(BOOT)?)
}

/// What a guest's load said of it: its failures, if any, as a sentence.
pub(super) fn verdict(console: &str) -> Result<(), String> {
    let failures: Vec<&str> = console
        .lines()
        .filter(|line| line.contains("load: FAIL"))
        .collect();
    if !failures.is_empty() {
        return Err(failures.join("; "));
    }
    if !console.contains("load: verdict good") {
        return Err("the verdict is not good".into());
    }
    Ok(())
}

/// A person at the shell: a command, a reboot, a command, power off.
fn shell(w: &Workshop) -> Result<(), String> {
    let setup = Setup {
        ram_mib: 2048,
        ..Setup::default()
    };
    shell_on(w, "linux-shell", &setup)
}

/// The same on any board.
pub(super) fn shell_on(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let more = linux(w, CLOUD, "", "reserved", "");
    let toml = guest("linux", 2, "512 MiB", &more);
    let mut board = w.boot(name, &toml, setup)?;
    for round in 0..2 {
        board.expect("This is a busybox shell", BOOT)?;
        board.expect("# ", BOOT)?;
        board.send(&format!("echo answer-$((41 + {round}))"))?;
        board.expect(&format!("answer-{}", 41 + round), BOOT)?;
        board.send(if round == 0 { "reboot" } else { "poweroff" })?;
    }
    board.off(BOOT).map(drop)
}

/// Two Linux guests whose vCPUs share cores.
pub(super) fn pair(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let mut toml = String::new();
    for guest_name in ["one", "two"] {
        let more = linux(
            w,
            CLOUD,
            "load.seconds=20 load.vcpus=2",
            "thin",
            "cores = [1, 2]",
        );
        toml += &guest(guest_name, 2, "384 MiB", &more);
    }
    let board = w.boot(name, &toml, setup)?;
    let console = board.off(Duration::from_secs(400))?;
    let good = console.matches("load: verdict good").count();
    if good != 2 || console.contains("load: FAIL") {
        return Err(format!("{good} of 2 guests have a good verdict"));
    }
    Ok(())
}

//! Debian's kernels under load in compound mode: the load's own verdict, and audits at odd moments.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::guest;
use crate::board::Board;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(300);
/// Load of the quick suite.
const QUICK_SECONDS: u64 = 12;
/// Load of the full suite.
pub(super) const FULL_SECONDS: u64 = 30;

/// A guest to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) kernel: &'static str,
    pub(super) vcpus: u8,
    pub(super) backing: &'static str,
    pub(super) seconds: u64,
}

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let quick = Point {
        kernel: "linux-cloud",
        vcpus: 2,
        backing: "thin",
        seconds: QUICK_SECONDS,
    };
    let mut cases = vec![case(true, 3, quick)];
    for gic in [2, 3] {
        for vcpus in [1, 2, 4] {
            for backing in ["reserved", "thin"] {
                let point = Point {
                    kernel: "linux",
                    vcpus,
                    backing,
                    seconds: FULL_SECONDS,
                };
                cases.push(case(false, gic, point));
            }
        }
    }
    cases
}

fn case(quick: bool, gic: u8, point: Point) -> Case {
    let Point {
        kernel,
        vcpus,
        backing,
        seconds,
    } = point;
    let setup = Setup {
        gic,
        ram_mib: 2048,
        ..Setup::default()
    };
    let name = format!("compound-load-{kernel}-gicv{gic}-{vcpus}vcpu-{backing}-{seconds}s");
    let own = name.clone();
    Case::new(name, quick, move |w| load(w, &own, &setup, point))
}

/// Boots, loads and audits meanwhile, on any board.
pub(super) fn load(w: &Workshop, name: &str, setup: &Setup, point: Point) -> Result<(), String> {
    let what = ("paging = \"compound\"", w.initramfs());
    run(w, name, setup, point, what, |_| Ok(()))
}

/// Boots a guest with settings of its own and an initramfs that loads it; audits meanwhile, and `watch`es
/// after each audit.
pub(super) fn run(
    w: &Workshop,
    name: &str,
    setup: &Setup,
    point: Point,
    (settings, initramfs): (&str, &Path),
    mut watch: impl FnMut(&mut Board) -> Result<(), String>,
) -> Result<(), String> {
    let Point {
        kernel,
        vcpus,
        backing,
        seconds,
    } = point;
    let more = format!(
        "backing = \"{backing}\"\n{settings}\nkernel = \"{}\"\ninitrd = \"{}\"\n\
         cmdline = \"console=ttyAMA0 load.seconds={seconds} load.vcpus={vcpus}\"",
        w.cached(&format!("{kernel}/vmlinuz")).display(),
        initramfs.display(),
    );
    let toml = guest("linux", vcpus, "512 MiB", &more);
    let mut board = w.boot(name, &toml, setup)?;
    board.expect("load: Linux", LIMIT)?;
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    let began = Instant::now();
    // Odd intervals, so that no two audits meet the load's loops at the same place.
    for pause in [700, 1300, 300, 1100, 1900].into_iter().cycle() {
        board.send("paging audit linux")?;
        board
            .expect("every mirror agrees with the guest's tables", LIMIT)
            .map_err(|why| format!("an audit under load: {why}"))?;
        watch(&mut board)?;
        // The guest goes off at the end of its load, and the board with it.
        let left = (seconds / 2).min(20);
        if began.elapsed() > Duration::from_secs(seconds - left) {
            break;
        }
        sleep(Duration::from_millis(pause));
    }
    board.send("console linux")?;
    board.expect("load: verdict", LIMIT)?;
    let console = board.off(LIMIT)?;
    let bad: Vec<&str> = console
        .lines()
        .filter(|line| line.contains("load: FAIL"))
        .collect();
    if !bad.is_empty() {
        return Err(bad.join("; "));
    }
    if !console.contains("load: verdict good") {
        return Err("the verdict is not good".into());
    }
    Ok(())
}

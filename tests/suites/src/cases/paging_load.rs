//! Debian's kernels under load in compound mode: the load's own verdict, and audits at odd moments.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::guest;
use super::linux::verdict;
use crate::board::Board;
use crate::case::Case;
use crate::shown;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(300);
/// How often an audit is asked for until EL2 does it.
const AUDITS: u32 = 5;
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
    let mut cases = vec![case(true, 3, "linux-cloud", 2, "thin")];
    for gic in [2, 3] {
        for vcpus in [1, 2, 4] {
            for backing in ["reserved", "thin"] {
                cases.push(case(false, gic, "linux", vcpus, backing));
            }
        }
    }
    cases
}

fn case(quick: bool, gic: u8, kernel: &'static str, vcpus: u8, backing: &'static str) -> Case {
    let seconds = if quick { QUICK_SECONDS } else { FULL_SECONDS };
    let name = format!("compound-load-{kernel}-gicv{gic}-{vcpus}vcpu-{backing}-{seconds}s");
    let point = Point {
        kernel,
        vcpus,
        backing,
        seconds,
    };
    let setup = Setup {
        gic,
        ram_mib: 2048,
        ..Setup::default()
    };
    Case::named(name, quick, move |w, name| load(w, name, &setup, point))
}

/// Boots, loads and audits meanwhile, on any board.
pub(super) fn load(w: &Workshop, name: &str, setup: &Setup, point: Point) -> Result<(), String> {
    let what = (("compound", ""), w.initramfs());
    run(w, name, setup, point, what, |_| Ok(()))
}

/// Boots a guest in a mode, with settings of its own and an initramfs that loads it; audits meanwhile, and `watch`es
/// after each audit.
pub(super) fn run(
    w: &Workshop,
    name: &str,
    setup: &Setup,
    point: Point,
    ((mode, settings), initramfs): ((&str, &str), &Path),
    mut watch: impl FnMut(&mut Board) -> Result<(), String>,
) -> Result<(), String> {
    let Point {
        kernel,
        vcpus,
        backing,
        seconds,
    } = point;
    let more = format!(
        "backing = \"{backing}\"\npaging = \"{mode}\"\n{settings}\nkernel = \"{}\"\ninitrd = \"{}\"\n\
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
    let mut refused = 0;
    // Odd intervals, so that no two audits meet the load's loops at the same place.
    for pause in [700, 1300, 300, 1100, 1900].into_iter().cycle() {
        refused += audit(&mut board)?;
        watch(&mut board)?;
        // The guest goes off at the end of its load, and the board with it.
        let left = (seconds / 2).min(20);
        if began.elapsed() > Duration::from_secs(seconds - left) {
            break;
        }
        sleep(Duration::from_millis(pause));
    }
    if refused > 0 {
        println!(
            "{name}: {refused} audits were refused and asked for again: a core did not answer in time"
        );
    }
    shown::has_worked(&shown::paging(&mut board, "linux", LIMIT)?, mode)?;
    board.send("console linux")?;
    board.expect("load: verdict", LIMIT)?;
    verdict(&board.off(LIMIT)?)
}

/// An audit, asked for again where EL2 refuses it: on a host with other work a core may not get to answer a hold in two seconds. How
/// often it was refused.
fn audit(board: &mut Board) -> Result<u32, String> {
    let mut said = String::new();
    for refused in 0..AUDITS {
        board.send("paging audit linux")?;
        board.expect("paging audit linux", LIMIT)?;
        said = board.until("penumbra> ", LIMIT)?;
        if said.contains("every mirror agrees with the guest's tables") {
            return Ok(refused);
        }
        if !said.contains("no audit: a core did not answer in time") {
            break;
        }
    }
    Err(format!("an audit under load: {}", said.trim()))
}

//! Guests under a fixed cyclic schedule.

use std::time::Duration;

use super::guest;
use crate::board::Board;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(180);

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for gic in [3, 2] {
        let name = format!("schedule-hog-gicv{gic}");
        cases.push(Case::named(name, true, move |w, name| {
            hog(w, name, &setup(gic))
        }));
    }
    cases.push(Case::new("schedule-linux-pair", true, |w| {
        linux_pair(w, "schedule-linux-pair", &Setup::default())
    }));
    cases
}

fn setup(gic: u8) -> Setup {
    Setup {
        gic,
        cores: 2,
        ..Setup::default()
    }
}

/// Microseconds that a window may begin late: a thousand instructions each.
const LATE_US: f64 = 2.5;

/// A guest that measures its windows beside one that exits all the time. The counter counts instructions.
pub(super) fn hog(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let hog = format!(
        "payload = \"flat\"\ncores = [1]\nmemory = \"16 MiB\"\nkernel = \"{}\"\ncmdline = \"hog\"\n",
        w.payload("window").display()
    );
    let setup = Setup {
        arguments: ["-icount", "shift=0,sleep=off"].map(String::from).into(),
        ..setup.clone()
    };
    let windows = beside(w, name, &setup, (&hog, "window: hog"), 40)?;
    println!("{}", windows.said);
    println!("late by us (least, average, most): {:?}", windows.late_us);
    if !windows.failures.is_empty() {
        return Err(windows.failures.join("; "));
    }
    match windows.late_us {
        [least, average, most]
            if least <= average && average <= most && most > 0.0 && most <= LATE_US =>
        {
            Ok(())
        }
        late => Err(format!("late by {late:?}, not up to {LATE_US} us")),
    }
}

/// What was measured of a guest's windows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Windows {
    /// The guest's own words: how far from each other they began, and how long they were.
    pub(crate) said: String,
    /// What the guest did not find as the schedule has it.
    pub(crate) failures: Vec<String>,
    /// Late to begin, in microseconds, as EL2 counts and the shell shows: the least, average, most.
    pub(crate) late_us: [f64; 3],
}

/// A guest that measures so many of its windows beside another on its core, the rest of whose table in the scenario is `other` and whose
/// console says `begun` before the measurement is over.
///
/// # Errors
/// The guest or the shell does not say what is expected.
pub(crate) fn beside(
    w: &Workshop,
    name: &str,
    setup: &Setup,
    (other, begun): (&str, &str),
    windows: u8,
) -> Result<Windows, String> {
    let meter = format!(
        "payload = \"flat\"\ncores = [1]\ncmdline = \"meter frame_us=10000 window_us=2000 windows={windows}\"\nkernel = \"{}\"",
        w.payload("window").display()
    );
    let toml = guest("meter", 1, "16 MiB", &meter)
        + "[[guest]]\nname = \"hog\"\nvcpus = 1\n"
        + other
        + "[[schedule]]\ncore = 1\nframe_us = 10000\nwindows = [\
           {guest = \"hog\", us = 7500}, {guest = \"meter\", us = 2000}]\n";
    let mut board = w.boot(name, &toml, setup)?;
    let console = board.until(" passed, ", LIMIT)?;
    board.expect(" failed", LIMIT)?;
    if !console.contains(begun) {
        return Err(format!("\"{begun}\" is not said"));
    }
    let said = |what| {
        let lines = console.lines().filter(move |line| line.contains(what));
        lines.map(|line| line.trim_start_matches("meter| ").trim().to_owned())
    };
    let measured = said("window: begins spread").next();
    let mut windows = Windows {
        said: measured.ok_or("the windows are not measured")?,
        failures: said("FAIL ").collect(),
        ..Windows::default()
    };
    windows.late_us = shown(&mut board)?;
    board.send("poweroff now")?;
    board.off(LIMIT)?;
    Ok(windows)
}

/// What EL2 has counted of the meter's windows beside the hog, and the shell shows.
fn shown(board: &mut Board) -> Result<[f64; 3], String> {
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    board.send("schedule")?;
    board.expect("7500       2000  meter ", LIMIT)?;
    let line = board.until("nobody", LIMIT)?;
    let line = line.lines().next().unwrap_or_default().trim();
    let figures = line.split_once(' ').map_or("", |(_, figures)| figures);
    let late: Result<Vec<f64>, _> = figures.split(',').map(|us| us.trim().parse()).collect();
    late.ok()
        .and_then(|late| late.try_into().ok())
        .ok_or_else(|| format!("not three figures: {line}"))
}

/// Two Linux guests in the windows of one core, and the manager in those of core 0.
pub(super) fn linux_pair(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let keys = format!(
        "cores = [1]\nkernel = \"{}\"\ninitrd = \"{}\"\ncmdline = \"console=ttyAMA0 quiet\"",
        w.cached("linux-cloud/vmlinuz").display(),
        w.initramfs().display(),
    );
    let schedules = "[[schedule]]\ncore = 1\nframe_us = 10000\nwindows = [\
                     {guest = \"busy\", us = 6000}, {guest = \"calm\", us = 3000}]\n\
                     [[schedule]]\ncore = 0\nframe_us = 10000\nwindows = [\
                     {guest = \"manager\", us = 5000}]\n";
    let toml = guest("busy", 1, "256 MiB", &keys) + &guest("calm", 1, "256 MiB", &keys) + schedules;
    let mut board = w.boot(name, &toml, setup)?;
    for _ in ["busy", "calm"] {
        board.expect("This is a busybox shell", LIMIT)?;
        board.expect("# ", LIMIT)?;
    }
    // The input goes to the first guest.
    board.send("while :; do :; done &")?;
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    // Since last asked: first to begin, then a while later.
    board.send("load")?;
    board.expect("(manager)", LIMIT)?;
    std::thread::sleep(Duration::from_secs(5));
    board.send("load")?;
    let load = board.until("(manager)", LIMIT)?;
    let share = |guest: &str| {
        let line = load
            .lines()
            .find(|line| line.trim_start().starts_with(guest))?;
        // Guest, vCPU, core, percent.
        line.split_whitespace().nth(3)?.parse::<f64>().ok()
    };
    match (share("busy"), share("calm")) {
        // The windows are 60 and 30 % of the frame. Without a schedule a loop beside a guest that is idle
        // has more than nine tenths. `schedule-hog-*` shows how exact windows are: here, without -icount,
        // what a busy workstation takes from the board falls into one window or the other (up to 74 % seen).
        (Some(busy), Some(calm)) if (30.0..=85.0).contains(&busy) && calm <= 45.0 => {}
        shares => {
            return Err(format!(
                "shares {shares:?} of the core, not 60 and up to 30: {load}"
            ));
        }
    }
    board.send("schedule")?;
    board.expect("core 0: frame of 10000 us", LIMIT)?;
    board.expect("the manager", LIMIT)?;
    board.expect("core 1: frame of 10000 us", LIMIT)?;
    board.expect("busy", LIMIT)?;
    board.expect("calm", LIMIT)?;
    board.send("poweroff now")?;
    board.expect("the operator switches the board off", LIMIT)?;
    board.off(LIMIT).map(drop)
}

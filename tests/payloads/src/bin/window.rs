//! A guest on a core with a schedule: measures its windows, or is a nuisance to the others.
//!
//! `meter frame_us=F window_us=W [windows=N]`: spins, takes each gap in its time for the begin of a window, and checks
//! that windows begin a frame apart and have their length. `hog`: exits all the time, with interrupts
//! masked, for ever. The measured windows lie between the markers of eventscope's test 0.
#![no_std]
#![no_main]

use payload::rt::{check, fdt, io, layout, time};
use payload::{insn, println};

payload::entry!(main);

/// Windows that are looked at, if the command line does not say.
const WINDOWS: u64 = 40;
/// How far from each other two windows may begin, less their frames, in microseconds: a switch between
/// two guests takes 800 instructions at most, which here are less than one.
const SPREAD_US: u64 = 5;

fn main() {
    if fdt::has_argument("hog") {
        println!("window: hog");
        loop {
            let _ = io::read32(layout::GICD + 4);
        }
    }
    let us = |name| fdt::number(name).unwrap_or(0);
    meter(time::ticks(us("frame_us")), time::ticks(us("window_us")));
    check::summary();
}

/// Spins until the core was away for long: when it left, and when it came back.
fn gap(least: u64) -> (u64, u64) {
    let mut last = time::now();
    loop {
        let now = time::now();
        if now - last > least {
            return (last, now);
        }
        last = now;
    }
}

fn meter(frame: u64, window: u64) {
    // The first windows are the manager's: it is still at work on the others.
    let least = (frame - window) / 2;
    for _ in 0..4 {
        gap(least);
    }
    let (_, first) = gap(least);
    let mut begun = first;
    let (mut early, mut late) = (0, 0);
    let (mut shortest, mut longest) = (u64::MAX, 0);
    insn!("hint #64");
    let windows = fdt::number("windows").unwrap_or(WINDOWS);
    for n in 1..=windows {
        let (left, back) = gap(least);
        let length = left - begun;
        shortest = shortest.min(length);
        longest = longest.max(length);
        let due = first + n * frame;
        late = late.max(back.saturating_sub(due));
        early = early.max(due.saturating_sub(back));
        begun = back;
    }
    insn!("hint #96");
    let spread = early + late;
    println!(
        "window: begins spread {spread} ticks over {windows} frames; {shortest} to {longest} ticks long"
    );
    check::that("window.spread", spread <= time::ticks(SPREAD_US), spread);
    let slack = 2 * time::ticks(SPREAD_US);
    check::that("window.shortest", shortest + slack >= window, shortest);
    check::that("window.longest", longest <= window, longest);
}

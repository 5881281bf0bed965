//! A text form of what a policy is told, so that it can be replayed.
//!
//! A line is a word and its fields, separated by blanks. Numbers are decimal, addresses hexadecimal
//! with `0x`. Order: `machine`, then for each pass `pass` and what was found in it, `machine` again where that has changed,
//! and behind it `window`: samples that began, how many of them were hit within a moment behind the first, and for how many ns they
//! waited for that since, added up.
//!
//! ```text
//! machine reserved|thin VCPUS
//! pass MS TRAPS SAMPLES MIRRORED DEMOTED FRAMES_USED FRAMES BUSY_MS
//! root ROOT WRITES held|free
//! space NUMBER user|kernel ROOT mirrored|lost
//! window ARMED HITS NS
//! region SPACE VA TABLE VALID RUNS uniform|full|partial nested|mirror|leaf|relaid WRITES -|0|1
//! ```
//!
//! MS counts from the first look at the VM; the counters behind it from its creation. The last field
//! of a region is whether a walk was seen. The manager prints each line behind
//! [`MARK`]; [`parse`] takes what a console showed and skips all other lines.

use core::fmt;
use core::str::SplitWhitespace;

use super::cost::Machine;
use super::sample::{Form, Half, RegionSample, RootSample, SpaceSample, VmSample};

/// What stands before a line of a trace on a console.
pub const MARK: &str = "penumbra: trace ";

/// A line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// What the VM is.
    Machine(Machine),
    /// A pass begins, at this time.
    Pass(u64, VmSample),
    /// A user root that EL2 has seen.
    Root(RootSample),
    /// An address space.
    Space(SpaceSample),
    /// A region.
    Region(RegionSample),
    /// Samples that began, those that were hit soon, and for how many ns all of them waited, added up.
    Window(u64, u64, u64),
}

const FORMS: [(&str, Form); 4] = [
    ("nested", Form::Nested),
    ("mirror", Form::Mirror),
    ("leaf", Form::Leaf),
    ("relaid", Form::Relaid),
];

/// The name of a form.
#[must_use]
pub fn form_name(form: Form) -> &'static str {
    let named = FORMS.iter().find(|(_, known)| *known == form);
    named.map_or("", |(name, _)| name)
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Machine(machine) => {
                let backing = if machine.thin { "thin" } else { "reserved" };
                write!(f, "machine {backing} {}", machine.vcpus)
            }
            Self::Pass(at_ms, vm) => {
                let (traps, samples, mirrored) = (vm.traps, vm.samples, vm.mirrored);
                let busy = vm.busy_ms;
                let (demoted, used, frames) = (vm.demoted, vm.frames_used, vm.frames);
                write!(
                    f,
                    "pass {at_ms} {traps} {samples} {mirrored} {demoted} {used} {frames} {busy}"
                )
            }
            Self::Root(root) => {
                let held = if root.held { "held" } else { "free" };
                write!(f, "root {:#x} {} {held}", root.root, root.writes)
            }
            Self::Space(space) => {
                let half = match space.half {
                    Half::User => "user",
                    Half::Kernel => "kernel",
                };
                let state = if space.mirrored { "mirrored" } else { "lost" };
                write!(f, "space {} {half} {:#x} {state}", space.space, space.root)
            }
            Self::Window(armed, hits, ns) => write!(f, "window {armed} {hits} {ns}"),
            Self::Region(region) => {
                let shape = match (region.uniform, region.full) {
                    (true, _) => "uniform",
                    (false, true) => "full",
                    (false, false) => "partial",
                };
                let walked = match region.walked {
                    None => "-",
                    Some(false) => "0",
                    Some(true) => "1",
                };
                let (space, va, table) = (region.space, region.va, region.table);
                let (valid, runs, writes) = (region.valid, region.runs, region.writes);
                let form = form_name(region.form);
                write!(
                    f,
                    "region {space} {va:#x} {table:#x} {valid} {runs} {shape} {form} {writes} {walked}"
                )
            }
        }
    }
}

/// A line that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// Its number, from 1.
    pub number: usize,
}

impl fmt::Display for BadLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} is not a line of a trace", self.number)
    }
}

/// Reads a trace, or the console output in which it is. A text in which no line has [`MARK`] is taken
/// for a bare trace; there, blank lines and those that start with `#` are skipped.
pub fn parse(text: &str) -> impl Iterator<Item = Result<Line, BadLine>> {
    let marked = text.contains(MARK);
    let lines = text.lines().zip(1_usize..);
    lines.filter_map(move |(line, number)| {
        let line = match line.split_once(MARK) {
            Some((_, line)) => line,
            None if marked || line.trim().is_empty() || line.starts_with('#') => return None,
            None => line,
        };
        Some(read(line).ok_or(BadLine { number }))
    })
}

fn read(line: &str) -> Option<Line> {
    let mut words = line.split_whitespace();
    let read = match words.next()? {
        "machine" => Line::Machine(Machine {
            thin: one_of(&mut words, &[("reserved", false), ("thin", true)])?,
            vcpus: number(&mut words)?,
        }),
        "pass" => Line::Pass(
            number(&mut words)?,
            VmSample {
                traps: number(&mut words)?,
                samples: number(&mut words)?,
                mirrored: number(&mut words)?,
                demoted: number(&mut words)?,
                frames_used: number(&mut words)?,
                frames: number(&mut words)?,
                busy_ms: number(&mut words)?,
            },
        ),
        "root" => Line::Root(RootSample {
            root: number(&mut words)?,
            writes: number(&mut words)?,
            held: one_of(&mut words, &[("free", false), ("held", true)])?,
            ..RootSample::default()
        }),
        "space" => Line::Space(SpaceSample {
            space: number(&mut words)?,
            half: one_of(
                &mut words,
                &[("user", Half::User), ("kernel", Half::Kernel)],
            )?,
            root: number(&mut words)?,
            mirrored: one_of(&mut words, &[("mirrored", true), ("lost", false)])?,
        }),
        "region" => Line::Region(region(&mut words)?),
        "window" => Line::Window(
            number(&mut words)?,
            number(&mut words)?,
            number(&mut words)?,
        ),
        _ => return None,
    };
    words.next().is_none().then_some(read)
}

fn region(words: &mut SplitWhitespace<'_>) -> Option<RegionSample> {
    const SHAPES: [(&str, (bool, bool)); 3] = [
        ("uniform", (true, true)),
        ("full", (false, true)),
        ("partial", (false, false)),
    ];
    let (space, va, table) = (number(words)?, number(words)?, number(words)?);
    let (valid, runs) = (number(words)?, number(words)?);
    let (uniform, full) = one_of(words, &SHAPES)?;
    Some(RegionSample {
        space,
        va,
        table,
        valid,
        runs,
        uniform,
        full,
        form: one_of(words, &FORMS)?,
        writes: number(words)?,
        walked: one_of(words, &[("-", None), ("0", Some(false)), ("1", Some(true))])?,
    })
}

fn one_of<T: Copy>(words: &mut SplitWhitespace<'_>, names: &[(&str, T)]) -> Option<T> {
    let word = words.next()?;
    names
        .iter()
        .find_map(|(name, value)| (*name == word).then_some(*value))
}

fn number<T: TryFrom<u64>>(words: &mut SplitWhitespace<'_>) -> Option<T> {
    let word = words.next()?;
    let value = match word.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => word.parse(),
    };
    T::try_from(value.ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_read_as_it_was_written() {
        let region = RegionSample {
            space: 3,
            va: 0xffff_0000_4020_0000,
            table: 0x7fe0_1000,
            valid: 512,
            runs: 32,
            uniform: true,
            full: true,
            form: Form::Relaid,
            writes: 7,
            walked: Some(true),
        };
        let lines = [
            Line::Machine(Machine {
                thin: true,
                vcpus: 4,
            }),
            Line::Pass(
                500,
                VmSample {
                    traps: 1,
                    samples: 2,
                    mirrored: 3,
                    demoted: 4,
                    frames_used: 5,
                    frames: 512,
                    busy_ms: 6,
                },
            ),
            Line::Root(RootSample {
                root: 0x4987_6000,
                writes: 77,
                held: true,
                ..RootSample::default()
            }),
            Line::Space(SpaceSample {
                space: 3,
                half: Half::Kernel,
                root: 0x4123_4000,
                mirrored: true,
            }),
            Line::Region(region),
            Line::Region(RegionSample::default()),
            Line::Window(64, 12, 100_016),
        ];
        let bare: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let read: Result<Vec<Line>, _> = parse(&bare).collect();
        assert_eq!(read.unwrap(), lines);
        let console: String = lines
            .iter()
            .map(|line| format!("[    0.1] a guest says\nlinux | {MARK}{line}\r\n"))
            .collect();
        let read: Result<Vec<Line>, _> = parse(&console).collect();
        assert_eq!(read.unwrap(), lines);
    }

    #[test]
    fn what_is_no_line_is_named() {
        for bad in [
            "pass",
            "pass 1 2 3 4 5 6",
            "pass 1 2 3 4 5 6 7 8 9",
            "root 0x1",
            "root 0x1 7",
            "machine fat 1",
            "space 256 user 0x0 lost",
            "space 1 user 0x0",
            "window 64 12",
            "region 0 0x0 0x0 512 32 round leaf 0 -",
            "something",
        ] {
            let text = format!("# a comment\n\n{bad}\n");
            let read: Vec<_> = parse(&text).collect();
            assert_eq!(read, [Err(BadLine { number: 3 })], "{bad}");
        }
    }
}

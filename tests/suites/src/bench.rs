//! Measurements: what events and Linux's boot cost outside the guest, in instructions.
//!
//! QEMU runs with `-icount`, so a run gives the same figures each time, and with the eventscope
//! plugin, which counts. The table is printed beside the peers' figures; `target/bench/NAME.json`
//! has the same for programs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::bench_floods::{self, WORST};
use crate::bench_reset;
use crate::board::Board;
use crate::peers::{EVENTS, Event, PEERS};
use crate::workshop::{LOAD_ADDRESS, Setup, Workshop};

pub(crate) const LIMIT: Duration = Duration::from_secs(3600);

/// What eventscope wrote.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Lines of tests, by number.
    pub(crate) tests: BTreeMap<u64, Value>,
    /// Lines of the manager's calls, by what they count and the call's number.
    pub(crate) calls: BTreeMap<(String, u64), Value>,
    /// Totals when each VMID first ran, in order.
    pub(crate) firsts: Vec<Value>,
    /// Lines of cores, by number.
    pub(crate) cores: BTreeMap<u64, Value>,
    pub(crate) total: Value,
}

impl Counts {
    /// A figure of a core, 0 if it did not run.
    pub(crate) fn of_core(&self, core: usize, key: &str) -> u64 {
        let line = u64::try_from(core).ok().and_then(|n| self.cores.get(&n));
        line.and_then(|line| number(line, key)).unwrap_or(0)
    }

    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path)
            .map_err(|error| format!("eventscope wrote nothing: {error}"))?;
        let mut counts = Self::default();
        for line in text.lines() {
            let value: Value = serde_json::from_str(line)
                .map_err(|error| format!("eventscope wrote \"{line}\": {error}"))?;
            if let Some(test) = number(&value, "test") {
                counts.tests.insert(test, value);
            } else if value.get("first").is_some() {
                counts.firsts.push(value);
            } else if let Some(core) = number(&value, "core") {
                counts.cores.insert(core, value);
            } else if value.get("total").is_some() {
                counts.total = value;
            } else if let Some((what, number)) = call(&value) {
                counts.calls.insert((what, number), value);
            }
        }
        Ok(counts)
    }
}

/// What a line about a call counts, and which call it is.
fn call(line: &Value) -> Option<(String, u64)> {
    let mut fields = line.as_object()?.iter();
    let (what, number) = fields.find(|(key, _)| key.starts_with("call"))?;
    Some((what.clone(), number.as_u64()?))
}

pub(crate) fn number(value: &Value, key: &str) -> Option<u64> {
    value.get(key).and_then(Value::as_u64)
}

/// Builds the plugin; its own crate, because QEMU loads it.
fn plugin(w: &Workshop) -> Result<PathBuf, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let target = w.project().output().with_file_name("eventscope");
    let mut command = Command::new(cargo);
    command
        .current_dir(w.project().root())
        .args([
            "build",
            "--quiet",
            "--release",
            "-p",
            "penumbra-eventscope",
            "--target-dir",
        ])
        .arg(&target);
    penumbra::toolchain::run(&mut command).map_err(|problem| problem.message)?;
    Ok(target.join("release/libeventscope.so"))
}

/// Runs a scenario under eventscope until the board is off.
pub(crate) fn count(
    w: &Workshop,
    name: &str,
    toml: &str,
    gic: u8,
    cores: u8,
    ranges: &[String],
) -> Result<Counts, String> {
    let (board, out) = start(w, name, toml, gic, cores, ranges)?;
    finish(board, &out)
}

/// Starts a scenario under eventscope; the board, and the file that eventscope will write.
pub(crate) fn start(
    w: &Workshop,
    name: &str,
    toml: &str,
    gic: u8,
    cores: u8,
    ranges: &[String],
) -> Result<(Board, PathBuf), String> {
    start_with(w, name, toml, gic, cores, &ranges_option(w, name, ranges)?)
}

/// The option of eventscope that names code to be counted apart; empty without any.
pub(crate) fn ranges_option(w: &Workshop, name: &str, ranges: &[String]) -> Result<String, String> {
    if ranges.is_empty() {
        return Ok(String::new());
    }
    let file = w.file(&format!("{name}.ranges"));
    fs::write(&file, ranges.join("\n"))
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    Ok(format!(",ranges={}", file.display()))
}

/// As [`start`], with options of eventscope, each after a comma.
pub(crate) fn start_with(
    w: &Workshop,
    name: &str,
    toml: &str,
    gic: u8,
    cores: u8,
    options: &str,
) -> Result<(Board, PathBuf), String> {
    scope(w, name, toml, (gic, cores), (0, options))
}

/// The same with the time of an instruction, 2^`shift` ns.
pub(crate) fn scope(
    w: &Workshop,
    name: &str,
    toml: &str,
    (gic, cores): (u8, u8),
    (shift, options): (u8, &str),
) -> Result<(Board, PathBuf), String> {
    let (arguments, out) = arguments(w, name, (shift, options))?;
    let setup = Setup {
        gic,
        cores,
        arguments,
        ..Setup::default()
    };
    Ok((w.boot(name, toml, &setup)?, out))
}

/// QEMU's arguments for a run under eventscope, and the file that it will write.
pub(crate) fn arguments(
    w: &Workshop,
    name: &str,
    (shift, options): (u8, &str),
) -> Result<(Vec<String>, PathBuf), String> {
    let out = w.file(&format!("{name}.json"));
    // What an earlier run left there is not this run's.
    let _ = fs::remove_file(&out);
    let option = format!(
        "{},out={},manager=on{options}",
        plugin(w)?.display(),
        out.display()
    );
    let count = format!("shift={shift},sleep=off");
    let arguments = [
        "-icount",
        &count,
        "-seed",
        "1",
        "-rtc",
        "base=2026-01-01,clock=vm",
        "-plugin",
        &option,
        "-d",
        "plugin",
    ];
    Ok((arguments.map(str::to_owned).to_vec(), out))
}

/// Waits until the board is off, and reads what eventscope wrote.
pub(crate) fn finish(board: Board, out: &Path) -> Result<Counts, String> {
    let console = board.off(LIMIT)?;
    if console.contains("FAIL") || console.contains("penumbra: fatal") {
        return Err(format!("the measured guest failed: {}", console.trim()));
    }
    Counts::read(out)
}

/// The events that need one guest.
fn single(w: &Workshop, gic: u8) -> Result<Counts, String> {
    let toml = format!(
        "[[guest]]\nname = \"events\"\nvcpus = 2\ncores = [1, 2]\nmemory = \"256 MiB\"\nbacking = \"thin\"\n\
         kernel = \"{}\"\ncmdline = \"n=200\"\n",
        w.payload("events").display()
    );
    el2(w, &format!("events-gicv{gic}"), &toml, gic, 3)
}

/// Runs a scenario until the board is off, and counts EL2 alone.
fn el2(w: &Workshop, name: &str, toml: &str, gic: u8, cores: u8) -> Result<Counts, String> {
    let (board, out) = start_with(w, name, toml, gic, cores, ",guests=off")?;
    finish(board, &out)
}

/// The same beside two guests that flood EL2 and the manager from cores of their own: what runs on the measured guests'
/// cores counts.
fn crowded(w: &Workshop) -> Result<Counts, String> {
    let mut counts = bench_floods::crowded(w, "events-crowded", 3, 50, &WORST)?;
    let flood = bench_floods::flood(w, 2, WORST[0]);
    let (mut board, out) = start_with(
        w,
        "switches-crowded",
        &(switching(w) + &flood),
        3,
        3,
        ",cores=1,guests=off",
    )?;
    board.expect("events: done", LIMIT)?;
    bench_floods::switch_off(&mut board)?;
    counts.tests.append(&mut finish(board, &out)?.tests);
    Ok(counts)
}

/// Two guests on one core: one waits for its timer, the other always runs.
fn switches(w: &Workshop, gic: u8) -> Result<Counts, String> {
    el2(w, &format!("switches-gicv{gic}"), &switching(w), gic, 2)
}

fn switching(w: &Workshop) -> String {
    let payload = w.payload("events");
    let mut toml = String::new();
    for (name, role) in [("events", "only-switch n=50"), ("partner", "role=partner")] {
        toml += &format!(
            "[[guest]]\nname = \"{name}\"\nvcpus = 1\ncores = [1]\nmemory = \"16 MiB\"\n\
             kernel = \"{}\"\ncmdline = \"{role}\"\n",
            payload.display()
        );
    }
    toml
}

/// A guest whose roots are trapped. `shadow` is the mode in which the manager does that without a trial.
fn roots(w: &Workshop, gic: u8) -> Result<Counts, String> {
    let toml = format!(
        "[[guest]]\nname = \"roots\"\nvcpus = 1\ncores = [1]\nmemory = \"64 MiB\"\npaging = \"shadow\"\n\
         kernel = \"{}\"\ncmdline = \"n=200 only-measure\"\n",
        w.payload("roots").display()
    );
    count(w, &format!("roots-gicv{gic}"), &toml, gic, 2, &[])
}

/// What an exit costs more where Cortex-A72's branch history is cleared: the loop's 8 turns of 3 instructions, and what is
/// around it in `clear_history` and `lower` of the hal's vectors.
const CLEARING: u64 = 8 * 3 + 7;

/// Whether each exit of the mitigated image costs just so much more than one of the other.
///
/// # Errors
/// It does not, or a guest that did not come to its end.
pub fn mitigated_exits(w: &Workshop) -> Result<(), String> {
    let calls = |w: &Workshop, name| {
        let toml = format!(
            "[[guest]]\nname = \"events\"\nvcpus = 1\ncores = [1]\nmemory = \"16 MiB\"\n\
             kernel = \"{}\"\ncmdline = \"n=50 only-calls\"\n",
            w.payload("events").display()
        );
        count(w, name, &toml, 3, 2, &[])
    };
    let plain = calls(w, "exits-plain")?;
    let mitigated = calls(&w.mitigated()?, "exits-mitigated")?;
    for event in EVENTS.iter().filter(|event| event.name.contains("VERSION")) {
        let both = figure(&plain, event).zip(figure(&mitigated, event));
        let (plain, mitigated) = both.ok_or(format!("{} was not measured", event.name))?;
        if mitigated.median != plain.median + CLEARING {
            return Err(format!(
                "{} costs {} in place of {}, not {CLEARING} more",
                event.name, mitigated.median, plain.median
            ));
        }
    }
    Ok(())
}

/// One event's figures with one interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figure {
    pub(crate) median: u64,
    pub(crate) min: u64,
    pub(crate) p99: u64,
}

pub(crate) fn figure(counts: &Counts, event: &Event) -> Option<Figure> {
    let value = counts.tests.get(&event.test)?;
    let get = |key| number(value, key).map(|n| n / event.times);
    Some(Figure {
        median: get("median")?,
        min: get("min")?,
        p99: get("p99")?,
    })
}

/// Measures the events, prints the table, writes `target/bench/events.json`.
///
/// # Errors
/// A guest that did not come to its end, or a file that cannot be written.
pub fn events(w: &Workshop) -> Result<bool, String> {
    let mitigated = w.mitigated()?;
    let mut columns = Vec::new();
    for (column, w, gic) in [
        ("gicv3", w, 3),
        ("gicv2", w, 2),
        ("gicv3-mitigated", &mitigated, 3),
    ] {
        let mut counts = single(w, gic)?;
        counts.tests.append(&mut switches(w, gic)?.tests);
        counts.tests.append(&mut roots(w, gic)?.tests);
        columns.push((column, counts));
    }
    columns.push(("gicv3-crowded", crowded(w)?));
    let mut rows = Vec::new();
    let mut good = true;
    println!(
        "Instructions outside the guest for each event (median of 200; QEMU virt, cortex-a72).\n"
    );
    print!("| {:27} |", "event");
    for peer in PEERS {
        print!(" {peer:>6} |");
    }
    println!(" Penumbra | min..p99 | to reach |  GICv2 | mitigated | crowded |");
    println!(
        "|{:-<29}|{}---------:|---------:|---------:|-------:|----------:|--------:|",
        "",
        "-------:|".repeat(5)
    );
    for event in &EVENTS {
        print!("| {:27} |", event.name);
        for peer in event.peers {
            print!(" {:>6} |", peer.map_or("-".into(), |n| n.to_string()));
        }
        let figures: Vec<Option<Figure>> = columns
            .iter()
            .map(|(_, counts)| figure(counts, event))
            .collect();
        let text = |f: Option<Figure>| f.map_or("-".into(), |f| f.median.to_string());
        let [v3, v2, mitigated, crowded] = figures.as_slice() else {
            continue;
        };
        let spread = v3.map_or("-".into(), |f| format!("{}..{}", f.min, f.p99));
        let limit = event.limit.map_or("-".into(), |n| n.to_string());
        let over = match (v3, event.limit) {
            (Some(f), Some(limit)) if f.median > limit => {
                good = false;
                "!"
            }
            _ => "",
        };
        println!(
            " {:>8} | {spread} | {:>8} | {:>6} | {:>9} | {:>7} |",
            text(*v3) + over,
            limit,
            text(*v2),
            text(*mitigated),
            text(*crowded)
        );
        for ((column, _), figure) in columns.iter().zip(&figures) {
            if let Some(figure) = figure {
                // The figures to reach are those of GICv3, as it is built by default, alone or not.
                let limit = event
                    .limit
                    .filter(|_| matches!(*column, "gicv3" | "gicv3-crowded"));
                rows.push(row(
                    &format!("{}-{column}", event.case),
                    "median",
                    figure.median,
                    limit,
                ));
            }
        }
    }
    println!(
        "\n! more than the figure to reach. Peers: GICv3 only, measured with the same guest. Mitigated: GICv3, built with\n\
         --mitigations. Crowded: GICv3, median of 50, beside two guests that flood from cores of their own (the switch: beside one)."
    );
    write(w, "events", &rows)?;
    Ok(good)
}

pub(crate) fn row(case: &str, metric: &str, value: u64, limit: Option<u64>) -> Value {
    json!({"case": case, "metric": metric, "value": value, "unit": "instructions", "limit": limit})
}

pub(crate) fn write(w: &Workshop, name: &str, rows: &[Value]) -> Result<(), String> {
    let folder = w.project().output().with_file_name("bench");
    let file = folder.join(format!("{name}.json"));
    fs::create_dir_all(&folder)
        .and_then(|()| fs::write(&file, format!("{:#}\n", Value::from(rows))))
        .map_err(|error| format!("cannot write {}: {error}", file.display()))
}

/// Measures reset to the first guest instruction, and Linux's boot to its first program; prints both
/// and writes `target/bench/boot.json`.
///
/// # Errors
/// A guest that did not come to its end, or a file that cannot be written.
pub fn boot(w: &Workshop) -> Result<bool, String> {
    let mut rows = Vec::new();
    bench_reset::reset_to_guest(w, &mut rows)?;
    for gic in [3, 2] {
        linux(w, gic, &mut rows)?;
    }
    write(w, "boot", &rows)?;
    Ok(true)
}

pub(crate) fn fields(value: &Value, wanted: impl Fn(&str) -> bool) -> u64 {
    let object = value.as_object().into_iter().flatten();
    object
        .filter(|(key, _)| wanted(key))
        .filter_map(|(_, value)| value.as_u64())
        .sum()
}

/// Linux from its first instruction to its first program, which powers off.
fn linux(w: &Workshop, gic: u8, rows: &mut Vec<Value>) -> Result<(), String> {
    let ranges = bench_reset::functions(w, "penumbra-qemu-virt", LOAD_ADDRESS)?;
    let zeroing = ["cache4zero", "cache16clean_invalidate"];
    for backing in ["reserved", "thin"] {
        let toml = format!(
            "[[guest]]\nname = \"linux\"\nvcpus = 1\ncores = [1]\nmemory = \"256 MiB\"\nbacking = \"{backing}\"\n\
             kernel = \"{}\"\ninitrd = \"{}\"\n\
             cmdline = \"console=ttyAMA0 nokaslr rdinit=/bin/poweroff -- -f\"\n",
            w.cached("linux-cloud/vmlinuz").display(),
            w.initramfs().display()
        );
        let counts = count(
            w,
            &format!("boot-linux-gicv{gic}-{backing}"),
            &toml,
            gic,
            2,
            &ranges,
        )?;
        let [_, first, ..] = counts.firsts.as_slice() else {
            return Err("Linux did not run".into());
        };
        let all = |value: &Value| fields(value, |key| key == "el2" || key.contains("_el"));
        let el2 = number(&counts.total, "el2").unwrap_or(0) - number(first, "el2").unwrap_or(0);
        let total = all(&counts.total) - all(first);
        let apart = |value: &Value| {
            fields(value, |key| {
                key.starts_with("range_") && zeroing.iter().any(|part| key.contains(part))
            })
        };
        let zeroed = apart(&counts.total) - apart(first);
        let share = |part: u64| {
            let millionths = part * 1_000_000 / total.max(1);
            format!("{}.{:04} %", millionths / 10_000, millionths % 10_000)
        };
        println!(
            "Linux 6.1 boot to its first program, GICv{gic}, {backing}: {total} instructions, EL2 {el2} = {}, \
             without zeroing frames {} (to reach: 0.5 %; Xen 0.09 %, KVM 4.1 %)",
            share(el2),
            share(el2 - zeroed)
        );
        println!("{}", bench_reset::longest_since(first, &counts.total, 12));
        let case = format!("linux-boot-gicv{gic}-{backing}");
        rows.push(row(&case, "all", total, None));
        rows.push(row(&case, "el2", el2, Some(total / 200)));
        rows.push(row(&case, "el2-without-zeroing", el2 - zeroed, None));
    }
    Ok(())
}

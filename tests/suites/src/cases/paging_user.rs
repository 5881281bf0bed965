//! A process that reads and writes its memory at random, in compound mode: the policy tries trapped roots,
//! samples walks, and puts the process's pages in order while it checks every word that it reads.

use std::thread::sleep;
use std::time::Duration;

use super::guest;
use crate::board::Board;
use crate::case::Case;
use crate::shown;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(300);
/// Ten seconds are 20 thousand million instructions, on a host that may be busy.
const FIGURE_LIMIT: Duration = Duration::from_secs(1200);
/// Looks at the policy's work, a second apart: on a busy host a guest under `-icount` has its own seconds in many more.
const LOOKS: u32 = 400;
/// Looks without a page that is moved after which those that are not home count as left behind: a way through RAM that the policy
/// has put off begins meanwhile.
const STILL_LOOKS: u32 = 120;
/// Of the memory that the process uses, so much has to come under 2 MiB leaves, in percent.
const SHARE: u64 = 95;
/// Regions of 2 MiB that stage 2 maps by pages because of tables that came to be watched meanwhile, at most.
const WATCHED_REGIONS: u64 = 4;
/// A storm beside the process, of others that live short.
const STORM: &str = "while :; do seq 50 | sort -r | wc -l >/dev/null; done &";

/// A guest to run, and what runs in it.
#[derive(Clone, Copy, Debug)]
struct Point {
    gic: u8,
    cpu: &'static str,
    vcpus: u8,
    backing: &'static str,
    /// What is used: a mapped file of a tmpfs, or anonymous memory.
    file: bool,
    mib: u64,
    storm: bool,
}

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let quick = Point {
        gic: 3,
        cpu: "cortex-a72",
        vcpus: 1,
        backing: "thin",
        file: false,
        mib: 16,
        storm: false,
    };
    let mut cases = vec![case(true, quick)];
    for (gic, cpu, vcpus, backing, file, mib, storm) in [
        (3, "cortex-a72", 1, "thin", true, 64, false),
        // Several vCPUs of QEMU share the host's cores, with the storm. A small process is walked in each of its regions so often
        // all the same that moving them pays, and looks at it cost little of a trial's account.
        (2, "cortex-a72", 2, "thin", false, 16, true),
        (3, "cortex-a72", 4, "thin", true, 16, true),
        // FEAT_FGT: only roots and what they depend on are trapped.
        (3, "max", 1, "thin", false, 16, false),
    ] {
        let point = Point {
            gic,
            cpu,
            vcpus,
            backing,
            file,
            mib,
            storm,
        };
        cases.push(case(false, point));
    }
    for (what, memory) in [("file", "file /tmp/f"), ("anon", "small")] {
        let name = format!("compound-user-figure-{what}256-gicv3-1vcpu-thin");
        cases.push(Case::named(name, false, move |w, name| {
            figure(w, name, memory)
        }));
    }
    let name = "compound-user-trials-gicv3-1vcpu-thin";
    cases.push(Case::new(name, false, move |w| trials(w, name)));
    cases
}

/// Processes of a second, then two that take turns: nothing pays, and what the policy's trials cost stays within their
/// account: 25 ms and 0.5 % of the time in user mode, and one look more.
fn trials(w: &Workshop, name: &str) -> Result<(), String> {
    const LOADS: &str = "walkload 0 jobs 10 4194304 9000000; walkload 0 turns 14000 4194304 3000";
    const LOOK_US: u64 = 10_000;
    let toml = guest("linux", 1, "256 MiB", &settings(w, name, "thin")?);
    let setup = Setup {
        arguments: ["-icount", "shift=3,sleep=off"].map(str::to_owned).to_vec(),
        cores: 1,
        ..Setup::default()
    };
    let mut board = w.boot(name, &toml, &setup)?;
    board.expect("# ", FIGURE_LIMIT)?;
    board.send(&format!("sleep 20; {LOADS}; echo both have \"ended\""))?;
    board.expect("both have ended", FIGURE_LIMIT)?;
    board.send("\x1ds")?;
    board.expect("penumbra> ", FIGURE_LIMIT)?;
    let shown = shown::paging(&mut board, "linux", FIGURE_LIMIT)?;
    std::fs::write(w.file(&format!("{name}.txt")), &shown)
        .map_err(|error| format!("cannot write what was shown: {error}"))?;
    let (spent_us, busy_ms) =
        account(&shown).ok_or_else(|| format!("no trial was made:\n{shown}"))?;
    let most_us = 25_000 + busy_ms * 5 + LOOK_US;
    if busy_ms < 10_000 || spent_us > most_us {
        return Err(format!(
            "trials cost {spent_us} us in {busy_ms} ms of user mode, {most_us} us at most:\n{shown}"
        ));
    }
    if moved(&shown) != Some(0) {
        return Err(format!(
            "what does not live or is small was moved:\n{shown}"
        ));
    }
    audit(&mut board)?;
    board.send("console linux")?;
    board.expect("console of guest 1", FIGURE_LIMIT)?;
    board.send("poweroff")?;
    board.off(FIGURE_LIMIT).map(drop)
}

/// How many pages were moved, by what it prints.
fn moved(shown: &str) -> Option<u64> {
    let (_, rest) = shown.split_once("pages moved ")?;
    rest.split_whitespace().next()?.parse().ok()
}

/// What `paging show` says that trials have cost, in us, and for how many ms the guest was in user mode.
fn account(shown: &str) -> Option<(u64, u64)> {
    let (_, rest) = shown.split_once("trials of user spaces have cost ")?;
    let (spent, busy) = rest.split_once(" of ")?;
    let thousandths = |text: &str| {
        text.split_whitespace()
            .next()?
            .replace('.', "")
            .parse()
            .ok()
    };
    Some((thousandths(spent)?, thousandths(busy)?))
}

/// 256 MiB at random: how much of it is under 2 MiB leaves after ten seconds. QEMU counts instructions, one a
/// nanosecond of the board's time, so that it does not depend on the host. One core: with more, each flush
/// that the others have to hear costs a slice of QEMU's time, a few milliseconds, and each page moved has one.
fn figure(w: &Workshop, name: &str, memory: &str) -> Result<(), String> {
    const MIB: u64 = 256;
    // Files lie in a tmpfs, which takes half of the guest's memory.
    let toml = guest("linux", 1, "768 MiB", &settings(w, name, "thin")?);
    let setup = Setup {
        arguments: ["-icount", "shift=0,sleep=off"].map(str::to_owned).to_vec(),
        cores: 1,
        ..Setup::default()
    };
    let mut board = w.boot(name, &toml, &setup)?;
    board.expect("# ", FIGURE_LIMIT)?;
    let bytes = MIB << 20;
    board.send(&format!(
        "sleep 20; truncate -s {bytes} /tmp/f; walkload 0 check {bytes} 10 /tmp/stop {memory} &"
    ))?;
    board.expect("walkload: measured", FIGURE_LIMIT)?;
    board.send("\x1ds")?;
    board.expect("penumbra> ", FIGURE_LIMIT)?;
    let shown = shown::paging(&mut board, "linux", FIGURE_LIMIT)?;
    // For whoever wants to know what it took.
    std::fs::write(w.file(&format!("{name}.txt")), &shown)
        .map_err(|error| format!("cannot write what was shown: {error}"))?;
    let leaves = user_leaves(&shown);
    if leaves < MIB * SHARE / 100 {
        return Err(format!(
            "{leaves} of {MIB} MiB are under 2 MiB leaves:\n{shown}"
        ));
    }
    audit(&mut board)?;
    board.send("console linux")?;
    board.expect("console of guest 1", FIGURE_LIMIT)?;
    board.send("touch /tmp/stop")?;
    board.expect("walkload: every word is right", FIGURE_LIMIT)?;
    board.send("poweroff")?;
    board.off(FIGURE_LIMIT).map(drop)
}

/// The guest's settings but for its name, vCPUs and memory.
fn settings(w: &Workshop, name: &str, backing: &str) -> Result<String, String> {
    Ok(format!(
        "backing = \"{backing}\"\npaging = \"compound\"\npaging_copy = \"256 MiB\"\nkernel = \"{}\"\n\
         initrd = \"{}\"\ncmdline = \"console=ttyAMA0 quiet transparent_hugepage=never\"",
        w.cached("linux-cloud/vmlinuz").display(),
        w.walkload_initramfs(name)?.display(),
    ))
}

fn case(quick: bool, point: Point) -> Case {
    let Point {
        gic,
        vcpus,
        backing,
        file,
        mib,
        storm,
        ..
    } = point;
    let what = if file { "file" } else { "anon" };
    let storm = if storm { "-storm" } else { "" };
    let cpu = match point.cpu {
        "cortex-a72" => String::new(),
        cpu => format!("-{cpu}"),
    };
    let name = format!("compound-user-{what}{mib}-gicv{gic}-{vcpus}vcpu-{backing}{storm}{cpu}");
    Case::named(name, quick, move |w, name| reader(w, name, point))
}

fn reader(w: &Workshop, name: &str, point: Point) -> Result<(), String> {
    let Point {
        gic,
        cpu,
        vcpus,
        backing,
        file,
        mib,
        storm,
    } = point;
    let toml = guest("linux", vcpus, "512 MiB", &settings(w, name, backing)?);
    let mut setup = Setup {
        gic,
        cpu,
        ram_mib: 2048,
        ..Setup::default()
    };
    if vcpus == 1 {
        // The policy goes by the clock: what its looks cost, and how soon walks come. QEMU's would have in it what else the
        // host does. With more cores each flush that the others have to hear would cost a slice of QEMU's time.
        setup.arguments = ["-icount", "shift=3,sleep=off"].map(str::to_owned).to_vec();
        setup.cores = 1;
    }
    let mut board = w.boot(name, &toml, &setup)?;
    board.expect("# ", LIMIT)?;
    if storm {
        board.send(STORM)?;
        board.expect("# ", LIMIT)?;
    }
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    let before = pages(&mut board)?;
    board.send("console linux")?;
    board.expect("console of guest 1", LIMIT)?;
    let bytes = mib << 20;
    let what = if file { "file /tmp/f" } else { "small" };
    board.send(&format!(
        "truncate -s {bytes} /tmp/f; walkload 0 check {bytes} 0 /tmp/stop {what} &"
    ))?;
    board.expect("walkload: filled", LIMIT)?;
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    // Where the mapping begins is up to Linux: the first and the last 2 MiB may be partly its. And of a process as small as
    // 16 MiB one region in seven, the only one with pages to move, may be walked too seldom to pay for it.
    let wanted = (mib * SHARE / 100).min(mib - 4);
    await_leaves(
        &mut board,
        "too little of it came under 2 MiB leaves",
        |leaves| leaves >= wanted,
    )?;
    audit(&mut board)?;
    board.send("console linux")?;
    board.expect("console of guest 1", LIMIT)?;
    board.send("touch /tmp/stop")?;
    board.expect("walkload: every word is right", LIMIT)?;
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    await_leaves(&mut board, "what stood for the process stays", |leaves| {
        leaves == 0
    })?;
    await_home(&mut board, before)?;
    audit(&mut board)?;
    board.send("console linux")?;
    board.expect("console of guest 1", LIMIT)?;
    board.send("poweroff")?;
    board.off(LIMIT).map(drop)
}

fn audit(board: &mut Board) -> Result<(), String> {
    board.send("paging audit linux")?;
    board.expect("every mirror agrees with the guest's tables", LIMIT)?;
    board.send("audit")?;
    board.expect("every frame that a VM sees is its own", LIMIT)
}

/// How many pages of 4 KiB stage 2 maps by themselves.
fn pages(board: &mut Board) -> Result<u64, String> {
    board.send("stats linux")?;
    board.expect("mapped by ", LIMIT)?;
    let shown = board.until("pages of 4 KiB", LIMIT)?;
    let pages = shown.split_whitespace().next_back();
    pages
        .and_then(|pages| pages.parse().ok())
        .ok_or_else(|| format!("no number of pages: {shown}"))
}

/// Waits until the pages that were put in order are home again: stage 2 maps their regions by blocks, but for some that hold
/// tables which the kernel's shadows watch. As long as pages are moved it is under way, however slow the host; each
/// that is brings one home for good, so that has an end.
fn await_home(board: &mut Board, before: u64) -> Result<(), String> {
    let most = before.saturating_add(WATCHED_REGIONS * 512);
    let (mut last, mut still) = (None, 0);
    loop {
        let now = pages(board)?;
        if now <= most {
            return Ok(());
        }
        let shown = shown::paging(board, "linux", LIMIT)?;
        let moved = moved(&shown);
        still = if moved == last { still + 1 } else { 0 };
        last = moved;
        if still >= STILL_LOOKS {
            return Err(format!(
                "stage 2 maps {now} pages by themselves, {before} before any were moved:\n{shown}"
            ));
        }
        sleep(Duration::from_secs(1));
    }
}

/// Waits until so many MiB of the user spaces are under 2 MiB leaves.
fn await_leaves(
    board: &mut Board,
    failure: &str,
    enough: impl Fn(u64) -> bool,
) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..LOOKS {
        last = shown::paging(board, "linux", LIMIT)?;
        if enough(user_leaves(&last)) {
            return Ok(());
        }
        sleep(Duration::from_secs(1));
    }
    Err(format!("{failure}:\n{last}"))
}

/// MiB of user spaces under 2 MiB leaves, as `paging show` says.
fn user_leaves(shown: &str) -> u64 {
    let mut user = false;
    let mut mib = 0;
    for line in shown.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("space") => user = words.nth(1) == Some("user,"),
            Some(range) if user && range.len() == 33 => {
                let (size, unit) = (words.next(), words.next());
                let leaves = matches!(words.next(), Some("relaid" | "leaf"));
                if leaves && unit == Some("MiB") {
                    mib += size.and_then(|size| size.parse().ok()).unwrap_or(0);
                }
            }
            _ => {}
        }
    }
    mib
}

#[cfg(test)]
mod tests {
    use super::{account, moved, user_leaves};

    #[test]
    fn what_trials_cost_is_read() {
        let shown = "\n  trials of user spaces have cost 31.070 ms of 24.123 s in user mode\n";
        assert_eq!(account(shown), Some((31_070, 24_123)));
        assert_eq!(account("nothing"), None);
    }

    #[test]
    fn how_many_pages_were_moved_is_read() {
        let shown = "  regions re-laid out             31   pages moved                  31733   stores mirrored  35";
        assert_eq!(moved(shown), Some(31_733));
        assert_eq!(moved("nothing"), None);
    }

    #[test]
    fn leaves_of_user_spaces_are_added_up() {
        let shown = "  space 0: kernel, root 0x41000000; compound root planted, no traps\n\
            \x20   ffff000040000000-ffff00004fffffff   256 MiB  leaf    2 MiB      pays\n\
            \x20 space 1: user, root 0x42000000; compound root by trapped writes\n\
            \x20   0000ffff80000000-0000ffff811fffff    18 MiB  relaid  2 MiB      pays\n\
            \x20   0000ffff81200000-0000ffff813fffff     2 MiB  nested  guest's    just found\n\
            \x20   0000ffff81400000-0000ffff817fffff     4 MiB  leaf    2 MiB      pays\n";
        assert_eq!(user_leaves(shown), 22);
    }
}

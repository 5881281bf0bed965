//! Guests outlive the manager, and each other: the manager is killed and a guest restarted again and
//! again beside a Linux that must not notice.

use std::time::{Duration, Instant};

use super::guest;
use crate::board::Board;
use crate::case::{Case, share_cores};
use crate::workshop::{Setup, Workshop};

/// To boot, and for an answer on a busy workstation.
const LIMIT: Duration = Duration::from_secs(150);
/// For a manager that hangs to be found and started again: 5 s of core time and two looks.
const REVIVAL: Duration = Duration::from_secs(60);
/// A manager that has lived so long begins a new row of restarts, with the first pause again.
const STEADY: Duration = Duration::from_millis(2500);
/// The longest that the neighbour's loop of 20 ms may have taken, in hundredths of a second, while boards do not share the
/// workstation's cores: more than a busy one takes a board's time for.
const GAP: u64 = 250;
/// The same with boards that share cores: less than a hang of the manager lasts.
const SHARED_GAP: u64 = 450;

/// Ways for the manager to die, and what it still says itself.
const DEATHS: [(&str, &str); 7] = [
    ("panic", "the manager failed"),
    ("steal", "the manager faulted"),
    ("loop", ""),
    ("store", "the manager faulted"),
    ("jump", "the manager faulted"),
    ("stack", "the manager faulted"),
    ("vectors", ""),
];

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    vec![
        Case::new("manager-dies-beside-linux", true, |w| {
            dies_thrice(w, "manager-dies", &setup())
        }),
        Case::new("manager-dies-in-every-way", false, |w| {
            dies_in_every_way(w, "manager-dies-every-way", &setup())
        }),
        Case::new("watchdog-restarts-linux-beside-linux", true, |w| {
            watchdog(w, "watchdog", &setup())
        }),
    ]
}

fn setup() -> Setup {
    Setup {
        ram_mib: 2048,
        ..Setup::default()
    }
}

/// The manager dies three times in a row.
pub(super) fn dies_thrice(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let mut neighbour = Neighbour::boot(w, name, "", setup)?;
    neighbour.kill_managers(3, Duration::ZERO)?;
    neighbour.verdict()
}

/// The manager dies in each way once.
pub(super) fn dies_in_every_way(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let mut neighbour = Neighbour::boot(w, name, "", setup)?;
    neighbour.kill_managers(DEATHS.len(), STEADY)?;
    neighbour.verdict()
}

/// A Linux that lets its watchdog starve is started anew, beside one that must not notice.
pub(super) fn watchdog(w: &Workshop, name: &str, setup: &Setup) -> Result<(), String> {
    let keys = format!(
        "cores = [3]\nkernel = \"{}\"\ninitrd = \"{}\"\ncmdline = \"console=ttyAMA0 quiet\"\n\
         watchdog = true",
        w.cached("linux-cloud/vmlinuz").display(),
        w.watchdog_initramfs(name)?.display(),
    );
    let watched = guest("watched", 1, "256 MiB", &keys);
    let mut neighbour = Neighbour::boot(w, name, &watched, setup)?;
    neighbour.order("console watched", &[])?;
    neighbour.shell = false;
    for _ in 0..2 {
        let board = &mut neighbour.board;
        board.expect("wd: found SBSA Generic Watchdog", LIMIT)?;
        board.expect("wd: fed for 6 s, 2 s allowed", LIMIT)?;
        board.expect("it has not refreshed its watchdog for ", LIMIT)?;
        let age = board.until(" ms (", LIMIT)?;
        let age: u64 = age.parse().map_err(|_| format!("\"{age}\" ms"))?;
        if !(2000..4000).contains(&age) {
            return Err(format!("stopped {age} ms after the last refresh, not 2000"));
        }
        let line = board.until(")", LIMIT)?;
        if !line.contains(&format!("{name}.toml, line ")) {
            return Err(format!("the scenario's line is missing: {line}"));
        }
        board.expect("guest 'watched' is started again", LIMIT)?;
    }
    neighbour.order("stats watched", &["watchdog: "])?;
    neighbour.order("console linux", &[])?;
    neighbour.shell = false;
    neighbour.verdict()
}

/// Restarts a guest and kills the manager so often beside a running Linux.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn soak(w: &Workshop, restarts: usize, kills: usize) -> Result<(), String> {
    let bare = format!(
        "cores = [3]\ncmdline = \"endless-fault\"\nkernel = \"{}\"",
        w.payload("crash").display()
    );
    let bare = guest("bare", 1, "64 MiB", &bare);
    let mut neighbour = Neighbour::boot(w, "soak", &bare, &setup())?;
    let free = neighbour.free()?;
    let start = Instant::now();
    neighbour.restart_bare(restarts)?;
    println!(
        "{restarts} restarts: {:.0} s",
        start.elapsed().as_secs_f32()
    );
    let start = Instant::now();
    neighbour.kill_managers(kills, STEADY)?;
    println!("{kills} kills: {:.0} s", start.elapsed().as_secs_f32());
    let left = neighbour.free()?;
    if left != free {
        return Err(format!("{free} were free before, {left} are free now"));
    }
    neighbour.verdict()
}

/// A Linux with two vCPUs whose clock is watched by itself and from outside.
pub(super) struct Neighbour {
    board: Board,
    /// Questions asked so far; each answer carries the number of its question.
    asked: u32,
    /// When the watch began, here and there (in hundredths of a second).
    since: (Instant, u64),
    shell: bool,
}

impl Neighbour {
    /// A board with this Linux and other guests.
    pub(super) fn boot(
        w: &Workshop,
        name: &str,
        others: &str,
        setup: &Setup,
    ) -> Result<Self, String> {
        let linux = format!(
            "cores = [1, 2]\nkernel = \"{}\"\ninitrd = \"{}\"\ncmdline = \"console=ttyAMA0 quiet\"",
            w.cached("linux-cloud/vmlinuz").display(),
            w.initramfs().display(),
        );
        let toml = guest("linux", 2, "256 MiB", &linux) + others;
        let mut board = w.boot(name, &toml, setup)?;
        board.expect("This is a busybox shell", LIMIT)?;
        board.expect("# ", LIMIT)?;
        let mut neighbour = Self {
            board,
            asked: 0,
            since: (Instant::now(), 0),
            shell: false,
        };
        // One loop on each vCPU: how long its longest round of 20 ms was.
        for cpu in 1..=2 {
            neighbour.board.send(&format!(
                "(taskset -p {cpu} $(sh -c 'echo $PPID'); p=0; g=0; while [ ! -e /tmp/end ]; do \
                 usleep 20000; read u r </proc/uptime; u=${{u%.*}}${{u#*.}}; \
                 [ $p -gt 0 ] && [ $((u-p)) -gt $g ] && g=$((u-p)); p=$u; done; \
                 echo $g >/tmp/gap{cpu}) >/dev/null &"
            ))?;
        }
        let up = neighbour.uptime()?;
        neighbour.since = (Instant::now(), up);
        Ok(neighbour)
    }

    /// The output of a command in the guest: one line.
    fn ask(&mut self, command: &str) -> Result<String, String> {
        if self.shell {
            self.shell = false;
            self.board.send("exit")?;
        }
        self.asked += 1;
        let number = self.asked;
        // The echo of what is typed must not look like the answer.
        self.board
            .send(&format!("echo ans\"\"wer-{number}: $({command})"))?;
        self.board.expect(&format!("answer-{number}: "), LIMIT)?;
        let line = self.board.until("\n", LIMIT)?;
        Ok(line.trim().to_owned())
    }

    fn number(&mut self, command: &str) -> Result<u64, String> {
        let text = self.ask(command)?;
        text.parse()
            .map_err(|_| format!("`{command}` answered \"{text}\""))
    }

    /// Since the guest's boot, in hundredths of a second.
    fn uptime(&mut self) -> Result<u64, String> {
        self.number("cut -d' ' -f1 /proc/uptime | tr -d .")
    }

    /// Gives a command to the operator's shell and waits for its answers.
    pub(super) fn order(&mut self, command: &str, answers: &[&str]) -> Result<(), String> {
        if !self.shell {
            self.shell = true;
            self.board.send("\x1ds")?;
            self.board.expect("penumbra> ", LIMIT)?;
        }
        self.board.ask(command, answers, LIMIT)
    }

    /// Gives a command to the operator's shell; what comes between two texts.
    pub(super) fn answer(&mut self, command: &str, from: &str, to: &str) -> Result<String, String> {
        self.order(command, &[from])?;
        self.board.until(to, LIMIT)
    }

    /// Waits for a text on the console.
    pub(super) fn await_text(&mut self, text: &str) -> Result<(), String> {
        self.board.expect(text, LIMIT)
    }

    /// What comes on the console before a text.
    pub(super) fn upto(&mut self, text: &str) -> Result<String, String> {
        self.board.until(text, LIMIT)
    }

    /// Types a line for the guest in front.
    pub(super) fn type_line(&mut self, line: &str) -> Result<(), String> {
        self.board.send(line)
    }

    /// Says that another guest's console is shown, not the shell.
    pub(super) const fn left_shell(&mut self) {
        self.shell = false;
    }

    /// Free memory of the board, in the shell's words.
    pub(super) fn free(&mut self) -> Result<String, String> {
        self.order("board", &[" Hz"])?;
        let text = self.board.until(" free, the largest", LIMIT)?;
        Ok(text.trim().to_owned())
    }

    pub(super) fn audit(&mut self) -> Result<(), String> {
        self.order("audit", &["every frame that a VM sees is its own"])
    }

    fn restart_bare(&mut self, times: usize) -> Result<(), String> {
        for _ in 0..times {
            self.order("restart bare", &["'bare' was started by the operator"])?;
            self.audit()?;
        }
        Ok(())
    }

    /// Kills the manager so often, each time in another way and at least `pause` after it came back.
    fn kill_managers(&mut self, times: usize, pause: Duration) -> Result<(), String> {
        for (n, (way, last_words)) in (1..=times).zip(DEATHS.into_iter().cycle()) {
            let says = format!("lets the manager die: {way}");
            self.order(&format!("manager {way}"), &[&says])?;
            self.shell = false;
            if !last_words.is_empty() {
                self.board.expect(last_words, LIMIT)?;
            }
            // What is typed meanwhile is not lost.
            if way == "loop" {
                self.board.send("echo typed-while-$((40 + 2))")?;
            }
            let back = format!("the manager was restarted ({n}");
            self.board.expect(&back, REVIVAL)?;
            self.board.expect("the guests went on", LIMIT)?;
            if way == "loop" {
                self.board.expect("typed-while-42", LIMIT)?;
            }
            self.ask("echo yes")?;
            std::thread::sleep(pause);
            self.audit()?;
        }
        Ok(())
    }

    /// Whether the guest's time went on, in its own eyes and in ours; then switches the board off.
    pub(super) fn verdict(mut self) -> Result<(), String> {
        let (then, before) = self.since;
        let here = u64::try_from(then.elapsed().as_millis() / 10).unwrap_or(u64::MAX);
        let there = self.uptime()?.saturating_sub(before);
        let longest = if share_cores()? { SHARED_GAP } else { GAP };
        if here.abs_diff(there) > longest {
            return Err(format!(
                "{there} / 100 s went by in the guest, {here} / 100 here"
            ));
        }
        self.ask("touch /tmp/end; sleep 1; echo done")?;
        for cpu in 1..=2 {
            let gap = self.number(&format!("cat /tmp/gap{cpu}"))?;
            if gap > longest {
                return Err(format!(
                    "vCPU {cpu} of the guest stood still for {gap} / 100 s"
                ));
            }
        }
        let complaints = "dmesg | grep -icE 'stall|lockup|BUG:|WARNING:|hung task|call trace'";
        let complaints = self.number(complaints)?;
        if complaints != 0 {
            return Err(format!("the guest's kernel has {complaints} complaints"));
        }
        self.audit()?;
        self.order("poweroff now", &["the operator switches the board off"])?;
        self.board.off(LIMIT).map(drop)
    }
}

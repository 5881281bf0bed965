//! The shell's commands: names, arguments, and the words that explain them.

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Help,
    List,
    Start,
    Stop,
    Pause,
    Resume,
    Restart,
    Create,
    Destroy,
    Console,
    Log,
    Stats,
    Traps,
    Load,
    Top,
    Watch,
    Schedule,
    Board,
    Audit,
    Paging,
    Version,
    Manager,
    Exit,
    PowerOff,
}

/// What a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Nothing.
    Nothing,
    /// A guest.
    Guest,
    /// A guest, or nothing for all.
    AnyGuest,
    /// A command, or nothing.
    AnyCommand,
    /// A command that only shows something, with its own argument.
    View,
    /// A way for the manager to die.
    Death,
    /// The word `now`, or nothing.
    Now,
    /// One of [`PAGING`], a guest, and what that takes.
    Paging,
}

/// A command.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) verb: Verb,
    pub(crate) takes: Takes,
    /// How it is written.
    pub(crate) usage: &'static str,
    /// What it does.
    pub(crate) text: &'static str,
    /// How it is used.
    pub(crate) example: &'static str,
}

const fn command(
    (name, verb, takes): (&'static str, Verb, Takes),
    usage: &'static str,
    text: &'static str,
    example: &'static str,
) -> Command {
    Command {
        name,
        verb,
        takes,
        usage,
        text,
        example,
    }
}

/// The commands that `watch` takes.
pub(crate) const VIEWS: [&str; 6] = ["list", "stats", "traps", "load", "schedule", "board"];

/// What `paging` does, as it is written, and in words.
pub(crate) const PAGING: [(&str, &str, &str); 4] = [
    (
        "show",
        "paging show GUEST",
        "what is shadowed and what is nested, counters, decisions",
    ),
    (
        "mode",
        "paging mode GUEST nested|compound|shadow",
        "changes the mode while it runs",
    ),
    (
        "audit",
        "paging audit GUEST",
        "compares every mirror with the guest's tables",
    ),
    (
        "trace",
        "paging trace GUEST on|off",
        "prints what the policy sees, for `penumbra paging-sim`",
    ),
];

/// Every command.
#[rustfmt::skip]
pub(crate) const COMMANDS: [Command; 24] = [
    command(("help", Verb::Help, Takes::AnyCommand), "help [COMMAND]", "the commands, or one of them", "help start"),
    command(("list", Verb::List, Takes::Nothing), "list", "the guests: state, cores, memory, restarts", "list"),
    command(("start", Verb::Start, Takes::Guest), "start GUEST", "starts a guest that is off, anew from the bundle", "start linux"),
    command(("stop", Verb::Stop, Takes::Guest), "stop GUEST", "stops a guest at once, as if its power was cut", "stop linux"),
    command(("pause", Verb::Pause, Takes::Guest), "pause GUEST", "holds a guest where it is", "pause linux"),
    command(("resume", Verb::Resume, Takes::Guest), "resume GUEST", "lets a paused guest run on", "resume linux"),
    command(("restart", Verb::Restart, Takes::Guest), "restart GUEST", "stops a guest and starts it anew", "restart linux"),
    command(("create", Verb::Create, Takes::Guest), "create GUEST", "gives a guest memory and loads it; `start` runs it", "create linux"),
    command(("destroy", Verb::Destroy, Takes::Guest), "destroy GUEST", "frees the memory of a guest that is stopped", "destroy linux"),
    command(("console", Verb::Console, Takes::AnyGuest), "console [GUEST]", "that guest's console; without a name: all, labelled", "console linux"),
    command(("log", Verb::Log, Takes::AnyGuest), "log [GUEST]", "what happened to it, and its last crash report", "log linux"),
    command(("stats", Verb::Stats, Takes::AnyGuest), "stats [GUEST]", "exits by reason, memory, console", "stats linux"),
    command(("traps", Verb::Traps, Takes::AnyGuest), "traps [GUEST]", "what it tried and was refused: PC, address, what to change", "traps linux"),
    command(("load", Verb::Load, Takes::Nothing), "load", "CPU time, exits and interrupts of each vCPU since last asked", "load"),
    command(("top", Verb::Top, Takes::Nothing), "top", "load, each second until a key", "top"),
    command(("watch", Verb::Watch, Takes::View), "watch COMMAND", "repeats a command that only shows, each second until a key", "watch stats linux"),
    command(("schedule", Verb::Schedule, Takes::Nothing), "schedule", "windows of scheduled cores, and how late they began", "schedule"),
    command(("board", Verb::Board, Takes::Nothing), "board", "cores, interrupt controller, memory, time", "board"),
    command(("audit", Verb::Audit, Takes::Nothing), "audit", "compares the owner of every frame with all stage-2 tables", "audit"),
    command(("paging", Verb::Paging, Takes::Paging), "paging ACTION ...", "what stands for a guest's tables; `help paging` says more", "paging show linux"),
    command(("version", Verb::Version, Takes::Nothing), "version", "versions of manager, interface and bundle", "version"),
    command(("manager", Verb::Manager, Takes::Death), "manager HOW", "makes the manager fail; guests go on (panic, loop, ...)", "manager panic"),
    command(("exit", Verb::Exit, Takes::Nothing), "exit", "back to the guests' consoles, as Ctrl-D", "exit"),
    command(("poweroff", Verb::PowerOff, Takes::Now), "poweroff [now]", "switches the board off; `now`: with guests that run", "poweroff now"),
];

/// The command of that name.
pub(crate) fn find(name: &str) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_example_is_one_of_its_command() {
        for command in &COMMANDS {
            let mut words = command.example.split(' ');
            assert_eq!(words.next(), Some(command.name));
            assert!(command.usage.starts_with(command.name));
            assert_eq!(find(command.name).unwrap().verb, command.verb);
            let optional = command.takes == Takes::Nothing;
            assert_eq!(words.next().is_none(), optional, "{}", command.name);
            assert!(
                command.usage.len() <= 17 && command.text.len() <= 60,
                "{}",
                command.name
            );
        }
        for view in VIEWS {
            assert!(find(view).is_some());
        }
    }

    #[test]
    fn the_book_has_every_command() {
        let page = include_str!("../../../../docs/consoles.md");
        for command in &COMMANDS {
            let row = format!("| `{}` |", command.usage);
            assert!(page.contains(&row), "docs/consoles.md lacks {row}");
        }
        for line in crate::console::HELP {
            let key = line.split_whitespace().next().unwrap_or_default();
            let key = key.trim_end_matches(',');
            assert!(
                page.contains(&format!("`{key}`")),
                "docs/consoles.md lacks the key {key}"
            );
        }
    }
}

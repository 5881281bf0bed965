//! From TOML to a checked [`Scenario`]; collects every problem on the way.

use std::ops::Range;
use std::path::Path;

use penumbra_bundle::{
    Backing, Key, Lines, MAX_CMDLINE_BYTES, MAX_GUESTS, MAX_MEMORY_BYTES, MAX_NAME_BYTES,
    MAX_VCPUS, MEMORY_UNIT_BYTES, Payload, WhenAllOff,
};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{File, Guest, MAX_BOARD_CORES, Scenario, size, suggest};
use crate::problem::{Problem, Problems, Source};

const TOP_KEYS: [&str; 3] = ["board", "guest", "schedule"];
pub(super) const BOARD_KEYS: [&str; 1] = ["when_all_off"];
pub(super) const GUEST_KEYS: [&str; 25] = [
    "name",
    "vcpus",
    "cores",
    "memory",
    "backing",
    "quota",
    "kernel",
    "initrd",
    "cmdline",
    "payload",
    "entry",
    "on_crash",
    "on_power_off",
    "restart_limit",
    "restart_delay",
    "autostart",
    "paging",
    "paging_changes",
    "paging_pool",
    "paging_copy",
    "address",
    "dma",
    "devices",
    "watchdog",
    "on_watchdog",
];

pub(super) fn scenario(source: Source) -> Result<Scenario, Problems> {
    let text = source.text.clone();
    let root = DeTable::parse(&text).map_err(|error| {
        let span = error.span().unwrap_or_default();
        Problems::of(
            &source,
            vec![Problem::at(
                span,
                format!("not valid TOML: {}", error.message()),
            )],
        )
    })?;
    let mut reader = Reader {
        source: &source,
        problems: Vec::new(),
    };
    let scenario = reader.scenario(root.get_ref());
    match scenario {
        Some(scenario) if reader.problems.is_empty() => Ok(scenario),
        _ => Err(Problems::of(&source, reader.problems)),
    }
}

pub(super) type Value<'a> = Spanned<DeValue<'a>>;

pub(super) struct Reader<'s> {
    pub(super) source: &'s Source,
    pub(super) problems: Vec<Problem>,
}

impl Reader<'_> {
    pub(super) fn complain(&mut self, span: Range<usize>, message: impl Into<String>, help: &str) {
        let problem = Problem::at(span, message);
        self.problems.push(if help.is_empty() {
            problem
        } else {
            problem.help(help)
        });
    }

    pub(super) fn line(&self, value: Range<usize>) -> u32 {
        self.source.line(value.start)
    }

    fn scenario(&mut self, root: &DeTable<'_>) -> Option<Scenario> {
        self.unknown_keys(root, &TOP_KEYS, "a scenario");
        let (when_all_off, when_all_off_line) = self.board(root);
        let guests = self.guests(root)?;
        self.somebody_starts(root, when_all_off, &guests);
        let schedules = self.schedules(root, &guests);
        Some(Scenario {
            source: self.source.clone(),
            when_all_off,
            when_all_off_line,
            guests,
            schedules,
        })
    }

    pub(super) fn unknown_keys(&mut self, table: &DeTable<'_>, known: &[&str], what: &str) {
        for key in table
            .keys()
            .filter(|key| !known.contains(&key.get_ref().as_ref()))
        {
            let name = key.get_ref();
            let help = match suggest::nearest(name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known keys: {}", known.join(", ")),
            };
            self.complain(key.span(), format!("{what} has no key `{name}`"), &help);
        }
    }

    fn board(&mut self, root: &DeTable<'_>) -> (WhenAllOff, u32) {
        let Some(board) = root.get("board") else {
            return (WhenAllOff::default(), 0);
        };
        let Some(table) = board.get_ref().as_table() else {
            self.complain(
                board.span(),
                "`board` is not a table",
                "write a line `[board]`",
            );
            return (WhenAllOff::default(), 0);
        };
        self.unknown_keys(table, &BOARD_KEYS, "[board]");
        let Some(value) = table.get("when_all_off") else {
            return (WhenAllOff::default(), 0);
        };
        let choices = [
            ("power-off", WhenAllOff::PowerOff),
            ("wait", WhenAllOff::Wait),
        ];
        let choice = self
            .choice("when_all_off", value, &choices)
            .unwrap_or_default();
        (choice, self.line(value.span()))
    }

    fn guests(&mut self, root: &DeTable<'_>) -> Option<Vec<Guest>> {
        const HELP: &str = "a guest starts with a line `[[guest]]`";
        let Some(list) = root.get("guest") else {
            self.complain(0..0, "the scenario has no guest", HELP);
            return None;
        };
        let Some(array) = list.get_ref().as_array() else {
            self.complain(list.span(), "`guest` is not a list of tables", HELP);
            return None;
        };
        if array.is_empty() || array.len() > usize::from(MAX_GUESTS) {
            let message = format!("{} guests: a scenario has 1 to {MAX_GUESTS}", array.len());
            self.complain(list.span(), message, HELP);
        }
        let mut guests: Vec<Guest> = Vec::new();
        for item in array.iter() {
            let Some(table) = item.get_ref().as_table() else {
                self.complain(item.span(), "a guest is a table", HELP);
                continue;
            };
            self.unknown_keys(table, &GUEST_KEYS, "a guest");
            let Some(guest) = self.guest(table, item.span()) else {
                continue;
            };
            if let Some(twin) = guests.iter().find(|other| other.name == guest.name) {
                let message = format!(
                    "two guests are named \"{}\"; the other name is on line {}",
                    guest.name,
                    twin.lines.nearest(Key::Name)
                );
                let span = table.get("name").map_or_else(|| item.span(), Spanned::span);
                self.complain(span, message, "give each guest its own name");
            }
            guests.push(guest);
        }
        Some(guests)
    }

    fn guest(&mut self, table: &DeTable<'_>, whole: Range<usize>) -> Option<Guest> {
        let mut lines = Lines::NONE;
        lines.set(Key::Guest, self.line(whole.clone()));
        for key in Key::ALL {
            if let Some((name, _)) = table.get_key_value(key.name()) {
                lines.set(key, self.line(name.span()));
            }
        }
        let name = self
            .required(table, &whole, "name")
            .and_then(|value| self.name(value));
        let vcpus = self
            .required(table, &whole, "vcpus")
            .and_then(|value| self.vcpus(value));
        let memory = self
            .required(table, &whole, "memory")
            .and_then(|v| self.memory("memory", v));
        let kernel = self
            .required(table, &whole, "kernel")
            .and_then(|v| self.file("kernel", v));
        let initrd = table
            .get("initrd")
            .and_then(|value| self.file("initrd", value));
        let cores = table
            .get("cores")
            .and_then(|value| self.cores(value, vcpus));
        let backing = table.get("backing").and_then(|value| {
            let choices = [
                ("reserved", Backing::Reserved),
                ("thin", Backing::Thin),
                ("direct", Backing::Direct),
            ];
            self.choice("backing", value, &choices)
        });
        let backing = backing.unwrap_or_default();
        let quota_bytes = table
            .get("quota")
            .and_then(|value| self.quota(value, backing, memory));
        let cmdline = table.get("cmdline").and_then(|value| self.cmdline(value));
        let payload = self.payload(table);
        let life = self.life(table);
        let paging = self.paging(table);
        let hardware = self.hardware(table, backing);
        Some(Guest {
            name: name?,
            lines,
            vcpus: vcpus?,
            cores,
            memory_bytes: memory?,
            backing,
            quota_bytes,
            kernel: kernel?,
            initrd,
            cmdline: cmdline.unwrap_or_default(),
            payload,
            on_crash: life.on_crash,
            on_power_off: life.on_power_off,
            restart_limit: life.restart_limit,
            restart_delay_ms: life.restart_delay_ms,
            autostart: life.autostart,
            paging,
            address: hardware.address,
            dma_trusted: hardware.dma_trusted,
            devices: hardware.devices,
            watchdog: life.watchdog,
        })
    }

    fn required<'t, 'i>(
        &mut self,
        table: &'t DeTable<'i>,
        whole: &Range<usize>,
        key: &str,
    ) -> Option<&'t Value<'i>> {
        let value = table.get(key);
        if value.is_none() {
            let help = match key {
                "name" => "add a line like `name = \"linux\"`",
                "vcpus" => "add a line like `vcpus = 2`",
                "memory" => "add a line like `memory = \"512 MiB\"`",
                _ => "add a line like `kernel = \"path/to/Image\"`",
            };
            self.complain(whole.clone(), format!("this guest has no `{key}`"), help);
        }
        value
    }

    pub(super) fn text<'v>(&mut self, key: &str, value: &'v Value<'_>) -> Option<&'v str> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            let kind = value.get_ref().type_str();
            self.complain(
                value.span(),
                format!("`{key}` is text in quotes, not {kind}"),
                "",
            );
        }
        text
    }

    pub(super) fn integer(&mut self, key: &str, value: &Value<'_>) -> Option<i64> {
        let Some(number) = value.get_ref().as_integer() else {
            let kind = value.get_ref().type_str();
            self.complain(
                value.span(),
                format!("`{key}` is a whole number, not {kind}"),
                "",
            );
            return None;
        };
        let parsed = i64::from_str_radix(&number.as_str().replace('_', ""), number.radix());
        if parsed.is_err() {
            self.complain(value.span(), format!("`{key}` is out of range"), "");
        }
        parsed.ok()
    }

    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &str,
        value: &Value<'_>,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(key, value)?;
        if let Some((_, choice)) = choices.iter().find(|(name, _)| *name == text) {
            return Some(*choice);
        }
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let help = match suggest::nearest(text, &names) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => format!("write \"{}\"", names.join("\" or \"")),
        };
        self.complain(value.span(), format!("`{key}` cannot be \"{text}\""), &help);
        None
    }

    fn name(&mut self, value: &Value<'_>) -> Option<String> {
        let name = self.text("name", value)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let message = if name.is_empty() {
            "a guest's name is empty".to_owned()
        } else if name.len() > MAX_NAME_BYTES {
            format!(
                "a guest's name has at most {MAX_NAME_BYTES} characters, this one has {}",
                name.len()
            )
        } else if !name.chars().all(plain) {
            format!("\"{name}\" is no good name for a guest")
        } else {
            return Some(name.to_owned());
        };
        self.complain(
            value.span(),
            message,
            "use letters, digits, `-`, `_` and `.`",
        );
        None
    }

    fn vcpus(&mut self, value: &Value<'_>) -> Option<u8> {
        let number = self.integer("vcpus", value)?;
        match u8::try_from(number) {
            Ok(vcpus) if (1..=MAX_VCPUS).contains(&vcpus) => Some(vcpus),
            _ => {
                let message = format!("a guest has 1 to {MAX_VCPUS} vCPUs, not {number}");
                self.complain(value.span(), message, "");
                None
            }
        }
    }

    fn cores(&mut self, value: &Value<'_>, vcpus: Option<u8>) -> Option<Vec<u8>> {
        let Some(array) = value.get_ref().as_array() else {
            self.complain(
                value.span(),
                "`cores` is a list of core numbers",
                "like `cores = [1, 2]`",
            );
            return None;
        };
        let mut cores = Vec::new();
        for item in array.iter() {
            let number = self.integer("cores", item)?;
            let core = u8::try_from(number)
                .ok()
                .filter(|&core| core < MAX_BOARD_CORES);
            let Some(core) = core else {
                let message = format!("core {number} does not exist");
                let help = format!(
                    "cores are numbered from 0 to at most {}",
                    MAX_BOARD_CORES - 1
                );
                self.complain(item.span(), message, &help);
                return None;
            };
            if cores.contains(&core) {
                let message = format!("core {core} is named twice");
                self.complain(
                    item.span(),
                    message,
                    "give each vCPU of the guest a core of its own",
                );
                return None;
            }
            cores.push(core);
        }
        let wanted = vcpus?;
        if cores.len() != usize::from(wanted) {
            let message = format!("{} cores for {wanted} vCPUs", cores.len());
            self.complain(
                value.span(),
                message,
                "name one core for each vCPU, or leave `cores` out",
            );
            return None;
        }
        Some(cores)
    }

    fn memory(&mut self, key: &str, value: &Value<'_>) -> Option<u64> {
        let message = match value.get_ref().as_str().map(size::parse) {
            None => format!(
                "`{key}` is a size in quotes, not {}",
                value.get_ref().type_str()
            ),
            Some(Err(sentence)) => sentence,
            Some(Ok(0)) => format!("`{key}` is 0"),
            Some(Ok(bytes)) if !bytes.is_multiple_of(MEMORY_UNIT_BYTES) => {
                let up = bytes
                    .checked_next_multiple_of(MEMORY_UNIT_BYTES)
                    .unwrap_or(bytes);
                let near = size::show(up);
                let help = format!("the next size that is: \"{near}\"");
                let message = format!("{} is not a multiple of 2 MiB", size::show(bytes));
                self.complain(value.span(), message, &help);
                return None;
            }
            Some(Ok(bytes)) if bytes > MAX_MEMORY_BYTES => format!(
                "{} is more than a guest can have ({})",
                size::show(bytes),
                size::show(MAX_MEMORY_BYTES)
            ),
            Some(Ok(bytes)) => return Some(bytes),
        };
        self.complain(
            value.span(),
            message,
            &format!("like `{key} = \"512 MiB\"`"),
        );
        None
    }

    fn quota(&mut self, value: &Value<'_>, backing: Backing, memory: Option<u64>) -> Option<u64> {
        let quota = self.memory("quota", value)?;
        if backing != Backing::Thin {
            let help = "add `backing = \"thin\"`, or leave `quota` out";
            self.complain(value.span(), "only a thin guest has a quota", help);
            return None;
        }
        let memory = memory?;
        if quota > memory {
            let message = format!(
                "the quota ({}) is more than the memory ({})",
                size::show(quota),
                size::show(memory)
            );
            self.complain(
                value.span(),
                message,
                "a guest cannot use more memory than it has",
            );
            return None;
        }
        Some(quota)
    }

    fn cmdline(&mut self, value: &Value<'_>) -> Option<String> {
        let cmdline = self.text("cmdline", value)?;
        match check_cmdline(cmdline) {
            Ok(()) => Some(cmdline.to_owned()),
            Err(message) => {
                self.complain(value.span(), message, "");
                None
            }
        }
    }

    fn payload(&mut self, table: &DeTable<'_>) -> Payload {
        let kind = table.get("payload").and_then(|value| {
            let choices = [
                ("linux", Payload::Linux),
                ("flat", Payload::Flat { entry: 0 }),
            ];
            self.choice("payload", value, &choices)
        });
        let kind = kind.unwrap_or_default();
        let Some(value) = table.get("entry") else {
            return kind;
        };
        if kind == Payload::Linux {
            let help = "add `payload = \"flat\"`, or leave `entry` out";
            self.complain(
                value.span(),
                "an Image starts at its first byte; only a flat binary has an `entry`",
                help,
            );
            return kind;
        }
        match self.integer("entry", value).map(u64::try_from) {
            Some(Ok(entry)) if entry.is_multiple_of(4) && entry < MAX_MEMORY_BYTES => {
                Payload::Flat { entry }
            }
            Some(_) => {
                let help = "the offset of the first instruction from the file's start, in bytes";
                self.complain(
                    value.span(),
                    "`entry` is not a multiple of 4 within the file",
                    help,
                );
                kind
            }
            None => kind,
        }
    }

    fn file(&mut self, key: &str, value: &Value<'_>) -> Option<File> {
        let name = self.text(key, value)?;
        if name.is_empty() {
            self.complain(
                value.span(),
                format!("`{key}` names no file"),
                "paths are seen from the scenario's folder",
            );
            return None;
        }
        let folder = self.source.path.parent().unwrap_or(Path::new(""));
        Some(File::named(folder, name, value.span()))
    }
}

/// Checks a kernel command line.
///
/// # Errors
/// A sentence.
pub(super) fn check_cmdline(cmdline: &str) -> Result<(), String> {
    if cmdline.len() > MAX_CMDLINE_BYTES {
        return Err(format!(
            "the command line has {} bytes, Linux takes {MAX_CMDLINE_BYTES}",
            cmdline.len()
        ));
    }
    if cmdline.chars().any(char::is_control) {
        return Err("the command line holds a control character or line break".into());
    }
    Ok(())
}

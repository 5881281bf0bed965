//! The table of a guest, and those of its keys that concern the guest alone.

use std::ops::Range;
use std::path::Path;

use penumbra_bundle::{
    Backing, Key, Lines, MAX_CMDLINE_BYTES, MAX_MEMORY_BYTES, MAX_NAME_BYTES, MAX_VCPUS,
    MEMORY_UNIT_BYTES, Payload,
};
use toml::de::DeTable;

use super::read::{Reader, Value};
use super::{File, Guest, MAX_BOARD_CORES, size};

/// The keys of a guest: those whose lines a bundle carries, and `entry`, which belongs to `payload`.
pub(super) fn keys() -> Vec<&'static str> {
    let keys = Key::ALL.into_iter().filter(|key| *key != Key::Guest);
    keys.map(Key::name).chain(["entry"]).collect()
}

impl Reader<'_> {
    pub(super) fn guest(&mut self, table: &DeTable<'_>, whole: Range<usize>) -> Option<Guest> {
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

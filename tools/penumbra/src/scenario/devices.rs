//! The keys of a guest that touch the board: `devices`, `dma`, `address`.

use std::ops::Range;

use penumbra_bundle::{Backing, MAX_DEVICES, MEMORY_UNIT_BYTES};
use toml::de::DeTable;

use super::read::{Reader, Value};

/// A device as the scenario names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceWord {
    /// A path, an alias, or the beginning of paths and `*`.
    pub word: String,
    /// Its place in the scenario.
    pub span: Range<usize>,
}

/// What the keys say.
pub(super) struct Hardware {
    pub(super) address: Option<u64>,
    pub(super) dma_trusted: bool,
    pub(super) devices: Vec<DeviceWord>,
}

impl Reader<'_> {
    pub(super) fn hardware(&mut self, table: &DeTable<'_>, backing: Backing) -> Hardware {
        let direct = backing == Backing::Direct;
        let mut address = None;
        if let Some(value) = table.get("address") {
            if direct {
                address = self.address(value);
            } else {
                let help = "add `backing = \"direct\"`, or leave `address` out";
                let message = "only a direct guest has an `address`";
                self.complain(value.span(), message, help);
            }
        }
        let mut dma_trusted = false;
        if let Some(value) = table.get("dma") {
            let said = self.choice("dma", value, &[("trusted", true)]);
            dma_trusted = said.is_some();
            if dma_trusted && !direct {
                let message =
                    "`dma = \"trusted\"` has no effect: bus masters use the board's addresses";
                let help = "add `backing = \"direct\"`, or leave `dma` out";
                self.complain(value.span(), message, help);
            }
        }
        let devices = table.get("devices").map(|value| self.devices(value));
        Hardware {
            address,
            dma_trusted,
            devices: devices.unwrap_or_default(),
        }
    }

    fn address(&mut self, value: &Value<'_>) -> Option<u64> {
        let number = self.integer("address", value)?;
        match u64::try_from(number) {
            Ok(address) if address.is_multiple_of(MEMORY_UNIT_BYTES) => Some(address),
            _ => {
                let message = format!("`address` is a multiple of 2 MiB, not {number:#x}");
                self.complain(value.span(), message, "like `address = 0x6000_0000`");
                None
            }
        }
    }

    fn devices(&mut self, value: &Value<'_>) -> Vec<DeviceWord> {
        const HELP: &str = "like `devices = [\"/pl031@9010000\"]`";
        let Some(array) = value.get_ref().as_array() else {
            let message = "`devices` is a list of paths in the board's device tree";
            self.complain(value.span(), message, HELP);
            return Vec::new();
        };
        let mut devices: Vec<DeviceWord> = Vec::new();
        for item in array.iter() {
            let Some(word) = self.text("devices", item) else {
                continue;
            };
            let plain = |c: char| c.is_ascii_graphic();
            if word.is_empty() || !word.chars().all(plain) {
                let message = format!("\"{word}\" is no path in a device tree");
                self.complain(item.span(), message, HELP);
            } else if devices.iter().any(|device| device.word == word) {
                let message = format!("device \"{word}\" is named twice");
                self.complain(item.span(), message, "leave one of the two out");
            } else if devices.len() >= MAX_DEVICES {
                let message = format!("a guest has at most {MAX_DEVICES} devices");
                self.complain(item.span(), message, "");
                return devices;
            } else {
                devices.push(DeviceWord {
                    word: word.to_owned(),
                    span: item.span(),
                });
            }
        }
        devices
    }
}

//! The keys of a guest's life cycle: what follows a crash or a power-off, and whether it starts at all.

use penumbra_bundle::{
    DEFAULT_RESTART_DELAY_MS, DEFAULT_RESTART_LIMIT, MAX_RESTART_DELAY_MS, MAX_RESTART_LIMIT,
    OnCrash, OnPowerOff, OnWatchdog, WhenAllOff,
};
use toml::de::DeTable;

use super::Guest;
use super::read::{Reader, Value};

/// What the keys say.
pub(super) struct Life {
    pub(super) on_crash: OnCrash,
    pub(super) on_power_off: OnPowerOff,
    pub(super) restart_limit: u32,
    pub(super) restart_delay_ms: u32,
    pub(super) autostart: bool,
    pub(super) watchdog: Option<OnWatchdog>,
}

impl Reader<'_> {
    pub(super) fn life(&mut self, table: &DeTable<'_>) -> Life {
        let on_crash = table.get("on_crash").and_then(|value| {
            let choices = [
                ("stay", OnCrash::Stay),
                ("restart", OnCrash::Restart),
                ("power-off", OnCrash::PowerOff),
            ];
            self.choice("on_crash", value, &choices)
        });
        let on_power_off = table.get("on_power_off").and_then(|value| {
            let choices = [
                ("stay", OnPowerOff::Stay),
                ("restart", OnPowerOff::Restart),
                ("power-off", OnPowerOff::PowerOff),
            ];
            self.choice("on_power_off", value, &choices)
        });
        // They have an effect whatever the policies are: any guest may reset itself.
        let limit = table.get("restart_limit");
        let limit = limit.and_then(|value| self.restart_limit(value));
        let delay = table.get("restart_delay");
        let delay = delay.and_then(|value| self.restart_delay(value));
        let autostart = table
            .get("autostart")
            .and_then(|value| self.flag("autostart", value));
        Life {
            on_crash: on_crash.unwrap_or_default(),
            on_power_off: on_power_off.unwrap_or_default(),
            restart_limit: limit.unwrap_or(DEFAULT_RESTART_LIMIT),
            restart_delay_ms: delay.unwrap_or(DEFAULT_RESTART_DELAY_MS),
            autostart: autostart.unwrap_or(true),
            watchdog: self.watchdog(table),
        }
    }

    fn watchdog(&mut self, table: &DeTable<'_>) -> Option<OnWatchdog> {
        let wanted = table.get("watchdog");
        let wanted = wanted.and_then(|value| self.flag("watchdog", value));
        let policy = table.get("on_watchdog");
        let choice = policy.and_then(|value| {
            let choices = [
                ("stay", OnWatchdog::Stay),
                ("restart", OnWatchdog::Restart),
                ("power-off", OnWatchdog::PowerOff),
            ];
            self.choice("on_watchdog", value, &choices)
        });
        // The policy alone says that there is one.
        match (wanted, policy) {
            (Some(false), Some(policy)) => {
                let message = "`on_watchdog` has no effect without a watchdog";
                let help = "leave it out, or write `watchdog = true`";
                self.complain(policy.span(), message, help);
                None
            }
            (Some(true), _) | (None, Some(_)) => Some(choice.unwrap_or_default()),
            (Some(false) | None, _) => None,
        }
    }

    fn restart_limit(&mut self, value: &Value<'_>) -> Option<u32> {
        let number = self.integer("restart_limit", value)?;
        match u32::try_from(number) {
            Ok(limit) if (1..=MAX_RESTART_LIMIT).contains(&limit) => Some(limit),
            _ => {
                let message = format!("`restart_limit` is 1 to {MAX_RESTART_LIMIT}, not {number}");
                let help = "after a crash or power-off, `\"stay\"` restarts it never";
                self.complain(value.span(), message, help);
                None
            }
        }
    }

    fn restart_delay(&mut self, value: &Value<'_>) -> Option<u32> {
        let Some(text) = value.get_ref().as_str() else {
            let kind = value.get_ref().type_str();
            let message = format!("`restart_delay` is a time in quotes, not {kind}");
            self.complain(value.span(), message, "like `restart_delay = \"500 ms\"`");
            return None;
        };
        match milliseconds(text) {
            Ok(delay) => Some(delay),
            Err(message) => {
                self.complain(value.span(), message, "like `restart_delay = \"500 ms\"`");
                None
            }
        }
    }

    fn flag(&mut self, key: &str, value: &Value<'_>) -> Option<bool> {
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            let kind = value.get_ref().type_str();
            let message = format!("`{key}` is true or false without quotes, not {kind}");
            let help = format!("like `{key} = {}`", key != "autostart");
            self.complain(value.span(), message, &help);
        }
        flag
    }

    /// A board on which nothing starts would go off at once.
    pub(super) fn somebody_starts(
        &mut self,
        root: &DeTable<'_>,
        when_all_off: WhenAllOff,
        guests: &[Guest],
    ) {
        let nobody = !guests.is_empty() && guests.iter().all(|guest| !guest.autostart);
        if !nobody || when_all_off == WhenAllOff::Wait || !self.problems.is_empty() {
            return;
        }
        let span = root.get("guest").map_or(0..0, toml::Spanned::span);
        self.complain(
            span,
            "no guest is started: the board would go off at once",
            "leave `autostart` out of one guest, or write `when_all_off = \"wait\"` under [board]",
        );
    }
}

/// Reads `"500 ms"` or `"2 s"`.
fn milliseconds(text: &str) -> Result<u32, String> {
    let trimmed = text.trim();
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: u32 = number.replace('_', "").parse().map_err(|_| {
        format!("\"{text}\" is not a time; write a whole number and a unit, like \"500 ms\"")
    })?;
    let factor = match unit.trim() {
        "ms" => 1,
        "s" => 1000,
        "" => return Err(format!("\"{text}\" has no unit; write ms or s")),
        other => {
            return Err(format!(
                "\"{text}\": unknown unit \"{other}\"; write ms or s"
            ));
        }
    };
    number
        .checked_mul(factor)
        .filter(|&delay| delay <= MAX_RESTART_DELAY_MS)
        .ok_or_else(|| {
            let most = MAX_RESTART_DELAY_MS / 1000;
            format!("\"{text}\" is longer than {most} s, the longest delay")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_or_refused_with_a_reason() {
        assert_eq!(milliseconds("500 ms"), Ok(500));
        assert_eq!(milliseconds("2s"), Ok(2000));
        assert_eq!(milliseconds("0 ms"), Ok(0));
        assert_eq!(milliseconds("60 s"), Ok(60_000));
        for (text, part) in [
            ("500", "has no unit"),
            ("1 min", "unknown unit \"min\""),
            ("soon", "is not a time"),
            ("-1 s", "is not a time"),
            ("61 s", "longer than 60 s"),
            ("9999999 s", "longer than 60 s"),
        ] {
            let sentence = milliseconds(text).unwrap_err();
            assert!(sentence.contains(part), "{sentence}");
        }
    }
}

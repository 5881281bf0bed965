//! From TOML to a checked [`Scenario`]; collects every problem on the way.

use std::ops::Range;

use penumbra_bundle::{Key, MAX_GUESTS, WhenAllOff};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Guest, Scenario, guest, suggest};
use crate::problem::{Problem, Problems, Source};

const TOP_KEYS: [&str; 3] = ["board", "guest", "schedule"];
pub(super) const BOARD_KEYS: [&str; 1] = ["when_all_off"];

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
            self.unknown_keys(table, &guest::keys(), "a guest");
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
}

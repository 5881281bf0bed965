//! Completion by Tab.

use alloc::vec::Vec;

use crate::hypervisor::Death;
use crate::paging::policy::Mode;

use super::command::{COMMANDS, PAGING, Takes, VIEWS, find};

/// What may stand in place of the word before the cursor.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Completion<'c> {
    /// The part of the word that is there.
    pub(crate) word: &'c str,
    /// Every word that starts so.
    pub(crate) choices: Vec<&'c str>,
}

impl<'c> Completion<'c> {
    /// Completes the last word of `before`, the line up to the cursor.
    pub(crate) fn of(before: &'c str, guests: &[&'c str]) -> Self {
        let start = before.rfind(' ').map_or(0, |blank| blank.saturating_add(1));
        let word = before.get(start..).unwrap_or_default();
        let earlier = before.get(..start).unwrap_or_default();
        let mut choices = all(earlier, guests);
        choices.retain(|choice| choice.starts_with(word));
        Self { word, choices }
    }

    /// What all choices have in common behind the word; a blank behind a word that is whole.
    pub(crate) fn common(&self) -> Vec<u8> {
        let Some((first, others)) = self.choices.split_first() else {
            return Vec::new();
        };
        let shared = others.iter().fold(first.len(), |shared, other| {
            let same = first.bytes().zip(other.bytes()).take_while(|(a, b)| a == b);
            same.count().min(shared)
        });
        let rest = first.as_bytes().get(self.word.len()..shared);
        let mut rest = rest.unwrap_or_default().to_vec();
        if others.is_empty() {
            rest.push(b' ');
        }
        rest
    }
}

/// Every word that may follow the words before.
fn all<'c>(earlier: &str, guests: &[&'c str]) -> Vec<&'c str> {
    let mut words = earlier.split_whitespace();
    let Some(mut name) = words.next() else {
        return COMMANDS.iter().map(|command| command.name).collect();
    };
    if find(name).is_some_and(|command| command.takes == Takes::View) {
        match words.next() {
            None => return VIEWS.to_vec(),
            Some(view) => name = view,
        }
    }
    if find(name).is_some_and(|command| command.takes == Takes::Paging) {
        return match (words.next(), words.next(), words.next()) {
            (None, ..) => PAGING.map(|(action, ..)| action).to_vec(),
            (Some(_), None, _) => guests.to_vec(),
            (Some("mode"), Some(_), None) => Mode::ALL.map(|(mode, _)| mode).to_vec(),
            (Some("trace"), Some(_), None) => Vec::from(["on", "off"]),
            _ => Vec::new(),
        };
    }
    if words.next().is_some() {
        return Vec::new();
    }
    match find(name).map(|command| command.takes) {
        Some(Takes::Guest | Takes::AnyGuest) => guests.to_vec(),
        Some(Takes::AnyCommand) => COMMANDS.iter().map(|command| command.name).collect(),
        Some(Takes::Now) => Vec::from(["now"]),
        Some(Takes::Death) => Death::ALL.map(|(word, _)| word).to_vec(),
        Some(Takes::Nothing | Takes::View | Takes::Paging) | None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn completes(before: &str, choices: &[&str], common: &str) {
        let completion = Completion::of(before, &["linux", "linux-rt", "bare"]);
        assert_eq!(completion.choices, choices, "{before:?}");
        assert_eq!(completion.common(), common.as_bytes(), "{before:?}");
    }

    #[test]
    fn words_are_completed() {
        completes("log", &["log"], " ");
        completes("lo", &["log", "load"], "");
        completes("sta", &["start", "stats"], "");
        completes("st", &["start", "stop", "stats"], "");
        completes("re", &["resume", "restart"], "s");
        completes("start b", &["bare"], "are ");
        completes("start l", &["linux", "linux-rt"], "inux");
        completes("start ", &["linux", "linux-rt", "bare"], "");
        completes("help watc", &["watch"], "h ");
        completes("watch s", &["stats", "schedule"], "");
        completes("watch st", &["stats"], "ats ");
        completes("watch stats linux-", &["linux-rt"], "rt ");
        completes("paging ", &["show", "mode", "audit", "trace"], "");
        completes("paging mode b", &["bare"], "are ");
        completes("paging mode bare n", &["nested"], "ested ");
        completes("paging trace bare o", &["on", "off"], "");
        completes("paging show bare n", &[], "");
        completes("poweroff n", &["now"], "ow ");
        completes("manager p", &["panic"], "anic ");
        completes("list l", &[], "");
        completes("nonsense l", &[], "");
        completes("start linux l", &[], "");
        assert_eq!(Completion::of("", &[]).choices.len(), COMMANDS.len());
    }
}

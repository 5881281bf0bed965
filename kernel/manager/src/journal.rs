//! What happened to a guest, for the shell's `log`.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

/// Events kept of each guest.
const EVENTS: usize = 32;

/// The last events of one guest.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Counter value and sentence.
    pub(crate) events: VecDeque<(u64, String)>,
    /// The report of the last crash.
    pub(crate) crash: Vec<String>,
}

impl Journal {
    pub(crate) fn note(&mut self, when: u64, what: String) {
        if self.events.len() >= EVENTS {
            self.events.pop_front();
        }
        self.events.push_back((when, what));
    }
}

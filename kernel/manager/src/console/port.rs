//! One guest's end of the console: its VM, its history, and the line it is at.

use alloc::string::String;
use alloc::vec::Vec;

use super::escape::{Filter, Keep, Leftover};
use super::history::History;
use crate::hypervisor::VmId;

/// Output of a guest behind its name is shown at the latest when a line has this many bytes.
pub(crate) const LINE_BYTES: usize = 240;

/// What the console knows of one guest.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) vm: Option<VmId>,
    /// Whether it can take input.
    pub(crate) live: bool,
    pub(crate) history: History,
    /// With labels: the guest at the front has begun a line on the screen.
    pub(crate) open: bool,
    /// With labels: what it has written of its line.
    line: Vec<u8>,
    filter: Filter,
    /// A carriage return came; a line feed may follow.
    returned: bool,
}

impl Port {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            vm: None,
            live: false,
            history: History::default(),
            open: false,
            line: Vec::new(),
            filter: Filter::new(Keep::TextAndColour),
            returned: false,
        }
    }

    /// Begins to label lines: `line` is what the guest had written of its line already.
    pub(crate) fn restart_line(&mut self, line: Vec<u8>) {
        self.open = !line.is_empty();
        self.line = line;
        self.filter = Filter::new(Keep::TextAndColour);
        self.returned = false;
    }

    /// What shows an open line again after something came between.
    pub(crate) fn redraw(&self, width: usize, out: &mut Vec<u8>) {
        if self.open {
            self.label(width, out);
            out.extend(&self.line);
        }
    }

    /// Labels the output of the guest at the front, as it comes.
    pub(crate) fn show_now(&mut self, bytes: &[u8], width: usize, out: &mut Vec<u8>) {
        for &byte in bytes {
            match byte {
                b'\r' => self.returned = true,
                b'\n' => {
                    if !self.open {
                        self.label(width, out);
                    }
                    out.extend(b"\r\n");
                    self.restart_line(Vec::new());
                }
                _ => {
                    if core::mem::take(&mut self.returned) && self.open {
                        out.push(b'\r');
                        self.open = false;
                        self.line.clear();
                    }
                    if !self.open {
                        self.label(width, out);
                        self.open = true;
                    }
                    out.push(byte);
                    if self.line.len() < LINE_BYTES {
                        // For the redraw; what came behind a backspace is not kept.
                        match byte {
                            0x08 => drop(self.line.pop()),
                            byte => self.filter.feed(byte, &mut self.line),
                        }
                    }
                }
            }
        }
    }

    /// Collects lines of a guest in the background and labels the full ones.
    pub(crate) fn show_lines(&mut self, bytes: &[u8], width: usize, out: &mut Vec<u8>) {
        for &byte in bytes {
            match byte {
                b'\n' => self.flush(width, out, true),
                b'\r' => self.returned = true,
                _ => {
                    if core::mem::take(&mut self.returned) {
                        // A line that is written over, like a progress bar's: the last one counts.
                        self.line.clear();
                    }
                    self.filter.feed(byte, &mut self.line);
                    if self.line.len() >= LINE_BYTES {
                        self.flush(width, out, false);
                    }
                }
            }
        }
    }

    /// Shows the line that is collected; an empty one only if it is `whole`.
    pub(crate) fn flush(&mut self, width: usize, out: &mut Vec<u8>, whole: bool) {
        self.returned = false;
        if whole || !self.line.is_empty() {
            self.label(width, out);
            // Its colours are its own.
            let mut leftover = Leftover::default();
            self.line.iter().for_each(|byte| leftover.feed(*byte));
            leftover.end(&mut self.line);
            out.append(&mut self.line);
            out.extend(b"\r\n");
        }
    }

    fn label(&self, width: usize, out: &mut Vec<u8>) {
        out.extend(self.name.as_bytes());
        let pad = width.saturating_sub(self.name.len());
        out.extend(core::iter::repeat_n(b' ', pad));
        out.extend(b"| ");
    }
}

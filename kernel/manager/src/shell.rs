//! The operator's shell: a prompt on the board's console, reached by the hot key.
//!
//! It has no powers of its own: every command is something that the manager can do anyway. While it is
//! on the screen the board stays on, even if no guest runs. What commands do is in `operate`, what
//! they show in `show`.

mod command;
mod complete;
mod editor;
mod keys;
mod load;
mod operate;
mod paging;
mod show;
mod traps;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::console::{Typed, View};
use crate::hypervisor::{Death, Hypervisor};
use crate::manager::Manager;
#[cfg(test)]
pub(crate) use command::PAGING;
use command::{COMMANDS, Command, Takes, VIEWS, Verb};
use complete::Completion;
use editor::{Action, Editor};
pub(crate) use load::Look;

/// The shell, its commands apart.
#[derive(Debug, Default)]
pub(crate) struct Shell {
    editor: Editor,
    watch: Option<Watch>,
    /// What was seen of the manager's own load last.
    looked: Vec<Look>,
}

/// A command that is repeated until a key is pressed.
#[derive(Debug)]
struct Watch {
    line: String,
    /// Counter value of the next repetition.
    next: u64,
}

impl Shell {
    /// When something is to be shown again.
    pub(crate) fn next_refresh(&self) -> Option<u64> {
        self.watch.as_ref().map(|watch| watch.next)
    }
}

impl Manager<'_> {
    /// Takes the board's input; the shell gets what is for it.
    pub(crate) fn take_input<H: Hypervisor>(&mut self, hv: &mut H) {
        while self.over.is_none() {
            match self.console.next_typed(hv) {
                None => break,
                Some(Typed::Prompt) => self.prompt(hv),
                Some(Typed::Byte(byte)) => self.typed(hv, byte),
            }
        }
        if self.console.view() != View::Shell {
            self.shell.watch = None;
        }
    }

    /// Shows prompt and line, if the shell is on the screen and waits for a command.
    fn prompt<H: Hypervisor>(&mut self, hv: &mut H) {
        if self.console.view() == View::Shell && self.shell.watch.is_none() {
            let mut out = Vec::new();
            self.shell.editor.redraw(&mut out);
            self.console.draw(hv, &out);
            self.console.set_prompt(Some(out));
        }
    }

    fn typed<H: Hypervisor>(&mut self, hv: &mut H, byte: u8) {
        if self.shell.watch.take().is_some() {
            return self.prompt(hv);
        }
        let mut out = Vec::new();
        let action = self.shell.editor.feed(byte, &mut out);
        self.console.draw(hv, &out);
        match action {
            Action::None => {
                let mut again = Vec::new();
                self.shell.editor.redraw(&mut again);
                self.console.set_prompt(Some(again));
            }
            Action::Prompt => self.prompt(hv),
            Action::Complete => self.complete(hv),
            Action::Leave => {
                self.console.draw(hv, b"\r\n");
                self.console.set_prompt(None);
                self.console.leave_shell(hv);
            }
            Action::Run(line) => {
                self.console.set_prompt(None);
                self.obey(hv, &line);
                if self.over.is_none() {
                    self.prompt(hv);
                }
            }
        }
    }

    fn complete<H: Hypervisor>(&mut self, hv: &mut H) {
        let guests: Vec<&str> = self.slots.iter().map(|slot| slot.guest.name).collect();
        let completion = Completion::of(self.shell.editor.before_cursor(), &guests);
        let common = completion.common();
        if common.is_empty() && completion.choices.len() > 1 {
            let choices = completion.choices.join("  ");
            // The line above the prompt, which is shown again behind it.
            self.console.print(hv, format_args!("{choices}"));
            return;
        }
        let mut out = Vec::new();
        self.shell.editor.insert(&common, &mut out);
        self.console.draw(hv, &out);
        let mut again = Vec::new();
        self.shell.editor.redraw(&mut again);
        self.console.set_prompt(Some(again));
    }

    /// Shows again what is watched, when its time has come.
    pub(crate) fn refresh<H: Hypervisor>(&mut self, hv: &mut H) {
        let now = hv.now();
        let hz = self.board.counter_hz;
        let Some(watch) = self.shell.watch.as_mut().filter(|watch| watch.next <= now) else {
            return;
        };
        watch.next = now.saturating_add(hz);
        let line = watch.line.clone();
        self.console.clear(hv);
        self.obey(hv, &line);
        self.console.print(hv, format_args!("(any key ends this)"));
    }

    /// Runs a line.
    fn obey<H: Hypervisor>(&mut self, hv: &mut H, line: &str) {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else { return };
        if command::find(name).is_some_and(|command| command.takes == Takes::Paging) {
            return self.obey_paging(hv, words);
        }
        let (argument, surplus) = (words.next(), words.next());
        let Some(command) = command::find(name) else {
            let text = format_args!("there is no command '{name}'; `help` lists them");
            return self.console.print(hv, text);
        };
        let most = match command.takes {
            Takes::View => usize::MAX,
            _ => usize::from(command.takes != Takes::Nothing),
        };
        let given = usize::from(argument.is_some()).saturating_add(usize::from(surplus.is_some()));
        if given > most {
            return self.usage(hv, command);
        }
        match command.takes {
            Takes::Guest | Takes::AnyGuest => self.obey_guest(hv, command, argument),
            _ => self.obey_plain(hv, command, argument, line),
        }
    }

    fn usage<H: Hypervisor>(&mut self, hv: &mut H, command: &Command) {
        let (usage, example) = (command.usage, command.example);
        let like = match usage == example {
            true => String::new(),
            false => format!(", like `{example}`"),
        };
        self.console
            .print(hv, format_args!("it is written `{usage}`{like}"));
        self.show_words(hv, command);
    }

    /// The words that a command takes, where they are few.
    fn show_words<H: Hypervisor>(&mut self, hv: &mut H, command: &Command) {
        let (what, words) = match command.takes {
            Takes::View => ("COMMAND", VIEWS.join(", ")),
            Takes::Death => ("HOW", Death::ALL.map(|(word, _)| word).join(", ")),
            _ => return,
        };
        self.console
            .print(hv, format_args!("  {what} is one of: {words}"));
    }

    /// The guest of that name or number.
    fn guest_named(&self, word: &str) -> Option<usize> {
        let named = self.slots.iter().position(|slot| slot.guest.name == word);
        let numbered = || {
            let index = word.parse::<usize>().ok()?.checked_sub(1)?;
            (index < self.slots.len()).then_some(index)
        };
        named.or_else(numbered)
    }

    fn no_such_guest<H: Hypervisor>(&mut self, hv: &mut H, word: &str) {
        let names: Vec<&str> = self.slots.iter().map(|slot| slot.guest.name).collect();
        let names = names.join(", ");
        let text = format_args!("there is no guest '{word}'; there are {names}");
        self.console.print(hv, text);
    }

    fn obey_guest<H: Hypervisor>(&mut self, hv: &mut H, command: &Command, word: Option<&str>) {
        let Some(word) = word else {
            return match command.verb {
                Verb::Console => self.console.look_at_all(hv),
                Verb::Log => (0..self.slots.len()).for_each(|index| self.show_log(hv, index)),
                Verb::Stats => (0..self.slots.len()).for_each(|index| self.show_stats(hv, index)),
                Verb::Traps => (0..self.slots.len()).for_each(|index| self.show_traps(hv, index)),
                _ => self.usage(hv, command),
            };
        };
        let Some(index) = self.guest_named(word) else {
            return self.no_such_guest(hv, word);
        };
        // What has happened in the meantime counts first.
        self.look_at_guests(hv);
        match command.verb {
            Verb::Start => self.operator_start(hv, index),
            Verb::Stop => self.operator_stop(hv, index),
            Verb::Pause => self.operator_pause(hv, index),
            Verb::Resume => self.operator_resume(hv, index),
            Verb::Restart => self.operator_restart(hv, index),
            Verb::Create => self.operator_create(hv, index),
            Verb::Destroy => self.operator_destroy(hv, index),
            Verb::Console => self.console.look_at(hv, index),
            Verb::Log => self.show_log(hv, index),
            Verb::Stats => self.show_stats(hv, index),
            Verb::Traps => self.show_traps(hv, index),
            _ => self.usage(hv, command),
        }
    }

    fn obey_plain<H: Hypervisor>(
        &mut self,
        hv: &mut H,
        command: &Command,
        argument: Option<&str>,
        line: &str,
    ) {
        match (command.verb, argument) {
            (Verb::Help, argument) => self.show_help(hv, argument),
            (Verb::List, _) => self.show_list(hv),
            (Verb::Schedule, _) => self.show_schedule(hv),
            (Verb::Board, _) => self.show_board(hv),
            (Verb::Load, _) => self.show_load(hv),
            (Verb::Top, _) => {
                let line = "load".into();
                self.shell.watch = Some(Watch { line, next: 0 });
            }
            (Verb::Audit, _) => self.show_audit(hv),
            (Verb::Version, _) => self.show_version(hv),
            (Verb::Manager, Some(how)) => self.die(hv, how),
            (Verb::Exit, _) => self.console.leave_shell(hv),
            (Verb::PowerOff, None) => self.operator_power_off(hv, false),
            (Verb::PowerOff, Some("now")) => self.operator_power_off(hv, true),
            (Verb::Watch, Some(view)) if VIEWS.contains(&view) => {
                let line = line.trim_start_matches("watch").trim().into();
                self.shell.watch = Some(Watch { line, next: 0 });
            }
            _ => self.usage(hv, command),
        }
    }

    fn die<H: Hypervisor>(&mut self, hv: &mut H, how: &str) {
        match Death::ALL.iter().find(|(word, _)| *word == how) {
            Some((_, death)) => {
                self.console
                    .say(hv, format_args!("the operator lets the manager die: {how}"));
                hv.die(*death);
            }
            None => {
                let words = Death::ALL.map(|(word, _)| word).join(", ");
                let text = format_args!("it cannot die by '{how}'; the ways are {words}");
                self.console.print(hv, text);
            }
        }
    }

    fn show_help<H: Hypervisor>(&mut self, hv: &mut H, name: Option<&str>) {
        if let Some(name) = name {
            let Some(command) = command::find(name) else {
                let text = format_args!("there is no command '{name}'; `help` lists them");
                return self.console.print(hv, text);
            };
            let Command {
                usage,
                text,
                example,
                ..
            } = command;
            self.console.print(hv, format_args!("{usage}"));
            self.console.print(hv, format_args!("  {text}"));
            if command.takes == Takes::Paging {
                self.paging_usage(hv);
            }
            self.show_words(hv, command);
            return self
                .console
                .print(hv, format_args!("  for example: {example}"));
        }
        for Command {
            usage,
            text,
            example,
            ..
        } in &COMMANDS
        {
            self.console
                .print(hv, format_args!("  {usage:<17}  {text:<60}  {example}"));
        }
        self.console.print(
            hv,
            format_args!("A guest is named as in the scenario, or by its number. Tab completes; the arrow keys recall lines."),
        );
    }
}

//! `log` on the board's console, for boot and debugging only: every line starts with `penumbra:`.

use core::fmt::{self, Write};

use log::{LevelFilter, Log, Metadata, Record};

use crate::console::{CONSOLE, Console};

struct Logger;

struct Sink(Console);

impl Write for Sink {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl Log for Logger {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let console = CONSOLE.lock();
        let mut sink = Sink(*console);
        // Writing to the UART cannot fail.
        let _ = sink.write_str("penumbra: ");
        let _ = sink.write_fmt(*record.args());
        let _ = sink.write_str("\r\n");
    }

    fn flush(&self) {}
}

/// Sends `log` lines of level info and above to the console.
pub(crate) fn start() {
    // It fails only when called twice, and then the logger is there already.
    let _ = log::set_logger(&Logger);
    log::set_max_level(LevelFilter::Info);
}

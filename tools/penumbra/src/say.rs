//! Output for people.

/// Prints a line. A reader that has gone away (`| head`) is no reason to panic.
macro_rules! say {
    ($($argument:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($argument)*);
    }};
}
pub(crate) use say;

//! The hot key: Ctrl-] and one more key, wherever the input goes.

/// Ctrl-]. (Ctrl-A belongs to QEMU.)
pub const HOT_KEY: u8 = 0x1d;

/// What a byte of input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Routed {
    /// Nothing yet: the hot key, and the next key decides.
    Nothing,
    /// Input.
    Data(u8),
    /// The console of one guest, counted from 1.
    Guest(usize),
    /// The next guest.
    Next,
    /// The guest before.
    Previous,
    /// All guests with labels, or only the one at the front.
    Labels,
    /// The operator's shell.
    Shell,
    /// What the keys are.
    Help,
    /// No key of ours.
    Unknown,
}

/// Finds the hot key in the input.
#[derive(Debug, Default)]
pub(crate) struct HotKey {
    pressed: bool,
}

impl HotKey {
    pub(crate) fn feed(&mut self, byte: u8) -> Routed {
        if !core::mem::take(&mut self.pressed) {
            if byte == HOT_KEY {
                self.pressed = true;
                return Routed::Nothing;
            }
            return Routed::Data(byte);
        }
        match byte.to_ascii_lowercase() {
            HOT_KEY => Routed::Data(HOT_KEY),
            digit @ b'1'..=b'9' => Routed::Guest(usize::from(digit.wrapping_sub(b'0'))),
            b'n' => Routed::Next,
            b'p' => Routed::Previous,
            b'l' | b'0' => Routed::Labels,
            b's' => Routed::Shell,
            b'?' | b'h' => Routed::Help,
            _ => Routed::Unknown,
        }
    }
}

/// The keys, for people.
pub(crate) const HELP: [&str; 7] = [
    "Ctrl-] and then one of these keys, at any time:",
    "  1 to 7  the console of that guest: its last output is shown again, and it gets the input",
    "  n, p    the next guest, the guest before",
    "  l       labels: all guests, each line behind its name; the same key again: one guest",
    "  s       the operator's shell; Ctrl-D in it goes back",
    "  Ctrl-]  a real Ctrl-] for the guest",
    "  ?       this help",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn route(bytes: &[u8]) -> Vec<Routed> {
        let mut keys = HotKey::default();
        bytes.iter().map(|byte| keys.feed(*byte)).collect()
    }

    #[test]
    fn one_key_behind_the_hot_key_is_ours() {
        use Routed::*;
        assert_eq!(
            route(b"a\x1d2n\x1dN\x1d?s\x1d\x1d\x1dq!"),
            [
                Data(b'a'),
                Nothing,
                Guest(2),
                Data(b'n'),
                Nothing,
                Next,
                Nothing,
                Help,
                Data(b's'),
                Nothing,
                Data(HOT_KEY),
                Nothing,
                Unknown,
                Data(b'!'),
            ]
        );
    }
}

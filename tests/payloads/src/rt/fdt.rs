//! The two facts a payload wants from its device tree: RAM and the command line.

use core::sync::atomic::{AtomicUsize, Ordering};

static RAM_END: AtomicUsize = AtomicUsize::new(0);
static BOOTARGS: AtomicUsize = AtomicUsize::new(0);
static BOOTARGS_BYTES: AtomicUsize = AtomicUsize::new(0);

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const MAGIC: u32 = 0xd00d_feed;

fn word(address: usize) -> u32 {
    u32::from_be(super::io::read32(address))
}

fn starts_with(address: usize, text: &[u8]) -> bool {
    text.iter()
        .enumerate()
        .all(|(i, &byte)| super::io::read8(address + i) == byte)
}

fn string_bytes(address: usize) -> usize {
    (0..)
        .find(|&i| super::io::read8(address + i) == 0)
        .unwrap_or(0)
}

/// Reads the tree at `tree`.
pub fn init(tree: usize) {
    if tree == 0 || word(tree) != MAGIC {
        return;
    }
    let strings = tree + word(tree + 12) as usize;
    let mut at = tree + word(tree + 8) as usize;
    let mut in_memory = false;
    loop {
        let token = word(at);
        at += 4;
        match token {
            BEGIN_NODE => {
                in_memory = starts_with(at, b"memory@");
                at = (at + string_bytes(at) + 4) & !3;
            }
            END_NODE | NOP => {}
            PROPERTY => {
                let bytes = word(at) as usize;
                let name = strings + word(at + 4) as usize;
                at += 8;
                if in_memory && starts_with(name, b"reg\0") {
                    let base = (word(at) as usize) << 32 | word(at + 4) as usize;
                    let size = (word(at + 8) as usize) << 32 | word(at + 12) as usize;
                    RAM_END.store(base + size, Ordering::Relaxed);
                } else if starts_with(name, b"bootargs\0") {
                    BOOTARGS.store(at, Ordering::Relaxed);
                    BOOTARGS_BYTES.store(bytes.saturating_sub(1), Ordering::Relaxed);
                }
                at = (at + bytes + 3) & !3;
            }
            _ => return,
        }
    }
}

/// First address after RAM; 0 if the tree did not say.
#[must_use]
pub fn ram_end() -> usize {
    RAM_END.load(Ordering::Relaxed)
}

/// Whether the command line has the word `wanted`.
#[must_use]
pub fn has_argument(wanted: &str) -> bool {
    let base = BOOTARGS.load(Ordering::Relaxed);
    let bytes = BOOTARGS_BYTES.load(Ordering::Relaxed);
    let mut matched = Some(0);
    for i in 0..=bytes {
        let byte = if i == bytes {
            b' '
        } else {
            super::io::read8(base + i)
        };
        if byte == b' ' {
            if matched == Some(wanted.len()) {
                return true;
            }
            matched = Some(0);
        } else {
            matched = matched
                .filter(|&n| wanted.as_bytes().get(n) == Some(&byte))
                .map(|n| n + 1);
        }
    }
    false
}

/// The number after `name=` on the command line.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    let base = BOOTARGS.load(Ordering::Relaxed);
    let bytes = BOOTARGS_BYTES.load(Ordering::Relaxed);
    let byte = |i: usize| {
        if i < bytes {
            super::io::read8(base + i)
        } else {
            b' '
        }
    };
    let start = (0..bytes).find(|&i| {
        (i == 0 || byte(i - 1) == b' ')
            && name
                .bytes()
                .enumerate()
                .all(|(n, wanted)| byte(i + n) == wanted)
            && byte(i + name.len()) == b'='
    })? + name.len()
        + 1;
    let mut value = 0;
    for i in start.. {
        match byte(i) {
            digit @ b'0'..=b'9' => value = value * 10 + u64::from(digit - b'0'),
            _ => break,
        }
    }
    Some(value)
}

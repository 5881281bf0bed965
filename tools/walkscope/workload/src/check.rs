//! Random reads and writes of a mapping whose every word is known, for memory that is moved meanwhile.

use crate::{Arguments, Random, linux, mark, say, word};

/// Low bits of a word: how often it was written since it was filled.
const COUNT: u64 = (1 << 16) - 1;
/// Accesses between two looks at the clock, or for the file.
const ROUND: u32 = 1 << 18;

/// What the upper bits of the word at `offset` are to be.
const fn wanted(offset: usize) -> u64 {
    (offset as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) & !COUNT
}

fn read(base: usize, offset: usize) -> u64 {
    // SAFETY: the mapping is readable and `offset` within it.
    unsafe { word(base, offset).read_volatile() }
}

fn write(base: usize, offset: usize, value: u64) {
    // SAFETY: the mapping is writable and `offset` within it.
    unsafe { word(base, offset).write_volatile(value) };
}

/// Reads and writes some words at random. Whether all were right.
fn round(base: usize, bytes: usize, random: &mut Random) -> bool {
    let mut good = true;
    for _ in 0..ROUND {
        let offset = random.below(bytes) & !7;
        let value = read(base, offset);
        good &= value & !COUNT == wanted(offset);
        write(base, offset, value & !COUNT | value.wrapping_add(1) & COUNT);
    }
    good
}

/// Fills the mapping, then reads and writes words of it at random: in the window for so many seconds, and
/// then until there is a file of the name given. Looks at each word at the end and says how it went; ends
/// the program with status 1 if a word was not as it should be.
pub(crate) fn run(test: usize, arguments: &mut Arguments) {
    let (bytes, seconds, stop) = (arguments.number(), arguments.number(), arguments.text());
    let base = match arguments.text().to_bytes() {
        b"file" => linux::map_file(arguments.text(), bytes),
        b"small" => linux::map_anonymous(bytes, false),
        _ => linux::exit(2),
    };
    for offset in (0..bytes).step_by(8) {
        write(base, offset, wanted(offset));
    }
    say("walkload: filled\n");
    let mut random = Random(88_172_645_463_325_252);
    let mut good = true;
    let end = linux::ticks() + seconds as u64 * linux::ticks_per_second();
    mark(test, true);
    while linux::ticks() < end {
        good &= round(base, bytes, &mut random);
    }
    mark(test, false);
    say("walkload: measured\n");
    while !linux::exists(stop) {
        good &= round(base, bytes, &mut random);
    }
    for offset in (0..bytes).step_by(8) {
        good &= read(base, offset) & !COUNT == wanted(offset);
    }
    if good {
        return say("walkload: every word is right\n");
    }
    say("walkload: a word is WRONG\n");
    linux::exit(1);
}

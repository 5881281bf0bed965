//! Processes that compute: short-lived ones, and two that take turns.

use crate::{Arguments, Random, add_one, linux, mark, touch, word};

/// Memory of a process, and accesses to it.
#[derive(Clone, Copy)]
struct Work {
    bytes: usize,
    accesses: usize,
}

impl Work {
    fn of(arguments: &mut Arguments) -> Self {
        Self {
            bytes: arguments.number(),
            accesses: arguments.number(),
        }
    }

    /// Memory that is there, by small pages.
    fn memory(self) -> usize {
        let base = linux::map_anonymous(self.bytes, false);
        touch(base, self.bytes);
        base
    }

    fn run(self, base: usize, random: &mut Random) {
        for _ in 0..self.accesses {
            add_one(word(base, random.below(self.bytes)));
        }
    }
}

const fn random() -> Random {
    Random(88_172_645_463_325_252)
}

/// One process after the other: each gets its memory, uses it and ends.
pub(crate) fn jobs(test: usize, arguments: &mut Arguments) {
    let count = arguments.number();
    let work = Work::of(arguments);
    mark(test, true);
    for _ in 0..count {
        let child = linux::fork();
        if child == 0 {
            work.run(work.memory(), &mut random());
            linux::exit(0);
        }
        linux::wait(child);
    }
    mark(test, false);
}

/// Two processes, of which one computes while the other waits for a byte from it.
pub(crate) fn turns(test: usize, arguments: &mut Arguments) {
    let count = arguments.number();
    let work = Work::of(arguments);
    let (there, back) = (linux::pipe(), linux::pipe());
    let mut byte = [0_u8; 1];
    let child = linux::fork();
    let (base, mut random) = (work.memory(), random());
    if child == 0 {
        for _ in 0..count {
            linux::read(there.0, &mut byte);
            work.run(base, &mut random);
            linux::write(back.1, &byte);
        }
        linux::exit(0);
    }
    mark(test, true);
    for _ in 0..count {
        work.run(base, &mut random);
        linux::write(there.1, &byte);
        linux::read(back.0, &mut byte);
    }
    mark(test, false);
    linux::wait(child);
}

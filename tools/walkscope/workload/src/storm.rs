//! Everything that a process does to its address space, at random, with every page's content known: mappings that
//! come, go and move, permissions, copies on write, huge pages that are made and split, pages that are sent to
//! swap, children that are traced.

use core::sync::atomic::{AtomicU32, Ordering};

use crate::linux::{self, attempt, syscall};
use crate::{Arguments, Random, exit, say, word};

const PAGE: usize = 4096;
const BLOCK: usize = 2 << 20;
/// What is stormed, and as much address space again to move it to.
const BYTES: usize = 24 << 20;
const PAGES: usize = BYTES / PAGE;
/// Pages at most that one operation works on.
const RUN: usize = 160;
/// Kinds of operations.
const OPERATIONS: usize = 16;
/// Words of a page that are written and looked at; the first and the last are among them.
const WORDS: [usize; 6] = [0, 8, 1000, 2048, 4000, 4088];

/// What each page was filled with last; 0: nothing, so it reads as zero. In a child they are its own.
static TAGS: [AtomicU32; PAGES] = [const { AtomicU32::new(0) }; PAGES];

const MREMAP: usize = 216;
const MMAP: usize = 222;
const MADVISE: usize = 233;
/// Advice by its number (Linux, include/uapi/asm-generic/mman-common.h).
mod advice {
    pub(super) const DONTNEED: usize = 4;
    pub(super) const FREE: usize = 8;
    pub(super) const HUGEPAGE: usize = 14;
    pub(super) const NOHUGEPAGE: usize = 15;
    pub(super) const COLD: usize = 20;
    pub(super) const PAGEOUT: usize = 21;
    pub(super) const COLLAPSE: usize = 25;
}
const READ: usize = 1;
const READ_WRITE: usize = 3;
/// Private and anonymous; with a fixed address.
const ANONYMOUS: usize = 0x22;
const FIXED: usize = 0x10;

/// A run of pages.
#[derive(Clone, Copy)]
struct Run {
    first: usize,
    count: usize,
}

impl Run {
    /// Whole blocks of 2 MiB around it.
    const fn blocks(self) -> Self {
        const BLOCK_PAGES: usize = BLOCK / PAGE;
        let first = self.first / BLOCK_PAGES * BLOCK_PAGES;
        let end = (self.first + self.count).next_multiple_of(BLOCK_PAGES);
        Self {
            first,
            count: end - first,
        }
    }
}

struct Storm {
    base: usize,
    random: Random,
    tag: u32,
    good: bool,
}

/// What the word at `offset` of a page with a tag is to be.
const fn wanted(tag: u32, page: usize, offset: usize) -> u64 {
    let seed = (tag as u64) << 32 | (page as u64) << 12 | offset as u64;
    if tag == 0 {
        0
    } else {
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1
    }
}

fn tag(page: usize) -> &'static AtomicU32 {
    TAGS.get(page).unwrap_or_else(|| exit(4))
}

impl Storm {
    const fn at(&self, run: Run) -> usize {
        self.base + run.first * PAGE
    }

    fn run(&mut self) -> Run {
        let first = self.random.below(PAGES);
        let count = 1 + self.random.below(RUN.min(PAGES - first));
        Run { first, count }
    }

    fn fill(&mut self, run: Run) {
        self.tag += 1;
        for page in run.first..run.first + run.count {
            for offset in WORDS {
                let value = wanted(self.tag, page, offset);
                // SAFETY: the storm's memory is readable and writable between its operations.
                unsafe { word(self.base, page * PAGE + offset).write_volatile(value) };
            }
            tag(page).store(self.tag, Ordering::Relaxed);
        }
    }

    fn look(&mut self, run: Run) {
        for page in run.first..run.first + run.count {
            let tag = tag(page).load(Ordering::Relaxed);
            for offset in WORDS {
                // SAFETY: the storm's memory is readable between its operations.
                let value = unsafe { word(self.base, page * PAGE + offset).read_volatile() };
                self.good &= value == wanted(tag, page, offset);
            }
        }
    }

    fn forget(run: Run) {
        for page in run.first..run.first + run.count {
            tag(page).store(0, Ordering::Relaxed);
        }
    }

    fn advise(&self, run: Run, advice: usize) {
        // Refused where there is no memory, no swap, or no huge page to be had.
        attempt(MADVISE, [self.at(run), run.count * PAGE, advice, 0, 0, 0]);
    }

    fn protect(&self, run: Run, what: usize) {
        linux::protect(self.at(run), run.count * PAGE, what);
    }

    fn unmap_and_map(&self, run: Run) {
        let (at, bytes) = (self.at(run), run.count * PAGE);
        syscall(linux::MUNMAP, [at, bytes, 0, 0, 0, 0]);
        syscall(
            MMAP,
            [at, bytes, READ_WRITE, ANONYMOUS | FIXED, usize::MAX, 0],
        );
        Self::forget(run);
    }

    /// To the other half of the address space and back.
    fn move_away(&mut self, run: Run) {
        const MAY_MOVE_TO: usize = 3;
        let (at, bytes) = (self.at(run), run.count * PAGE);
        if attempt(MREMAP, [at, bytes, bytes, MAY_MOVE_TO, at + BYTES, 0]) < 0 {
            // Linux moves no run of which parts were advised differently.
            return;
        }
        self.base += BYTES;
        self.look(run);
        self.base -= BYTES;
        syscall(MREMAP, [at + BYTES, bytes, bytes, MAY_MOVE_TO, at, 0]);
        // Where it was is empty now.
        syscall(
            MMAP,
            [
                at + BYTES,
                bytes,
                READ_WRITE,
                ANONYMOUS | FIXED,
                usize::MAX,
                0,
            ],
        );
    }

    /// A child that writes to its copy, while the parent writes to its own.
    fn copy(&mut self, run: Run) {
        let child = linux::fork();
        if child == 0 {
            self.look(run);
            self.fill(run);
            self.look(run);
            exit(if self.good { 0 } else { 1 });
        }
        self.fill(Run {
            count: run.count.div_ceil(2),
            ..run
        });
        self.good &= linux::wait(child) == 0;
    }

    /// A child that is stopped, written to, taken through some instructions and let go.
    fn trace(&mut self, run: Run) {
        const POKE: usize = 5;
        const CONTINUE: usize = 7;
        const STEP: usize = 9;
        const STOPPED: usize = 0x7f;
        const STEPS: usize = 16;
        const NEW: usize = 0x0123_4567_89ab_cdef;
        let at = self.at(run);
        let child = linux::fork();
        if child == 0 {
            linux::ask_to_be_traced();
            let mut good = true;
            // More instructions than the parent takes it through.
            for _ in 0..STEPS {
                // SAFETY: the storm's memory is readable.
                good &= unsafe { word(at, 0).read_volatile() } == NEW as u64;
            }
            exit(if good { 0 } else { 1 });
        }
        self.good &= linux::wait(child) & 0xff == STOPPED;
        linux::trace(POKE, child, at, NEW);
        for _ in 0..STEPS {
            linux::trace(STEP, child, 0, 0);
            self.good &= linux::wait(child) & 0xff == STOPPED;
        }
        linux::trace(CONTINUE, child, 0, 0);
        self.good &= linux::wait(child) == 0;
    }

    /// One of [`OPERATIONS`], then a look at what it worked on.
    fn operate(&mut self, operation: usize) {
        let run = self.run();
        match operation {
            0..4 => self.fill(run),
            4 => self.unmap_and_map(run),
            5 => {
                self.protect(run, READ);
                self.look(run);
                self.protect(run, READ_WRITE);
            }
            6 => {
                self.protect(run, 0);
                self.protect(run, READ_WRITE);
            }
            7 => {
                self.advise(run, advice::DONTNEED);
                Self::forget(run);
            }
            8 => {
                // The kernel may or may not have taken it away.
                self.advise(run, advice::FREE);
                self.fill(run);
            }
            9 | 10 => {
                let blocks = run.blocks();
                self.fill(run);
                self.advise(blocks, advice::HUGEPAGE);
                self.advise(blocks, advice::COLLAPSE);
                self.look(blocks);
                if operation == 10 {
                    // Splits it.
                    self.unmap_and_map(Run { count: 1, ..run });
                }
            }
            11 => self.advise(run.blocks(), advice::NOHUGEPAGE),
            12 => {
                self.fill(run);
                self.advise(run, advice::PAGEOUT);
                let other = self.run();
                self.advise(other, advice::COLD);
            }
            13 => self.move_away(run),
            14 => self.copy(run),
            _ => self.trace(run),
        }
        self.look(run);
    }
}

/// Storms until there is a file of the name given, looks at every page, and says how it went; ends the program with
/// status 1 if a word was not as it should be.
pub(crate) fn run(seed: usize, arguments: &mut Arguments) {
    let stop = arguments.text();
    let mut storm = Storm {
        base: linux::map_anonymous(2 * BYTES, true),
        random: Random(88_172_645_463_325_252 + seed as u64),
        tag: 0,
        good: true,
    };
    let all = Run {
        first: 0,
        count: PAGES,
    };
    // Each once, whatever the time.
    for operation in 0..OPERATIONS {
        storm.operate(operation);
    }
    while storm.good && !linux::exists(stop) {
        let operation = storm.random.below(OPERATIONS);
        storm.operate(operation);
    }
    storm.look(all);
    if storm.good {
        return say("walkload: the storm is over, every word is right\n");
    }
    say("walkload: a word is WRONG\n");
    exit(1);
}

//! Loads for `walkscope`, as one static program for arm64 Linux that needs no library.
//!
//! `walkload TEST on` and `walkload TEST off` execute the marker that opens or closes the window of a test.
//! `walkload TEST LOAD ARGUMENTS` prepares a load, opens the window, runs it and closes the window:
//!
//! - `gups BYTES COUNT file PATH|small|huge [SECONDS]`: random reads and writes of a mapped file, or of anonymous memory
//!   without or with transparent huge pages; for so many seconds before the window opens;
//! - `pread PATH BYTES COUNT`: random reads of 64 bytes from the page cache;
//! - `chase PAGES PASSES`: reads one word of each page in order, for counts that arithmetic predicts;
//! - `check BYTES SECONDS STOP file PATH|small`: the same with every word checked, for a time in the window, then until
//!   there is a file STOP;
//! - `storm STOP`: everything that a process does to its address space, at random from the seed TEST, with its content
//!   checked, until there is a file STOP; no window;
//! - `shown KIND BYTES PATH`: a look at each page of memory of a kind: `zeroes`, `written`, `inherited` and `protected` of
//!   anonymous memory, `private`, `copied`, `seen` and `shared` of the file;
//! - `exec COUNT`: fork, exec of this program, wait;
//! - `churn COUNT`: map 64 KiB, touch each page, unmap;
//! - `pipes COUNT`: a byte to and fro between two processes;
//! - `scatter LAYOUT`: leaves the kernel's free memory in an order of its own for each number: touches 64 MiB and gives back seven
//!   pages of eight, both in an order that follows from the number. Keeps the rest, so it never ends;
//! - `jobs COUNT BYTES ACCESSES`: processes one after the other, each with memory of its own that it reads and writes at
//!   random so often;
//! - `turns COUNT BYTES ACCESSES`: two processes that take turns, each reading and writing memory of its own so often in
//!   a turn;
//! - `seed`: makes the kernel's random number generator ready, from bits that follow from TEST. Until it is, Linux hashes the whole
//!   pool for each random number, which it draws at every system call: about 9,500 instructions;
//! - `wake COUNT MICROSECONDS`: a real-time task that sleeps until the next multiple of a period. Each window is
//!   one period, from one wake-up to the next;
//! - `kvm KERNEL TREE INITRAMFS`: a guest under KVM, until it goes off; only opens the window;
//! - `exit`: nothing.
//!
//! Built for a target without an operating system, so system calls are made by hand. It is trusted code
//! for a test guest: wrong arguments end it with status 2.
#![no_std]
#![no_main]

use core::ffi::CStr;
use core::panic::PanicInfo;

mod check;
mod kvm;
mod linux;
mod processes;
mod shown;
mod storm;

use linux::{exit, syscall};

core::arch::global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x30, xzr",
    "mov x0, sp",
    "b {main}",
    // HINT #(64 + n), then a return, for n in 0..64: the numbers are part of the instructions.
    ".balign 8",
    ".globl marker_table",
    "marker_table:",
    ".set number, 64",
    ".rept 64",
    "hint #number",
    "ret",
    ".set number, number + 1",
    ".endr",
    main = sym main,
);

unsafe extern "C" {
    static marker_table: [[u32; 2]; 64];
}

/// Opens or closes the window of a test.
fn mark(test: usize, opens: bool) {
    let number = (test & 31) + if opens { 0 } else { 32 };
    let entry = (&raw const marker_table)
        .cast::<u8>()
        .wrapping_add(8 * number);
    // SAFETY: the entry is a hint and a return; it changes no register but x30.
    unsafe { core::arch::asm!("blr {0}", in(reg) entry, out("x30") _) };
}

struct Arguments {
    next: *const *const u8,
    left: usize,
}

impl Arguments {
    fn text(&mut self) -> &'static CStr {
        if self.left == 0 {
            exit(2);
        }
        // SAFETY: `left` more pointers follow on the initial stack.
        let pointer = unsafe { *self.next };
        self.next = self.next.wrapping_add(1);
        self.left -= 1;
        // SAFETY: the kernel gives C strings that live as long as the process.
        unsafe { CStr::from_ptr(pointer.cast()) }
    }

    fn number(&mut self) -> usize {
        let text = self.text().to_str().unwrap_or("");
        text.parse().unwrap_or_else(|_| exit(2))
    }
}

/// A generator of numbers, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let scaled = u128::from(self.0) * (limit as u128);
        (scaled >> 64) as usize
    }
}

extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the kernel leaves the number of arguments on the stack, then their addresses.
    let count = unsafe { *stack };
    let mut arguments = Arguments {
        next: stack.wrapping_add(1).cast(),
        left: count,
    };
    let name = arguments.text();
    let test = arguments.number();
    match arguments.text().to_bytes() {
        b"on" => mark(test, true),
        b"off" => mark(test, false),
        b"gups" => gups(test, &mut arguments),
        b"pread" => pread(test, &mut arguments),
        b"chase" => chase(test, &mut arguments),
        b"check" => check::run(test, &mut arguments),
        b"storm" => storm::run(test, &mut arguments),
        b"shown" => shown::run(test, &mut arguments),
        b"exec" => exec(test, name, arguments.number()),
        b"kvm" => kvm::run(test, &mut arguments),
        b"churn" => churn(test, arguments.number()),
        b"pipes" => pipes(test, arguments.number()),
        b"jobs" => processes::jobs(test, &mut arguments),
        b"turns" => processes::turns(test, &mut arguments),
        b"wake" => wake(test, arguments.number(), arguments.number()),
        b"scatter" => scatter(arguments.number()),
        b"seed" => linux::seed(test),
        b"exit" => {}
        _ => exit(2),
    }
    exit(0)
}

fn say(text: &str) {
    linux::write(1, text.as_bytes());
}

/// A word of a mapping.
fn word(base: usize, offset: usize) -> *mut u64 {
    core::ptr::with_exposed_provenance_mut(base + (offset & !7))
}

fn add_one(at: *mut u64) {
    // SAFETY: the caller mapped the page readable and writable.
    let value = unsafe { at.read_volatile() };
    // SAFETY: as above.
    unsafe { at.write_volatile(value.wrapping_add(1)) };
}

/// Makes each page present. A write comes first: a read would map Linux's huge zero page, which the
/// next write splits into 4 KiB pages.
fn touch(base: usize, bytes: usize) {
    for page in 0..bytes / 4096 {
        // SAFETY: the caller mapped the page readable and writable.
        unsafe { word(base, page * 4096).write_volatile(1) };
    }
}

fn gups(test: usize, arguments: &mut Arguments) {
    let (bytes, count) = (arguments.number(), arguments.number());
    let base = match arguments.text().to_bytes() {
        b"file" => linux::map_file(arguments.text(), bytes),
        b"small" => linux::map_anonymous(bytes, false),
        b"huge" => linux::map_anonymous(bytes, true),
        _ => exit(2),
    };
    touch(base, bytes);
    let mut random = Random(88_172_645_463_325_252);
    let mut some = |count: usize| {
        for _ in 0..count {
            add_one(word(base, random.below(bytes)));
            // Some work for each access, within registers.
            let mut spin = 40_u64;
            while spin > 0 {
                spin = core::hint::black_box(spin - 1);
            }
        }
    };
    if arguments.left > 0 {
        let end = linux::ticks() + arguments.number() as u64 * linux::ticks_per_second();
        while linux::ticks() < end {
            some(1 << 16);
        }
    }
    mark(test, true);
    some(count);
    mark(test, false);
}

fn pread(test: usize, arguments: &mut Arguments) {
    let (path, bytes, count) = (arguments.text(), arguments.number(), arguments.number());
    let file = linux::open(path);
    let mut buffer = [0_u8; 64];
    let mut random = Random(88_172_645_463_325_252);
    mark(test, true);
    for _ in 0..count {
        let offset = random.below(bytes - 64) & !63;
        linux::pread(file, &mut buffer, offset);
    }
    mark(test, false);
}

fn chase(test: usize, arguments: &mut Arguments) {
    let (pages, passes) = (arguments.number(), arguments.number());
    let base = linux::map_anonymous(pages * 4096, false);
    touch(base, pages * 4096);
    mark(test, true);
    for _ in 0..passes {
        for page in 0..pages {
            // SAFETY: the page is mapped.
            unsafe { word(base, page * 4096).read_volatile() };
        }
    }
    mark(test, false);
}

fn exec(test: usize, name: &CStr, count: usize) {
    mark(test, true);
    for _ in 0..count {
        let child = linux::fork();
        if child == 0 {
            linux::exec(name, &[c"walkload", c"0", c"exit"]);
        }
        linux::wait(child);
    }
    mark(test, false);
}

fn churn(test: usize, count: usize) {
    const BYTES: usize = 64 << 10;
    mark(test, true);
    for _ in 0..count {
        let base = linux::map_anonymous(BYTES, false);
        touch(base, BYTES);
        syscall(linux::MUNMAP, [base, BYTES, 0, 0, 0, 0]);
    }
    mark(test, false);
}

fn pipes(test: usize, count: usize) {
    let (there, back) = (linux::pipe(), linux::pipe());
    let mut byte = [0_u8; 1];
    let child = linux::fork();
    if child == 0 {
        for _ in 0..count {
            linux::read(there.0, &mut byte);
            linux::write(back.1, &byte);
        }
        exit(0);
    }
    mark(test, true);
    for _ in 0..count {
        linux::write(there.1, &byte);
        linux::read(back.0, &mut byte);
    }
    mark(test, false);
    linux::wait(child);
}

fn scatter(layout: usize) {
    const PAGES: usize = 16384;
    let base = linux::map_anonymous(PAGES * 4096, false);
    // A step that is odd goes through a power of two, each place once.
    let at = |turn: usize, step: usize| base + (turn * step + layout) % PAGES * 4096;
    for turn in 0..PAGES {
        touch(at(turn, 5167 + 2 * layout), 4096);
    }
    for turn in 0..PAGES {
        if turn % 8 != 0 {
            linux::give_back(at(turn, 9973 + 6 * layout));
        }
    }
    linux::sleep_until(&[usize::MAX >> 8, 0]);
}

fn wake(test: usize, count: usize, microseconds: usize) {
    const SECOND: usize = 1_000_000_000;
    linux::become_real_time();
    let mut due = linux::now();
    for _ in 0..count {
        due[1] += microseconds * 1000;
        due[0] += due[1] / SECOND;
        due[1] %= SECOND;
        linux::sleep_until(&due);
        mark(test, false);
        mark(test, true);
    }
}

#[panic_handler]
fn panicked(_info: &PanicInfo<'_>) -> ! {
    exit(101)
}

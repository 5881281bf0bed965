//! The system calls that the loads make. A call that fails ends the program with status 3.

use core::ffi::CStr;

/// Number of `munmap`.
pub(crate) const MUNMAP: usize = 215;
const IOCTL: usize = 29;
const FACCESSAT: usize = 48;
const PIPE2: usize = 59;
const OPENAT: usize = 56;
const READ: usize = 63;
const WRITE: usize = 64;
const PREAD64: usize = 67;
const EXIT_GROUP: usize = 94;
const CLOCK_GETTIME: usize = 113;
const CLOCK_NANOSLEEP: usize = 115;
const PTRACE: usize = 117;
const SCHED_SETSCHEDULER: usize = 119;
const KILL: usize = 129;
const GETPID: usize = 172;
const CLONE: usize = 220;
const EXECVE: usize = 221;
const MMAP: usize = 222;
const MPROTECT: usize = 226;
const MLOCKALL: usize = 230;
const MADVISE: usize = 233;
const WAIT4: usize = 260;

const CLOCK_MONOTONIC: usize = 1;
const TIMER_ABSTIME: usize = 1;
const SCHED_FIFO: usize = 1;
const AT_FDCWD: usize = usize::MAX - 99;
const READ_WRITE: usize = 2;
const SIGCHLD: usize = 17;
/// `RNDADDENTROPY` of random(4).
const ADD_ENTROPY: usize = 0x4008_5203;

/// A system call; ends the program if it fails.
pub(crate) fn syscall(number: usize, arguments: [usize; 6]) -> usize {
    usize::try_from(attempt(number, arguments)).unwrap_or_else(|_| exit(3))
}

/// A system call; a negative result is an error's number.
pub(crate) fn attempt(number: usize, arguments: [usize; 6]) -> isize {
    let [a, b, c, d, e, f] = arguments;
    let result: isize;
    // SAFETY: the calls in this program touch only memory that its callers own.
    unsafe {
        core::arch::asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") a => result,
            in("x1") b, in("x2") c, in("x3") d, in("x4") e, in("x5") f,
        );
    }
    result
}

/// Whether there is a file of this name.
pub(crate) fn exists(path: &CStr) -> bool {
    let at = path.as_ptr().expose_provenance();
    attempt(FACCESSAT, [AT_FDCWD, at, 0, 0, 0, 0]) == 0
}

/// Ends the program.
pub(crate) fn exit(status: usize) -> ! {
    // SAFETY: the call does not return.
    unsafe {
        core::arch::asm!("svc #0", in("x8") EXIT_GROUP, in("x0") status, options(noreturn));
    }
}

pub(crate) fn open(path: &CStr) -> usize {
    syscall(
        OPENAT,
        [
            AT_FDCWD,
            path.as_ptr().expose_provenance(),
            READ_WRITE,
            0,
            0,
            0,
        ],
    )
}

/// Gives the kernel's random number generator 256 bits, always the same for a number, that it counts as entropy.
pub(crate) fn seed(number: usize) {
    // Bits, bytes, and the bytes themselves.
    let mut pool = [0x5eed_u32.wrapping_add(number as u32); 10];
    pool[0] = 256;
    pool[1] = 32;
    let at = pool.as_ptr().expose_provenance();
    ioctl(open(c"/dev/random"), ADD_ENTROPY, at);
}

/// Maps a file, shared, for reading and writing.
pub(crate) fn map_file(path: &CStr, bytes: usize) -> usize {
    map_shared(open(path), bytes)
}

/// Maps an open file like that, and tells `walkscope` where: such pages look like anonymous ones.
pub(crate) fn map_shared(file: usize, bytes: usize) -> usize {
    let base = map(file, bytes, 3, 1);
    // SAFETY: a hint without a meaning does nothing.
    unsafe { core::arch::asm!("hint #95", in("x0") base, in("x1") bytes) };
    base
}

/// Maps an open file from its start on.
pub(crate) fn map(file: usize, bytes: usize, protection: usize, flags: usize) -> usize {
    syscall(MMAP, [0, bytes, protection, flags, file, 0])
}

/// Changes what may be done with mapped memory.
pub(crate) fn protect(base: usize, bytes: usize, protection: usize) {
    syscall(MPROTECT, [base, bytes, protection, 0, 0, 0]);
}

/// Makes a request of a device.
pub(crate) fn ioctl(file: usize, request: usize, argument: usize) -> usize {
    syscall(IOCTL, [file, request, argument, 0, 0, 0])
}

/// Reads a file to an address of mapped memory with so many bytes. How many the file had.
pub(crate) fn read_file(path: &CStr, to: usize, bytes: usize) -> usize {
    let (file, mut done) = (open(path), 0);
    loop {
        match syscall(READ, [file, to + done, bytes - done, 0, 0, 0]) {
            0 => return done,
            more => done += more,
        }
    }
}

/// Maps anonymous memory; with transparent huge pages, from a multiple of 2 MiB on.
pub(crate) fn map_anonymous(bytes: usize, huge: bool) -> usize {
    let slack = if huge { 2 << 20 } else { 0 };
    let base = syscall(MMAP, [0, bytes + slack, 3, 0x22, usize::MAX, 0]);
    let base = if huge {
        base.next_multiple_of(2 << 20)
    } else {
        base
    };
    // A kernel without huge pages knows no such advice.
    attempt(MADVISE, [base, bytes, if huge { 14 } else { 15 }, 0, 0, 0]);
    base
}

/// Gives back a page of anonymous memory (MADV_DONTNEED).
pub(crate) fn give_back(page: usize) {
    syscall(MADVISE, [page, 4096, 4, 0, 0, 0]);
}

pub(crate) fn pread(file: usize, buffer: &mut [u8], offset: usize) {
    let at = buffer.as_mut_ptr().expose_provenance();
    syscall(PREAD64, [file, at, buffer.len(), offset, 0, 0]);
}

pub(crate) fn read(file: usize, buffer: &mut [u8]) {
    let at = buffer.as_mut_ptr().expose_provenance();
    syscall(READ, [file, at, buffer.len(), 0, 0, 0]);
}

pub(crate) fn write(file: usize, buffer: &[u8]) {
    let at = buffer.as_ptr().expose_provenance();
    syscall(WRITE, [file, at, buffer.len(), 0, 0, 0]);
}

/// The ends of a pipe: read, write.
pub(crate) fn pipe() -> (usize, usize) {
    let mut ends = [0_u32; 2];
    syscall(
        PIPE2,
        [ends.as_mut_ptr().expose_provenance(), 0, 0, 0, 0, 0],
    );
    let [read, write] = ends;
    (read as usize, write as usize)
}

/// 0 in the child.
pub(crate) fn fork() -> usize {
    syscall(CLONE, [SIGCHLD, 0, 0, 0, 0, 0])
}

pub(crate) fn exec(path: &CStr, arguments: &[&CStr; 3]) -> ! {
    let [a, b, c] = arguments.map(CStr::as_ptr);
    let vector = [a, b, c, core::ptr::null()];
    let at = vector.as_ptr().expose_provenance();
    syscall(EXECVE, [path.as_ptr().expose_provenance(), at, 0, 0, 0, 0]);
    exit(3)
}

/// Waits for a child to end or stop. Its status, as wait(2) has it: 0 if it ended well.
pub(crate) fn wait(child: usize) -> usize {
    let mut status = 0_u32;
    let at = (&raw mut status).expose_provenance();
    syscall(WAIT4, [child, at, 0, 0, 0, 0]);
    status as usize
}

/// Stops, with the parent as tracer.
pub(crate) fn ask_to_be_traced() {
    const TRACE_ME: usize = 0;
    const STOP: usize = 19;
    syscall(PTRACE, [TRACE_ME, 0, 0, 0, 0, 0]);
    let own = syscall(GETPID, [0; 6]);
    syscall(KILL, [own, STOP, 0, 0, 0, 0]);
}

/// A request of a tracer, ptrace(2).
pub(crate) fn trace(request: usize, child: usize, at: usize, value: usize) {
    syscall(PTRACE, [request, child, at, value, 0, 0]);
}

/// Makes this program more urgent than all others but the kernel's own, and keeps its memory where it is.
pub(crate) fn become_real_time() {
    let priority = 80_u32;
    let at = (&raw const priority).expose_provenance();
    syscall(SCHED_SETSCHEDULER, [0, SCHED_FIFO, at, 0, 0, 0]);
    // What there is, and what comes.
    syscall(MLOCKALL, [3, 0, 0, 0, 0, 0]);
}

/// Seconds and nanoseconds of the clock that never jumps.
pub(crate) fn now() -> [usize; 2] {
    let mut time = [0_usize; 2];
    let at = time.as_mut_ptr().expose_provenance();
    syscall(CLOCK_GETTIME, [CLOCK_MONOTONIC, at, 0, 0, 0, 0]);
    time
}

/// The virtual counter.
pub(crate) fn ticks() -> u64 {
    let now: u64;
    // SAFETY: the kernel lets programs read the virtual counter.
    unsafe { core::arch::asm!("isb", "mrs {0}, cntvct_el0", out(reg) now) };
    now
}

/// Its frequency.
pub(crate) fn ticks_per_second() -> u64 {
    let hz: u64;
    // SAFETY: as above, its frequency.
    unsafe { core::arch::asm!("mrs {0}, cntfrq_el0", out(reg) hz) };
    hz
}

/// Sleeps until that clock shows `time`.
pub(crate) fn sleep_until(time: &[usize; 2]) {
    let at = time.as_ptr().expose_provenance();
    syscall(
        CLOCK_NANOSLEEP,
        [CLOCK_MONOTONIC, TIMER_ABSTIME, at, 0, 0, 0],
    );
}

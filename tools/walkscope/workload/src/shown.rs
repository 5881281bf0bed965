//! Memory of a known kind, looked at page by page: `walkscope regions` knows which region the misses have to be in.

use core::ffi::CStr;

use crate::{Arguments, exit, linux, mark, touch, word};

/// Protections and flags of `mmap`.
const READ: usize = 1;
const READ_WRITE: usize = 3;
const SHARED: usize = 1;
const PRIVATE: usize = 2;

/// Maps the file or anonymous memory of a kind, with all pages as the kind is to have them.
fn memory(kind: &[u8], path: &CStr, bytes: usize) -> usize {
    let anonymous = || linux::map_anonymous(bytes, false);
    let file = |protection, flags| linux::map(linux::open(path), bytes, protection, flags);
    match kind {
        b"zeroes" => anonymous(),
        b"written" | b"inherited" => {
            let base = anonymous();
            touch(base, bytes);
            base
        }
        b"protected" => {
            let base = anonymous();
            touch(base, bytes);
            linux::protect(base, bytes, READ);
            base
        }
        b"private" => file(READ_WRITE, PRIVATE),
        b"copied" => {
            let base = file(READ_WRITE, PRIVATE);
            touch(base, bytes);
            base
        }
        b"seen" => file(READ, SHARED),
        b"shared" => {
            let base = linux::map_file(path, bytes);
            touch(base, bytes);
            base
        }
        _ => exit(2),
    }
}

/// Reads a word of each page.
fn look(base: usize, bytes: usize) {
    for page in 0..bytes / 4096 {
        // SAFETY: the page is mapped readable.
        unsafe { word(base, page * 4096).read_volatile() };
    }
}

/// Shows so many bytes of a kind in the window of a test: in a child where the kind is what it inherits.
pub(crate) fn run(test: usize, arguments: &mut Arguments) {
    let (kind, bytes, path) = (
        arguments.text().to_bytes(),
        arguments.number(),
        arguments.text(),
    );
    let base = memory(kind, path, bytes);
    if kind == b"inherited" {
        let child = linux::fork();
        if child != 0 {
            linux::wait(child);
            return;
        }
    }
    // What was not present is from here on.
    look(base, bytes);
    mark(test, true);
    look(base, bytes);
    mark(test, false);
}

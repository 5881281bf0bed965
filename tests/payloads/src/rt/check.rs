//! Counting checks: one line for each, one at the end.

use core::fmt::{Debug, LowerHex};
use core::sync::atomic::{AtomicU32, Ordering};

use crate::println;

static PASSED: AtomicU32 = AtomicU32::new(0);
static FAILED: AtomicU32 = AtomicU32::new(0);

/// Checks a condition; `why` is printed if it does not hold.
pub fn that(name: &str, holds: bool, why: impl Debug) {
    if holds {
        PASSED.fetch_add(1, Ordering::Relaxed);
        println!("ok {name}");
    } else {
        FAILED.fetch_add(1, Ordering::Relaxed);
        println!("FAIL {name} {why:x?}");
    }
}

/// Checks that two values are equal.
pub fn equal<T: PartialEq + LowerHex>(name: &str, got: T, wanted: T) {
    let holds = got == wanted;
    if holds {
        that(name, true, ());
    } else {
        FAILED.fetch_add(1, Ordering::Relaxed);
        println!("FAIL {name} got {got:#x} wanted {wanted:#x}");
    }
}

/// Prints the closing line.
pub fn summary() {
    println!(
        "{} passed, {} failed",
        PASSED.load(Ordering::Relaxed),
        FAILED.load(Ordering::Relaxed)
    );
}

//! (in work)
#![no_std]
#![no_main]
use payload as _;
payload::entry!(main);
fn main() {}

//! What our QEMU TCG plugins share: the declarations of QEMU's interface ([`ffi`]), the options that a
//! plugin is given ([`options`]) and reading a vCPU's registers ([`Registers`]).

pub mod ffi;
mod options;
mod registers;

pub use options::options;
pub use registers::Registers;

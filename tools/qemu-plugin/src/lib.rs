//! What our QEMU TCG plugins share: the declarations of QEMU's interface ([`ffi`]), the options that a
//! plugin is given ([`options`]), reading a vCPU's registers ([`Registers`]) and which core runs a block of EL2 ([`Running`]).

pub mod ffi;
mod options;
mod registers;
mod running;

pub use options::options;
pub use registers::Registers;
pub use running::Running;

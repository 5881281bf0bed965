//! Why a scenario cannot run: sentences that name the guest, the cause and the line to change.

use alloc::boxed::Box;
use core::fmt;

use penumbra_abi::Error;
use penumbra_bundle::{Guest, Key};
use penumbra_devices::Problem;

use crate::image::NotAnImage;

/// A size for people: the largest unit that keeps it whole, or MiB rounded up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        match self.0 {
            bytes if bytes < KIB => write!(f, "{bytes} bytes"),
            bytes if bytes < MIB => write!(f, "{} KiB", bytes.div_ceil(KIB)),
            bytes => write!(f, "{} MiB", bytes.div_ceil(MIB)),
        }
    }
}

/// A place in the scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// File.
    pub file: &'a str,
    /// Line, 0 if it is not known.
    pub line: u32,
}

impl<'a> Line<'a> {
    /// Where a key of a guest is, or the guest's header if the key is left out.
    #[must_use]
    pub fn of(file: &'a str, guest: &Guest<'_>, key: Key) -> Self {
        Self {
            file,
            line: guest.lines.nearest(key),
        }
    }
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "({})", self.file),
            line => write!(f, "({}, line {line})", self.file),
        }
    }
}

/// What is wrong with a guest of the scenario.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Cause<'a> {
    /// A part of the bundle is damaged.
    Part {
        /// What it is.
        what: &'static str,
        /// What is wrong.
        error: penumbra_bundle::Error,
    },
    /// The kernel's file is no kernel.
    Kernel {
        /// Name of the file.
        file: &'a str,
        /// Why it is none.
        reason: NotAnImage,
    },
    /// The payload does not fit into memory.
    Memory {
        /// What needs it.
        what: &'static str,
        /// Bytes needed.
        need: u64,
        /// Bytes there.
        have: u64,
    },
    /// The payload does not fit into the quota.
    Quota {
        /// Bytes needed.
        need: u64,
        /// Bytes there.
        have: u64,
    },
    /// The device tree is too large, because the command line is.
    Tree(u64),
    /// A vCPU is to run on a core that is not there.
    Core {
        /// vCPU.
        vcpu: usize,
        /// Core.
        core: u8,
        /// Cores that are there.
        cores: u64,
    },
    /// The board has too little memory for this and the other guests.
    Board {
        /// Bytes that all guests need.
        need: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// A thin guest was stopped because the board ran out of memory, within its quota.
    Starved {
        /// Its quota in bytes.
        quota: u64,
    },
    /// The payload is larger than the window through which it is loaded.
    Window(u64),
    /// It cannot have a device.
    Device {
        /// Path of the device in the board's tree.
        path: &'a str,
        /// Line that names it.
        line: u32,
        /// Why not.
        problem: Box<Problem>,
    },
    /// Its memory cannot be where it is to be.
    Address(Box<Problem>),
    /// The board's RAM at the guest's address is in use.
    Taken {
        /// First byte.
        base: u64,
        /// Bytes.
        bytes: u64,
    },
    /// The board's device tree is missing or damaged.
    NoTree,
    /// EL2 refused a call.
    Call {
        /// What the manager wanted to do.
        what: &'static str,
        /// The answer.
        error: Error,
    },
}

impl Cause<'_> {
    /// The key to change.
    #[must_use]
    pub const fn key(&self) -> Key {
        match self {
            Self::Part { .. } | Self::Kernel { .. } | Self::Window(_) => Key::Kernel,
            Self::Memory { .. } | Self::Board { .. } => Key::Memory,
            Self::Quota { .. } | Self::Starved { .. } => Key::Quota,
            Self::Tree(_) => Key::Cmdline,
            Self::Core { .. } => Key::Cores,
            Self::Device { .. } | Self::NoTree => Key::Devices,
            Self::Address(_) | Self::Taken { .. } => Key::Address,
            Self::Call { .. } => Key::Guest,
        }
    }
}

impl fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Part { what, error } => {
                write!(
                    f,
                    "the {what} cannot be read: {error}; make the bundle again"
                )
            }
            Self::Kernel { file, reason } => write!(f, "{file} {reason}: see `kernel`"),
            Self::Memory { what, need, have } => write!(
                f,
                "the {what} needs {} but memory is {}; raise `memory`",
                Size(*need),
                Size(*have)
            ),
            Self::Quota { need, have } => write!(
                f,
                "the payload needs {} but the quota is {}; raise `quota`",
                Size(*need),
                Size(*have)
            ),
            Self::Tree(bytes) => {
                write!(
                    f,
                    "its device tree would have {}; shorten `cmdline`",
                    Size(*bytes)
                )
            }
            Self::Core { vcpu, core, cores } => write!(
                f,
                "vCPU {vcpu} is to run on core {core} but the board has cores 0 to {}; \
                 change `cores`",
                cores.saturating_sub(1)
            ),
            Self::Board { need, free } => write!(
                f,
                "the guests need {} but the board has {} free; lower `memory` or give the \
                 board more",
                Size(*need),
                Size(*free)
            ),
            Self::Starved { quota } => write!(
                f,
                "it was stopped because the board has no memory left, though its quota is {}; \
                 lower the quotas or give the board more",
                Size(*quota)
            ),
            Self::Window(bytes) => {
                write!(
                    f,
                    "the payload of {} is too large to be loaded: see `kernel`",
                    Size(*bytes)
                )
            }
            Self::Device { path, problem, .. } => {
                write!(f, "it cannot have {path}: {problem}")?;
                match problem.help() {
                    help if help.is_empty() => Ok(()),
                    help => write!(f, "; {help}"),
                }
            }
            Self::Address(problem) => write!(f, "{problem}; {}", problem.help()),
            Self::Taken { base, bytes } => write!(
                f,
                "the board's RAM from {base:#x} on ({}) is not all free; change `address`",
                Size(*bytes)
            ),
            Self::NoTree => f.write_str("the board gave no device tree to find its devices in"),
            Self::Call { what, error } => {
                write!(f, "the hypervisor would not {what}: {}", ErrorText(*error))
            }
        }
    }
}

/// An error of EL2 in words.
#[derive(Clone, Copy, Debug)]
pub struct ErrorText(pub Error);

impl fmt::Display for ErrorText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Error::NotSupported => "it does not know the call",
            Error::NotRequired => "the call does not apply",
            Error::InvalidParameter => "an argument is out of range",
            Error::NoSuchObject => "there is no such VM or vCPU",
            Error::BadState => "the VM is in the wrong state",
            Error::NoMemory => "the board has no free memory of that size",
            Error::NoSlot => "a table is full",
            Error::QuotaExceeded => "the quota is used up",
            Error::AlreadyMapped => "the address is in use",
            Error::NotMapped => "the address is not mapped",
            Error::Crowded => "the table serves at too many places",
            Error::Busy => "a core did not answer in time; try again",
        })
    }
}

/// A cause with the guest that it concerns and the line to change.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Refusal<'a> {
    /// Name of the guest.
    pub guest: &'a str,
    /// What is wrong.
    pub cause: Cause<'a>,
    /// Where to change it.
    pub line: Line<'a>,
}

impl<'a> Refusal<'a> {
    /// Adds to a cause whose it is and where to change it.
    pub fn new(file: &'a str, guest: &Guest<'a>, cause: Cause<'a>) -> Self {
        let line = match cause {
            Cause::Device { line, .. } => Line { file, line },
            _ => Line::of(file, guest, cause.key()),
        };
        Self {
            guest: guest.name,
            cause,
            line,
        }
    }
}

impl fmt::Display for Refusal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "guest '{}': {} {}", self.guest, self.cause, self.line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(cause: Cause<'static>, line: u32) -> String {
        let line = Line {
            file: "demo.toml",
            line,
        };
        Refusal {
            guest: "linux",
            cause,
            line,
        }
        .to_string()
    }

    #[test]
    fn sentences_name_cause_numbers_and_line() {
        let memory = Cause::Memory {
            what: "kernel",
            need: 46 << 20,
            have: 32 << 20,
        };
        assert_eq!(
            refusal(memory, 5),
            "guest 'linux': the kernel needs 46 MiB but memory is 32 MiB; raise `memory` \
             (demo.toml, line 5)"
        );
        let kernel = Cause::Kernel {
            file: "vmlinuz",
            reason: NotAnImage::Gzip,
        };
        assert_eq!(
            refusal(kernel, 6),
            "guest 'linux': vmlinuz is compressed by gzip; name the unpacked Image: see `kernel` \
             (demo.toml, line 6)"
        );
        let core = Cause::Core {
            vcpu: 1,
            core: 9,
            cores: 4,
        };
        assert_eq!(
            refusal(core, 0),
            "guest 'linux': vCPU 1 is to run on core 9 but the board has cores 0 to 3; change \
             `cores` (demo.toml)"
        );
    }

    #[test]
    fn sizes_are_rounded_up() {
        assert_eq!(Size(0).to_string(), "0 bytes");
        assert_eq!(Size(1025).to_string(), "2 KiB");
        assert_eq!(Size(512 << 20).to_string(), "512 MiB");
        assert_eq!(Size((45 << 20) + 1).to_string(), "46 MiB");
    }
}

//! Why a guest cannot have a device, in sentences.

use alloc::string::String;
use core::fmt;

use crate::Range;

/// What is wrong with a wish for a device, or for RAM at an address.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Problem {
    /// The board's tree has no such node.
    Unknown {
        /// The path or alias that is most like it.
        near: Option<String>,
    },
    /// The node has no registers.
    NoRegisters,
    /// Its registers have no address that a CPU could use.
    NoAddress,
    /// The tree says that it is not to be used.
    Disabled,
    /// It is the hypervisor's.
    Kept {
        /// What it is.
        what: &'static str,
    },
    /// It is a bridge to a bus whose devices cannot be kept apart.
    Bridge {
        /// What it is.
        what: &'static str,
    },
    /// It has an interrupt that each core has for itself.
    PrivateInterrupt,
    /// Its interrupt goes to a controller that is not the GIC.
    ForeignInterrupt {
        /// Path of the controller, empty if there is none.
        controller: String,
    },
    /// The guest names it twice.
    Twice,
    /// Another guest has it.
    TwoOwners {
        /// That guest.
        other: String,
    },
    /// Another device lies on the same page, and is not this guest's.
    SharedPage {
        /// Address of the page.
        page: u64,
        /// Path of the other device.
        device: String,
        /// How many more there are on it.
        more: usize,
        /// Guest that has the other device.
        owner: Option<String>,
    },
    /// Another device has the same interrupt, and is not this guest's.
    SharedInterrupt {
        /// INTID.
        intid: u32,
        /// Path of the other device.
        device: String,
    },
    /// It may be a bus master, and nothing says that the guest may have one.
    Dma {
        /// The guest's memory is where the board has it.
        direct: bool,
        /// What it is compatible with.
        kind: String,
    },
    /// The `dma-ranges` of a bus above it cannot be made out.
    DmaRanges {
        /// Path of the bus.
        bus: String,
    },
    /// It needs a clock that somebody must switch.
    Clock {
        /// Path of the clock, or of the controller that it belongs to.
        clock: String,
        /// How many devices have clocks of it.
        users: usize,
    },
    /// As a bus master it does not reach all of the guest's RAM.
    Reach {
        /// First byte that it reaches.
        base: u64,
        /// First byte behind.
        end: u64,
    },
    /// It sets the pins of a device that is another guest's, or the console.
    Pins {
        /// Path of that device.
        device: String,
        /// Guest that has it; `None`: it is the console.
        owner: Option<String>,
    },
    /// Its registers lie where the guest has RAM.
    OverlapsRam {
        /// First byte of its registers.
        base: u64,
    },
    /// The guest's RAM, or a device's registers, lie where the guest has its emulated devices.
    Emulated {
        /// It is the RAM.
        ram: bool,
        /// First byte.
        base: u64,
        /// Where the emulated devices are.
        emulated: Range,
    },
    /// The guest's RAM does not lie in the board's.
    OutsideRam {
        /// First byte.
        base: u64,
        /// First byte behind.
        end: u64,
    },
    /// The guest's RAM overlaps another guest's, or what the board reserves.
    RamTaken {
        /// First byte.
        base: u64,
        /// Who has it.
        by: String,
    },
    /// There is no RAM of that size in one piece.
    NoRoom {
        /// Bytes.
        bytes: u64,
    },
}

impl Problem {
    /// What to do about it; empty if the sentence says it.
    #[must_use]
    pub fn help(&self) -> String {
        use alloc::format;
        match self {
            Self::Unknown { near: Some(near) } => format!("did you mean \"{near}\"?"),
            Self::Unknown { near: None } => {
                "name a device by its path in the board's device tree, like \"/pl031@9010000\", or by \
                 an alias"
                    .into()
            }
            Self::NoRegisters => "name a node that has a `reg`".into(),
            Self::Disabled => {
                "its `status` is not \"okay\"; where firmware can change that (Raspberry Pi: an overlay, or \
                 `dtparam=spi=on`), check with the tree of the running board"
                    .into()
            }
            Self::Kept { .. } => "guests have one of their own, which is emulated".into(),
            Self::Twice => "leave one of the two out".into(),
            Self::TwoOwners { .. } => "a device has one owner: take it out of one of the two".into(),
            Self::SharedPage { page, owner: None, .. } => format!(
                "a page (4 KiB) is the least that a guest can get: give it all that lies on the page \
                 at {page:#x}, too"
            ),
            Self::SharedPage { .. } => "one guest must have all that lies on a page".into(),
            Self::SharedInterrupt { .. } => "one guest must have all that share it".into(),
            Self::Dma { direct: true, .. } => {
                "add `dma = \"trusted\"` if this guest may read and write all of the board's memory"
                    .into()
            }
            Self::Dma { direct: false, .. } => {
                "add `backing = \"direct\"` and `dma = \"trusted\"` if this guest may read and write all \
                 of the board's memory"
                    .into()
            }
            Self::Reach { .. } => {
                "leave `address` out to have one chosen, or give the guest less memory".into()
            }
            Self::Pins { owner: None, .. } => {
                "add `backing = \"direct\"` and `dma = \"trusted\"` if this guest may silence the board"
                    .into()
            }
            Self::Pins { .. } => "one guest must have both".into(),
            Self::OverlapsRam { .. } => "give the guest less memory, or memory elsewhere".into(),
            Self::OutsideRam { .. } | Self::RamTaken { .. } | Self::Emulated { ram: true, .. } => {
                "leave `address` out to have one chosen".into()
            }
            Self::NoRoom { .. } => "lower `memory`, or give the board more".into(),
            Self::NoAddress
            | Self::Bridge { .. }
            | Self::PrivateInterrupt
            | Self::ForeignInterrupt { .. }
            | Self::DmaRanges { .. }
            | Self::Emulated { ram: false, .. }
            | Self::Clock { .. } => String::new(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { .. } => f.write_str("the board's device tree has no such device"),
            Self::NoRegisters => f.write_str("it has no registers that a guest could be given"),
            Self::NoAddress => {
                f.write_str("its registers lie behind a bus and have no address for the CPUs")
            }
            Self::Disabled => f.write_str("the board's device tree says that it is not there"),
            Self::Kept { what } => write!(f, "it is {what}, which the hypervisor keeps"),
            Self::Bridge { what } => write!(
                f,
                "it is {what}: the devices behind it cannot be kept out of other memory"
            ),
            Self::PrivateInterrupt => {
                f.write_str("it has an interrupt that each core has for itself (PPI)")
            }
            Self::ForeignInterrupt { controller } if controller.is_empty() => {
                f.write_str("its interrupt goes to no controller that the board's tree describes")
            }
            Self::ForeignInterrupt { controller } => write!(
                f,
                "its interrupt goes to {controller}, not to the GIC, and cannot be passed on"
            ),
            Self::Twice => f.write_str("the guest names it twice"),
            Self::TwoOwners { other } => write!(f, "guest \"{other}\" has it already"),
            Self::SharedPage {
                page,
                device,
                more,
                owner,
            } => {
                write!(f, "it shares the page at {page:#x} with {device}")?;
                match (owner, more) {
                    (Some(owner), _) => write!(f, ", which guest \"{owner}\" has"),
                    (None, 0) => f.write_str(", which the guest does not have"),
                    (None, more) => {
                        write!(f, " and {more} more, which the guest does not have")
                    }
                }
            }
            Self::SharedInterrupt { intid, device } => {
                write!(f, "it shares interrupt {intid} with {device}")
            }
            Self::Dma { direct, kind } => {
                write!(
                    f,
                    "it may be a bus master ({kind}) and no IOMMU keeps it in the guest's memory; "
                )?;
                if *direct {
                    f.write_str("only a guest with `dma = \"trusted\"` gets one")
                } else {
                    f.write_str("only a `direct` guest with `dma = \"trusted\"` gets one")
                }
            }
            Self::DmaRanges { bus } => write!(
                f,
                "the addresses that it uses for DMA cannot be made out: see the `dma-ranges` of its bus {bus}"
            ),
            Self::Clock { clock, users } => {
                write!(
                    f,
                    "it needs the clock {clock}, which is not a fixed one and "
                )?;
                match users.saturating_sub(1) {
                    0 => f.write_str("is not passed on"),
                    1 => f.write_str("is shared with another device"),
                    others => write!(f, "is shared with {others} other devices"),
                }
            }
            Self::Reach { base, end } => write!(
                f,
                "it reads and writes memory by itself, but only from {base:#x} to {end:#x} \
                 (`dma-ranges` of its bus), and the guest has RAM elsewhere"
            ),
            Self::Pins { device, owner } => {
                write!(f, "it sets the pins of {device}, which ")?;
                match owner {
                    Some(owner) => write!(f, "guest \"{owner}\" has"),
                    None => f.write_str("is the board's console"),
                }
            }
            Self::OverlapsRam { base } => {
                write!(f, "its registers at {base:#x} lie where the guest has RAM")
            }
            Self::Emulated {
                ram,
                base,
                emulated,
            } => {
                let what = if *ram { "RAM" } else { "its registers" };
                write!(
                    f,
                    "{what} at {base:#x} would lie where every guest has its emulated interrupt \
                     controller, watchdog and UART ({:#x} to {:#x})",
                    emulated.base,
                    emulated.end()
                )
            }
            Self::OutsideRam { base, end } => write!(
                f,
                "the board has no RAM from {base:#x} to {end:#x} in one piece"
            ),
            Self::RamTaken { base, by } => {
                write!(f, "the RAM at {base:#x} is wanted by {by}, too")
            }
            Self::NoRoom { bytes } => write!(
                f,
                "the board has no {} MiB of RAM in one piece for it",
                bytes >> 20
            ),
        }
    }
}

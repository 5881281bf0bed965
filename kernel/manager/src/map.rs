//! Where things are in a guest: the same on every board, so that one scenario fits all.
//!
//! The host tool and EL2 know none of this; the manager tells EL2 by hypercall and the guest by its
//! device tree.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use penumbra_abi::GicVersion;
use penumbra_devices::Range;

/// Distributor.
pub const GICD_IPA: u64 = 0x0800_0000;
/// Bytes of the distributor's frame.
pub const GICD_BYTES: u64 = 0x1_0000;
/// GICv2 CPU interface.
pub const GICC_IPA: u64 = 0x0801_0000;
/// Bytes of the CPU interface.
pub const GICC_BYTES: u64 = 0x2000;
/// GICv3 redistributors.
pub const GICR_IPA: u64 = 0x080a_0000;
/// Bytes of one redistributor.
pub const GICR_BYTES: u64 = 0x2_0000;
/// PL011.
pub const UART_IPA: u64 = 0x0900_0000;
/// Bytes of the PL011's registers.
pub const UART_BYTES: u64 = 0x1000;
/// Interrupt of the PL011: shared peripheral interrupt 1.
pub const UART_INTID: u32 = 33;
/// Watchdog: control frame, and 64 KiB behind it the refresh frame. No board's device that a guest may
/// have lies there: on QEMU `virt` it is among the redistributors.
pub const WATCHDOG_IPA: u64 = 0x08f0_0000;
/// Distance of its two frames.
pub const WATCHDOG_REFRESH_OFFSET: u64 = 0x1_0000;
/// Bytes of each of its frames.
pub const WATCHDOG_FRAME_BYTES: u64 = 0x1000;
/// Interrupt of the watchdog, WS0: shared peripheral interrupt 10.
pub const WATCHDOG_INTID: u32 = 42;
/// All that is emulated, from the distributor to the PL011: neither RAM nor a device of the board can be
/// there, whatever the guest has of it.
pub const EMULATED: Range = Range {
    base: GICD_IPA,
    bytes: UART_IPA + UART_BYTES - GICD_IPA,
};
/// Start of RAM: a 1 GiB boundary, for the largest blocks.
pub const RAM_IPA: u64 = 0x4000_0000;

/// First INTID that is a shared peripheral interrupt (GICv3 IHI 0069 H, "INTIDs").
pub const FIRST_SPI: u32 = 32;
/// Interrupts of the generic timer, as PPI numbers (INTID 16 + n): secure physical, non-secure
/// physical, virtual, hypervisor.
pub const TIMER_PPIS: [u32; 4] = [13, 14, 11, 10];

/// A node of the guest's device tree that stands for a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Name of the node in the root.
    pub node: String,
    /// First IPA.
    pub ipa: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The nodes of a guest that stand for addresses.
#[must_use]
pub fn regions(gic: GicVersion, vcpus: u64, (ram_ipa, bytes): (u64, u64)) -> Vec<Region> {
    let node = || String::from("intc@8000000");
    let other = match gic {
        GicVersion::V2 => Region {
            node: node(),
            ipa: GICC_IPA,
            bytes: GICC_BYTES,
        },
        GicVersion::V3 => Region {
            node: node(),
            ipa: GICR_IPA,
            bytes: GICR_BYTES.saturating_mul(vcpus),
        },
    };
    [
        Region {
            node: node(),
            ipa: GICD_IPA,
            bytes: GICD_BYTES,
        },
        other,
        Region {
            node: "pl011@9000000".into(),
            ipa: UART_IPA,
            bytes: UART_BYTES,
        },
        Region {
            node: format!("memory@{ram_ipa:x}"),
            ipa: ram_ipa,
            bytes,
        },
    ]
    .into()
}

/// The node of the watchdog, for a guest that has one.
#[must_use]
pub fn watchdog_regions() -> [Region; 2] {
    [0, WATCHDOG_REFRESH_OFFSET].map(|offset| Region {
        node: "watchdog@8f00000".into(),
        ipa: WATCHDOG_IPA.saturating_add(offset),
        bytes: WATCHDOG_FRAME_BYTES,
    })
}

/// Where an address lies with respect to the guest's device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place<'r> {
    /// Within the node, this far from its start.
    Within(&'r str, u64),
    /// This far behind the end of the node.
    Behind(&'r str, u64),
    /// This far before the start of the node.
    Before(&'r str, u64),
}

/// The node nearest to an address.
#[must_use]
pub fn nearest(regions: &[Region], ipa: u64) -> Option<Place<'_>> {
    let places = regions.iter().map(|region| {
        let node = region.node.as_str();
        let end = region.ipa.saturating_add(region.bytes);
        if ipa < region.ipa {
            (
                region.ipa.saturating_sub(ipa),
                Place::Before(node, region.ipa.saturating_sub(ipa)),
            )
        } else if ipa < end {
            (0, Place::Within(node, ipa.saturating_sub(region.ipa)))
        } else {
            let distance = ipa.saturating_sub(end);
            (distance.saturating_add(1), Place::Behind(node, distance))
        }
    });
    places
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, place)| place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_do_not_overlap() {
        for gic in [GicVersion::V2, GicVersion::V3] {
            let mut regions = regions(gic, 8, (RAM_IPA, 1 << 30));
            regions.extend(watchdog_regions());
            regions.sort_by_key(|region| region.ipa);
            for pair in regions.windows(2) {
                assert!(pair[0].ipa + pair[0].bytes <= pair[1].ipa);
            }
        }
    }

    #[test]
    fn the_nearest_node_is_found() {
        let regions = regions(GicVersion::V3, 2, (RAM_IPA, 512 << 20));
        assert_eq!(
            nearest(&regions, 0),
            Some(Place::Before("intc@8000000", 0x800_0000))
        );
        assert_eq!(
            nearest(&regions, UART_IPA + 0x18),
            Some(Place::Within("pl011@9000000", 0x18))
        );
        assert_eq!(
            nearest(&regions, UART_IPA + 0x1000),
            Some(Place::Behind("pl011@9000000", 0))
        );
        let end = RAM_IPA + (512 << 20);
        assert_eq!(
            nearest(&regions, end + 16),
            Some(Place::Behind("memory@40000000", 16))
        );
        assert_eq!(
            nearest(&regions, u64::MAX - 1).map(|place| matches!(place, Place::Behind(..))),
            Some(true)
        );
    }
}

//! What is read from trees that are made here.

use std::vec::Vec;

use super::blob::Blob;
use crate::facts::{GicFacts, StartMethod, UartKind, read};
use crate::ranges::Range;

pub(super) fn range(base: u64, bytes: u64) -> Range {
    Range::new(base, bytes).unwrap()
}

/// RAM as the firmware tells it of boards with 1, 2, 4 and 8 GiB and 76 MiB for the VideoCore (`gpu_mem`), which lie
/// below 1 GiB: cells of the memory node, and the bytes. Peripherals are from 0xfc00_0000 on.
pub(super) const BOARDS: [(&[u32], u64); 4] = [
    (&[0, 0, 0x3b40_0000], 0x3b40_0000),
    (
        &[0, 0, 0x3b40_0000, 0, 0x4000_0000, 0x4000_0000],
        0x7b40_0000,
    ),
    (
        &[0, 0, 0x3b40_0000, 0, 0x4000_0000, 0xbc00_0000],
        0xf740_0000,
    ),
    (
        &[
            0,
            0,
            0x3b40_0000,
            0,
            0x4000_0000,
            0xbc00_0000,
            1,
            0,
            0x8000_0000,
            1,
            0x8000_0000,
            0x8000_0000,
        ],
        0x1_f740_0000,
    ),
];

/// The parts of a tree like the Raspberry Pi 4's that a test wants otherwise.
pub(super) struct Pi {
    pub(super) stdout: &'static str,
    pub(super) mini_status: &'static str,
    pub(super) memory: Vec<u32>,
    pub(super) initrd: (u32, u32),
}

impl Default for Pi {
    fn default() -> Self {
        Self {
            stdout: "serial1:115200n8",
            mini_status: "okay",
            memory: [
                0,
                0,
                0x3b40_0000,
                0,
                0x4000_0000,
                0x8000_0000,
                1,
                0,
                0x8000_0000,
            ]
            .into(),
            initrd: (0x0800_0000, 0x0900_0000),
        }
    }
}

impl Pi {
    pub(super) fn build(&self) -> Vec<u8> {
        let spi = |n| [0, n, 4];
        Blob::default()
            .reserve(0, 0x1000)
            .node("", |root| {
                root.prop("compatible", b"raspberrypi,4-model-b\0brcm,bcm2711\0")
                    .cells("#address-cells", &[2])
                    .nop()
                    .cells("#size-cells", &[1])
                    .nop()
                    .node("aliases", |aliases| {
                        aliases
                            .text("serial0", "/soc/serial@7e201000")
                            .nop()
                            .text("serial1", "/soc/serial@7e215040")
                    })
                    .node("chosen", |chosen| {
                        chosen
                            .text("stdout-path", self.stdout)
                            .cells("linux,initrd-start", &[self.initrd.0])
                            .cells("linux,initrd-end", &[0, self.initrd.1])
                    })
                    .node("reserved-memory", |memory| {
                        memory
                            .cells("#address-cells", &[2])
                            .cells("#size-cells", &[1])
                            .prop("ranges", &[])
                            .node("linux,cma", |cma| cma.cells("size", &[0x400_0000]))
                            .node("nvram@0", |nvram| {
                                nvram.cells("reg", &[0, 0x3ef0_0000, 0x1000])
                            })
                    })
                    .node("cpus", |cpus| {
                        (0..4).fold(
                            cpus.cells("#address-cells", &[1])
                                .cells("#size-cells", &[0]),
                            |cpus, n| {
                                cpus.node(&std::format!("cpu@{n}"), |cpu| {
                                    cpu.text("device_type", "cpu")
                                        .cells("reg", &[n])
                                        .text("enable-method", "spin-table")
                                        .cells("cpu-release-addr", &[0, 0xd8 + 8 * n])
                                })
                            },
                        )
                    })
                    .node("soc", |soc| {
                        soc.cells("#address-cells", &[1])
                            .cells("#size-cells", &[1])
                            .cells(
                                "ranges",
                                &[
                                    0x7e00_0000,
                                    0,
                                    0xfe00_0000,
                                    0x0180_0000, //
                                    0x7c00_0000,
                                    0,
                                    0xfc00_0000,
                                    0x0200_0000, //
                                    0x4000_0000,
                                    0,
                                    0xff80_0000,
                                    0x0080_0000,
                                ],
                            )
                            .nop()
                            .node("serial@7e201000", |uart| {
                                uart.prop("compatible", b"arm,pl011\0arm,primecell\0")
                                    .cells("reg", &[0x7e20_1000, 0x200])
                                    .cells("interrupts", &spi(121))
                                    .text("status", "okay")
                                    .node("bluetooth", |b| b.text("compatible", "brcm,bcm43438-bt"))
                            })
                            .node("serial@7e215040", |uart| {
                                uart.text("compatible", "brcm,bcm2835-aux-uart")
                                    .cells("reg", &[0x7e21_5040, 0x40])
                                    .cells("interrupts", &spi(93))
                                    .text("status", self.mini_status)
                            })
                            .node("mailbox@7e00b880", |mailbox| {
                                mailbox
                                    .text("compatible", "brcm,bcm2835-mbox")
                                    .cells("reg", &[0x7e00_b880, 0x40])
                            })
                            .node("interrupt-controller@40041000", |gic| {
                                gic.text("compatible", "arm,gic-400").cells(
                                    "reg",
                                    &[
                                        0x4004_1000,
                                        0x1000,
                                        0x4004_2000,
                                        0x2000, //
                                        0x4004_4000,
                                        0x2000,
                                        0x4004_6000,
                                        0x2000,
                                    ],
                                )
                            })
                    })
                    .node("timer", |timer| {
                        timer
                            .text("compatible", "arm,armv8-timer")
                            .cells("interrupts", &[1, 13, 8, 1, 14, 8, 1, 11, 8, 1, 10, 8])
                    })
                    .node("memory@0", |memory| {
                        memory
                            .text("device_type", "memory")
                            .cells("reg", &self.memory)
                    })
            })
            .finish()
    }
}

#[test]
fn a_pi_like_tree_gives_its_facts() {
    let tree = Pi::default().build();
    let facts = read(&tree).unwrap();
    assert!(facts.is("brcm,bcm2711") && facts.is("raspberrypi,4-model-b"));
    assert!(!facts.is("brcm,bcm2837") && !facts.is(""));
    let ram: Vec<Range> = facts.ram.iter().collect();
    assert_eq!(
        ram,
        [
            range(0, 0x3b40_0000),
            range(0x4000_0000, 0x8000_0000),
            range(0x1_0000_0000, 0x8000_0000)
        ]
    );
    let reserved: Vec<Range> = facts.reserved.iter().collect();
    assert_eq!(reserved, [range(0, 0x1000), range(0x3ef0_0000, 0x1000)]);
    assert_eq!((facts.cpu_count, facts.cpus_described), (4, 4));
    assert_eq!(facts.cpus[3].mpidr, 3);
    assert_eq!(facts.cpus[3].start, StartMethod::SpinTable(0xf0));
    assert_eq!(
        facts.gic,
        GicFacts::V2([
            range(0xff84_1000, 0x1000),
            range(0xff84_2000, 0x2000),
            range(0xff84_4000, 0x2000),
            range(0xff84_6000, 0x2000)
        ])
    );
    assert_eq!(
        (facts.timers.el1_virtual, facts.timers.hypervisor),
        (27, 26)
    );
    assert_eq!(facts.uart.kind, UartKind::Mini);
    assert_eq!(facts.uart.registers, range(0xfe21_5040, 0x40));
    assert_eq!(facts.uart.intid, 125);
    assert_eq!(facts.bundle, Some(range(0x0800_0000, 0x0100_0000)));
    assert_eq!(facts.mailbox, Some(range(0xfe00_b880, 0x40)));
    assert!(!facts.psci_by_smc);
}

#[test]
fn stdout_is_found_by_alias_path_or_short_name() {
    for (stdout, kind) in [
        ("serial0", UartKind::Pl011),
        ("serial0:115200n8", UartKind::Pl011),
        ("serial1", UartKind::Mini),
        ("/soc/serial@7e215040:9600", UartKind::Mini),
        ("/soc/serial@7e201000", UartKind::Pl011),
        // What names nothing leaves the first.
        ("serial7", UartKind::Pl011),
        ("/soc", UartKind::Pl011),
        ("/soc/serial@7e215040/deeper", UartKind::Pl011),
        ("", UartKind::Pl011),
    ] {
        let tree = Pi {
            stdout,
            ..Pi::default()
        }
        .build();
        assert_eq!(read(&tree).unwrap().uart.kind, kind, "{stdout}");
    }
}

#[test]
fn a_uart_that_is_disabled_is_not_the_console() {
    let tree = Pi {
        mini_status: "disabled",
        ..Pi::default()
    }
    .build();
    assert_eq!(read(&tree).unwrap().uart.kind, UartKind::Pl011);
}

#[test]
fn what_is_missing_is_said() {
    let says = |blob: Blob| read(&blob.finish()).map(drop).unwrap_err();
    let root = |inside: fn(Blob) -> Blob| Blob::default().node("", inside);
    assert_eq!(says(root(|r| r)), "the device tree describes no RAM");
    let ram = |root: Blob| {
        root.node("memory@40000000", |memory| {
            memory
                .text("device_type", "memory")
                .cells("reg", &[0, 0x4000_0000, 0x1000_0000])
        })
    };
    let blob = Blob::default().node("", ram);
    assert!(says(blob).contains("no GICv2 with virtualization"));
    let twice = Blob::default().node("", |root| ram(ram(root)));
    assert_eq!(says(twice), "the device tree describes the same RAM twice");
    // A GICv2 without its virtual interface does not do.
    let gic = |root: Blob| {
        root.node("gic", |gic| {
            gic.text("compatible", "arm,gic-400")
                .cells("reg", &[0, 0x1000, 0x1000, 0, 0x2000, 0x1000])
        })
    };
    let blob = Blob::default().node("", |root| gic(ram(root)));
    assert!(says(blob).contains("no GICv2 with virtualization"));
}

#[test]
fn nonsense_is_damage() {
    let damaged =
        |blob: Blob| read(&blob.finish()).map(drop).unwrap_err() == "the device tree is damaged";
    assert!(
        damaged(Blob::default().word(7)),
        "a token that there is not"
    );
    assert!(damaged(Blob::default().word(2)), "an end too many");
    assert!(damaged(Blob::default().word(1)), "a name without an end");
    assert!(
        damaged(Blob::default().node("", |root| root.word(9))),
        "the end inside a node"
    );
    assert!(
        damaged(Blob::default().prop("reg", &[])),
        "a property outside"
    );
    assert!(
        damaged(Blob::default().node("", |root| root.node("a", |a| a).prop("reg", &[]))),
        "a property behind a child"
    );
    assert!(
        damaged(Blob::default().word(3).word(u32::MAX).word(0)),
        "a huge property"
    );
    assert!(read(&[]).is_err() && read(&[0; 40]).is_err());
}

#[test]
fn deep_nesting_is_passed_over() {
    fn deeper(blob: Blob, levels: usize) -> Blob {
        match levels {
            0 => blob,
            _ => blob.node("n", |blob| {
                deeper(blob.text("compatible", "arm,pl011"), levels - 1)
            }),
        }
    }
    let tree = deeper(Blob::default(), 200).finish();
    assert_eq!(
        read(&tree).map(drop).unwrap_err(),
        "the device tree describes no RAM"
    );
}

#[test]
fn revision_codes_tell_the_memory() {
    use crate::revision::mebibytes;
    for (code, memory) in [
        (0x00a0_3111, Some(1024)),
        (0x00b0_3115, Some(2048)),
        (0x00c0_3114, Some(4096)),
        (0x00d0_3114, Some(8192)),
        // Old style, and a size that no board has.
        (0x0000_000e, None),
        (0x00f0_3114, None),
    ] {
        assert_eq!(mebibytes(code), memory, "{code:x}");
    }
}

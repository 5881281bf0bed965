//! The events that are measured, and what the peers cost (instructions outside the guest).
//!
//! The peers' figures were measured with the same guest and method on the same machine: QEMU 10.0.2
//! `virt`, GICv3, cortex-a72. See docs/performance.md.

/// An event: one row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Number of the markers around it.
    pub test: u64,
    /// What it is.
    pub name: &'static str,
    /// Name in `target/bench/events.json`.
    pub case: &'static str,
    /// Xen 4.17, KVM 6.1 nVHE, Bao, hvisor, Jailhouse 0.12. `None`: no such event there, or not
    /// measured.
    pub peers: [Option<u64>; 5],
    /// The figure to reach.
    pub limit: Option<u64>,
    /// Windows of this test hold the event so many times.
    pub times: u64,
}

/// Names of the peers, in the order of [`Event::peers`].
pub const PEERS: [&str; 5] = ["Xen", "KVM", "Bao", "hvisor", "Jailh."];

/// Short for a row.
const fn event(
    test: u64,
    name: &'static str,
    case: &'static str,
    peers: [Option<u64>; 5],
    limit: Option<u64>,
) -> Event {
    Event {
        test,
        name,
        case,
        peers,
        limit,
        times: 1,
    }
}

/// Short for a figure of each peer; 0 stands for none.
const fn all(figures: [u64; 5]) -> [Option<u64>; 5] {
    let [a, b, c, d, e] = figures;
    [some(a), some(b), some(c), some(d), some(e)]
}

const fn some(figure: u64) -> Option<u64> {
    if figure == 0 { None } else { Some(figure) }
}

/// The rows, in the order of the table.
pub const EVENTS: [Event; 24] = [
    event(0, "null window", "null", [Some(0); 5], None),
    event(
        1,
        "HVC SMCCC_VERSION",
        "hvc-smccc-version",
        all([454, 1482, 0, 0, 0]),
        Some(60),
    ),
    event(
        3,
        "HVC PSCI_VERSION",
        "hvc-psci-version",
        all([470, 1544, 188, 0, 0]),
        Some(60),
    ),
    event(
        18,
        "SMC PSCI_VERSION",
        "smc-psci-version",
        all([500, 1424, 202, 122, 136]),
        Some(60),
    ),
    event(
        2,
        "HVC unknown function",
        "hvc-unknown",
        all([1646, 1480, 0, 174, 120]),
        None,
    ),
    event(
        4,
        "read ACTLR_EL1",
        "read-actlr",
        all([410, 1794, 0, 0, 0]),
        Some(100),
    ),
    event(
        5,
        "read ID_AA64PFR0_EL1",
        "read-id-aa64pfr0",
        all([429, 1905, 0, 0, 0]),
        Some(100),
    ),
    event(
        20,
        "read MDSCR_EL1",
        "read-mdscr",
        all([435, 1829, 0, 0, 0]),
        Some(100),
    ),
    event(
        21,
        "read PMCR_EL0",
        "read-pmcr",
        all([433, 1859, 0, 0, 0]),
        Some(100),
    ),
    event(
        28,
        "write TTBR0_EL1, root known",
        "write-ttbr0-known",
        [None; 5],
        Some(60),
    ),
    event(
        29,
        "write TTBR1_EL1, other ASID",
        "write-ttbr1-asid",
        [None; 5],
        Some(60),
    ),
    event(
        24,
        "ICC_SGI1R, no target",
        "sgi1r-no-target",
        all([523, 1983, 228, 130, 1060]),
        Some(110),
    ),
    event(
        6,
        "MMIO read GICD_TYPER",
        "gicd-typer",
        all([599, 2312, 225, 333, 285]),
        Some(180),
    ),
    event(
        7,
        "MMIO write GICD_ISENABLER",
        "gicd-isenabler",
        all([740, 2324, 3563, 751, 920]),
        Some(400),
    ),
    event(
        8,
        "unmapped IPA",
        "unmapped-ipa",
        all([755, 6153, 0, 0, 0]),
        None,
    ),
    event(
        9,
        "virtual timer, running",
        "vtimer-running",
        all([1083, 2910, 199, 226, 206]),
        Some(150),
    ),
    event(
        10,
        "WFI, then virtual timer",
        "vtimer-wfi",
        all([7498, 34461, 199, 226, 206]),
        Some(150),
    ),
    event(
        11,
        "SGI to self",
        "sgi-self",
        all([1096, 2947, 775, 339, 1399]),
        None,
    ),
    event(
        12,
        "SGI to a running vCPU",
        "sgi-running",
        all([1617, 5077, 799, 339, 1450]),
        Some(280),
    ),
    event(
        13,
        "SGI to a vCPU in WFI",
        "sgi-wfi",
        all([7716, 5511, 799, 339, 1450]),
        None,
    ),
    event(
        23,
        "SGI there and back, WFI",
        "sgi-ping-pong",
        all([15627, 10908, 1598, 728, 2900]),
        None,
    ),
    event(
        14,
        "first touch of 4 KiB (thin)",
        "first-touch",
        all([0, 7290, 0, 0, 0]),
        Some(600),
    ),
    Event {
        test: 15,
        name: "switch between two guests",
        case: "guest-switch",
        peers: all([3798, 0, 0, 0, 0]),
        limit: Some(800),
        times: 2,
    },
    event(
        22,
        "PSCI CPU_ON until it runs",
        "cpu-on",
        all([15802, 55909, 12445, 6012, 7118]),
        Some(4000),
    ),
];

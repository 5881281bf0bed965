//! Xen without a dom0: a board's device tree with the guest in it, as Xen's documentation "dom0less" has it.
//!
//! QEMU writes the tree of its board; here a node for the guest goes into `/chosen`, by the format of the Devicetree
//! Specification 0.4, chapter 5 "Flattened Devicetree (DTB) format".

/// Where QEMU puts the guest's kernel and its initramfs, clear of Xen and the tree at the start of RAM.
pub(crate) const KERNEL: u64 = 0x5000_0000;
pub(crate) const INITRAMFS: u64 = 0x5800_0000;

/// Xen's command line: its console on the board's UART, no scrubbing of free memory at start. The scheduler is the default
/// one: Debian's Xen has no other for a single vCPU.
const BOOTARGS: &str = "console=dtuart dtuart=/pl011@9000000 bootscrub=0";
/// KiB of the guest's memory: 1 GiB, as on all systems.
const MEMORY_KIB: u64 = 1 << 20;

const MAGIC: u32 = 0xd00d_feed;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;

/// Where a guest without an operating system finds its devices (Xen, xen/include/public/arch-arm.h: GUEST_PL011_BASE,
/// GUEST_GICV3_GICD_BASE, GUEST_GICV3_GICR0_BASE); it reads decimals.
pub(crate) fn devices() -> String {
    format!(
        " sbsa_uart={} gicd={} gicr={}",
        0x2200_0000, 0x0300_1000, 0x0302_0000
    )
}

/// Sizes of the guest's files, and its command line.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Domain<'a> {
    pub(crate) kernel_bytes: u64,
    /// `None`: it has none.
    pub(crate) initramfs_bytes: Option<u64>,
    pub(crate) cmdline: &'a str,
}

/// A part of a tree that is being written.
#[derive(Default)]
struct Writer {
    structure: Vec<u8>,
    strings: Vec<u8>,
    /// Bytes of strings that are there already.
    strings_before: usize,
}

impl Writer {
    fn word(&mut self, word: u32) {
        self.structure.extend(word.to_be_bytes());
    }

    fn padded(&mut self, bytes: &[u8]) {
        self.structure.extend(bytes);
        let end = self.structure.len().next_multiple_of(4);
        self.structure.resize(end, 0);
    }

    fn begin(&mut self, name: &str) {
        self.word(BEGIN_NODE);
        self.padded(&[name.as_bytes(), b"\0"].concat());
    }

    fn end(&mut self) {
        self.word(END_NODE);
    }

    fn property(&mut self, name: &str, value: &[u8]) {
        let offset = self.strings_before + self.strings.len();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        self.word(PROPERTY);
        // A tree of this size has no lengths near 2^32.
        self.word(u32::try_from(value.len()).unwrap_or(u32::MAX));
        self.word(u32::try_from(offset).unwrap_or(u32::MAX));
        self.padded(value);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.property(name, &[value.as_bytes(), b"\0"].concat());
    }

    fn numbers(&mut self, name: &str, values: &[u64]) {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_be_bytes()).collect();
        self.property(name, &bytes);
    }

    fn cells(&mut self) {
        self.property("#address-cells", &2_u32.to_be_bytes());
        self.property("#size-cells", &2_u32.to_be_bytes());
    }

    fn module(&mut self, kind: &str, at: u64, bytes: u64, cmdline: Option<&str>) {
        self.begin(&format!("module@{at:x}"));
        self.text("compatible", &format!("multiboot,{kind}\0multiboot,module"));
        self.numbers("reg", &[at, bytes]);
        if let Some(cmdline) = cmdline {
            self.text("bootargs", cmdline);
        }
        self.end();
    }

    fn domain(&mut self, domain: &Domain<'_>) {
        self.begin("domU1");
        self.text("compatible", "xen,domain");
        self.cells();
        self.property("cpus", &1_u32.to_be_bytes());
        self.numbers("memory", &[MEMORY_KIB]);
        self.property("vpl011", &[]);
        self.module("kernel", KERNEL, domain.kernel_bytes, Some(domain.cmdline));
        if let Some(bytes) = domain.initramfs_bytes {
            self.module("ramdisk", INITRAMFS, bytes, None);
        }
        self.end();
    }
}

/// The board's tree with Xen's command line and the guest in `/chosen`.
///
/// # Errors
/// A sentence: this is no tree, or it has no `/chosen`.
pub(crate) fn tree(board: &[u8], domain: &Domain<'_>) -> Result<Vec<u8>, String> {
    let why = || "QEMU's device tree has an unknown form".to_owned();
    let header = |index: usize| word(board, 4 * index).ok_or_else(why);
    if header(0)? != MAGIC {
        return Err(why());
    }
    let part = |start: u32, bytes: u32| {
        let start = start as usize;
        board.get(start..start + bytes as usize).ok_or_else(why)
    };
    let structure = part(header(2)?, header(9)?)?;
    let strings = part(header(3)?, header(8)?)?;
    let (first, last) = chosen(structure).ok_or_else(why)?;
    // Properties come before nodes: Xen's go to the front, the guest to the end.
    let mut front = Writer {
        strings_before: strings.len(),
        ..Writer::default()
    };
    front.text("xen,xen-bootargs", BOOTARGS);
    front.cells();
    let mut back = Writer {
        strings_before: strings.len() + front.strings.len(),
        ..Writer::default()
    };
    back.domain(domain);
    let piece = |range| structure.get(range).ok_or_else(why);
    let structure = [
        piece(0..first)?,
        &front.structure,
        piece(first..last)?,
        &back.structure,
        piece(last..structure.len())?,
    ]
    .concat();
    let strings = [strings, &front.strings, &back.strings].concat();
    Ok(assemble(&structure, &strings, header(7)?))
}

/// Header, an empty map of reserved memory, structure, strings.
fn assemble(structure: &[u8], strings: &[u8], boot_core: u32) -> Vec<u8> {
    const HEADER: usize = 40;
    const RESERVED: usize = 16;
    let at_structure = HEADER + RESERVED;
    let at_strings = at_structure + structure.len();
    let total = at_strings + strings.len();
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let header = [
        MAGIC,
        number(total),
        number(at_structure),
        number(at_strings),
        number(HEADER),
        17,
        16,
        boot_core,
        number(strings.len()),
        number(structure.len()),
    ];
    let mut tree: Vec<u8> = header.iter().flat_map(|word| word.to_be_bytes()).collect();
    tree.extend([0; RESERVED]);
    tree.extend(structure);
    tree.extend(strings);
    tree
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Where the contents of `/chosen` begin and end in a structure block.
fn chosen(structure: &[u8]) -> Option<(usize, usize)> {
    let (mut at, mut depth, mut first) = (0, 0_u32, None);
    loop {
        let token = word(structure, at)?;
        match token {
            BEGIN_NODE => {
                let name = structure.get(at + 4..)?.split(|&b| b == 0).next()?;
                at += (4 + name.len() + 1).next_multiple_of(4);
                depth += 1;
                if depth == 2 && name == b"chosen" {
                    first = Some(at);
                }
            }
            END_NODE => {
                if let (2, Some(first)) = (depth, first) {
                    return Some((first, at));
                }
                depth = depth.checked_sub(1)?;
                at += 4;
            }
            PROPERTY => {
                let bytes = word(structure, at + 4)? as usize;
                at += (12 + bytes).next_multiple_of(4);
            }
            NOP => at += 4,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOMAIN: Domain<'_> = Domain {
        kernel_bytes: 0x123,
        initramfs_bytes: Some(0x456),
        cmdline: "quiet",
    };

    fn board() -> Vec<u8> {
        let mut board = Writer::default();
        board.begin("");
        board.begin("cpus");
        board.end();
        board.begin("chosen");
        board.text("stdout-path", "/uart");
        board.end();
        board.begin("memory");
        board.end();
        board.end();
        board.word(9);
        assemble(&board.structure, &board.strings, 0)
    }

    /// Every node and property as a line, by an own reading of the format.
    fn lines(tree: &[u8]) -> Vec<String> {
        let at_strings = word(tree, 12).unwrap() as usize;
        let text = |at: usize| {
            let bytes = tree[at..].split(|&b| b == 0).next().unwrap();
            String::from_utf8(bytes.to_vec()).unwrap()
        };
        let (mut at, mut lines) = (word(tree, 8).unwrap() as usize, Vec::new());
        loop {
            match word(tree, at).unwrap() {
                BEGIN_NODE => {
                    let name = text(at + 4);
                    at = (at + 4 + name.len() + 1).next_multiple_of(4);
                    lines.push(format!("{name} {{"));
                }
                END_NODE => {
                    at += 4;
                    lines.push("}".into());
                }
                PROPERTY => {
                    let bytes = word(tree, at + 4).unwrap() as usize;
                    let name = text(at_strings + word(tree, at + 8).unwrap() as usize);
                    let value = tree[at + 12..at + 12 + bytes].iter();
                    let value: String = value.map(|b| format!("{b:02x}")).collect();
                    lines.push(format!("{name}={value}"));
                    at = (at + 12 + bytes).next_multiple_of(4);
                }
                _ => return lines,
            }
        }
    }

    #[test]
    fn the_guest_is_in_chosen_and_the_rest_stays() {
        let before = lines(&board());
        let after = lines(&tree(&board(), &DOMAIN).unwrap());
        let place = after.iter().position(|l| l == "chosen {").unwrap();
        assert_eq!(after[..=place], before[..=place]);
        assert!(after[place + 1].starts_with("xen,xen-bootargs=636f6e736f6c65"));
        let guest = after.iter().position(|l| l == "domU1 {").unwrap();
        let domain = &after[guest..];
        for line in [
            "memory=0000000000100000",
            "cpus=00000001",
            "module@50000000 {",
            "reg=00000000500000000000000000000123",
            "bootargs=717569657400",
            "reg=00000000580000000000000000000456",
        ] {
            assert!(domain.iter().any(|found| found == line), "{line} {after:?}");
        }
        let none = Domain {
            initramfs_bytes: None,
            ..DOMAIN
        };
        let without = lines(&tree(&board(), &none).unwrap());
        assert!(!without.iter().any(|line| line.starts_with("module@5800")));
        // `chosen`, the root and what comes between close as before.
        let end = &before[before.len() - 4..];
        assert_eq!(after[after.len() - 4..], *end);
    }

    #[test]
    fn what_is_no_tree_is_refused() {
        assert!(tree(b"", &DOMAIN).is_err());
        assert!(tree(&[0; 64], &DOMAIN).is_err());
        let mut cut = board();
        cut.truncate(70);
        assert!(tree(&cut, &DOMAIN).is_err());
    }
}

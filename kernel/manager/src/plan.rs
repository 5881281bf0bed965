//! Where a guest's payload goes: kernel, initial RAM disk and device tree, all within its memory.
//!
//! For Linux they lie one behind the other from the start of RAM, which meets its rules: the RAM disk
//! is in the same 32 GiB as the kernel and the tree is at most 2 MiB long (booting.rst, sections 2
//! and 4). A flat binary does not say what memory it uses behind its end, so its tree lies at the end
//! of memory.

use alloc::vec::Vec;

use penumbra_abi::MANAGER_WINDOW_BYTES;
use penumbra_bundle::{Backing, Bundle, Guest, Payload};

use crate::granted::{GrantedAll, ram_ipa};
use crate::hypervisor::Board;
use crate::image::Image;
use crate::refusal::Cause;
use crate::tree::{self, Description, MAX_TREE_BYTES};

/// Boundary of each piece: the largest page that a guest may use.
pub const PIECE_ALIGN_BYTES: u64 = 64 << 10;
/// Unit in which memory is lent for loading, so that EL2 can map blocks.
pub const GRANT_ALIGN_BYTES: u64 = 2 << 20;

/// Bytes that go to one place.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    /// IPA in the guest.
    pub ipa: u64,
    /// Content; memory behind it is zero.
    pub bytes: &'a [u8],
}

/// How a guest is loaded and started.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    /// Kernel.
    pub kernel: Piece<'a>,
    /// Initial RAM disk.
    pub initrd: Option<Piece<'a>>,
    /// IPA of the device tree, for X0 of vCPU 0.
    pub tree_ipa: u64,
    /// Device tree.
    pub tree: Vec<u8>,
    /// First instruction.
    pub entry: u64,
    /// First address of RAM.
    pub ram_ipa: u64,
    /// What it gets of the board.
    pub granted: GrantedAll,
}

/// What a plan is made from.
#[derive(Clone, Copy, Debug)]
pub struct Content<'p, 'a> {
    /// The bundle.
    pub bundle: &'p Bundle<'a>,
    /// The guest.
    pub guest: &'p Guest<'a>,
    /// The board.
    pub board: &'p Board,
}

impl<'a> Plan<'a> {
    /// Checks the payload of a guest, its digests included, and lays it out. `pulse` is called now and
    /// then meanwhile.
    ///
    /// # Errors
    /// Why the guest cannot be loaded.
    pub fn new(
        content: &Content<'_, 'a>,
        granted: GrantedAll,
        pulse: &mut dyn FnMut(),
    ) -> Result<Self, Cause<'a>> {
        let Content {
            bundle,
            guest,
            board,
        } = *content;
        let ram_ipa = ram_ipa(guest);
        let kernel = part(bundle, guest.kernel, "kernel", pulse)?;
        let (kernel_ipa, kernel_bytes, entry) = match guest.payload {
            Payload::Linux => {
                let not = |reason| Cause::Kernel {
                    file: guest.kernel_file,
                    reason,
                };
                let image = Image::parse(kernel, board.granules).map_err(not)?;
                let start = ram_ipa.saturating_add(image.text_offset);
                (start, image.image_bytes, start)
            }
            Payload::Flat { entry } => (ram_ipa, len(kernel), ram_ipa.saturating_add(entry)),
        };
        let mut layout = Layout {
            next: ram_ipa,
            start: ram_ipa,
            memory_bytes: guest.memory_bytes,
        };
        layout.place(kernel_ipa, kernel_bytes, "kernel")?;
        let initrd = match guest.initrd {
            None => None,
            Some(index) => {
                let bytes = part(bundle, index, "initrd", pulse)?;
                let ipa = layout.place(layout.next, len(bytes), "kernel with its initrd")?;
                Some(Piece { ipa, bytes })
            }
        };
        let tree = tree::blob(&Description {
            name: guest.name,
            gic: board.gic,
            vcpus: u32::try_from(guest.vcpus()).unwrap_or(u32::MAX),
            ram_ipa,
            memory_bytes: guest.memory_bytes,
            cmdline: guest.cmdline,
            initrd: initrd.map(|disk| (disk.ipa, disk.ipa.saturating_add(len(disk.bytes)))),
            devices: &granted.nodes,
            clocks: &granted.clocks,
            watchdog: guest.watchdog.is_some(),
        });
        if len(&tree) > MAX_TREE_BYTES {
            return Err(Cause::Tree(len(&tree)));
        }
        let what = if initrd.is_some() {
            "kernel with its initrd and device tree"
        } else {
            "kernel with its device tree"
        };
        let tree_ipa = match guest.payload {
            Payload::Linux => layout.place(layout.next, len(&tree), what)?,
            Payload::Flat { .. } => layout.place_last(len(&tree), what)?,
        };
        let kernel = Piece {
            ipa: kernel_ipa,
            bytes: kernel,
        };
        let plan = Self {
            kernel,
            initrd,
            tree_ipa,
            tree,
            entry,
            ram_ipa,
            granted,
        };
        plan.check_limits(guest)?;
        Ok(plan)
    }

    /// What is to be copied, in rising order of addresses.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        let tree = Piece {
            ipa: self.tree_ipa,
            bytes: &self.tree,
        };
        [Some(self.kernel), self.initrd, Some(tree)]
            .into_iter()
            .flatten()
    }

    /// The ranges that must be lent for copying the pieces, as first IPA and first IPA behind, in
    /// rising order, whole [`GRANT_ALIGN_BYTES`] each and apart from each other.
    #[must_use]
    pub fn grants(&self) -> Vec<(u64, u64)> {
        let mut grants: Vec<(u64, u64)> = Vec::new();
        for piece in self.pieces() {
            let start = piece.ipa & !GRANT_ALIGN_BYTES.wrapping_sub(1);
            let end = piece.ipa.saturating_add(len(piece.bytes));
            let end = end
                .checked_next_multiple_of(GRANT_ALIGN_BYTES)
                .unwrap_or(u64::MAX);
            match grants.last_mut() {
                Some((_, last)) if *last >= start => *last = end.max(*last),
                _ => grants.push((start, end)),
            }
        }
        grants
    }

    /// Checks that the payload can be lent, and that a thin guest may hold it.
    fn check_limits(&self, guest: &Guest<'_>) -> Result<(), Cause<'static>> {
        let grants = self.grants();
        let reach = grants
            .last()
            .map_or(0, |(_, end)| end.saturating_sub(self.ram_ipa));
        if reach > MANAGER_WINDOW_BYTES {
            return Err(Cause::Window(reach));
        }
        let need = grants
            .iter()
            .map(|(start, end)| end.saturating_sub(*start))
            .sum();
        if guest.backing == Backing::Thin && need > guest.quota_bytes {
            return Err(Cause::Quota {
                need,
                have: guest.quota_bytes,
            });
        }
        Ok(())
    }
}

/// The content of a part, its digest checked.
fn part<'a>(
    bundle: &Bundle<'a>,
    index: u32,
    what: &'static str,
    pulse: &mut dyn FnMut(),
) -> Result<&'a [u8], Cause<'a>> {
    let part = bundle.part(index);
    let content = part.and_then(|part| part.verified_with(pulse));
    content.map_err(|error| Cause::Part { what, error })
}

/// The part of RAM that is taken so far.
struct Layout {
    /// First free boundary.
    next: u64,
    /// Start of memory.
    start: u64,
    memory_bytes: u64,
}

impl Layout {
    /// Takes a range; `what` is everything up to and with it, for the refusal.
    fn place(&mut self, ipa: u64, bytes: u64, what: &'static str) -> Result<u64, Cause<'static>> {
        let end = ipa.saturating_add(bytes);
        let need = end.saturating_sub(self.start);
        if need > self.memory_bytes {
            return Err(Cause::Memory {
                what,
                need,
                have: self.memory_bytes,
            });
        }
        self.next = end
            .checked_next_multiple_of(PIECE_ALIGN_BYTES)
            .unwrap_or(u64::MAX);
        Ok(ipa)
    }

    /// Takes a range at the end of memory.
    fn place_last(&mut self, bytes: u64, what: &'static str) -> Result<u64, Cause<'static>> {
        let end = self.start.saturating_add(self.memory_bytes);
        let start = end.saturating_sub(bytes.next_multiple_of(PIECE_ALIGN_BYTES));
        if start < self.next {
            let used = self.next.saturating_sub(self.start);
            let need = used.saturating_add(end.saturating_sub(start));
            return Err(Cause::Memory {
                what,
                need,
                have: self.memory_bytes,
            });
        }
        self.next = end;
        Ok(start)
    }
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

//! Writes flattened trees for tests, NOP tokens and nonsense included.

use std::vec::Vec;

/// A tree in the making.
#[derive(Clone, Default)]
pub(super) struct Blob {
    structure: Vec<u8>,
    strings: Vec<u8>,
    reservations: Vec<u8>,
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Cells as bytes.
pub(super) fn cells(cells: &[u32]) -> Vec<u8> {
    cells.iter().flat_map(|cell| cell.to_be_bytes()).collect()
}

impl Blob {
    pub(super) fn word(mut self, word: u32) -> Self {
        self.structure.extend(word.to_be_bytes());
        self
    }

    /// Begins a node, puts its properties and what `inside` adds, and ends it.
    pub(super) fn node(self, name: &str, inside: impl FnOnce(Self) -> Self) -> Self {
        let mut blob = self.word(1);
        blob.structure.extend(name.as_bytes());
        blob.structure.push(0);
        pad(&mut blob.structure);
        inside(blob).word(2)
    }

    pub(super) fn prop(mut self, name: &str, value: &[u8]) -> Self {
        let offset = self.strings.len();
        self.strings.extend(name.as_bytes());
        self.strings.push(0);
        let mut blob = self
            .word(3)
            .word(u32::try_from(value.len()).unwrap())
            .word(u32::try_from(offset).unwrap());
        blob.structure.extend(value);
        pad(&mut blob.structure);
        blob
    }

    pub(super) fn nop(self) -> Self {
        self.word(4)
    }

    pub(super) fn text(self, name: &str, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.prop(name, &bytes)
    }

    pub(super) fn cells(self, name: &str, value: &[u32]) -> Self {
        self.prop(name, &cells(value))
    }

    pub(super) fn reserve(mut self, base: u64, bytes: u64) -> Self {
        self.reservations.extend(base.to_be_bytes());
        self.reservations.extend(bytes.to_be_bytes());
        self
    }

    /// The tree.
    pub(super) fn finish(self) -> Vec<u8> {
        let Self {
            structure,
            strings,
            mut reservations,
        } = self.word(9);
        reservations.extend([0; 16]);
        let at = |bytes: usize| u32::try_from(bytes).unwrap();
        let structure_at = 40 + reservations.len();
        let strings_at = structure_at + structure.len();
        let header = [
            0xd00d_feed,
            at(strings_at + strings.len()),
            at(structure_at),
            at(strings_at),
            40,
            17,
            16,
            0,
            at(strings.len()),
            at(structure.len()),
        ];
        let mut bytes = cells(&header);
        bytes.extend(reservations);
        bytes.extend(structure);
        bytes.extend(strings);
        bytes
    }
}

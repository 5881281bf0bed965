//! The flattened device tree, token by token (Devicetree Specification v0.4, chapter 5).
//!
//! The reader trusts nothing: every offset is checked where it is used, so a damaged tree ends the
//! walk with [`Damaged`], and NOP tokens, which QEMU leaves where it removes nodes, are skipped.

use crate::ranges::Range;

const MAGIC: u32 = 0xd00d_feed;
/// The version that has all header fields; every later one so far is compatible with it.
const VERSION: u32 = 17;
const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROPERTY: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// The bytes are not a well-formed device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Damaged;

/// A tree whose header is sound.
#[derive(Clone, Copy, Debug)]
pub struct Tree<'t> {
    structure: &'t [u8],
    strings: &'t [u8],
    reservations: &'t [u8],
}

/// A piece of the structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token<'t> {
    /// A node begins; its name with the unit address. The root's is empty.
    Begin(&'t [u8]),
    /// A property of the node that began last and has not ended: the strings from its name on, which a
    /// zero byte ends, and its value.
    Property(&'t [u8], &'t [u8]),
    /// The node ends.
    End,
}

/// The tokens of a tree, in order.
#[derive(Clone, Copy, Debug)]
pub struct Tokens<'t> {
    structure: &'t [u8],
    strings: &'t [u8],
    at: usize,
    depth: usize,
}

/// The big-endian word at a byte offset.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

/// The bytes before the first zero byte.
pub(crate) fn text(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|&byte| byte == 0)?;
    bytes.get(..end)
}

impl<'t> Tree<'t> {
    /// Checks the header.
    ///
    /// # Errors
    /// It is not that of a tree of version 17, or a block lies outside the tree.
    pub fn new(bytes: &'t [u8]) -> Result<Self, Damaged> {
        Self::checked(bytes).ok_or(Damaged)
    }

    fn checked(bytes: &'t [u8]) -> Option<Self> {
        let field = |index: usize| word(bytes, 4 * index);
        let offset = |index| usize::try_from(field(index)?).ok();
        if field(0)? != MAGIC || field(5)? < VERSION || field(6)? > VERSION {
            return None;
        }
        let bytes = bytes.get(..offset(1)?)?;
        let block = |start: usize, size: usize| bytes.get(start..start.checked_add(size)?);
        Some(Self {
            structure: block(offset(2)?, offset(9)?)?,
            strings: block(offset(3)?, offset(8)?)?,
            reservations: bytes.get(offset(4)?..)?,
        })
    }

    /// Its tokens.
    #[must_use]
    pub fn tokens(&self) -> Tokens<'t> {
        Tokens {
            structure: self.structure,
            strings: self.strings,
            at: 0,
            depth: 0,
        }
    }

    /// The memory reservation block, up to its end or the first entry that is no range.
    pub fn reservations(&self) -> impl Iterator<Item = Range> + use<'t> {
        let block = self.reservations;
        (0..block.len()).map_while(move |n| {
            let cell = |cell: usize| word(block, n.checked_mul(16)?.checked_add(4 * cell)?);
            let number = |first| Some(u64::from(cell(first)?) << 32 | u64::from(cell(first + 1)?));
            Range::new(number(0)?, number(2)?)
        })
    }
}

impl<'t> Tokens<'t> {
    /// The next token; `None` at the end of the tree.
    ///
    /// # Errors
    /// There is none, and this is not the end.
    pub fn step(&mut self) -> Result<Option<Token<'t>>, Damaged> {
        loop {
            let kind = word(self.structure, self.at).ok_or(Damaged)?;
            self.at = self.at.wrapping_add(4);
            let token = match kind {
                NOP => continue,
                BEGIN_NODE => self.begin(),
                PROPERTY => self.property(),
                END_NODE => self.end(),
                END if self.depth == 0 => return Ok(None),
                _ => None,
            };
            return token.map(Some).ok_or(Damaged);
        }
    }

    fn begin(&mut self) -> Option<Token<'t>> {
        let name = text(self.structure.get(self.at..)?)?;
        self.pass(name.len().wrapping_add(1));
        self.depth = self.depth.wrapping_add(1);
        Some(Token::Begin(name))
    }

    fn property(&mut self) -> Option<Token<'t>> {
        let bytes = usize::try_from(word(self.structure, self.at)?).ok()?;
        let name = usize::try_from(word(self.structure, self.at.wrapping_add(4))?).ok()?;
        let start = self.at.wrapping_add(8);
        let value = self.structure.get(start..start.checked_add(bytes)?)?;
        let name = self.strings.get(name..)?;
        self.at = start;
        self.pass(bytes);
        (self.depth != 0).then_some(Token::Property(name, value))
    }

    fn end(&mut self) -> Option<Token<'t>> {
        self.depth = self.depth.checked_sub(1)?;
        Some(Token::End)
    }

    /// Passes `bytes` that lie in the structure, and what fills up the last word.
    fn pass(&mut self, bytes: usize) {
        self.at = self.at.wrapping_add(bytes).wrapping_add(3) & !3;
    }
}

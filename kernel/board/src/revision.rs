//! Revision codes of Raspberry Pi boards (Raspberry Pi documentation, "Raspberry Pi revision codes").

/// Bit that says that the code is of the new style, which has fields.
const NEW_STYLE: u32 = 1 << 23;

/// The RAM that a board of this revision has, in MiB; `None` if the code does not say.
#[must_use]
pub fn mebibytes(code: u32) -> Option<u32> {
    let memory = code >> 20 & 7;
    (code & NEW_STYLE != 0 && memory <= 5).then_some(256 << memory)
}

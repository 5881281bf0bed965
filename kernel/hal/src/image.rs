//! Where the image lies: addresses of the linker script's symbols.

/// Bytes between two cores' stacks: a guard page and the stack.
pub(crate) const STACK_STRIDE: usize = 0x5000;
/// Bytes of the guard page below a stack.
pub(crate) const STACK_GUARD: usize = 0x1000;

macro_rules! symbols {
    ($($(#[$doc:meta])* $function:ident = $symbol:ident;)*) => {
        unsafe extern "C" {
            $(static $symbol: u8;)*
        }
        $(
            $(#[$doc])*
            #[must_use]
            pub fn $function() -> usize {
                (&raw const $symbol).addr()
            }
        )*
    };
}

symbols! {
    /// First byte of the image, its Image header; read-only and executable up to [`text_end`].
    start = penumbra_image_start;
    /// End of the code; read-only data up to [`rodata_end`].
    text_end = penumbra_text_end;
    /// End of read-only data; writable data up to [`bss_end`].
    rodata_end = penumbra_rodata_end;
    /// End of zeroed data.
    bss_end = penumbra_bss_end;
    /// First byte of the stacks.
    stacks_start = penumbra_stacks_start;
    /// End of the image in memory.
    end = penumbra_image_end;
}

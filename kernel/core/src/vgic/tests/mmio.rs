//! Registers: values, sizes, what reads zero; and that nothing a guest does panics.

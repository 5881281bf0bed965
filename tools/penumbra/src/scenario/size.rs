//! Sizes of memory as people write them: a whole number and a binary unit.

/// Reads `"512 MiB"`, `"1GiB"`, `"64 KiB"`.
///
/// # Errors
/// A sentence that says what to write instead.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '_')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.replace('_', "").parse().map_err(|_| {
        format!("\"{text}\" is not a size; write a whole number and a unit, like \"512 MiB\"")
    })?;
    let shift = match unit.trim() {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        "" => {
            return Err(format!(
                "\"{text}\" has no unit; write KiB, MiB or GiB, like \"{number} MiB\""
            ));
        }
        other => {
            return Err(format!(
                "\"{text}\": unknown unit \"{other}\"; write KiB, MiB or GiB"
            ));
        }
    };
    number
        .checked_mul(1_u64 << shift)
        .ok_or_else(|| format!("\"{text}\" is more memory than 64 bits can count"))
}

/// Writes a size with the largest unit that divides it.
#[must_use]
pub fn show(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.is_multiple_of(1_u64 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_survive_both_ways() {
        for (text, bytes) in [
            ("64 KiB", 64 << 10),
            ("512 MiB", 512 << 20),
            ("2 GiB", 2 << 30),
        ] {
            assert_eq!(parse(text), Ok(bytes));
            assert_eq!(show(bytes), text);
        }
        assert_eq!(parse("1GiB"), Ok(1 << 30));
        assert_eq!(parse(" 1_024  KiB "), Ok(1 << 20));
        assert_eq!(show(1), "1 bytes");
        assert_eq!(show(0), "0 bytes");
    }

    #[test]
    fn bad_sizes_say_why() {
        for (text, part) in [
            ("512", "has no unit"),
            ("512 MB", "unknown unit \"MB\""),
            ("MiB", "is not a size"),
            ("-1 MiB", "is not a size"),
            ("1.5 GiB", "unknown unit"),
            ("", "is not a size"),
            ("99999999999 TiB", "more memory than"),
            ("99999999999999999999999 KiB", "is not a size"),
        ] {
            let sentence = parse(text).unwrap_err();
            assert!(sentence.contains(part), "{sentence}");
        }
    }
}

//! The keys of a guest's paging: mode, limits, and whether anything may change while it runs.

use penumbra_bundle::{
    MAX_PAGING_COPY_BYTES, MAX_PAGING_POOL_BYTES, PAGING_POOL_UNIT_BYTES, Paging, PagingChanges,
    PagingMode,
};
use toml::de::DeTable;

use super::read::{Reader, Value};
use super::size;

const PAGE_BYTES: u64 = 4096;

impl Reader<'_> {
    pub(super) fn paging(&mut self, table: &DeTable<'_>) -> Paging {
        let mode = table.get("paging").and_then(|value| {
            let choices = [
                ("nested", PagingMode::Nested),
                ("shadow", PagingMode::Shadow),
                ("compound", PagingMode::Compound),
            ];
            self.choice("paging", value, &choices)
        });
        let changes = table.get("paging_changes").and_then(|value| {
            let choices = [
                ("free", PagingChanges::Free),
                ("lock", PagingChanges::Lock),
                ("never", PagingChanges::Never),
            ];
            self.choice("paging_changes", value, &choices)
        });
        let pool = table.get("paging_pool").and_then(|value| self.pool(value));
        let copy = table.get("paging_copy").and_then(|value| self.copy(value));
        let other = Paging::default();
        let paging = Paging {
            mode: mode.unwrap_or_default(),
            changes: changes.unwrap_or_default(),
            pool_bytes: pool.unwrap_or(other.pool_bytes),
            copy_bytes: copy.unwrap_or(other.copy_bytes),
        };
        if paging.changes == PagingChanges::Never {
            self.useless_if_never(table, paging.mode);
        }
        paging
    }

    /// A guest whose tables never change is nested, and needs no limits.
    fn useless_if_never(&mut self, table: &DeTable<'_>, mode: PagingMode) {
        const HELP: &str = "leave it out, or write `paging_changes = \"free\"` or \"lock\"";
        if let Some(value) = table.get("paging")
            && mode != PagingMode::Nested
        {
            let message = "with `paging_changes = \"never\"` a guest stays nested";
            self.complain(value.span(), message, HELP);
        }
        for key in ["paging_pool", "paging_copy"] {
            if let Some(value) = table.get(key) {
                let message = format!(
                    "`{key}` has no effect: with `paging_changes = \"never\"` a guest stays nested"
                );
                self.complain(value.span(), message, HELP);
            }
        }
    }

    fn pool(&mut self, value: &Value<'_>) -> Option<u64> {
        let bytes = self.paging_size("paging_pool", value)?;
        let whole = bytes != 0 && bytes.is_multiple_of(PAGING_POOL_UNIT_BYTES);
        if whole && bytes <= MAX_PAGING_POOL_BYTES {
            return Some(bytes);
        }
        let most = size::show(MAX_PAGING_POOL_BYTES);
        let message = format!("`paging_pool` is 2 MiB to {most} in steps of 2 MiB");
        self.complain(value.span(), message, "like `paging_pool = \"2 MiB\"`");
        None
    }

    fn copy(&mut self, value: &Value<'_>) -> Option<u64> {
        let bytes = self.paging_size("paging_copy", value)?;
        if bytes.is_multiple_of(PAGE_BYTES) && bytes <= MAX_PAGING_COPY_BYTES {
            return Some(bytes);
        }
        let most = size::show(MAX_PAGING_COPY_BYTES);
        let message = format!(
            "`paging_copy` is what may be moved each second, 0 KiB to {most} in steps of 4 KiB"
        );
        self.complain(value.span(), message, "like `paging_copy = \"4 MiB\"`");
        None
    }

    fn paging_size(&mut self, key: &str, value: &Value<'_>) -> Option<u64> {
        let message = match value.get_ref().as_str().map(size::parse) {
            Some(Ok(bytes)) => return Some(bytes),
            Some(Err(sentence)) => sentence,
            None => {
                let kind = value.get_ref().type_str();
                format!("`{key}` is a size in quotes, not {kind}")
            }
        };
        self.complain(value.span(), message, &format!("like `{key} = \"2 MiB\"`"));
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::tests::{GOOD, extra, read};

    #[test]
    fn a_paging_mode_that_does_not_exist() {
        extra(
            "paging = \"compund\"",
            &["`paging` cannot be", "did you mean \"compound\""],
        );
        extra(
            "paging_changes = \"locked\"",
            &["`paging_changes` cannot be", "did you mean \"lock\""],
        );
        extra("paging = true", &["text in quotes"]);
    }

    #[test]
    fn paging_limits_out_of_range() {
        for value in ["\"0 MiB\"", "\"1 MiB\"", "\"3 MiB\"", "\"10 MiB\""] {
            let line = format!("paging_pool = {value}");
            extra(&line, &["2 MiB to 8 MiB", "like `paging_pool"]);
        }
        extra("paging_pool = 2", &["is a size in quotes"]);
        extra("paging_copy = \"2 GiB\"", &["0 KiB to 1 GiB"]);
        extra("paging_copy = \"1\"", &["has no unit"]);
    }

    #[test]
    fn paging_that_never_changes_is_nested() {
        extra(
            "paging = \"compound\"\npaging_changes = \"never\"",
            &["stays nested", "leave it out"],
        );
        extra(
            "paging_pool = \"2 MiB\"\npaging_changes = \"never\"",
            &["`paging_pool` has no effect"],
        );
        let nested = format!("{GOOD}paging = \"nested\"\npaging_changes = \"never\"\n");
        assert!(read(&nested).is_ok());
    }

    #[test]
    fn paging_is_nested_unless_the_scenario_says_so() {
        let default = read(GOOD).unwrap().guests[0].paging;
        assert_eq!(default, Paging::default());
        assert_eq!(default.mode, PagingMode::Nested);
        let text = format!(
            "{GOOD}paging = \"compound\"\npaging_changes = \"lock\"\npaging_pool = \"4 MiB\"\n\
             paging_copy = \"0 KiB\"\n"
        );
        let paging = read(&text).unwrap().guests[0].paging;
        assert_eq!(paging.mode, PagingMode::Compound);
        assert_eq!(paging.changes, PagingChanges::Lock);
        assert_eq!((paging.pool_bytes, paging.copy_bytes), (4 << 20, 0));
    }
}

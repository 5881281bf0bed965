//! Cores: the structures of their MMUs as parameters, each with its source.

/// Which table pointers of stage 1 the walk cache holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkCacheHolds {
    /// Pointers to level-3 tables only; nothing for walks that end in a block.
    LastTable,
    /// Pointers to tables of every level.
    AllTables,
}

/// The MMU of a core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// Name, like `cortex-a72`; after an `@` what was changed.
    pub name: String,
    /// Entries of the micro-TLB for fetches, fully associative.
    pub micro_fetch: usize,
    /// Entries of the micro-TLB for data, fully associative.
    pub micro_data: usize,
    /// log2 of the largest range that a micro-TLB entry covers.
    pub micro_max_log2: u8,
    /// Entries of the main TLB.
    pub main_entries: usize,
    /// Its ways.
    pub main_ways: usize,
    /// log2 of the ranges that its entries can cover, ascending. Others are cut down.
    pub main_sizes: Vec<u8>,
    /// The Contiguous bit makes 16 times larger entries.
    pub contiguous: bool,
    /// Four neighbouring pages are merged into one entry.
    pub merge: bool,
    /// Entries of the walk cache.
    pub walk_entries: usize,
    /// Its ways.
    pub walk_ways: usize,
    /// What it holds.
    pub walk_holds: WalkCacheHolds,
    /// Entries of the IPA cache (results of stage 2).
    pub ipa_entries: usize,
    /// Its ways.
    pub ipa_ways: usize,
    /// log2 of the smallest stage-2 mapping that it holds.
    pub ipa_min_log2: u8,
    /// Entries of a cache of pointers to stage-2 level-3 tables; 0: there is none.
    pub stage2_table_entries: usize,
}

/// A parameter, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    /// Name, as [`Core::set`] takes it.
    pub name: &'static str,
    /// Value.
    pub value: String,
    /// Where it comes from; `assumed: ...` where no public source says.
    pub source: &'static str,
}

const A53_TRM: &str = "Arm DDI 0500 J, 5.2 \"TLB organization\"";
const A72_TRM: &str = "Arm 100095 0003_06, 5.2 \"TLB organization\"";
const A76_TRM: &str = "Arm 100798 0301_00, A5.2 \"TLB organization\"";
const LIKE_A53: &str = "assumed: as Cortex-A53";
const LIKE_A57: &str = "assumed: as Cortex-A57, which the core descends from";
const LIKE_A76: &str = "assumed: as Cortex-A76, whose MMU the core shares";
const UNKNOWN: &str = "assumed: no public description";

impl Core {
    /// Names of the presets.
    pub const PRESETS: [&'static str; 4] =
        ["cortex-a53", "cortex-a72", "cortex-a76", "neoverse-n1"];

    /// A preset by name; `a72` stands for `cortex-a72` and so on.
    #[must_use]
    pub fn preset(name: &str) -> Option<Self> {
        let name = Self::PRESETS
            .into_iter()
            .find(|full| *full == name || full.split('-').nth(1) == Some(name))?;
        let a53 = Self {
            name: name.to_owned(),
            micro_fetch: 10,
            micro_data: 10,
            micro_max_log2: 20,
            main_entries: 512,
            main_ways: 4,
            main_sizes: vec![12, 16, 21, 29],
            contiguous: true,
            merge: false,
            walk_entries: 64,
            walk_ways: 4,
            walk_holds: WalkCacheHolds::LastTable,
            ipa_entries: 64,
            ipa_ways: 4,
            ipa_min_log2: 12,
            stage2_table_entries: 0,
        };
        Some(match name {
            "cortex-a53" => a53,
            "cortex-a72" => Self {
                micro_fetch: 48,
                micro_data: 32,
                main_entries: 1024,
                main_sizes: vec![12, 16, 21, 30],
                ..a53
            },
            _ => Self {
                micro_fetch: 48,
                micro_data: 48,
                micro_max_log2: 21,
                main_entries: 1280,
                main_ways: 5,
                main_sizes: vec![12, 14, 16, 21, 25, 29, 30],
                merge: true,
                walk_holds: WalkCacheHolds::AllTables,
                ipa_min_log2: 21,
                ..a53
            },
        })
    }

    /// The parameters with their sources.
    #[must_use]
    pub fn parameters(&self) -> Vec<Parameter> {
        let by = |a53, a72, a76, n1| match self.base_name() {
            "cortex-a53" => a53,
            "cortex-a72" => a72,
            "cortex-a76" => a76,
            _ => n1,
        };
        let main = by(A53_TRM, A72_TRM, A76_TRM, LIKE_A76);
        let micro = by(A53_TRM, LIKE_A57, A76_TRM, LIKE_A76);
        let walk = by(A53_TRM, LIKE_A53, UNKNOWN, LIKE_A76);
        let ipa_min = by(A53_TRM, LIKE_A53, A76_TRM, LIKE_A76);
        let merge = by(UNKNOWN, UNKNOWN, A76_TRM, LIKE_A76);
        let sizes: Vec<String> = self.main_sizes.iter().map(u8::to_string).collect();
        let holds = match self.walk_holds {
            WalkCacheHolds::LastTable => "last",
            WalkCacheHolds::AllTables => "all",
        };
        let number = |value: usize| value.to_string();
        let rows = [
            ("micro_fetch", number(self.micro_fetch), micro),
            ("micro_data", number(self.micro_data), micro),
            (
                "micro_max_log2",
                self.micro_max_log2.to_string(),
                by(UNKNOWN, LIKE_A57, A76_TRM, LIKE_A76),
            ),
            ("main_entries", number(self.main_entries), main),
            ("main_ways", number(self.main_ways), main),
            ("main_sizes", sizes.join(" "), main),
            ("contiguous", self.contiguous.to_string(), UNKNOWN),
            ("merge", self.merge.to_string(), merge),
            ("walk_entries", number(self.walk_entries), walk),
            ("walk_ways", number(self.walk_ways), walk),
            ("walk_holds", holds.to_owned(), walk),
            ("ipa_entries", number(self.ipa_entries), walk),
            ("ipa_ways", number(self.ipa_ways), walk),
            ("ipa_min_log2", self.ipa_min_log2.to_string(), ipa_min),
            (
                "stage2_table_entries",
                number(self.stage2_table_entries),
                UNKNOWN,
            ),
        ];
        rows.into_iter()
            .map(|(name, value, source)| Parameter {
                name,
                value,
                source,
            })
            .collect()
    }

    /// Overrides a parameter.
    ///
    /// # Errors
    /// A sentence, where the name or the value is not known.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let bad = || format!("\"{value}\" is no value for {name}");
        let count = || value.parse::<usize>().map_err(|_| bad());
        let log2 = |text: &str| {
            text.parse::<u8>()
                .ok()
                .filter(|log2| (12..=39).contains(log2))
                .ok_or_else(bad)
        };
        let flag = || value.parse::<bool>().map_err(|_| bad());
        match name {
            "micro_fetch" => self.micro_fetch = count()?,
            "micro_data" => self.micro_data = count()?,
            "micro_max_log2" => self.micro_max_log2 = log2(value)?,
            "main_entries" => self.main_entries = count()?,
            "main_ways" => self.main_ways = count()?,
            "main_sizes" => {
                let sizes: Result<Vec<u8>, String> = value.split_whitespace().map(log2).collect();
                self.main_sizes = sizes.and_then(|mut sizes| {
                    sizes.sort_unstable();
                    if sizes.first() == Some(&12) {
                        Ok(sizes)
                    } else {
                        Err("main_sizes must hold 12 (4 KiB)".into())
                    }
                })?;
            }
            "contiguous" => self.contiguous = flag()?,
            "merge" => self.merge = flag()?,
            "walk_entries" => self.walk_entries = count()?,
            "walk_ways" => self.walk_ways = count()?,
            "walk_holds" => {
                self.walk_holds = match value {
                    "last" => WalkCacheHolds::LastTable,
                    "all" => WalkCacheHolds::AllTables,
                    _ => return Err(bad()),
                }
            }
            "ipa_entries" => self.ipa_entries = count()?,
            "ipa_ways" => self.ipa_ways = count()?,
            "ipa_min_log2" => self.ipa_min_log2 = log2(value)?,
            "stage2_table_entries" => self.stage2_table_entries = count()?,
            _ => return Err(format!("there is no parameter \"{name}\"")),
        }
        Ok(())
    }
}

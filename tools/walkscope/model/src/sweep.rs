//! Cores by specification: a preset, a preset with a change, or a preset with everything that a sweep changes.

use crate::core::{Core, WalkCacheHolds};

/// A parameter and its value, as [`Core::set`] takes them.
pub type Change = (&'static str, String);

impl Core {
    /// The cores that a word stands for: `a72`; `a72@walk_holds:all`; `a72@sweep`, which is `a72` and one
    /// core for each of its [variations](Core::variations). A changed core has the change in its name.
    ///
    /// # Errors
    /// A sentence, where the core, the parameter or the value is not known.
    pub fn specified(word: &str) -> Result<Vec<Self>, String> {
        let (name, change) = match word.split_once('@') {
            Some((name, change)) => (name, Some(change)),
            None => (word, None),
        };
        let core = Self::preset(name).ok_or_else(|| {
            let known = Self::PRESETS.join(", ");
            format!("there is no core \"{name}\"; there are {known}")
        })?;
        match change {
            None => Ok(vec![core]),
            Some("sweep") => {
                let mut cores = vec![core.clone()];
                for (parameter, value) in core.variations() {
                    cores.push(core.changed(parameter, &value)?);
                }
                Ok(cores)
            }
            Some(change) => {
                let (parameter, value) = change
                    .split_once(':')
                    .ok_or_else(|| format!("\"{change}\" is neither sweep nor PARAMETER:VALUE"))?;
                Ok(vec![core.changed(parameter, value)?])
            }
        }
    }

    /// The core with one parameter changed, and with that in its name.
    fn changed(&self, parameter: &str, value: &str) -> Result<Self, String> {
        let mut core = self.clone();
        core.set(parameter, value)?;
        core.name = format!("{}@{parameter}:{value}", self.name);
        Ok(core)
    }

    /// The preset that the core was made of.
    #[must_use]
    pub fn base_name(&self) -> &str {
        self.name.split('@').next().unwrap_or_default()
    }

    /// What a sweep tries, one at a time: sizes halved and doubled, choices the other way.
    #[must_use]
    pub fn variations(&self) -> Vec<Change> {
        let mut all: Vec<Change> = Vec::new();
        let sizes = [
            ("micro_fetch", self.micro_fetch),
            ("micro_data", self.micro_data),
            ("main_entries", self.main_entries),
            ("main_ways", self.main_ways),
            ("walk_entries", self.walk_entries),
            ("walk_ways", self.walk_ways),
            ("ipa_entries", self.ipa_entries),
            ("ipa_ways", self.ipa_ways),
            ("stage2_table_entries", self.stage2_table_entries),
        ];
        for (name, size) in sizes {
            // What a core lacks is tried with sizes that others have.
            let tried = if size == 0 {
                [16, 64]
            } else {
                [size / 2, 2 * size]
            };
            all.extend(tried.map(|value| (name, value.to_string())));
        }
        let other = |log2: u8, choices: [u8; 2]| choices.into_iter().filter(move |&c| c != log2);
        let log2s = other(self.micro_max_log2, [12, 21]);
        all.extend(log2s.map(|log2| ("micro_max_log2", log2.to_string())));
        let log2s = other(self.ipa_min_log2, [12, 21]);
        all.extend(log2s.map(|log2| ("ipa_min_log2", log2.to_string())));
        let words: Vec<String> = self.main_sizes.iter().map(u8::to_string).collect();
        // Pages only; pages and 2 MiB; every size that any of the cores has.
        let sizes = ["12", "12 21", "12 14 16 21 25 29 30"].into_iter();
        let sizes = sizes.filter(|&sizes| sizes != words.join(" "));
        all.extend(sizes.map(|sizes| ("main_sizes", sizes.to_owned())));
        all.push(("contiguous", (!self.contiguous).to_string()));
        all.push(("merge", (!self.merge).to_string()));
        let holds = match self.walk_holds {
            WalkCacheHolds::LastTable => "all",
            WalkCacheHolds::AllTables => "last",
        };
        all.push(("walk_holds", holds.to_owned()));
        all
    }
}

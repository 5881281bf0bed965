//! The plugin's options.

use penumbra_walkscope_model::{Column, Core, Mode};

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) out: String,
    pub(crate) ram: String,
    pub(crate) base: u64,
    pub(crate) smp: usize,
    pub(crate) columns: Vec<Column>,
    pub(crate) verify: bool,
    pub(crate) progress: bool,
}

fn mode(name: &str) -> Result<Mode, String> {
    Ok(match name {
        "as-is" => Mode::AsIs,
        "native" => Mode::Native,
        "4k" => Mode::Synthetic(12),
        "2m" => Mode::Synthetic(21),
        "1g" => Mode::Synthetic(30),
        _ => return Err(format!("walkscope: unknown mode '{name}'")),
    })
}

/// Reads `key=value` words.
pub(crate) fn parse(words: &[String]) -> Result<Options, String> {
    let mut options = Options {
        out: "walkscope.json".into(),
        ram: String::new(),
        base: 0x4000_0000,
        smp: 1,
        columns: Vec::new(),
        verify: false,
        progress: false,
    };
    let on = |value| matches!(value, "on" | "true" | "yes");
    let (mut cores, mut modes) = ("a53+a72".to_owned(), "as-is+native+4k+2m+1g".to_owned());
    for word in words {
        let (key, value) = word.split_once('=').unwrap_or((word, ""));
        match key {
            "out" => options.out = value.into(),
            "ram" => {
                let (file, base) = value.rsplit_once(':').ok_or("walkscope: ram=FILE:BASE")?;
                options.ram = file.into();
                options.base = u64::from_str_radix(base.trim_start_matches("0x"), 16)
                    .map_err(|_| format!("walkscope: '{base}' is no address"))?;
            }
            "smp" => options.smp = value.parse().map_err(|_| "walkscope: smp=N".to_owned())?,
            "cores" => cores = value.into(),
            "modes" => modes = value.into(),
            "verify" => options.verify = on(value),
            "progress" => options.progress = on(value),
            _ => return Err(format!("walkscope: unknown option '{key}'")),
        }
    }
    if options.ram.is_empty() {
        return Err("walkscope: say where the guest's RAM is: ram=FILE:BASE".into());
    }
    for word in cores.split('+') {
        let found = Core::specified(word).map_err(|why| format!("walkscope: {why}"))?;
        for core in found {
            for name in modes.split('+') {
                options.columns.push(Column {
                    core: core.clone(),
                    mode: mode(name)?,
                });
            }
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Options, String> {
        parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn columns_are_cores_times_modes_with_changes() {
        let options =
            read("ram=/f:0x40000000,cores=a72@walk_entries:128+a53,modes=native+4k").unwrap();
        assert_eq!(options.columns.len(), 4);
        assert_eq!(options.columns[0].core.walk_entries, 128);
        assert_eq!(options.columns[3].core.walk_entries, 64);
        assert_eq!(options.columns[3].mode, Mode::Synthetic(12));
        assert_eq!((options.base, options.ram.as_str()), (0x4000_0000, "/f"));
    }

    #[test]
    fn a_sweep_is_a_column_for_each_change() {
        let options = read("ram=/f:0x40000000,cores=a72@sweep,modes=as-is").unwrap();
        let changes = Core::preset("a72").unwrap().variations().len();
        assert_eq!(options.columns.len(), 1 + changes);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "cores=a72",
            "ram=/f",
            "ram=/f:0x40000000,cores=z80",
            "ram=/f:0,modes=3k",
            "ram=/f:0,cores=a72@sweep:1",
            "x=1",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}

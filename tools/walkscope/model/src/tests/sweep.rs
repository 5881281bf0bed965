//! A sweep: what it changes, and that its columns are what each would be alone.

use super::space::Machine;
use crate::{Access, Column, Core, Mode, Scope};

const BASE: u64 = 0x1000_0000_0000;

/// Misses and reads of each core over the same stream: pages in a fixed, scattered order.
fn run(cores: &[Core]) -> Vec<(u64, u64)> {
    let mut machine = Machine::new(Some(21));
    let pages = 700;
    for page in 0..pages {
        machine.map(BASE + page * 0x1000, 0x1_0000_0000 + page * 0x2000, 12, 0);
    }
    let columns = cores.iter().map(|core| Column {
        core: core.clone(),
        mode: Mode::AsIs,
    });
    let mut scope = Scope::new(columns.collect(), 1);
    scope.set_regime(0, machine.regime);
    let mut random = 88_172_645_463_325_252_u64;
    for _ in 0..20_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let va = BASE + (random % pages) * 0x1000;
        scope.access(0, va, Access::Data, &machine.ram);
    }
    let (_, counts) = &scope.partitions()[0];
    let totals = counts.iter().map(|counts| counts.total());
    totals.map(|t| (t.misses, t.reads())).collect()
}

#[test]
fn a_sweep_changes_every_parameter_of_every_core() {
    for name in Core::PRESETS {
        let cores = Core::specified(&format!("{name}@sweep")).unwrap();
        let base = &cores[0];
        assert_eq!(base, &Core::preset(name).unwrap());
        for parameter in base.parameters() {
            let changed = cores.iter().filter(|core| {
                let now = core.parameters();
                let now = now.iter().find(|p| p.name == parameter.name).unwrap();
                now.value != parameter.value
            });
            assert!(changed.count() > 0, "{name} {}", parameter.name);
        }
        for core in &cores[1..] {
            let differs = base
                .parameters()
                .iter()
                .zip(&core.parameters())
                .filter(|(a, b)| {
                    // Where a parameter's value comes from does not depend on the change.
                    assert_eq!(a.source, b.source);
                    a.value != b.value
                })
                .count();
            assert_eq!((differs, core.base_name()), (1, name), "{}", core.name);
        }
    }
}

#[test]
fn columns_of_a_sweep_are_what_each_is_alone_and_twice_the_same() {
    let cores = Core::specified("a53@sweep").unwrap();
    let together = run(&cores);
    assert_eq!(together, run(&cores));
    for (core, figures) in cores.iter().zip(&together) {
        assert_eq!(run(std::slice::from_ref(core)), [*figures], "{}", core.name);
    }
    // 700 pages do not fit 512 entries, but 1024: there no page misses twice.
    let of = |name: &str| {
        let place = cores.iter().position(|core| core.name == name).unwrap();
        together[place].0
    };
    assert!(of("cortex-a53") > 2000);
    assert!(of("cortex-a53@main_entries:1024") <= 700);
    assert!(of("cortex-a53@main_entries:256") > of("cortex-a53"));
}

#[test]
fn a_word_is_a_core_with_or_without_a_change() {
    let names = |word: &str| -> Vec<String> {
        let cores = Core::specified(word).unwrap();
        cores.into_iter().map(|core| core.name).collect()
    };
    assert_eq!(names("n1"), ["neoverse-n1"]);
    assert_eq!(names("a72@walk_holds:all"), ["cortex-a72@walk_holds:all"]);
    for word in ["z80", "a72@x:1", "a72@walk_entries:x", "a72@walk_entries"] {
        assert!(Core::specified(word).is_err(), "{word}");
    }
}

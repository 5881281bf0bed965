//! The file of results.

use std::cmp::Reverse;

use penumbra_walkscope_model::{
    AddressSpace, BlockTally, Counts, REGIONS, Scope, Shape, Tally, Use,
};
use serde_json::{Map, Value, json};

use crate::state::{FileMaps, INTERRUPT, Space, Totals, Window};

/// One document: the columns with their parameters, the windows in the order in which they closed, and the run.
pub(crate) fn json(scope: &Scope, windows: &[Window], run: &Totals, file_maps: FileMaps) -> String {
    let columns: Vec<Value> = scope
        .columns()
        .iter()
        .map(|column| {
            let parameters: Map<String, Value> = column
                .core
                .parameters()
                .into_iter()
                .map(|p| {
                    (
                        p.name.to_owned(),
                        json!({"value": p.value, "source": p.source}),
                    )
                })
                .collect();
            json!({"core": column.core.name, "mode": column.mode.name(), "parameters": parameters})
        })
        .collect();
    let windows: Vec<Value> = windows
        .iter()
        .map(|window| {
            let mut value = totals(&window.totals, Some(window.core));
            put(&mut value, "test", json!(window.test));
            put(&mut value, "core", json!(window.core));
            put(&mut value, "vmid", json!(window.vmid));
            let reach =
                |of: fn(&Use) -> u64| json!(window.reach.iter().map(of).collect::<Vec<_>>());
            put(&mut value, "reach_bytes", reach(|found| found.reach_bytes));
            put(&mut value, "reach_entries", reach(|found| found.entries));
            put(&mut value, "blocks", json!(blocks(window)));
            value
        })
        .collect();
    let document = json!({
        "columns": columns,
        "windows": windows,
        "run": totals(run, None),
        "faults": scope.faults,
        "events": scope.events,
        "file_maps": {"made": file_maps.made, "told": file_maps.told},
        "verified": scope.verify,
    });
    format!("{document:#}\n")
}

/// Totals; EL2 and exits of one core, or of all.
fn totals(totals: &Totals, core: Option<usize>) -> Value {
    let chosen = |index: usize| core.is_none_or(|core| core == index);
    let el2: u64 = totals
        .el2
        .iter()
        .enumerate()
        .filter(|(i, _)| chosen(*i))
        .map(|(_, n)| n)
        .sum();
    let all: u64 = totals.el2.iter().sum();
    let mut exits = Map::new();
    for (_, row) in totals
        .exits
        .iter()
        .enumerate()
        .filter(|(index, _)| chosen(*index))
    {
        for (reason, count) in row.iter().enumerate().filter(|(_, count)| **count > 0) {
            let name = match reason {
                INTERRUPT => "interrupt".to_owned(),
                reason if reason > INTERRUPT => "other".to_owned(),
                class => format!("ec_{class:#04x}"),
            };
            let sum = exits.get(&name).and_then(Value::as_u64).unwrap_or(0) + count;
            exits.insert(name, json!(sum));
        }
    }
    let [ttbr0, ttbr1, context, control] = totals.writes;
    let guests: Map<String, Value> = totals
        .guests
        .iter()
        .map(|(vmid, n)| {
            let columns = totals
                .columns
                .get(vmid)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let columns: Vec<Value> = columns.iter().map(counts).collect();
            (
                vmid.to_string(),
                json!({"el0": n.el0, "el1": n.el1, "columns": columns}),
            )
        })
        .collect();
    json!({
        "el2": el2,
        "el2_elsewhere": all - el2,
        "exits": exits,
        "writes": {"ttbr0": ttbr0, "ttbr1": ttbr1, "contextidr": context, "sctlr_tcr": control},
        "tlbi": totals.tlbi,
        "guests": guests,
        "spaces": spaces(totals),
    })
}

/// The address spaces that missed, those with the most misses first.
fn spaces(totals: &Totals) -> Vec<Value> {
    let mut found: Vec<(&AddressSpace, &Space)> = totals
        .spaces
        .iter()
        .filter(|(_, space)| space.misses() > 0)
        .collect();
    found.sort_by_key(|(key, space)| (Reverse(space.misses()), **key));
    found
        .into_iter()
        .map(|(key, space)| {
            json!({
                "vmid": key.vmid,
                "root": format!("{:#x}", key.root),
                "asid": key.asid,
                "instructions": space.instructions,
                "columns": space.columns.iter().map(tally).collect::<Vec<_>>(),
            })
        })
        .collect()
}

/// 2 MiB of IPA that misses took through stage 2, and what maps them.
fn blocks(window: &Window) -> Vec<Value> {
    let blocks = window.totals.blocks.iter().zip(&window.shapes);
    blocks
        .map(|((key, tallies), shape)| {
            let each =
                |of: fn(&BlockTally) -> u64| json!(tallies.iter().map(of).collect::<Vec<_>>());
            let mut value = json!({
                "vmid": key.vmid,
                "ipa": format!("{:#x}", key.ipa),
                "tables": key.tables,
                "shape": shape.name(),
                "translations": each(|tally| tally.translations),
                "reads": each(|tally| tally.reads),
            });
            if let Shape::Pages {
                valid, read_only, ..
            } = shape
            {
                put(&mut value, "valid", json!(valid));
                put(&mut value, "read_only", json!(read_only));
            }
            value
        })
        .collect()
}

fn counts(counts: &Counts) -> Value {
    let mut value = tally(&counts.total());
    put(&mut value, "main_hits", json!(counts.main_hits));
    put(&mut value, "stale", json!(counts.stale));
    let regions: Map<String, Value> = REGIONS
        .iter()
        .zip(&counts.regions)
        .filter(|(_, found)| found.misses > 0)
        .map(|(region, found)| (region.name().to_owned(), tally(found)))
        .collect();
    put(&mut value, "regions", Value::Object(regions));
    value
}

fn tally(tally: &Tally) -> Value {
    json!({
        "misses": tally.misses,
        "fetch_misses": tally.fetch_misses,
        "stage1_reads": tally.stage1_reads,
        "stage2_reads": tally.stage2_reads,
    })
}

fn put(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

//! What a scenario wants of a board, checked against the board's device tree.

use std::ops::Range as Span;

use penumbra_bundle::{Backing, Key, MAX_DEVICES, MEMORY_UNIT_BYTES};
use penumbra_devices::{BoardTree, Finding, Problem as Cause, Range, Wishes, check, highest_free};
use penumbra_manager::map::EMULATED;

use crate::problem::{Problem, Problems};
use crate::scenario::{Guest, Scenario, size};

/// Where every guest sees its RAM that does not need the board's addresses.
const GUEST_RAM: u64 = 1 << 30;

/// All addresses.
const ALL: Range = Range {
    base: 0,
    bytes: u64::MAX,
};

/// What a guest gets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hardware {
    /// Where its RAM is, if it is direct; else 0.
    pub address: u64,
    /// Paths of its devices, each with the line that names it.
    pub devices: Vec<(u32, String)>,
}

/// A word of the scenario made out: the paths, and where it stands.
type Named = Vec<(Span<usize>, String)>;

/// Whether the scenario can only be checked with a board's tree.
#[must_use]
pub fn is_wanted(scenario: &Scenario) -> bool {
    let wants = |guest: &Guest| !guest.devices.is_empty() || guest.backing == Backing::Direct;
    scenario.guests.iter().any(wants)
}

/// What each guest gets of the board whose device tree is `blob`.
///
/// # Errors
/// All that cannot be given.
pub fn find(scenario: &Scenario, blob: &[u8]) -> Result<Vec<Hardware>, Problems> {
    let damaged = || Problem::new("the board's device tree cannot be read: it is damaged");
    let tree = BoardTree::parse(blob).ok_or_else(damaged)?;
    if tree.ram().iter().all(|range| range.bytes == 0) {
        let problem =
            Problem::new("the board's device tree names no RAM: its firmware fills that in");
        let help = "take the tree of the running board: /sys/firmware/fdt on its Linux";
        return Err(problem.help(help).into());
    }
    let mut problems = Vec::new();
    let named = expand(scenario, &tree, &mut problems);
    let has = tree.ram().iter().map(|range| range.bytes).sum();
    problems.extend(budget(scenario, has).err());
    if !problems.is_empty() {
        return Err(Problems::of(&scenario.source, problems));
    }
    let ram = addresses(scenario, &tree, &named)?;
    let guests: Vec<_> = scenario.guests.iter().zip(&named).zip(&ram).collect();
    let wishes: Vec<Wishes<'_>> = guests
        .iter()
        .map(|((guest, named), ram)| Wishes {
            guest: &guest.name,
            devices: named.iter().map(|(_, path)| path.as_str()).collect(),
            ram: **ram,
            direct: guest.backing == Backing::Direct,
            trusted: guest.dma_trusted,
            emulated: EMULATED,
        })
        .collect();
    if let Err(findings) = check(&tree, &wishes) {
        let list = told(scenario, &named, findings);
        return Err(Problems::of(&scenario.source, list));
    }
    let hardware = guests.iter().map(|((guest, named), ram)| Hardware {
        address: if guest.backing == Backing::Direct {
            ram.base
        } else {
            0
        },
        devices: named
            .iter()
            .map(|(span, path)| (scenario.source.line(span.start), path.clone()))
            .collect(),
    });
    Ok(hardware.collect())
}

/// The paths that the words stand for.
fn expand(scenario: &Scenario, tree: &BoardTree<'_>, problems: &mut Vec<Problem>) -> Vec<Named> {
    let mut all = Vec::new();
    for guest in &scenario.guests {
        let mut named = Named::new();
        for device in &guest.devices {
            match tree.expand(&device.word) {
                Ok(paths) => {
                    named.extend(paths.into_iter().map(|path| (device.span.clone(), path)));
                }
                Err(cause) => problems.push(problem(&device.span, &device.word, &cause)),
            }
        }
        if let (true, Some((span, _))) = (named.len() > MAX_DEVICES, named.last()) {
            let message = format!(
                "guest \"{}\" would have {} devices, it can have {MAX_DEVICES}",
                guest.name,
                named.len()
            );
            problems.push(Problem::at(span.clone(), message));
        }
        all.push(named);
    }
    all
}

fn problem(span: &Span<usize>, word: &str, cause: &Cause) -> Problem {
    let problem = Problem::at(span.clone(), format!("device \"{word}\": {cause}"));
    match cause.help() {
        help if help.is_empty() => problem,
        help => problem.help(help),
    }
}

/// Compares the memory that the guests need at once with the RAM of the board. As on the board all of it must be there for
/// guests that start by themselves, and of the thin ones each alone may use up its quota.
///
/// # Errors
/// They need more than `has_bytes`.
pub fn budget(scenario: &Scenario, has_bytes: u64) -> Result<(), Problem> {
    let starts = |guest: &&Guest| guest.autostart || guest.backing == Backing::Direct;
    let at_once = |guest: &Guest| match guest.backing {
        Backing::Thin => guest.quota_bytes.unwrap_or(guest.memory_bytes),
        Backing::Reserved | Backing::Direct => guest.memory_bytes,
    };
    let starting = || scenario.guests.iter().filter(starts);
    let (thin, fixed): (Vec<_>, Vec<_>) =
        starting().partition(|guest| guest.backing == Backing::Thin);
    let most = thin.into_iter().map(at_once).max().unwrap_or(0);
    let fixed = fixed.into_iter().map(at_once).fold(0, u64::saturating_add);
    let need = most.saturating_add(fixed);
    match starting().max_by_key(|guest| at_once(guest)) {
        Some(largest) if need > has_bytes => {
            let (need, has) = (size::show(need), size::show(has_bytes));
            let message = format!("the guests need {need}, the board has {has} of RAM");
            let problem = Problem::at(scenario.key_span(largest, Key::Memory), message);
            Err(problem.help(
                "lower `memory`, or give the board more (--ram SIZE, or the tree of one that has more: --board-dtb FILE)",
            ))
        }
        _ => Ok(()),
    }
}

/// Where each guest has its RAM; an address that the scenario leaves out is chosen.
fn addresses(
    scenario: &Scenario,
    tree: &BoardTree<'_>,
    named: &[Named],
) -> Result<Vec<Range>, Problems> {
    let direct = |guest: &&Guest| guest.backing == Backing::Direct;
    let fixed = scenario.guests.iter().filter(direct);
    let mut taken: Vec<Range> = fixed
        .filter_map(|guest| {
            Some(Range {
                base: guest.address?,
                bytes: guest.memory_bytes,
            })
        })
        .chain([EMULATED])
        .collect();
    let mut all = Vec::new();
    for (guest, named) in scenario.guests.iter().zip(named) {
        let bytes = guest.memory_bytes;
        let range = match (guest.backing, guest.address) {
            (Backing::Direct, Some(base)) => Range { base, bytes },
            (Backing::Direct, None) => {
                // Where its bus masters do not reach it the check says so, with the device's line.
                let places = [reach(tree, named), ALL];
                let size = (bytes, MEMORY_UNIT_BYTES);
                let mut found = places
                    .iter()
                    .map(|place| highest_free(tree, *place, size, &taken));
                let found = found.find_map(|range| range);
                let range = found.ok_or_else(|| {
                    let cause = Cause::NoRoom { bytes };
                    let span = scenario.key_span(guest, Key::Memory);
                    let message = format!("guest \"{}\": {cause}", guest.name);
                    let problem = Problem::at(span, message).help(cause.help());
                    Problems::of(&scenario.source, vec![problem])
                })?;
                taken.push(range);
                range
            }
            _ => Range {
                base: GUEST_RAM,
                bytes,
            },
        };
        all.push(range);
    }
    Ok(all)
}

/// The RAM that all bus masters among the devices reach.
fn reach(tree: &BoardTree<'_>, named: &[(Span<usize>, String)]) -> Range {
    let reaches = named.iter().filter_map(|(_, path)| tree.reach(path));
    reaches.fold(ALL, Range::common)
}

/// Findings at their places. A word that stands for many devices has one problem of each kind.
fn told(scenario: &Scenario, named: &[Named], findings: Vec<Finding>) -> Vec<Problem> {
    let mut list: Vec<(std::mem::Discriminant<Cause>, Problem)> = Vec::new();
    for finding in findings {
        let Some(guest) = scenario.guests.get(finding.guest) else {
            continue;
        };
        let device = finding
            .device
            .and_then(|n| named.get(finding.guest)?.get(n));
        let kind = std::mem::discriminant(&finding.problem);
        let problem = match device {
            Some((span, path)) => problem(span, path, &finding.problem),
            None => {
                let key = match guest.address {
                    Some(_) => Key::Address,
                    None => Key::Memory,
                };
                let message = format!("guest \"{}\": {}", guest.name, finding.problem);
                Problem::at(scenario.key_span(guest, key), message).help(finding.problem.help())
            }
        };
        if !list
            .iter()
            .any(|(k, p)| *k == kind && p.span == problem.span)
        {
            list.push((kind, problem));
        }
    }
    list.into_iter().map(|(_, problem)| problem).collect()
}

#[cfg(test)]
mod tests;

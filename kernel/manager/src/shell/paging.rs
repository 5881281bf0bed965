//! `paging`: what stands for a guest's translation tables, and why.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use penumbra_abi::{PagingCounter, PagingRefusal, PagingSpace, PagingStatus, RootInstall};
use penumbra_bundle::{Key, PagingChanges};

use super::command::PAGING;
use crate::hypervisor::{Hypervisor, VmId};
use crate::manager::{Manager, Phase};
use crate::pager::{Pager, RefusalText};
use crate::paging::policy::{Mode, Policy, REGION_BYTES, Record, Space};
use crate::paging::reason::Reason;
use crate::paging::sample::{Form, Half};
use crate::paging::trace::{self, Line};
use crate::refusal::{self, ErrorText, Size};

/// Ranges that are shown of an address space.
const MAX_RANGES: usize = 48;
/// Pieces of an audit at most: it has one for each table at most.
const MAX_AUDIT_PIECES: u32 = 100_000;

/// The counters in words.
const COUNTERS: [(PagingCounter, &str); 20] = [
    (PagingCounter::RootTraps, "trapped root writes"),
    (PagingCounter::Planted, "roots planted"),
    (PagingCounter::Lost, "roots lost"),
    (PagingCounter::WindowFaults, "computed roots put right"),
    (PagingCounter::Shadowed, "tables shadowed"),
    (PagingCounter::Coalesced, "of these as one leaf"),
    (PagingCounter::Relaid, "regions re-laid out"),
    (PagingCounter::Moved, "pages moved"),
    (PagingCounter::Mirrored, "stores mirrored"),
    (PagingCounter::Structural, "structural stores"),
    (PagingCounter::Undecodable, "stores not decodable"),
    (PagingCounter::Stale, "faults out of date"),
    (PagingCounter::Demoted, "tables given up"),
    (PagingCounter::Evicted, "of these for room"),
    (PagingCounter::Holds, "holds of its vCPUs"),
    (PagingCounter::HoldTicks, "ticks that holds took"),
    (PagingCounter::HoldsLost, "holds that met another"),
    (PagingCounter::Samples, "walks sampled"),
    (PagingCounter::Violations, "violations"),
    (PagingCounter::UserTicks, "ticks found in user mode"),
];

impl Manager<'_> {
    /// Runs `paging` with the words behind it.
    pub(super) fn obey_paging<'w, H: Hypervisor>(
        &mut self,
        hv: &mut H,
        mut words: impl Iterator<Item = &'w str>,
    ) {
        let (action, guest, value) = (words.next(), words.next(), words.next());
        let (Some(action), Some(guest), None) = (action, guest, words.next()) else {
            return self.paging_usage(hv);
        };
        let Some(index) = self.guest_named(guest) else {
            return self.no_such_guest(hv, guest);
        };
        // What has happened in the meantime counts first.
        self.look_at_guests(hv);
        match (action, value) {
            ("show", None) => self.paging_show(hv, index),
            ("audit", None) => self.paging_audit(hv, index),
            ("trace", Some("on")) => self.paging_trace(hv, index, true),
            ("trace", Some("off")) => self.paging_trace(hv, index, false),
            ("mode", Some(name)) => match Mode::ALL.iter().find(|(known, _)| *known == name) {
                Some((_, mode)) => self.paging_mode(hv, index, *mode),
                None => {
                    let modes = Mode::ALL.map(|(known, _)| known).join(", ");
                    let text = format_args!("there is no mode '{name}'; the modes are {modes}");
                    self.console.print(hv, text);
                }
            },
            _ => self.paging_usage(hv),
        }
    }

    pub(super) fn paging_usage<H: Hypervisor>(&mut self, hv: &mut H) {
        for (_, usage, text) in PAGING {
            self.console
                .print(hv, format_args!("  {usage:<40}  {text}"));
        }
    }

    /// The VM and pager of a guest that runs; says so if it does not.
    fn paged<H: Hypervisor>(&mut self, hv: &mut H, index: usize) -> Option<(VmId, &mut Pager)> {
        let slot = self.slots.get_mut(index)?;
        let name = slot.guest.name;
        match (slot.phase, slot.vm, slot.pager.as_mut()) {
            (Phase::Running, Some(vm), Some(pager)) => Some((vm, pager)),
            _ => {
                let text = format_args!("'{name}' does not run");
                self.console.print(hv, text);
                None
            }
        }
    }

    fn paging_mode<H: Hypervisor>(&mut self, hv: &mut H, index: usize, mode: Mode) {
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let (guest, file) = (slot.guest, self.manifest.file);
        if guest.paging.changes == PagingChanges::Never && mode != Mode::Nested {
            let line = refusal::Line::of(file, &guest, Key::PagingChanges);
            let text = format_args!("'{}' is to stay nested {line}", guest.name);
            return self.console.print(hv, text);
        }
        let Some((vm, pager)) = self.paged(hv, index) else {
            return;
        };
        pager.set_mode(hv, vm, mode);
        match pager.trouble {
            Some(trouble) => self.tell_trouble(hv, index, trouble),
            None => {
                let (name, mode) = (guest.name, mode.name());
                let text = format_args!("the operator set the paging of '{name}' to {mode}");
                self.tell(hv, index, text);
            }
        }
    }

    fn paging_trace<H: Hypervisor>(&mut self, hv: &mut H, index: usize, on: bool) {
        let Some((_, pager)) = self.paged(hv, index) else {
            return;
        };
        pager.trace = on;
        if on {
            pager.look_soon(hv);
            let machine = Line::Machine(pager.policy.config().machine);
            self.console.say(hv, format_args!("trace {machine}"));
        }
    }

    fn paging_audit<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        let Some((vm, _)) = self.paged(hv, index) else {
            return;
        };
        let (mut from, mut differences) = (0, 0_u64);
        for _ in 0..MAX_AUDIT_PIECES {
            match hv.paging_audit(vm, from) {
                Ok((next, found)) => {
                    differences = differences.saturating_add(found);
                    from = next;
                }
                Err(error) => {
                    let why = ErrorText(error);
                    return self.console.print(hv, format_args!("no audit: {why}"));
                }
            }
            if from == 0 {
                break;
            }
        }
        match (from, differences) {
            (0, 0) => self.console.print(
                hv,
                format_args!("every mirror agrees with the guest's tables"),
            ),
            (0, found) => self.console.print(
                hv,
                format_args!("{found} differences: this is a fault of Penumbra"),
            ),
            _ => self
                .console
                .print(hv, format_args!("no audit: it came to no end")),
        }
    }

    fn paging_show<H: Hypervisor>(&mut self, hv: &mut H, index: usize) {
        let now = hv.now();
        let Some(slot) = self.slots.get(index) else {
            return;
        };
        let (name, vm) = (slot.guest.name, slot.vm);
        let (Some(vm), Some(pager)) = (vm, slot.pager.as_ref()) else {
            let text = format_args!("'{name}' has no VM now: it has no tables");
            return self.console.print(hv, text);
        };
        let mut lines = Vec::new();
        match hv.paging_status(vm) {
            Ok(status) => {
                let now = (slot.phase == Phase::Running).then_some(now);
                head(&mut lines, name, pager, &status, now);
            }
            Err(error) => lines.push(format!("guest '{name}': nested; {}", ErrorText(error))),
        }
        let nested = pager.policy.config().mode == Mode::Nested;
        for space in pager.policy.spaces().filter(|_| !nested) {
            let found = hv.paging_space(vm, space.seen.space).unwrap_or_default();
            show_space(&mut lines, &pager.policy, space, &found);
        }
        if !nested {
            show_roots(&mut lines, &pager.policy, pager.ms(now));
        }
        let counted = COUNTERS.map(|(counter, what)| {
            let value = hv.paging_counter(vm, counter).unwrap_or(0);
            (what, value)
        });
        let counts = counted.iter().any(|(_, value)| *value > 0);
        let shown = if counts || !nested { &counted[..] } else { &[] };
        for row in shown.chunks(3) {
            let row: Vec<String> = row
                .iter()
                .map(|(what, value)| format!("{what:<24}{value:>10}"))
                .collect();
            lines.push(format!("  {}", row.join("   ").trim_end()));
        }
        if !nested {
            let mut value = |counter| hv.paging_counter(vm, counter).unwrap_or(0);
            let (holds, ticks) = (value(PagingCounter::Holds), value(PagingCounter::HoldTicks));
            lines.push(held(holds, pager.us(ticks)));
        }
        tail(&mut lines, &pager.policy);
        for line in lines {
            self.console.print(hv, format_args!("{line}"));
        }
    }
}

/// Mode, roots, memory and when it is looked at next, if it runs `now`.
fn head(
    lines: &mut Vec<String>,
    name: &str,
    pager: &Pager,
    status: &PagingStatus,
    now: Option<u64>,
) {
    let mode = pager.policy.config().mode.name();
    let vcpus: Vec<String> = (0..8_u32)
        .filter(|vcpu| status.planted >> vcpu & 1 != 0)
        .map(|vcpu| vcpu.to_string())
        .collect();
    let planted = match (status.planted, status.refusal) {
        (0, PagingRefusal::None) => String::from("no kernel root in place"),
        (0, refusal) => format!("no kernel root in place: {}", RefusalText(refusal)),
        _ => format!("kernel root in place on vCPU {}", vcpus.join(", ")),
    };
    match (&pager.trouble, pager.policy.config().mode) {
        (Some(trouble), _) => lines.push(format!("guest '{name}': nested; {trouble}")),
        (None, Mode::Nested) => lines.push(format!("guest '{name}': nested")),
        (None, _) => lines.push(format!("guest '{name}': {mode}; {planted}")),
    }
    if status.frames > 0 {
        lines.push(format!(
            "  table frames {} of {}, tables shadowed {} of {}",
            status.frames_used,
            status.frames,
            status.nodes_used,
            penumbra_abi::PAGING_NODES
        ));
    }
    let next = match (now, pager.next()) {
        (Some(now), Some(next)) => {
            let wait = pager.ms(next).saturating_sub(pager.ms(now));
            format!("next look in {}", Seconds(wait))
        }
        (Some(_), None) => String::from("nobody looks any more"),
        (None, _) => String::from("nobody looks while it does not run"),
    };
    if pager.policy.config().mode != Mode::Nested {
        lines.push(format!(
            "  {next}; times below count from the guest's start"
        ));
    }
}

struct Seconds(u64);

impl core::fmt::Display for Seconds {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{:03} s", self.0 / 1000, self.0 % 1000)
    }
}

/// Whether user roots are trapped, and which of them have a space.
fn show_roots(lines: &mut Vec<String>, policy: &Policy, now_ms: u64) {
    let (on, at_ms, rate, why) = policy.trap_state();
    let (spent_us, busy_ms) = (
        policy.budget().spent_ns() / 1_000,
        policy.budget().busy_ms(),
    );
    if spent_us > 0 {
        let cost = format!("{}.{:03} ms", spent_us / 1_000, spent_us % 1_000);
        let busy = Seconds(busy_ms);
        lines.push(format!(
            "  trials of user spaces have cost {cost} of {busy} in user mode"
        ));
    }
    if !on {
        let when = if policy.may_trap(now_ms) {
            format!(
                "tried when the guest is busy, not before {} and {} more in user mode",
                Seconds(at_ms),
                Seconds(policy.budget().wait_ms())
            )
        } else {
            String::from(
                "never tried: its memory is not moved (`paging_copy`, `backing`), or its layout is locked",
            )
        };
        let why = match why {
            Reason::New => String::new(),
            why => format!("; the last time: {why}"),
        };
        return lines.push(format!("  user roots: nested; traps are {when}{why}"));
    }
    let (since, rate) = (Seconds(at_ms), rate.unwrap_or(0));
    lines.push(format!(
        "  user roots: trapped since {since}, {rate} writes/s; {why}"
    ));
    for root in policy.user_roots() {
        let held = if root.seen.held {
            ", held by a vCPU"
        } else {
            ""
        };
        let state = match (root.seen.space, root.seen.wanted) {
            (true, _) => "has a space",
            (false, true) => "gets a space",
            (false, false) => "nested",
        };
        let (number, rate, why) = (root.seen.root, root.rate, root.why);
        lines.push(format!(
            "    root {number:#x}: {state}{held}, {rate} writes/s; {why}"
        ));
    }
}

/// How often and how long the vCPUs were held.
fn held(holds: u64, us: u64) -> String {
    let (ms, rest) = (us / 1000, us % 1000);
    let each = us.checked_div(holds).unwrap_or(0);
    format!("  its vCPUs were held {holds} times, {ms}.{rest:03} ms in all, {each} us each")
}

/// A run of regions that are alike.
struct Range {
    first: Record,
    regions: u64,
}

impl Range {
    fn end(&self) -> u64 {
        let bytes = self.regions.saturating_mul(REGION_BYTES);
        self.first.seen.va.wrapping_add(bytes)
    }

    fn takes(&self, record: &Record) -> bool {
        let kind = core::mem::discriminant::<Reason>;
        let alike = self.first.seen.form == record.seen.form
            && kind(&self.first.why) == kind(&record.why)
            && (record.seen.form != Form::Mirror || self.first.seen.runs == record.seen.runs);
        alike && self.end() == record.seen.va
    }
}

fn ranges<'p>(records: impl Iterator<Item = &'p Record>) -> Vec<Range> {
    let mut ranges: Vec<Range> = Vec::new();
    for record in records {
        match ranges.last_mut() {
            Some(last) if last.takes(record) => last.regions = last.regions.saturating_add(1),
            _ => ranges.push(Range {
                first: *record,
                regions: 1,
            }),
        }
    }
    ranges
}

/// The leaves that a walk of a region ends at.
fn leaf_sizes(record: &Record) -> String {
    match (record.seen.form, record.seen.runs) {
        (Form::Leaf | Form::Relaid, _) => "2 MiB".into(),
        (Form::Mirror, 32) => "64 KiB".into(),
        (Form::Mirror, runs) if runs > 0 => "64, 4 KiB".into(),
        (Form::Mirror, _) => "4 KiB".into(),
        (Form::Nested, _) => "guest's".into(),
    }
}

/// Why a space without a root mirror waits, and how long.
fn lost(space: &Space) -> String {
    let (lost, retry) = (space.lost, Seconds(space.retry_ms));
    let refused = match space.refused {
        Some(failure) => format!("; the last time EL2 refused: {failure}"),
        None => String::new(),
    };
    format!("    its mirror was given up {lost} times: tried again at {retry}{refused}")
}

fn show_space(lines: &mut Vec<String>, policy: &Policy, space: &Space, found: &PagingSpace) {
    let installed = match found.install {
        _ if !found.shadowed => "nested",
        RootInstall::Nested => "its own root in place: nested",
        RootInstall::Sticky => "compound root planted, no traps",
        RootInstall::Trapped => "compound root by trapped writes",
    };
    let half = match space.seen.half {
        Half::Kernel => "kernel",
        Half::User => "user",
    };
    let (number, root) = (space.seen.space, space.seen.root);
    lines.push(format!(
        "  space {number}: {half}, root {root:#x}; {installed}"
    ));
    if !found.shadowed {
        return lines.push(lost(space));
    }
    if space.lost > 0 {
        let lost = space.lost;
        lines.push(format!("    its mirror was given up {lost} times"));
    }
    let of_space = || {
        let records = policy.records().iter();
        records.filter(|record| record.seen.space == number)
    };
    let shadowed = of_space().filter(|record| record.seen.form != Form::Nested);
    lines.push(format!(
        "    regions shadowed: {} of {}",
        shadowed.count(),
        of_space().count()
    ));
    let coalescable = of_space().filter(|record| record.seen.uniform);
    let could = u64::try_from(coalescable.count()).unwrap_or(u64::MAX);
    let leaves = of_space().filter(|r| matches!(r.seen.form, Form::Leaf | Form::Relaid));
    let are = u64::try_from(leaves.count()).unwrap_or(u64::MAX);
    if let Some(permille) = are.saturating_mul(1000).checked_div(could) {
        let size = |regions: u64| Size(regions.saturating_mul(REGION_BYTES));
        let (whole, tenth) = (permille / 10, permille % 10);
        lines.push(format!(
            "    under 2 MiB leaves: {} of {} that can be coalesced ({whole}.{tenth} %)",
            size(are),
            size(could)
        ));
    }
    let ranges = ranges(of_space());
    for range in ranges.iter().take(MAX_RANGES) {
        let (first, end) = (&range.first, range.end().wrapping_sub(1));
        let size = Size(range.regions.saturating_mul(REGION_BYTES)).to_string();
        let (form, leaves) = (trace::form_name(first.seen.form), leaf_sizes(first));
        let (va, why) = (first.seen.va, first.why);
        lines.push(format!(
            "    {va:016x}-{end:016x} {size:>9}  {form:<6}  {leaves:<9}  {why}"
        ));
    }
    if let Some(more) = ranges
        .len()
        .checked_sub(MAX_RANGES)
        .filter(|more| *more > 0)
    {
        lines.push(format!("    and {more} more ranges"));
    }
}

/// Estimates and the last decisions.
fn tail(lines: &mut Vec<String>, policy: &Policy) {
    if policy.config().mode == Mode::Nested {
        return;
    }
    let ledger = policy.ledger();
    let (spent, saved) = (ledger.spent(), ledger.saved);
    lines.push(format!("  estimated: {spent} cycles spent, {saved} saved"));
    if policy.untracked() > 0 {
        let untracked = policy.untracked();
        lines.push(format!(
            "  {untracked} regions are beyond what is remembered: nested"
        ));
    }
    lines.push("  last decisions:".into());
    for decision in policy.decisions() {
        let at = Seconds(decision.at_ms).to_string();
        let (deed, count, why) = (decision.deed.name(), decision.count, decision.why);
        let regions = match count {
            1 => String::from("1 region"),
            count => format!("{count} regions"),
        };
        let va = decision.va;
        lines.push(format!(
            "    {at:>10}  {deed:<10}  {va:016x} {regions:<12}  {why}"
        ));
    }
    if policy.decisions().next().is_none() {
        lines.push("    none yet".into());
    }
}

//! From the manager's first instruction to its event loop: check everything, adopt what runs already,
//! start the rest.

use alloc::string::String;
use alloc::vec::Vec;

use penumbra_abi::{ABI_VERSION, GicVersion, MAX_VMS, VmState};
use penumbra_bundle::{Backing, Bundle, Key};

use crate::console::Console;
use crate::hypervisor::{Board, Hypervisor, Revival, VmId, finish};
use crate::load::core_of;
use crate::manager::{Ending, Manager, OFF_TAG, Phase, Slot, tag_of};
use crate::refusal::{Cause, ErrorText, Refusal, Size};
use crate::shell::Shell;

/// The manager gives up after this many restarts if no guest runs.
const RESTARTS_AT_MOST: u64 = 5;
/// Used to measure patience when the board cannot be asked.
const ANY_COUNTER_HZ: u64 = 50_000_000;

impl<'a> Manager<'a> {
    /// Checks the interface, the board and the bundle, adopts the VMs that are there, and starts the
    /// guests that have none.
    pub(crate) fn boot<H: Hypervisor>(
        hv: &mut H,
        bundle: &'a [u8],
        revival: Revival,
    ) -> Result<Self, Ending> {
        let restarts = revival.restarts;
        let began = hv.now();
        let board = Self::board(hv)?;
        let mut manager = Self::read_bundle(hv, bundle, board)?;
        let adopted = manager.adopt(hv);
        if adopted > 0 {
            manager.console.say(
                hv,
                format_args!("the manager was restarted ({revival}); the guests went on"),
            );
        } else if restarts >= RESTARTS_AT_MOST {
            let text = format_args!("the manager was restarted {restarts} times in vain");
            manager.console.fatal(hv, text);
            return Err(Ending::Fatal);
        }
        if let Err(refusal) = manager.plan(hv) {
            if adopted == 0 {
                manager.console.fatal(hv, format_args!("{refusal}"));
                return Err(Ending::Fatal);
            }
            manager.console.say(hv, format_args!("{refusal}"));
            manager.fail_the_new();
        }
        manager.banner(hv, restarts);
        manager.start_the_new(hv, adopted)?;
        manager.schedule_cores(hv);
        if adopted == 0 {
            manager.legend(hv, began);
        }
        manager.look_at_guests(hv);
        Ok(manager)
    }

    /// Asks EL2 for the interface's version and for the board.
    fn board<H: Hypervisor>(hv: &mut H) -> Result<Board, Ending> {
        let mut console = Console::new(ANY_COUNTER_HZ);
        let version = hv.version();
        match version {
            Ok(version) if version.major == ABI_VERSION.major => {}
            Ok(version) => {
                let (theirs, ours) = (version.major, ABI_VERSION.major);
                console.fatal(
                    hv,
                    format_args!("the hypervisor has interface {theirs}, the manager needs {ours}"),
                );
                return Err(Ending::Fatal);
            }
            Err(error) => return Err(no_answer(hv, &mut console, error)),
        }
        hv.board()
            .map_err(|error| no_answer(hv, &mut console, error))
    }

    fn read_bundle<H: Hypervisor>(
        hv: &mut H,
        bytes: &'a [u8],
        board: Board,
    ) -> Result<Self, Ending> {
        let mut console = Console::new(board.counter_hz);
        if bytes.is_empty() {
            console.fatal(
                hv,
                format_args!(
                    "there is no bundle: give the boot loader one as initrd (QEMU: -initrd FILE)"
                ),
            );
            return Err(Ending::Fatal);
        }
        let read = Bundle::parse(bytes).and_then(|bundle| Ok((bundle, bundle.manifest()?)));
        let (bundle, manifest) = read.map_err(|error| {
            console.fatal(hv, format_args!("{error}; make the bundle again"));
            Ending::Fatal
        })?;
        let slots: Vec<_> = manifest.guests().map(Slot::new).collect();
        for slot in &slots {
            console.add(slot.guest.name);
        }
        Ok(Self {
            bundle,
            manifest,
            board,
            slots,
            console,
            shell: Shell::default(),
            over: None,
        })
    }

    /// Takes over the VMs of a manager that was restarted, and removes those that it had not finished.
    /// Returns how many guests go on.
    fn adopt<H: Hypervisor>(&mut self, hv: &mut H) -> usize {
        for number in 1..u64::try_from(MAX_VMS).unwrap_or(0) {
            let vm = VmId(number);
            let Ok(status) = hv.vm_status(vm) else {
                continue;
            };
            let tagged = |tag| (0..self.slots.len()).find(move |index| tag_of(*index) == tag);
            let off = status.tag & OFF_TAG != 0;
            let index = tagged(status.tag & !OFF_TAG);
            if let (VmState::Created, true, 0, Some(index)) =
                (status.state, off, status.held_bytes, index)
            {
                self.set(index, Phase::Off, None);
                if let Some(slot) = self.slots.get_mut(index) {
                    slot.placeholder = Some(vm);
                }
                continue;
            }
            match (status.state, index) {
                (VmState::Free, _) => {}
                (VmState::Running | VmState::Paused | VmState::Stopped, Some(index)) => {
                    self.set(index, Phase::Running, Some(vm));
                    self.adopt_paging(hv, index, vm);
                }
                // Half made or half gone, or not of this scenario: nobody can have a use for it.
                _ => {
                    let _ = hv.vm_stop(vm);
                    let _ = finish(|| hv.vm_destroy(vm));
                    if let Some(index) = index.filter(|_| off) {
                        // The operator had it created and not yet started.
                        self.set(index, Phase::Off, None);
                        self.place_placeholder(hv, index);
                    }
                }
            }
        }
        self.slots
            .iter()
            .filter(|slot| slot.phase == Phase::Running)
            .count()
    }

    /// Plans every guest that has no VM, before any of them is started.
    fn plan<H: Hypervisor>(&mut self, hv: &mut H) -> Result<(), Refusal<'a>> {
        self.check_budget(hv)?;
        let (file, board) = (self.manifest.file, self.board);
        for index in 0..self.slots.len() {
            let new = |slot: &&Slot<'a>| slot.phase == Phase::New;
            let Some(guest) = self.slots.get(index).filter(new).map(|slot| slot.guest) else {
                continue;
            };
            let refuse = |cause| Refusal::new(file, &guest, cause);
            for vcpu in 0..guest.vcpus() {
                let core = core_of(&guest, vcpu, &board);
                if core >= board.cores {
                    let core = u8::try_from(core).unwrap_or(u8::MAX);
                    return Err(refuse(Cause::Core {
                        vcpu,
                        core,
                        cores: board.cores,
                    }));
                }
            }
            let plan = self.make_plan(hv, index)?;
            if let Some(slot) = self.slots.get_mut(index) {
                slot.plan = plan;
            }
        }
        Ok(())
    }

    /// Compares what the new guests need with what the board has. Reserved memory must all be there;
    /// quotas may together exceed it, but none may do so alone.
    fn check_budget<H: Hypervisor>(&mut self, hv: &mut H) -> Result<(), Refusal<'a>> {
        let free = self.board.free_bytes;
        let starts = |slot: &&Slot<'_>| slot.phase == Phase::New && slot.guest.autostart;
        let new = || self.slots.iter().filter(starts);
        let reserved = new().filter(|slot| slot.guest.backing != Backing::Thin);
        let reserved: u64 = reserved.map(|slot| slot.guest.memory_bytes).sum();
        let thin = new().filter(|slot| slot.guest.backing == Backing::Thin);
        let (all, most) = thin.fold((0u64, 0), |(all, most): (u64, u64), slot| {
            let quota = slot.guest.quota_bytes;
            (all.saturating_add(quota), most.max(quota))
        });
        let need = reserved.saturating_add(most);
        if need > free
            && let Some(largest) = new().max_by_key(|slot| slot.guest.quota_bytes)
        {
            let cause = Cause::Board { need, free };
            return Err(Refusal::new(self.manifest.file, &largest.guest, cause));
        }
        if reserved.saturating_add(all) > free {
            let (all, left) = (Size(all), Size(free.saturating_sub(reserved)));
            self.console.say(
                hv,
                format_args!(
                    "note: the quotas of thin guests add up to {all}, {left} are there for them"
                ),
            );
        }
        Ok(())
    }

    /// Marks the guests that were to be started as failed.
    fn fail_the_new(&mut self) {
        for slot in self
            .slots
            .iter_mut()
            .filter(|slot| slot.phase == Phase::New)
        {
            slot.phase = Phase::Failed;
        }
    }

    fn start_the_new<H: Hypervisor>(&mut self, hv: &mut H, adopted: usize) -> Result<(), Ending> {
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get(index) else {
                continue;
            };
            if slot.phase != Phase::New {
                continue;
            }
            if !slot.guest.autostart {
                self.set(index, Phase::Off, None);
                continue;
            }
            if let Err(refusal) = self.start(hv, index) {
                self.set(index, Phase::Failed, None);
                if adopted == 0 && !self.any_runs() {
                    self.console.fatal(hv, format_args!("{refusal}"));
                    return Err(Ending::Fatal);
                }
                self.console.say(hv, format_args!("{refusal}"));
            }
        }
        Ok(())
    }

    /// Says what is about to run.
    fn banner<H: Hypervisor>(&mut self, hv: &mut H, restarts: u64) {
        if restarts == 0 {
            let gic = match self.board.gic {
                GicVersion::V2 => "GICv2",
                GicVersion::V3 => "GICv3",
            };
            let (cores, free) = (self.board.cores, Size(self.board.free_bytes));
            let (version, file) = (env!("CARGO_PKG_VERSION"), self.manifest.file);
            self.console.say(
                hv,
                format_args!(
                    "manager {version}; {cores} cores, {gic}, {free} free; scenario {file}"
                ),
            );
        }
        for index in 0..self.slots.len() {
            let Some(slot) = self.slots.get(index) else {
                continue;
            };
            if slot.phase != Phase::New {
                continue;
            }
            let guest = slot.guest;
            let (name, memory) = (guest.name, Size(guest.memory_bytes));
            let backing = match guest.backing {
                Backing::Reserved => "reserved",
                Backing::Thin => "thin",
                Backing::Direct => "direct",
            };
            let cores: Vec<u64> = (0..guest.vcpus())
                .map(|vcpu| core_of(&guest, vcpu, &self.board))
                .collect();
            let kernel = guest.kernel_file;
            let line = guest.lines.nearest(Key::Guest);
            let when = match guest.autostart {
                true => "",
                false => "; not started (`autostart`)",
            };
            self.console.say(
                hv,
                format_args!(
                    "guest '{name}' (line {line}): vCPUs on cores {cores:?}, {memory} {backing}, \
                     kernel {kernel}{when}"
                ),
            );
        }
    }

    /// Says how to get about, and how to get out.
    fn legend<H: Hypervisor>(&mut self, hv: &mut H, began: u64) {
        let ticks = hv.now().saturating_sub(began);
        let ms = ticks
            .saturating_mul(1000)
            .checked_div(self.board.counter_hz)
            .unwrap_or(0);
        let name = String::from(self.console.front_name());
        let keys = match self.slots.len() {
            1 => "Ctrl-] s opens the operator's shell; Ctrl-] ? shows the keys",
            _ => {
                "Ctrl-] and a digit shows one guest, Ctrl-] s the operator's shell, Ctrl-] ? the keys"
            }
        };
        self.console.say(hv, format_args!("{keys}"));
        self.console.say(
            hv,
            format_args!("`poweroff` in the guest ends it; Ctrl-A X leaves QEMU at once"),
        );
        match self.slots.len() {
            1 => self.console.say(
                hv,
                format_args!("ready after {ms} ms; here is guest '{name}':"),
            ),
            _ => self.console.say(
                hv,
                format_args!(
                    "ready after {ms} ms; here are all guests, the input goes to '{name}':"
                ),
            ),
        }
    }
}

fn no_answer<H: Hypervisor>(
    hv: &mut H,
    console: &mut Console,
    error: penumbra_abi::Error,
) -> Ending {
    let why = ErrorText(error);
    console.fatal(
        hv,
        format_args!("the hypervisor does not answer the manager: {why}"),
    );
    Ending::Fatal
}

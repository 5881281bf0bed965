//! An EL2 for tests: it keeps the rules of docs/manager-contract.md and records what is asked of it.
//!
//! Continuations take several calls. A call that breaks a rule is refused as EL2 would refuse it, and
//! noted in `misuse`, so that a test that expects good manners can check that there was none.

mod board;
mod paging;
mod schedule;
pub(crate) mod users;
mod vm;

use std::collections::{BTreeMap, VecDeque};

use penumbra_abi::{
    ABI_VERSION, AbiVersion, Backing, Error, Events, GicVersion, ScheduleStatus, ScheduleWindow,
    StopReason, TrapRecord, TrapsStatus, VmState, VmStatus, WatchdogStatus,
};

use crate::hypervisor::{
    Board, Chunk, Death, Grant, Granules, Hypervisor, Leaves, RamRequest, Register, Result,
    VcpuTime, VmId,
};

/// Bytes that a continuation does per call.
const PIECE_BYTES: u64 = 16 << 20;

pub(crate) use vm::FakeVm;

pub(crate) const MIB: u64 = 1 << 20;

/// The fake.
pub(crate) struct Fake {
    pub(crate) version: AbiVersion,
    pub(crate) board: Board,
    pub(crate) vms: BTreeMap<u64, FakeVm>,
    /// Names of the calls made, consoles and questions apart.
    pub(crate) log: Vec<String>,
    pub(crate) misuse: Vec<String>,
    pub(crate) screen: String,
    pub(crate) keys: VecDeque<u8>,
    /// Bytes that the board's console takes before it takes no more.
    pub(crate) screen_room: usize,
    pub(crate) clock: u64,
    /// So many looks at it are a tick.
    pub(crate) pace: u32,
    looks: u32,
    pub(crate) waits: u32,
    /// Calls that fail, by name.
    pub(crate) failures: BTreeMap<&'static str, Error>,
    /// Highest number of a VM.
    pub(crate) slots: u64,
    /// Frames that `VmStockAdd` can still find.
    pub(crate) frames: u64,
    audits: u32,
    /// The board's device tree.
    pub(crate) tree: &'static [u8],
    /// The rates that its firmware tells.
    pub(crate) clocks: BTreeMap<u32, u32>,
    /// RAM that was set aside.
    pub(crate) aside: Vec<(u64, u64)>,
    /// RAM that somebody uses.
    pub(crate) in_use: Option<(u64, u64)>,
    /// What an audit finds.
    pub(crate) differences: u64,
    /// Windows of each core: those handed in, and those in force with their frame.
    pub(crate) draft: BTreeMap<u64, Vec<(u64, u64)>>,
    pub(crate) tables: BTreeMap<u64, (Vec<(u64, u64)>, u64)>,
    /// How the manager was made to die.
    pub(crate) deaths: Vec<Death>,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let board = Board {
            gic: GicVersion::V3,
            cores: 4,
            counter_hz: 1000,
            free_bytes: 1024 * MIB,
            largest_bytes: 1024 * MIB,
            granules: Granules::default(),
        };
        Self {
            version: ABI_VERSION,
            board,
            vms: BTreeMap::new(),
            log: Vec::new(),
            misuse: Vec::new(),
            screen: String::new(),
            keys: VecDeque::new(),
            screen_room: usize::MAX,
            clock: 0,
            pace: 1,
            looks: 0,
            waits: 0,
            failures: BTreeMap::new(),
            slots: 7,
            frames: 1000,
            audits: 0,
            tree: &[],
            clocks: BTreeMap::new(),
            aside: Vec::new(),
            in_use: None,
            differences: 0,
            draft: BTreeMap::new(),
            tables: BTreeMap::new(),
            deaths: Vec::new(),
        }
    }

    /// The VM with a number.
    pub(crate) fn vm(&mut self, number: u64) -> &mut FakeVm {
        self.vms
            .get_mut(&number)
            .unwrap_or_else(|| panic!("no VM {number}"))
    }

    /// Starts noting calls afresh.
    pub(crate) fn forget(&mut self) {
        self.log.clear();
        self.screen.clear();
    }

    /// The position of the first noted call that starts so.
    pub(crate) fn position(&self, call: &str) -> usize {
        let found = self.log.iter().position(|noted| noted.starts_with(call));
        found.unwrap_or_else(|| panic!("no call {call} in {:?}", self.log))
    }

    /// How often a call was noted.
    pub(crate) fn count(&self, call: &str) -> usize {
        self.log
            .iter()
            .filter(|noted| noted.starts_with(call))
            .count()
    }

    fn note(&mut self, name: &'static str, vm: u64) -> Result<()> {
        let text = format!("{name} {vm}");
        // A continuation counts once.
        if self.log.last() != Some(&text) {
            self.log.push(text);
        }
        self.failures.get(name).map_or(Ok(()), |error| Err(*error))
    }

    fn refuse<T>(&mut self, why: &str, error: Error) -> Result<T> {
        self.misuse.push(why.into());
        Err(error)
    }

    /// The VM, which must be in this state.
    fn in_state(&mut self, vm: VmId, state: VmState, call: &str) -> Result<&mut FakeVm> {
        match self.vms.get(&vm.0).map(|vm| vm.status.state) {
            None => self.refuse(&format!("{call}: no VM {}", vm.0), Error::NoSuchObject),
            Some(found) if found != state => self.refuse(
                &format!("{call}: VM {} is {found:?}", vm.0),
                Error::BadState,
            ),
            Some(_) => self.vms.get_mut(&vm.0).ok_or(Error::NoSuchObject),
        }
    }
}

impl Hypervisor for Fake {
    fn version(&mut self) -> Result<AbiVersion> {
        Ok(self.version)
    }

    fn board(&mut self) -> Result<Board> {
        Ok(self.board)
    }

    fn wait(&mut self, deadline: u64) -> Result<Events> {
        self.waits += 1;
        assert!(self.waits < 10_000, "the manager spins");
        let events = self.events();
        if events.0 != 0 {
            return Ok(events);
        }
        if deadline != u64::MAX {
            self.clock = self.clock.max(deadline);
            return Ok(Events::DEADLINE);
        }
        // Nothing will ever happen: let the test see that the manager waits.
        Err(Error::BadState)
    }

    fn board_off(&mut self) -> Result<()> {
        self.note("BoardOff", 0)
    }

    fn board_reset(&mut self) -> Result<()> {
        self.note("BoardReset", 0)
    }

    fn board_clock(&mut self, number: u32) -> Result<u32> {
        Ok(self.clocks.get(&number).copied().unwrap_or(0))
    }

    fn console_read(&mut self, vm: VmId) -> Result<Chunk> {
        let from = if vm == VmId::MANAGER {
            &mut self.keys
        } else {
            &mut self.vms.get_mut(&vm.0).ok_or(Error::NoSuchObject)?.output
        };
        let count = from.len().min(40);
        Ok(Chunk::take(&from.drain(..count).collect::<Vec<_>>()))
    }

    fn console_write(&mut self, vm: VmId, chunk: &Chunk) -> Result<usize> {
        assert!(
            !chunk.bytes().is_empty(),
            "an empty write is refused by EL2"
        );
        if vm == VmId::MANAGER {
            let taken = chunk.bytes().len().min(self.screen_room);
            self.screen_room -= taken;
            self.screen
                .push_str(std::str::from_utf8(&chunk.bytes()[..taken]).unwrap());
            return Ok(taken);
        }
        let vm = self.vms.get_mut(&vm.0).ok_or(Error::NoSuchObject)?;
        let taken = chunk.bytes().len().min(vm.input_room);
        vm.input_room -= taken;
        vm.input.extend(&chunk.bytes()[..taken]);
        Ok(taken)
    }

    fn vm_create(&mut self, vcpus: u64, gic: GicVersion, tag: u64) -> Result<VmId> {
        let free = (1..=self.slots)
            .find(|number| !self.vms.contains_key(number))
            .ok_or(Error::NoSlot)?;
        self.note("VmCreate", free)?;
        if gic != self.board.gic || vcpus == 0 || vcpus > 8 {
            return self.refuse("VmCreate: bad argument", Error::InvalidParameter);
        }
        self.vms.insert(free, FakeVm::new(vcpus, tag));
        Ok(VmId(free))
    }

    fn vm_map_ram(&mut self, vm: VmId, ram: &RamRequest) -> Result<u64> {
        self.note("VmMapRam", vm.0)?;
        if !(ram.ipa | ram.bytes | ram.quota_bytes).is_multiple_of(2 * MIB) {
            return self.refuse("VmMapRam: misaligned", Error::InvalidParameter);
        }
        let range = (ram.ipa, ram.bytes);
        if ram.backing == Backing::Direct && !self.aside.contains(&range) {
            return self.refuse("VmMapRam: not set aside", Error::NoMemory);
        }
        let fake = self.in_state(vm, VmState::Created, "VmMapRam")?;
        if *fake.ram.get_or_insert(*ram) != *ram {
            return self.refuse("VmMapRam: other arguments", Error::InvalidParameter);
        }
        fake.mapped = (fake.mapped + PIECE_BYTES).min(ram.bytes);
        if ram.backing != Backing::Thin {
            fake.status.held_bytes = fake.mapped;
        }
        Ok(fake.mapped)
    }

    fn vm_stock_add(&mut self, vm: VmId) -> Result<bool> {
        self.note("VmStockAdd", vm.0)?;
        if self.frames == 0 {
            return Err(Error::NoMemory);
        }
        let fake = self.vms.get_mut(&vm.0).ok_or(Error::NoSuchObject)?;
        fake.zeroing = !fake.zeroing;
        if !fake.zeroing {
            fake.status.stock_frames += 1;
            fake.status.wants_stock = false;
            self.frames -= 1;
            return Ok(true);
        }
        Ok(false)
    }

    fn vm_uart(&mut self, vm: VmId, _ipa: u64, _intid: u64) -> Result<()> {
        self.note("VmUart", vm.0)?;
        self.in_state(vm, VmState::Created, "VmUart")?.devices |= 1;
        Ok(())
    }

    fn vm_gic(&mut self, vm: VmId, _distributor: u64, _other: u64) -> Result<()> {
        self.note("VmGic", vm.0)?;
        self.in_state(vm, VmState::Created, "VmGic")?.devices |= 2;
        Ok(())
    }

    fn vm_watchdog(&mut self, vm: VmId, _ipa: u64, _intid: u64) -> Result<()> {
        self.note("VmWatchdog", vm.0)?;
        let fake = self.in_state(vm, VmState::Created, "VmWatchdog")?;
        fake.watchdog.placed = true;
        Ok(())
    }

    fn vm_watchdog_status(&mut self, vm: VmId) -> Result<WatchdogStatus> {
        let fake = self.vms.get(&vm.0).ok_or(Error::NoSuchObject)?;
        Ok(fake.watchdog)
    }

    fn vcpu_pin(&mut self, vm: VmId, vcpu: u64, core: u64) -> Result<()> {
        self.note("VcpuPin", vm.0)?;
        if core >= self.board.cores {
            return self.refuse("VcpuPin: no such core", Error::InvalidParameter);
        }
        self.in_state(vm, VmState::Created, "VcpuPin")?
            .pins
            .insert(vcpu, core);
        Ok(())
    }

    fn grant_begin(&mut self, vm: VmId, grant: &Grant) -> Result<u64> {
        self.begin_grant(vm, grant)
    }

    fn grant_end(&mut self, vm: VmId) -> Result<bool> {
        self.end_grant(vm)
    }

    fn vm_start(&mut self, vm: VmId, entry: u64, x0: u64) -> Result<()> {
        self.note("VmStart", vm.0)?;
        let fake = self.in_state(vm, VmState::Created, "VmStart")?;
        let pinned = (0..fake.vcpus).all(|vcpu| fake.pins.contains_key(&vcpu));
        if !fake.grants.is_empty() || !pinned || fake.devices != 3 {
            return self.refuse("VmStart: not ready", Error::BadState);
        }
        fake.entry = Some((entry, x0));
        fake.status.state = VmState::Running;
        Ok(())
    }

    fn vm_status(&mut self, vm: VmId) -> Result<VmStatus> {
        let fake = self.vms.get_mut(&vm.0).ok_or(Error::NoSuchObject)?;
        fake.unseen = false;
        Ok(fake.status)
    }

    fn vm_stop(&mut self, vm: VmId) -> Result<()> {
        self.note("VmStop", vm.0)?;
        let fake = self.vms.get_mut(&vm.0).ok_or(Error::NoSuchObject)?;
        if !matches!(fake.status.state, VmState::Running | VmState::Paused) {
            return Err(Error::BadState);
        }
        fake.status.state = VmState::Stopped;
        fake.status.reason = StopReason::Killed;
        fake.status.wants_stock = false;
        fake.unseen = true;
        Ok(())
    }

    fn vm_destroy(&mut self, vm: VmId) -> Result<bool> {
        self.note("VmDestroy", vm.0)?;
        let Some(fake) = self.vms.get_mut(&vm.0) else {
            return self.refuse("VmDestroy: no VM", Error::NoSuchObject);
        };
        if matches!(fake.status.state, VmState::Running | VmState::Paused) {
            return self.refuse("VmDestroy: it runs", Error::BadState);
        }
        fake.status.state = VmState::Dying;
        fake.dying += 1;
        if fake.dying < 3 {
            return Ok(false);
        }
        self.vms.remove(&vm.0);
        Ok(true)
    }

    fn vcpu_register(&mut self, vm: VmId, _vcpu: u64, register: Register) -> Result<u64> {
        let fake = self.vms.get(&vm.0).ok_or(Error::NoSuchObject)?;
        if fake.status.state != VmState::Stopped {
            return Err(Error::BadState);
        }
        Ok(0x1000 + register.0)
    }

    fn vcpu_counter(&mut self, vm: VmId, vcpu: u64, counter: u64) -> Result<u64> {
        let fake = self.vms.get(&vm.0).ok_or(Error::NoSuchObject)?;
        if vcpu >= fake.vcpus || counter > 8 {
            return self.refuse("VcpuCounter: no such counter", Error::InvalidParameter);
        }
        Ok(100 * vm.0 + 10 * vcpu + counter)
    }

    fn vm_pause(&mut self, vm: VmId) -> Result<()> {
        self.change(vm, VmState::Running, VmState::Paused)
    }

    fn vm_resume(&mut self, vm: VmId) -> Result<()> {
        self.change(vm, VmState::Paused, VmState::Running)
    }

    fn schedule_set(&mut self, core: u64, place: u64, owner: u64, us: u64) -> Result<()> {
        self.draft_window(core, place, (owner, us))
    }

    fn schedule_install(&mut self, core: u64, windows: u64, frame_us: u64) -> Result<()> {
        self.note("ScheduleInstall", core)?;
        self.install_windows(core, windows, frame_us)
    }

    fn schedule_status(&mut self, core: u64) -> Result<ScheduleStatus> {
        self.frames_begun(core)
    }

    fn schedule_window(&mut self, core: u64, place: u64) -> Result<ScheduleWindow> {
        self.window(core, place)
    }

    fn ram_set_aside(&mut self, base: u64, bytes: u64) -> Result<()> {
        self.set_aside(base, bytes)
    }

    fn vm_map_device(&mut self, vm: VmId, base: u64, bytes: u64) -> Result<()> {
        self.map_device(vm, base, bytes)
    }

    fn vm_assign_spi(&mut self, vm: VmId, intid: u64, physical: u64, edge: bool) -> Result<()> {
        self.assign_spi(vm, (intid, physical, edge))
    }

    fn device_write(&mut self, vm: VmId, at: u64, value: u32) -> Result<()> {
        self.write_device(vm, at, value)
    }

    fn board_tree(&mut self) -> &'static [u8] {
        self.tree
    }

    fn audit(&mut self) -> Result<(bool, u64)> {
        self.audits += 1;
        Ok((self.audits.is_multiple_of(3), self.differences))
    }

    fn vcpu_time(&mut self, vm: VmId, vcpu: u64) -> Result<VcpuTime> {
        let pins = match vm {
            VmId::MANAGER => BTreeMap::from([(0, 0)]),
            _ => self.vms.get(&vm.0).ok_or(Error::NoSuchObject)?.pins.clone(),
        };
        let core = Some(*pins.get(&vcpu).ok_or(Error::NoSuchObject)?);
        let now = self.now();
        // vCPU 0 has a quarter of its core, the next one half of it.
        let ran = (now * (vcpu + 1)) / 4;
        Ok(VcpuTime { ran, now, core })
    }

    fn vm_traps(&mut self, vm: VmId) -> Result<TrapsStatus> {
        self.refused_by(vm)
    }

    fn vm_trap(&mut self, vm: VmId, number: u64) -> Result<TrapRecord> {
        self.refused_record(vm, number)
    }

    fn vm_leaves(&mut self, vm: VmId) -> Result<Leaves> {
        let held = self.vms.get(&vm.0).ok_or(Error::NoSuchObject)?;
        let thin = held.backing() == Some(Backing::Thin) && !held.whole;
        let bytes = held.status.held_bytes;
        Ok(Leaves {
            mib2: if thin { 0 } else { bytes / (2 * MIB) },
            runs: if thin { 0 } else { bytes / (32 * MIB) },
            pages: if thin { bytes / 4096 } else { 17 },
            tables: 3,
            ..Leaves::default()
        })
    }

    fn window_write(&mut self, at: u64, bytes: &[u8]) -> Result<()> {
        let end = at + bytes.len() as u64;
        for vm in self.vms.values_mut() {
            let lent = vm.grants.iter().find(|(grant, done)| {
                *done == grant.bytes && grant.window <= at && end <= grant.window + grant.bytes
            });
            if let Some((grant, _)) = lent {
                vm.written
                    .push((grant.ipa + (at - grant.window), bytes.to_vec()));
                return Ok(());
            }
        }
        self.refuse("window_write: nothing lent there", Error::NotMapped)
    }

    fn now(&mut self) -> u64 {
        self.looks += 1;
        self.clock += u64::from(self.looks.is_multiple_of(self.pace));
        self.clock
    }

    fn die(&mut self, how: Death) {
        self.deaths.push(how);
    }
}

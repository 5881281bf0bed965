//! Random programs against a model that knows nothing of list registers: at any time the guest
//! acknowledges exactly the most urgent interrupt that the architecture would signal. So every edge
//! is delivered once unless it merges while pending, every level until it is lowered, and nothing is
//! lost when list registers are short.

use std::collections::BTreeSet;

use penumbra_abi::GicVersion::{self, V2, V3};

use super::Board;
use crate::vgic::{Frame, SgiRegister};

/// A small generator, the same everywhere (xorshift64*).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() >> 16) as usize % end
    }
}

const VCPUS: usize = 3;
/// Edge-triggered SPIs are 32 to 47, level-triggered ones 48 to 55.
const SPIS: std::ops::Range<u32> = 32..56;
const FIRST_LEVEL: u32 = 48;
const TIMER: u32 = 27;

struct Model {
    pending: BTreeSet<u32>,
    /// vCPU, SGI, source; the source is 0 on GICv3.
    sgis: BTreeSet<(usize, u32, usize)>,
    /// vCPU and INTID.
    active: Vec<(usize, u32)>,
    disabled: BTreeSet<u32>,
    priority: [[u8; 64]; VCPUS],
    target: [usize; 64],
    expired: [bool; VCPUS],
}

impl Model {
    fn new() -> Self {
        Self {
            pending: BTreeSet::new(),
            sgis: BTreeSet::new(),
            active: vec![],
            disabled: BTreeSet::new(),
            priority: [[0x80; 64]; VCPUS],
            target: [0; 64],
            expired: [false; VCPUS],
        }
    }

    fn is_active(&self, vcpu: usize, intid: u32) -> bool {
        let here = |&(at, active): &(usize, u32)| active == intid && (intid >= 32 || at == vcpu);
        self.active.iter().any(here)
    }

    /// Priority and INTID of all that `vcpu` could take.
    fn deliverable(&self, vcpu: usize) -> BTreeSet<(u8, u32)> {
        let spis = self
            .pending
            .iter()
            .copied()
            .filter(|&spi| self.target[spi as usize] == vcpu);
        let sgis = self
            .sgis
            .iter()
            .filter(|&&(at, ..)| at == vcpu)
            .map(|&(_, sgi, _)| sgi);
        let timer = Some(TIMER).filter(|_| self.expired[vcpu]);
        let all = spis
            .filter(|spi| !self.disabled.contains(spi))
            .chain(sgis)
            .chain(timer);
        all.filter(|&intid| !self.is_active(vcpu, intid))
            .map(|intid| (self.priority[vcpu][intid as usize], intid))
            .collect()
    }
}

struct Run {
    board: Board,
    model: Model,
    random: Random,
    version: GicVersion,
    taken: usize,
}

impl Run {
    fn new(seed: u64) -> Self {
        let version = if seed & 1 == 0 { V2 } else { V3 };
        let list_registers = [2, 3, 4, 16][(seed >> 1) as usize & 3];
        let mut board = Board::with_list_registers(version, VCPUS, list_registers);
        board.write(0, 0, 3);
        (0..VCPUS).for_each(|vcpu| board.enable_all(vcpu));
        board.write(0, 0xc08, 0xaaaa_aaaa);
        let mut run = Self {
            board,
            model: Model::new(),
            random: Random::new(seed),
            version,
            taken: 0,
        };
        SPIS.for_each(|spi| run.route(spi, 0));
        run
    }

    fn route(&mut self, spi: u32, vcpu: usize) {
        self.model.target[spi as usize] = vcpu;
        let (offset, size, value) = match self.version {
            V2 => (0x800 + u64::from(spi), 1, 1 << vcpu),
            V3 => (0x6000 + 8 * u64::from(spi), 8, vcpu as u64),
        };
        self.board
            .access(0, Frame::Distributor, offset, size, value);
    }

    fn any_spi(&mut self) -> u32 {
        SPIS.start + self.random.below(SPIS.len()) as u32
    }

    fn step(&mut self) {
        let vcpu = self.random.below(VCPUS);
        match self.random.below(16) {
            0..3 => self.pulse_or_toggle(),
            3..5 => self.send_sgi(vcpu),
            5 => self.toggle_enable(vcpu),
            6 => self.change_priority(vcpu),
            7 => {
                let spi = self.any_spi();
                self.route(spi, vcpu);
            }
            8 => {
                self.model.expired[vcpu] = !self.model.expired[vcpu];
                self.board.cores[vcpu].timer = if self.model.expired[vcpu] { 5 } else { 1 };
                // The guest changes its timer by itself; what is pending of it is seen by EL2 only
                // when it next looks.
                self.board.settle(vcpu);
                self.board.gic.private[vcpu].ask_rebuild();
                let _ = self.board.flush(vcpu);
            }
            9 => {
                self.board.save(vcpu);
                self.board.load(vcpu);
            }
            10 => self.compare(vcpu),
            11 => self.clear_pending(vcpu),
            12..15 => self.acknowledge(vcpu),
            _ => self.end(vcpu),
        }
    }

    fn pulse_or_toggle(&mut self) {
        let spi = self.any_spi();
        if spi < FIRST_LEVEL {
            self.model.pending.insert(spi);
            self.board.set_line(spi, true);
            self.board.set_line(spi, false);
        } else {
            let high = !self.model.pending.remove(&spi);
            if high {
                self.model.pending.insert(spi);
            }
            self.board.set_line(spi, high);
        }
    }

    fn send_sgi(&mut self, from: usize) {
        let (sgi, targets) = (self.random.below(6) as u32, 1 + self.random.below(7));
        let source = if self.version == V2 { from } else { 0 };
        for vcpu in (0..VCPUS).filter(|vcpu| targets >> vcpu & 1 != 0) {
            self.model.sgis.insert((vcpu, sgi, source));
        }
        match self.version {
            V2 => self.board.write(from, 0xf00, (targets as u32) << 16 | sgi),
            V3 => {
                let value = u64::from(sgi) << 24 | targets as u64;
                let set = self.board.gic.send_sgi(from, SgiRegister::Sgi1, value);
                self.board.notify(set);
            }
        }
    }

    fn toggle_enable(&mut self, vcpu: usize) {
        let spi = self.any_spi();
        let enable = self.model.disabled.remove(&spi);
        if !enable {
            self.model.disabled.insert(spi);
        }
        self.board
            .write(vcpu, if enable { 0x104 } else { 0x184 }, 1 << (spi - 32));
    }

    fn change_priority(&mut self, vcpu: usize) {
        let spi = self.any_spi();
        if self.model.is_active(0, spi) {
            return;
        }
        let priority = 8 * self.random.below(24) as u8;
        (0..VCPUS).for_each(|at| self.model.priority[at][spi as usize] = priority);
        let offset = 0x400 + u64::from(spi);
        self.board
            .access(vcpu, Frame::Distributor, offset, 1, u64::from(priority));
    }

    fn compare(&mut self, vcpu: usize) {
        let mask = |intid: u32| 1u32 << (intid - 32);
        let pending = self
            .model
            .pending
            .iter()
            .fold(0, |word, &spi| word | mask(spi));
        assert_eq!(self.board.read(vcpu, 0x204), pending);
        let spis = self.model.active.iter().filter(|&&(_, intid)| intid >= 32);
        let active = spis.fold(0, |word, &(_, spi)| word | mask(spi));
        assert_eq!(self.board.read(vcpu, 0x304), active);
        let here = self
            .model
            .active
            .iter()
            .filter(|&&(at, intid)| at == vcpu && intid < 32);
        let private = here.fold(0, |word, &(_, intid)| word | 1u32 << intid);
        assert_eq!(self.board.read_private(vcpu, 0x300), private);
        let sgis = self.model.sgis.iter().filter(|&&(at, ..)| at == vcpu);
        let pending = sgis.fold(0, |word, &(_, sgi, _)| word | 1u32 << sgi);
        assert_eq!(self.board.read_private(vcpu, 0x200) & 0xffff, pending);
    }

    fn clear_pending(&mut self, vcpu: usize) {
        let spi = SPIS.start + self.random.below(16) as u32;
        self.model.pending.remove(&spi);
        self.board.write(vcpu, 0x284, 1 << (spi - 32));
    }

    fn acknowledge(&mut self, vcpu: usize) {
        self.board.settle(vcpu);
        let running = self.board.cores[vcpu]
            .running
            .last()
            .copied()
            .unwrap_or(0xff);
        let expected = self.model.deliverable(vcpu);
        let best = expected
            .first()
            .map(|&(priority, _)| priority)
            .filter(|&best| best < running);
        let Some((intid, source)) = self.board.cores[vcpu].acknowledge_virtual() else {
            let core = &self.board.cores[vcpu];
            assert_eq!(
                best, None,
                "vCPU {vcpu} must be interrupted, of {expected:x?}; it has {:x?}, handles {:x?}",
                core.lr, self.model.active
            );
            return;
        };
        let priority = self.model.priority[vcpu][intid as usize];
        assert_eq!(
            best,
            Some(priority),
            "{intid} is the most urgent of {expected:x?}"
        );
        assert!(
            expected.contains(&(priority, intid)),
            "{intid} of {expected:x?}"
        );
        self.taken += 1;
        if intid < 16 {
            assert!(self.model.sgis.remove(&(vcpu, intid, source as usize)));
        } else if intid < FIRST_LEVEL {
            self.model.pending.remove(&intid);
        }
        self.model.active.push((vcpu, intid));
    }

    fn end(&mut self, vcpu: usize) {
        let Some(last) = self.model.active.iter().rposition(|&(at, _)| at == vcpu) else {
            return;
        };
        let (_, intid) = self.model.active.remove(last);
        if self.random.below(4) != 0 {
            self.board.end(vcpu, intid);
            return;
        }
        // The vCPU leaves the core before a maintenance interrupt is taken.
        self.board.cores[vcpu].end_virtual(intid);
        self.board.save(vcpu);
        self.board.load(vcpu);
    }

    /// Lowers all levels and takes what is left: nothing may remain anywhere.
    fn finish(&mut self) {
        for vcpu in 0..VCPUS {
            self.board.cores[vcpu].timer = 1;
            self.model.expired[vcpu] = false;
            self.board.gic.private[vcpu].ask_rebuild();
            let _ = self.board.flush(vcpu);
        }
        for spi in FIRST_LEVEL..SPIS.end {
            self.model.pending.remove(&spi);
            self.board.set_line(spi, false);
        }
        self.model.disabled.clear();
        self.board.write(0, 0x104, 0xffff_ffff);
        // What is active at one vCPU may be pending for another.
        while !self.model.active.is_empty()
            || (0..VCPUS).any(|vcpu| !self.model.deliverable(vcpu).is_empty())
        {
            for vcpu in 0..VCPUS {
                self.acknowledge(vcpu);
                self.end(vcpu);
            }
        }
        for vcpu in 0..VCPUS {
            self.acknowledge(vcpu);
            assert_eq!(self.board.cores[vcpu].valid(), 0);
            assert!(!self.board.gic.has_deliverable(vcpu));
            assert!(!self.board.cores[vcpu].timer_active);
        }
        assert!(self.model.pending.is_empty() && self.model.sgis.is_empty());
    }
}

#[test]
fn every_program_gets_what_the_architecture_promises() {
    let mut taken = 0;
    for seed in 0..400 {
        let mut run = Run::new(seed);
        (0..600).for_each(|_| run.step());
        run.finish();
        taken += run.taken;
    }
    assert!(taken > 10_000, "the programs do something: {taken}");
}

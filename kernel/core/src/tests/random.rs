//! A manager that calls anything in any order and guests that do anything meanwhile: EL2 answers all of it, and no
//! frame is ever where its owner does not have it. `PENUMBRA_RANDOM_STEPS` says how many steps to go.

use penumbra_abi::{Call, Error, GicVersion, MANAGER_WINDOW_IPA};
use penumbra_vmsa::{MIB, PAGE_SIZE};

use super::fake::{GICD, GICR, HZ, Op, RAM, RAM_BYTES, UART, call};
use super::{Bench, hvc};
use crate::hypercall::{self, Reply};
use crate::vgic::tests::random::Random;

/// Steps of a run that says nothing else.
const STEPS: usize = 200;
/// Guests at most, so that most calls find one.
const GUESTS: usize = 3;
/// An SPI and registers that the board's devices have.
const DEVICE: u64 = 0x1000_0000;
const FIRST_SPI: u32 = 40;
/// What is wrong in most places.
const ODD: [u64; 10] = [
    0,
    1,
    7,
    8,
    255,
    PAGE_SIZE - 1,
    (1 << 39) - PAGE_SIZE,
    1 << 39,
    1 << 63,
    u64::MAX,
];

struct Run {
    bench: Bench,
    random: Random,
    gic: GicVersion,
    /// Bytes allocated before the first call.
    before: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let gic = [GicVersion::V2, GicVersion::V3][seed as usize & 1];
        let bench = Bench::with(3, 0, gic);
        let before = bench.cores[0].used_bytes();
        Self {
            bench,
            random: Random::new(seed),
            gic,
            before,
        }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.below(from.len())]
    }

    fn below(&mut self, end: usize) -> u64 {
        self.random.below(end) as u64
    }

    /// An IPA of RAM, often the beginning of a frame.
    fn ipa(&mut self) -> u64 {
        let frame = RAM + self.below(6) * 2 * MIB;
        frame + self.below(3) * PAGE_SIZE
    }

    /// An IPA of a device: none where RAM may be, as the fake's guests tell them apart by that.
    fn device(&mut self) -> u64 {
        let frame = self.pick(&[GICD, GICR, UART, DEVICE, UART + 0x1_0000]);
        frame + self.below(4) * self.pick(&[PAGE_SIZE, 0x1_0000])
    }

    fn bytes(&mut self) -> u64 {
        self.pick(&[PAGE_SIZE, 2 * MIB, 2 * MIB, 4 * MIB, 8 * MIB])
    }

    /// RAM that a direct guest might want.
    fn aside(&mut self) -> u64 {
        RAM + RAM_BYTES - (1 + self.below(4)) * 2 * MIB
    }

    /// X1 to X7 of a call, most of which make sense.
    fn arguments(&mut self, which: Call) -> [u64; 7] {
        let vm = 1 + self.below(GUESTS);
        let (ipa, device, bytes) = (self.ipa(), self.device(), self.bytes());
        let (few, core) = (self.below(4), self.below(3));
        let window = MANAGER_WINDOW_IPA + self.below(4) * PAGE_SIZE + self.below(3) * 2 * MIB;
        let aside = self.aside();
        let mut x = match which {
            Call::VmCreate => [1 + few, self.gic as u64, 70 + few, 0, 0, 0, 0],
            Call::VmMapRam => {
                let backing = self.below(3);
                let at = if backing == 2 {
                    aside
                } else {
                    ipa & !(2 * MIB - 1)
                };
                [vm, at, bytes, backing, 8 * MIB, 0, 0]
            }
            Call::VmUart | Call::VmWatchdog => [vm, device, 32 + few, 0, 0, 0, 0],
            Call::VmGic => {
                let mapped = self.gic == GicVersion::V2;
                let other = self.pick(&[GICR, device, if mapped { ipa } else { GICR }]);
                [vm, GICD, other, 0, 0, 0, 0]
            }
            Call::VcpuPin => [vm, few, core, 0, 0, 0, 0],
            Call::GrantBegin => [vm, ipa, bytes, window, 0, 0, 0],
            Call::VmStart => [vm, ipa, 5, 0, 0, 0, 0],
            Call::RamSetAside => [aside, 2 * MIB, 0, 0, 0, 0, 0],
            Call::VmMapDevice => [vm, device, PAGE_SIZE, 0, 0, 0, 0],
            Call::VmAssignSpi => [vm, 32 + few, u64::from(FIRST_SPI) + core, few & 1, 0, 0, 0],
            Call::DeviceLend => [vm, device, window, 0, 0, 0, 0],
            Call::ConsoleWrite => [vm, 1 + few, ipa, 0, 0, 0, 0],
            Call::ScheduleSet => [core, few, 70 + few, 1000 * (1 + few), 0, 0, 0],
            Call::ScheduleInstall => [core, few, 20_000, 0, 0, 0, 0],
            _ => [vm, few, ipa, few, few, 0, 0],
        };
        if self.below(8) == 0 {
            let place = self.random.below(5);
            x[place] = self.pick(&ODD);
        }
        x
    }

    fn make(&mut self, which: Call, arguments: [u64; 7]) -> Reply {
        hypercall::answer(
            self.bench.system,
            &mut self.bench.cores[0],
            which,
            arguments,
        )
    }

    /// A call of the manager's; those that continue are repeated, but not always until they are done.
    fn call(&mut self) {
        let which = self.pick(&Call::ALL);
        let rare = [Call::VmCreate, Call::VmDestroy, Call::VmStop, Call::VmPause];
        let rare = rare.contains(&which) && self.below(8) != 0;
        if rare || matches!(which, Call::Wait | Call::Audit) {
            return;
        }
        let arguments = self.arguments(which);
        for _ in 0..self.pick(&[1, 2, 80]) {
            if self.make(which, arguments).is_err() {
                break;
            }
        }
    }

    /// The life of a guest as a manager means it, but for what it forgets.
    fn build(&mut self) {
        let vm = 1 + self.below(GUESTS);
        let _ = self.make(Call::VmStop, [vm, 0, 0, 0, 0, 0, 0]);
        self.bench.steps(2);
        self.finish(Call::VmDestroy, [vm, 0, 0, 0, 0, 0, 0]);
        let create = self.arguments(Call::VmCreate);
        let Ok([vm, ..]) = self.make(Call::VmCreate, create) else {
            return;
        };
        let ram = self.arguments(Call::VmMapRam);
        let life = [
            // Before the memory now and then: what was there first stays.
            if self.below(2) == 0 {
                Call::VmGic
            } else {
                Call::Version
            },
            Call::VmMapDevice,
            Call::VmAssignSpi,
            Call::DeviceLend,
            Call::VmMapRam,
            Call::VmGic,
            Call::VmUart,
            Call::VcpuPin,
            Call::GrantBegin,
            Call::GrantEnd,
            Call::VmStockAdd,
            Call::VmStart,
        ];
        for which in life {
            let mut arguments = self.arguments(which);
            arguments[0] = vm;
            match which {
                _ if self.below(24) == 0 => continue,
                Call::VmMapRam => arguments[1..5].copy_from_slice(&ram[1..5]),
                Call::GrantBegin if self.below(2) == 0 => {
                    arguments[1..3].copy_from_slice(&ram[1..3]);
                }
                Call::VmStart => arguments[1] = ram[1],
                Call::VcpuPin => {
                    for vcpu in 0..create[0] {
                        let core = self.below(3);
                        let _ = self.make(which, [vm, vcpu, core, 0, 0, 0, 0]);
                    }
                }
                _ => {}
            }
            self.finish(which, arguments);
        }
    }

    /// Repeats a call, if it is one that continues, until it is done or refused.
    fn finish(&mut self, which: Call, arguments: [u64; 7]) {
        let done = match which {
            Call::VmMapRam | Call::GrantBegin => arguments[2],
            Call::GrantEnd | Call::VmStockAdd | Call::VmDestroy => 1,
            _ => 0,
        };
        while self.make(which, arguments).is_ok_and(|[at, ..]| at < done) {
            self.bench.steps(1);
        }
    }

    /// The encoding of some system register.
    fn register(&mut self) -> [u32; 5] {
        [4, 8, 16, 16, 8].map(|end| self.random.below(end) as u32)
    }

    /// What a guest may do next.
    fn op(&mut self) -> Op {
        let (value, ipa, device) = (self.random.next(), self.ipa(), self.device());
        let (few, bytes) = (self.below(4), 1 << self.below(4));
        let device = device + self.below(0x400) * 4;
        match self.below(20) {
            0 => hvc(0xc400_0003, &[few, ipa & !3, value]),
            1 => hvc(0x8400_0002, &[]),
            2 => hvc(0x8400_0004, &[few, 0]),
            3 => hvc(0x8400_0001, &[value]),
            4 => hvc(0x8400_0008 + (few as u32 & 1), &[]),
            5 => call(self.pick(&Call::ALL), &[few, ipa, value]),
            6 => Op::Load(device, bytes),
            7 | 8 => Op::Store(device, bytes, value & 0xffff_ffff),
            9 => Op::Load(ipa, bytes),
            10 => Op::Store(ipa, bytes, value),
            11 => Op::Sgi(value & 0x100_0f00_00ff),
            12 => Op::Mrs(self.register()),
            13 => Op::Msr(self.register(), value),
            14 => Op::Wfi,
            15 => Op::Fp(value),
            16 => Op::Timer(value % (10 * HZ)),
            17 => Op::Class(value >> 58, value & 0x1ff_ffff),
            18 => Op::WalkFault(ipa, value & 0xf),
            _ => Op::Fetch(ipa),
        }
    }

    fn step(&mut self) {
        // Mostly calls go on until they are done.
        let quiet = self.below(4) != 0;
        self.bench.cores[0].shared.lock().unwrap().quiet = quiet;
        match self.below(12) {
            0 => self.build(),
            _ => self.call(),
        }
        let vcpu = 8 * (1 + self.random.below(GUESTS)) + self.random.below(4);
        let op = self.op();
        // The call lets it go on behind an exception.
        self.bench.cores[0].program(vcpu, [op, hvc(0x8400_0000, &[])]);
        if self.below(4) == 0 {
            let enabled: Vec<_> = {
                let shared = self.bench.cores[0].shared.lock().unwrap();
                shared.spis.iter().map(|(spi, at)| (*spi, at.0)).collect()
            };
            for (spi, cpu) in enabled {
                self.bench.cores[0].interrupt(cpu, spi);
            }
        }
        let rounds = self.random.below(4);
        self.bench.steps(rounds);
    }

    fn audit(&mut self) {
        loop {
            let [done, differences, ..] = self.make(Call::Audit, [0; 7]).unwrap();
            assert_eq!(differences, 0);
            if done == 1 {
                break;
            }
        }
    }

    /// Everything goes; nothing may be missing.
    fn end(&mut self) {
        for vm in 1..8 {
            let _ = self.make(Call::VmStop, [vm, 0, 0, 0, 0, 0, 0]);
            self.bench.steps(4);
            loop {
                match self.make(Call::VmDestroy, [vm, 0, 0, 0, 0, 0, 0]) {
                    Ok([0, ..]) => self.bench.steps(1),
                    Ok(_) | Err(Error::NoSuchObject) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
        self.audit();
        // What is set aside stays so, and the manager keeps tables for its window.
        let aside = 4 * 2 * MIB + 8 * PAGE_SIZE;
        assert!(self.bench.cores[0].used_bytes() <= self.before + aside);
        assert_eq!(self.bench.system.held() & !1, 0);
    }
}

#[test]
fn whatever_manager_and_guests_do_ownership_stays() {
    let steps = std::env::var("PENUMBRA_RANDOM_STEPS").ok();
    let steps = steps.map_or(STEPS, |steps| steps.parse().unwrap());
    for seed in 0..4 {
        let mut run = Run::new(seed);
        for step in 0..steps {
            run.step();
            if step % 64 == 0 {
                run.audit();
            }
        }
        run.end();
    }
}

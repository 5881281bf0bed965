//! The whole of the crate on a fake board.

mod compound;
mod console;
mod devices;
mod fake;
mod held;
mod life;
mod manager;
mod memory;
mod nested;
mod psci;
mod random;
mod samples;
mod schedule;
mod scheduler;
mod stores;
mod trapped;
mod traps;
mod watchdog;

use penumbra_abi::{Call, Error, GicVersion, VmStatus};
use penumbra_vmsa::MIB;

use crate::run_loop::RunLoop;
use crate::system::System;
use fake::{Fake, GICD, GICR, Op, RAM, UART, board, call};

/// A board with its cores' loops.
struct Bench {
    system: &'static System,
    cores: Vec<Fake>,
    loops: Vec<RunLoop>,
}

/// X1 of the result, if the call succeeded.
fn ok(x: [u64; 7]) -> u64 {
    assert_eq!(Error::check(x[0]), Ok(()), "{x:x?}");
    x[1]
}

impl Bench {
    fn new(cpus: usize) -> Self {
        Self::on(cpus, 0)
    }

    /// On cores that have this ID_AA64MMFR0_EL1.
    fn on(cpus: usize, mmfr0: u64) -> Self {
        Self::with(cpus, mmfr0, GicVersion::V3)
    }

    /// On a board with this interrupt controller.
    fn with(cpus: usize, mmfr0: u64, gic: GicVersion) -> Self {
        let (system, cores) = board(cpus, mmfr0, gic);
        let loops = cores
            .iter()
            .map(|core| RunLoop::new(system, crate::machine::Core::cpu(core)).unwrap())
            .collect();
        Self {
            system,
            cores,
            loops,
        }
    }

    /// Steps every core in turn, `rounds` times.
    fn steps(&mut self, rounds: usize) {
        for _ in 0..rounds {
            for (core, run_loop) in self.cores.iter_mut().zip(&mut self.loops) {
                run_loop.step(core);
            }
        }
    }

    /// Lets the manager make a call and returns X0 to X6.
    fn call(&mut self, which: Call, arguments: &[u64]) -> [u64; 7] {
        let before = self.cores[0].log_of(0).len();
        self.cores[0].program(0, [call(which, arguments)]);
        // A manager that computes is left by the heartbeat only: make its core look around.
        self.cores[0].interrupt(0, crate::machine::intid::KICK);
        for _ in 0..200 {
            let log = self.cores[0].log_of(0);
            if log.len() > before {
                return log[before];
            }
            self.steps(1);
        }
        panic!("{which:?} does not return");
    }

    fn ok(&mut self, which: Call, arguments: &[u64]) -> u64 {
        ok(self.call(which, arguments))
    }

    fn error(&mut self, which: Call, arguments: &[u64]) -> Error {
        Error::check(self.call(which, arguments)[0]).unwrap_err()
    }

    /// Repeats a call that continues until X1 is `done`.
    fn finish(&mut self, which: Call, arguments: &[u64], done: u64) {
        self.count(which, arguments, done);
    }

    /// The same; how often it had to be called.
    fn count(&mut self, which: Call, arguments: &[u64], done: u64) -> usize {
        for calls in 1..100_000 {
            if self.ok(which, arguments) == done {
                return calls;
            }
        }
        panic!("{which:?} does not end");
    }

    /// A VM with devices, unpinned, without RAM.
    fn create(&mut self, vcpus: u64) -> u64 {
        let vm = self.ok(Call::VmCreate, &[vcpus, 3, 77]);
        self.ok(Call::VmGic, &[vm, GICD, GICR]);
        self.ok(Call::VmUart, &[vm, UART, 33]);
        vm
    }

    fn reserve(&mut self, vm: u64, bytes: u64) {
        self.finish(Call::VmMapRam, &[vm, RAM, bytes, 0, 0], bytes);
    }

    /// A started VM with 4 MiB of reserved RAM and its vCPUs on `cores`.
    fn guest(&mut self, cores: &[u64]) -> u64 {
        let vm = self.create(cores.len() as u64);
        self.reserve(vm, 4 * MIB);
        self.start(vm, cores);
        vm
    }

    fn start(&mut self, vm: u64, cores: &[u64]) {
        for (vcpu, core) in (0..).zip(cores) {
            self.ok(Call::VcpuPin, &[vm, vcpu, *core]);
        }
        self.ok(Call::VmStart, &[vm, RAM, 0x5005]);
    }

    fn status(&mut self, vm: u64) -> VmStatus {
        let x = self.call(Call::VmStatus, &[vm]);
        VmStatus::from_regs([ok(x), x[2], x[3], x[4], x[5], x[6]]).unwrap()
    }

    fn destroy(&mut self, vm: u64) {
        self.finish(Call::VmDestroy, &[vm], 1);
    }

    /// Runs the whole audit; the number of differences.
    fn audit(&mut self) -> u64 {
        for _ in 0..10_000 {
            let x = self.call(Call::Audit, &[]);
            if ok(x) == 1 {
                return x[2];
            }
        }
        panic!("the audit does not end");
    }

    /// Results of vCPU `index` of `vm`.
    fn log(&self, vm: u64, index: usize) -> Vec<[u64; 7]> {
        self.cores[0].log_of(number(vm, index))
    }

    fn program(&self, vm: u64, index: usize, ops: impl IntoIterator<Item = Op>) {
        self.cores[0].program(number(vm, index), ops);
    }
}

/// Number of a vCPU among all.
fn number(vm: u64, index: usize) -> usize {
    usize::try_from(vm).unwrap() * 8 + index
}

/// HVC with any function identifier.
fn hvc(id: u32, arguments: &[u64]) -> Op {
    let mut x = [0; 8];
    x[0] = id.into();
    x[1..=arguments.len()].copy_from_slice(arguments);
    Op::Hvc(x)
}

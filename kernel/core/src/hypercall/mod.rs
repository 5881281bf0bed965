//! The manager's calls. Nobody else gets here.
//!
//! Every argument is checked here or by who owns the object; a call that is refused has changed
//! nothing that the manager could not see by asking. Calls that continue keep their state in the VM.

mod audit;
mod build;
mod console;
mod device;
mod observe;
mod paging;
mod roots;
mod samples;
mod schedule;

use penumbra_abi::{ABI_VERSION, Call, Error, MAX_VMS};
use penumbra_vmsa::VmId;

pub(crate) use audit::Progress as AuditProgress;
pub(crate) use build::{create_in, pin_to};

use crate::machine::Machine;
use crate::manager;
use crate::system::System;
use crate::vcpu::{Blocked, Deferred, Place, Vcpu};
use crate::vm::Vm;

/// X1 to X6 of a call that succeeded.
pub type Values = [u64; 6];
/// What a call returns.
pub type Reply = Result<Values, Error>;

/// One value.
const fn one(value: u64) -> Values {
    [value, 0, 0, 0, 0, 0]
}

/// No value.
const NOTHING: Values = [0; 6];

/// X1 to X7 of a call.
pub type Arguments = [u64; 7];

/// Answers a call of the manager.
pub(crate) fn made(
    vcpu: &mut Vcpu,
    place: &'static Place,
    machine: &mut impl Machine,
    call: Call,
) -> Option<Deferred> {
    let [_, x1, x2, x3, x4, x5, x6, x7, ..] = vcpu.gpr.x;
    let arguments = [x1, x2, x3, x4, x5, x6, x7];
    if call == Call::Wait {
        return wait(vcpu, place, arguments);
    }
    let reply = machine.answer(place.system, call, arguments);
    let [x0, x1, x2, x3, x4, x5, x6, ..] = &mut vcpu.gpr.x;
    (*x0, [*x1, *x2, *x3, *x4, *x5, *x6]) = match reply {
        Ok(values) => {
            place.system.manager.note_call();
            (0, values)
        }
        Err(error) => (error.to_bits(), NOTHING),
    };
    None
}

/// `Wait`: the values are filled in when it ends.
fn wait(vcpu: &mut Vcpu, place: &'static Place, arguments: Arguments) -> Option<Deferred> {
    let [deadline, ..] = arguments;
    place.system.manager.note_wait();
    vcpu.blocked = Blocked::Events(deadline);
    if manager::end_wait(place.system, vcpu, false) {
        return None;
    }
    Some(Deferred::Block(Blocked::Events(deadline)))
}

/// Carries out a call, [`Call::Wait`] apart.
///
/// # Errors
/// As the call says.
pub fn answer(
    system: &'static System,
    machine: &mut impl Machine,
    call: Call,
    arguments: Arguments,
) -> Reply {
    let [x1, x2, x3, x4, x5, ..] = arguments;
    match call {
        Call::Version => Ok(one(ABI_VERSION.to_bits())),
        Call::BootInfo => Ok(manager::boot_info(system)),
        Call::BoardInfo => board_info(system, machine),
        // The run loop's business.
        Call::Wait => Err(Error::NotSupported),
        Call::BoardOff => {
            machine.power_off();
            Err(Error::NotSupported)
        }
        Call::BoardReset => {
            machine.reset();
            Err(Error::NotSupported)
        }
        Call::BoardClock => clock(system, x1),
        Call::ConsoleRead => console::read(system, machine, x1),
        Call::ConsoleWrite => console::write(system, machine, arguments),
        Call::VmCreate => build::create(system, machine, (x1, x2, x3)),
        Call::VmMapRam => build::map_ram(system, machine, (x1, x2, x3, x4, x5)),
        Call::VmStockAdd => build::add_stock(system, machine, x1),
        Call::VmUart => build::place_uart(system, (x1, x2, x3)),
        Call::VmGic => build::place_gic(system, machine, (x1, x2, x3)),
        Call::VcpuPin => build::pin(system, machine, (x1, x2, x3)),
        Call::GrantBegin => build::begin_grant(system, machine, (x1, x2, x3, x4)),
        Call::GrantEnd => build::end_grants(system, machine, x1),
        Call::VmStart => build::start(system, machine, (x1, x2, x3)),
        Call::VmStatus => observe::status(system, machine, x1),
        Call::VmStop => observe::stop(system, machine, x1),
        Call::VmDestroy => build::destroy(system, machine, x1),
        Call::VcpuRegister => observe::register(system, (x1, x2, x3)),
        Call::VcpuCounter => observe::counter(system, (x1, x2, x3)),
        Call::VmPause => observe::pause(system, machine, x1),
        Call::VmResume => observe::resume(system, machine, x1),
        Call::Audit => audit::audit(system, machine),
        Call::VcpuTime => observe::time(system, machine, (x1, x2)),
        Call::VmLeaves => observe::leaves(system, x1),
        Call::VmTraps => observe::traps(system, x1),
        Call::VmTrap => observe::trap(system, (x1, x2)),
        Call::PagingMode => paging::mode(system, machine, (x1, x2)),
        Call::PagingStatus => paging::status(system, machine, x1),
        Call::PagingRoots => roots::allow(system, machine, (x1, x2)),
        Call::PagingPool => paging::pool(system, machine, x1),
        Call::PagingSpace => paging::describe(system, machine, (x1, x2)),
        Call::PagingSurvey => paging::survey(system, machine, (x1, x2, x3)),
        Call::PagingShadow => paging::shadow(system, machine, arguments),
        Call::PagingDemote => paging::demote(system, machine, (x1, x2, x3, x4)),
        Call::PagingWorth => paging::worth(system, machine, arguments),
        Call::PagingRelayout => paging::relayout(system, machine, arguments),
        Call::PagingSettle => paging::settle(system, machine, (x1, x2)),
        Call::PagingHome => paging::home(system, machine, (x1, x2)),
        Call::PagingEpoch => samples::epoch(system, machine, (x1, x2, x3, x4)),
        Call::PagingRoot => roots::describe(system, machine, (x1, x2)),
        Call::PagingSpaceAdd => roots::add(system, machine, (x1, x2)),
        Call::PagingSpaceDrop => roots::remove(system, machine, (x1, x2)),
        Call::PagingCounter => paging::counter(system, machine, (x1, x2)),
        Call::PagingAudit => paging::audit(system, machine, (x1, x2)),
        Call::VmWatchdog => build::place_watchdog(system, (x1, x2, x3)),
        Call::VmWatchdogStatus => observe::watchdog(system, machine, x1),
        Call::ScheduleSet => schedule::set_window(system, (x1, x2, x3, x4)),
        Call::ScheduleInstall => schedule::install(system, machine, (x1, x2, x3)),
        Call::ScheduleStatus => schedule::status(system, x1),
        Call::ScheduleWindow => schedule::window(system, (x1, x2)),
        Call::RamSetAside => device::set_aside(system, machine, (x1, x2)),
        Call::VmMapDevice => device::map(system, machine, (x1, x2, x3)),
        Call::VmAssignSpi => device::assign_spi(system, (x1, x2, x3, x4)),
        Call::DeviceLend => device::lend(system, machine, (x1, x2, x3)),
    }
}

fn board_info(system: &System, machine: &impl Machine) -> Reply {
    let board = system.board().ok_or(Error::BadState)?;
    let (free, largest) = machine.free_bytes();
    Ok([
        board.facts.gic as u64,
        u64::try_from(board.facts.cpus).unwrap_or(0),
        board.facts.counter_hz,
        free,
        largest,
        u64::try_from(machine.list_registers()).unwrap_or(0),
    ])
}

fn clock(system: &System, number: u64) -> Reply {
    let board = system.board().ok_or(Error::BadState)?;
    let mut clocks = board.facts.clocks.iter();
    let found = clocks.find(|clock| u64::from(clock.number) == number);
    Ok(one(found.map_or(0, |clock| u64::from(clock.hz))))
}

/// A guest that exists. The manager itself is none.
#[inline(never)]
fn guest(system: &System, number: u64) -> Result<(VmId, &Vm), Error> {
    let id = VmId::new(number, MAX_VMS)
        .filter(|id| id.get() != 0)
        .ok_or(Error::NoSuchObject)?;
    let vm = system
        .vm(id.get())
        .filter(|vm| vm.exists())
        .ok_or(Error::NoSuchObject)?;
    Ok((id, vm))
}

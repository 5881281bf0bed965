//! Schedules of cores.

use penumbra_abi::{Error, ScheduleStatus, ScheduleWindow};
use penumbra_vmsa::CpuIndex;

use super::{NOTHING, Reply};
use crate::lock::Mutex;
use crate::machine::Machine;
use crate::schedule::Schedule;
use crate::system::System;
use crate::vcpu::VcpuId;

fn of(system: &System, core: u64) -> Result<(CpuIndex, &Mutex<Schedule>), Error> {
    let core = usize::try_from(core).map_err(|_| Error::NoSuchObject)?;
    let cpu = CpuIndex::new(core, system.cpus()).ok_or(Error::NoSuchObject)?;
    let schedule = system.schedule(cpu).ok_or(Error::NoSuchObject)?;
    Ok((cpu, schedule))
}

fn index(value: u64) -> Result<usize, Error> {
    usize::try_from(value).map_err(|_| Error::InvalidParameter)
}

pub(super) fn set_window(
    system: &System,
    (core, number, owner, us): (u64, u64, u64, u64),
) -> Reply {
    let (_, schedule) = of(system, core)?;
    schedule.lock().set_window(index(number)?, owner, us)?;
    Ok(NOTHING)
}

pub(super) fn install(
    system: &System,
    machine: &mut impl Machine,
    (core, count, frame_us): (u64, u64, u64),
) -> Reply {
    let (cpu, schedule) = of(system, core)?;
    let manager_is_here = system
        .core(cpu)
        .is_some_and(|core| core.pinned() & VcpuId::MANAGER.bit() != 0);
    schedule
        .lock()
        .install(index(count)?, frame_us, manager_is_here)?;
    system.alert_core(cpu, machine);
    Ok(NOTHING)
}

pub(super) fn status(system: &System, core: u64) -> Reply {
    let (_, schedule) = of(system, core)?;
    let schedule = schedule.lock();
    Ok(ScheduleStatus {
        windows: u64::try_from(schedule.table.count).unwrap_or(0),
        frame_us: schedule.table.frame_us,
        frames: schedule.frames,
        missed: schedule.missed,
        pending: schedule.has_next(),
    }
    .to_regs())
}

pub(super) fn window(system: &System, (core, number): (u64, u64)) -> Reply {
    let (_, schedule) = of(system, core)?;
    let schedule = schedule.lock();
    let window = schedule
        .table
        .windows()
        .get(index(number)?)
        .ok_or(Error::NoSuchObject)?;
    Ok(ScheduleWindow {
        owner: window.owner,
        us: window.us,
        starts: window.starts,
        least_ticks: window.least,
        most_ticks: window.most,
        sum_ticks: window.sum,
    }
    .to_regs())
}

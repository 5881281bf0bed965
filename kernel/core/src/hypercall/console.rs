//! Console calls: the board's console for the manager's own number, a guest's UART for a guest's.

use penumbra_abi::{CONSOLE_CHUNK_BYTES, Error, MANAGER_VM};

use super::{Arguments, Reply, guest, one};
use crate::exit;
use crate::machine::Machine;
use crate::system::System;

pub(super) fn read(system: &System, machine: &mut impl Machine, number: u64) -> Reply {
    let mut bytes = [0; CONSOLE_CHUNK_BYTES];
    let count = if number == MANAGER_VM {
        read_board(system, machine, &mut bytes)
    } else {
        let (vm, _) = guest(system, number)?;
        exit::drain(system, vm, machine, &mut bytes)
    };
    let mut values = one(u64::try_from(count).unwrap_or(0));
    let (words, _) = bytes.as_chunks::<8>();
    for (value, word) in values.iter_mut().skip(1).zip(words) {
        *value = u64::from_le_bytes(*word);
    }
    Ok(values)
}

/// Reads the board's console; when it is empty, its interrupt is wanted again.
fn read_board(system: &System, machine: &mut impl Machine, bytes: &mut [u8]) -> usize {
    let count = machine.console_read(bytes);
    if count < bytes.len() {
        system.events.set_input(false);
        let intid = system.board().map_or(0, |board| board.facts.console_intid);
        if intid != 0 {
            // Level-triggered: what came meanwhile interrupts at once.
            machine.set_spi_enabled(intid, true);
        }
    }
    count
}

pub(super) fn write(system: &System, machine: &mut impl Machine, arguments: Arguments) -> Reply {
    let [number, count, words @ ..] = arguments;
    let count = usize::try_from(count).map_err(|_| Error::InvalidParameter)?;
    let mut buffer = [0; CONSOLE_CHUNK_BYTES];
    let (chunks, _) = buffer.as_chunks_mut::<8>();
    for (chunk, word) in chunks.iter_mut().zip(words) {
        *chunk = word.to_le_bytes();
    }
    let bytes = buffer
        .get(..count)
        .filter(|b| !b.is_empty())
        .ok_or(Error::InvalidParameter)?;
    let taken = if number == MANAGER_VM {
        // Without waiting for the UART, at whose pace nobody on this core could be interrupted.
        machine.console_write(bytes)
    } else {
        let (vm, _) = guest(system, number)?;
        exit::receive(system, vm, machine, bytes)
    };
    Ok(one(u64::try_from(taken).unwrap_or(0)))
}

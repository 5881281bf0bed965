//! A guest's UART between guest and manager, and the board's console.

use penumbra_abi::{Call, Events, MANAGER_VM};

use super::Bench;
use super::fake::{Op, UART};

fn send(text: &[u8]) -> Vec<Op> {
    text.iter()
        .map(|byte| Op::Store(UART, 1, (*byte).into()))
        .collect()
}

#[test]
fn output_reaches_the_manager() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.program(vm, 0, send(b"the quick brown fox jumps over the lazy dog"));
    assert_eq!(bench.ok(Call::Wait, &[u64::MAX]), Events::OUTPUT.0);
    bench.steps(20);
    let mut text = Vec::new();
    loop {
        let x = bench.call(Call::ConsoleRead, &[vm]);
        let count = usize::try_from(x[1]).unwrap();
        if count == 0 {
            break;
        }
        let bytes: Vec<u8> = x[2..].iter().flat_map(|word| word.to_le_bytes()).collect();
        text.extend_from_slice(&bytes[..count]);
    }
    assert_eq!(text, b"the quick brown fox jumps over the lazy dog");
    let now = crate::machine::Core::counter(&bench.cores[0]);
    assert_eq!(bench.ok(Call::Wait, &[now + 10]), Events::DEADLINE.0);
}

#[test]
fn input_reaches_the_guest() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    assert_eq!(
        bench.ok(
            Call::ConsoleWrite,
            &[vm, 2, u64::from(u16::from_le_bytes(*b"ok"))]
        ),
        2
    );
    bench.program(
        vm,
        0,
        [
            Op::Load(UART + 0x18, 4),
            Op::Load(UART, 1),
            Op::Load(UART, 1),
            Op::Load(UART + 0x18, 2),
            Op::Load(UART + 0xfe1, 1),
        ],
    );
    bench.cores[0].interrupt(1, 0);
    bench.steps(3);
    let values: Vec<u64> = bench.log(vm, 0).iter().map(|x| x[1]).collect();
    assert_eq!(values, [0x87, b'o'.into(), b'k'.into(), 0x97, 0]);
    // The ring is finite.
    let taken: u64 = (0..10)
        .map(|_| bench.ok(Call::ConsoleWrite, &[vm, 40, 0, 0, 0, 0, 0]))
        .sum();
    assert_eq!(taken, 256);
}

#[test]
fn the_board_takes_what_it_has_room_for() {
    let mut bench = Bench::new(1);
    let mut taken = |room| {
        bench.cores[0].shared.lock().unwrap().console_room = room;
        bench.ok(Call::ConsoleWrite, &[MANAGER_VM, 40, 0, 0, 0, 0, 0])
    };
    // Nobody waits at EL2 for the rest.
    assert_eq!([0, 3, 100].map(&mut taken), [0, 3, 40]);
    assert_eq!(bench.cores[0].shared.lock().unwrap().console, [0; 43]);
}

#[test]
fn a_dead_manager_stops_no_guest() {
    let mut bench = Bench::new(2);
    let vm = bench.guest(&[1]);
    bench.steps(2);
    let text = vec![b'x'; 4096];
    bench.program(vm, 0, send(&text));
    bench.cores[0].interrupt(1, 0);
    bench.steps(3);
    assert_eq!(bench.log(vm, 0).len(), 4096);
    assert_ne!(bench.ok(Call::VcpuCounter, &[vm, 0, 8]), 0);
}

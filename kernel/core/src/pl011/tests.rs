use super::*;

const NOW: Time = Time {
    now: 1000,
    hz: 1_000_000,
};

fn later(ms: u64) -> Time {
    Time {
        now: NOW.now + ms * 1000,
        ..NOW
    }
}

fn device() -> Pl011 {
    let mut device = Pl011::new();
    device.reset();
    device
}

#[test]
fn a_calm_device_has_the_flags_of_one() {
    let mut device = device();
    assert!(device.is_calm());
    assert_eq!(device.read(reg::FR, || NOW), CALM_FLAGS);
    device.receive(b"a");
    assert!(!device.is_calm());
    device.read(reg::DR, || NOW);
    fill(&mut device);
    assert!(!device.is_calm());
    device.drain(&mut [0]);
    assert!(device.is_calm());
    assert_eq!(device.read(reg::FR, || NOW), CALM_FLAGS);
}

fn fill(device: &mut Pl011) {
    for _ in 0..TX_BYTES {
        assert_eq!(device.read(reg::FR, || NOW) & flag::TXFF, 0);
        device.write(reg::DR, b'x'.into(), || NOW);
    }
}

#[test]
fn linux_finds_the_peripheral() {
    let mut device = device();
    let id: u32 = (0..4)
        .map(|n| device.read(0xfe0 + 4 * n, || NOW) << (8 * n))
        .sum();
    // amba_id of drivers for the PL011: 0x0004_1011 under mask 0x000f_ffff.
    assert_eq!(id & 0x000f_ffff, 0x0004_1011);
    let cell: u32 = (0..4)
        .map(|n| device.read(0xff0 + 4 * n, || NOW) << (8 * n))
        .sum();
    assert_eq!(cell, 0xb105_f00d);
    assert_eq!(device.read(reg::CR, || NOW), 0x300);
}

#[test]
fn input_raises_the_line_until_it_is_read() {
    let mut device = device();
    assert_eq!(device.receive(b"ab"), 2);
    assert!(!device.level());
    device.write(reg::IMSC, interrupt::RX, || NOW);
    assert!(device.level());
    device.write(reg::ICR, u32::MAX, || NOW);
    assert!(device.level());
    assert_eq!(device.read(reg::DR, || NOW), b'a'.into());
    assert_eq!(device.read(reg::DR, || NOW), b'b'.into());
    assert!(!device.level());
    assert_eq!(device.read(reg::FR, || NOW) & flag::RXFE, flag::RXFE);
    assert_eq!(device.receive(&[0; 300]), RX_BYTES);
}

#[test]
fn a_full_ring_holds_the_guest_up_and_a_drain_lets_it_go() {
    let mut device = device();
    fill(&mut device);
    assert_eq!(
        device.read(reg::FR, || NOW) & (flag::TXFF | flag::TXFE),
        flag::TXFF
    );
    assert_eq!(device.read(reg::RIS, || NOW) & interrupt::TX, 0);
    let mut out = [0; 40];
    assert_eq!(device.drain(&mut out), 40);
    assert_eq!(device.read(reg::FR, || NOW) & flag::TXFF, 0);
    assert_eq!(device.read(reg::RIS, || NOW) & interrupt::TX, interrupt::TX);
    assert_eq!(device.lost_bytes(), 0);
}

#[test]
fn what_is_appended_is_what_is_written() {
    let mut device = device();
    assert!(!device.append(b'a'));
    assert!(!device.has_output());
    device.write(reg::DR, b'a'.into(), || NOW);
    // The last byte that fits fills the ring, which shows in other registers.
    for length in 1..TX_BYTES - 1 {
        assert!(device.append(b'b'), "{length}");
    }
    assert!(!device.append(b'c'));
    device.write(reg::ICR, interrupt::TX, || NOW);
    let mut out = [0; TX_BYTES];
    assert_eq!(device.drain(&mut out[..TX_BYTES - 4]), TX_BYTES - 4);
    assert!(!device.append(b'c'), "the interrupt is not pending");
    device.write(reg::DR, b'c'.into(), || NOW);
    assert!(device.append(b'd'));
    device.write(reg::CR, 0x381, || NOW);
    assert!(!device.append(b'e'), "the byte goes to the receiver");
    assert_eq!(device.drain(&mut out), 5);
    assert_eq!(out[..5], *b"bbbcd");
}

#[test]
fn a_dead_manager_stops_nobody() {
    let mut device = device();
    fill(&mut device);
    assert_ne!(device.read(reg::FR, || later(PATIENCE_MS)) & flag::TXFF, 0);
    assert_eq!(
        device.read(reg::FR, || later(PATIENCE_MS + 1)) & flag::TXFF,
        0
    );
    device.write(reg::DR, b'y'.into(), || later(PATIENCE_MS + 1));
    assert_eq!(device.lost_bytes(), 1);
    let mut out = [0; TX_BYTES];
    assert_eq!(device.drain(&mut out), TX_BYTES);
    assert_eq!(out[TX_BYTES - 1], b'y');
    fill(&mut device);
    assert_ne!(device.read(reg::FR, || NOW) & flag::TXFF, 0);
}

#[test]
fn a_writer_that_ignores_the_flag_loses_its_own_bytes() {
    let mut device = device();
    fill(&mut device);
    device.write(reg::DR, b'z'.into(), || NOW);
    assert_eq!(device.lost_bytes(), 1);
    let mut out = [0; TX_BYTES];
    device.drain(&mut out);
    assert!(out.iter().all(|byte| *byte == b'x'));
}

#[test]
fn loop_back_returns_what_is_sent() {
    let mut device = device();
    device.write(reg::CR, 0x381, || NOW);
    device.write(reg::DR, b'l'.into(), || NOW);
    assert_eq!(device.read(reg::DR, || NOW), b'l'.into());
    assert!(!device.has_output());
}

#[test]
fn every_offset_answers() {
    let mut device = device();
    for offset in 0..=0xfff {
        device.write(offset, u32::MAX, || NOW);
        device.read(offset, || NOW);
    }
}

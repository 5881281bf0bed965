//! The mailbox to the firmware, for what the device tree does not say: board revision, temperature and the
//! rates of clocks, which guests are told. EL2 asks once, at boot, and boots without an answer too.
//!
//! Requests are property messages (channel 8): a buffer of words in memory whose bus address goes into
//! one register and comes back from another. The firmware reads memory past EL2's caches.

use core::sync::atomic::{AtomicU32, Ordering};

use penumbra_hal::boot::EarlyBoot;
use penumbra_hal::cache;
use penumbra_hal::mmio::Mmio;
use penumbra_platform::{Clock, Facts, Firmware};

const READ: usize = 0x00;
const STATUS: usize = 0x18;
const WRITE: usize = 0x20;
const STATUS_EMPTY: u32 = 1 << 30;
const STATUS_FULL: u32 = 1 << 31;
/// Channel of property messages, in the low bits of the address.
const PROPERTIES: u32 = 8;
/// RAM below 1 GiB as the firmware's processor sees it without its cache.
const BUS: u32 = 0xc000_0000;
const BUS_END: usize = 0x4000_0000;
/// Polls before the firmware is given up.
const PATIENCE: u32 = 1_000_000;

const BOARD_REVISION: u32 = 0x0001_0002;
const CLOCK_RATE: u32 = 0x0003_0002;
const TEMPERATURE: u32 = 0x0003_0006;
/// The firmware's numbers of clocks (Linux, include/soc/bcm2835/raspberrypi-firmware.h).
const UART_CLOCK: u32 = 2;
const ARM_CLOCK: u32 = 3;
/// The clocks of devices that guests may have: the firmware's number, and that of the clock controller's nodes
/// (Linux, include/dt-bindings/clock/bcm2835.h). EMMC, UART, core (VPU), EMMC2.
const CLOCKS: [(u32, u32); 4] = [(1, 28), (UART_CLOCK, 19), (4, 20), (12, 51)];
const DONE: u32 = 0x8000_0000;

const WORDS: usize = 8;

/// A message: its size, its state, one tag with two words of value, the end.
#[repr(C, align(64))]
struct Message([AtomicU32; 16]);

static MESSAGE: Message = Message([const { AtomicU32::new(0) }; 16]);

/// Asks the firmware what board this is, and how fast its clocks run.
pub(crate) fn ask_firmware(early: &mut EarlyBoot, facts: &Facts<'_>) -> Firmware {
    let mut firmware = Firmware::default();
    let Some(range) = facts.mailbox.filter(|&range| !facts.ram.overlap(range)) else {
        log::warn!("the device tree has no mailbox: nothing is known of the board's revision");
        return firmware;
    };
    // SAFETY: a device by the device tree, and not RAM.
    let Ok(registers) = (unsafe { early.map_device(range.base, range.bytes()) }) else {
        return firmware;
    };
    let Some([revision, _]) = ask(registers, BOARD_REVISION, 0) else {
        log::warn!("the firmware does not answer through its mailbox");
        return firmware;
    };
    // The second word of both answers is the value.
    let value = |tag, argument| ask(registers, tag, argument).map_or(0, |[_, value]| value);
    firmware.revision = revision;
    firmware.cores_hz = value(CLOCK_RATE, ARM_CLOCK);
    firmware.millicelsius = value(TEMPERATURE, 0);
    for (slot, (clock, number)) in firmware.clocks.iter_mut().zip(CLOCKS) {
        let hz = value(CLOCK_RATE, clock);
        *slot = Clock { number, hz };
        if clock == UART_CLOCK {
            firmware.uart_hz = hz;
        }
    }
    firmware
}

/// Sends one tag whose value is two words; returns the two words of the answer.
fn ask(registers: Mmio, tag: u32, argument: u32) -> Option<[u32; 2]> {
    let address = MESSAGE.0.as_ptr().addr();
    if address >= BUS_END {
        return None;
    }
    let words = [4 * WORDS as u32, 0, tag, 8, 0, argument, 0, 0];
    for (slot, word) in MESSAGE.0.iter().zip(words) {
        slot.store(word, Ordering::Relaxed);
    }
    cache::clean_invalidate(address, size_of::<Message>());
    let letter = BUS | address as u32 | PROPERTIES;
    wait(registers, STATUS_FULL)?;
    registers.write32(WRITE, letter);
    for _ in 0..PATIENCE {
        wait(registers, STATUS_EMPTY)?;
        if registers.read32(READ) == letter {
            break;
        }
    }
    // What a core may have read ahead of the answer goes.
    cache::clean_invalidate(address, size_of::<Message>());
    let [_, state, _, _, _, first, second, ..] = &MESSAGE.0;
    let answer = [first, second].map(|word| word.load(Ordering::Relaxed));
    (state.load(Ordering::Relaxed) == DONE).then_some(answer)
}

/// Waits until a bit of the status is clear.
fn wait(registers: Mmio, bit: u32) -> Option<()> {
    (0..PATIENCE)
        .find(|_| registers.read32(STATUS) & bit == 0)
        .map(drop)
}

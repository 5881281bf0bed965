//! A small virtual machine monitor for KVM, so that a guest runs under it as it does on the board itself: one vCPU, RAM and
//! GICv3 where QEMU's `virt` board has them, a PL011 whose output is passed on, nothing else. What else the guest looks
//! for reads as zero. Linux's `Documentation/virt/kvm/api.rst` has the calls.

use core::ffi::CStr;

use crate::{Arguments, linux, mark};

/// RAM of the guest: where, and how much.
const RAM: usize = 0x4000_0000;
const RAM_BYTES: usize = 1 << 30;
/// Where QEMU loads a kernel and an initramfs of a `virt` board with that much RAM: the board's tree says so, too.
const KERNEL: usize = 0x20_0000;
const INITRAMFS: usize = 128 << 20;
const TREE_ALIGNMENT: usize = 2 << 20;
/// Largest device tree.
const TREE_BYTES: usize = 2 << 20;

const DISTRIBUTOR: u64 = 0x0800_0000;
const REDISTRIBUTOR: u64 = 0x080a_0000;
const UART: u64 = 0x0900_0000;
const UART_BYTES: u64 = 0x1000;

/// `_IO`, `_IOR`, `_IOW` and `_IOWR` of KVM's calls.
const fn call(direction: usize, bytes: usize, number: usize) -> usize {
    direction << 30 | bytes << 16 | 0xae << 8 | number
}
const WRITE: usize = 1;
const READ: usize = 2;
const CREATE_VM: usize = call(0, 0, 0x01);
const VCPU_MMAP_SIZE: usize = call(0, 0, 0x04);
const CREATE_VCPU: usize = call(0, 0, 0x41);
const SET_MEMORY: usize = call(WRITE, 32, 0x46);
const RUN: usize = call(0, 0, 0x80);
const SET_REGISTER: usize = call(WRITE, 16, 0xac);
const VCPU_INIT: usize = call(WRITE, 32, 0xae);
const PREFERRED_TARGET: usize = call(READ, 32, 0xaf);
const CREATE_DEVICE: usize = call(READ | WRITE, 12, 0xe0);
const SET_ATTRIBUTE: usize = call(WRITE, 24, 0xe1);

const GIC_V3: u32 = 7;
const GIC_ADDRESS: u64 = 0;
const GIC_CONTROL: u64 = 4;
/// `KVM_ARM_VCPU_PSCI_0_2`, a bit of the features.
const PSCI: u32 = 1 << 2;
/// A core register of 64 bits: its number follows, in words of 32 bits.
const CORE_REGISTER: u64 = 0x6030_0000_0010_0000;
const PC: u64 = 0x100 / 4;

const EXIT_MMIO: u32 = 6;
const EXIT_SYSTEM: u32 = 24;

/// Makes a call of KVM's with the address of something.
fn with<T>(file: usize, number: usize, argument: &mut T) -> usize {
    let at = core::ptr::from_mut(argument).expose_provenance();
    linux::ioctl(file, number, at)
}

fn set_register(vcpu: usize, register: u64, mut value: u64) {
    let at = (&raw mut value).expose_provenance() as u64;
    with(vcpu, SET_REGISTER, &mut [CORE_REGISTER | register, at]);
}

fn set_attribute(device: usize, group: u64, attribute: u64, mut value: u64) {
    let at = (&raw mut value).expose_provenance() as u64;
    // Flags, group in the upper half of the first word.
    with(device, SET_ATTRIBUTE, &mut [group << 32, attribute, at]);
}

/// What the guest has printed of a line.
struct Console {
    line: [u8; 256],
    used: usize,
}

impl Console {
    fn put(&mut self, byte: u8) {
        if let Some(place) = self.line.get_mut(self.used) {
            *place = byte;
            self.used += 1;
        }
        if byte == b'\n' || self.used == self.line.len() {
            linux::write(1, self.line.get(..self.used).unwrap_or_default());
            self.used = 0;
        }
    }

    /// A register of the PL011: its transmitter is always empty, as its receiver is. Arm DDI 0183, 3.2.
    fn read(offset: u64) -> u32 {
        const IDENTITY: [u8; 8] = [0x11, 0x10, 0x14, 0, 0x0d, 0xf0, 0x05, 0xb1];
        match offset {
            0x18 => 0x90,
            0xfe0.. => IDENTITY
                .get((offset as usize - 0xfe0) / 4)
                .map_or(0, |byte| u32::from(*byte)),
            _ => 0,
        }
    }
}

/// The page that a vCPU shares with the kernel, `struct kvm_run`.
struct Shared(usize);

impl Shared {
    fn field<T: Copy>(&self, offset: usize) -> T {
        let at = core::ptr::with_exposed_provenance::<T>(self.0 + offset);
        // SAFETY: the fields lie in the page, aligned, and the vCPU does not run.
        unsafe { at.read_volatile() }
    }

    fn answer(&self, value: u32) {
        let at = core::ptr::with_exposed_provenance_mut::<u64>(self.0 + 40);
        // SAFETY: as above; these are the eight bytes of data of an MMIO exit.
        unsafe { at.write_volatile(u64::from(value)) };
    }

    /// Does what the guest asks of a device.
    fn device(&self, console: &mut Console) {
        let (at, writes): (u64, u8) = (self.field(32), self.field(52));
        let offset = at.wrapping_sub(UART);
        match (offset < UART_BYTES, writes != 0) {
            (true, true) if offset == 0 => console.put(self.field(40)),
            (_, true) => {}
            (true, false) => self.answer(Console::read(offset)),
            (false, false) => self.answer(0),
        }
    }
}

/// Runs a guest until it goes off: its kernel, the device tree of a board like QEMU's, its initramfs. Opens the window of a test before its
/// first instruction.
pub(crate) fn run(test: usize, arguments: &mut Arguments) {
    let (kernel, tree, initramfs) = (arguments.text(), arguments.text(), arguments.text());
    let ram = linux::map_anonymous(RAM_BYTES, true);
    let load =
        |file: &CStr, offset: usize| linux::read_file(file, ram + offset, RAM_BYTES - offset);
    load(kernel, KERNEL);
    let end = INITRAMFS + load(initramfs, INITRAMFS);
    let place = end.next_multiple_of(TREE_ALIGNMENT);
    linux::read_file(tree, ram + place, TREE_BYTES);

    let kvm = linux::open(c"/dev/kvm");
    let vm = linux::ioctl(kvm, CREATE_VM, 0);
    let slot: [u64; 4] = [0, RAM as u64, RAM_BYTES as u64, ram as u64];
    with(vm, SET_MEMORY, &mut { slot });
    let vcpu = linux::ioctl(vm, CREATE_VCPU, 0);
    let mut gic: [u32; 3] = [GIC_V3, 0, 0];
    with(vm, CREATE_DEVICE, &mut gic);
    let gic = gic[1] as usize;
    set_attribute(gic, GIC_ADDRESS, 2, DISTRIBUTOR);
    set_attribute(gic, GIC_ADDRESS, 3, REDISTRIBUTOR);
    set_attribute(gic, GIC_CONTROL, 0, 0);
    let mut target = [0_u32; 8];
    with(vm, PREFERRED_TARGET, &mut target);
    target[1] |= PSCI;
    with(vcpu, VCPU_INIT, &mut target);
    set_register(vcpu, 0, (RAM + place) as u64);
    set_register(vcpu, PC, (RAM + KERNEL) as u64);

    let shared = Shared(linux::map_shared(
        vcpu,
        linux::ioctl(kvm, VCPU_MMAP_SIZE, 0),
    ));
    let mut console = Console {
        line: [0; 256],
        used: 0,
    };
    mark(test, true);
    loop {
        linux::ioctl(vcpu, RUN, 0);
        match shared.field::<u32>(8) {
            EXIT_MMIO => shared.device(&mut console),
            EXIT_SYSTEM => return,
            _ => linux::exit(4),
        }
    }
}

//! Real threads: senders against a vCPU that flushes only when it is told to.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread;

use penumbra_abi::GicVersion::V3;

use super::Board;
use crate::vgic::{Frame, SgiRegister, VcpuSet, Vgic};

const ROUNDS: usize = 2000;

/// Each sender waits until its SGI was taken before it sends the next: an interrupt that is lost, or
/// of which the vCPU is not told, hangs the test. Meanwhile its redistributor is written by others.
#[test]
fn no_sgi_is_lost_between_threads() {
    let Board {
        gic,
        mut cores,
        mut interfaces,
        ..
    } = Board::ready(V3, 4);
    let (mut core, mut interface) = (cores.remove(0), interfaces.remove(0));
    let gic = &gic;
    let (kick, done) = (&AtomicBool::new(false), &AtomicBool::new(false));
    let taken = &[const { AtomicUsize::new(0) }; 16];
    let tell = move |set: VcpuSet| {
        if set.contains(0) {
            kick.store(true, SeqCst);
        }
    };
    thread::scope(|scope| {
        let senders = [1, 2].map(|vcpu| scope.spawn(move || send(gic, vcpu, &taken[vcpu], tell)));
        scope.spawn(move || {
            while !done.load(SeqCst) {
                // SGI 2 goes off and on again, through vCPU 0's redistributor; the SPIs change too.
                for (offset, value) in [(0x1_0180, 4), (0x1_0100, 4), (0x1_0280, 8)] {
                    tell(gic.mmio_write(3, (Frame::Redistributors, offset, 4), value));
                }
                tell(gic.set_level(40, true));
                tell(gic.set_level(40, false));
                thread::yield_now();
            }
        });
        scope.spawn(move || {
            while !done.load(SeqCst) {
                if kick.swap(false, SeqCst) {
                    let _ = gic.flush(0, &mut interface, &mut core);
                }
                if core.maintenance() {
                    let _ = gic.on_maintenance(0, &mut interface, &mut core);
                }
                if let Some((intid, _)) = core.acknowledge_virtual() {
                    core.end_virtual(intid);
                    taken
                        .get(intid as usize)
                        .map(|count| count.fetch_add(1, SeqCst));
                }
                thread::yield_now();
            }
        });
        senders
            .into_iter()
            .for_each(|sender| sender.join().unwrap());
        done.store(true, SeqCst);
    });
    assert_eq!(
        [1, 2].map(|sgi: usize| taken[sgi].load(SeqCst)),
        [ROUNDS; 2]
    );
}

fn send(gic: &Vgic, vcpu: usize, taken: &AtomicUsize, tell: impl Fn(VcpuSet)) {
    for round in 0..ROUNDS {
        tell(gic.send_sgi(vcpu, SgiRegister::Sgi1, (vcpu as u64) << 24 | 1));
        while taken.load(SeqCst) == round {
            thread::yield_now();
        }
    }
}

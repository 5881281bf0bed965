//! Short scripts that failed once, with the fix that they are for.

use penumbra_oracle::compound::Mutation;

use crate::guest::Op;
use crate::rig::{Rig, Setup};

fn passes(script: &[Op]) {
    for thin in [false, true] {
        let setup = Setup {
            thin,
            lows: [0, 5, 15, 16, 300, 511],
        };
        let failed = Rig::new(Mutation::Honest, setup).run(script);
        assert_eq!(failed, Ok(()), "thin: {thin}");
    }
}

/// A table that two roots of the low half share came to hold global leaves in a row; with one of the
/// roots installed they were 2 MiB, with the other 4 KiB, and nobody flushed between.
#[test]
fn global_leaves_of_the_low_half() {
    passes(&[
        Op::Fill {
            page: 7,
            out: 9,
            attrs: 1,
        },
        Op::Plant {
            vcpu: 0,
            context: 1,
        },
        Op::Shadow {
            context: 1,
            probe: 3,
            level: 3,
        },
    ]);
}

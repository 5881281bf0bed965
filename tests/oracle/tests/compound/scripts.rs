//! Short scripts that failed once, with the fix that they are for.

use penumbra_oracle::compound::{Mutation, Shape};
use penumbra_vmsa::Level;

use crate::guest::{How, Op};
use crate::rig::{Rig, Setup};

fn passes(script: &[Op]) {
    let starts = [Level::L1, Level::L0];
    for (thin, start) in [false, true]
        .into_iter()
        .flat_map(|thin| starts.map(|start| (thin, start)))
    {
        let shape = Shape {
            start,
            flat: false,
            lows: [0, 5, 15, 16, 300, 511],
        };
        let failed = Rig::new(
            Mutation::Honest,
            Setup {
                thin,
                spare: None,
                shape,
            },
        )
        .run(script);
        assert_eq!(failed, Ok(()), "thin: {thin}, {start:?}");
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

/// A region that shows one page twice was re-laid out: the page went on to its second place, and the leaf
/// showed what it had been exchanged with in the first.
#[test]
fn a_region_that_shows_a_page_twice() {
    let how = How {
        decodable: true,
        soften: true,
        precise: true,
    };
    let all = Op::Move {
        eighths: 8,
        look: 0,
    };
    for (index, other) in [(8, 0), (1, 0), (0, 8)] {
        passes(&[
            Op::Touch,
            Op::Twice { index, other, how },
            Op::Relayout {
                user: true,
                partner: 3,
                anew: false,
            },
            all,
            all,
        ]);
    }
}

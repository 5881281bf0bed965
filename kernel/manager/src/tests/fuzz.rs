//! Whatever the bundle holds, the manager answers: it starts what is whole and refuses the rest.

use penumbra_bundle::Bundle;
use proptest::prelude::*;

use super::*;
use crate::hypervisor::Granules;
use crate::image::Image;
use crate::serve;

/// Lets the manager loose on a bundle. Returns what it made of it.
fn ending(bundle: &[u8]) -> (Ending, Fake) {
    let mut fake = Fake::new();
    let ending = serve(&mut fake, bundle, revival(0));
    (ending, fake)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn mutated_bundles_are_refused_in_one_sentence(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        near_start in any::<bool>(),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let good = bundle(vec![guest("linux")]);
        let mut bytes = good.clone();
        let reach = if near_start { 200 } else { bytes.len() };
        for (at, value) in flips {
            bytes[at.index(reach)] ^= value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(good.len()));
        }
        let (_, fake) = ending(&bytes);
        let parts = |bytes: &[u8]| -> Option<Vec<Vec<u8>>> {
            let bundle = Bundle::parse(bytes).ok()?;
            let part = |n| Some(bundle.part(n).ok()?.verified().ok()?.to_vec());
            (0..bundle.part_count()).map(part).collect()
        };
        if parts(&bytes) == parts(&good) {
            // Only padding was hit.
            prop_assert_eq!(fake.count("VmStart"), 1);
        } else {
            prop_assert_eq!(fake.count("VmStart"), 0);
            prop_assert_eq!(fake.screen.matches("penumbra: fatal: ").count(), 1);
        }
        prop_assert_eq!(fake.misuse, Vec::<String>::new());
    }

    #[test]
    fn any_kernel_header_is_answered(
        text_offset in prop_oneof![0u64..4 * MIB, any::<u64>()],
        image_bytes in prop_oneof![0u64..100 * MIB, any::<u64>()],
        flags in any::<u64>(),
        bytes in 64usize..5000,
        memory in 1u64..64,
    ) {
        let mut linux = guest("linux");
        linux.kernel.bytes = kernel(bytes, image_bytes, text_offset, flags).into();
        linux.memory_bytes = 2 * MIB * memory;
        let (_, fake) = ending(&bundle(vec![linux]));
        if fake.count("VmStart") == 1 {
            let vm = &fake.vms[&1];
            let end = crate::map::RAM_IPA + 2 * MIB * memory;
            for (ipa, bytes) in &vm.written {
                prop_assert!(*ipa >= crate::map::RAM_IPA && ipa + bytes.len() as u64 <= end);
            }
            prop_assert!(crate::map::RAM_IPA + text_offset + image_bytes <= end);
        } else {
            prop_assert_eq!(fake.screen.matches("penumbra: fatal: ").count(), 1);
        }
        prop_assert_eq!(fake.misuse, Vec::<String>::new());
    }

    #[test]
    fn any_bytes_may_be_called_a_kernel(bytes in prop::collection::vec(any::<u8>(), 0..1000)) {
        let mut file = bytes;
        let _ = Image::parse(&file, Granules::default());
        if let Some(magic) = file.get_mut(56..60) {
            magic.copy_from_slice(b"ARM\x64");
            let _ = Image::parse(&file, Granules::default());
        }
    }
}

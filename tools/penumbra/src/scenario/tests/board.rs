//! Keys of the board, and what a guest gets of it.

use super::*;

#[test]
fn keys_of_the_board_are_read() {
    let scenario = read(&format!(
        "{GOOD}backing = \"direct\"\ndma = \"trusted\"\naddress = 0x6000_0000\ndevices = [\"rtc0\", \"/a@1\"]\n"
    ))
    .unwrap();
    let guest = &scenario.guests[0];
    assert_eq!(guest.backing, Backing::Direct);
    assert_eq!(
        (guest.address, guest.dma_trusted),
        (Some(0x6000_0000), true)
    );
    assert_eq!(guest.devices[1].word, "/a@1");
    assert_eq!(guest.lines.get(penumbra_bundle::Key::Devices), Some(9));
}

#[test]
fn an_address_without_direct_memory() {
    extra("address = 0x6000_0000", &["only a direct guest", "backing"]);
}

#[test]
fn an_odd_address() {
    let odd = format!("{GOOD}backing = \"direct\"\naddress = 0x6010_0000\n");
    one(&odd, "7: ", &["a multiple of 2 MiB, not 0x60100000"]);
    let below = format!("{GOOD}backing = \"direct\"\naddress = -2\n");
    one(&below, "7: ", &["a multiple of 2 MiB"]);
}

#[test]
fn trust_without_direct_memory() {
    extra("dma = \"trusted\"", &["has no effect", "backing"]);
}

#[test]
fn a_dma_policy_that_does_not_exist() {
    let text = format!("{GOOD}backing = \"direct\"\ndma = \"trust\"\n");
    one(
        &text,
        "7: ",
        &["`dma` cannot be \"trust\"", "did you mean \"trusted\"?"],
    );
}

#[test]
fn devices_that_are_no_list_of_paths() {
    extra("devices = \"/pl031@9010000\"", &["a list of paths"]);
    extra("devices = [1]", &["text in quotes"]);
    extra("devices = [\"\"]", &["no path in a device tree"]);
    extra("devices = [\"/a b\"]", &["no path in a device tree"]);
    extra("devices = [\"/a\", \"/a\"]", &["named twice"]);
}

#[test]
fn too_many_devices() {
    let many: Vec<String> = (0..65).map(|n| format!("\"/d@{n}\"")).collect();
    extra(
        &format!("devices = [{}]", many.join(", ")),
        &["at most 64 devices"],
    );
}

#[test]
fn a_quota_of_a_direct_guest() {
    let text = format!("{GOOD}backing = \"direct\"\nquota = \"64 MiB\"\n");
    one(&text, "7: ", &["only a thin guest has a quota"]);
}

//! A process that reads scattered memory at random: the policy tries trapped roots, samples its walks and
//! puts its pages in order.

use std::thread::sleep;
use std::time::Duration;

use super::guest;
use crate::board::Board;
use crate::case::Case;
use crate::workshop::{Setup, Workshop};

const LIMIT: Duration = Duration::from_secs(300);
/// Looks at the policy's work, a second apart.
const LOOKS: u32 = 120;
/// Regions that have to be under one leaf in the end: 16 MiB.
const LEAST_RELAID: u64 = 8;
/// Fills some 60 MiB of anonymous memory, then reads and writes it at random for ever.
const READER: &str = "busybox awk 'BEGIN{n=400000;for(i=0;i<n;i++)a[i]=i;print \"read\" \"er-runs\";\
                      while(1){k=int(rand()*n);if(a[k]!=k)print \"wr\" \"ong\"}}' &";

/// The tests.
pub(super) fn cases() -> Vec<Case> {
    let name = "compound-user-linux-cloud-gicv3-2vcpu-thin";
    vec![Case::new(name.to_owned(), false, move |w| reader(w, name))]
}

fn reader(w: &Workshop, name: &str) -> Result<(), String> {
    let more = format!(
        "backing = \"thin\"\npaging = \"compound\"\npaging_copy = \"64 MiB\"\nkernel = \"{}\"\n\
         initrd = \"{}\"\ncmdline = \"console=ttyAMA0 quiet transparent_hugepage=never\"",
        w.cached("linux-cloud/vmlinuz").display(),
        w.initramfs().display(),
    );
    let toml = guest("linux", 2, "512 MiB", &more);
    let setup = Setup {
        gic: 3,
        ram_mib: 2048,
        ..Setup::default()
    };
    let mut board = w.boot(name, &toml, &setup)?;
    board.expect("# ", LIMIT)?;
    board.send(READER)?;
    board.expect("reader-runs", LIMIT)?;
    board.send("\x1ds")?;
    board.expect("penumbra> ", LIMIT)?;
    await_relaid(&mut board)?;
    board.send("paging audit linux")?;
    board.expect("every mirror agrees with the guest's tables", LIMIT)?;
    board.send("audit")?;
    board.expect("every frame that a VM sees is its own", LIMIT)?;
    board.send("console linux")?;
    board.expect("console of guest 1", LIMIT)?;
    board.send("kill %1; poweroff")?;
    let console = board.off(LIMIT)?;
    if console.contains("wrong") {
        return Err("the reader found other data than it had written".into());
    }
    Ok(())
}

fn await_relaid(board: &mut Board) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..LOOKS {
        board.send("paging show linux")?;
        board.expect("guest 'linux': ", LIMIT)?;
        last = board.until("last decisions", LIMIT)?;
        if counted(&last, "regions re-laid out").is_some_and(|count| count >= LEAST_RELAID) {
            return Ok(());
        }
        sleep(Duration::from_secs(1));
    }
    Err(format!("too few regions were put in order:\n{last}"))
}

/// A counter of `paging show`.
fn counted(shown: &str, what: &str) -> Option<u64> {
    let (_, rest) = shown.split_once(what)?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_counter_is_read() {
        let shown = "  regions re-laid out             12   pages moved 6144\n";
        assert_eq!(super::counted(shown, "regions re-laid out"), Some(12));
        assert_eq!(super::counted(shown, "stores mirrored"), None);
    }
}

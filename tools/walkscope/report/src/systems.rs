//! The workloads, and the systems that they run on.

use std::path::PathBuf;

use clap::ValueEnum;

/// What a workload is called, by the number of its test.
pub(crate) const WORKLOADS: [(u64, &str); 17] = [
    (0, "boot"),
    (1, "cat to a pipe"),
    (2, "tar to tar (pipe)"),
    (3, "random pread, 64 bytes"),
    (4, "random access, mapped file"),
    (5, "random access, anonymous, 4 KiB pages"),
    (6, "random access, anonymous, THP"),
    (7, "fork and exec"),
    (8, "mmap churn"),
    (9, "pipes ping-pong"),
    (10, "shell pipelines"),
    (11, "find and grep over small files"),
    (12, "check: chase, 16384 pages x 4"),
    (13, "redis: GET"),
    (14, "redis: GET, pipelined"),
    (15, "sqlite, mapped database"),
    (16, "xapian, searches"),
];

/// What a test is called.
pub(crate) fn describes(number: u64) -> String {
    let known = WORKLOADS.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("test {number}"), |(_, name)| (*name).to_owned())
}

/// Whether a test is part of the total: the boot is as long as all others together, and the check is no load.
pub(crate) fn counts(number: u64) -> bool {
    !matches!(number, 0 | 12)
}

/// The script that the guest runs at the end of its start-up.
const SCRIPT: &str = "#!/bin/busybox sh
# The workloads of walkscope; the numbers are tests.
w=/opt/walkload
$w 0 off
$w 0 seed
sleep SETTLE
dd if=/dev/zero of=/tmp/data bs=1M count=MIB 2>/dev/null
dd if=/tmp/data of=/tmp/part bs=1M count=PART 2>/dev/null
mkdir -p /tmp/tree
i=0
while [ $i -lt FILES ]; do
    head -c 12000 /bin/busybox >/tmp/tree/$i
    i=$((i + 1))
done
$w 1 on; cat /tmp/part | cat >/dev/null; $w 1 off
$w 2 on; tar -C /tmp -cf - tree | tar -tf - >/dev/null; $w 2 off
$w 3 pread /tmp/data BYTES READS
$w 4 gups BYTES ACCESSES file /tmp/data
$w 7 exec EXECS
$w 8 churn CHURNS
$w 9 pipes ROUNDS
$w 10 on
i=0
while [ $i -lt LINES ]; do
    echo $i | sed s/1/2/ | cat >/dev/null
    i=$((i + 1))
done
$w 10 off
$w 11 on; find /tmp/tree -type f | xargs grep -l penumbra >/dev/null; $w 11 off
$w 12 chase 16384 4
rm /tmp/data
$w 5 gups BYTES ACCESSES small
$w 6 gups BYTES ACCESSES huge
ifconfig lo up
redis-server --save \"\" --appendonly no --daemonize yes >/dev/null
redis=\"redis-benchmark -q -d 100 -r KEYS\"
until $redis -P 64 -t set -n KEYS >/dev/null; do :; done
$w 13 on; $redis -t get -n GETS; $w 13 off
$w 14 on; $redis -P 16 -t get -n PIPED; $w 14 off
killall redis-server
sqlite3 /tmp/db 'PRAGMA journal_mode = off; PRAGMA synchronous = off;
CREATE TABLE t (id INTEGER PRIMARY KEY, b TEXT);
WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i + 1 < ROWS)
INSERT INTO t SELECT i, hex(zeroblob(150)) FROM n;' >/dev/null
$w 15 on
sqlite3 /tmp/db 'PRAGMA mmap_size = 1073741824;
WITH RECURSIVE r(i, x) AS (SELECT 1, 1 UNION ALL SELECT i + 1, (x * 1103515245 + 12345) % 2147483648 FROM r WHERE i < LOOKUPS)
SELECT sum(length(b)) FROM r JOIN t ON t.id = r.x / 64 % ROWS;'
$w 15 off
rm /tmp/db
awk 'BEGIN { srand(1); for (d = 0; d < DOCUMENTS; d++) {
    for (n = 0; n < 80; n++) printf \"w%d \", 20000 * rand() * rand() * rand(); print \"\"; print \"\" } }' >/tmp/text
simpleindex /tmp/index </tmp/text >/dev/null
$w 16 on
i=0
while [ $i -lt QUERIES ]; do
    simplesearch /tmp/index w$((i * 37)) w$((i * i)) w$i >/dev/null
    i=$((i + 1))
done
$w 16 off
echo walkscope: done
grep -q walkscope.wait /proc/cmdline && read line
poweroff -f
";

/// Virtual seconds between the boot and the first workload, in which the manager's policy settles. An idle guest's time
/// costs next to nothing under `-icount`.
const SETTLE_SECONDS: u32 = 20;

/// The script at full size, or about a tenth of it: 32 MB instead of 256, and smaller counts.
pub(crate) fn script(short: bool) -> String {
    let sizes: [(&str, u32, u32); 18] = [
        ("SETTLE", SETTLE_SECONDS, SETTLE_SECONDS),
        ("BYTES", 256 << 20, 32 << 20),
        ("MIB", 256, 32),
        ("PART", 24, 4),
        ("FILES", 400, 30),
        ("ACCESSES", 150_000, 20_000),
        ("READS", 40_000, 4000),
        ("EXECS", 60, 8),
        ("CHURNS", 1500, 100),
        ("ROUNDS", 3000, 200),
        ("LINES", 40, 4),
        ("KEYS", 200_000, 20_000),
        ("GETS", 10_000, 500),
        ("PIPED", 100_000, 5000),
        ("ROWS", 400_000, 40_000),
        ("LOOKUPS", 40_000, 2000),
        ("DOCUMENTS", 1200, 60),
        ("QUERIES", 40, 3),
    ];
    sizes
        .iter()
        .fold(SCRIPT.to_owned(), |text, (word, full, less)| {
            text.replace(word, &if short { less } else { full }.to_string())
        })
}

/// What runs between the workloads and the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum System {
    /// Nothing: Linux at EL1 of a board without EL2.
    Bare,
    /// Penumbra with reserved memory.
    Reserved,
    /// Penumbra with thin memory.
    Thin,
    /// Penumbra with reserved memory, paging `compound`.
    CompoundReserved,
    /// Penumbra with thin memory, paging `compound`.
    CompoundThin,
}

impl System {
    /// All, in the order of the tables.
    pub(crate) const ALL: [Self; 5] = [
        Self::Bare,
        Self::Reserved,
        Self::Thin,
        Self::CompoundReserved,
        Self::CompoundThin,
    ];

    /// Name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare metal",
            Self::Reserved => "Penumbra nested, reserved",
            Self::Thin => "Penumbra nested, thin",
            Self::CompoundReserved => "Penumbra compound, reserved",
            Self::CompoundThin => "Penumbra compound, thin",
        }
    }

    /// Short name, for files.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Reserved => "reserved",
            Self::Thin => "thin",
            Self::CompoundReserved => "compound-reserved",
            Self::CompoundThin => "compound-thin",
        }
    }

    /// Backing and paging of the guest, as `penumbra image` takes them.
    pub(crate) fn guest(self) -> [&'static str; 2] {
        match self {
            Self::Bare | Self::Reserved => ["reserved", "nested"],
            Self::Thin => ["thin", "nested"],
            Self::CompoundReserved => ["reserved", "compound"],
            Self::CompoundThin => ["thin", "compound"],
        }
    }

    /// Whether something stands for the guest's tables.
    pub(crate) fn compound(self) -> bool {
        matches!(self, Self::CompoundReserved | Self::CompoundThin)
    }

    /// Cores of the board: the manager has one of its own.
    pub(crate) fn cores(self) -> usize {
        if self == Self::Bare { 1 } else { 2 }
    }

    /// RAM of the board in MiB; the guest has 1 GiB everywhere.
    pub(crate) fn ram_mib(self) -> u64 {
        if self == Self::Bare { 1024 } else { 2048 }
    }
}

/// Files that a run needs.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) plugin: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initramfs: PathBuf,
    pub(crate) image: PathBuf,
}

/// QEMU's arguments: the recipe that makes two runs equal, RAM in a file, the plugin.
pub(crate) fn arguments(
    system: System,
    files: &Files,
    bundle: &str,
    ram: &str,
    plugin_options: &str,
    gic: u8,
) -> Vec<String> {
    let megabytes = system.ram_mib();
    let virtualization = if system == System::Bare { "off" } else { "on" };
    let mut words: Vec<String> = [
        "-object",
        &format!("memory-backend-file,id=m,size={megabytes}M,mem-path={ram},share=on"),
        "-machine",
        &format!(
            "virt,virtualization={virtualization},gic-version={gic},memory-backend=m,dtb-randomness=off"
        ),
        "-cpu",
        "cortex-a72",
        "-smp",
        &system.cores().to_string(),
        "-m",
        &format!("{megabytes}M"),
        "-nic",
        "none",
        "-display",
        "none",
        "-monitor",
        "none",
        "-serial",
        "stdio",
        "-icount",
        "shift=0,sleep=off",
        "-seed",
        "1",
        "-rtc",
        "base=2026-01-01,clock=vm",
    ]
    .map(str::to_owned)
    .to_vec();
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    if system == System::Bare {
        words.extend(["-kernel".into(), path(&files.kernel)]);
        words.extend(["-initrd".into(), path(&files.initramfs)]);
        words.extend(["-append".into(), CMDLINE.into()]);
    } else {
        words.extend(["-kernel".into(), path(&files.image)]);
        words.extend(["-initrd".into(), bundle.into()]);
    }
    let plugin = path(&files.plugin);
    let smp = system.cores();
    words.extend([
        "-plugin".into(),
        format!("{plugin},ram={ram}:0x40000000,smp={smp},{plugin_options}"),
    ]);
    words
}

/// The guest's command line.
pub(crate) const CMDLINE: &str = "console=ttyAMA0 nokaslr";

/// The same for a guest that waits for a line of input before it goes off.
pub(crate) const CMDLINE_WAIT: &str = "console=ttyAMA0 nokaslr walkscope.wait";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_of_the_script_has_a_name() {
        for word in SCRIPT.lines().flat_map(|line| line.split("$w ").skip(1)) {
            let number: u64 = word.split(' ').next().unwrap().parse().unwrap();
            assert!(
                WORKLOADS.iter().any(|(known, _)| *known == number),
                "{number}"
            );
        }
        for (number, name) in WORKLOADS {
            assert!(SCRIPT.contains(&format!("$w {number} ")), "{name}");
        }
    }

    #[test]
    fn bare_metal_has_no_el2_and_a_hypervisor_has_a_bundle() {
        let files = Files {
            plugin: "p.so".into(),
            kernel: "k".into(),
            initramfs: "i".into(),
            image: "img".into(),
        };
        let line = |system| arguments(system, &files, "b", "/r", "out=o", 3).join(" ");
        let bare = line(System::Bare);
        assert!(bare.contains("virtualization=off") && bare.contains("-initrd i -append"));
        let thin = line(System::Thin);
        assert!(thin.contains("virtualization=on") && thin.contains("-kernel img -initrd b"));
        assert!(thin.contains("p.so,ram=/r:0x40000000,smp=2,out=o"));
    }
}

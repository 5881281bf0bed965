//! The workloads, and the systems that they run on.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::guest::Guest;
use crate::{kvm, xen};

/// What a workload is called, by the number of its test.
pub(crate) const WORKLOADS: [(u64, &str); 22] = [
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
    (18, "boot, PREEMPT_RT"),
    (17, "cyclictest, PREEMPT_RT"),
    (21, "start, no operating system"),
    (19, "static 4 KiB tables, random access"),
    (20, "static 4 KiB tables, 32 tasks"),
];

/// What a test is called.
pub(crate) fn describes(number: u64) -> String {
    let known = WORKLOADS.iter().find(|(known, _)| *known == number);
    known.map_or_else(|| format!("test {number}"), |(_, name)| (*name).to_owned())
}

/// Whether a test is part of the total: a boot is as long as all others together, and the check is no load.
pub(crate) fn counts(number: u64) -> bool {
    !matches!(number, 0 | 12 | 18 | 21)
}

/// The script that the guest runs at the end of its start-up.
const SCRIPT: &str = "#!/bin/busybox sh
# The workloads of walkscope; the numbers are tests.
w=/opt/walkload
$w 0 off
$w 0 seed
layout=$(sed -n 's/.*walkscope.layout=//p' /proc/cmdline)
[ -z \"$layout\" ] || $w 0 scatter $layout &
warm=$(sed -n 's/.*walkscope.warm=\\([0-9]*\\).*/\\1/p' /proc/cmdline)
rest() { [ -z \"$warm\" ] || sleep SETTLE; }
sleep SETTLE
finish() {
    echo walkscope: done
    grep -q walkscope.wait /proc/cmdline && read line
    poweroff -f
}
if grep -q PREEMPT_RT /proc/version; then
    $w 17 on; cyclictest -q -m -p 90 -i 1000 -l LATENCIES; $w 17 off
    finish
fi
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
rest; $w 4 gups BYTES ACCESSES file /tmp/data $warm
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
rest; $w 5 gups BYTES ACCESSES small $warm
rest; $w 6 gups BYTES ACCESSES huge
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
finish
";

/// Virtual seconds between the boot and the first workload, in which the manager's policy settles. An idle guest's time
/// costs next to nothing under `-icount`.
const SETTLE_SECONDS: u32 = 20;

/// The script at full size, or about a tenth of it: 32 MB instead of 256, and smaller counts.
pub(crate) fn script(short: bool) -> String {
    let sizes: [(&str, u32, u32); 19] = [
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
        ("LATENCIES", 5000, 500),
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
    /// Xen without a dom0.
    Xen,
    /// KVM of the release's kernel at EL2 and EL1 (nVHE), with transparent huge pages.
    Kvm,
    /// Penumbra with reserved memory, paging `shadow`.
    Shadow,
    /// Penumbra with reserved memory, paging `compound`.
    CompoundReserved,
    /// Penumbra with thin memory, paging `compound`.
    CompoundThin,
    /// Penumbra with reserved memory, paging `compound`, and 64 MiB a second of user memory put in order.
    UsersReserved,
    /// The same with thin memory.
    UsersThin,
}

impl System {
    /// Those that run by default, in the order of the tables.
    pub(crate) const ALL: [Self; 8] = [
        Self::Bare,
        Self::Reserved,
        Self::Thin,
        Self::Xen,
        Self::Kvm,
        Self::Shadow,
        Self::CompoundReserved,
        Self::CompoundThin,
    ];

    /// Name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare metal",
            Self::Reserved => "Penumbra nested, reserved",
            Self::Thin => "Penumbra nested, thin",
            Self::Xen => "Xen dom0less",
            Self::Kvm => "KVM nVHE",
            Self::Shadow => "Penumbra shadow, reserved",
            Self::CompoundReserved => "Penumbra compound, reserved",
            Self::CompoundThin => "Penumbra compound, thin",
            Self::UsersReserved => "Penumbra compound, reserved, users too",
            Self::UsersThin => "Penumbra compound, thin, users too",
        }
    }

    /// Short name, for files.
    pub(crate) fn short(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::Reserved => "reserved",
            Self::Thin => "thin",
            Self::Xen => "xen",
            Self::Kvm => "kvm",
            Self::Shadow => "shadow",
            Self::CompoundReserved => "compound-reserved",
            Self::CompoundThin => "compound-thin",
            Self::UsersReserved => "users-reserved",
            Self::UsersThin => "users-thin",
        }
    }

    /// Backing and paging of the guest, as `penumbra image` takes them.
    pub(crate) fn guest(self) -> [&'static str; 2] {
        match self {
            Self::Bare | Self::Xen | Self::Kvm | Self::Reserved => ["reserved", "nested"],
            Self::Thin => ["thin", "nested"],
            Self::Shadow => ["reserved", "shadow"],
            Self::CompoundReserved | Self::UsersReserved => ["reserved", "compound"],
            Self::CompoundThin | Self::UsersThin => ["thin", "compound"],
        }
    }

    /// Whether something stands for the guest's tables.
    pub(crate) fn compound(self) -> bool {
        self.users()
            || matches!(
                self,
                Self::Shadow | Self::CompoundReserved | Self::CompoundThin
            )
    }

    /// Whether the memory of processes may be put in order.
    pub(crate) fn users(self) -> bool {
        matches!(self, Self::UsersReserved | Self::UsersThin)
    }

    /// Cores of the board: the manager has one of its own.
    pub(crate) fn cores(self) -> usize {
        if self.penumbra() { 2 } else { 1 }
    }

    /// Whether it is Penumbra.
    pub(crate) fn penumbra(self) -> bool {
        !matches!(self, Self::Bare | Self::Xen | Self::Kvm)
    }

    /// RAM of the board in MiB; the guest has 1 GiB everywhere.
    pub(crate) fn ram_mib(self) -> u64 {
        if self == Self::Bare { 1024 } else { 2048 }
    }
}

/// What runs: a system with a guest. Layouts other than 0 scatter the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) system: System,
    pub(crate) guest: Guest,
    pub(crate) layout: u32,
}

impl Load {
    /// System, guest and layout, for files and people.
    pub(crate) fn name(self) -> String {
        let Self {
            system,
            guest,
            layout,
        } = self;
        let name = format!("{}{}", system.short(), guest.suffix());
        if layout == 0 {
            name
        } else {
            format!("{name}-layout{layout}")
        }
    }
}

/// Files that a run needs.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) plugin: PathBuf,
    /// The folder of the fetched kernels.
    pub(crate) kernels: PathBuf,
    /// The guest without an operating system.
    pub(crate) payload: PathBuf,
    pub(crate) initramfs: PathBuf,
    /// The loads' program.
    pub(crate) load: PathBuf,
    pub(crate) image: PathBuf,
    pub(crate) xen: PathBuf,
}

impl Files {
    /// The guest's program.
    pub(crate) fn kernel(&self, guest: Guest) -> PathBuf {
        match guest.kernel() {
            Some(folder) => self.kernels.join(folder).join("vmlinuz"),
            None => self.payload.clone(),
        }
    }
}

/// QEMU's arguments for a system's board, with more properties of the machine.
pub(crate) fn board(system: System, more: &str) -> Vec<String> {
    let virtualization = if system == System::Bare { "off" } else { "on" };
    let machine =
        format!("virt,virtualization={virtualization},gic-version=3,dtb-randomness=off{more}");
    [
        "-machine",
        &machine,
        "-cpu",
        "cortex-a72",
        "-smp",
        &system.cores().to_string(),
        "-m",
        &format!("{}M", system.ram_mib()),
        "-nic",
        "none",
        "-display",
        "none",
        "-monitor",
        "none",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// QEMU's arguments: the recipe that makes two runs equal, RAM in a file, the plugin.
/// Without options there is no plugin.
pub(crate) fn arguments(
    load: Load,
    files: &Files,
    short: bool,
    bundle: &str,
    ram: &str,
    plugin_options: Option<&str>,
) -> Vec<String> {
    let Load {
        system,
        guest,
        layout,
    } = load;
    let mut words = board(system, ",memory-backend=m");
    let megabytes = system.ram_mib();
    words.extend([
        "-object".into(),
        format!("memory-backend-file,id=m,size={megabytes}M,mem-path={ram},share=on"),
    ]);
    // The way to end QEMU from the console.
    let serial = if system == System::Xen {
        "mon:stdio"
    } else {
        "stdio"
    };
    words.extend(["-serial".into(), serial.into()]);
    let equal = [
        "-icount",
        "shift=0,sleep=off",
        "-seed",
        "1",
        "-rtc",
        "base=2026-01-01,clock=vm",
    ];
    words.extend(equal.map(str::to_owned));
    let path = |path: &PathBuf| path.to_string_lossy().into_owned();
    let loader = |file: PathBuf, at: u64| {
        let file = path(&file);
        [
            "-device".into(),
            format!("loader,file={file},addr={at:#x},force-raw=on"),
        ]
    };
    match system {
        System::Bare => {
            words.extend(["-kernel".into(), path(&files.kernel(guest))]);
            if guest.linux() {
                words.extend(["-initrd".into(), path(&files.initramfs)]);
            }
            words.extend(["-append".into(), guest.cmdline(system, short, layout)]);
        }
        System::Kvm => {
            let host = files.kernels.join(kvm::HOST).join("vmlinuz");
            words.extend(["-kernel".into(), path(&host)]);
            words.extend(["-initrd".into(), bundle.into()]);
            words.extend(["-append".into(), kvm::CMDLINE.into()]);
        }
        System::Xen => {
            words.extend([
                "-kernel".into(),
                path(&files.xen),
                "-dtb".into(),
                bundle.into(),
            ]);
            words.extend(loader(files.kernel(guest), xen::KERNEL));
            if guest.linux() {
                words.extend(loader(files.initramfs.clone(), xen::INITRAMFS));
            }
        }
        _ => {
            words.extend(["-kernel".into(), path(&files.image)]);
            words.extend(["-initrd".into(), bundle.into()]);
        }
    }
    if let Some(options) = plugin_options {
        let plugin = path(&files.plugin);
        let smp = system.cores();
        words.extend([
            "-plugin".into(),
            format!("{plugin},ram={ram}:0x40000000,smp={smp},{options}"),
        ]);
    }
    words
}

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
            let scripted = SCRIPT.contains(&format!("$w {number} "));
            let by_others =
                Guest::ALL.iter().any(|g| g.boot() == number) || [19, 20].contains(&number);
            assert!(scripted || by_others, "{name}");
        }
    }

    #[test]
    fn bare_metal_has_no_el2_and_a_hypervisor_has_a_bundle() {
        let load = |system, guest| Load {
            system,
            guest,
            layout: 0,
        };
        let files = Files {
            plugin: "p.so".into(),
            kernels: "k".into(),
            payload: "p.bin".into(),
            initramfs: "i".into(),
            load: "l".into(),
            image: "img".into(),
            xen: "x".into(),
        };
        let line = |system, guest| {
            arguments(load(system, guest), &files, true, "b", "/r", Some("out=o")).join(" ")
        };
        let none = arguments(
            load(System::Bare, Guest::Linux),
            &files,
            true,
            "b",
            "/r",
            None,
        );
        assert!(!none.join(" ").contains("plugin"));
        let bare = line(System::Bare, Guest::Linux);
        assert!(bare.contains("virtualization=off") && bare.contains("-initrd i -append console="));
        assert!(bare.contains("-kernel k/linux-cloud/vmlinuz"));
        let bare = line(System::Bare, Guest::Static);
        assert!(
            bare.contains("-kernel p.bin -append accesses=20000 ") && !bare.contains("-initrd")
        );
        let xen = line(System::Xen, Guest::Linux);
        assert!(
            xen.contains("virtualization=on")
                && xen.contains("-kernel x -dtb b -device loader,file=k/")
        );
        let xen = line(System::Xen, Guest::Static);
        assert!(xen.contains("loader,file=p.bin,") && !xen.contains("loader,file=i,"));
        let kvm = line(System::Kvm, Guest::Realtime);
        assert!(
            kvm.contains("virtualization=on")
                && kvm.contains("-kernel k/linux-cloud/vmlinuz -initrd b -append console=")
        );
        let thin = line(System::Thin, Guest::Realtime);
        assert!(thin.contains("virtualization=on") && thin.contains("-kernel img -initrd b"));
        assert!(thin.contains("p.so,ram=/r:0x40000000,smp=2,out=o"));
    }
}

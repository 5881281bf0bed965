//! What a benchmark needs, built and run: files of the tree, one system with one guest at a time.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use penumbra::toolchain::Project;

use crate::bench::BenchArgs;
use crate::console::{self, Ended, Watch};
use crate::figures::{self, Run};
use crate::guest::Guest;
use crate::progress::Progress;
use crate::systems::{self, Files, Load, System};
use crate::{kvm, programs, xen};

/// A load that has run.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    /// The commit that it ran at.
    pub(crate) commit: String,
    /// CPU time that QEMU took.
    pub(crate) cpu: Duration,
    pub(crate) run: Run,
    /// Why some of its workloads are missing.
    pub(crate) problem: Option<String>,
}

/// Where things are.
pub(crate) struct Tree {
    project: Project,
    pub(crate) root: PathBuf,
    target: PathBuf,
    out: PathBuf,
}

impl Tree {
    /// The tree of sources that this is run in.
    pub(crate) fn find() -> Result<Self, String> {
        let project =
            Project::find().map_err(|_| "this is not inside a tree of Penumbra's sources")?;
        let root = project.root().to_path_buf();
        let target = project
            .output()
            .parent()
            .map(Path::to_path_buf)
            .unwrap_or_default();
        let out = target.join("bench");
        fs::create_dir_all(&out).map_err(|error| format!("{}: {error}", out.display()))?;
        Ok(Self {
            project,
            root,
            target,
            out,
        })
    }

    fn cargo(&self, words: &[&str]) -> Result<(), String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        succeed(Command::new(cargo).args(words).current_dir(&self.root))
    }

    /// Fetches what is missing of Debian's packages.
    fn fetch(&self, loads: &[Load]) -> Result<(), String> {
        let mut wanted = vec![("busybox", "busybox"), ("programs", "usr/bin/cyclictest")];
        wanted.extend(
            loads
                .iter()
                .filter_map(|load| Some((load.guest.kernel()?, "vmlinuz"))),
        );
        for (system, what, file) in [
            (System::Xen, "xen", "xen"),
            (System::Kvm, kvm::HOST, "vmlinuz"),
        ] {
            if loads.iter().any(|load| load.system == system) {
                wanted.push((what, file));
            }
        }
        let cache = self.root.join(".cache/arm64");
        wanted.retain(|(what, file)| !cache.join(what).join(file).is_file());
        if wanted.is_empty() {
            return Ok(());
        }
        let mut fetch = Command::new(self.root.join("tools/fetch-arm64"));
        succeed(fetch.args(wanted.iter().map(|(what, _)| what)))
    }

    /// Builds the plugin, Penumbra and the guests' loads, which a script runs, and fetches what is missing.
    pub(crate) fn build(&self, loads: &[Load], script: &str) -> Result<Files, String> {
        const TARGET: &str = penumbra::toolchain::TARGET;
        let cache = self.root.join(".cache/arm64");
        self.fetch(loads)?;
        self.cargo(&[
            "build",
            "-q",
            "--release",
            "-p",
            "penumbra-walkscope-plugin",
            "-p",
            "penumbra",
        ])?;
        let workload = [
            "build",
            "-q",
            "--release",
            "-p",
            "penumbra-walkscope-workload",
        ];
        self.cargo(&[&workload[..], &["--target", TARGET]].concat())?;
        let files = Files {
            plugin: self.target.join("release/libwalkscope.so"),
            initramfs: self.out.join("walks.initramfs.gz"),
            load: self.target.join(TARGET).join("release/walkload"),
            image: self.target.join("penumbra/penumbra-qemu-virt.img"),
            kernels: cache.clone(),
            xen: cache.join("xen/xen"),
            payload: self.out.join("static_tables.img"),
        };
        self.save("walks.sh", script)?;
        let mut added = programs::files(&cache.join("programs"))?;
        added.push((files.load.clone(), "opt/walkload".into()));
        self.initramfs(&self.out.join("walks.sh"), &added, &files.initramfs)?;
        if loads.iter().any(|load| load.guest == Guest::Static) {
            self.flatten("static_tables", &files.payload)?;
        }
        if loads.iter().any(|load| load.system.penumbra()) {
            succeed(self.penumbra().arg("build").stdout(Stdio::null()))?;
        }
        Ok(files)
    }

    /// Packs an initramfs with a script and files.
    fn initramfs(
        &self,
        script: &Path,
        added: &[(PathBuf, String)],
        to: &Path,
    ) -> Result<(), String> {
        let busybox = self.root.join(".cache/arm64/busybox/busybox");
        let mut pack = self.penumbra();
        pack.arg("initramfs").arg("--busybox").arg(&busybox);
        pack.arg("--script").arg(script);
        for (from, to) in added {
            pack.arg("--add").arg(format!("{}=/{to}", from.display()));
        }
        succeed(pack.arg("-o").arg(to))
    }

    /// Builds a payload as a flat image.
    fn flatten(&self, name: &str, to: &Path) -> Result<(), String> {
        let built = self.project.cargo_build("penumbra-payloads", name, &[]);
        let elf = built.map_err(|problem| problem.message)?;
        let objcopy = self.project.llvm("llvm-objcopy");
        let mut objcopy = objcopy.map_err(|problem| problem.message)?;
        succeed(objcopy.args(["-O", "binary"]).arg(elf).arg(to))
    }

    fn penumbra(&self) -> Command {
        let mut command = Command::new(self.target.join("release/penumbra"));
        command.current_dir(&self.root);
        command
    }

    /// Writes the device tree with the guest for Xen.
    fn xen_tree(&self, load: Load, files: &Files, short: bool, to: &Path) -> Result<(), String> {
        let guest = load.guest;
        let failed = |error: std::io::Error| format!("{}: {error}", to.display());
        let mut qemu = Command::new(penumbra::qemu::program());
        qemu.args(systems::board(
            System::Xen,
            &format!(",dumpdtb={}", to.display()),
        ));
        succeed(qemu.stdout(Stdio::null()))?;
        let board = fs::read(to).map_err(failed)?;
        let bytes = |path: &Path| {
            let found = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()));
            found.map(|found| found.len())
        };
        let mut cmdline = guest.cmdline(load.system, short, load.layout);
        if !guest.linux() {
            cmdline.push_str(&xen::devices());
        }
        let tree = xen::tree(
            &board,
            &xen::Domain {
                kernel_bytes: bytes(&files.kernel(guest))?,
                initramfs_bytes: match guest.linux() {
                    true => Some(bytes(&files.initramfs)?),
                    false => None,
                },
                cmdline: &cmdline,
            },
        )?;
        fs::write(to, tree).map_err(failed)
    }

    /// Packs a guest with the host that runs it under KVM.
    fn kvm_host(&self, load: Load, files: &Files, short: bool, to: &Path) -> Result<(), String> {
        // The guest finds what it finds on the board without EL2, but for the ITS.
        let tree = to.with_extension("dtb");
        let mut qemu = Command::new(penumbra::qemu::program());
        let more = format!(",its=off,dumpdtb={}", tree.display());
        qemu.args(systems::board(System::Bare, &more));
        qemu.arg("-kernel").arg(files.kernel(load.guest));
        if load.guest.linux() {
            qemu.arg("-initrd").arg(&files.initramfs);
        }
        qemu.args([
            "-append",
            &load.guest.cmdline(load.system, short, load.layout),
        ]);
        succeed(qemu.stdout(Stdio::null()))?;
        let script = to.with_extension("sh");
        fs::write(&script, kvm::script(load.guest))
            .map_err(|error| format!("{}: {error}", script.display()))?;
        self.initramfs(&script, &kvm::files(files, load.guest, tree), to)
    }

    /// Packs the guest: a bundle for Penumbra, a device tree for Xen, an initramfs for KVM.
    fn bundle(&self, load: Load, files: &Files, short: bool) -> Result<String, String> {
        let Load {
            system,
            guest,
            layout,
        } = load;
        let bundle = self.out.join(format!("{}.bundle", name(load)));
        if system == System::Xen {
            self.xen_tree(load, files, short, &bundle)?;
        } else if system == System::Kvm {
            self.kvm_host(load, files, short, &bundle)?;
        } else if system.penumbra() {
            let mut command = self.penumbra();
            command.args(["image", "--vcpus", "1", "--memory", "1 GiB", "--smp", "2"]);
            let [backing, paging] = system.guest();
            command.args(["--backing", backing, "--paging", paging]);
            command.args(["--cmdline", &guest.cmdline(system, short, layout)]);
            command.arg("--kernel").arg(files.kernel(guest));
            if guest.linux() {
                command.arg("--initrd").arg(&files.initramfs);
            }
            command.arg("-o").arg(&bundle).stdout(Stdio::null());
            succeed(&mut command)?;
        }
        Ok(bundle.to_string_lossy().into_owned())
    }

    /// QEMU with a load, without the plugin if there are no options for it.
    pub(crate) fn run(
        &self,
        load: Load,
        files: &Files,
        (short, scratch): (bool, &Path),
        plugin: Option<&str>,
        watch: (Duration, &(dyn Fn(&str) + Sync)),
    ) -> Result<Ended, String> {
        let bundle = self.bundle(load, files, short)?;
        let (_file, ram) = ram(scratch, load)?;
        let words = systems::arguments(load, files, short, &bundle, &ram, plugin);
        let mut qemu = Command::new(penumbra::qemu::program());
        qemu.args(words);
        let steps: &[console::Step] = match load.system {
            System::Xen => &console::QUIT,
            system if system.compound() && load.guest.linux() => &console::SHOW_PAGING,
            _ => &[],
        };
        let (limit, line) = watch;
        console::run(qemu, steps, &Watch { limit, line })
    }

    /// One run of one system with one guest.
    pub(crate) fn measure(
        &self,
        load: Load,
        files: &Files,
        args: &BenchArgs,
        progress: &Progress,
    ) -> Result<Measured, String> {
        let Load { system, guest, .. } = load;
        let commit = self.commit();
        let out = self.out.join(format!("{}.plugin.json", name(load)));
        // Until the new results are there, there are none.
        let _ = fs::remove_file(self.out.join(format!("{}.stamp", name(load))));
        let _ = fs::remove_file(&out);
        let mut options = format!("out={},cores={},progress=on", out.display(), args.cores);
        if args.cores.contains("@sweep") {
            options.push_str(",modes=as-is");
        } else if system != System::Bare {
            // The synthetic columns are compared on bare metal.
            options.push_str(",modes=as-is+native");
        }
        if args.verify {
            options.push_str(",verify=on");
        }
        progress.begun(load);
        let limit = Duration::from_secs(60 * args.limit);
        let line = |line: &str| progress.line(load, line);
        let how = (args.short, args.scratch.as_path());
        let ended = self.run(load, files, how, Some(&options), (limit, &line))?;
        progress.ended(load, ended.cpu);
        let log = format!("{}.log", name(load));
        self.save(&log, &ended.printed)?;
        let run = figures::read(system.name(), &out)?;
        let problem = (!ended.printed.contains(console::DONE)).then(|| {
            format!(
                "{}, {guest:?}: the workloads did not come to their end (the limit is {} minutes); the console is in {}",
                system.name(),
                args.limit,
                self.out.join(log).display()
            )
        });
        if problem.is_none() {
            let stamp = stamp(&commit, args, ended.cpu);
            self.save(&format!("{}.stamp", name(load)), &stamp)?;
        }
        Ok(Measured {
            commit,
            cpu: ended.cpu,
            run,
            problem,
        })
    }

    /// The last run of a system, if it was with these options.
    pub(crate) fn last(&self, load: Load, args: &BenchArgs) -> Option<Measured> {
        let path = |end: &str| self.out.join(format!("{}.{end}", name(load)));
        let found = fs::read_to_string(path("stamp")).ok()?;
        let mut words = found.split(' ');
        let commit = words.next()?.to_owned();
        let cpu = Duration::from_millis(words.next()?.strip_prefix("cpu_ms=")?.parse().ok()?);
        if found != stamp(&commit, args, cpu) {
            return None;
        }
        Some(Measured {
            run: figures::read(load.system.name(), &path("plugin.json")).ok()?,
            commit,
            cpu,
            problem: None,
        })
    }

    pub(crate) fn commit(&self) -> String {
        first_line(
            Command::new("git")
                .args(["describe", "--always", "--dirty"])
                .current_dir(&self.root),
        )
    }

    /// A file among the results.
    pub(crate) fn output(&self, name: &str) -> PathBuf {
        self.out.join(name)
    }

    pub(crate) fn save(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.out.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// What a run was of: the commit, its time, the options, and the loads by a digest of the script.
fn stamp(commit: &str, args: &BenchArgs, cpu: Duration) -> String {
    let mut loads = DefaultHasher::new();
    systems::script(args.short).hash(&mut loads);
    format!(
        "{commit} cpu_ms={} short={} cores={} loads={:x}{}\n",
        cpu.as_millis(),
        args.short,
        args.cores,
        loads.finish(),
        if args.verify { " verified" } else { "" }
    )
}

/// A file for a guest's RAM, and where QEMU and the plugin find it as long as it is open here. It has no name by then: however this
/// program ends, nothing is left behind.
fn ram(scratch: &Path, load: Load) -> Result<(fs::File, String), String> {
    let path = scratch.join(format!("{}-{}.ram", name(load), std::process::id()));
    let failed = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = fs::File::create(&path).map_err(failed)?;
    fs::remove_file(&path).map_err(failed)?;
    file.set_len(load.system.ram_mib() << 20).map_err(failed)?;
    let open = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
    Ok((file, open))
}

fn name(load: Load) -> String {
    format!("walks-{}", load.name())
}

/// Bytes that are free where the guests' RAM goes; `None` where `df` does not say.
pub(crate) fn free_bytes(folder: &Path) -> Option<u64> {
    let mut df = Command::new("df");
    let output = df
        .args(["-B1", "--output=avail"])
        .arg(folder)
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().nth(1)?.trim().parse().ok()
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let name = Path::new(command.get_program()).display().to_string();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} failed ({status})")),
        Err(error) => Err(format!("cannot start {name}: {error}")),
    }
}

/// The first line that a command prints.
pub(crate) fn first_line(command: &mut Command) -> String {
    let output = command
        .output()
        .map(|output| output.stdout)
        .unwrap_or_default();
    String::from_utf8_lossy(&output)
        .lines()
        .next()
        .unwrap_or("unknown")
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_has_no_name_and_can_be_opened_all_the_same() {
        let load = Load {
            system: System::Bare,
            guest: Guest::Static,
            layout: 0,
        };
        let folder = std::env::temp_dir().join(format!("walkscope-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (_file, path) = ram(&folder, load).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
        let again = fs::OpenOptions::new().read(true).write(true).open(&path);
        assert_eq!(again.unwrap().metadata().unwrap().len(), 1 << 30);
        fs::remove_dir(&folder).unwrap();
    }
}

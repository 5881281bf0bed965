//! What a benchmark needs, built and run: files of the tree, one system with one guest at a time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use penumbra::toolchain::Project;

use crate::bench::BenchArgs;
use crate::figures::{self, Run};
use crate::guest::Guest;
use crate::systems::{self, Files, System};
use crate::{console, programs, xen};

/// What runs: a system and its guest.
pub(crate) type Load = (System, Guest);

/// Where things are.
pub(crate) struct Tree {
    project: Project,
    pub(crate) root: PathBuf,
    target: PathBuf,
    out: PathBuf,
}

impl Tree {
    pub(crate) fn new(project: Project) -> Result<Self, String> {
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

    /// Builds the plugin, the guests' loads and Penumbra, and looks for what is fetched.
    pub(crate) fn build(&self, loads: &[Load], short: bool) -> Result<Files, String> {
        const TARGET: &str = penumbra::toolchain::TARGET;
        let cache = self.root.join(".cache/arm64");
        let busybox = cache.join("busybox/busybox");
        let kernels = loads.iter().filter_map(|(_, guest)| guest.kernel());
        let mut wanted: Vec<PathBuf> = kernels.map(|k| cache.join(k).join("vmlinuz")).collect();
        if loads.iter().any(|(system, _)| *system == System::Xen) {
            wanted.push(cache.join("xen/xen"));
        }
        wanted.extend([busybox.clone(), cache.join("programs/usr/bin/cyclictest")]);
        if let Some(path) = wanted.iter().find(|path| !path.is_file()) {
            return Err(format!(
                "{} is missing: `tools/fetch-arm64 busybox linux-cloud linux-rt programs xen` fetches it",
                path.display()
            ));
        }
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
            image: self.target.join("penumbra/penumbra-qemu-virt.img"),
            kernels: cache.clone(),
            xen: cache.join("xen/xen"),
            payload: self.out.join("static_tables.img"),
        };
        let script = self.out.join("walks.sh");
        fs::write(&script, systems::script(short))
            .map_err(|error| format!("{}: {error}", script.display()))?;
        let load = self.target.join(TARGET).join("release/walkload");
        let mut pack = self.penumbra();
        pack.arg("initramfs").arg("--busybox").arg(&busybox);
        pack.arg("--script").arg(&script);
        let mut added = programs::files(&cache.join("programs"))?;
        added.push((load, "opt/walkload".into()));
        for (from, to) in added {
            pack.arg("--add").arg(format!("{}=/{to}", from.display()));
        }
        succeed(pack.arg("-o").arg(&files.initramfs))?;
        if loads.iter().any(|(_, guest)| *guest == Guest::Static) {
            self.flatten("static_tables", &files.payload)?;
        }
        if loads.iter().any(|(system, _)| system.penumbra()) {
            succeed(self.penumbra().arg("build").stdout(Stdio::null()))?;
        }
        Ok(files)
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
    fn xen_tree(&self, guest: Guest, files: &Files, short: bool, to: &Path) -> Result<(), String> {
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
        let tree = xen::tree(
            &board,
            &xen::Domain {
                kernel_bytes: bytes(&files.kernel(guest))?,
                initramfs_bytes: bytes(&files.initramfs)?,
                cmdline: &guest.cmdline(false, short),
            },
        )?;
        fs::write(to, tree).map_err(failed)
    }

    /// Packs the guest: a bundle for Penumbra, a device tree for Xen.
    fn bundle(&self, load: Load, files: &Files, short: bool) -> Result<String, String> {
        let (system, guest) = load;
        let bundle = self.out.join(format!("{}.bundle", name(load)));
        if system == System::Xen {
            self.xen_tree(guest, files, short, &bundle)?;
        } else if system.penumbra() {
            let mut command = self.penumbra();
            command.args(["image", "--vcpus", "1", "--memory", "1 GiB", "--smp", "2"]);
            let [backing, paging] = system.guest();
            command.args(["--backing", backing, "--paging", paging]);
            command.args(["--cmdline", &guest.cmdline(system.compound(), short)]);
            command.arg("--kernel").arg(files.kernel(guest));
            if guest.linux() {
                command.arg("--initrd").arg(&files.initramfs);
            }
            command.arg("-o").arg(&bundle).stdout(Stdio::null());
            succeed(&mut command)?;
        }
        Ok(bundle.to_string_lossy().into_owned())
    }

    /// One run of one system with one guest.
    pub(crate) fn measure(
        &self,
        load: Load,
        files: &Files,
        args: &BenchArgs,
    ) -> Result<Run, String> {
        let (system, guest) = load;
        let commit = self.commit();
        let bundle = self.bundle(load, files, args.short)?;
        let ram = args
            .scratch
            .join(format!("{}-{}.ram", name(load), std::process::id()));
        let file = fs::File::create(&ram).map_err(|error| format!("{}: {error}", ram.display()))?;
        file.set_len(system.ram_mib() << 20)
            .map_err(|error| format!("{}: {error}", ram.display()))?;
        let out = self.out.join(format!("{}.plugin.json", name(load)));
        let _ = fs::remove_file(&out);
        let mut options = format!("out={},cores={}", out.display(), args.cores);
        if args.cores.contains("@sweep") {
            options.push_str(",modes=as-is");
        } else if system != System::Bare {
            // The synthetic columns are compared on bare metal.
            options.push_str(",modes=as-is+native");
        }
        if args.verify {
            options.push_str(",verify=on");
        }
        let ram_name = ram.to_string_lossy();
        let words = systems::arguments(load, files, args.short, &bundle, &ram_name, &options);
        let mut qemu = Command::new(penumbra::qemu::program());
        qemu.args(words);
        let steps: &[console::Step] = match system {
            System::Xen => &console::QUIT,
            _ if system.compound() && guest.linux() => &console::SHOW_PAGING,
            _ => &[],
        };
        let printed = console::run(qemu, steps);
        let _ = fs::remove_file(&ram);
        let printed = printed?;
        let log = format!("{}.log", name(load));
        self.save(&log, &printed)?;
        if !printed.contains(console::DONE) {
            return Err(format!(
                "{}: the workloads did not come to their end; the console is in {}",
                system.name(),
                self.out.join(log).display()
            ));
        }
        let run = figures::read(system.name(), &out)?;
        self.save(&format!("{}.stamp", name(load)), &stamp(&commit, args))?;
        Ok(run)
    }

    /// The commit and results of the last run of a system, if it was with these options.
    pub(crate) fn last(&self, load: Load, args: &BenchArgs) -> Option<(String, Run)> {
        let path = |end: &str| self.out.join(format!("{}.{end}", name(load)));
        let found = fs::read_to_string(path("stamp")).ok()?;
        let commit = found.split(' ').next()?.to_owned();
        if found != stamp(&commit, args) {
            return None;
        }
        let run = figures::read(load.0.name(), &path("plugin.json")).ok()?;
        Some((commit, run))
    }

    pub(crate) fn commit(&self) -> String {
        first_line(
            Command::new("git")
                .args(["describe", "--always", "--dirty"])
                .current_dir(&self.root),
        )
    }

    pub(crate) fn save(&self, name: &str, text: &str) -> Result<(), String> {
        let path = self.out.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// What a run was of.
fn stamp(commit: &str, args: &BenchArgs) -> String {
    format!("{commit} short={} cores={}\n", args.short, args.cores)
}

fn name((system, guest): Load) -> String {
    format!("walks-{}{}", system.short(), guest.suffix())
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

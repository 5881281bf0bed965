//! What the tests need: the image, the payloads, the guests' files, bundles and boards.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use penumbra::initramfs::modules::{self, Module};
use penumbra::initramfs::{self, Contents};
use penumbra::qemu::{self, Machine, Rpi4};
use penumbra::scenario::Scenario;
use penumbra::toolchain::Project;
use penumbra::{build, hardware, image};

use crate::board::Board;

/// The load that the Linux tests run in the guest.
const LOAD: &str = concat!(
    include_str!("../guest/begin.sh"),
    include_str!("../guest/load.sh")
);
/// The storm on address spaces, and the modules that it wants.
const STORM: &str = concat!(
    include_str!("../guest/begin.sh"),
    include_str!("../guest/storm.sh")
);
const STORM_MODULES: [&str; 2] = ["brd", "virtio_net"];
/// What the device tests run in the guest.
const DEVICES: &str = include_str!("../guest/devices.sh");
/// What the watchdog test runs in the guest.
const WATCHDOG: &str = include_str!("../guest/watchdog.sh");
/// Drivers that the device tests need in the guest: modules in Debian's kernels.
const DRIVERS: [&str; 3] = ["virtio_mmio", "virtio_blk", "virtio_net"];
/// What the Raspberry Pi 4's tests run in the guest, with its drivers: modules in Debian's kernel `linux`.
const RPI4: &str = include_str!("../guest/rpi4.sh");

/// Payload binaries of `tests/payloads`.
const PAYLOADS: [&str; 12] = [
    "traps", "events", "crash", "twin", "device", "attack", "window", "refused", "shadowed",
    "flood", "roots", "wide",
];

/// Bare-metal guests of `guests` that scenarios of the project name.
const GUESTS: [&str; 1] = ["periodic"];

/// Where QEMU puts an arm64 Image with text offset 0: the first MiB is kept for the loader.
pub(crate) const LOAD_ADDRESS: u64 = 0x4020_0000;

/// A board to test on.
#[derive(Clone, Debug)]
pub struct Setup {
    /// GIC version.
    pub gic: u8,
    /// CPU model.
    pub cpu: &'static str,
    /// Cores.
    pub cores: u8,
    /// RAM in MiB.
    pub ram_mib: u64,
    /// Whether there is EL2.
    pub el2: bool,
    /// More arguments for QEMU.
    pub arguments: Vec<String>,
    /// QEMU's `raspi4b` instead of `virt`; of the rest only `arguments` counts then.
    pub rpi4: Option<Rpi4>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            gic: 3,
            cpu: "cortex-a72",
            cores: 4,
            ram_mib: 1024,
            el2: true,
            arguments: Vec::new(),
            rpi4: None,
        }
    }
}

/// Everything that was built.
#[derive(Clone, Debug)]
pub struct Workshop {
    project: Project,
    image: PathBuf,
    rpi4_image: PathBuf,
    folder: PathBuf,
    initramfs: PathBuf,
}

fn machine(setup: &Setup) -> Machine {
    let board = match &setup.rpi4 {
        None => qemu::Board::Virt,
        Some(board) => qemu::Board::Rpi4(board.clone()),
    };
    Machine {
        board,
        cores: setup.cores,
        gic: setup.gic,
        cpu: setup.cpu.into(),
        ram_bytes: setup.ram_mib << 20,
        el2: setup.el2,
    }
}

fn sentence(problem: &penumbra::problem::Problem) -> String {
    problem.message.clone()
}

impl Workshop {
    /// Builds the image, the payloads and the guests' initramfs. `$PENUMBRA_IMAGE` names an image to
    /// test instead of building one.
    ///
    /// # Errors
    /// A sentence about what could not be built.
    pub fn open() -> Result<Self, String> {
        let project = Project::find().map_err(|p| sentence(&p))?;
        qemu::check_version(&qemu::program()).map_err(|p| sentence(&p))?;
        let image = match std::env::var_os("PENUMBRA_IMAGE") {
            Some(image) => image.into(),
            None => {
                build::build(&project, "qemu-virt")
                    .map_err(|p| sentence(&p))?
                    .image
            }
        };
        let rpi4_image = build::build(&project, "rpi4")
            .map_err(|p| sentence(&p))?
            .image;
        let output = project.output();
        let folder = output
            .parent()
            .ok_or("the target folder has no name")?
            .join("suites");
        fs::create_dir_all(&folder)
            .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
        let workshop = Self {
            initramfs: folder.join("load-initramfs.gz"),
            project,
            image,
            rpi4_image,
            folder,
        };
        for payload in PAYLOADS {
            workshop.flatten(payload)?;
        }
        for guest in GUESTS {
            build::guest(&workshop.project, guest).map_err(|p| sentence(&p))?;
        }
        workshop.pack_load()?;
        Ok(workshop)
    }

    fn flatten(&self, name: &str) -> Result<(), String> {
        let elf = self
            .project
            .cargo_build("penumbra-payloads", name, &[])
            .map_err(|p| sentence(&p))?;
        let mut objcopy = self
            .project
            .llvm("llvm-objcopy")
            .map_err(|p| sentence(&p))?;
        objcopy
            .args(["-O", "binary"])
            .arg(elf)
            .arg(self.payload(name));
        penumbra::toolchain::run(&mut objcopy).map_err(|p| sentence(&p))
    }

    fn pack_load(&self) -> Result<(), String> {
        self.pack(LOAD, Vec::new(), Vec::new(), &self.initramfs)
    }

    fn pack(
        &self,
        script: &str,
        modules: Vec<Module>,
        files: Vec<(String, Vec<u8>)>,
        path: &Path,
    ) -> Result<(), String> {
        let busybox = self.cached("busybox/busybox");
        let busybox = fs::read(&busybox).map_err(|error| {
            let path = busybox.display();
            format!("cannot read {path}: {error}; `tools/dev setup` fetches it")
        })?;
        let contents = Contents {
            busybox,
            script: Some(script.as_bytes().to_vec()),
            files,
            modules,
        };
        let bytes = initramfs::build(&contents)?;
        fs::write(path, bytes).map_err(|error| format!("cannot write {}: {error}", path.display()))
    }

    /// An initramfs for the device tests, with the drivers of the default kernel.
    ///
    /// # Errors
    /// The drivers are not there.
    pub fn device_initramfs(&self, name: &str) -> Result<PathBuf, String> {
        self.driver_initramfs(name, "linux-cloud", DEVICES, &DRIVERS)
    }

    /// The same with drivers of the kernel `linux`.
    ///
    /// # Errors
    /// The drivers are not there.
    pub fn disk_initramfs(&self, name: &str, drivers: &[&str]) -> Result<PathBuf, String> {
        self.driver_initramfs(name, "linux", DEVICES, drivers)
    }

    /// An initramfs for pins, a UART and a bus of the Raspberry Pi 4, with drivers of the kernel `linux`.
    ///
    /// # Errors
    /// The drivers are not there.
    pub fn pins_initramfs(&self, name: &str, drivers: &[&str]) -> Result<PathBuf, String> {
        self.driver_initramfs(name, "linux", RPI4, drivers)
    }

    /// The initramfs of the load, with the program `walkload` in it.
    ///
    /// # Errors
    /// The program cannot be built.
    pub fn walkload_initramfs(&self, name: &str) -> Result<PathBuf, String> {
        let path = self.folder.join(format!("{name}-initramfs.gz"));
        self.pack(LOAD, Vec::new(), self.walkload()?, &path)?;
        Ok(path)
    }

    /// An initramfs that storms on address spaces, with modules of a kernel.
    ///
    /// # Errors
    /// The program cannot be built, or the modules are not there.
    pub fn storm_initramfs(&self, name: &str, kernel: &str) -> Result<PathBuf, String> {
        let names = STORM_MODULES.map(str::to_owned);
        let modules = modules::read(&self.cached(&format!("{kernel}/modules")), &names)?;
        let path = self.folder.join(format!("{name}-initramfs.gz"));
        self.pack(STORM, modules, self.walkload()?, &path)?;
        Ok(path)
    }

    /// The program `walkload`, as a file of an initramfs.
    fn walkload(&self) -> Result<Vec<(String, Vec<u8>)>, String> {
        let program = self
            .project
            .cargo_build("penumbra-walkscope-workload", "walkload", &[])
            .map_err(|p| sentence(&p))?;
        let bytes = fs::read(&program)
            .map_err(|error| format!("cannot read {}: {error}", program.display()))?;
        Ok(vec![("bin/walkload".to_owned(), bytes)])
    }

    /// An initramfs for the watchdog test, with its driver.
    ///
    /// # Errors
    /// The driver is not there.
    pub fn watchdog_initramfs(&self, name: &str) -> Result<PathBuf, String> {
        self.driver_initramfs(name, "linux-cloud", WATCHDOG, &["sbsa_gwdt"])
    }

    fn driver_initramfs(
        &self,
        name: &str,
        kernel: &str,
        script: &str,
        drivers: &[&str],
    ) -> Result<PathBuf, String> {
        let names: Vec<String> = drivers.iter().map(|name| (*name).to_owned()).collect();
        let modules = modules::read(&self.cached(&format!("{kernel}/modules")), &names)?;
        let path = self.folder.join(format!("{name}-initramfs.gz"));
        self.pack(script, modules, Vec::new(), &path)?;
        Ok(path)
    }

    /// The project.
    #[must_use]
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// The image of EL2 and the manager.
    #[must_use]
    pub fn image(&self) -> &Path {
        &self.image
    }

    /// The same workshop with an image for `virt` whose vectors clear the branch history that guests leave.
    ///
    /// # Errors
    /// It cannot be built.
    pub fn mitigated(&self) -> Result<Self, String> {
        let built = build::build_mitigated(&self.project, "qemu-virt");
        Ok(Self {
            image: built.map_err(|p| sentence(&p))?.image,
            ..self.clone()
        })
    }

    /// The image for the Raspberry Pi 4.
    #[must_use]
    pub fn rpi4_image(&self) -> &Path {
        &self.rpi4_image
    }

    /// A Raspberry Pi 4 with Debian's device tree.
    #[must_use]
    pub fn rpi4(&self) -> Setup {
        Setup {
            rpi4: Some(Rpi4 {
                tree: self.project.root().join(qemu::RPI4_TREE),
                pl011: false,
            }),
            ..Setup::default()
        }
    }

    /// A flat payload.
    #[must_use]
    pub fn payload(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.bin"))
    }

    /// A file of the tests' own folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Where a symbol of EL2 is on QEMU's `virt`.
    ///
    /// # Errors
    /// There is no such symbol.
    pub fn el2_symbol(&self, name: &str) -> Result<u64, String> {
        let mut nm = self.project.llvm("llvm-nm").map_err(|p| sentence(&p))?;
        nm.arg(self.project.elf("penumbra-qemu-virt"));
        let text = penumbra::toolchain::output(&mut nm).map_err(|p| sentence(&p))?;
        let line = text
            .lines()
            .find(|line| line.ends_with(&format!(" {name}")));
        line.and_then(|line| u64::from_str_radix(line.split(' ').next()?, 16).ok())
            .map(|address| LOAD_ADDRESS + address)
            .ok_or_else(|| format!("EL2 has no symbol {name}"))
    }

    /// The initramfs with the load script.
    #[must_use]
    pub fn initramfs(&self) -> &Path {
        &self.initramfs
    }

    /// A file that `tools/dev` keeps for arm64 guests.
    #[must_use]
    pub fn cached(&self, path: &str) -> PathBuf {
        self.project.root().join(".cache/arm64").join(path)
    }

    /// Packs a scenario, given as TOML text, into a bundle named after the test.
    ///
    /// # Errors
    /// What is wrong with the scenario, in the words of `penumbra image`.
    pub fn bundle(&self, name: &str, toml: &str, cores: u8) -> Result<PathBuf, String> {
        let setup = Setup {
            cores,
            ..Setup::default()
        };
        self.bundle_for(name, toml, &setup)
    }

    /// The same for a board, whose device tree is asked for if the scenario needs it.
    ///
    /// # Errors
    /// As `bundle`.
    pub fn bundle_for(&self, name: &str, toml: &str, setup: &Setup) -> Result<PathBuf, String> {
        let path = self.folder.join(format!("{name}.toml"));
        fs::write(&path, toml).map_err(|error| format!("cannot write a scenario: {error}"))?;
        self.bundle_of(name, &path, setup)
    }

    fn bundle_of(&self, name: &str, path: &Path, setup: &Setup) -> Result<PathBuf, String> {
        let said = |problems: penumbra::problem::Problems| {
            let list: Vec<String> = problems.list.into_iter().map(|p| p.message).collect();
            list.join("; ")
        };
        let scenario = Scenario::open(path).map_err(said)?;
        let tree = match hardware::is_wanted(&scenario) {
            true => Some(qemu::device_tree(&machine(setup)).map_err(|p| sentence(&p))?),
            false => None,
        };
        let bytes = image::bundle(&scenario, setup.cores, tree.as_deref()).map_err(said)?;
        let bundle = self.folder.join(format!("{name}.bundle"));
        fs::write(&bundle, bytes).map_err(|error| format!("cannot write a bundle: {error}"))?;
        Ok(bundle)
    }

    /// QEMU's command line for a board with Penumbra.
    #[must_use]
    pub fn command(&self, setup: &Setup, bundle: Option<&Path>) -> Command {
        let image = match &setup.rpi4 {
            None => &self.image,
            Some(_) => &self.rpi4_image,
        };
        let mut command = qemu::command(&machine(setup), image, bundle);
        command.args(&setup.arguments);
        command
    }

    /// Starts a board with a scenario.
    ///
    /// # Errors
    /// The scenario is refused or QEMU does not start.
    pub fn boot(&self, name: &str, toml: &str, setup: &Setup) -> Result<Board, String> {
        let bundle = self.bundle_for(name, toml, setup)?;
        Board::start(self.command(setup, Some(&bundle)))
    }

    /// Starts a board with a scenario of the project.
    ///
    /// # Errors
    /// As `boot`.
    pub fn boot_scenario(&self, name: &str, path: &str, setup: &Setup) -> Result<Board, String> {
        let bundle = self.bundle_of(name, &self.project.root().join(path), setup)?;
        Board::start(self.command(setup, Some(&bundle)))
    }
}

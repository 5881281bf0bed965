//! The project's folders and the programs of the pinned Rust toolchain.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::problem::Problem;

/// The target of EL2, the manager and the payloads for tests.
pub const TARGET: &str = "aarch64-unknown-none-softfloat";
/// The build profile for that target.
pub const PROFILE: &str = "metal";

/// The project's tree.
#[derive(Clone, Debug)]
pub struct Project {
    root: PathBuf,
    target: PathBuf,
}

impl Project {
    /// Finds the tree: `$PENUMBRA_ROOT`, or the one around the current folder.
    ///
    /// # Errors
    /// The current folder is not inside a tree of Penumbra.
    pub fn find() -> Result<Self, Problem> {
        let here = std::env::current_dir()
            .map_err(|error| Problem::new(format!("there is no current folder: {error}")))?;
        let start = std::env::var_os("PENUMBRA_ROOT").map_or_else(|| here.clone(), PathBuf::from);
        let root = start
            .ancestors()
            .find(|folder| folder.join("platforms/qemu-virt/Cargo.toml").is_file())
            .ok_or_else(|| Problem::new("this is not inside a tree of Penumbra's sources"))?
            .to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => here.join(folder),
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// The folder of the workspace.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where finished images and bundles go.
    #[must_use]
    pub fn output(&self) -> PathBuf {
        self.target.join("penumbra")
    }

    /// An ELF file that [`Self::cargo_build`] made.
    #[must_use]
    pub fn elf(&self, binary: &str) -> PathBuf {
        self.target.join(TARGET).join(PROFILE).join(binary)
    }

    /// The same tree with another folder for what is built, which does not replace what this one has.
    #[must_use]
    pub fn apart(&self, name: &str) -> Self {
        Self {
            root: self.root.clone(),
            target: self.target.join(name),
        }
    }

    /// Builds one binary for the board.
    ///
    /// # Errors
    /// Cargo says no; it has printed why.
    pub fn cargo_build(
        &self,
        package: &str,
        binary: &str,
        environment: &[(&str, &Path)],
    ) -> Result<PathBuf, Problem> {
        self.cargo_build_with(package, binary, environment, &[])
    }

    /// The same with more arguments for cargo.
    ///
    /// # Errors
    /// As [`Self::cargo_build`].
    pub fn cargo_build_with(
        &self,
        package: &str,
        binary: &str,
        environment: &[(&str, &Path)],
        more: &[&str],
    ) -> Result<PathBuf, Problem> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .current_dir(&self.root)
            .args(["build", "--quiet", "--package", package, "--bin", binary])
            .args(["--profile", PROFILE, "--target", TARGET])
            .arg("--target-dir")
            .arg(&self.target)
            .args(more)
            .envs(environment.iter().copied());
        run(&mut command)?;
        let elf = self.elf(binary);
        if elf.is_file() {
            return Ok(elf);
        }
        Err(Problem::new(format!(
            "cargo built {package}, but {} is not there",
            elf.display()
        )))
    }

    /// A program of the toolchain's `llvm-tools` component, ready for arguments.
    ///
    /// # Errors
    /// The component is not installed.
    pub fn llvm(&self, tool: &str) -> Result<Command, Problem> {
        let mut rustc = Command::new("rustc");
        rustc
            .current_dir(&self.root)
            .args(["--print", "target-libdir"]);
        let libraries = output(&mut rustc)?;
        let path = Path::new(libraries.trim())
            .parent()
            .map(|folder| folder.join("bin").join(tool))
            .filter(|path| path.is_file());
        match path {
            Some(path) => Ok(Command::new(path)),
            None => Err(Problem::new(format!("the Rust toolchain has no {tool}"))
                .help("rustup component add llvm-tools (or tools/dev setup, which does that)")),
        }
    }
}

/// Runs a program to its end; its output is the person's.
///
/// # Errors
/// It cannot be started, or ends with a status other than 0.
pub fn run(command: &mut Command) -> Result<(), Problem> {
    let status = command
        .status()
        .map_err(|error| not_started(command, &error))?;
    if status.success() {
        return Ok(());
    }
    Err(Problem::new(format!("{} failed ({status})", name(command))))
}

/// Runs a program to its end and returns what it wrote.
///
/// # Errors
/// It cannot be started, or ends with a status other than 0.
pub fn output(command: &mut Command) -> Result<String, Problem> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| not_started(command, &error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Problem::new(format!(
        "{} failed ({})",
        name(command),
        output.status
    )))
}

fn name(command: &Command) -> String {
    Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn not_started(command: &Command, error: &std::io::Error) -> Problem {
    Problem::new(format!(
        "cannot start {}: {error}",
        command.get_program().to_string_lossy()
    ))
}

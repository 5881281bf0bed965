//! From sources to the image that QEMU or a board boots.
//!
//! The manager is built first and flattened; the platform's binary embeds it (`PENUMBRA_MANAGER`
//! names the file) and is flattened in turn. The result is an image in Linux's arm64 boot format.

use std::fs;
use std::path::{Path, PathBuf};

use crate::payload;
use crate::problem::Problem;
use crate::scenario::size;
use crate::toolchain::{Project, run};

/// What a build has made.
#[derive(Clone, Debug)]
pub struct Built {
    /// The bootable image.
    pub image: PathBuf,
    /// Bytes of the image, the manager's part included.
    pub image_bytes: u64,
    /// Bytes of memory that the image takes before it allocates.
    pub memory_bytes: u64,
    /// Bytes of the manager's part.
    pub manager_bytes: u64,
}

/// Name of the package and the binary of a platform.
#[must_use]
pub fn binary(platform: &str) -> String {
    format!("penumbra-{platform}")
}

/// Where the image of a platform is put.
#[must_use]
pub fn image_path(project: &Project, platform: &str) -> PathBuf {
    project.output().join(format!("{}.img", binary(platform)))
}

/// Whether a folder of `platforms/` has a binary of that name; `common` has none.
fn is_platform(project: &Project, platform: &str) -> bool {
    let folder = project.root().join("platforms").join(platform);
    !platform.contains('/') && folder.join("src/main.rs").is_file()
}

/// Builds the image of a platform.
///
/// # Errors
/// A step that failed; the tool that failed has said why.
pub fn build(project: &Project, platform: &str) -> Result<Built, Problem> {
    build_with(project, platform, false)
}

/// Builds the image of a platform whose vectors clear the branch history that guests leave, beside the other one.
///
/// # Errors
/// As [`build`].
pub fn build_mitigated(project: &Project, platform: &str) -> Result<Built, Problem> {
    build_with(project, platform, true)
}

fn build_with(project: &Project, platform: &str, mitigated: bool) -> Result<Built, Problem> {
    if !is_platform(project, platform) {
        let problem = Problem::new(format!("there is no platform \"{platform}\""));
        return Err(problem.help("there are qemu-virt and rpi4, folders of platforms/"));
    }
    let folder = project.output();
    fs::create_dir_all(&folder)
        .map_err(|error| Problem::new(format!("cannot make {}: {error}", folder.display())))?;

    let manager = folder.join("manager.bin");
    let elf = project.cargo_build("penumbra-manager", "manager", &[])?;
    flatten(project, &elf, &manager)?;

    let name = binary(platform);
    let environment = [("PENUMBRA_MANAGER", manager.as_path())];
    let (elf, image) = if mitigated {
        // Its ELF file must not be taken for the other one's.
        let apart = project.apart("mitigated");
        let more = ["--features", "mitigations"];
        let elf = apart.cargo_build_with(&name, &name, &environment, &more)?;
        (elf, folder.join(format!("{name}-mitigated.img")))
    } else {
        let elf = project.cargo_build(&name, &name, &environment)?;
        (elf, image_path(project, platform))
    };
    flatten(project, &elf, &image)?;

    let bytes = fs::read(&image)
        .map_err(|error| Problem::new(format!("cannot read {}: {error}", image.display())))?;
    let header = payload::kernel(&bytes)
        .map_err(|why| Problem::new(format!("the image {} {why}", image.display())))?;
    let built = Built {
        image_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        memory_bytes: header.image_size,
        manager_bytes: fs::metadata(&manager).map_or(0, |metadata| metadata.len()),
        image,
    };
    if built.el2_bytes() > LARGEST_EL2 {
        return Err(Problem::new(format!(
            "EL2 takes {} of the image, more than {}. Is its state still all zero bytes, so that it lies in .bss? \
             A `None` in it that is not does that.",
            size::show(built.el2_bytes()),
            size::show(LARGEST_EL2),
        )));
    }
    Ok(built)
}

/// Where scenarios look for the guests of `guests/`, seen from the project's folder.
pub const GUESTS: &str = ".cache/guests";

/// Builds a bare-metal guest of the folder `guests/` and puts it where scenarios look for it.
///
/// # Errors
/// There is no such guest, or a step failed; the tool that failed has said why.
pub fn guest(project: &Project, name: &str) -> Result<PathBuf, Problem> {
    let sources = project.root().join("guests").join(name);
    if !sources.join("Cargo.toml").is_file() {
        let problem = Problem::new(format!("there is no guest \"{name}\" in guests/"));
        return Err(problem.help("each folder there is one"));
    }
    let folder = project.root().join(GUESTS);
    fs::create_dir_all(&folder)
        .map_err(|error| Problem::new(format!("cannot make {}: {error}", folder.display())))?;
    let elf = project.cargo_build(&format!("penumbra-{name}"), name, &[])?;
    let flat = folder.join(format!("{name}.bin"));
    flatten(project, &elf, &flat)?;
    Ok(flat)
}

/// EL2's part of an image at most: far above its code, far below its state.
const LARGEST_EL2: u64 = 320 << 10;

/// Writes the loadable bytes of an ELF file. A result that did not change keeps its time stamp, so
/// that what embeds it is not built again.
fn flatten(project: &Project, elf: &Path, flat: &Path) -> Result<(), Problem> {
    // Others may be at it at the same time.
    let fresh = flat.with_extension(format!("{}.new", std::process::id()));
    run(project
        .llvm("llvm-objcopy")?
        .args(["-O", "binary"])
        .arg(elf)
        .arg(&fresh))?;
    let failed = |error| Problem::new(format!("cannot write {}: {error}", flat.display()));
    let new = fs::read(&fresh).map_err(failed)?;
    if fs::read(flat).is_ok_and(|old| old == new) {
        return fs::remove_file(&fresh).map_err(failed);
    }
    fs::rename(&fresh, flat).map_err(failed)
}

impl Built {
    /// Bytes of EL2's part of the image.
    #[must_use]
    pub const fn el2_bytes(&self) -> u64 {
        self.image_bytes.saturating_sub(self.manager_bytes)
    }

    /// One line for people.
    #[must_use]
    pub fn summary(&self) -> String {
        format!(
            "{}: {} bytes, of which the manager {}; {} in memory",
            self.image.display(),
            self.image_bytes,
            self.manager_bytes,
            size::show(self.memory_bytes)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Before anything is built, which would take minutes.
    #[test]
    fn an_unknown_platform_is_refused() {
        let project = Project::find().unwrap();
        assert!(is_platform(&project, "qemu-virt") && is_platform(&project, "rpi4"));
        for name in ["", "common", "virt", "../tools/penumbra"] {
            let problem = build(&project, name).unwrap_err();
            assert!(problem.message.contains("there is no platform"), "{name}");
        }
    }
}

//! A writer of cpio archives in the "newc" format, as Linux reads them
//! (`Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::BTreeSet;

const FOLDER: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// An archive that grows. Owner is root, times are 0.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    folders: BTreeSet<String>,
    refused: Option<String>,
}

impl Archive {
    /// Adds a folder.
    pub fn folder(&mut self, path: &str) {
        if self.folders.insert(path.to_owned()) {
            self.entry(path, FOLDER | 0o755, (0, 0), &[]);
        }
    }

    /// Adds the folders that lead to a path.
    pub fn parents(&mut self, path: &str) {
        for (at, _) in path.match_indices('/') {
            if let Some(parent) = path.get(..at) {
                self.folder(parent);
            }
        }
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) {
        self.entry(path, FILE | mode, (0, 0), bytes);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.entry(path, LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a device node.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.entry(path, CHARACTER_DEVICE | mode, (major, minor), &[]);
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// A sentence, if an entry could not be packed.
    pub fn finish(mut self) -> Result<Vec<u8>, String> {
        self.inode = 0;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        match self.refused {
            Some(sentence) => Err(sentence),
            None => Ok(self.bytes),
        }
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        let (Ok(size), Ok(name_size)) =
            (u32::try_from(content.len()), u32::try_from(path.len() + 1))
        else {
            self.refused = Some(format!("{path} is too large for an initramfs"));
            return;
        };
        if path.is_empty() || path.contains('\0') {
            self.refused = Some(format!("{path:?} is no path for an initramfs"));
            return;
        }
        self.inode += 1;
        let links = 1 + u32::from(mode & FOLDER == FOLDER);
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
        // namesize, check
        let fields = [
            self.inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0,
        ];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_the_bytes_that_the_format_wants() {
        let mut archive = Archive::default();
        archive.file("a", 0o644, b"xyz");
        let bytes = archive.finish().unwrap();
        let header = "070701\
            00000001000081a4000000000000000000000001000000000000000300000000\
            0000000000000000000000000000000200000000";
        assert_eq!(&bytes[..110], header.as_bytes());
        assert_eq!(&bytes[110..116], b"a\0xyz\0");
        assert_eq!(&bytes[116..122], b"070701");
        assert!(bytes.windows(11).any(|window| window == b"TRAILER!!!\0"));
        assert_eq!(bytes.len() % 512, 0);
    }

    #[test]
    fn a_folder_is_packed_once() {
        let mut archive = Archive::default();
        archive.folder("opt");
        archive.parents("opt/a/file");
        archive.parents("opt/a/other");
        let bytes = archive.finish().unwrap();
        assert_eq!(
            bytes
                .windows(6)
                .filter(|window| window == b"070701")
                .count(),
            3
        );
    }

    #[test]
    fn a_path_with_a_nul_is_refused() {
        let mut archive = Archive::default();
        archive.file("a\0b", 0o644, b"");
        assert!(archive.finish().is_err());
    }
}

//! The machine's file system: an archive that the kernel unpacks into memory (the `newc` format of cpio, see
//! Documentation/driver-api/early-userspace/buffer-format.rst of the kernel).

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{failure::Failure, step};

/// What a path of the image is.
enum Entry {
    Folder,
    Bytes(Vec<u8>),
    /// A file of the host, executable.
    File(PathBuf),
    Link(String),
}

/// What will be in the image, by path; no path begins with a slash. A folder comes before what is in it.
#[derive(Default)]
pub struct Image {
    entries: BTreeMap<String, Entry>,
}

impl Image {
    /// A file with this content.
    pub fn add_bytes(&mut self, path: &str, bytes: &[u8]) {
        self.add(path, Entry::Bytes(bytes.to_vec()));
    }

    /// A file of the host.
    pub fn add_file(&mut self, path: &str, source: &Path) {
        self.add(path, Entry::File(source.to_owned()));
    }

    /// A program of the host, and the libraries that it is linked with at the places where it looks for them.
    pub fn add_program(&mut self, path: &str, source: &Path) -> Result<()> {
        let libraries = step::ask(Command::new("ldd").arg(source)).unwrap_or_default();
        if libraries.contains("not found") {
            return Err(Failure::new(format!("read the libraries of {}: not all are there", source.display())).into());
        }
        for library in libraries.lines().filter_map(library) {
            self.add_file(library.trim_start_matches('/'), Path::new(library));
        }
        self.add_file(path, source);
        Ok(())
    }

    /// Busybox under all its names. Programs that are added later take the place of a name.
    pub fn add_busybox(&mut self, busybox: &Path) -> Result<()> {
        let names = step::ask(Command::new(busybox).arg("--list")).context("ask busybox for its names")?;
        for name in names.lines() {
            self.add(&format!("bin/{name}"), Entry::Link("/bin/busybox".to_owned()));
        }
        self.add_file("bin/busybox", busybox);
        // The kernel calls /sbin/modprobe.
        self.add("sbin", Entry::Link("bin".to_owned()));
        Ok(())
    }

    fn add(&mut self, path: &str, entry: Entry) {
        for (slash, _) in path.match_indices('/') {
            self.entries.entry(path[..slash].to_owned()).or_insert(Entry::Folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// Writes the archive.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file = File::create(path).with_context(|| format!("make {}", path.display()))?;
        let mut archive = Archive { out: BufWriter::new(file), number: 0, written: 0 };
        for (name, entry) in &self.entries {
            archive.put_entry(name, entry).with_context(|| format!("put {name} into {}", path.display()))?;
        }
        archive.end().with_context(|| format!("write {}", path.display()))
    }
}

/// The path in a line of ldd's: `name => path (address)`, or `path (address)` for the loader.
fn library(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/'))
}

struct Archive<W> {
    out: W,
    number: u32,
    written: u64,
}

impl<W: Write> Archive<W> {
    fn put_entry(&mut self, name: &str, entry: &Entry) -> Result<()> {
        // Types and rights as in inode(7).
        match entry {
            Entry::Folder => self.put(name, 0o040_755, 0, &mut io::empty()),
            Entry::Bytes(bytes) => self.put(name, 0o100_755, bytes.len() as u64, &mut bytes.as_slice()),
            Entry::Link(target) => self.put(name, 0o120_777, target.len() as u64, &mut target.as_bytes()),
            Entry::File(source) => {
                let mut file = File::open(source)?;
                let length = file.metadata()?.len();
                self.put(name, 0o100_755, length, &mut file)
            }
        }
    }

    fn end(&mut self) -> Result<()> {
        self.put("TRAILER!!!", 0, 0, &mut io::empty())?;
        Ok(self.out.flush()?)
    }

    fn put(&mut self, name: &str, mode: u32, length: u64, content: &mut dyn io::Read) -> Result<()> {
        self.number += 1;
        let length32 = u32::try_from(length).context("a file of the image has 4 GB at most")?;
        let name_length = u32::try_from(name.len() + 1).context("a name of the image is short")?;
        // Inode, mode, owner, group, links, time, length, device and device number in halves, length of the name,
        // checksum (none).
        let fields = [self.number, mode, 0, 0, 1, 0, length32, 0, 0, 0, 0, name_length, 0];
        let mut header = String::from("070701");
        for field in fields {
            header += &format!("{field:08x}");
        }
        self.write(header.as_bytes())?;
        self.write(name.as_bytes())?;
        self.write(&[0])?;
        self.pad()?;
        let copied = io::copy(content, &mut self.out)?;
        anyhow::ensure!(copied == length, "{name} changed while it was read");
        self.written += copied;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Headers and contents begin at multiples of four.
    fn pad(&mut self) -> Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.write(&[0; 3][..usize::try_from(missing).unwrap_or(0)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_what_ldd_prints() {
        assert_eq!(library("\tlibc.so.6 => /lib/libc.so.6 (0x00007f8926c1e000)"), Some("/lib/libc.so.6"));
        assert_eq!(library("\t/lib64/ld-linux-x86-64.so.2 (0x00007f8927469000)"), Some("/lib64/ld-linux-x86-64.so.2"));
        assert_eq!(library("\tlinux-vdso.so.1 (0x00007f8927467000)"), None);
    }

    #[test]
    fn an_archive_is_as_the_kernel_reads_it() -> Result<()> {
        let mut archive = Archive { out: Vec::new(), number: 0, written: 0 };
        archive.put("ab", 0o100_755, 5, &mut b"hello".as_slice())?;
        archive.end()?;
        let text = String::from_utf8(archive.out)?;
        let (header, rest) = text.split_at(6 + 13 * 8);
        let fields = "00000001 000081ed 00000000 00000000 00000001 00000000 00000005 \
                      00000000 00000000 00000000 00000000 00000003 00000000";
        assert_eq!(header, format!("070701{}", fields.replace(' ', "")));
        // 110 bytes of header and 3 of name make 113, three zeros 116; 5 of content 121, three zeros 124.
        let next = rest.strip_prefix("ab\0").and_then(|rest| rest.strip_prefix("\0\0\0hello\0\0\0"));
        assert!(next.is_some_and(|next| next.starts_with("07070100000002")), "{rest:?}");
        assert_eq!(text.len() % 4, 0);
        Ok(())
    }

    #[test]
    fn folders_are_made_for_files_and_a_program_replaces_a_name() {
        let mut image = Image::default();
        image.add("bin/ip", Entry::Link("/bin/busybox".to_owned()));
        image.add_bytes("bin/ip", b"real");
        image.add_bytes("a/b/c", b"");
        let paths: Vec<&str> = image.entries.keys().map(String::as_str).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/c", "bin", "bin/ip"]);
        assert!(matches!(&image.entries["bin/ip"], Entry::Bytes(bytes) if bytes == b"real"));
    }
}

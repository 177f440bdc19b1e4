//! Debian packages that are used without being installed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::{
    failure::Failure,
    setup::{Apt, Distro, Family},
    step,
};

/// What is in a package.
pub struct Unpacked {
    /// Its files are below this folder.
    pub root: PathBuf,
}

impl Unpacked {
    /// The first of `paths` that is in the package: distributions move files from one release to the next.
    pub fn find(&self, paths: &[&str]) -> Result<PathBuf> {
        paths.iter().map(|path| self.root.join(path)).find(|path| path.exists()).with_context(|| {
            format!("find {} in {}", paths.join(" or "), self.root.file_name().unwrap_or_default().to_string_lossy())
        })
    }
}

/// The newest `package` that apt knows, fetched and unpacked below `folder`, once.
pub fn get(folder: &Path, package: &str) -> Result<Unpacked> {
    let distro = Distro::here();
    if distro.family != Family::Debian {
        return Err(Failure::new(format!("fetch {package}: it is Debian's, and this is {}", distro.name))
            .hint("run it on Debian 12, or in a container of it")
            .into());
    }
    let update = || Apt::get(&distro, &[package])?.update();
    let version = match candidate(package) {
        Some(version) => version,
        None => {
            update()?;
            candidate(package).ok_or_else(|| no_such_package(package, &distro))?
        }
    };
    // Epochs have colons, which apt writes so in file names.
    let root = folder.join(format!("{package}_{}", version.replace(':', "%3a")));
    if root.is_dir() {
        return Ok(Unpacked { root });
    }
    let draft = folder.join("download");
    clear(&draft)?;
    fs::create_dir_all(&draft).with_context(|| format!("make {}", draft.display()))?;
    let fetch = || {
        let mut command = Command::new("apt-get");
        // Who downloads writes here: without this apt warns that its own user can't.
        command.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).arg(package).current_dir(&draft);
        step::run(&format!("fetch {package} {version}"), "it is unpacked for the machine, not installed", &mut command)
    };
    if fetch().is_err() {
        // Old package lists name files that the archive has no more.
        update()?;
        fetch()?;
    }
    let file = fs::read_dir(&draft)
        .with_context(|| format!("list {}", draft.display()))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .with_context(|| format!("find the {package} that apt-get fetched"))?;
    extract(&file, &root)?;
    clear(&draft)?;
    Ok(Unpacked { root })
}

/// The package in `file`, unpacked below `folder`, once.
pub fn unpack(folder: &Path, file: &Path) -> Result<Unpacked> {
    let here = env::current_dir().context("find the current folder")?;
    let name = file.file_stem().with_context(|| format!("name {}", file.display()))?;
    let root = folder.join(name);
    if !root.is_dir() {
        extract(&here.join(file), &root)?;
    }
    Ok(Unpacked { root })
}

/// Unpacks `file` as the folder `root`, all or nothing.
fn extract(file: &Path, root: &Path) -> Result<()> {
    let draft = root.with_extension("draft");
    clear(&draft)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    step::run(
        &format!("unpack {name}"),
        "its files are all that is needed of it",
        Command::new("dpkg-deb").arg("-x").arg(file).arg(&draft),
    )?;
    fs::rename(&draft, root).with_context(|| format!("make {}", root.display()))
}

/// The version of `package` that apt would take.
fn candidate(package: &str) -> Option<String> {
    let answer = step::ask(Command::new("apt-cache").args(["policy", package]))?;
    let version = answer.lines().find_map(|line| line.trim().strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

fn no_such_package(package: &str, distro: &Distro) -> anyhow::Error {
    Failure::new(format!("fetch {package}: {} has no such package", distro.name)).into()
}

/// Removes a folder of an earlier run, if there is one.
fn clear(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}

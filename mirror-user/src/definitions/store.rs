//! Where definitions are kept between commands: one TOML file, laid out like an exported one, with ids and a version.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::Definitions;
use super::file::{self, Document, Form};
use super::refusal::Refusal;
use crate::error::{Error, Kind, Result};
use crate::instance::Instance;

/// The name of the file in the directory of an instance.
const FILE_NAME: &str = "definitions.toml";
/// The name it is written under until it is whole.
const NEW_FILE_NAME: &str = "definitions.toml.new";

/// Keeps the definitions of an instance. Who changes them holds the lock of the instance from before the load until
/// after the save.
pub trait Store {
    /// What was saved last; empty definitions when nothing ever was.
    fn load(&self) -> Result<Definitions>;

    /// Keeps `definitions` in place of what was saved: after this all of it is there, also after a crash or a power
    /// cut, and until then all of what was there before.
    fn save(&self, definitions: &Definitions) -> Result<()>;
}

/// Keeps definitions in a file that is replaced by rename.
#[derive(Clone, Debug)]
pub struct FileStore {
    directory: PathBuf,
}

impl FileStore {
    /// The store of an instance.
    pub fn of(instance: &Instance) -> Self {
        let state_file = instance.state_file();
        Self::new(state_file.parent().unwrap_or(Path::new("/")))
    }

    /// A store in `directory`, which the first save creates.
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.directory.join(FILE_NAME)
    }

    /// Removes the file: there is nothing to keep. The directory goes with it if nothing else is in it.
    fn remove(&self) -> std::io::Result<()> {
        for name in [FILE_NAME, NEW_FILE_NAME] {
            if let Err(error) = fs::remove_file(self.directory.join(name))
                && error.kind() != ErrorKind::NotFound
            {
                return Err(error);
            }
        }
        match fs::remove_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => File::open(&self.directory)?.sync_all(),
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn write(&self, text: &str) -> std::io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(&self.directory)?;
        let new = self.directory.join(NEW_FILE_NAME);
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        // The rename must not reach the disk before the contents, nor the end of the command before the rename.
        file.sync_all()?;
        fs::rename(&new, self.path())?;
        File::open(&self.directory)?.sync_all()
    }
}

impl Store for FileStore {
    fn load(&self) -> Result<Definitions> {
        let path = self.path();
        let what = format!("read definitions {}", path.display());
        // A pipe or a device in its place would keep us waiting.
        match fs::metadata(&path) {
            Ok(metadata) if !metadata.is_file() => {
                return Err(Error::new(Kind::Failed, what, "it is not a regular file"));
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(Definitions::default());
            }
            Err(error) => return Err(io_error(&what, &error)),
        }
        let bytes = fs::read(&path).map_err(|error| io_error(&what, &error))?;
        let corrupt = |refusal: Refusal| {
            let error = Error::new(Kind::Failed, &what, &refusal);
            error.hint(match (refusal.kind(), refusal.hint_text()) {
                (Kind::Failed, Some(hint)) => hint,
                _ => "move the file away; 'mirrorctl apply -f FILE' then makes the definitions what an exported file says",
            })
        };
        let text = str::from_utf8(&bytes)
            .map_err(|error| corrupt(Refusal::bad_input(format_args!("it is not text: {error}"))))?;
        let document = Document::parse(text, Form::Stored).map_err(corrupt)?;
        let built = document.build(&Definitions::default()).map_err(corrupt)?;
        Ok(built.definitions)
    }

    fn save(&self, definitions: &Definitions) -> Result<()> {
        let done =
            if definitions.is_empty() { self.remove() } else { self.write(&file::write(definitions, Form::Stored)) };
        done.map_err(|error| io_error(format_args!("write definitions {}", self.path().display()), &error))
    }
}

fn io_error(what: impl std::fmt::Display, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::PermissionDenied => Error::new(Kind::NotPermitted, what, error).hint("run it with sudo, as root"),
        _ => Error::failed(what, error),
    }
}

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

#[cfg(test)]
mod tests {
    use super::super::id::TargetId;
    use super::super::target::{Destination, TargetDraft};
    use super::super::text::Tags;
    use super::*;
    use crate::model::Endpoint;

    fn definitions() -> Definitions {
        let mut definitions = Definitions::default();
        let draft = TargetDraft {
            id: None::<TargetId>,
            name: "zeek".parse().expect("a name"),
            destination: Destination::Address(Endpoint::new([192, 0, 2, 1].into())),
            description: None,
            tags: Tags::default(),
        };
        definitions.create_target(draft).expect("a target");
        definitions
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = FileStore::new(&directory.path().join("state/default"));
        assert_eq!(store.load().expect("nothing yet"), Definitions::default());
        store.save(&definitions()).expect("saved");
        let definitions = definitions();
        store.save(&definitions).expect("saved again");
        assert_eq!(store.load().expect("loaded"), definitions);
        let names: Vec<_> = fs::read_dir(directory.path().join("state/default"))
            .expect("the directory")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, [FILE_NAME]);
        store.save(&Definitions::default()).expect("saved");
        assert!(!directory.path().join("state/default").exists(), "nothing to keep, nothing kept");
        store.save(&Definitions::default()).expect("saved again");
    }

    #[test]
    fn a_file_next_to_it_keeps_the_directory() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = FileStore::new(directory.path());
        store.save(&definitions()).expect("saved");
        fs::write(directory.path().join("state.json"), "{}").expect("written");
        store.save(&Definitions::default()).expect("saved");
        assert!(directory.path().join("state.json").exists() && !store.path().exists());
    }

    #[test]
    fn a_file_that_is_not_ours_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = FileStore::new(directory.path());
        let refused = |contents: &[u8]| {
            fs::write(store.path(), contents).expect("written");
            let error = store.load().expect_err("it must be refused");
            assert_eq!(error.kind(), Kind::Failed);
            assert_eq!(fs::read(store.path()).expect("still there"), contents);
            let hint = error.hint_text().expect("a hint").to_owned();
            let what = format!("read definitions {}: ", store.path().display());
            (error.to_string().strip_prefix(&what).expect("the path").to_owned(), hint)
        };
        let move_away =
            "move the file away; 'mirrorctl apply -f FILE' then makes the definitions what an exported file says";
        let stored = file::write(&definitions(), Form::Stored);

        let (why, hint) = refused(stored.replace("version = 1", "version = 2\nnews = true").as_bytes());
        assert_eq!(why, "a newer mirrorctl wrote it (version 2; this one knows 1)");
        assert_eq!(hint, "use the mirrorctl that wrote it");
        for (contents, expected) in [
            (&b""[..], "line 1: the file has no key 'version': this is no file of mirrorctl's store"),
            (b"version = 0", "line 1: version = 0: the version must be 1 to 1"),
            (b"version = \"1\"", "line 1: version = \"1\": the version must be 1 to 1"),
            (b"version = 1\nversion = 1", "line 2: duplicate key"),
            (b"version = 1\n[[target]]\nname = \"a\"", "line 2: a target has an 'address' or an 'interface'"),
            (b"\xff\xfe", "it is not text: invalid utf-8 sequence"),
            (b"version = 1\n[[session]]\nid = \"tmt-0\"", "line 3: id = \"tmt-0\": an id of this kind is tms- and"),
        ] {
            let (why, hint) = refused(contents);
            assert!(why.starts_with(expected), "{why}");
            assert_eq!(hint, move_away);
        }
        let (why, _) = refused(&stored.as_bytes()[..stored.len() - 20]);
        assert!(why.starts_with("line "), "{why}");
        let twice = stored.split_once("[[target]]").expect("a target").1.replace("zeek", "suricata");
        let (why, _) = refused(format!("{stored}[[target]]{twice}").as_bytes());
        assert!(why.ends_with("something else has it already"), "{why}");
        let (why, _) = refused(stored.replace("port = 4789", "port = 0").as_bytes());
        assert!(why.ends_with("port = 0: a port must be 1 to 65535"), "{why}");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = FileStore::new(directory.path());
        fs::create_dir(store.path()).expect("a directory in its place");
        let error = store.load().expect_err("a directory");
        assert!(error.to_string().ends_with("definitions.toml: it is not a regular file"), "{error}");
        let error = store.save(&definitions()).expect_err("a directory");
        assert!(error.to_string().starts_with("write definitions "), "{error}");
        let error = FileStore::new(Path::new("/dev/null/x")).save(&definitions()).expect_err("no directory");
        assert_eq!(error.kind(), Kind::Failed);
    }
}

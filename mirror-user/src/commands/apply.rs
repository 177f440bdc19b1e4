//! `apply`: makes the definitions what a file says, all or nothing.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use serde::Serialize;

use crate::cli::Global;
use crate::cli::definitions::Apply;
use crate::commands::change::{change, refuse, rehearse};
use crate::commands::print;
use crate::commands::resource::difference_in_words;
use crate::definitions::Definitions;
use crate::definitions::diff::Difference;
use crate::definitions::file::{Document as File, Form};
use crate::error::{Error, Kind, Result};
use crate::instance::Instance;

/// What `apply --json` prints.
#[derive(Debug, Serialize)]
struct Document<'a> {
    dry_run: bool,
    #[serde(flatten)]
    difference: &'a Difference,
}

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global, arguments: &Apply) -> Result<()> {
    let what = format!("apply {}", arguments.file.display());
    let text = read(&arguments.file, &what)?;
    let file = File::parse(&text, Form::Exchanged).map_err(refuse(&what))?;
    let edit = |definitions: &mut Definitions| {
        let built = file.clone().build(definitions)?;
        *definitions = built.definitions;
        Ok(built.drawn_vnis)
    };
    let difference = if arguments.dry_run {
        let changed = rehearse(instance, &what, edit)?;
        Difference::between(&changed.old, &changed.new).with_random_vnis(&changed.value)
    } else {
        let changed = change(instance, &what, edit)?;
        Difference::between(&changed.old, &changed.new)
    };
    let document = Document { dry_run: arguments.dry_run, difference: &difference };
    print(global.json, &document, || difference_in_words(&difference))
}

fn read(file: &Path, what: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().read_to_end(&mut bytes).map(drop)
    } else {
        fs::read(file).map(|read| bytes = read)
    };
    read.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::new(Kind::NotFound, what, "there is no such file"),
        ErrorKind::PermissionDenied => Error::new(Kind::NotPermitted, what, &error),
        _ => Error::failed(what, &error),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Error::new(Kind::BadInput, what, format_args!("line {line}: this is not UTF-8 text"))
    })
}

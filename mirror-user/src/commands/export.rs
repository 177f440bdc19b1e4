//! `export`: the definitions as a file for `apply`.

use crate::cli::Global;
use crate::commands::change::load;
use crate::commands::print;
use crate::definitions::fields::Everything;
use crate::definitions::file::{Form, write};
use crate::error::Result;
use crate::instance::Instance;

/// Runs the command.
pub(super) fn run(instance: &Instance, global: &Global) -> Result<()> {
    let definitions = load(instance)?;
    print(global.json, &Everything::from(&definitions), || write(&definitions, Form::Exchanged))
}

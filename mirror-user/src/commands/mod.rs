//! One module per command: plain values in, one document out.

use crate::cli::{Cli, Command};
use crate::error::{Error, Kind, Result};

/// Does what the command line says.
pub fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::Attach(_)
        | Command::Detach(_)
        | Command::Status
        | Command::Stats(_)
        | Command::Capture(_)
        | Command::Doctor => Err(Error::new(Kind::Failed, "run command", "the skeleton does nothing yet")),
    }
}

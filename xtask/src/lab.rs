//! `cargo xtask lab`: things to do in the throwaway lab.

use std::{
    env, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Result;
use clap::Subcommand;
use mirror_tests::replay;

use crate::{
    build,
    failure::{self, Failure},
    mirrorctl, privilege, run,
    setup::{self, Stage},
};

/// What can be done there.
#[derive(Subcommand)]
pub enum Lab {
    /// Send each frame of a capture past the source, and compare each copy with it, byte for byte and in order
    #[command(after_help = "\
Prints frames in, copies out, and the first difference: the frame's number, the bytes, the path. What can't be replayed \
is counted and named. Nothing outside the lab's own namespaces sees a frame of the capture.

Exit status: 0 no difference, 1 a difference or no answer (the lab lost frames itself), 2 the capture can't be read to \
its end.")]
    Replay(replay::Options),
    /// Show the main job with a `mirrorctl` that is built already: what `run` calls through sudo
    #[command(hide = true)]
    Show {
        /// The program to run
        mirrorctl: PathBuf,
    },
}

/// Does it.
pub fn run(what: &Lab) -> Result<ExitCode> {
    match what {
        Lab::Replay(options) => replay(options),
        Lab::Show { mirrorctl } => show(mirrorctl),
    }
}

/// Shows the main job, in this process.
pub fn show(mirrorctl: &Path) -> Result<ExitCode> {
    run::lab(mirrorctl)?;
    Ok(ExitCode::SUCCESS)
}

/// Becomes the program that replays. It is not a part of this one because it reads captures with the product's code,
/// which can be built only once the set-up is done.
fn replay(options: &replay::Options) -> Result<ExitCode> {
    // Said before anything is built.
    if let Err(err) = std::fs::metadata(&options.file)
        && err.kind() == io::ErrorKind::NotFound
    {
        let what = format!("replay {}: {err}", options.file.display());
        failure::report(&Failure::new(what).hint("name a pcap or pcapng file").into());
        return Ok(ExitCode::from(2));
    }
    setup::ensure(Stage::Lab)?;
    privilege::command("run the lab", "true")?;
    let mirrorctl = build::mirrorctl()?;
    let program = build::program("mirror-tests", "lab-replay")?;
    let mut command = privilege::command("run the lab", program)?;
    // The words behind `lab replay`: both programs know the same options. sudo passes the environment on (-E).
    let words = env::args_os().skip_while(|word| word != "replay").skip(1);
    mirrorctl::replace_by(command.args(words).env("MIRRORCTL", mirrorctl))
}

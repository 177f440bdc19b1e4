//! What `cargo xtask lab replay` runs, as root: a capture through the lab.
//!
//! Exit status: 0 each copy is its frame, 1 one is not or the lab failed, 2 the file could not be read to its end.

use std::io;
use std::process::ExitCode;

use clap::Parser;
use mirror_tests::interrupt;
use mirror_tests::replay::{self, Ending, Options};

#[derive(Parser)]
#[command(name = "lab-replay", about = "Replays a capture through the lab and compares each copy with its frame")]
struct Cli {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let ending = interrupt::remove_labs_on_signal().and_then(|()| replay::run(&cli.options, &mut io::stdout()));
    match ending {
        Ok(Ending::Same) => ExitCode::SUCCESS,
        Ok(Ending::Different) => ExitCode::FAILURE,
        Ok(Ending::Unreadable(why)) => {
            eprintln!("error: replay {why}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

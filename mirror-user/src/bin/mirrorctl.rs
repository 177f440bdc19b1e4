//! `mirrorctl`: reads the command line, does it, prints the error.

use std::process::ExitCode;

use clap::Parser;
use mirror_user::{cli::Cli, commands, error::Kind};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    match commands::run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(hint) = error.hint_text() {
                eprintln!("hint: {hint}");
            }
            ExitCode::from(error.kind().exit_status())
        }
    }
}

/// Help and version go to standard output; everything else is bad input, said in the words of the product.
fn usage(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        print!("{error}");
        return ExitCode::SUCCESS;
    }
    let text = error.to_string();
    let mut paragraphs = text.trim_end().split("\n\n");
    let what = paragraphs.next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what).replace('\n', " ");
    eprintln!("error: read command line: {what}");
    let tip = paragraphs.find_map(|paragraph| paragraph.trim_start().strip_prefix("tip: "));
    match tip {
        Some(tip) => eprintln!("hint: {}", tip.trim_end()),
        None => eprintln!("hint: try 'mirrorctl --help'"),
    }
    ExitCode::from(Kind::BadInput.exit_status())
}

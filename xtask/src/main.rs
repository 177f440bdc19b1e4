//! Commands for people who work on mirrorctl.

mod bench;
mod build;
mod failure;
mod fuzz;
mod lab;
mod lint;
mod mirrorctl;
mod privilege;
mod run;
mod setup;
mod step;
mod test;
mod verdicts;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Commands for people who work on mirrorctl")]
struct Cli {
    #[command(subcommand)]
    command: Cmd,
}

#[derive(Subcommand)]
enum Cmd {
    /// Find or install the eBPF toolchain and the tools of the lab; silent when nothing is missing
    #[command(after_help = "\
The compiler of the kernel programs comes from rustup (a nightly with rust-src: route A), else from the \
distribution's packages rustc-web, cargo-web and rust-web-src (route B). bpf-linker is built for the LLVM of that \
compiler. All of it is kept in .toolchain at the root of the workspace; removing that folder starts over. Packages are \
installed on Debian and Ubuntu; anywhere else the commands are printed.

The other commands call this one, there is no need to run it by hand.

Environment:
  MIRROR_TOOLCHAIN_ROUTE  rustup (or a), debian (or b): take this route and no other")]
    Setup,
    /// Run the main job in a throwaway lab, or `mirrorctl ARGS` on this host
    Run {
        /// Arguments of mirrorctl, after `--`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Run every test of the workspace
    Test {
        /// Arguments of the test programs, after `--`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Compare verdicts of the kernel with the oracle's, on random policies and packets
    Verdicts(verdicts::Options),
    /// Feed the parsers what a fuzzer makes up
    Fuzz(fuzz::Options),
    /// Run the tests that need a kernel on the oldest supported one, in an emulated machine
    Vm(vm::Options),
    /// Measure, in throwaway namespaces
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Check the formatting and run clippy, warnings being errors
    Lint,
    /// Things to do in the throwaway lab
    #[command(subcommand)]
    Lab(lab::Lab),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Cmd::Setup => setup::ensure(setup::Stage::Lab).map(|_| ExitCode::SUCCESS),
        Cmd::Run { args } => mirrorctl::run(&args),
        Cmd::Test { args } => test::run(&args),
        Cmd::Verdicts(options) => verdicts::run(&options),
        Cmd::Fuzz(options) => fuzz::run(&options),
        Cmd::Vm(options) => vm::run(&options),
        Cmd::Bench(what) => bench::run(&what),
        Cmd::Lint => lint::run(),
        Cmd::Lab(what) => lab::run(&what),
    };
    result.unwrap_or_else(|err| {
        failure::report(&err);
        ExitCode::FAILURE
    })
}

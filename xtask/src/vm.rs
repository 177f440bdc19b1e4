//! `cargo xtask vm`: the tests that need a kernel, on the oldest kernel that is supported, in a machine that qemu
//! emulates. Nothing is installed but qemu; the host's own kernel has no part in it.

mod console;
mod image;
mod kernel;
mod package;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use self::{image::Image, kernel::Kernel};
use crate::{
    build,
    failure::Failure,
    privilege,
    setup::{self, Stage},
    step,
};

/// What runs first in the machine.
const INIT: &[u8] = include_bytes!("vm/init.sh");
/// What a user would type, and what should come of it.
const SMOKE: &[u8] = include_bytes!("vm/smoke.sh");
/// Programs of the host that the tests call.
const PROGRAMS: [&str; 3] = ["ip", "tc", "ethtool"];
/// The tests that are run unless others are asked for: each thing that the kernel does for a copy, once.
/// That detach leaves no trace is the smoke test's.
const QUICK: [&str; 6] = [
    "tcp_bulk_with_segmentation_offload_is_copied_through_tc",
    "copies_reach_an_ipv6_target",
    "vlan_tags_arrive_inside_the_copy",
    "packet_length_100_copies_the_first_100_bytes",
    "a_source_that_is_the_uplink_does_not_loop",
    "copies_take_the_gateway_of_the_route",
];
/// Tests that look at the workspace, or need programs of a whole distribution or of the workspace, and nothing that
/// kernels differ in.
const AT_HOME: [&str; 4] = ["architecture", "capture", "foreign_decoder", "replay"];

/// Arguments of `cargo xtask vm`.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Boot the kernel of this Debian package in place of the distribution's linux-image-cloud-amd64
    #[arg(long, value_name = "DEB")]
    kernel: Option<PathBuf>,
    /// Let the processor run the machine (KVM) in place of emulating it: faster, where it works
    #[arg(long)]
    kvm: bool,
    /// Give up after so many seconds in the machine
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    time_limit: u64,
    /// Run the smoke test only
    #[arg(long, conflicts_with_all = ["all", "args"])]
    smoke: bool,
    /// Run every test, which takes long: give it a --time-limit of 1800 or so
    #[arg(long)]
    all: bool,
    /// Arguments of the test programs, after `--`, in place of the few tests that are run otherwise
    #[arg(last = true)]
    args: Vec<String>,
}

/// Builds everything, boots it, and says whether all went well in there.
pub fn run(options: &Options) -> Result<ExitCode> {
    if cfg!(not(target_arch = "x86_64")) {
        return Err(Failure::new("prepare the machine: only x86-64 is emulated, on x86-64").into());
    }
    setup::ensure(Stage::Vm)?;
    let folder = build::target_dir()?.join("vm");
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    let lock = folder.join("lock");
    let lock = File::create(&lock).with_context(|| format!("make {}", lock.display()))?;
    let _lock = step::lock(lock)?;

    let busybox = package::get(&folder, "busybox-static")?.find(&["bin/busybox", "usr/bin/busybox"])?;
    let kernel = match &options.kernel {
        Some(package) => Kernel::of(&package::unpack(&folder, package)?, &busybox)?,
        None => Kernel::of(&package::get(&folder, &kernel::debians()?)?, &busybox)?,
    };
    let mirrorctl = build::mirrorctl()?;
    let tests = if options.smoke { Vec::new() } else { build::integration_tests()? };

    let started = Instant::now();
    let mut image = Image::default();
    image.add_bytes("init", INIT);
    image.add_bytes("smoke", SMOKE);
    let quick = options.args.is_empty() && !options.all && !options.smoke;
    let quick_arguments = QUICK.map(str::to_owned);
    let arguments = if quick { &quick_arguments[..] } else { &options.args };
    image.add_bytes(
        "arguments",
        arguments.iter().map(|argument| format!("{argument}\n")).collect::<String>().as_bytes(),
    );
    image.add_busybox(&busybox)?;
    for program in PROGRAMS {
        let path = privilege::find(program).with_context(|| format!("find {program}"))?;
        image.add_program(&format!("bin/{program}"), &path)?;
    }
    image.add_program("bin/mirrorctl", &stripped(&mirrorctl, &folder)?)?;
    for (name, path) in tests.iter().filter(|(name, _)| !AT_HOME.contains(&name.as_str())) {
        image.add_program(&format!("tests/{name}"), &stripped(path, &folder)?)?;
    }
    kernel.add_modules(&mut image)?;
    let image_file = folder.join("image.cpio");
    image.write(&image_file)?;
    eprintln!(
        "vm: boot Linux {} ({}, at most {} s; the image took {:.1} s)",
        kernel.release,
        if options.kvm { "KVM" } else { "emulated" },
        options.time_limit,
        started.elapsed().as_secs_f32()
    );

    let started = Instant::now();
    let mut machine = machine(&kernel.image, &image_file, options.kvm);
    let verdict = console::watch(&mut machine, Duration::from_secs(options.time_limit))?;
    let seconds = started.elapsed().as_secs_f32();
    if quick && verdict.failed.is_empty() && verdict.passed < QUICK.len() {
        return Err(Failure::new(format!("run the quick tests: only {} of {QUICK:?} are there", verdict.passed)).into());
    }
    if verdict.failed.is_empty() {
        eprintln!(
            "vm: the smoke test and {} tests passed on Linux {}, after {seconds:.1} s",
            verdict.passed, kernel.release
        );
        return Ok(ExitCode::SUCCESS);
    }
    let failed = verdict.failed.join(", ");
    Err(Failure::new(format!(
        "test on Linux {}: {failed} failed, see above (the machine ran for {seconds:.1} s)",
        kernel.release
    ))
    .hint("`cargo xtask vm -- NAME` runs the tests with NAME in their names, `--smoke` none of them")
    .into())
}

/// The machine: two CPUs, a serial line, and no disk and no network.
fn machine(kernel: &Path, image: &Path, kvm: bool) -> Command {
    // However this program ends, the machine ends with it.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
    command.args(["-accel", if kvm { "kvm" } else { "tcg" }, "-cpu", if kvm { "host" } else { "max" }]);
    command.args(["-smp", "2", "-m", "1024", "-nodefaults", "-display", "none", "-serial", "stdio"]);
    // A kernel that panics reboots at once, which here is the end.
    command.args(["-no-reboot", "-append", "console=ttyS0 quiet panic=-1"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    command
}

/// A copy of `program` without what only debuggers read: most of its bytes, and all of them would go to the machine's
/// memory.
fn stripped(program: &Path, folder: &Path) -> Result<PathBuf> {
    let name = program.file_name().with_context(|| format!("name {}", program.display()))?;
    let copies = folder.join("stripped");
    fs::create_dir_all(&copies).with_context(|| format!("make {}", copies.display()))?;
    let copy = copies.join(name);
    let status = Command::new("strip").arg("-o").arg(&copy).arg(program).status().context("run strip")?;
    if !status.success() {
        return Err(Failure::new(format!("strip {}: strip failed, see above", program.display())).into());
    }
    Ok(copy)
}

//! The command line: flags to plain values, nothing else.

pub mod definitions;

use std::path::PathBuf;

use mirror_common::policy::Direction;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::model::{Endpoint, InterfaceName, PacketLength, SessionNumber, Vni};
use crate::question::flow::Flow;

/// Traffic mirroring in the kernel: copies of an interface's packets, wrapped in VXLAN, sent to a target.
#[derive(Debug, Parser)]
#[command(name = "mirrorctl", version, max_term_width = 100)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Print one JSON document on standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Keeps state, pins and helper devices apart, so that several network namespaces of one host can be served
    #[arg(long, global = true, value_name = "NAME", default_value = "default")]
    pub instance: String,
    /// Where definitions and state are kept
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/mirrorctl")]
    pub state_dir: PathBuf,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Mirror an interface; returns when the kernel does the work, which goes on after the command has ended
    Attach(Attach),
    /// Stop mirroring and leave no trace: hooks, helper devices, pins
    Detach(Detach),
    /// Targets: where copies go
    #[command(subcommand)]
    Target(definitions::Target),
    /// Filters: which packets are copied
    #[command(subcommand)]
    Filter(definitions::Filter),
    /// The rules of a filter
    #[command(subcommand)]
    Rule(definitions::Rule),
    /// Sessions: source, target and filter
    #[command(subcommand)]
    Session(definitions::Session),
    /// The tags of targets, filters and sessions
    #[command(subcommand)]
    Tag(definitions::Tags),
    /// Make the definitions what a file says, all or nothing
    Apply(definitions::Apply),
    /// Print the definitions as a file for 'apply'
    Export,
    /// What is attached, by which hook
    Status,
    /// Counters per source, session and skip reason
    Stats(Stats),
    /// The verdict on a packet, asked of the kernel: the programs and maps that are attached
    Explain(Explain),
    /// Verdicts of live packets as they happen; costs nothing when it doesn't run
    Trace(Trace),
    /// Receive copies, decapsulate them, print them or write pcapng
    Capture(Capture),
    /// Check this host: kernel, features, bpffs, capabilities
    Doctor,
    /// Print what the kernel programs log, until Ctrl-C (in builds with the feature `log` only)
    #[cfg(feature = "log")]
    Log,
}

/// Arguments of `attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// The source: the interface to mirror
    #[arg(value_name = "IFACE")]
    pub interface: InterfaceName,
    /// Where copies go: an IPv4 or IPv6 address, with an optional UDP port (default 4789): 192.0.2.1, 192.0.2.1:4790, [2001:db8::1]:4790
    ///
    /// Without it, the interface is attached with the sessions that are defined for it.
    #[arg(long, value_name = "ADDR[:PORT]", group = "destination")]
    pub target: Option<Endpoint>,
    /// Send bare frames out of this interface in place of VXLAN to an address
    #[arg(long, value_name = "IFACE", group = "destination")]
    pub to_interface: Option<InterfaceName>,
    /// Copy what this filter accepts; every IPv4 and IPv6 packet when not given
    #[arg(long, value_name = "NAME", requires = "destination")]
    pub filter: Option<String>,
    /// VXLAN network identifier, 0 to 16777215; random when not given
    #[arg(long, allow_negative_numbers = true, value_name = "N", requires = "destination")]
    pub vni: Option<Vni>,
    /// Copy only the first N bytes of a packet, 1 to 8500; the whole packet when not given
    #[arg(long, allow_negative_numbers = true, value_name = "N", requires = "destination")]
    pub packet_length: Option<PacketLength>,
    /// Session number, 1 to 32766; 1 is the highest priority
    #[arg(long, allow_negative_numbers = true, value_name = "N", default_value = "1")]
    pub session_number: SessionNumber,
    /// Which hook of the kernel to use; the best one it has when not given
    #[arg(long, value_name = "HOOK")]
    pub hook: Option<HookChoice>,
    /// Send every copy through the tap, also where the kernel could take a shorter way: for comparison and trouble
    #[arg(long)]
    pub no_fast_path: bool,
}

/// Values of `--hook`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HookChoice {
    /// TCX links (Linux 6.6)
    Tcx,
    /// The clsact qdisc
    Tc,
}

/// Arguments of `detach`.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Detach {
    /// The source to stop mirroring
    #[arg(value_name = "IFACE")]
    pub interface: Option<InterfaceName>,
    /// Every source of the instance, and whatever a crash left behind
    #[arg(long)]
    pub all: bool,
}

/// Arguments of `stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Print again every second, until Ctrl-C
    #[arg(long)]
    pub watch: bool,
}

/// Arguments of `explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// The source
    #[arg(long, value_name = "IFACE")]
    pub source: InterfaceName,
    /// Which way the packet goes
    #[arg(long, value_parser = definitions::direction_parser())]
    pub direction: Direction,
    /// What to ask about
    #[command(flatten)]
    pub question: Question,
}

/// What `explain` is asked about.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct Question {
    /// A packet in hexadecimal digits, from its Ethernet header; blanks and colons between bytes don't count
    #[arg(long, value_name = "HEX")]
    pub packet: Option<String>,
    /// Every packet of a pcap or pcapng file, or of standard input with -
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// A packet in words: 'tcp 10.0.0.1:1234 > 10.0.0.2:80', 'udp [2001:db8::1]:53 > [2001:db8::2]:5353', 'icmp 10.0.0.1 > 10.0.0.2'
    #[arg(long, value_name = "FLOW")]
    pub flow: Option<Flow>,
}

/// Arguments of `trace`.
#[derive(Debug, Args)]
pub struct Trace {
    /// The source
    #[arg(value_name = "IFACE")]
    pub interface: InterfaceName,
    /// Only packets that go this way
    #[arg(long, value_parser = definitions::direction_parser())]
    pub direction: Option<Direction>,
    /// Stop after N verdicts
    #[arg(short = 'c', long = "count", value_name = "N")]
    pub count: Option<u64>,
}

/// Arguments of `capture`.
#[derive(Debug, Args)]
pub struct Capture {
    /// Address and UDP port to receive on; every address and port 4789 when not given
    #[arg(long, value_name = "ADDR[:PORT]")]
    pub listen: Option<Endpoint>,
    /// Only copies with this VXLAN network identifier
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub vni: Option<Vni>,
    /// Write pcapng to FILE, or to standard output with -, instead of printing
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Stop after N copies
    #[arg(short = 'c', long = "count", value_name = "N")]
    pub count: Option<u64>,
}

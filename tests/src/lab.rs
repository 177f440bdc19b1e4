//! The lab: a traffic source, a host and a collector, each in a network namespace of its own.
//!
//! ```text
//! generator g0 ------ s0 host u0 ------ c0 collector
//!              source            uplink
//! ```
//!
//! The lab's links keep frames in order on each CPU; [`Lab::flush`] rests on that.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use serde_json::Value;

use crate::craft::{self, BOTH_VERSIONS, IpVersion};
use crate::frame::{Frame, LOCAL_EXPERIMENT, Mac};
use crate::leftovers::{Claim, Exclusive};
use crate::namespace::{Namespace, run};
use crate::offload::{self, Unfinished};
use crate::packet_socket::{Listen, PacketSocket};
use crate::process::{Output, Running, Surroundings, read_file};
use crate::traffic::{self, End};
use crate::wait::wait_until;

/// An interface of the lab and its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Interface name.
    pub interface: &'static str,
    /// Ethernet address.
    pub mac: Mac,
    /// IPv4 address; the network has 24 bits.
    pub v4: Ipv4Addr,
    /// IPv6 address; the network has 64 bits.
    pub v6: Ipv6Addr,
}

impl Station {
    const fn new(interface: &'static str, link: u8, end: u8) -> Self {
        Self {
            interface,
            mac: Mac([0x02, 0, 0, 0, link, end]),
            v4: Ipv4Addr::new(10, link, 0, end),
            v6: Ipv6Addr::new(0xfd00, link as u16, 0, 0, 0, 0, 0, end as u16),
        }
    }

    /// Its address of one family.
    pub const fn address(&self, version: IpVersion) -> IpAddr {
        match version {
            IpVersion::V4 => IpAddr::V4(self.v4),
            IpVersion::V6 => IpAddr::V6(self.v6),
        }
    }
}

/// Where traffic comes from.
pub const GENERATOR: Station = Station::new("g0", 1, 1);
/// The source interface of the host: the one that is mirrored.
pub const HOST_SOURCE: Station = Station::new("s0", 1, 2);
/// The interface of the host that leads to the collector.
pub const HOST_UPLINK: Station = Station::new("u0", 2, 1);
/// Where copies go.
pub const COLLECTOR: Station = Station::new("c0", 2, 2);
/// All of them.
pub const STATIONS: [Station; 4] = [GENERATOR, HOST_SOURCE, HOST_UPLINK, COLLECTOR];

/// The file in the scratch directory that stands for `/etc/resolv.conf`.
const RESOLV_CONF: &str = "resolv.conf";
/// Frames injected without a pause: the queues of the lab's links take 1,000 packets, and every lab uses the same.
const INJECTED_AT_ONCE: usize = 64;

/// How long after a change of routes or neighbours copies may still take the way of before.
const WAYS_ARE_FOLLOWED: Duration = Duration::from_millis(100);

/// How many queues a copy can wait in one after the other, doubled: generator to source, to the tap, to the uplink; a
/// neighbour's question and answer before that.
const FLUSH_ROUNDS: usize = 12;

/// What a lab is to be like.
#[derive(Clone, Debug)]
pub struct Options {
    uplink_mtu: u32,
    source_mtu: u32,
    source_offloads: bool,
    bpffs: bool,
    mirrorctl: Option<PathBuf>,
}

impl Options {
    /// MTU of the uplink. 1600 unless said otherwise: a full frame of the source, two tags and the outer headers fit.
    #[must_use]
    pub fn uplink_mtu(mut self, mtu: u32) -> Self {
        self.uplink_mtu = mtu;
        self
    }

    /// MTU of the source; 1500 unless said otherwise.
    #[must_use]
    pub fn source_mtu(mut self, mtu: u32) -> Self {
        self.source_mtu = mtu;
        self
    }

    /// No offloads on the source's link: what the kernel handles is what a wire carries.
    #[must_use]
    pub fn without_source_offloads(mut self) -> Self {
        self.source_offloads = false;
        self
    }

    /// Nothing mounted at `/sys/fs/bpf` of the host.
    #[must_use]
    pub fn without_bpffs(mut self) -> Self {
        self.bpffs = false;
        self
    }

    /// The `mirrorctl` to run, instead of the one that the environment names.
    #[must_use]
    pub fn mirrorctl(mut self, path: &Path) -> Self {
        self.mirrorctl = Some(path.to_path_buf());
        self
    }

    /// Builds the lab.
    pub fn start(self) -> Result<Lab> {
        Lab::build(&self)
    }
}

/// Three namespaces, two links. Gone when dropped.
#[derive(Debug)]
pub struct Lab {
    // Dropped first: sockets keep a namespace alive.
    flushers: [Flusher; 2],
    /// Where traffic comes from: g0.
    pub generator: Namespace,
    /// What is mirrored: s0 and u0.
    pub host: Namespace,
    /// Where copies go: c0.
    pub collector: Namespace,
    mirrorctl: Option<PathBuf>,
    bpffs: Option<PathBuf>,
    claim: Claim,
}

/// Sends markers down a link and waits for them at its end.
#[derive(Debug)]
struct Flusher {
    sender: PacketSocket,
    receiver: Mutex<PacketSocket>,
    from: Station,
    to: Station,
}

impl Lab {
    /// What a lab is like unless something else is asked for.
    pub fn options() -> Options {
        Options { uplink_mtu: 1600, source_mtu: 1500, source_offloads: true, bpffs: true, mirrorctl: None }
    }

    /// Builds the usual lab.
    pub fn new() -> Result<Self> {
        Self::options().start()
    }

    fn build(options: &Options) -> Result<Self> {
        let lock = Exclusive::wait()?;
        let claim = Claim::next(&lock)?;
        let directory = claim.directory();
        fs::create_dir_all(directory.join("state")).with_context(|| format!("create {}", directory.display()))?;
        let bpffs = if options.bpffs {
            let path = claim.bpffs();
            fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
            mount(Some("lab"), &path, Some("bpf"), MsFlags::empty(), None::<&str>)
                .with_context(|| format!("mount a bpffs on {}", path.display()))?;
            Some(path)
        } else {
            None
        };
        let create = |role: &str| Namespace::create(format!("{}-{role}", claim.name()));
        let (generator, host, collector) = (create("gen")?, create("host")?, create("col")?);
        drop(lock);

        let link = |near: &Station, near_in: &Namespace, far: &Station, far_in: &Namespace, mtu: u32| {
            format!(
                "link add name {} address {} mtu {mtu} netns {} type veth peer name {} address {} mtu {mtu} netns {}\n",
                near.interface,
                near.mac,
                near_in.name(),
                far.interface,
                far.mac,
                far_in.name(),
            )
        };
        let source = link(&HOST_SOURCE, &host, &GENERATOR, &generator, options.source_mtu);
        let uplink = link(&HOST_UPLINK, &host, &COLLECTOR, &collector, options.uplink_mtu);
        run("ip", &["-batch", "-"], Some(&format!("{source}{uplink}")))?;

        for (namespace, stations) in
            [(&generator, &[GENERATOR][..]), (&host, &[HOST_SOURCE, HOST_UPLINK]), (&collector, &[COLLECTOR])]
        {
            let mut lines = String::from("link set lo up\n");
            for station in stations {
                let Station { interface, v4, v6, .. } = station;
                // No link-local addresses, and what groups an interface is in is told once, when it comes up, and not
                // again a moment later: nobody speaks unasked.
                namespace.set_sysctl(&format!("ipv6/conf/{interface}/addr_gen_mode"), "1")?;
                for version in ["mldv1", "mldv2"] {
                    let interval = format!("ipv6/conf/{interface}/{version}_unsolicited_report_interval");
                    namespace.set_sysctl(&interval, "3600000")?;
                }
                lines += &format!(
                    "link set {interface} up\naddress add {v4}/24 dev {interface}\naddress add {v6}/64 dev {interface} nodad\n"
                );
            }
            namespace.ip_batch(&lines)?;
        }
        // The uplink's frames are looked at as wire frames.
        host.enter(|| offload::switch_off(HOST_UPLINK.interface))?;
        collector.enter(|| offload::switch_off(COLLECTOR.interface))?;
        if !options.source_offloads {
            host.enter(|| offload::switch_off(HOST_SOURCE.interface))?;
            generator.enter(|| offload::switch_off(GENERATOR.interface))?;
        }
        let flushers = [
            Flusher::open(&generator, GENERATOR, &host, HOST_SOURCE)?,
            Flusher::open(&host, HOST_UPLINK, &collector, COLLECTOR)?,
        ];
        let mirrorctl = options.mirrorctl.clone();
        let lab = Self { flushers, generator, host, collector, mirrorctl, bpffs, claim };
        wait_until("the lab's links carry frames", || lab.links_are_up())?;
        Ok(lab)
    }

    fn links_are_up(&self) -> Result<bool> {
        for (namespace, station) in [
            (&self.generator, GENERATOR),
            (&self.host, HOST_SOURCE),
            (&self.host, HOST_UPLINK),
            (&self.collector, COLLECTOR),
        ] {
            if !namespace.ip(&format!("-oneline link show dev {}", station.interface))?.contains(" state UP ") {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The namespace that an interface of the lab is in.
    pub fn namespace_of(&self, station: Station) -> &Namespace {
        match station {
            GENERATOR => &self.generator,
            COLLECTOR => &self.collector,
            _ => &self.host,
        }
    }

    /// An interface of the lab as one end of a conversation.
    pub fn end(&self, station: Station, version: IpVersion) -> End<'_> {
        End { namespace: self.namespace_of(station), address: station.address(version) }
    }

    /// Runs `mirrorctl` with the words of `arguments` in the host to its end.
    pub fn mirrorctl(&self, arguments: &str) -> Result<Output> {
        self.start_mirrorctl(&self.host, arguments)?.output()
    }

    /// Starts `mirrorctl` with the words of `arguments` in `namespace`.
    pub fn start_mirrorctl(&self, namespace: &Namespace, arguments: &str) -> Result<Running> {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        Running::start(self.mirrorctl_command(namespace, &arguments)?, format!("`mirrorctl {}`", arguments.join(" ")))
    }

    /// As [`Lab::start_mirrorctl`], handing each line of its standard output to `line` as it comes.
    pub fn start_mirrorctl_live(
        &self,
        namespace: &Namespace,
        arguments: &str,
        line: impl FnMut(&str) + Send + 'static,
    ) -> Result<Running> {
        let words: Vec<&str> = arguments.split_whitespace().collect();
        Running::start_live(self.mirrorctl_command(namespace, &words)?, format!("`mirrorctl {arguments}`"), line)
    }

    /// Whether somebody in `namespace` listens at a UDP port.
    pub fn listens_at_udp(&self, namespace: &Namespace, port: u16) -> Result<bool> {
        let at_port = format!(":{port:04X} ");
        namespace.enter(|| {
            let sockets =
                ["udp", "udp6"].map(|table| read_file(Path::new("/proc/thread-self/net").join(table).as_path()));
            for table in sockets {
                // Local address and port are the second word of a line.
                if table?
                    .lines()
                    .skip(1)
                    .filter_map(|line| line.split_whitespace().nth(1))
                    .any(|local| format!("{local} ").ends_with(&at_port))
                {
                    return Ok(true);
                }
            }
            Ok(false)
        })
    }

    /// Runs `mirrorctl` with the words of `arguments` in the host to its end, as the user nobody.
    pub fn mirrorctl_as_nobody(&self, arguments: &str) -> Result<Output> {
        let path = self.claim.directory().join("mirrorctl");
        fs::write(&path, "").with_context(|| format!("create {}", path.display()))?;
        let surroundings = Surroundings {
            namespace: &self.host,
            bpffs: self.bpffs.as_deref(),
            resolv_conf: None,
            as_nobody: Some(&path),
        };
        let mut command = surroundings.command(&self.program()?)?;
        command.args(arguments.split_whitespace()).arg("--state-dir").arg(self.state_directory());
        Running::start(command, format!("nobody's `mirrorctl {arguments}`"))?.output()
    }

    /// `mirrorctl` with `arguments` in `namespace`, ready to be started: for arguments with blanks in them, and for
    /// other uses of its output.
    pub fn mirrorctl_command(&self, namespace: &Namespace, arguments: &[&str]) -> Result<Command> {
        let resolv_conf = self.scratch_directory().join(RESOLV_CONF);
        let resolv_conf = resolv_conf.exists().then_some(resolv_conf.as_path());
        let surroundings = Surroundings { namespace, bpffs: self.bpffs.as_deref(), resolv_conf, as_nobody: None };
        let mut command = surroundings.command(&self.program()?)?;
        command.args(arguments).arg("--state-dir").arg(self.state_directory());
        Ok(command)
    }

    fn program(&self) -> Result<PathBuf> {
        self.mirrorctl.clone().map_or_else(program_of_environment, Ok)
    }

    /// Where the lab's `mirrorctl` keeps its state.
    pub fn state_directory(&self) -> PathBuf {
        self.claim.directory().join("state")
    }

    /// A directory for files of a test. A `resolv.conf` in it is what the lab's `mirrorctl` sees as the host's.
    pub fn scratch_directory(&self) -> PathBuf {
        self.claim.directory()
    }

    /// What the lab's host has at `/sys/fs/bpf`.
    pub fn bpffs(&self) -> Option<&Path> {
        self.bpffs.as_deref()
    }

    /// Sends a frame out of an interface of the lab, as it is.
    pub fn inject(&self, at: Station, frame: &Frame) -> Result<()> {
        self.inject_all(at, std::slice::from_ref(frame))
    }

    /// Sends frames out of an interface of the lab, as they are and in order.
    pub fn inject_all(&self, at: Station, frames: &[Frame]) -> Result<()> {
        let socket = self.namespace_of(at).enter(|| PacketSocket::open(at.interface, Listen::Nothing))?;
        for few in frames.chunks(INJECTED_AT_ONCE) {
            few.iter().try_for_each(|frame| socket.send(frame))?;
            if few.len() == INJECTED_AT_ONCE {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Sends a frame, a page long or longer, as a packet of which only the first `linear` bytes are in the linear part.
    pub fn inject_non_linear(&self, at: Station, frame: &Frame, linear: u16) -> Result<()> {
        let socket = self.namespace_of(at).enter(|| PacketSocket::open(at.interface, Listen::Nothing))?;
        socket.send_non_linear(frame, linear)
    }

    /// Sends packets that are to be finished on their way (see [`offload::unfinished`]).
    pub fn inject_unfinished(&self, at: Station, packets: &[(Frame, Unfinished)]) -> Result<()> {
        let socket = self.namespace_of(at).enter(|| PacketSocket::open(at.interface, Listen::Nothing))?;
        let mut under_way = 0;
        for (frame, unfinished) in packets {
            let frames = unfinished.segment_size.map_or(1, |size| frame.0.len() / usize::from(size) + 1);
            if under_way + frames > INJECTED_AT_ONCE {
                self.flush()?;
                under_way = 0;
            }
            socket.send_unfinished(frame, *unfinished)?;
            under_way += frames;
        }
        self.flush()
    }

    /// Changes a route, a neighbour, an address or an uplink of the host (`ip ARGUMENTS`), and returns when no copy takes the
    /// way of before any more.
    pub fn change_way(&self, arguments: &str) -> Result<()> {
        self.host.ip(arguments)?;
        thread::sleep(WAYS_ARE_FOLLOWED);
        Ok(())
    }

    /// A little of everything between the generator and the host, both ways, over IPv4 and IPv6: TCP, UDP and ICMP
    /// echo, content verified.
    pub fn small_talk(&self) -> Result<()> {
        for version in BOTH_VERSIONS {
            let (generator, host) = (self.end(GENERATOR, version), self.end(HOST_SOURCE, version));
            traffic::exchange_tcp(generator, host, 20_000)?;
            traffic::exchange_udp(generator, host, 700)?;
            traffic::ping(generator, host.address, 56)?;
            traffic::ping(host, generator.address, 1000)?;
        }
        Ok(())
    }

    /// What `mirrorctl stats --json` says.
    pub fn stats(&self) -> Result<Value> {
        Ok(self.mirrorctl("stats --json")?.json())
    }

    /// What `mirrorctl status --json` says.
    pub fn status(&self) -> Result<Value> {
        Ok(self.mirrorctl("status --json")?.json())
    }

    /// Returns when every frame that was on its way, and every copy made of it, has arrived or is lost.
    ///
    /// A veth link hands frames over through a queue of the CPU that sent them, in order. Markers that travel behind
    /// them on every CPU, as often as a copy changes links, are seen at the far end after the last of them.
    pub fn flush(&self) -> Result<()> {
        for round in 0..FLUSH_ROUNDS {
            for flusher in &self.flushers {
                flusher.flush(round)?;
            }
        }
        Ok(())
    }

    /// Packets that the lab's own links lost so far: their queues were full, or their MTU too small.
    pub fn lost_by_links(&self) -> Result<u64> {
        STATIONS.into_iter().map(|station| self.lost_by_link(station)).sum()
    }

    /// Packets that the link from `station` lost so far.
    pub(crate) fn lost_by_link(&self, station: Station) -> Result<u64> {
        let text = self.namespace_of(station).ip(&format!("-json -stats link show dev {}", station.interface))?;
        let links: Value = serde_json::from_str(&text).context("read what `ip -json` printed")?;
        let dropped = &links[0]["stats64"]["tx"]["dropped"];
        dropped.as_u64().with_context(|| format!("no count of dropped packets in {text}"))
    }
}

impl Flusher {
    fn open(near: &Namespace, from: Station, far: &Namespace, to: Station) -> Result<Self> {
        let sender = near.enter(|| PacketSocket::open(from.interface, Listen::Nothing))?;
        let receiver = far.enter(|| PacketSocket::open(to.interface, Listen::Ethertype(LOCAL_EXPERIMENT)))?;
        Ok(Self { sender, receiver: receiver.into(), from, to })
    }

    fn flush(&self, round: usize) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let here = sched_getaffinity(Pid::from_raw(0)).context("read the CPUs of this thread")?;
        let mut awaited = Vec::new();
        for cpu in (0..CpuSet::count()).filter(|&cpu| here.is_set(cpu).unwrap_or(false)) {
            let payload = format!("lab marker {now} round {round} cpu {cpu}");
            let marker = craft::ethernet(&self.from, &self.to, LOCAL_EXPERIMENT, payload.as_bytes());
            thread::scope(|scope| {
                let sent = scope.spawn(|| {
                    let mut one = CpuSet::new();
                    one.set(cpu).context("choose a CPU")?;
                    sched_setaffinity(Pid::from_raw(0), &one).with_context(|| format!("move to CPU {cpu}"))?;
                    self.sender.send(&marker)
                });
                sent.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            awaited.push(marker);
        }
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = Vec::new();
        wait_until("the lab's markers arrive", || {
            receiver.read_all(&mut seen)?;
            awaited.retain(|marker| !seen.iter().any(|arrived| arrived.frame == *marker));
            Ok(awaited.is_empty())
        })
    }
}

/// The `mirrorctl` that the variable MIRRORCTL names, else the one that was built beside this program.
fn program_of_environment() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MIRRORCTL") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("MIRRORCTL names {}, which is no file", path.display());
        }
        return Ok(path);
    }
    let this = std::env::current_exe().context("find this program")?;
    // target/debug/deps/name-hash, or target/debug/name.
    let beside = this.ancestors().skip(1).take(2).map(|directory| directory.join("mirrorctl"));
    match beside.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("no mirrorctl to test: run `cargo xtask test`, or build it and set MIRRORCTL to its path"),
    }
}

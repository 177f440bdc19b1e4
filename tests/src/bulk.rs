//! TCP in bulk, both ways at once, and every copy of it checked while it flows. What is kept is what is under way, so
//! that a transfer may be as long as one likes.
//!
//! Each copy is compared with the frame that a second capture saw at the source, byte for byte as far as it was not
//! cut; and beside that looked at by itself: its checksums, its length, and whether it says what the stream has at its
//! place.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::Value;

use crate::checksum;
use crate::craft::{self, IpVersion};
use crate::frame::{ETHERNET_HEADER, Frame, Ip, TCP, be32};
use crate::lab::{COLLECTOR, GENERATOR, HOST_SOURCE, HOST_UPLINK, Lab, Station};
use crate::packet_socket::{Listen, PacketSocket, Seen};
use crate::path::Path;
use crate::recording::{check_outer, silent_receiver};
use crate::traffic::connect_tcp;
use crate::vxlan::{self, Copy};
use crate::wait::{PATIENCE, wait_until};

/// A stream repeats itself after so many bytes: a prime, so that nothing in a kernel is a multiple of it.
const PERIOD: usize = 131_071;
/// How far a sender may be ahead of the copies that have been looked at. Sockets that capture have room for more.
const LAG: u64 = 8 << 20;
/// Frames without copy that are waited for. More than can be under way: they are lost.
const PENDING: usize = 200_000;
/// Packets read from one socket before the other has its turn.
const BATCH: usize = 512;
/// Bytes that a sender hands to the kernel at once.
const CHUNK: usize = 64 * 1024;
/// The filter that [`wants_tcp`] makes.
const FILTER: &str = "bulk";
const VNI: u32 = 0x00b0_1c00;

/// One transfer.
#[derive(Clone, Copy, Debug)]
pub struct Transfer {
    /// Bytes each way.
    pub bytes: u64,
    /// The packet length of the session.
    pub packet_length: Option<usize>,
    /// How copies may go.
    pub path: Path,
    /// What the stream goes over.
    pub version: IpVersion,
    /// MTU of the source.
    pub source_mtu: usize,
    /// Copies are looked at where they leave, at the uplink, and not at the collector's end of that link.
    pub at_uplink: bool,
    /// All who send and receive are on one CPU, and with them all queues between the source and the collector. With
    /// more, each CPU has a queue of its own for the tap and for the lab's links, and what changes the CPU may overtake.
    pub one_cpu: bool,
}

/// Makes the filter that a [`Transfer`] uses: TCP, and nothing of what hosts say on their own account.
pub fn wants_tcp(lab: &Lab) -> Result<()> {
    lab.mirrorctl(&format!("filter create {FILTER}"))?.ok();
    for direction in ["ingress", "egress"] {
        for (number, any) in [(1, "0.0.0.0/0"), (2, "::/0")] {
            let rule = format!("--action accept --protocol tcp --source-cidr {any} --destination-cidr {any}");
            lab.mirrorctl(&format!("rule add {FILTER} --direction {direction} --rule-number {number} {rule}"))?.ok();
        }
    }
    Ok(())
}

/// What came of a transfer.
#[derive(Clone, Debug)]
pub struct Report {
    transfer: Transfer,
    elapsed: Duration,
    /// Wire frames of the connection that passed the source, and in how many packets of the kernel.
    pub wire_frames: u64,
    /// See above.
    pub kernel_packets: u64,
    /// Packets that stood for several frames: received, and sent.
    pub super_packets: [u64; 2],
    /// Copies that the collector got.
    pub copies: u64,
    /// Frames without copy.
    pub lost: u64,
    /// Copies of no frame.
    pub surplus: u64,
    /// Copies with a wrong checksum inside.
    pub wrong_checksums: u64,
    /// Copies longer than a frame of the source can be.
    pub too_long: u64,
    /// Copies with bytes that the stream has not at their place.
    pub wrong_content: u64,
    /// Copies that came after one whose frame passed the source later, in the same direction (RFC 4737 §3.3): of
    /// frames received, and sent.
    pub out_of_order: [u64; 2],
    /// Bytes that no copy has, of each stream.
    pub missing: [u64; 2],
    /// What `mirrorctl stats` counted.
    pub stats: Counted,
    cut: u64,
    kept_bytes: u64,
    lost_by_link: u64,
    source_ports: usize,
    examples: Vec<String>,
}

/// What `mirrorctl stats` says. Nothing was attached before: all counts began at zero.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Wire packets that the session's rules accepted.
    pub accepted: u64,
    /// Copies that left.
    pub packets: u64,
    /// Bytes behind their VXLAN headers.
    pub bytes: u64,
    /// Those that took the fast path.
    pub fast_path: u64,
    /// Cut to the packet length.
    pub truncated_to_length: u64,
    /// Cut to the path MTU.
    pub truncated_to_mtu: u64,
    /// The reasons with a count.
    pub skipped: BTreeMap<String, u64>,
}

impl Counted {
    fn read(stats: &Value) -> Result<Self> {
        let number = |value: &Value| value.as_u64().with_context(|| format!("a count is missing in {stats}"));
        let rules = stats["rules"].as_array().into_iter().flatten();
        let mut accepted = 0;
        for rule in rules.filter(|rule| rule["filter"] == FILTER) {
            accepted += number(&rule["packets"])?;
        }
        let session = &stats["sessions"][0];
        let mut skipped = BTreeMap::new();
        for (reason, count) in stats["skipped"].as_object().into_iter().flatten() {
            let count = number(count)?;
            if count > 0 {
                skipped.insert(reason.clone(), count);
            }
        }
        Ok(Self {
            accepted,
            packets: number(&session["packets"])?,
            bytes: number(&session["bytes"])?,
            fast_path: number(&session["fast_path"])?,
            truncated_to_length: number(&session["truncated_to_length"])?,
            truncated_to_mtu: number(&session["truncated_to_mtu"])?,
            skipped,
        })
    }
}

/// The head of the table whose lines are [`Report`]s.
pub const TABLE_HEAD: &str = "\n\
path       source uplink cut     ip    Mbit/s  frames    packets  copies    by fast   lost  sums  super order       gaps";

impl Report {
    /// A line of the table.
    pub fn line(&self, uplink_mtu: u32) -> String {
        let Transfer { path, source_mtu, packet_length, version, bytes, .. } = self.transfer;
        let cut = packet_length.map_or_else(|| "uncut".to_owned(), |length| length.to_string());
        let version = if version == IpVersion::V4 { "4" } else { "6" };
        let rate = 2.0 * 8.0 * bytes as f64 / self.elapsed.as_secs_f64() / 1e6;
        format!(
            "{:<10} {source_mtu:<6} {uplink_mtu:<6} {cut:<7} {version:<5} {rate:<7.0} {:<9} {:<8} {:<9} {:<9} {:<5} {:<5} {:<5} {:<11} {}",
            path.to_string(),
            self.wire_frames,
            self.kernel_packets,
            self.copies,
            self.stats.fast_path,
            self.lost,
            self.wrong_checksums,
            self.too_long,
            format!("{}+{}", self.out_of_order[0], self.out_of_order[1]),
            self.missing[0] + self.missing[1],
        )
    }

    /// Asserts all but the order: nothing lost, nothing added, nothing wrong, and counted as it was.
    #[track_caller]
    pub fn is_flawless(&self) {
        let Self { stats, .. } = self;
        assert_eq!(self.lost_by_link, 0, "the lab's own link lost copies, which is not the product's fault: {self}");
        assert!(
            self.lost == 0 && self.surplus == 0 && self.copies == self.wire_frames,
            "each frame should have one copy: {self}"
        );
        assert_eq!(self.wrong_checksums, 0, "copies with wrong checksums: {self}");
        assert_eq!(self.too_long, 0, "copies that are no wire packets: {self}");
        assert_eq!(self.wrong_content, 0, "copies that say what was not sent: {self}");
        assert_eq!(self.missing, [0, 0], "the copies should have both streams without a gap: {self}");
        assert_eq!(self.source_ports, 1, "one flow, several UDP source ports: {self}");
        assert_eq!(stats.accepted, self.wire_frames, "stats should count the wire packets that rules accepted: {self}");
        assert_eq!((stats.packets, stats.bytes), (self.copies, self.kept_bytes), "copies and bytes in stats: {self}");
        assert_eq!(stats.truncated_to_length, self.cut, "copies cut to the packet length, in stats: {self}");
        assert_eq!(stats.truncated_to_mtu, 0, "every copy fits the uplink: {self}");
        assert_eq!(stats.skipped, BTreeMap::new(), "nothing should be skipped: {self}");
        if self.transfer.path == Path::Tap {
            assert_eq!(stats.fast_path, 0, "the fast path was forbidden: {self}");
        }
    }

    /// Asserts that the copies of each direction came in the order in which their frames passed the source.
    #[track_caller]
    pub fn is_in_order(&self) {
        assert_eq!(self.out_of_order, [0, 0], "copies should come in the order of their frames: {self}");
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Transfer { bytes, packet_length, path, version, source_mtu, .. } = self.transfer;
        writeln!(
            f,
            "{bytes} bytes each way over {version:?} by the {path}, packet length {packet_length:?}, source MTU {source_mtu}: \
             {} frames in {} packets, {} copies, {} lost, {} surplus",
            self.wire_frames, self.kernel_packets, self.copies, self.lost, self.surplus,
        )?;
        write!(f, "stats: {:?}; the link of the uplink lost {}", self.stats, self.lost_by_link)?;
        if self.lost > 0 {
            // Where they are: accepted is before the tap, packets behind it.
            let Counted { accepted, packets, skipped, .. } = &self.stats;
            let named: u64 = skipped.values().sum();
            write!(
                f,
                "; not accepted {}, accepted but neither left nor skipped {}, left but did not arrive {}",
                self.wire_frames.saturating_sub(*accepted),
                accepted.saturating_sub(packets + named),
                packets.saturating_sub(self.copies),
            )?;
        }
        for example in &self.examples {
            write!(f, "\n{example}")?;
        }
        Ok(())
    }
}

/// Transfers and checks. The lab must have the filter of [`wants_tcp`], and nothing attached. What is attached here is
/// detached again.
pub fn transfer(lab: &Lab, transfer: Transfer) -> Result<Report> {
    let Transfer { bytes, packet_length, path, version, .. } = transfer;
    let cut = packet_length.map(|length| format!("--packet-length {length}")).unwrap_or_default();
    lab.mirrorctl(&format!("attach s0 --target {} --vni {VNI} --filter {FILTER} {cut} {}", COLLECTOR.v4, path.flag()))?
        .ok();
    let lost_before = lab.lost_by_link(HOST_UPLINK)?;
    let _sink = lab.collector.enter(|| silent_receiver(vxlan::PORT))?;
    let mut checker = Checker::open(lab, transfer)?;
    let (calling, called) = connect_tcp(lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version))?;
    let progress = Progress::default();
    let started = Instant::now();
    let checked: Result<()> = thread::scope(|scope| {
        let checking = scope.spawn(|| checker.check_until(&progress));
        let traffic = {
            let _ends_checking = SetOnDrop(&progress.done);
            exchange(&calling, &called, bytes, transfer.one_cpu, &progress)
        };
        // An error of the checker is why senders gave up.
        checking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        traffic
    });
    checked?;
    let elapsed = started.elapsed();
    drop((calling, called));
    wait_until("the lab becomes quiet", || {
        let before = checker.books.wire_frames;
        lab.flush()?;
        checker.check_all()?;
        Ok(before == checker.books.wire_frames)
    })?;
    let stats = Counted::read(&lab.stats()?)?;
    let lost_by_link = lab.lost_by_link(HOST_UPLINK)? - lost_before;
    lab.mirrorctl("detach s0")?.ok();
    Ok(checker.books.report(stats, lost_by_link, elapsed))
}

/// What senders and the checker tell each other.
#[derive(Debug, Default)]
struct Progress {
    /// How far copies have come in each stream: received by the host, sent by it.
    copied: [AtomicU64; 2],
    /// Nothing more is sent.
    done: AtomicBool,
    /// Nothing more is checked.
    stopped: AtomicBool,
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What the streams say.
fn content(stream: usize) -> Content {
    let mut bytes = craft::content(0xb01c + stream as u64, PERIOD);
    bytes.extend_from_within(..);
    Content(bytes)
}

/// Twice the period: every part of the stream that is not longer than it is in one piece here.
struct Content(Vec<u8>);

impl Content {
    fn at(&self, offset: u64, length: usize) -> &[u8] {
        let start = (offset % PERIOD as u64) as usize;
        &self.0[start..start + length]
    }
}

fn exchange(calling: &TcpStream, called: &TcpStream, bytes: u64, one_cpu: bool, progress: &Progress) -> Result<()> {
    let cpus = sched_getaffinity(Pid::from_raw(0)).context("read the CPUs of this thread")?;
    let first = (0..CpuSet::count()).find(|&cpu| cpus.is_set(cpu).unwrap_or(false)).unwrap_or(0);
    let place = move || -> Result<()> {
        if !one_cpu {
            return Ok(());
        }
        let mut one = CpuSet::new();
        one.set(first).context("choose a CPU")?;
        sched_setaffinity(Pid::from_raw(0), &one).with_context(|| format!("move to CPU {first}"))
    };
    thread::scope(|scope| {
        let workers = [(calling, 0, 1), (called, 1, 0)].map(|(stream, sends, expects)| {
            let writer = scope.spawn(move || place().and_then(|()| send(stream, sends, bytes, progress)));
            let reader = scope.spawn(move || place().and_then(|()| expect(stream, expects, bytes)));
            [writer, reader]
        });
        workers.into_iter().flatten().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

fn send(mut stream: &TcpStream, number: usize, bytes: u64, progress: &Progress) -> Result<()> {
    let content = content(number);
    let mut offset = 0;
    while offset < bytes {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let copied = progress.copied[number].load(Ordering::Acquire);
            if offset <= copied + LAG {
                break;
            }
            if progress.stopped.load(Ordering::Acquire) {
                bail!("nobody looks at copies any more");
            }
            if Instant::now() > deadline {
                bail!("{offset} bytes were sent, and no copy of more than {copied} came in {} s", PATIENCE.as_secs());
            }
            thread::sleep(Duration::from_millis(1));
        }
        let length = CHUNK.min((bytes - offset) as usize);
        stream.write_all(content.at(offset, length)).context("send over TCP")?;
        offset += length as u64;
    }
    stream.shutdown(Shutdown::Write).context("end a TCP stream")
}

fn expect(mut stream: &TcpStream, number: usize, bytes: u64) -> Result<()> {
    let content = content(number);
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let length = stream.read(&mut buffer).context("receive over TCP")?;
        if length == 0 {
            ensure!(offset == bytes, "a TCP stream ended after {offset} bytes of {bytes}");
            return Ok(());
        }
        ensure!(buffer[..length] == *content.at(offset, length), "a TCP stream arrived changed behind byte {offset}");
        offset += length as u64;
    }
}

/// Watches the source and the place where copies are looked at.
struct Checker {
    source: PacketSocket,
    collector: PacketSocket,
    seen: Vec<Seen>,
    books: Books,
}

/// What passed and what arrived.
struct Books {
    transfer: Transfer,
    streams: [Stream; 2],
    wire_frames: u64,
    kernel_packets: u64,
    super_packets: [u64; 2],
    copies: u64,
    surplus: u64,
    wrong_checksums: u64,
    too_long: u64,
    wrong_content: u64,
    out_of_order: [u64; 2],
    cut: u64,
    kept_bytes: u64,
    source_ports: BTreeSet<u16>,
    examples: Vec<String>,
}

/// One direction of the connection.
struct Stream {
    content: Content,
    /// Frames that passed the source and have no copy yet, in order, numbered.
    pending: VecDeque<(u64, Frame)>,
    /// Of the frames that passed.
    next_number: u64,
    /// One more than the highest number of a frame that was copied.
    next_copied: u64,
    /// The sequence number of the stream's first byte.
    first: Option<u32>,
    /// The copies have all bytes of the stream to here.
    whole_to: u64,
    /// What they have behind a gap: ends by their starts.
    islands: BTreeMap<u64, u64>,
    /// The end of what they have.
    highest: u64,
}

/// A part of a stream.
struct Part {
    offset: u64,
    length: usize,
    /// Where it is in the frame.
    at: usize,
}

impl Stream {
    fn new(number: usize) -> Self {
        Self {
            content: content(number),
            pending: VecDeque::new(),
            next_number: 0,
            next_copied: 0,
            first: None,
            whole_to: 0,
            islands: BTreeMap::new(),
            highest: 0,
        }
    }

    /// What a segment carries. `whole` is the frame that `copy` is the beginning of.
    fn part(&mut self, copy: &Frame, whole: &Frame, ip: &Ip) -> Option<Part> {
        let sequence = be32(copy.bytes(), ip.transport + 4)?;
        // A copy that was cut in front of it does not say how long its header is.
        let byte = |offset| copy.bytes().get(offset).or_else(|| whole.bytes().get(offset));
        let at = ip.transport + usize::from(byte(ip.transport + 12)? >> 4) * 4;
        let length = ip.end.checked_sub(at)?;
        if byte(ip.transport + 13)? & 0x02 != 0 {
            self.first = Some(sequence.wrapping_add(1));
        }
        let first = self.first?;
        // Sequence numbers wrap: this one is near what came last.
        let near = first.wrapping_add(self.highest as u32);
        let offset = self.highest.checked_add_signed(i64::from(sequence.wrapping_sub(near).cast_signed()))?;
        Some(Part { offset, length, at })
    }

    fn has(&mut self, part: &Part) {
        let (start, end) = (part.offset, part.offset + part.length as u64);
        if start == end {
            return;
        }
        self.highest = self.highest.max(end);
        let island = self.islands.entry(start).or_insert(end);
        *island = end.max(*island);
        while let Some(island) = self.islands.first_entry().filter(|island| *island.key() <= self.whole_to) {
            self.whole_to = self.whole_to.max(island.remove());
        }
    }
}

/// How a copy and the frame it is of are alike.
enum Match {
    Same,
    WrongChecksum,
}

impl Checker {
    fn open(lab: &Lab, transfer: Transfer) -> Result<Self> {
        let open = |station: Station| {
            lab.namespace_of(station).enter(|| PacketSocket::open(station.interface, Listen::Everything))
        };
        Ok(Self {
            source: open(HOST_SOURCE)?,
            collector: open(if transfer.at_uplink { HOST_UPLINK } else { COLLECTOR })?,
            seen: Vec::new(),
            books: Books::open(transfer),
        })
    }

    fn check_until(&mut self, progress: &Progress) -> Result<()> {
        const LOOK_UP_MS: u8 = 5;
        let _stops_senders = SetOnDrop(&progress.stopped);
        while !progress.done.load(Ordering::Acquire) {
            let mut waiting =
                [&self.source, &self.collector].map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
            poll(&mut waiting, PollTimeout::from(LOOK_UP_MS)).context("wait for frames")?;
            self.check_some()?;
            for (stream, copied) in self.books.streams.iter().zip(&progress.copied) {
                copied.store(stream.highest, Ordering::Release);
            }
        }
        self.check_all()
    }

    fn check_all(&mut self) -> Result<()> {
        while self.check_some()? {}
        Ok(())
    }

    /// Looks at what is there; false if that is nothing.
    fn check_some(&mut self) -> Result<bool> {
        // Copies first: the frame of each of them has passed the source, and is found there then.
        let mut arrived = Vec::new();
        for _ in 0..BATCH {
            if !self.collector.read_packet(&mut arrived)? {
                break;
            }
        }
        self.collector.dropped_nothing().context("watch the collector")?;
        let mut something = !arrived.is_empty();
        loop {
            self.seen.clear();
            if !self.source.read_packet(&mut self.seen)? {
                break;
            }
            something = true;
            self.books.passed(&mut self.seen)?;
        }
        self.source.dropped_nothing().context("watch the source")?;
        for Seen { frame, outgoing, part_of } in arrived {
            if outgoing != self.books.transfer.at_uplink {
                continue;
            }
            match Copy::read(&frame, vxlan::PORT) {
                Some(Ok(copy)) => self.books.arrived(&copy, part_of),
                Some(Err(broken)) => bail!("a copy breaks the contract: {broken}: {frame:?}"),
                None => {}
            }
        }
        Ok(something)
    }
}

impl Books {
    fn open(transfer: Transfer) -> Self {
        Self {
            transfer,
            streams: [Stream::new(0), Stream::new(1)],
            wire_frames: 0,
            kernel_packets: 0,
            super_packets: [0; 2],
            copies: 0,
            surplus: 0,
            wrong_checksums: 0,
            too_long: 0,
            wrong_content: 0,
            out_of_order: [0; 2],
            cut: 0,
            kept_bytes: 0,
            source_ports: BTreeSet::new(),
            examples: Vec::new(),
        }
    }

    /// Takes down the frames of one packet that passed the source.
    fn passed(&mut self, packet: &mut Vec<Seen>) -> Result<()> {
        let mut frames = 0;
        for Seen { frame, outgoing, part_of } in packet.drain(..) {
            if frame.ip().is_none_or(|ip| ip.protocol != TCP) {
                continue;
            }
            if frames == 0 {
                self.kernel_packets += 1;
                self.super_packets[usize::from(outgoing)] += u64::from(part_of > 1);
            }
            frames += 1;
            let stream = &mut self.streams[usize::from(outgoing)];
            let kept = self.transfer.packet_length.map_or(frame.0.len(), |length| length.min(frame.0.len()));
            self.cut += u64::from(kept < frame.0.len());
            self.kept_bytes += kept as u64;
            stream.pending.push_back((stream.next_number, frame));
            stream.next_number += 1;
            if stream.pending.len() > PENDING {
                bail!("{PENDING} frames passed the source without a copy; the first: {:?}", stream.pending[0].1);
            }
        }
        self.wire_frames += frames;
        Ok(())
    }

    fn arrived(&mut self, copy: &Copy, part_of: usize) {
        self.copies += 1;
        check_outer(copy);
        self.source_ports.insert(copy.source_port);
        let inner = &copy.inner;
        let Some(layers) = inner.layers() else { return self.is_surplus(inner) };
        let Some(ip) = layers.ip.clone().filter(|ip| ip.protocol == TCP && copy.vni == VNI) else {
            return self.is_surplus(inner);
        };
        // What the kernel handles as one is longer by its own account, also where it was cut.
        let longest = ETHERNET_HEADER + self.transfer.source_mtu;
        if part_of > 1 || inner.0.len() > longest || ip.end > longest {
            self.too_long += 1;
            self.example("is no wire packet", inner);
        }
        let uncut = inner.0.len() >= ip.end;
        let mut wrong_checksum = uncut.then(|| checksum::verify(inner).err()).flatten();

        let stream_number = usize::from(ip.source == HOST_SOURCE.address(self.transfer.version));
        let stream = &mut self.streams[stream_number];
        let kept = |frame: &Frame| self.transfer.packet_length.unwrap_or(usize::MAX).min(frame.0.len());
        let same = |frame: &Frame| -> Option<Match> {
            let wanted = &frame.0[..kept(frame)];
            if wanted == inner.0 {
                return Some(Match::Same);
            }
            let alike =
                wanted.len() == inner.0.len() && without_checksums(wanted, &ip) == without_checksums(&inner.0, &ip);
            alike.then_some(Match::WrongChecksum)
        };
        let found = stream.pending.iter().enumerate().find_map(|(index, (_, frame))| Some((index, same(frame)?)));
        let Some((index, how)) = found else { return self.is_surplus(inner) };
        let Some((number, whole)) = stream.pending.remove(index) else { return };
        if matches!(how, Match::WrongChecksum) {
            wrong_checksum = wrong_checksum.or(Some("a checksum is not that of the frame".into()));
        }
        let late = number < stream.next_copied;
        stream.next_copied = stream.next_copied.max(number + 1);
        let mut right_content = true;
        if let Some(part) = stream.part(inner, &whole, &ip) {
            // A SYN and a FIN take a sequence number and no byte.
            let there = inner.0.get(part.at..).unwrap_or_default();
            let there = &there[..there.len().min(part.length)];
            right_content =
                part.length <= PERIOD && there == &stream.content.at(part.offset, part.length)[..there.len()];
            stream.has(&part);
        }
        if late {
            self.out_of_order[stream_number] += 1;
        }
        if !right_content {
            self.wrong_content += 1;
            self.example("says what was not sent", inner);
        }
        if let Some(wrong) = wrong_checksum {
            self.wrong_checksums += 1;
            self.example(&format!("has a wrong checksum ({wrong})"), inner);
        }
    }

    fn is_surplus(&mut self, inner: &Frame) {
        self.surplus += 1;
        self.example("is of no frame that passed the source", inner);
    }

    fn example(&mut self, what: &str, inner: &Frame) {
        const EXAMPLES: usize = 3;
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("a copy {what}: {inner:?}"));
        }
    }

    fn report(mut self, stats: Counted, lost_by_link: u64, elapsed: Duration) -> Report {
        let mut lost = 0;
        let mut missing = [0; 2];
        for (number, stream) in self.streams.iter().enumerate() {
            lost += stream.pending.len() as u64;
            let behind: u64 = stream.islands.iter().map(|(start, end)| end - start).sum();
            missing[number] = self.transfer.bytes.abs_diff(stream.whole_to + behind);
            if let Some((number, frame)) = stream.pending.front() {
                self.examples.push(format!("number {number} of its direction was lost: {frame:?}"));
            }
        }
        Report {
            transfer: self.transfer,
            elapsed,
            wire_frames: self.wire_frames,
            kernel_packets: self.kernel_packets,
            super_packets: self.super_packets,
            copies: self.copies,
            lost,
            surplus: self.surplus,
            wrong_checksums: self.wrong_checksums,
            too_long: self.too_long,
            wrong_content: self.wrong_content,
            out_of_order: self.out_of_order,
            missing,
            stats,
            cut: self.cut,
            kept_bytes: self.kept_bytes,
            lost_by_link,
            source_ports: self.source_ports.len(),
            examples: self.examples,
        }
    }
}

/// The frame with zeros for the checksums of IPv4 and TCP, as far as they are there.
fn without_checksums(bytes: &[u8], ip: &Ip) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut clear = |offset: usize| bytes.iter_mut().skip(offset).take(2).for_each(|byte| *byte = 0);
    clear(ip.transport + 16);
    if ip.source.is_ipv4() {
        clear(ETHERNET_HEADER + 10);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const BYTES: u64 = 40_000;
    const MSS: usize = 1448;

    fn transfer(packet_length: Option<usize>) -> Transfer {
        Transfer {
            bytes: BYTES,
            packet_length,
            path: Path::Tap,
            version: IpVersion::V4,
            source_mtu: 1500,
            one_cpu: true,
            at_uplink: false,
        }
    }

    fn segment(stream: usize, sequence: u32, flags: u8, payload: &[u8]) -> Frame {
        let mut segment = vec![0x12, 0x34, 0, 80];
        segment.extend_from_slice(&sequence.to_be_bytes());
        // RFC 9293 §3.1, and timestamps (RFC 7323 §3.2) as Linux has them: eight words.
        segment.extend_from_slice(&[0, 0, 0, 0, 8 << 4, flags, 1, 0, 0, 0, 0, 0, 1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        segment.extend_from_slice(payload);
        let ends = [(&GENERATOR, &HOST_SOURCE), (&HOST_SOURCE, &GENERATOR)];
        craft::ip(ends[stream].0, ends[stream].1, IpVersion::V4, TCP, &segment)
    }

    /// All frames of both streams. Their sequence numbers wrap on the way.
    fn conversation() -> Vec<(usize, Frame)> {
        const FIRST: u32 = u32::MAX - 10_000;
        let mut frames = Vec::new();
        for stream in [0, 1] {
            let content = content(stream);
            frames.push((stream, segment(stream, FIRST.wrapping_sub(1), 0x02, &[])));
            for offset in (0..BYTES).step_by(MSS) {
                let length = MSS.min((BYTES - offset) as usize);
                let sequence = FIRST.wrapping_add(offset as u32);
                frames.push((stream, segment(stream, sequence, 0x10, content.at(offset, length))));
            }
            frames.push((stream, segment(stream, FIRST.wrapping_add(BYTES as u32), 0x11, &[])));
        }
        frames
    }

    fn copy(inner: Frame) -> Copy {
        Copy {
            source_mac: HOST_UPLINK.mac,
            destination_mac: COLLECTOR.mac,
            source: HOST_UPLINK.v4.into(),
            destination: COLLECTOR.v4.into(),
            source_port: 50_000,
            destination_port: vxlan::PORT,
            vni: VNI,
            inner,
            padding: 0,
        }
    }

    /// The report of a conversation whose copies `change` may change.
    fn report(packet_length: Option<usize>, change: impl FnOnce(&mut Vec<Frame>)) -> Report {
        let mut books = Books::open(transfer(packet_length));
        let frames = conversation();
        for (stream, frame) in &frames {
            let seen = Seen { frame: frame.clone(), outgoing: *stream == 1, part_of: 1 };
            books.passed(&mut vec![seen]).unwrap();
        }
        let mut copies: Vec<Frame> =
            frames.iter().map(|(_, frame)| frame.cut(packet_length.unwrap_or(usize::MAX))).collect();
        change(&mut copies);
        copies.into_iter().for_each(|inner| books.arrived(&copy(inner), 1));
        let stats = Counted {
            accepted: books.wire_frames,
            packets: books.copies,
            bytes: books.kept_bytes,
            truncated_to_length: books.cut,
            ..Counted::default()
        };
        books.report(stats, 0, Duration::from_secs(1))
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong() {
        for packet_length in [None, Some(64), Some(100), Some(1500)] {
            let report = report(packet_length, |_| ());
            report.is_flawless();
            report.is_in_order();
            assert_eq!(report.copies, 2 * (BYTES.div_ceil(MSS as u64) + 2));
        }
    }

    #[test]
    fn a_copy_that_is_lost_or_there_twice_is_found() {
        for packet_length in [None, Some(64)] {
            let lost = report(packet_length, |copies| drop(copies.remove(5)));
            assert_eq!((lost.lost, lost.surplus, lost.missing), (1, 0, [MSS as u64, 0]));
            assert_eq!(lost.out_of_order, [0, 0], "what comes behind a gap is in order");
            let twice = report(packet_length, |copies| copies.insert(5, copies[5].clone()));
            assert_eq!((twice.lost, twice.surplus, twice.missing), (0, 1, [0, 0]));
        }
    }

    #[test]
    fn a_copy_that_was_overtaken_is_found() {
        for packet_length in [None, Some(64)] {
            let report = report(packet_length, |copies| {
                let late = copies.remove(5);
                copies.insert(8, late);
            });
            assert_eq!((report.out_of_order, report.lost, report.missing), ([1, 0], 0, [0, 0]));
        }
    }

    #[test]
    fn a_wrong_checksum_is_found_in_whole_and_in_cut_copies() {
        for packet_length in [None, Some(64)] {
            // In the TCP header behind 34 bytes, and in the IPv4 header behind 14.
            for offset in [34 + 16, 14 + 11] {
                let report = report(packet_length, |copies| copies[5].0[offset] ^= 1);
                assert_eq!((report.wrong_checksums, report.lost, report.surplus), (1, 0, 0), "byte {offset}");
            }
        }
    }

    #[test]
    fn a_super_packet_and_a_changed_byte_are_found() {
        let long = report(Some(100), |copies| {
            // Two segments that were put together before they were cut.
            let both = segment(0, 5, 0x10, &vec![0; 2 * MSS]);
            copies[5] = both.cut(100);
        });
        assert_eq!((long.too_long, long.lost, long.surplus), (1, 1, 1));
        let changed = report(None, |copies| copies[5].0[1000] ^= 1);
        assert_eq!((changed.lost, changed.surplus, changed.missing), (1, 1, [MSS as u64, 0]));
    }

    #[test]
    fn what_differs_from_the_stream_at_the_source_and_in_the_copy_is_found() {
        // As if the source itself had sent something else: the frame and its copy agree.
        let mut books = Books::open(transfer(None));
        let frames = [segment(0, 99, 0x02, &[]), segment(0, 100, 0x10, b"something else")];
        for frame in frames {
            books.passed(&mut vec![Seen { frame: frame.clone(), outgoing: false, part_of: 1 }]).unwrap();
            books.arrived(&copy(frame), 1);
        }
        assert_eq!((books.wrong_content, books.surplus), (1, 0));
    }
}

//! What passed the interfaces of a lab while something happened, and what the collector got: the verbs that compare.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::checksum;
use crate::craft::IpVersion;
use crate::frame::{Frame, ICMP, ICMPV6, TCP, be16, be32};
use crate::lab::{COLLECTOR, HOST_SOURCE, HOST_UPLINK, Lab, Station};
use crate::packet_socket::{Listen, PacketSocket, Seen};
use crate::vxlan::{self, Copy};
use crate::wait::wait_until;

/// Everything that was seen.
#[derive(Clone, Debug)]
pub struct Recording {
    watched: Vec<(Station, Vec<Seen>)>,
    /// The lab's own frames among what passed: see [`Recording::passed`].
    markers: Vec<(Station, Vec<Seen>)>,
    /// What the collector got, in order.
    pub copies: Vec<Copy>,
    /// Frames that reached the collector and are neither copies nor the uplink's own housekeeping.
    pub strays: Vec<Frame>,
}

impl Lab {
    /// Does `work` while the source and the collector are watched; returns what was seen when the lab is quiet again.
    pub fn record<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<Recording> {
        self.record_at(&[HOST_SOURCE], vxlan::PORT, work)
    }

    /// As [`Lab::record`], watching other interfaces, for copies to another UDP port.
    pub fn record_at<T>(&self, stations: &[Station], port: u16, work: impl FnOnce() -> Result<T>) -> Result<Recording> {
        let lost_before = self.lost_by_links()?;
        let _sink = self.collector.enter(|| silent_receiver(port))?;
        // The watchers first: a copy whose original nobody saw would be a riddle.
        let mut watchers = Vec::new();
        for &station in stations {
            watchers.push(Watcher::open(self, station)?);
        }
        self.flush()?;
        let mut collector = Watcher::open(self, COLLECTOR)?;

        let done = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let mut all: Vec<&mut Watcher> = watchers.iter_mut().chain([&mut collector]).collect();
            let done = &done;
            let reading = scope.spawn(move || keep_reading(&mut all, done));
            let worked = {
                let _ends_reading = SetOnDrop(done);
                work()
            };
            reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            worked.map(drop)
        })?;

        wait_until("the lab becomes quiet", || {
            let mut before = 0;
            for watcher in &mut watchers {
                before += watcher.read()?;
            }
            self.flush()?;
            collector.read()?;
            let mut after = 0;
            for watcher in &mut watchers {
                after += watcher.read()?;
            }
            Ok(before == after)
        })?;

        let lost = self.lost_by_links()? - lost_before;
        if lost > 0 {
            bail!("the lab's own links lost {lost} packets (queue full, or larger than the MTU)");
        }
        let mut copies = Vec::new();
        let mut strays = Vec::new();
        for seen in collector.seen.into_iter().filter(|seen| !seen.outgoing) {
            match Copy::read(&seen.frame, port) {
                Some(Ok(copy)) => copies.push(copy),
                Some(Err(broken)) => bail!("a copy breaks the contract: {broken}: {:?}", seen.frame),
                None if is_of_the_uplink(&seen.frame) => {}
                None => strays.push(seen.frame),
            }
        }
        let (mut watched, mut markers) = (Vec::new(), Vec::new());
        for watcher in watchers {
            watched.push((watcher.station, watcher.seen));
            markers.push((watcher.station, watcher.markers));
        }
        Ok(Recording { watched, markers, copies, strays })
    }
}

/// ARP and neighbour discovery of the uplink itself.
fn is_of_the_uplink(frame: &Frame) -> bool {
    frame.is_housekeeping() && frame.source_mac() == Some(HOST_UPLINK.mac)
}

/// A socket that takes the copies and never reads them, so that the collector doesn't answer with "port unreachable".
fn silent_receiver(port: u16) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).context("open a UDP socket")?;
    socket.set_only_v6(false).context("accept both families")?;
    // A program that another thread is just starting holds a duplicate of the last one, until it is executed.
    socket.set_reuse_address(true).context("share an address")?;
    socket.set_recv_buffer_size(1).context("bound a receive buffer")?;
    let address = SockAddr::from(std::net::SocketAddr::new(IpAddr::from([0; 16]), port));
    socket.bind(&address).with_context(|| format!("bind UDP port {port}"))?;
    Ok(socket.into())
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

struct Watcher {
    station: Station,
    socket: PacketSocket,
    seen: Vec<Seen>,
    markers: Vec<Seen>,
}

impl Watcher {
    fn open(lab: &Lab, station: Station) -> Result<Self> {
        let open = || PacketSocket::open(station.interface, Listen::Everything);
        Ok(Self { station, socket: lab.namespace_of(station).enter(open)?, seen: Vec::new(), markers: Vec::new() })
    }

    /// Reads what is there; the value is how many frames there were in all, the lab's own not counted.
    fn read(&mut self) -> Result<usize> {
        self.socket.read_all(&mut self.seen).with_context(|| format!("watch {}", self.station.interface))?;
        self.markers.extend(self.seen.extract_if(.., |seen| is_marker(&seen.frame)));
        Ok(self.seen.len())
    }
}

fn is_marker(frame: &Frame) -> bool {
    be16(frame.bytes(), 12) == Some(crate::frame::LOCAL_EXPERIMENT)
}

/// Reads while traffic flows, so that long traffic needs no long queue.
fn keep_reading(watchers: &mut [&mut Watcher], done: &AtomicBool) -> Result<()> {
    const LOOK_UP_MS: u8 = 5;
    while !done.load(Ordering::Acquire) {
        let mut waiting: Vec<PollFd<'_>> =
            watchers.iter().map(|watcher| PollFd::new(watcher.socket.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut waiting, PollTimeout::from(LOOK_UP_MS)).context("wait for frames")?;
        for watcher in watchers.iter_mut() {
            watcher.read()?;
        }
    }
    Ok(())
}

/// What the copies of a recording should be like.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// The VNI they carry; only those are looked at.
    pub vni: u32,
    /// The packet length they are cut to.
    pub packet_length: Option<usize>,
}

impl Wanted {
    /// Whole frames under this VNI.
    pub fn vni(vni: u32) -> Self {
        Self { vni, packet_length: None }
    }

    /// Cut to their first `length` bytes.
    #[must_use]
    pub fn cut_to(self, length: usize) -> Self {
        Self { packet_length: Some(length), ..self }
    }
}

impl Recording {
    /// The frames that passed an interface that was watched, in order, as wire frames.
    #[track_caller]
    pub fn seen_at(&self, station: Station) -> &[Seen] {
        match self.watched.iter().find(|(watched, _)| *watched == station) {
            Some((_, seen)) => seen,
            None => panic!("nobody watched {}", station.interface),
        }
    }

    /// The lab's own markers that passed an interface that was watched, in order.
    #[track_caller]
    pub fn markers_at(&self, station: Station) -> &[Seen] {
        match self.markers.iter().find(|(watched, _)| *watched == station) {
            Some((_, seen)) => seen,
            None => panic!("nobody watched {}", station.interface),
        }
    }

    /// Frames and bytes that passed an interface in one direction, the lab's own markers among them: what a counter of
    /// the interface counts in the same time.
    #[track_caller]
    pub fn passed(&self, station: Station, outgoing: bool) -> (u64, u64) {
        let markers = self.markers_at(station);
        let passed = self.seen_at(station).iter().chain(markers).filter(|seen| seen.outgoing == outgoing);
        passed.fold((0, 0), |(frames, bytes), seen| (frames + 1, bytes + seen.frame.0.len() as u64))
    }

    /// The IP frames of `seen_at` that are somebody's traffic, not housekeeping.
    #[track_caller]
    pub fn traffic_at(&self, station: Station) -> Vec<&Frame> {
        let traffic = self.seen_at(station).iter().map(|seen| &seen.frame);
        traffic.filter(|frame| frame.is_ip() && !frame.is_housekeeping()).collect()
    }

    /// Asserts that every IP frame that passed the source, either way, has exactly one copy, with the same bytes, and
    /// that there is no other copy and no stray frame at the collector. Returns how many frames that were.
    #[track_caller]
    pub fn each_frame_has_one_copy(&self, wanted: Wanted) -> usize {
        self.each_frame_at_has_one_copy(HOST_SOURCE, wanted)
    }

    /// As [`Recording::each_frame_has_one_copy`], for another source.
    #[track_caller]
    pub fn each_frame_at_has_one_copy(&self, source: Station, wanted: Wanted) -> usize {
        let seen: Vec<Frame> = self.seen_at(source).iter().map(|seen| seen.frame.clone()).collect();
        self.each_has_one_copy(&seen, wanted)
    }

    /// As [`Recording::each_frame_has_one_copy`], for these frames.
    #[track_caller]
    pub fn each_has_one_copy(&self, frames: &[Frame], wanted: Wanted) -> usize {
        self.no_strays();
        let copies: Vec<&Copy> = self.copies.iter().filter(|copy| copy.vni == wanted.vni).collect();
        let cut = |frame: &Frame| wanted.packet_length.map_or_else(|| frame.clone(), |length| frame.cut(length));

        // How many copies each content should have at least (traffic) and at most (also the hosts' own housekeeping).
        let mut bounds: BTreeMap<Frame, (usize, usize)> = BTreeMap::new();
        let mut traffic = 0;
        for frame in frames.iter().filter(|frame| frame.is_ip() && !frame.is_housekeeping()) {
            let (least, most) = bounds.entry(cut(frame)).or_default();
            *least += 1;
            *most += 1;
            traffic += 1;
        }
        let seen = self.watched.iter().flat_map(|(_, seen)| seen).map(|seen| &seen.frame);
        for frame in seen.filter(|frame| frame.is_ip() && frame.is_housekeeping()) {
            bounds.entry(cut(frame)).or_default().1 += 1;
        }
        let mut counts: BTreeMap<&Frame, usize> = BTreeMap::new();
        for copy in &copies {
            *counts.entry(&copy.inner).or_default() += 1;
            check_outer(copy);
        }
        let missing: Vec<&Frame> = bounds
            .iter()
            .filter(|(frame, (least, _))| counts.get(frame).copied().unwrap_or(0) < *least)
            .map(|(frame, _)| frame)
            .collect();
        let surplus: Vec<&Frame> = counts
            .iter()
            .filter(|(frame, count)| **count > bounds.get(**frame).map_or(0, |(_, most)| *most))
            .map(|(frame, _)| *frame)
            .collect();
        assert!(
            missing.is_empty() && surplus.is_empty(),
            "of {traffic} frames of traffic at the source, {} have too few copies; of {} copies with VNI {}, {} \
             contents are not the frame's, or are there too often{}",
            missing.len(),
            copies.len(),
            wanted.vni,
            surplus.len(),
            difference(&missing, &surplus),
        );
        traffic
    }

    /// Asserts that the checksums inside every copy, IPv4 header and transport, are right.
    #[track_caller]
    pub fn checksums_are_right(&self) {
        for copy in &self.copies {
            if let Err(wrong) = checksum::verify(&copy.inner) {
                panic!("in a copy, {wrong}: {:?}", copy.inner);
            }
        }
    }

    /// Puts together what the copies of one TCP connection say was sent from one address to another. Asserts that
    /// nothing is missing, and that what was sent twice was the same.
    #[track_caller]
    pub fn tcp_stream(&self, source: IpAddr, destination: IpAddr) -> Vec<u8> {
        let mut first = None;
        let mut segments = Vec::new();
        for copy in &self.copies {
            let Some(ip) = copy.inner.ip() else { continue };
            if ip.protocol != TCP || ip.source != source || ip.destination != destination {
                continue;
            }
            let bytes = copy.inner.bytes();
            let (Some(sequence), Some(header)) = (be32(bytes, ip.transport + 4), bytes.get(ip.transport + 12)) else {
                panic!("a TCP segment without header: {:?}", copy.inner)
            };
            if bytes[ip.transport + 13] & 0x02 != 0 {
                first = Some(sequence.wrapping_add(1));
            }
            segments.push((sequence, &bytes[ip.transport + usize::from(header >> 4) * 4..ip.end]));
        }
        let first = first.unwrap_or_else(|| panic!("no SYN from {source} to {destination} was copied"));
        segments.retain(|(_, payload)| !payload.is_empty());
        segments.sort_by_key(|(sequence, _)| sequence.wrapping_sub(first));
        let mut stream = Vec::new();
        for (sequence, payload) in segments {
            let at = sequence.wrapping_sub(first) as usize;
            assert!(at <= stream.len(), "no copy has bytes {} to {at} from {source} to {destination}", stream.len());
            let known = (stream.len() - at).min(payload.len());
            assert_eq!(payload[..known], stream[at..at + known], "a segment was copied with two contents");
            stream.extend_from_slice(&payload[known..]);
        }
        stream
    }

    /// Asserts that the collector got no copy and no stray frame.
    #[track_caller]
    pub fn nothing_is_copied(&self) {
        self.no_strays();
        assert!(self.copies.is_empty(), "{} copies arrived, the first is {:?}", self.copies.len(), self.copies[0]);
    }

    /// Asserts that nothing left by the uplink but copies and the uplink's own housekeeping.
    #[track_caller]
    pub fn no_strays(&self) {
        if let Some(stray) = self.strays.first() {
            panic!("{} frames left by the uplink that are no copies; the first: {stray:?}", self.strays.len());
        }
    }

    /// Asserts that all copies of a flow, in both directions, have one UDP source port. Returns how many ports the
    /// flows of the recording have in all.
    #[track_caller]
    pub fn each_flow_has_one_source_port(&self) -> usize {
        let mut ports: BTreeMap<_, BTreeSet<u16>> = BTreeMap::new();
        for copy in &self.copies {
            let Some(ip) = copy.inner.ip().filter(|_| !copy.inner.is_housekeeping()) else { continue };
            let (from, to) = copy.inner.ports().or_else(|| echo(&copy.inner)).unwrap_or_default();
            let mut ends = [(ip.source, from), (ip.destination, to)];
            ends.sort();
            ports.entry((ip.protocol, ends)).or_default().insert(copy.source_port);
        }
        for (flow, ports) in &ports {
            assert_eq!(ports.len(), 1, "the copies of flow {flow:?} have several UDP source ports: {ports:?}");
        }
        ports.values().flatten().collect::<BTreeSet<_>>().len()
    }

    /// How many packets of the source that the kernel handled as one stood for several wire frames: going out, and
    /// coming in.
    #[track_caller]
    pub fn super_packets(&self) -> (usize, usize) {
        let count = |outgoing: bool| {
            let seen = self.seen_at(HOST_SOURCE).iter();
            seen.filter(|seen| seen.outgoing == outgoing && seen.part_of > 1).count()
        };
        (count(true), count(false))
    }
}

/// The outer headers that depend on the lab: from the uplink to the collector.
#[track_caller]
fn check_outer(copy: &Copy) {
    let version = if copy.destination.is_ipv4() { IpVersion::V4 } else { IpVersion::V6 };
    assert_eq!(copy.source, HOST_UPLINK.address(version), "a copy has the wrong outer source address");
    assert_eq!(copy.source_mac, HOST_UPLINK.mac, "a copy has the wrong outer source MAC address");
    assert_eq!(copy.destination_mac, COLLECTOR.mac, "a copy has the wrong outer destination MAC address");
    // A cut that is shorter than the headers of a frame may come with padding.
    assert!(copy.padding == 0 || copy.inner.0.len() < 60, "a copy of {} has padding behind it", copy.inner);
}

/// Shows a frame without copy beside the surplus copy that is most like it.
fn difference(missing: &[&Frame], surplus: &[&Frame]) -> String {
    let alike = |a: &Frame, b: &Frame| a.0.iter().zip(&b.0).take_while(|(a, b)| a == b).count();
    match (missing.first(), surplus.first()) {
        (Some(frame), None) => format!("\nwithout copy: {frame:?}"),
        (None, Some(copy)) => format!("\nsurplus copy: {copy:?}"),
        (None, None) => String::new(),
        (Some(frame), Some(_)) => {
            let copy = surplus.iter().max_by_key(|copy| alike(frame, copy)).expect("there is a first");
            format!("\nwithout copy: {frame:?}\nmost like it, different from byte {} on: {copy:?}", alike(frame, copy))
        }
    }
}

/// The identifier of an ICMP or ICMPv6 echo, twice: what tells one ping from another.
fn echo(frame: &Frame) -> Option<(u16, u16)> {
    let ip = frame.ip()?;
    let kind = *frame.bytes().get(ip.transport)?;
    let is_echo = match ip.protocol {
        ICMP => kind == 8 || kind == 0,
        ICMPV6 => kind == 128 || kind == 129,
        _ => false,
    };
    let identifier = be16(frame.bytes(), ip.transport + 4).filter(|_| is_echo)?;
    Some((identifier, identifier))
}

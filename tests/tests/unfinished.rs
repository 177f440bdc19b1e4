//! Packets that the kernel handles unfinished, for a device to finish: without checksum, several frames in one, in
//! several pieces of memory, the VLAN tag beside the frame. Copies are the frames of the wire, by both paths.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};

use anyhow::{Context, Result};
use mirror_tests::corpus::{RECEIVER, SENDER};
use mirror_tests::frame::{IPV4, SERVICE_VLAN, TCP, Tag, UDP, VLAN};
use mirror_tests::lab::Station;
use mirror_tests::offload::{self, Partial, Unfinished, on_the_wire, unfinished};
use mirror_tests::vxlan::PORT;
use mirror_tests::{
    BOTH_PATHS, BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, HOST_UPLINK, IpVersion, Lab, Path, Recording,
    Turn, Wanted, checksum, craft, traffic,
};
use nix::sys::socket::{setsockopt, sockopt};

/// Whole copies, and cut ones: within headers, in the payload, hardly.
const LENGTHS: [Option<usize>; 4] = [None, Some(64), Some(100), Some(1500)];

/// Nobody that the hosts know: they drop what comes for it, behind the hooks.
const SENDING: Station = Station {
    interface: "",
    mac: SENDER,
    v4: Ipv4Addr::new(192, 0, 2, 1),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
};
const RECEIVING: Station = Station {
    interface: "",
    mac: RECEIVER,
    v4: Ipv4Addr::new(198, 51, 100, 2),
    v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, 2),
};

/// Does `work` once for each path and packet length, with s0 mirrored so.
fn each_way(lab: &Lab, mut work: impl FnMut(Path, Wanted) -> Result<()>) -> Result<()> {
    // Else a burst of copies waits for the collector's address, and the kernel keeps only so many bytes waiting
    // (net.ipv4.neigh.default.unres_qlen_bytes).
    for version in BOTH_VERSIONS {
        traffic::ping(lab.end(HOST_UPLINK, version), COLLECTOR.address(version), 8)?;
    }
    for (round, length) in LENGTHS.into_iter().enumerate() {
        for path in BOTH_PATHS {
            let target = COLLECTOR.address(BOTH_VERSIONS[round % 2]);
            let cut = length.map(|length| format!("--packet-length {length}")).unwrap_or_default();
            let attach = format!("attach s0 --target {target} --vni 42 {cut} {}", path.flag());
            lab.mirrorctl(&attach)?.ok();
            println!("`mirrorctl {attach}`");
            work(path, Wanted { vni: 42, packet_length: length })?;
            nothing_is_skipped(lab)?;
            lab.mirrorctl("detach s0")?.ok();
        }
    }
    Ok(())
}

fn nothing_is_skipped(lab: &Lab) -> Result<()> {
    let stats = lab.stats()?;
    let skipped = stats["skipped"].as_object().context("stats have reasons")?;
    assert!(skipped.values().all(|count| count == 0), "nothing should be skipped: {stats}");
    Ok(())
}

fn tcp_segment(port: u16, flags: u8, version: IpVersion, payload: &[u8]) -> Frame {
    let [high, low] = port.to_be_bytes();
    let mut segment = vec![high, low, 0, 80, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 8 << 4, flags, 0xff, 0xff, 0, 0, 0, 0];
    // Two of no operation and time stamps (RFC 7323 §3.2).
    segment.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    segment.extend(payload);
    craft::ip(&SENDING, &RECEIVING, version, TCP, &segment)
}

fn tcp(version: IpVersion, length: usize) -> Frame {
    // Flags that only the last segment keeps (FIN, PSH), and one that only the first does (CWR): RFC 9293 §3.1, RFC 3168
    // §6.1.2.
    tcp_segment(1234, 0x99, version, &craft::content(length as u64, length))
}

fn udp(version: IpVersion, length: usize) -> Frame {
    craft::udp(&SENDING, &RECEIVING, version, (1234, 80), &craft::content(length as u64, length))
}

/// A copy inside a packet, whose inner checksum is left to the device: what a tunnel of the host's own sends.
fn inner_unfinished(version: IpVersion) -> Result<(Frame, Unfinished)> {
    let (inner, Unfinished { checksum, .. }) = unfinished(&tcp(version, 300), None)?;
    let payload = [&[8, 0, 0, 0, 0, 0, 7, 0], inner.bytes()].concat();
    let mut outer = craft::udp(&SENDING, &RECEIVING, IpVersion::V4, (50_000, PORT), &payload);
    // Outer checksums of tunnels are left out (RFC 7348 §5): that of what is not finished yet could not be right.
    outer.0[40..42].fill(0);
    let partial = checksum.context("an unfinished checksum")?;
    let inside = (14 + 20 + 8 + 8) as u16;
    let checksum = Some(Partial { start: partial.start + inside, ..partial });
    Ok((outer, Unfinished { checksum, segment_size: None }))
}

/// Packets without checksum and super-packets, behind each of `stacks`.
fn packets(stacks: &[&[Tag]]) -> Result<Vec<(Frame, Unfinished)>> {
    let mut packets = Vec::new();
    for tags in stacks {
        for version in BOTH_VERSIONS {
            let tagged = |frame: &Frame| craft::tagged(frame, tags);
            // All lengths without tags, a few with.
            let (lengths, trains) = if tags.is_empty() { (5, 4) } else { (2, 2) };
            for length in [33, 1400, 0, 1, 200].into_iter().take(lengths) {
                packets.push(unfinished(&tagged(&tcp(version, length)), None)?);
                packets.push(unfinished(&tagged(&udp(version, length)), None)?);
            }
            // Many frames and a rest, whole frames alone, one byte more than a frame.
            for (size, length) in [(1000, 4567), (1000, 3000), (1400, 1401), (1404, 21_123)].into_iter().take(trains) {
                packets.push(unfinished(&tagged(&tcp(version, length)), Some(size))?);
                packets.push(unfinished(&tagged(&udp(version, length)), Some(size))?);
            }
        }
    }
    Ok(packets)
}

#[test]
fn packets_of_a_guest_are_copied_as_the_wire_gets_them() -> Result<()> {
    let lab = Lab::options().source_mtu(1508).uplink_mtu(1700).start()?;
    let one = [Tag { ethertype: VLAN, control: 0x6123 }];
    let service = [Tag { ethertype: SERVICE_VLAN, control: 0x0fff }];
    let two = [Tag { ethertype: SERVICE_VLAN, control: 100 }, Tag { ethertype: VLAN, control: 0xe0c8 }];
    let mut packets = packets(&[&[], &one, &service, &two])?;
    for version in BOTH_VERSIONS {
        packets.push(inner_unfinished(version)?);
    }
    let mut wire = Vec::new();
    for (frame, left) in &packets {
        wire.extend(on_the_wire(frame.0.clone(), *left, None)?);
    }
    for frame in &wire {
        checksum::verify(frame).map_err(anyhow::Error::msg).with_context(|| format!("{frame:?}"))?;
    }
    // Once each way.
    let wire = [wire.clone(), wire].concat();
    each_way(&lab, |path, wanted| {
        let recording = lab.record(|| {
            lab.inject_unfinished(GENERATOR, &packets)?;
            lab.inject_unfinished(HOST_SOURCE, &packets)
        })?;
        let (sent, received) = recording.super_packets();
        assert!(sent > 50 && received > 50, "super-packets should have passed: {sent} out, {received} in ({path})");
        assert_eq!(recording.each_has_one_copy(&wire, wanted), wire.len());
        // What the capture's packets stand for is what went through the segmenter before.
        recording.each_frame_has_one_copy(wanted);
        recording.each_flow_has_one_source_port();
        Ok(())
    })
}

#[test]
fn datagrams_and_streams_that_the_kernel_segments_are_copied_as_the_wire_gets_them() -> Result<()> {
    let lab = Lab::new()?;
    let _turn = Turn::wait()?;
    each_way(&lab, |path, wanted| {
        for version in BOTH_VERSIONS {
            let (generator, host) = (lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version));
            let recording = lab.record(|| {
                traffic::exchange_udp_segmented(generator, host, 1440, 40)?;
                traffic::exchange_udp_segmented(generator, host, 333, 60)?;
                traffic::exchange_udp_segmented(host, generator, 1, 7)
            })?;
            let (sent, received) = recording.super_packets();
            // 40 and 60 datagrams, then 7 of one byte; and shorter ones.
            assert_eq!((sent, received), (109, 109), "datagrams of super-packets ({path})");
            assert_eq!(recording.each_frame_has_one_copy(wanted), 218);

            let streams = lab.record(|| traffic::exchange_tcp(generator, host, 150_000))?;
            let (sent, received) = streams.super_packets();
            assert!(sent > 10 && received > 10, "super-packets should have passed: {sent} out, {received} in ({path})");
            streams.each_frame_has_one_copy(wanted);
            if wanted.packet_length.is_none() {
                recording.checksums_are_right();
                streams.checksums_are_right();
                let there = streams.tcp_stream(generator.address, host.address);
                assert!(there == craft::content(1, 150_000), "the copies should hold what the generator sent");
            }
        }
        Ok(())
    })
}

/// What RFC 6864 §4 lets a sender do with the identification of IPv4 packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Identification {
    /// One more in each packet, which may be fragmented.
    Counts,
    /// One more in each packet.
    CountsUnfragmented,
    /// The same in each.
    Same,
    /// Zero in each.
    Zero,
}

/// The frames of a super-packet, as a sender without offloads sends them.
fn frames_of(frame: &Frame, size: u16, identification: Identification) -> Result<Vec<Frame>> {
    let (frame, left) = unfinished(frame, Some(size))?;
    let mut frames = on_the_wire(frame.0, left, None)?;
    for (frame, number) in frames.iter_mut().zip(0u16..) {
        if frame.layers().is_some_and(|layers| layers.ethertype == IPV4) {
            let id = match identification {
                Identification::Counts | Identification::CountsUnfragmented => 0xfffc_u16.wrapping_add(number),
                Identification::Same => 0xbeef,
                Identification::Zero => 0,
            };
            let flags = if identification == Identification::Counts { 0 } else { 0x4000_u16 };
            frame.0[18..20].copy_from_slice(&id.to_be_bytes());
            frame.0[20..22].copy_from_slice(&flags.to_be_bytes());
            checksum::fill_ipv4(&mut frame.0, 14);
        }
    }
    Ok(frames)
}

/// A lab whose source puts received frames together, for as long as a train of them lasts.
fn lab_with_gro() -> Result<Lab> {
    let lab = Lab::options().without_source_offloads().start()?;
    lab.host.enter(|| offload::switch_gro_on(HOST_SOURCE.interface))?;
    // Else each frame that a packet socket sends would be handled before the next one is sent.
    let wait = "echo 2000000 >/sys/class/net/s0/gro_flush_timeout; echo 2 >/sys/class/net/s0/napi_defer_hard_irqs";
    lab.host.run("ip", &["netns", "exec", lab.host.name(), "sh", "-ec", wait], "")?;
    Ok(lab)
}

/// The UDP or TCP source ports of the frames that came in as parts of super-packets.
fn put_together(recording: &Recording) -> BTreeSet<u16> {
    let seen = recording.seen_at(HOST_SOURCE).iter().filter(|seen| !seen.outgoing && seen.part_of > 1);
    seen.filter_map(|seen| seen.frame.ports()).map(|(from, _)| from).collect()
}

/// Of UDP datagrams with one and the same identification nothing is tried: once they are put together, nobody can tell any
/// more, and the kernel itself forwards them with counted ones (`inet_gso_segment` in net/ipv4/af_inet.c; for TCP it
/// keeps SKB_GSO_TCP_FIXEDID).
#[test]
fn frames_that_the_source_puts_together_are_copied_as_they_came() -> Result<()> {
    /// How often a train may be taken apart by the scheduler, without any two of its frames being put together.
    const TRIES: usize = 20;
    use Identification::{Counts, CountsUnfragmented, Same, Zero};
    let lab = lab_with_gro()?;
    // UDP is put together for a socket that asks for it.
    let _sockets: Vec<UdpSocket> = BOTH_VERSIONS
        .iter()
        .map(|version| {
            lab.host.enter(|| {
                let socket = UdpSocket::bind((HOST_SOURCE.address(*version), 80))?;
                setsockopt(&socket, sockopt::UdpGroSegment, &true).context("ask for super-packets")?;
                Ok(socket)
            })
        })
        .collect::<Result<_>>()?;
    let payload = craft::content(3, 9_100);
    let trains = [
        (TCP, IpVersion::V4, Counts),
        (TCP, IpVersion::V4, CountsUnfragmented),
        (TCP, IpVersion::V4, Same),
        (TCP, IpVersion::V4, Zero),
        (TCP, IpVersion::V6, Counts),
        (UDP, IpVersion::V4, Counts),
        (UDP, IpVersion::V4, CountsUnfragmented),
        (UDP, IpVersion::V6, Counts),
    ];
    let (mut names, mut frames) = (BTreeMap::new(), Vec::new());
    for (train, port) in trains.into_iter().zip(2000..) {
        let (protocol, version, identification) = train;
        let whole = if protocol == UDP {
            craft::udp(&GENERATOR, &HOST_SOURCE, version, (port, 80), &payload)
        } else {
            // PSH ends the train.
            tcp_segment(port, 0x18, version, &payload)
        };
        names.insert(port, train);
        frames.extend(frames_of(&whole, 1000, identification)?);
    }
    each_way(&lab, |path, wanted| {
        let mut never = names.clone();
        for _ in 0..TRIES {
            let recording = lab.record_at(&[HOST_SOURCE], PORT, || lab.inject_all(GENERATOR, &frames))?;
            // Not what the capture at the source saw: a super-packet doesn't tell all of its frames.
            assert_eq!(recording.each_has_one_copy(&frames, wanted), frames.len());
            let together = put_together(&recording);
            never.retain(|port, _| !together.contains(port));
            if never.is_empty() {
                return Ok(());
            }
        }
        panic!("{TRIES} times nothing was put together of {:?} ({path})", never.values());
    })
}

#[test]
fn packets_in_several_pieces_are_copied_whole() -> Result<()> {
    let lab = Lab::options().source_mtu(9000).uplink_mtu(9200).start()?;
    let tag = [Tag { ethertype: VLAN, control: 5 }];
    let mut pieces = Vec::new();
    for version in BOTH_VERSIONS {
        for linear in [14, 18, 20, 34, 60, 200] {
            for tags in [&[][..], &tag] {
                // Contents differ by their length.
                let length = 8000 + usize::from(linear) * 2 + tags.len();
                pieces.push((craft::tagged(&udp(version, length), tags), linear));
            }
        }
    }
    let frames: Vec<Frame> = pieces.iter().map(|(frame, _)| frame.clone()).collect();
    let both_ways = [frames.clone(), frames].concat();
    each_way(&lab, |_, wanted| {
        let recording = lab.record(|| {
            for station in [GENERATOR, HOST_SOURCE] {
                for (frame, linear) in &pieces {
                    lab.inject_non_linear(station, frame, *linear)?;
                }
            }
            Ok(())
        })?;
        assert_eq!(recording.each_has_one_copy(&both_ways, wanted), both_ways.len());
        Ok(())
    })
}

/// What comes in with a tag and leaves by the source again has it beside the packet, not inside: a bridge does that.
#[test]
fn a_tag_beside_a_packet_that_leaves_is_inside_its_copy() -> Result<()> {
    let lab = Lab::options().source_mtu(1508).uplink_mtu(1700).start()?;
    lab.host.ip_batch("link add x0 mtu 1508 type veth peer name x1 mtu 1508\nlink set x0 up\nlink set x1 up\n")?;
    lab.host.tc("qdisc add dev x0 ingress")?;
    lab.host.tc("filter add dev x0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev s0")?;
    let beside = Station { interface: "x1", ..SENDING };
    let one = [Tag { ethertype: VLAN, control: 0x6123 }];
    let service = [Tag { ethertype: SERVICE_VLAN, control: 0x0fff }];
    let two = [Tag { ethertype: SERVICE_VLAN, control: 100 }, Tag { ethertype: VLAN, control: 0xe0c8 }];
    let packets = packets(&[&one, &service, &two])?;
    let mut wire = Vec::new();
    for (frame, left) in &packets {
        wire.extend(on_the_wire(frame.0.clone(), *left, None)?);
    }
    each_way(&lab, |path, wanted| {
        let recording = lab.record(|| lab.inject_unfinished(beside, &packets))?;
        let (sent, _) = recording.super_packets();
        assert!(sent > 20, "super-packets should have passed: {sent} ({path})");
        assert_eq!(recording.each_has_one_copy(&wire, wanted), wire.len());
        recording.each_frame_has_one_copy(wanted);
        Ok(())
    })
}

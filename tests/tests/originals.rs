//! The original packet is never changed, held up or lost, whatever happens to its copy.

use anyhow::Result;
use mirror_tests::foreign::{BOTH_WAYS, Place, Program, Record, Stamp, Verdict, Way};
use mirror_tests::frame::{ICMP, ICMPV6, TCP, Tag, VLAN};
use mirror_tests::{BOTH_PATHS, BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, Lab, Turn, hooks, vxlan};
use mirror_tests::{craft, traffic};

/// Frames that passed one end of the source's link and frames that passed the other are the same.
#[track_caller]
fn both_ends_saw_the_same(recording: &mirror_tests::Recording) {
    for outgoing in [true, false] {
        let frames = |station, outgoing| -> Vec<Frame> {
            let seen = recording.seen_at(station).iter().filter(|seen| seen.outgoing == outgoing);
            let mut frames: Vec<Frame> = seen.map(|seen| seen.frame.clone()).filter(|f| !f.is_housekeeping()).collect();
            frames.sort();
            frames
        };
        let (sent, received) = (frames(HOST_SOURCE, outgoing), frames(GENERATOR, !outgoing));
        assert!(sent == received, "{} frames on the host's end, {} on the peer's", sent.len(), received.len());
    }
}

#[test]
fn frames_reach_the_peer_as_they_were_sent() -> Result<()> {
    let lab = Lab::new()?;
    let mut frames = vec![craft::tcp_v4(0, 0x10), craft::echo_reply_v4(0)];
    for version in BOTH_VERSIONS {
        for length in [0, 1, 17, 18, 100, 1000, 1452] {
            frames.push(craft::udp(&HOST_SOURCE, &GENERATOR, version, (4000, 9), &craft::content(6, length)));
        }
    }
    let deliver = || -> Result<Vec<Frame>> {
        let recording = lab.record_at(&[GENERATOR], vxlan::PORT, || lab.inject_all(HOST_SOURCE, &frames))?;
        let received = recording.seen_at(GENERATOR).iter().filter(|seen| !seen.outgoing);
        Ok(received.map(|seen| seen.frame.clone()).filter(|frame| frames.contains(frame)).collect())
    };
    assert_eq!(deliver()?, frames, "without mirroring");
    // A session that cuts, one that doesn't, one whose copies all get lost.
    for session in [format!("{} --packet-length 20", COLLECTOR.v4), COLLECTOR.v6.to_string(), "10.9.9.9".into()] {
        for hook in hooks()? {
            let attached = lab.mirrorctl(&format!("attach s0 --target {session} --hook {hook}"))?;
            assert!(attached.succeeded(), "{attached}");
            assert_eq!(deliver()?, frames, "mirrored to {session} by {hook}");
            lab.mirrorctl("detach s0")?.ok();
        }
    }
    Ok(())
}

#[test]
fn bulk_traffic_is_the_same_at_both_ends_while_it_is_mirrored() -> Result<()> {
    let lab = Lab::new()?;
    let _turn = Turn::wait()?;
    for session in ["--packet-length 64", ""] {
        lab.mirrorctl(&format!("attach s0 --target {} {session}", COLLECTOR.v4))?.ok();
        let recording = lab.record_at(&[HOST_SOURCE, GENERATOR], vxlan::PORT, || {
            for version in BOTH_VERSIONS {
                // The content is verified at both ends.
                traffic::exchange_tcp(lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version), 1_000_000)?;
            }
            lab.small_talk()
        })?;
        both_ends_saw_the_same(&recording);
        lab.mirrorctl("detach s0")?.ok();
    }
    Ok(())
}

#[test]
fn traffic_goes_on_when_the_uplink_is_down() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {}", COLLECTOR.v4))?.ok();
    lab.host.ip("link set u0 down")?;
    lab.small_talk()?;
    lab.host.ip("link set u0 up")?;
    lab.small_talk()
}

/// What a program in front of ours writes into each packet: fields that a host may use for purposes of its own.
const STAMP: Stamp = Stamp {
    mark: 0x0123_4567,
    queue_mapping: 3,
    priority: 0x1_0005,
    tc_index: 0x77,
    cb: [0x1111_1111, 0x2222_2222, 0x3333_3333, 0x4444_4444, 0x5555_5555],
    hash: 0x0bad_cafe,
    tstamp: 0x1234_5678,
};

/// Packets to tell from each other, that the host receives (from the generator) or sends: plain, in VLANs, not IP, with
/// headers that aren't in the linear part, and super-packets.
fn send_all_kinds(lab: &Lab, way: Way) -> Result<()> {
    let (at, from, to) =
        if way == Way::Ingress { (GENERATOR, GENERATOR, HOST_SOURCE) } else { (HOST_SOURCE, HOST_SOURCE, GENERATOR) };
    let tag = |control| Tag { ethertype: VLAN, control };
    let mut frames = Vec::new();
    for version in BOTH_VERSIONS {
        for length in [0, 50, 1000, 1400] {
            frames.push(craft::udp(&from, &to, version, (4001, 9), &craft::content(length as u64, length)));
        }
    }
    frames.push(craft::tagged(&frames[1], &[tag(5)]));
    frames.push(craft::tagged(&frames[2], &[tag(0x6007), tag(9)]));
    frames.push(craft::ethernet(&from, &to, 0x88cc, &craft::content(9, 100)));
    lab.inject_all(at, &frames)?;
    for version in BOTH_VERSIONS {
        let segment = [&[0x30, 0x39, 0, 9, 0, 0, 0, 1, 0, 0, 0, 0, 5 << 4, 0x18, 0, 0, 0, 0, 0, 0][..], &[7; 9000]];
        let whole = craft::ip(&from, &to, version, TCP, &segment.concat());
        lab.inject_super_packet(at, &whole, version, 1400)?;
    }
    Ok(())
}

/// What the program behind ours saw of those packets, in an order that is always the same.
fn observed(lab: &Lab, way: Way, recorder: &Program) -> Result<Vec<Record>> {
    recorder.take()?;
    lab.record_at(&[GENERATOR], vxlan::PORT, || send_all_kinds(lab, way))?;
    let mut records = recorder.take()?;
    let from = if way == Way::Ingress { GENERATOR.mac } else { HOST_SOURCE.mac };
    records.retain(|record| {
        let frame = record.frame();
        let is_answer = frame.ip().is_some_and(|ip| matches!(ip.protocol, ICMP | ICMPV6))
            || frame.ip().is_some_and(|ip| ip.protocol == TCP) && record.len < 100;
        frame.source_mac() == Some(from) && !frame.is_housekeeping() && !is_answer
    });
    for record in &mut records {
        // A time of the kernel's own where the packet has no place for the one that was written: not IP, or tagged.
        if record.tstamp != u64::from(STAMP.tstamp) {
            record.tstamp = 0;
        }
    }
    records.sort_by(|a, b| (a.bytes, a.len).cmp(&(b.bytes, b.len)));
    Ok(records)
}

/// What becomes of copies: they are cut, lost at the tap, on the way, or refused by helpers.
const FATES: [(&str, &str, &[&str]); 7] = [
    ("whole copies", "10.2.0.2", &[]),
    ("copies that are cut", "10.2.0.2 --packet-length 20", &[]),
    ("copies without a route", "10.2.0.2", &["route add blackhole 10.2.0.2"]),
    ("copies that nobody answers for", "10.2.0.99", &[]),
    ("the tap's receiving end down", "10.2.0.2", &["link set mcenc-default down"]),
    ("the tap down", "10.2.0.2", &["link set mctap-default down"]),
    ("the tap deleted", "10.2.0.2", &["link del mctap-default"]),
];

#[test]
fn a_program_behind_ours_reads_the_same_of_a_packet_whatever_becomes_of_its_copy() -> Result<()> {
    for hook in hooks()? {
        for way in BOTH_WAYS {
            let lab = Lab::new()?;
            lab.host.tc("qdisc add dev s0 clsact")?;
            // In front of ours, which is in clsact or by TCX, and behind it.
            let stamp = Program::stamp(&STAMP)?;
            let recorder = Program::recorder(Verdict::Next)?;
            let (front, behind) = match (hook, hooks()?.contains(&"tcx")) {
                ("tcx", _) => (Place::TcxFirst, Place::TcxLast),
                (_, true) => (Place::TcxFirst, Place::Clsact(9)),
                // Without TCX nothing stands in front of ours for certain.
                (_, false) => continue,
            };
            let observe = || -> Result<Vec<Record>> {
                let _stamped = stamp.attach(&lab, "s0", way, front)?;
                let _recorded = recorder.attach(&lab, "s0", way, behind)?;
                let records = observed(&lab, way, &recorder);
                if let Place::Clsact(priority) = behind {
                    lab.host.tc(&format!("filter del dev s0 {} pref {priority}", way.name()))?;
                }
                records
            };
            let unmirrored = observe()?;
            assert_eq!(unmirrored.len(), 13, "{}: {unmirrored:?}", way.name());
            assert!(
                unmirrored.iter().filter(|record| record.gso_size == 1400).count() == 2,
                "{}: super-packets",
                way.name()
            );
            assert!(unmirrored.iter().all(|record| record.mark == STAMP.mark && record.cb == STAMP.cb), "stamps stay");
            for path in BOTH_PATHS {
                for (fate, arguments, then) in FATES {
                    let attach = format!("attach s0 --target {arguments} --hook {hook} {}", path.flag());
                    let output = lab.mirrorctl(&attach)?;
                    assert!(output.succeeded(), "{output}");
                    then.iter().try_for_each(|words| lab.host.ip(words).map(drop))?;
                    let mirrored = observe()?;
                    let when = format!("{}, ours by {hook} on the {path}, {fate}", way.name());
                    assert_eq!(mirrored.len(), unmirrored.len(), "{when}: packets that a program behind ours saw");
                    for (mirrored, unmirrored) in mirrored.iter().zip(&unmirrored) {
                        assert_eq!(mirrored, unmirrored, "{when}: {}", unmirrored.frame());
                    }
                    if then.iter().any(|words| words.contains("blackhole")) {
                        lab.host.ip("route del blackhole 10.2.0.2")?;
                    }
                    lab.mirrorctl("detach --all")?.ok();
                }
            }
        }
    }
    Ok(())
}

//! The original packet is never changed, held up or lost, whatever happens to its copy.

use anyhow::Result;
use mirror_tests::foreign::{BOTH_WAYS, Place, Program, Record, Stamp, Verdict, Way};
use mirror_tests::frame::{ICMP, ICMPV6, TCP, Tag, VLAN};
use mirror_tests::offload;
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
        lab.inject_unfinished(at, &[offload::unfinished(&whole, Some(1400))?])?;
    }
    Ok(())
}

/// What the programs behind ours saw of those packets, in and out, in an order that is always the same.
fn observed(lab: &Lab, recorders: &[Program; 2]) -> Result<[Vec<Record>; 2]> {
    for recorder in recorders {
        recorder.take()?;
    }
    BOTH_WAYS.into_iter().try_for_each(|way| send_all_kinds(lab, way))?;
    lab.flush()?;
    let mut observed = [Vec::new(), Vec::new()];
    for ((records, recorder), from) in observed.iter_mut().zip(recorders).zip([GENERATOR.mac, HOST_SOURCE.mac]) {
        *records = recorder.take()?;
        // What the hosts say on their own account, and their answers to all this, may come or not.
        records.retain(|record| {
            let frame = record.frame();
            let is_answer = frame
                .ip()
                .is_some_and(|ip| matches!(ip.protocol, ICMP | ICMPV6) || (ip.protocol == TCP && record.gso_size == 0));
            frame.source_mac() == Some(from) && !frame.is_housekeeping() && !is_answer
        });
        for record in records.iter_mut() {
            // A time of the kernel's own where the packet has no place for the one that was written: not IP, or tagged.
            if record.tstamp != u64::from(STAMP.tstamp) {
                record.tstamp = 0;
            }
        }
        records.sort_by_key(|record| (record.bytes, record.len));
    }
    Ok(observed)
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
    // Without TCX nothing stands in front of ours for certain, to stamp what passes.
    if !hooks()?.contains(&"tcx") {
        return Ok(());
    }
    for (hook, behind) in [("tcx", Place::TcxLast), ("tc", Place::Clsact(9))] {
        let lab = Lab::new()?;
        lab.host.tc("qdisc add dev s0 clsact")?;
        let stamp = Program::stamp(&STAMP)?;
        let recorders = [Program::recorder(Verdict::Next)?, Program::recorder(Verdict::Next)?];
        let observe = || -> Result<[Vec<Record>; 2]> {
            let mut attached = Vec::new();
            for (way, recorder) in BOTH_WAYS.into_iter().zip(&recorders) {
                attached.push(stamp.attach(&lab, "s0", way, Place::TcxFirst)?);
                attached.push(recorder.attach(&lab, "s0", way, behind)?);
            }
            let observed = observed(&lab, &recorders)?;
            if let Place::Clsact(priority) = behind {
                for way in BOTH_WAYS {
                    lab.host.tc(&format!("filter del dev s0 {} pref {priority}", way.name()))?;
                }
            }
            Ok(observed)
        };
        let unmirrored = observe()?;
        for records in &unmirrored {
            assert_eq!(records.len(), 13, "packets of all kinds: {records:?}");
            assert_eq!(records.iter().filter(|record| record.gso_size == 1400).count(), 2, "super-packets among them");
            assert!(records.iter().all(|record| record.mark == STAMP.mark && record.cb == STAMP.cb), "stamps stay");
        }
        for path in BOTH_PATHS {
            for (fate, arguments, then) in FATES {
                lab.mirrorctl(&format!("attach s0 --target {arguments} --hook {hook} {}", path.flag()))?.ok();
                then.iter().try_for_each(|words| lab.host.ip(words).map(drop))?;
                let mirrored = observe()?;
                for ((mirrored, unmirrored), way) in mirrored.iter().zip(&unmirrored).zip(BOTH_WAYS) {
                    let when = format!("{}, ours by {hook} on the {path}, {fate}", way.name());
                    assert_eq!(mirrored.len(), unmirrored.len(), "{when}: packets that a program behind ours saw");
                    for (mirrored, unmirrored) in mirrored.iter().zip(unmirrored) {
                        assert_eq!(mirrored, unmirrored, "{when}: {}", unmirrored.frame());
                    }
                }
                if then.iter().any(|words| words.contains("blackhole")) {
                    lab.host.ip("route del blackhole 10.2.0.2")?;
                }
                lab.mirrorctl("detach --all")?.ok();
            }
        }
    }
    Ok(())
}

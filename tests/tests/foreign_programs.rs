//! Programs of others at the same interfaces: none is hidden from packets by ours, and ours from none, where they ask the
//! next program; and what becomes of ours where they don't. docs/ARCHITECTURE.md, "Order among other programs", says what
//! is tested here.

use anyhow::Result;
use mirror_tests::foreign::{BOTH_WAYS, Place, Program, Record, Verdict, Way};
use mirror_tests::frame::{Tag, VLAN, be16};
use mirror_tests::vxlan::PORT;
use mirror_tests::{
    BOTH_PATHS, BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, HOST_UPLINK, Lab, Path, Wanted, hooks,
};
use mirror_tests::{craft, traffic};

/// Frames to tell from each other, one way.
fn frames(way: Way) -> Vec<Frame> {
    let (from, to) = if way == Way::Ingress { (&GENERATOR, &HOST_SOURCE) } else { (&HOST_SOURCE, &GENERATOR) };
    let mut frames = Vec::new();
    for version in BOTH_VERSIONS {
        for length in [0, 50, 150, 1200] {
            frames.push(craft::udp(from, to, version, (4001, 9), &craft::content(length as u64, length)));
        }
    }
    frames.push(craft::tagged(&frames[1], &[Tag { ethertype: VLAN, control: 5 }]));
    frames
}

/// Sends the frames of a way.
fn send(lab: &Lab, way: Way) -> Result<()> {
    lab.inject_all(if way == Way::Ingress { GENERATOR } else { HOST_SOURCE }, &frames(way))
}

/// Asserts that a program saw each of the frames once, with the mark that it came with.
#[track_caller]
fn saw_each_once(records: &[Record], way: Way, when: &str) {
    for frame in frames(way) {
        // At ingress the kernel has taken a tag off, and a tag makes the only difference.
        let tag = frame.layers().is_some_and(|layers| !layers.tags.is_empty());
        let untagged = if tag { Frame([&frame.bytes()[..12], &frame.bytes()[16..]].concat()) } else { frame.clone() };
        let seen = records.iter().filter(|record| {
            let is_this = |expected: &Frame| record.frame() == expected.cut(record.bytes.len());
            if tag {
                is_this(&frame) || (record.vlan_present != 0 && is_this(&untagged))
            } else {
                record.vlan_present == 0 && is_this(&frame)
            }
        });
        let seen: Vec<_> = seen.collect();
        assert_eq!(seen.len(), 1, "{when}: a foreign program should see this once: {frame:?}");
        assert_eq!(seen[0].mark, 0, "{when}: the mark of {frame:?}");
    }
}

fn attach(lab: &Lab, hook: &str, path: Path) -> Result<()> {
    let target = COLLECTOR.v4;
    lab.mirrorctl(&format!("attach s0 --target {target} --vni 42 --hook {hook} {}", path.flag()))?.ok();
    Ok(())
}

/// A name for a test's messages, a place, and whether the program is there before ours is attached.
const PLACES: [(&str, Place, bool); 6] = [
    ("TCX, earlier", Place::TcxLast, true),
    ("TCX, later and first", Place::TcxFirst, false),
    ("TCX, later and last", Place::TcxLast, false),
    ("clsact, earlier", Place::Clsact(1), true),
    ("clsact, later, our priority", Place::Clsact(1), false),
    ("clsact, later, behind", Place::Clsact(7), false),
];

/// The places that this kernel has.
fn places() -> Result<Vec<(&'static str, Place, bool)>> {
    let tcx = hooks()?.contains(&"tcx");
    Ok(PLACES.into_iter().filter(|(_, place, _)| tcx || matches!(place, Place::Clsact(_))).collect())
}

#[test]
fn programs_that_ask_the_next_one_and_ours_see_every_packet() -> Result<()> {
    for hook in hooks()? {
        for path in BOTH_PATHS {
            let lab = Lab::new()?;
            lab.host.tc("qdisc add dev s0 clsact")?;
            // All at once: each program stands among the others.
            let programs = places()?
                .into_iter()
                .flat_map(|place| BOTH_WAYS.map(|way| (place, way)))
                .map(|(place, way)| Ok((place, way, Program::recorder(Verdict::Next)?)))
                .collect::<Result<Vec<_>>>()?;
            let mut attached = Vec::new();
            for earlier in [true, false] {
                for ((_, place, _), way, program) in programs.iter().filter(|((.., when), ..)| *when == earlier) {
                    attached.push(program.attach(&lab, "s0", *way, *place)?);
                }
                if earlier {
                    attach(&lab, hook, path)?;
                }
            }
            let recording = lab.record(|| {
                lab.small_talk()?;
                BOTH_WAYS.into_iter().try_for_each(|way| send(&lab, way))
            })?;
            recording.each_frame_has_one_copy(Wanted::vni(42));
            for ((name, ..), way, program) in &programs {
                let when = format!("{name}, {}, ours by {hook} on the {path}", way.name());
                saw_each_once(&program.take()?, *way, &when);
            }
            drop(attached);
        }
    }
    Ok(())
}

#[test]
fn a_program_behind_ours_that_lets_packets_pass_still_sees_them_and_so_does_ours() -> Result<()> {
    for hook in hooks()? {
        for path in BOTH_PATHS {
            for (name, place, _) in places()?.into_iter().filter(|(name, place, earlier)| {
                // Behind ours: by TCX what comes later and last, or any filter of clsact; in clsact a later priority.
                !earlier && (*name == "clsact, later, behind" || (hook == "tcx" && *place == Place::TcxLast))
            }) {
                let lab = Lab::new()?;
                lab.host.tc("qdisc add dev s0 clsact")?;
                attach(&lab, hook, path)?;
                let programs = BOTH_WAYS.map(|way| (way, Program::recorder(Verdict::Ok)));
                let mut attached = Vec::new();
                for (way, program) in &programs {
                    let program = program.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
                    attached.push(program.attach(&lab, "s0", *way, place)?);
                }
                let recording = lab.record(|| {
                    lab.small_talk()?;
                    BOTH_WAYS.into_iter().try_for_each(|way| send(&lab, way))
                })?;
                recording.each_frame_has_one_copy(Wanted::vni(42));
                for (way, program) in programs {
                    saw_each_once(&program?.take()?, way, &format!("{name}, ours by {hook} on the {path}"));
                }
            }
        }
    }
    Ok(())
}

/// Copies of the frames that the host receives, and of those that it sends.
fn copies(lab: &Lab) -> Result<[usize; 2]> {
    let recording = lab.record(|| BOTH_WAYS.into_iter().try_for_each(|way| send(lab, way)))?;
    recording.no_strays();
    Ok(BOTH_WAYS.map(|way| {
        let frames = frames(way);
        recording.copies.iter().filter(|copy| frames.contains(&copy.inner)).count()
    }))
}

/// A program that ends the evaluation in front of ours hides packets from it. That is the kernel's order; what is said of it
/// in the documentation is what happens.
#[test]
fn a_program_in_front_that_ends_the_evaluation_hides_packets_until_ours_is_first_again() -> Result<()> {
    let all = frames(Way::Ingress).len();
    for (hook, place, earlier, expected) in [
        // At ingress ours is put first, at egress last.
        ("tcx", Place::TcxLast, true, [all, 0]),
        ("tcx", Place::TcxFirst, false, [0, 0]),
        ("tcx", Place::TcxLast, false, [all, all]),
        // All of TCX runs before clsact.
        ("tcx", Place::Clsact(1), true, [all, all]),
        ("tcx", Place::Clsact(1), false, [all, all]),
        ("tc", Place::TcxLast, true, [0, 0]),
        // A new filter comes in front of those of its priority.
        ("tc", Place::Clsact(1), true, [all, all]),
        ("tc", Place::Clsact(1), false, [0, 0]),
        ("tc", Place::Clsact(2), true, [all, all]),
        ("tc", Place::Clsact(2), false, [all, all]),
    ] {
        if (hook == "tcx" || !matches!(place, Place::Clsact(_))) && !hooks()?.contains(&"tcx") {
            continue;
        }
        let when = format!("ours by {hook}, the other at {place:?} {}", if earlier { "earlier" } else { "later" });
        let lab = Lab::new()?;
        lab.host.tc("qdisc add dev s0 clsact")?;
        let foreign = Program::idle(Verdict::Ok)?;
        let put = || BOTH_WAYS.map(|way| foreign.attach(&lab, "s0", way, place));
        let mut attached = Vec::new();
        if earlier {
            attached.extend(put());
        }
        attach(&lab, hook, Path::Fast)?;
        if !earlier {
            attached.extend(put());
        }
        for attached in attached.iter() {
            assert!(attached.is_ok(), "{when}: {attached:?}");
        }
        assert_eq!(copies(&lab)?, expected, "copies in and out, {when}");
        // What a user can do: attach again. At ingress ours is first then.
        if hook == "tcx" && place == Place::TcxFirst {
            lab.mirrorctl("detach s0")?.ok();
            attach(&lab, hook, Path::Fast)?;
            assert_eq!(copies(&lab)?, [all, 0], "copies in and out, {when}, ours attached again");
        }
    }
    Ok(())
}

/// Bytes of the outer headers of a copy over IPv4.
const OUTER: usize = 14 + 20 + 8 + 8;

/// The outer header of a copy, as far as a record shows it: VNI 42, to the collector.
fn is_copy(record: &Record) -> bool {
    let frame = record.frame();
    let Some(ip) = frame.ip() else { return false };
    let bytes = frame.bytes();
    ip.destination == std::net::IpAddr::from(COLLECTOR.v4)
        && frame.source_mac() == Some(HOST_UPLINK.mac)
        && frame.destination_mac() == Some(COLLECTOR.mac)
        && be16(bytes, ip.transport + 2) == Some(PORT)
        && bytes.get(ip.transport + 8..ip.transport + 16) == Some(&[8, 0, 0, 0, 0, 0, 42, 0])
}

/// How many wire packets a copy stands for. A super-packet that got its outer headers whole doesn't say (the kernel counts
/// its segments again when it cuts it): those of TCP here.
fn wire_packets(record: &Record, inner: &Frame) -> usize {
    if record.gso_size == 0 {
        return 1;
    }
    let transport = inner.ip().expect("super-packets are IP").transport;
    // RFC 9293 §3.1: the length of the header, in words.
    let header = usize::from(inner.bytes()[transport + 12] >> 4) * 4;
    (record.len as usize - OUTER - transport - header).div_ceil(record.gso_size as usize)
}

/// Asserts that what programs at the uplink saw are copies and the uplink's own housekeeping; returns how many copies each
/// of them saw, but for those of what the hosts say on their own account, also while nobody records.
#[track_caller]
fn saw_copies_only(program: &Program, when: &str) -> Result<usize> {
    let here = std::panic::Location::caller();
    let mut copies = 0;
    for record in program.take()? {
        let frame = record.frame();
        if frame.is_housekeeping() && frame.source_mac() == Some(HOST_UPLINK.mac) {
            continue;
        }
        assert!(is_copy(&record), "{here}: {when}: this should be a copy: {frame:?}");
        let inner = Frame(frame.bytes()[OUTER..].to_vec());
        if !inner.is_housekeeping() {
            copies += wire_packets(&record, &inner);
        }
    }
    Ok(copies)
}

#[test]
fn programs_at_the_uplink_see_copies_and_never_a_bare_clone() -> Result<()> {
    for hook in hooks()? {
        for path in BOTH_PATHS {
            // All that ask the next one at once; one by one those that let the packet pass, and hide it from the next.
            let asking: Vec<_> = places()?.into_iter().map(|place| (place, Verdict::Next)).collect();
            let groups = places()?.into_iter().skip(1).step_by(2).map(|place| vec![(place, Verdict::Ok)]);
            for group in std::iter::once(asking).chain(groups) {
                let lab = Lab::new()?;
                lab.host.tc("qdisc add dev u0 clsact")?;
                let mut programs = Vec::new();
                let mut attached = Vec::new();
                for earlier in [true, false] {
                    for ((name, place, _), verdict) in group.iter().filter(|((.., when), _)| *when == earlier) {
                        let program = Program::recorder(*verdict)?;
                        attached.push(program.attach(&lab, "u0", Way::Egress, *place)?);
                        let when = format!("{name} at u0, answering {verdict:?}, ours by {hook} on the {path}");
                        programs.push((when, program));
                    }
                    if earlier {
                        attach(&lab, hook, path)?;
                    }
                }
                let recording = lab.record(|| {
                    for version in BOTH_VERSIONS {
                        traffic::exchange_tcp(lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version), 30_000)?;
                    }
                    BOTH_WAYS.into_iter().try_for_each(|way| send(&lab, way))
                })?;
                recording.each_frame_has_one_copy(Wanted::vni(42));
                let expected = recording.copies.iter().filter(|copy| !copy.inner.is_housekeeping()).count();
                for (when, program) in &programs {
                    assert_eq!(saw_copies_only(program, when)?, expected, "{when}: it should have seen every copy");
                }
            }
        }
    }
    Ok(())
}

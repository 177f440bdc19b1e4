//! A target that is an interface of the host: bare frames go out of it, as they were on the wire.

use anyhow::Result;
use mirror_tests::frame::{SERVICE_VLAN, Tag, VLAN};
use mirror_tests::vxlan::PORT;
use mirror_tests::wait::wait_until;
use mirror_tests::{
    BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, HOST_UPLINK, Lab, Recording, checksum, hooks,
};
use mirror_tests::{craft, traffic};

/// Frames of traffic that came out of the uplink bare.
fn bare(recording: &Recording) -> Vec<Frame> {
    let mut frames: Vec<Frame> = recording.strays.iter().filter(|frame| !frame.is_housekeeping()).cloned().collect();
    frames.sort();
    frames
}

/// Frames of traffic that passed the source, cut.
fn passed(recording: &Recording, cut: usize) -> Vec<Frame> {
    let mut frames: Vec<Frame> = recording.traffic_at(HOST_SOURCE).into_iter().map(|frame| frame.cut(cut)).collect();
    frames.sort();
    frames
}

fn talk(lab: &Lab) -> Result<()> {
    lab.small_talk()?;
    for tags in [
        &[Tag { ethertype: VLAN, control: 5 }][..],
        &[Tag { ethertype: SERVICE_VLAN, control: 7 }, Tag { ethertype: VLAN, control: 0x6009 }],
    ] {
        lab.inject(GENERATOR, &craft::tagged(&craft::udp_v4(200), tags))?;
        lab.inject(HOST_SOURCE, &craft::tagged(&craft::udp_v4(201), tags))?;
    }
    for version in BOTH_VERSIONS {
        traffic::exchange_tcp(lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version), 100_000)?;
    }
    Ok(())
}

#[test]
fn bare_frames_leave_as_they_were_on_the_wire() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        let before = lab.traces()?;
        let attached = lab.mirrorctl(&format!("attach s0 --to-interface u0 --hook {hook}"))?.ok();
        assert!(attached.contains("mirrored to u0") && attached.contains("bare frames"), "{attached}");
        let recording = lab.record(|| talk(&lab))?;
        let (sent, received) = recording.super_packets();
        assert!(sent > 0 && received > 0, "the kernel should have handled super-packets: {sent} out, {received} in");
        let (bare, passed) = (bare(&recording), passed(&recording, usize::MAX));
        assert_eq!(bare.len(), passed.len(), "one bare frame for each frame at the source");
        assert!(bare == passed, "bare frames should be the frames at the source");
        assert!(recording.copies.is_empty(), "nothing is in VXLAN");
        for frame in &bare {
            checksum::verify(frame).map_err(|wrong| anyhow::anyhow!("{wrong}: {frame:?}"))?;
        }
        let stats = lab.stats()?;
        let (packets, bytes) = (&stats["sessions"][0]["packets"], &stats["sessions"][0]["bytes"]);
        // The hosts may have said something on their own account.
        assert!(packets.as_u64() >= Some(bare.len() as u64), "{stats}");
        assert!(bytes.as_u64() >= Some(bare.iter().map(|frame| frame.0.len() as u64).sum()), "{stats}");
        let skipped = stats["skipped"].as_object().expect("an object");
        assert!(skipped.values().all(|count| count == 0), "{stats}");
        assert_eq!(lab.status()?["sources"][0]["sessions"][0]["target"], "u0");
        lab.mirrorctl("detach s0")?.ok();
        before.are_all_there_is(&lab.traces()?, &format!("after detach with hook {hook}"));
    }
    Ok(())
}

#[test]
fn bare_frames_are_cut_to_the_packet_length() -> Result<()> {
    let lab = Lab::new()?;
    for length in [66, 100, 127, 128, 1500] {
        lab.mirrorctl(&format!("attach s0 --to-interface u0 --packet-length {length}"))?.ok();
        let recording = lab.record(|| talk(&lab))?;
        let (bare, passed) = (bare(&recording), passed(&recording, length));
        let other = bare.iter().find(|frame| !passed.contains(frame));
        assert!(bare == passed, "bare frames should be the first {length} bytes of frames, not {other:?}");
        lab.mirrorctl("detach s0")?.ok();
    }
    // Shorter than its headers a frame can't be made: zeros follow.
    lab.mirrorctl("attach s0 --to-interface u0 --packet-length 20")?.ok();
    let frame = craft::udp_v4(200);
    let recording = lab.record(|| lab.inject(GENERATOR, &frame))?;
    let cut = recording.strays.iter().find(|stray| stray.bytes()[..20] == frame.bytes()[..20]);
    let cut = cut.expect("the frame should have come");
    assert!(cut.bytes()[20..].iter().all(|byte| *byte == 0) && cut.0.len() <= 66, "{cut:?}");
    Ok(())
}

#[test]
fn bare_frames_are_cut_to_the_mtu_of_the_interface_and_counted() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl("attach s0 --to-interface u0")?.ok();
    lab.host.ip("link set u0 mtu 1000")?;
    let tag = Tag { ethertype: VLAN, control: 5 };
    // Up to 14 + 1000 bytes, and 4 for a tag.
    let cases = [
        (craft::udp_v4(1000 - 28), 1014, false),
        (craft::udp_v4(1001 - 28), 1014, true),
        (craft::tagged(&craft::udp_v4(1000 - 28), &[tag]), 1018, false),
        (craft::tagged(&craft::udp_v4(1002 - 28), &[tag]), 1018, true),
    ];
    for (frame, room, is_cut) in cases {
        let before = lab.stats()?["sessions"][0]["truncated_to_mtu"].as_u64();
        let recording = lab.record(|| lab.inject(GENERATOR, &frame))?;
        assert!(recording.strays.contains(&frame.cut(room)), "{frame} should leave with {room} bytes at most");
        let after = lab.stats()?["sessions"][0]["truncated_to_mtu"].as_u64();
        assert_eq!(after.zip(before).map(|(after, before)| after - before), Some(u64::from(is_cut)), "{frame}");
    }
    Ok(())
}

#[test]
fn a_bare_frame_is_not_mirrored_where_it_leaves() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        lab.mirrorctl(&format!("attach s0 --to-interface u0 --hook {hook}"))?.ok();
        lab.mirrorctl(&format!("attach u0 --target {} --vni 1 --hook {hook}", COLLECTOR.v4))?.ok();
        let recording = lab.record_at(&[HOST_SOURCE, HOST_UPLINK], PORT, || {
            talk(&lab)?;
            traffic::exchange_udp(lab.end(HOST_UPLINK, BOTH_VERSIONS[0]), lab.end(COLLECTOR, BOTH_VERSIONS[0]), 300)
        })?;
        let own = |frame: &Frame| frame.ports().is_some_and(|_| frame.source_mac() == Some(HOST_UPLINK.mac));
        let bare: Vec<Frame> = bare(&recording).into_iter().filter(|frame| !own(frame)).collect();
        assert_eq!(bare.len(), passed(&recording, usize::MAX).len(), "frames of the source leave bare, once");
        let of_source = recording.copies.iter().filter(|copy| bare.contains(&copy.inner)).count();
        assert_eq!(of_source, 0, "bare frames should not be mirrored again");
        let of_uplink = recording.copies.iter().filter(|copy| own(&copy.inner)).count();
        assert_eq!(of_uplink, 1, "the uplink's own datagram is mirrored");
    }
    Ok(())
}

#[test]
fn an_interface_that_is_down_or_gone_is_counted_and_followed() -> Result<()> {
    let lab = Lab::new()?;
    let make_x0 = || -> Result<()> {
        lab.host.ip("link add x0 type veth peer name x1")?;
        // Nobody speaks unasked there.
        for end in ["x0", "x1"] {
            lab.host.set_sysctl(&format!("ipv6/conf/{end}/disable_ipv6"), "1")?;
            lab.host.ip(&format!("link set {end} up"))?;
        }
        // A link that has just come up gets its queue a little later (linkwatch), and until then drops what is sent.
        wait_until("x0 and x1 carry frames", || {
            let links = lab.host.ip("-oneline link show")?;
            Ok(links
                .lines()
                .filter(|line| line.contains(" x0@") || line.contains(" x1@"))
                .all(|line| line.contains(" state UP ")))
        })
    };
    make_x0()?;
    // Only what the test sends: the hosts say something on their own account at any time.
    lab.mirrorctl("filter create echo-replies")?.ok();
    lab.mirrorctl(
        "rule add echo-replies --direction ingress --rule-number 1 --action accept --protocol icmp --source-cidr 10.1.0.1/32 \
         --destination-cidr 10.1.0.2/32",
    )?
    .ok();
    lab.mirrorctl("attach s0 --to-interface x0 --filter echo-replies --packet-length 100")?.ok();
    // Packets that left, and those that were counted under either reason, of one that is sent.
    let count = || -> Result<[u64; 3]> {
        let now = || -> Result<[u64; 3]> {
            let stats = lab.stats()?;
            let skipped = &stats["skipped"];
            let counters = [
                &stats["sessions"][0]["packets"],
                &skipped["target_interface_refused"],
                &skipped["target_interface_gone"],
            ];
            Ok(counters.map(|counter| counter.as_u64().expect("a number")))
        };
        let before = now()?;
        lab.record(|| lab.inject(GENERATOR, &craft::echo_reply_v4(300)))?;
        let after = now()?;
        Ok([0, 1, 2].map(|index| after[index] - before[index]))
    };
    assert_eq!(count()?, [1, 0, 0], "x0 up");
    lab.host.ip("link set x0 down")?;
    assert_eq!(count()?, [0, 1, 0], "x0 down");
    lab.host.ip("link del x0")?;
    assert_eq!(count()?, [0, 0, 1], "x0 deleted");
    make_x0()?;
    assert_eq!(count()?, [0, 0, 1], "x0 made again, and nobody has looked");
    // Whatever changes next finds the new one.
    lab.mirrorctl("target create other --address 10.2.0.2")?.ok();
    assert_eq!(count()?, [1, 0, 0], "x0 found again");
    Ok(())
}

#[test]
fn interfaces_that_take_no_bare_frames_are_refused() -> Result<()> {
    let lab = Lab::new()?;
    lab.host.ip("tuntap add dev t0 mode tun")?;
    let before = lab.traces()?;
    for (status, interface, words) in [
        (2, "lo", ["lo", "loopback"]),
        (2, "t0", ["t0", "Ethernet header"]),
        (2, "s0", ["s0", "source itself"]),
        (3, "nope0", ["nope0", "no such interface"]),
        (2, "u0 --target 10.2.0.2", ["--to-interface", "--target"]),
    ] {
        lab.mirrorctl(&format!("attach s0 --to-interface {interface}"))?.fails(status, &words);
    }
    before.are_all_there_is(&lab.traces()?, "after all those refusals");
    lab.mirrorctl("target create span --interface u0")?.ok();
    let shown = lab.mirrorctl("target show span --json")?.json();
    assert_eq!(shown["interface"], "u0");
    Ok(())
}

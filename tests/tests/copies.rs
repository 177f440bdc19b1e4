//! What the collector gets is what was on the wire: every frame of the source once, byte for byte.

use anyhow::Result;
use mirror_tests::frame::{Frame, SERVICE_VLAN, Tag, UDP, VLAN};
use mirror_tests::lab::Station;
use mirror_tests::{BOTH_VERSIONS, COLLECTOR, GENERATOR, HOST_SOURCE, IpVersion, Lab, Turn, Wanted, hooks};
use mirror_tests::{craft, traffic};

/// Largest UDP payload that fits an MTU of 1500.
fn largest_payload(version: IpVersion) -> usize {
    match version {
        IpVersion::V4 => 1500 - 20 - 8,
        IpVersion::V6 => 1500 - 40 - 8,
    }
}

#[test]
fn tcp_bulk_with_segmentation_offload_is_copied_through_tcx() -> Result<()> {
    if hooks()?.contains(&"tcx") { tcp_bulk_with_segmentation_offload("tcx") } else { Ok(()) }
}

#[test]
fn tcp_bulk_with_segmentation_offload_is_copied_through_tc() -> Result<()> {
    tcp_bulk_with_segmentation_offload("tc")
}

fn tcp_bulk_with_segmentation_offload(hook: &str) -> Result<()> {
    const BYTES: usize = 3_000_000;
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42 --hook {hook}", COLLECTOR.v4))?.ok();
    let _turn = Turn::wait()?;
    for version in BOTH_VERSIONS {
        let (generator, host) = (lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version));
        let recording = lab.record(|| traffic::exchange_tcp(generator, host, BYTES))?;

        let (sent, received) = recording.super_packets();
        assert!(sent > 10 && received > 10, "the kernel should have handled super-packets: {sent} out, {received} in");
        let frames = recording.each_frame_has_one_copy(Wanted::vni(42));
        assert!(frames > 2 * BYTES / 1500, "only {frames} frames for {BYTES} bytes each way");
        recording.checksums_are_right();
        assert_eq!(recording.each_flow_has_one_source_port(), 1);
        let longest = recording.copies.iter().map(|copy| copy.inner.0.len()).max();
        assert_eq!(longest, Some(1514), "the largest copies should be full frames");
        let there = recording.tcp_stream(generator.address, host.address);
        let back = recording.tcp_stream(host.address, generator.address);
        assert!(there == craft::content(1, BYTES), "the copies should hold what the generator sent");
        assert!(back == craft::content(2, BYTES), "the copies should hold what the host sent");
    }
    Ok(())
}

#[test]
fn tcp_without_offloads_is_copied() -> Result<()> {
    let lab = Lab::options().without_source_offloads().start()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    let _turn = Turn::wait()?;
    let (generator, host) = (lab.end(GENERATOR, IpVersion::V4), lab.end(HOST_SOURCE, IpVersion::V4));
    let recording = lab.record(|| traffic::exchange_tcp(host, generator, 500_000))?;
    assert_eq!(recording.super_packets(), (0, 0));
    recording.each_frame_has_one_copy(Wanted::vni(42));
    recording.checksums_are_right();
    Ok(())
}

#[test]
fn udp_and_icmp_from_one_byte_to_full_mtu_are_copied() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        lab.mirrorctl(&format!("attach s0 --target {} --vni 7 --hook {hook}", COLLECTOR.v4))?.ok();
        for version in BOTH_VERSIONS {
            let (generator, host) = (lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version));
            let largest = largest_payload(version);
            let lengths = [1, 2, 17, 18, 19, 100, 511, 512, 1000, largest - 1, largest];
            let recording = lab.record(|| {
                for length in lengths {
                    traffic::exchange_udp(generator, host, length)?;
                    traffic::ping(generator, host.address, length)?;
                    traffic::ping(host, generator.address, length)?;
                }
                Ok(())
            })?;
            // A datagram each way; two requests and two replies.
            assert_eq!(recording.each_frame_has_one_copy(Wanted::vni(7)), lengths.len() * 6);
            recording.checksums_are_right();
        }
    }
    Ok(())
}

#[test]
fn every_payload_length_is_copied_in_both_directions() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    for version in BOTH_VERSIONS {
        let frames = |from, to| -> Vec<Frame> {
            let lengths = 0..=largest_payload(version);
            // To the discard port, where nobody answers: what is injected is not meant to start a conversation.
            lengths.map(|length| craft::udp(from, to, version, (4000, 9), &craft::content(8, length))).collect()
        };
        // A socket in the way of "port unreachable" answers.
        let discard = |station| {
            let end = lab.end(station, version);
            end.namespace.enter(|| Ok(std::net::UdpSocket::bind((end.address, 9))?))
        };
        let (_at_host, _at_generator) = (discard(HOST_SOURCE)?, discard(GENERATOR)?);
        let (inbound, outbound) = (frames(&GENERATOR, &HOST_SOURCE), frames(&HOST_SOURCE, &GENERATOR));
        let recording = lab.record(|| {
            lab.inject_all(GENERATOR, &inbound)?;
            lab.inject_all(HOST_SOURCE, &outbound)
        })?;
        let injected = [inbound, outbound].concat();
        assert_eq!(recording.each_has_one_copy(&injected, Wanted::vni(42)), injected.len());
        recording.each_frame_has_one_copy(Wanted::vni(42));
    }
    Ok(())
}

#[test]
fn copies_reach_an_ipv6_target() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        lab.mirrorctl(&format!("attach s0 --target {} --vni 16777215 --hook {hook}", COLLECTOR.v6))?.ok();
        let _turn = Turn::wait()?;
        let recording = lab.record(|| lab.small_talk())?;
        recording.each_frame_has_one_copy(Wanted::vni(16_777_215));
        recording.checksums_are_right();
        assert!(recording.copies.iter().all(|copy| copy.destination == COLLECTOR.v6));
    }
    Ok(())
}

#[test]
fn copies_go_to_the_port_that_was_asked_for() -> Result<()> {
    let lab = Lab::new()?;
    for target in [format!("{}:4790", COLLECTOR.v4), format!("[{}]:4790", COLLECTOR.v6)] {
        lab.mirrorctl(&format!("attach s0 --target {target} --vni 0"))?.ok();
        let recording = lab.record_at(&[HOST_SOURCE], 4790, || lab.small_talk())?;
        recording.each_frame_has_one_copy(Wanted::vni(0));
        lab.mirrorctl("detach s0")?.ok();
    }
    Ok(())
}

#[test]
fn vlan_tags_arrive_inside_the_copy() -> Result<()> {
    // A packet socket takes frames with tags for a little longer than the MTU only if it knows the tag.
    let lab = Lab::options().source_mtu(1508).uplink_mtu(1700).start()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    let one = [Tag { ethertype: VLAN, control: 0x6123 }];
    let service = [Tag { ethertype: SERVICE_VLAN, control: 0x0fff }];
    let two = [Tag { ethertype: SERVICE_VLAN, control: 100 }, Tag { ethertype: VLAN, control: 0xe0c8 }];
    for version in BOTH_VERSIONS {
        for length in [0, 1, 46, 1000, largest_payload(version)] {
            let mut frames = Vec::new();
            for tags in [&one[..], &service, &two] {
                frames.push(craft::tagged(&packet(&GENERATOR, &HOST_SOURCE, version, length), tags));
            }
            let mut outbound = Vec::new();
            for tags in [&one[..], &service, &two] {
                outbound.push(craft::tagged(&packet(&HOST_SOURCE, &GENERATOR, version, length), tags));
            }
            let recording = lab.record(|| {
                lab.inject_all(GENERATOR, &frames)?;
                lab.inject_all(HOST_SOURCE, &outbound)
            })?;
            frames.extend(outbound);
            assert_eq!(recording.each_has_one_copy(&frames, Wanted::vni(42)), 6);
        }
    }
    Ok(())
}

fn packet(from: &Station, to: &Station, version: IpVersion, length: usize) -> Frame {
    craft::udp(from, to, version, (4000, 9), &craft::content(9, length))
}

#[test]
fn both_directions_of_a_flow_have_one_source_port_and_flows_spread() -> Result<()> {
    const FLOWS: u16 = 300;
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    for version in BOTH_VERSIONS {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        for flow in 0..FLOWS {
            // TCP segments out of nowhere would be answered, with resets.
            there.push(craft::udp(&GENERATOR, &HOST_SOURCE, version, (10_000 + flow, 9), &[1]));
            back.push(craft::udp(&HOST_SOURCE, &GENERATOR, version, (9, 10_000 + flow), &[2]));
        }
        let recording = lab.record(|| {
            lab.inject_all(GENERATOR, &there)?;
            lab.inject_all(HOST_SOURCE, &back)
        })?;
        recording.each_frame_has_one_copy(Wanted::vni(42));
        let ports = recording.each_flow_has_one_source_port();
        // 300 balls into 16,384 bins: 297 hit on average; fewer than 280 would be no hash at all.
        assert!(ports > 280, "{FLOWS} flows got only {ports} UDP source ports");
    }
    let recording = lab.record(|| lab.small_talk())?;
    recording.each_flow_has_one_source_port();
    Ok(())
}

#[test]
fn a_vni_is_drawn_when_none_is_given() -> Result<()> {
    let lab = Lab::new()?;
    let mut drawn = Vec::new();
    for _ in 0..3 {
        lab.mirrorctl(&format!("attach s0 --target {}", COLLECTOR.v4))?.ok();
        let status = lab.status()?;
        let vni = status["sources"][0]["sessions"][0]["vni"].as_u64().expect("status tells the VNI");
        assert!(vni <= 0xff_ffff, "VNI {vni} has more than 24 bits");
        let recording = lab.record(|| {
            traffic::exchange_udp(lab.end(GENERATOR, IpVersion::V4), lab.end(HOST_SOURCE, IpVersion::V4), 10)
        })?;
        assert_eq!(recording.each_frame_has_one_copy(Wanted::vni(vni as u32)), 2);
        drawn.push(vni);
        lab.mirrorctl("detach s0")?.ok();
    }
    drawn.dedup();
    assert_eq!(drawn.len(), 3, "three draws out of 16,777,216 should differ: {drawn:?}");
    Ok(())
}

#[test]
fn non_ip_frames_are_not_copied_unless_a_filter_says_so() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    let recording = lab.record(|| {
        lab.host.ip("neighbour flush dev s0")?;
        lab.inject(GENERATOR, &craft::ethernet(&GENERATOR, &HOST_SOURCE, 0x88cc, &craft::content(3, 60)))?;
        traffic::ping(lab.end(HOST_SOURCE, IpVersion::V4), GENERATOR.v4.into(), 8)
    })?;
    // The ping resolved its neighbour: there was ARP at the source.
    assert!(recording.seen_at(HOST_SOURCE).iter().any(|seen| !seen.frame.is_ip()));
    assert_eq!(recording.each_frame_has_one_copy(Wanted::vni(42)), 2);
    assert!(recording.copies.iter().all(|copy| copy.inner.ip().is_some_and(|ip| ip.protocol != UDP)));
    Ok(())
}

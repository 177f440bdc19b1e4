//! The lab itself: what it is trusted with by every other test.

use anyhow::Result;
use mirror_tests::frame::{SERVICE_VLAN, Tag, VLAN};
use mirror_tests::{
    BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, HOST_UPLINK, IpVersion, Lab, Turn, Wanted,
};
use mirror_tests::{checksum, craft, traffic, vxlan};

#[test]
fn traffic_of_every_kind_reaches_the_host_and_is_seen_as_wire_frames() -> Result<()> {
    let lab = Lab::new()?;
    let _turn = Turn::wait()?;
    let recording = lab.record(|| {
        for version in BOTH_VERSIONS {
            let (client, server) = (lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version));
            traffic::exchange_tcp(client, server, 300_000)?;
            traffic::exchange_udp(client, server, 1000)?;
            traffic::ping(client, server.address, 56)?;
        }
        Ok(())
    })?;
    recording.nothing_is_copied();
    let (sent, received) = recording.super_packets();
    assert!(sent > 0 && received > 0, "TCP should have used segmentation offload: {sent} out, {received} in");
    for frame in recording.traffic_at(HOST_SOURCE) {
        assert!(frame.0.len() <= 1514, "a watcher shows wire frames: {frame}");
        checksum::verify(frame).unwrap_or_else(|wrong| panic!("{wrong}: {frame:?}"));
    }
    Ok(())
}

#[test]
fn a_copy_made_by_hand_is_decapsulated() -> Result<()> {
    let lab = Lab::new()?;
    let tags = [Tag { ethertype: SERVICE_VLAN, control: 5 }, Tag { ethertype: VLAN, control: 6 }];
    let inner = craft::tagged(&craft::udp_v4(100), &tags);
    for version in BOTH_VERSIONS {
        let copy = copy_by_hand(version, &inner);
        let recording = lab.record(|| {
            lab.inject(GENERATOR, &inner)?;
            lab.inject(HOST_UPLINK, &copy)
        })?;
        assert_eq!(recording.each_frame_has_one_copy(Wanted::vni(0x123456)), 1);
        assert_eq!(recording.copies[0].source_port, 50000);
    }
    Ok(())
}

/// The copy of `inner` under VNI 0x123456.
fn copy_by_hand(version: IpVersion, inner: &Frame) -> Frame {
    let payload = [&[0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0], inner.bytes()].concat();
    let mut copy = craft::udp(&HOST_UPLINK, &COLLECTOR, version, (50000, vxlan::PORT), &payload);
    match version {
        IpVersion::V4 => {
            // The contract asks for DF.
            copy.0[20] = 0x40;
            checksum::fill_ipv4(&mut copy.0, 14);
            copy.0[40..42].fill(0);
        }
        IpVersion::V6 => copy.0[60..62].fill(0),
    }
    copy
}

#[test]
#[should_panic(expected = "of 2 copies with VNI 1193046, 1 contents are not the frame's, or are there too often")]
fn a_copy_that_comes_twice_is_noticed() {
    let lab = Lab::new().unwrap();
    let inner = craft::echo_reply_v4(10);
    let copy = copy_by_hand(IpVersion::V4, &inner);
    let recording = lab.record(|| {
        lab.inject(GENERATOR, &inner)?;
        lab.inject_all(HOST_UPLINK, &[copy.clone(), copy])
    });
    recording.unwrap().each_frame_has_one_copy(Wanted::vni(0x123456));
}

#[test]
#[should_panic(expected = "of 1 copies with VNI 1193046, 1 contents are not the frame's, or are there too often")]
fn a_changed_byte_is_noticed() {
    let lab = Lab::new().unwrap();
    let inner = craft::echo_reply_v4(10);
    let mut copy = copy_by_hand(IpVersion::V4, &inner);
    *copy.0.last_mut().unwrap() ^= 1;
    let recording = lab.record(|| {
        lab.inject(GENERATOR, &inner)?;
        lab.inject(HOST_UPLINK, &copy)
    });
    recording.unwrap().each_frame_has_one_copy(Wanted::vni(0x123456));
}

#[test]
#[should_panic(expected = "1 frames left by the uplink that are no copies")]
fn a_bare_frame_on_the_uplink_is_noticed() {
    let lab = Lab::new().unwrap();
    let recording = lab.record(|| lab.inject(HOST_UPLINK, &craft::udp_v4(20))).unwrap();
    recording.nothing_is_copied();
}

#[test]
#[should_panic(expected = "of 5 frames of traffic at the source, 5 have too few copies")]
fn missing_copies_are_noticed() {
    let lab = Lab::new().unwrap();
    // Nobody listens: the host answers the first two with "port unreachable" and a reset.
    let frames = [craft::udp_v4(20), craft::tcp_v4(9, 0x10), craft::echo_reply_v4(3)];
    let recording = lab.record(|| lab.inject_all(GENERATOR, &frames)).unwrap();
    recording.each_frame_has_one_copy(Wanted::vni(1));
}

#[test]
fn a_lab_leaves_nothing_behind() -> Result<()> {
    let lab = Lab::new()?;
    let names = [&lab.generator, &lab.host, &lab.collector].map(|namespace| namespace.name().to_owned());
    let state = lab.state_directory();
    assert!(names.iter().all(|name| std::path::Path::new("/run/netns").join(name).exists()));
    drop(lab);
    assert!(names.iter().all(|name| !std::path::Path::new("/run/netns").join(name).exists()));
    assert!(
        !state.exists()
            && !std::fs::read_to_string("/proc/mounts")?.contains(&*state.parent().unwrap().to_string_lossy())
    );
    Ok(())
}

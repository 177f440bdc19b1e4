//! A copy is never mirrored again; other VXLAN traffic is.

use anyhow::Result;
use mirror_tests::vxlan::{Copy, PORT};
use mirror_tests::{
    BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, HOST_UPLINK, IpVersion, Lab, Recording, Turn, Wanted,
    hooks,
};
use mirror_tests::{craft, traffic};

/// What passed the uplink and is no copy of the session with `vni`.
fn originals_at_uplink(recording: &Recording, vnis: &[u32]) -> Vec<Frame> {
    let is_copy = |frame: &Frame| matches!(Copy::read(frame, PORT), Some(Ok(copy)) if vnis.contains(&copy.vni));
    let seen = recording.seen_at(HOST_UPLINK).iter().map(|seen| &seen.frame);
    seen.filter(|frame| !is_copy(frame)).cloned().collect()
}

/// The collector gets the uplink's own traffic as well as copies: only copies are compared.
fn ignore_strays(recording: &mut Recording) {
    recording.strays.clear();
}

#[test]
fn a_source_that_is_the_uplink_does_not_loop() -> Result<()> {
    for hook in hooks()? {
        for version in BOTH_VERSIONS {
            let lab = Lab::new()?;
            let target = COLLECTOR.address(version);
            lab.mirrorctl(&format!("attach u0 --target {target} --vni 1 --hook {hook}"))?.ok();
            let _turn = Turn::wait()?;
            let mut recording = lab.record_at(&[HOST_SOURCE, HOST_UPLINK], PORT, || {
                traffic::exchange_udp(lab.end(HOST_UPLINK, version), lab.end(COLLECTOR, version), 1000)?;
                traffic::ping(lab.end(COLLECTOR, version), HOST_UPLINK.address(version), 56)?;
                traffic::exchange_tcp(lab.end(COLLECTOR, version), lab.end(HOST_UPLINK, version), 200_000)
            })?;
            ignore_strays(&mut recording);
            // The copies of full frames don't fit where the originals did.
            let room = 1600 - 8 - 8 - if version == IpVersion::V4 { 20 } else { 40 };
            let frames =
                recording.each_has_one_copy(&originals_at_uplink(&recording, &[1]), Wanted::vni(1).cut_to(room));
            assert!(frames > 200, "there should have been traffic: {frames} frames");
        }
    }
    Ok(())
}

#[test]
fn source_and_uplink_mirrored_together_do_not_mirror_copies() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        lab.mirrorctl(&format!("attach u0 --target {} --vni 1 --hook {hook}", COLLECTOR.v4))?.ok();
        lab.mirrorctl(&format!("attach s0 --target {} --vni 2 --hook {hook}", COLLECTOR.v4))?.ok();
        let _turn = Turn::wait()?;
        let mut recording = lab.record_at(&[HOST_SOURCE, HOST_UPLINK], PORT, || {
            lab.small_talk()?;
            for version in BOTH_VERSIONS {
                traffic::exchange_udp(lab.end(HOST_UPLINK, version), lab.end(COLLECTOR, version), 1000)?;
            }
            Ok(())
        })?;
        ignore_strays(&mut recording);
        recording.each_frame_at_has_one_copy(HOST_SOURCE, Wanted::vni(2));
        let uplink = originals_at_uplink(&recording, &[1, 2]);
        assert_eq!(recording.each_has_one_copy(&uplink, Wanted::vni(1)), 4);
    }
    Ok(())
}

#[test]
fn other_vxlan_traffic_to_the_collector_is_mirrored() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    // Made by nobody here: a tunnel packet that passes the source, inbound and outbound.
    let payload = [&[0x08, 0, 0, 0, 0, 0, 42, 0], craft::udp_v4(50).bytes()].concat();
    let inbound = craft::udp(&GENERATOR, &HOST_SOURCE, IpVersion::V4, (50_000, PORT), &payload);
    let outbound = craft::udp(&HOST_SOURCE, &GENERATOR, IpVersion::V4, (50_000, PORT), &payload);
    let recording = lab.record(|| {
        lab.inject(GENERATOR, &inbound)?;
        lab.inject(HOST_SOURCE, &outbound)
    })?;
    recording.each_frame_has_one_copy(Wanted::vni(42));
    for frame in [inbound, outbound] {
        assert!(recording.copies.iter().any(|copy| copy.inner == frame), "{frame} should have been mirrored");
    }
    Ok(())
}

#[test]
fn other_vxlan_traffic_on_a_mirrored_uplink_is_mirrored() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach u0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    // As the host's own tunnel would send it, also to the collector.
    let payload = [&[0x08, 0, 0, 0, 0, 0, 9, 0], craft::udp_v4(50).bytes()].concat();
    let foreign = craft::udp(&HOST_UPLINK, &COLLECTOR, IpVersion::V4, (50_000, PORT + 1), &payload);
    let mut recording = lab.record_at(&[HOST_UPLINK], PORT, || lab.inject(HOST_UPLINK, &foreign))?;
    ignore_strays(&mut recording);
    assert!(recording.copies.iter().any(|copy| copy.inner == foreign), "{foreign} should have been mirrored");
    Ok(())
}

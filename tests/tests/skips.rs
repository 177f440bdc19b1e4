//! Every packet that a session accepted and that does not go out is counted under a reason: each reason is provoked here.
//!
//! Each time, the reason counts exactly the packets that were sent, no other reason counts any, and the originals arrive.
//!
//! Not provoked: `send_failed`. It counts what `bpf_redirect`, `bpf_redirect_neigh` and `bpf_skb_change_type` refuse, and
//! they refuse only arguments that no code of the product passes: unknown flags, a next hop of the wrong size, a packet type
//! that there isn't (net/core/filter.c). What goes wrong when the redirect is carried out, after the program has ended,
//! is told to no program.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use mirror_tests::frame::{Tag, UDP, VLAN};
use mirror_tests::vxlan::PORT;
use mirror_tests::{
    BOTH_PATHS, BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, IpVersion, Lab, Path, Recording, bpf, craft,
};

/// Packets sent for each reason.
const SENT: usize = 7;
/// Their UDP destination port; the filter accepts nothing else.
const DISCARD: u16 = 9;
const ATTACH: &str = "attach s0 --vni 42 --filter probes";

/// A lab whose filter `probes` accepts what the host sends to UDP port 9, or whatever has the addresses of such packets:
/// nothing that the hosts say on their own account.
fn lab() -> Result<Lab> {
    with_filter(Lab::new()?, "")
}

fn with_filter(lab: Lab, arguments: &str) -> Result<Lab> {
    lab.mirrorctl(&format!("filter create probes {arguments}"))?.ok();
    let [v4, v6] = BOTH_VERSIONS.map(|version| (HOST_SOURCE.address(version), GENERATOR.address(version)));
    for (number, source, destination, ports) in [
        (1, format!("{}/32", v4.0), format!("{}/32", v4.1), "--protocol udp --destination-port-range 9-9"),
        (2, format!("{}/128", v6.0), format!("{}/128", v6.1), "--protocol udp"),
    ] {
        lab.mirrorctl(&format!(
            "rule add probes --direction egress --rule-number {number} --action accept {ports} --source-cidr {source} \
             --destination-cidr {destination}"
        ))?
        .ok();
    }
    Ok(lab)
}

/// A packet that the filter accepts.
fn probe(version: IpVersion, length: usize, seed: usize) -> Frame {
    craft::udp(&HOST_SOURCE, &GENERATOR, version, (4000, DISCARD), &craft::content(seed as u64, length))
}

fn probes(length: usize) -> Vec<Frame> {
    (0..SENT).map(|seed| probe(IpVersion::V4, length, seed)).collect()
}

/// An IPv6 packet to the discard port behind extension headers: destination options, of eight bytes or a multiple of it
/// each, filled with PadN (RFC 8200 §4.2, §4.6).
fn behind_options(headers: usize, units: u8, length: usize, seed: usize) -> Frame {
    const DESTINATION: u8 = 60;
    let mut segment = Vec::new();
    for header in 1..=headers {
        segment.extend([if header == headers { UDP } else { DESTINATION }, units]);
        // PadN has 255 bytes behind its own two at most; of what is left, no single byte may stay (that would be Pad1).
        let mut left = 6 + usize::from(units) * 8;
        while left != 0 {
            let option = if left > 257 { 200 } else { left };
            segment.extend([1, option as u8 - 2]);
            segment.resize(segment.len() + option - 2, 0);
            left -= option;
        }
    }
    let udp = probe(IpVersion::V6, length, seed);
    segment.extend_from_slice(&udp.bytes()[14 + 40..]);
    craft::ip(&HOST_SOURCE, &GENERATOR, IpVersion::V6, DESTINATION, &segment)
}

fn skipped(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let stats = lab.stats()?;
    let skipped = stats["skipped"].as_object().context("skipped is an object")?;
    skipped.iter().map(|(reason, count)| Ok((reason.clone(), count.as_u64().context("a number")?))).collect()
}

/// Sends `frames` out of the source and asserts that they arrive, that `reason` counts one for each, and that no other
/// reason counts any.
#[track_caller]
fn each_is_counted(lab: &Lab, frames: &[Frame], reason: &str, when: &str) -> Result<Recording> {
    let here = std::panic::Location::caller();
    let before = skipped(lab)?;
    let recording = lab.record_at(&[GENERATOR], PORT, || lab.inject_all(HOST_SOURCE, frames))?;
    let arrived = recording.seen_at(GENERATOR).iter().filter(|seen| !seen.outgoing && frames.contains(&seen.frame));
    assert_eq!(arrived.count(), frames.len(), "{here}: {when}: every original should arrive");
    let mut expected = before;
    *expected.get_mut(reason).context("a reason")? += frames.len() as u64;
    assert_eq!(skipped(lab)?, expected, "{here}: {when}: {} packets under {reason}", frames.len());
    Ok(recording)
}

/// As [`each_is_counted`], and there is no copy.
#[track_caller]
fn each_is_lost(lab: &Lab, frames: &[Frame], reason: &str, when: &str) -> Result<()> {
    let recording = each_is_counted(lab, frames, reason, when)?;
    let is_of_these = |frame: &Frame| frames.iter().any(|sent| sent.bytes().starts_with(frame.bytes()));
    assert!(!recording.copies.iter().any(|copy| is_of_these(&copy.inner)), "{when}: no copy should come");
    recording.no_strays();
    Ok(())
}

/// Asserts that copies come, so that what goes wrong next is what was done in between.
#[track_caller]
fn copies_come(lab: &Lab, path: Path) -> Result<()> {
    let frames = probes(100);
    let recording = lab.record_at(&[HOST_SOURCE], PORT, || lab.inject_all(HOST_SOURCE, &frames))?;
    let copied = frames.iter().filter(|frame| recording.copies.iter().any(|copy| copy.inner == **frame)).count();
    assert_eq!(copied, SENT, "on the {path}, before anything is wrong");
    assert!(skipped(lab)?.values().all(|count| *count == 0), "on the {path}, before anything is wrong");
    Ok(())
}

/// A lab that mirrors to an address of the collector.
fn mirroring(path: Path, version: IpVersion, more: &str) -> Result<Lab> {
    let lab = lab()?;
    lab.mirrorctl(&format!("{ATTACH} --target {} {more} {}", COLLECTOR.address(version), path.flag()))?.ok();
    copies_come(&lab, path)?;
    Ok(lab)
}

#[test]
fn every_reason_is_provoked_here() -> Result<()> {
    let text = include_str!("skips.rs");
    let lab = lab()?;
    for reason in skipped(&lab)?.keys() {
        let is_provoked = text.contains(&format!("\"{reason}\""));
        assert!(is_provoked || reason == "send_failed", "{reason} should be provoked");
    }
    Ok(())
}

#[test]
fn a_tap_that_is_gone_counts_as_clone_failed() -> Result<()> {
    for path in BOTH_PATHS {
        let lab = mirroring(path, IpVersion::V4, "")?;
        lab.host.ip("link del mctap-default")?;
        each_is_lost(&lab, &probes(100), "clone_failed", &format!("on the {path}, the tap deleted"))?;
    }
    Ok(())
}

#[test]
fn a_tap_that_takes_nothing_counts_as_tap_full() -> Result<()> {
    // The transmit function of a pair drops what its other end can't take, for a full queue or because it is down, and
    // counts it at the sending end in both cases (`veth_xmit` in drivers/net/veth.c). A queue is filled by no test: it is
    // the machine's own (net.core.netdev_max_backlog), and other labs' links need it.
    let lab = mirroring(Path::Tap, IpVersion::V4, "")?;
    lab.host.ip("link set mcenc-default down")?;
    each_is_lost(&lab, &probes(100), "tap_full", "the tap's receiving end down")?;
    Ok(())
}

#[test]
fn a_tap_that_is_down_counts_once_for_each_packet_without_a_copy() -> Result<()> {
    for path in BOTH_PATHS {
        let lab = mirroring(path, IpVersion::V4, "")?;
        lab.host.ip("link set mctap-default down")?;
        let frames = probes(100);
        let before = skipped(&lab)?;
        let recording = lab.record_at(&[GENERATOR], PORT, || lab.inject_all(HOST_SOURCE, &frames))?;
        let arrived =
            recording.seen_at(GENERATOR).iter().filter(|seen| !seen.outgoing && frames.contains(&seen.frame)).count();
        assert_eq!(arrived, SENT, "on the {path}: every original should arrive");
        // The fast path needs no tap; it is in front of it.
        let copied = recording.copies.iter().filter(|copy| frames.contains(&copy.inner)).count();
        assert!(path == Path::Fast || copied == 0, "on the {path}: {copied} copies came over a tap that is down");
        // The kernel says it in two ways: no such queue, or a queue that drops everything, which the device counts.
        let after = skipped(&lab)?;
        let more: u64 = after.iter().map(|(reason, count)| count - before[reason]).sum();
        let counted = (after["clone_failed"] - before["clone_failed"]) + (after["tap_full"] - before["tap_full"]);
        let lost = (SENT - copied) as u64;
        assert_eq!((more, counted), (lost, lost), "on the {path}, the tap down, {copied} copies: {after:?}");
    }
    Ok(())
}

#[test]
fn a_session_that_the_tap_does_not_know_counts_as_session_gone() -> Result<()> {
    for path in BOTH_PATHS {
        let lab = mirroring(path, IpVersion::V4, "")?;
        let pins = lab.bpffs().context("the lab has a bpffs")?.join("mirrorctl/default");
        let version = std::fs::read_dir(&pins)?.next().context("pins of one version")??.path();
        let removed = bpf::clear(&bpf::open(&version.join("SESSIONS"))?)?;
        assert_eq!(removed, 1, "there is one session");
        each_is_lost(&lab, &probes(100), "session_gone", &format!("on the {path}"))?;
    }
    Ok(())
}

#[test]
fn headers_that_are_not_walked_to_their_end_are_counted_and_the_packet_is_mirrored() -> Result<()> {
    for path in BOTH_PATHS {
        let lab = lab()?;
        // Such a packet has no ports, and no protocol but that of the header where the walk ends.
        let (from, to) = (HOST_SOURCE.v6, GENERATOR.v6);
        lab.mirrorctl(&format!(
            "rule modify probes --direction egress --rule-number 2 --protocol 60 --source-cidr {from}/128 \
             --destination-cidr {to}/128"
        ))?
        .ok();
        lab.mirrorctl(&format!("{ATTACH} --target {} {}", COLLECTOR.v4, path.flag()))?.ok();
        let frames: Vec<Frame> = (0..SENT).map(|seed| behind_options(9, 0, 50, seed)).collect();
        let recording = each_is_counted(&lab, &frames, "extension_headers_too_deep", &format!("on the {path}"))?;
        for frame in &frames {
            let copies = recording.copies.iter().filter(|copy| copy.inner == *frame).count();
            assert_eq!(copies, 1, "on the {path}: {frame} should be mirrored");
        }
    }
    Ok(())
}

#[test]
fn five_vlan_tags_count_as_vlan_too_deep() -> Result<()> {
    for path in BOTH_PATHS {
        let lab = with_filter(Lab::new()?, "--mirror-non-ip")?;
        lab.mirrorctl(&format!("{ATTACH} --target {} {}", COLLECTOR.v4, path.flag()))?.ok();
        let tags = [1, 2, 3, 4, 5].map(|control| Tag { ethertype: VLAN, control });
        let frames: Vec<Frame> = probes(100).iter().map(|frame| craft::tagged(frame, &tags)).collect();
        each_is_lost(&lab, &frames, "vlan_too_deep", &format!("on the {path}"))?;
        // One less is not too many.
        let frame = craft::tagged(&probe(IpVersion::V4, 100, 0), &tags[1..]);
        let recording = lab.record_at(&[GENERATOR], PORT, || lab.inject(HOST_SOURCE, &frame))?;
        assert!(recording.copies.iter().any(|copy| copy.inner == frame), "on the {path}: four tags");
    }
    Ok(())
}

#[test]
fn a_cut_far_inside_of_the_headers_counts_as_cut_failed() -> Result<()> {
    for path in BOTH_PATHS {
        // A kernel cuts no packet in front of its transport header (`__bpf_skb_min_len`).
        let lab = mirroring(path, IpVersion::V4, "")?;
        for length in [100, 200] {
            lab.mirrorctl(&format!("session modify s0-1 --packet-length {length}"))?.ok();
            let frames: Vec<Frame> = (0..SENT).map(|seed| behind_options(1, 120, 50, seed)).collect();
            each_is_lost(&lab, &frames, "cut_failed", &format!("on the {path}, to {length} bytes"))?;
        }
    }
    Ok(())
}

#[test]
fn a_copy_that_the_kernel_can_not_lengthen_counts_as_encapsulate_failed() -> Result<()> {
    // The helpers make no packet of more than 16 KiB (`BPF_SKB_MAX_LEN`): there is no room for the tag to go back in.
    let lab = with_filter(Lab::options().source_mtu(20_000).uplink_mtu(20_000).start()?, "")?;
    lab.mirrorctl("attach s0 --filter probes --to-interface u0")?.ok();
    let tag = Tag { ethertype: VLAN, control: 5 };
    let frames: Vec<Frame> = probes(17_000).iter().map(|frame| craft::tagged(frame, &[tag])).collect();
    each_is_lost(&lab, &frames, "encapsulate_failed", "a long frame with a tag")
}

#[test]
fn a_frame_that_ends_in_its_tag_counts_as_vlan_cut_short() -> Result<()> {
    for path in BOTH_PATHS {
        let lab = with_filter(Lab::new()?, "--mirror-non-ip")?;
        lab.mirrorctl(&format!("{ATTACH} --target {} {}", COLLECTOR.v4, path.flag()))?.ok();
        let before = skipped(&lab)?["vlan_cut_short"];
        for (sent, length) in (1..).zip([14, 15, 18, 19]) {
            let frame =
                craft::tagged(&probe(IpVersion::V4, 100, 0), &[Tag { ethertype: VLAN, control: 5 }]).cut(length);
            lab.inject(HOST_SOURCE, &frame)?;
            lab.flush()?;
            assert_eq!(skipped(&lab)?["vlan_cut_short"], before + sent, "on the {path}, {length} bytes");
        }
        // Two bytes behind a tag are enough.
        let frame = craft::tagged(&probe(IpVersion::V4, 100, 0), &[Tag { ethertype: VLAN, control: 5 }]).cut(20);
        let recording = lab.record_at(&[GENERATOR], PORT, || lab.inject(HOST_SOURCE, &frame))?;
        assert!(recording.copies.iter().any(|copy| copy.inner == frame), "on the {path}: a whole tag");
    }
    Ok(())
}

#[test]
fn a_missing_route_counts_as_no_route() -> Result<()> {
    for path in BOTH_PATHS {
        for version in BOTH_VERSIONS {
            let lab = mirroring(path, version, "")?;
            let network = if version == IpVersion::V4 { "10.2.0.0/24" } else { "fd00:2::/64" };
            lab.change_way(&format!("route del {network} dev u0"))?;
            each_is_lost(&lab, &probes(100), "no_route", &format!("on the {path}, {version:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn routes_that_refuse_count_as_route_refused() -> Result<()> {
    for path in BOTH_PATHS {
        for version in BOTH_VERSIONS {
            let lab = mirroring(path, version, "")?;
            let target = COLLECTOR.address(version);
            for kind in ["blackhole", "unreachable", "prohibit"] {
                lab.change_way(&format!("route add {kind} {target}"))?;
                each_is_lost(&lab, &probes(100), "route_refused", &format!("on the {path}, {kind} {target}"))?;
                lab.change_way(&format!("route del {kind} {target}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_host_without_addresses_counts_as_no_source_address() -> Result<()> {
    for path in BOTH_PATHS {
        for version in BOTH_VERSIONS {
            let lab = mirroring(path, version, "")?;
            let target = COLLECTOR.address(version);
            let family = if version == IpVersion::V4 { "-4" } else { "-6" };
            for interface in ["u0", "s0", "lo"] {
                lab.change_way(&format!("{family} address flush dev {interface}"))?;
            }
            lab.change_way(&format!("route add {target} dev u0"))?;
            each_is_lost(&lab, &probes(100), "no_source_address", &format!("on the {path}, {version:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_path_without_room_for_a_byte_counts_as_mtu_too_small() -> Result<()> {
    for path in BOTH_PATHS {
        for (version, overhead) in [(IpVersion::V4, 36), (IpVersion::V6, 56)] {
            let lab = mirroring(path, version, "")?;
            let target = COLLECTOR.address(version);
            lab.change_way(&format!("route add {target} dev u0 mtu lock {overhead}"))?;
            each_is_lost(&lab, &probes(100), "mtu_too_small", &format!("on the {path}, {version:?}"))?;
            // One more is room enough.
            lab.change_way(&format!("route change {target} dev u0 mtu lock {}", overhead + 1))?;
            let frame = probe(IpVersion::V4, 100, 0);
            let recording = lab.record_at(&[GENERATOR], PORT, || lab.inject(HOST_SOURCE, &frame))?;
            let copy = recording.copies.iter().find(|copy| frame.bytes().starts_with(copy.inner.bytes()));
            assert_eq!(copy.map(|copy| copy.inner.0.len()), Some(1), "on the {path}, {version:?}");
        }
    }
    Ok(())
}

#[test]
fn a_host_without_listener_counts_as_nobody_listens() -> Result<()> {
    for path in BOTH_PATHS {
        for target in ["127.0.0.1", "fd00:1::2"] {
            let lab = lab()?;
            lab.mirrorctl(&format!("{ATTACH} --target {target} {}", path.flag()))?.ok();
            each_is_lost(&lab, &probes(100), "nobody_listens", &format!("on the {path}, to {target}"))?;
        }
    }
    Ok(())
}

#[test]
fn target_interfaces_that_are_down_or_gone_count() -> Result<()> {
    for path in BOTH_PATHS {
        let lab = lab()?;
        lab.host.ip("link add x0 type veth peer name x1")?;
        lab.host.ip("link set x1 up")?;
        lab.host.ip("link set x0 up")?;
        lab.mirrorctl(&format!("attach s0 --filter probes --to-interface x0 {}", path.flag()))?.ok();
        lab.host.ip("link set x0 down")?;
        each_is_lost(&lab, &probes(100), "target_interface_refused", &format!("on the {path}, x0 down"))?;
        lab.host.ip("link del x0")?;
        each_is_lost(&lab, &probes(100), "target_interface_gone", &format!("on the {path}, x0 deleted"))?;
    }
    Ok(())
}

//! Packet length: the first N bytes of a frame, shorter frames whole, nothing recomputed.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::Result;
use mirror_tests::wait::wait_until;
use mirror_tests::{BOTH_VERSIONS, COLLECTOR, GENERATOR, HOST_SOURCE, IpVersion, Lab, Turn, Wanted, hooks};
use mirror_tests::{craft, traffic};

#[test]
fn packet_length_100_copies_the_first_100_bytes() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        lab.mirrorctl(&format!("attach s0 --target {} --vni 42 --packet-length 100 --hook {hook}", COLLECTOR.v4))?.ok();
        let _turn = Turn::wait()?;
        let recording = lab.record(|| {
            for version in BOTH_VERSIONS {
                let (generator, host) = (lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version));
                for length in [1, 37, 38, 39, 57, 58, 59, 1000] {
                    traffic::exchange_udp(generator, host, length)?;
                    traffic::ping(generator, host.address, length)?;
                }
                traffic::exchange_tcp(generator, host, 500_000)?;
            }
            Ok(())
        })?;
        let (sent, received) = recording.super_packets();
        assert!(sent > 0 && received > 0, "the kernel should have handled super-packets: {sent} out, {received} in");
        recording.each_frame_has_one_copy(Wanted::vni(42).cut_to(100));
        assert!(recording.copies.iter().any(|copy| copy.inner.0.len() < 100), "short frames should come whole");
        assert!(recording.copies.iter().all(|copy| copy.inner.0.len() <= 100));
        recording.each_flow_has_one_source_port();
    }
    Ok(())
}

#[test]
fn odd_packet_lengths_cut_exactly() -> Result<()> {
    let lab = Lab::new()?;
    // Inside the MAC addresses, at the Ethernet header, inside and at the end of the IPv4 header, behind the UDP header.
    for packet_length in [1, 13, 14, 15, 33, 34, 42, 60, 128, 1513, 1514, 8500] {
        lab.mirrorctl(&format!("attach s0 --target {} --vni 42 --packet-length {packet_length}", COLLECTOR.v4))?.ok();
        let before = lab.stats()?;
        let recording = lab.record(|| {
            for version in BOTH_VERSIONS {
                let (generator, host) = (lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version));
                let largest = if version == IpVersion::V4 { 1472 } else { 1452 };
                traffic::exchange_udp(generator, host, 3)?;
                traffic::exchange_udp(generator, host, largest)?;
            }
            let tag = mirror_tests::frame::Tag { ethertype: mirror_tests::frame::VLAN, control: 3 };
            lab.inject(GENERATOR, &craft::tagged(&craft::udp_v4(70), &[tag]))
        })?;
        assert_eq!(recording.each_frame_has_one_copy(Wanted::vni(42).cut_to(packet_length)), 9);
        let cut = recording.traffic_at(HOST_SOURCE).iter().filter(|frame| frame.0.len() > packet_length).count();
        let after = lab.stats()?;
        let counted = |stats: &serde_json::Value| stats["sessions"][0]["truncated_to_length"].as_u64();
        let counted = counted(&after).zip(counted(&before)).map(|(after, before)| after - before);
        assert!(counted >= Some(cut as u64), "{cut} copies were cut to {packet_length}, {counted:?} were counted");
        lab.mirrorctl("detach s0")?.ok();
    }
    Ok(())
}

/// Loopback has an MTU of 65536: its frames are as long as any device takes, with no room for outer headers.
#[test]
fn the_longest_frames_there_are_are_cut_and_copied() -> Result<()> {
    for cut in ["--packet-length 200", ""] {
        let lab = Lab::new()?;
        lab.mirrorctl(&format!("attach lo --target {} {cut}", COLLECTOR.v4))?.ok();
        lab.namespace_of(HOST_SOURCE).enter(|| {
            for address in ["127.0.0.1", "::1"] {
                let (from, to) = (UdpSocket::bind((address, 0))?, UdpSocket::bind((address, 0))?);
                // What an IPv4 datagram, and a frame of loopback over IPv6, has room for.
                let longest = if address == "::1" { 65_487 } else { 65_507 };
                assert_eq!(from.send_to(&vec![7; longest], to.local_addr()?)?, longest);
                to.set_read_timeout(Some(Duration::from_secs(5)))?;
                assert_eq!(to.recv(&mut vec![0; 65_536])?, longest, "the original arrives");
            }
            Ok(())
        })?;
        // Two datagrams, each seen in both directions; they arrive before their copies have gone through the tap.
        wait_until(&format!("4 copies with {cut:?}"), || {
            let stats = lab.stats()?;
            let skipped: u64 = stats["skipped"].as_object().into_iter().flatten().filter_map(|(_, n)| n.as_u64()).sum();
            assert_eq!(skipped, 0, "nothing is skipped: {stats}");
            Ok(stats["sessions"][0]["packets"] == 4)
        })?;
    }
    Ok(())
}

//! Sources of the kinds that the kernel offers: each packet that passes one has one copy, by both paths.
//!
//! A veth device is the source of nearly every other test; devices without Ethernet header are in `raw_sources.rs`. A
//! virtio device there is only in the emulated machine (`cargo xtask vm`).

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result};
use mirror_tests::frame::Mac;
use mirror_tests::lab::Station;
use mirror_tests::namespace::Namespace;
use mirror_tests::traffic::{self, End};
use mirror_tests::tun::{Cable, HOST_TUN, Kind};
use mirror_tests::vxlan::PORT;
use mirror_tests::{BOTH_PATHS, BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, Lab, Recording, Wanted};

/// Bytes of a TCP stream each way: super-packets among them, and few enough to need no turn.
const STREAM: usize = 30_000;

/// Starts to mirror `interface` by each path in turn, and does `work` meanwhile.
fn by_both_paths(lab: &Lab, sources: &[(&str, Wanted)], mut work: impl FnMut() -> Result<()>) -> Result<()> {
    for (path, target) in BOTH_PATHS.into_iter().zip([COLLECTOR.v4.to_string(), COLLECTOR.v6.to_string()]) {
        for (interface, wanted) in sources {
            let cut = wanted.packet_length.map(|length| format!("--packet-length {length}")).unwrap_or_default();
            let attach = format!("attach {interface} --target {target} --vni {} {cut} {}", wanted.vni, path.flag());
            lab.mirrorctl(&attach)?.ok();
            println!("`mirrorctl {attach}`");
        }
        work()?;
        let stats = lab.stats()?;
        let skipped = stats["skipped"].as_object().context("stats have reasons")?;
        assert!(skipped.values().all(|count| count == 0), "nothing should be skipped: {stats}");
        lab.mirrorctl("detach --all")?.ok();
    }
    Ok(())
}

/// Something of everything between two, each the namespace and the addresses of one.
fn talk(client: (&Namespace, Station), server: (&Namespace, Station)) -> Result<()> {
    for version in BOTH_VERSIONS {
        let end = |(namespace, station): (_, Station)| End { namespace, address: station.address(version) };
        let (client, server) = (end(client), end(server));
        traffic::exchange_udp(client, server, 700)?;
        traffic::exchange_udp_segmented(client, server, 1000, 9)?;
        traffic::ping(client, server.address, 56)?;
        traffic::ping(server, client.address, 1000)?;
        traffic::exchange_tcp(client, server, STREAM)?;
    }
    Ok(())
}

#[track_caller]
fn passed_both_ways(recording: &Recording, station: Station) {
    for outgoing in [true, false] {
        let (frames, _) = recording.passed(station, outgoing);
        assert!(frames > 40, "{frames} frames passed {}, outgoing: {outgoing}", station.interface);
    }
}

#[test]
fn frames_of_a_tap_device_are_copied() -> Result<()> {
    for offloads in [false, true] {
        let lab = Lab::new()?;
        let cable = Cable::lay_of(Kind::Tap, &lab, offloads)?;
        by_both_paths(&lab, &[(HOST_TUN, Wanted::vni(42))], || {
            let mut carried = Vec::new();
            let recording = lab.record_at(&[], PORT, || {
                carried = cable.carry(|| {
                    for version in BOTH_VERSIONS {
                        let host = End { namespace: &lab.host, address: Cable::host_address(version) };
                        let generator = End { namespace: &lab.generator, address: Cable::generator_address(version) };
                        traffic::exchange_udp(generator, host, 700)?;
                        traffic::ping(host, generator.address, 1000)?;
                        traffic::exchange_tcp(generator, host, STREAM)?;
                    }
                    Ok(())
                })?;
                Ok(())
            })?;
            let super_packets = carried.iter().filter(|carried| carried.part_of > 1).count();
            assert_eq!(super_packets > 0, offloads, "{super_packets} parts of super-packets");
            // Housekeeping passes at times of its own choosing.
            let frames: Vec<Frame> = carried.into_iter().map(|carried| carried.frame).collect();
            let (frames, housekeeping): (Vec<Frame>, Vec<Frame>) =
                frames.into_iter().partition(|frame| frame.is_ip() && !frame.is_housekeeping());
            let mut traffic = recording;
            traffic.copies.retain(|copy| !housekeeping.contains(&copy.inner));
            assert!(traffic.each_has_one_copy(&frames, Wanted::vni(42)) > 80);
            traffic.checksums_are_right();
            Ok(())
        })?;
    }
    Ok(())
}

/// A link of its own, so that the lab's markers have theirs: a bridge takes all frames of its ports for itself.
const PORT_1: Station = Station {
    interface: "p0",
    mac: Mac([0x02, 0, 0, 0, 9, 2]),
    v4: Ipv4Addr::new(10, 9, 0, 2),
    v6: Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2),
};
/// The generator's end of it.
const PEER: Station = Station {
    interface: "p1",
    mac: Mac([0x02, 0, 0, 0, 9, 1]),
    v4: Ipv4Addr::new(10, 9, 0, 1),
    v6: Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1),
};
/// The bridge itself, or who is beyond it.
const BEYOND: Station = Station {
    interface: "br0",
    mac: Mac([0x02, 0, 0, 0, 9, 3]),
    v4: Ipv4Addr::new(10, 9, 0, 3),
    v6: Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 3),
};

/// A lab whose host has a bridge, with a port that leads to the generator.
fn lab_with_bridge() -> Result<Lab> {
    let lab = Lab::new()?;
    quiet(&lab.host)?;
    quiet(&lab.generator)?;
    let generator = lab.generator.name();
    lab.host.ip_batch(&format!(
        "link add br0 address {} type bridge mcast_snooping 0 forward_delay 0 stp_state 0\n\
         link add p0 address {} type veth peer name p1 address {} netns {generator}\n\
         link set p0 master br0\nlink set br0 up\nlink set p0 up\n",
        BEYOND.mac, PORT_1.mac, PEER.mac
    ))?;
    bring_up(&lab.generator, "p1", PEER)?;
    Ok(lab)
}

/// Devices to come get no link-local address: nobody speaks unasked.
fn quiet(namespace: &Namespace) -> Result<()> {
    namespace.set_sysctl("ipv6/conf/default/addr_gen_mode", "1")
}

fn bring_up(namespace: &Namespace, interface: &str, Station { v4, v6, .. }: Station) -> Result<()> {
    namespace.ip_batch(&format!(
        "link set {interface} up\naddress add {v4}/24 dev {interface}\naddress add {v6}/64 dev {interface} nodad\n"
    ))
}

#[test]
fn frames_of_a_bridge_and_of_its_port_are_copied() -> Result<()> {
    let lab = lab_with_bridge()?;
    bring_up(&lab.host, "br0", BEYOND)?;
    by_both_paths(&lab, &[("br0", Wanted::vni(1)), ("p0", Wanted::vni(2).cut_to(120))], || {
        let recording = lab.record_at(&[BEYOND, PORT_1], PORT, || talk((&lab.generator, PEER), (&lab.host, BEYOND)))?;
        passed_both_ways(&recording, BEYOND);
        recording.each_frame_at_has_one_copy(BEYOND, Wanted::vni(1));
        recording.each_frame_at_has_one_copy(PORT_1, Wanted::vni(2).cut_to(120));
        Ok(())
    })
}

#[test]
fn frames_that_a_bridge_forwards_are_copied() -> Result<()> {
    const PORT_2: Station = Station { interface: "q0", ..PORT_1 };
    let lab = lab_with_bridge()?;
    quiet(&lab.collector)?;
    // In the collector's namespace: any but the generator's.
    let collector = lab.collector.name();
    lab.host.ip_batch(&format!(
        "link add q0 type veth peer name q1 address {} netns {collector}\nlink set q0 master br0\nlink set q0 up\n",
        BEYOND.mac
    ))?;
    // The bridge has that address only as long as nobody else is to have it.
    lab.host.ip_batch("link set br0 address 02:00:00:00:09:09\n")?;
    bring_up(&lab.collector, "q1", BEYOND)?;
    by_both_paths(&lab, &[("p0", Wanted::vni(1)), ("q0", Wanted::vni(2))], || {
        let recording =
            lab.record_at(&[PORT_1, PORT_2], PORT, || talk((&lab.generator, PEER), (&lab.collector, BEYOND)))?;
        passed_both_ways(&recording, PORT_2);
        recording.each_frame_at_has_one_copy(PORT_1, Wanted::vni(1));
        recording.each_frame_at_has_one_copy(PORT_2, Wanted::vni(2));
        Ok(())
    })
}

#[test]
fn frames_of_a_macvlan_device_and_of_the_one_below_are_copied() -> Result<()> {
    const UPPER: Station = Station {
        interface: "mv0",
        mac: Mac([0x02, 0, 0, 0, 1, 9]),
        v4: Ipv4Addr::new(10, 1, 0, 9),
        v6: Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 9),
    };
    let lab = Lab::new()?;
    quiet(&lab.host)?;
    // The addresses of s0 are in the same networks: what mv0 sends would leave by s0.
    lab.host.ip_batch(&format!(
        "address flush dev s0\nlink add mv0 link s0 address {} type macvlan mode bridge\n",
        UPPER.mac
    ))?;
    bring_up(&lab.host, "mv0", UPPER)?;
    by_both_paths(&lab, &[("mv0", Wanted::vni(1)), ("s0", Wanted::vni(2))], || {
        let recording =
            lab.record_at(&[UPPER, HOST_SOURCE], PORT, || talk((&lab.generator, GENERATOR), (&lab.host, UPPER)))?;
        passed_both_ways(&recording, UPPER);
        recording.each_frame_at_has_one_copy(UPPER, Wanted::vni(1));
        recording.each_frame_at_has_one_copy(HOST_SOURCE, Wanted::vni(2));
        Ok(())
    })
}

/// An intermediate functional block shows what is redirected to it on its way out, whichever way the packet goes.
#[test]
fn frames_redirected_to_an_ifb_device_are_copied() -> Result<()> {
    const BLOCK: Station = Station { interface: "ifb0", ..HOST_SOURCE };
    let lab = Lab::new()?;
    quiet(&lab.host)?;
    lab.host.ip_batch("link add ifb0 type ifb\nlink set ifb0 up\n")?;
    lab.host.tc("qdisc add dev s0 clsact")?;
    for direction in ["ingress", "egress"] {
        let all = "protocol all u32 match u32 0 0 action mirred egress redirect dev ifb0";
        lab.host.tc(&format!("filter add dev s0 {direction} {all}"))?;
    }
    by_both_paths(&lab, &[("ifb0", Wanted::vni(42))], || {
        let recording =
            lab.record_at(&[BLOCK], PORT, || talk((&lab.generator, GENERATOR), (&lab.host, HOST_SOURCE)))?;
        let (frames, _) = recording.passed(BLOCK, true);
        assert!(frames > 80, "{frames} frames passed ifb0");
        recording.each_frame_at_has_one_copy(BLOCK, Wanted::vni(42));
        Ok(())
    })
}

/// Each packet passes the loopback device on its way out and on its way in again: two copies.
#[test]
fn frames_of_the_loopback_device_are_copied_on_both_ways() -> Result<()> {
    const LOOPBACK: Station =
        Station { interface: "lo", mac: Mac([0; 6]), v4: Ipv4Addr::LOCALHOST, v6: Ipv6Addr::LOCALHOST };
    let lab = Lab::options().uplink_mtu(9000).start()?;
    let talk = || -> Result<()> {
        for version in BOTH_VERSIONS {
            let end = End { namespace: &lab.host, address: LOOPBACK.address(version) };
            for length in [1, 700, 8000] {
                traffic::exchange_udp(end, end, length)?;
            }
            traffic::exchange_udp_segmented(end, end, 1000, 9)?;
            traffic::ping(end, end.address, 56)?;
        }
        Ok(())
    };
    by_both_paths(&lab, &[("lo", Wanted::vni(1))], || {
        let recording = lab.record_at(&[LOOPBACK], PORT, talk)?;
        let frames = recording.each_frame_at_has_one_copy(LOOPBACK, Wanted::vni(1));
        // 6 datagrams, 2 of 10 parts, 2 pings, twice each, over IPv4 and over IPv6.
        assert_eq!(frames, 2 * 2 * (6 + 20 + 2));
        Ok(())
    })?;
    // Its frames have up to 64 KiB.
    by_both_paths(&lab, &[("lo", Wanted::vni(1).cut_to(200))], || {
        let recording = lab.record_at(&[LOOPBACK], PORT, || {
            for version in BOTH_VERSIONS {
                let end = End { namespace: &lab.host, address: LOOPBACK.address(version) };
                traffic::exchange_tcp(end, end, 200_000)?;
            }
            talk()
        })?;
        recording.each_frame_at_has_one_copy(LOOPBACK, Wanted::vni(1).cut_to(200));
        Ok(())
    })
}

//! The way to the target: next hops that nobody has asked for yet, gateways, path MTU, no route at all.

use anyhow::Result;
use mirror_tests::{BOTH_VERSIONS, COLLECTOR, GENERATOR, HOST_SOURCE, IpVersion, Lab, Turn, Wanted};
use mirror_tests::{craft, traffic};

#[test]
fn first_copies_wait_for_the_next_hop_to_be_resolved() -> Result<()> {
    for version in BOTH_VERSIONS {
        let lab = Lab::new()?;
        lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.address(version)))?.ok();
        let recording = lab.record(|| {
            lab.host.ip("neighbour flush dev u0")?;
            lab.inject_all(GENERATOR, &[craft::udp_v4(1), craft::udp_v4(2), craft::udp_v4(3)])
        })?;
        // Three datagrams and the host's "port unreachable" answers.
        assert!(recording.each_frame_has_one_copy(Wanted::vni(42)) > 3);
    }
    Ok(())
}

#[test]
fn copies_take_the_gateway_of_the_route() -> Result<()> {
    let lab = Lab::new()?;
    // The collector answers for its own interface only: who asks for 10.9.0.1 on the link itself learns nothing.
    lab.collector.set_sysctl("ipv4/conf/all/arp_ignore", "1")?;
    lab.collector.ip("address add 10.9.0.1/32 dev lo")?;
    lab.collector.ip("address add fd09::1/128 dev lo nodad")?;
    let by_v6 = format!("route add 10.9.0.0/24 via inet6 {}", COLLECTOR.v6);
    let cases = [
        (format!("route add 10.9.0.0/24 via {}", COLLECTOR.v4), "10.9.0.1", "10.9.0.0/24"),
        (format!("route add fd09::/64 via {}", COLLECTOR.v6), "fd09::1", "fd09::/64"),
        // RFC 5549: an IPv4 network behind an IPv6 next hop.
        (by_v6, "10.9.0.1", "10.9.0.0/24"),
    ];
    for (route, target, network) in cases {
        lab.host.ip(&route)?;
        lab.mirrorctl(&format!("attach s0 --target {target} --vni 42"))?.ok();
        let recording = lab.record(|| lab.small_talk())?;
        recording.each_frame_has_one_copy(Wanted::vni(42));
        assert!(recording.copies.iter().all(|copy| copy.destination.to_string() == target), "{route}");
        lab.mirrorctl("detach s0")?.ok();
        lab.host.ip(&format!("route del {network}"))?;
    }
    Ok(())
}

#[test]
fn a_copy_larger_than_the_path_mtu_is_cut_to_fit_and_counted() -> Result<()> {
    // An uplink like the source; outer IP, UDP and VXLAN headers take their share.
    for (version, overhead) in [(IpVersion::V4, 20 + 8 + 8), (IpVersion::V6, 40 + 8 + 8)] {
        let lab = Lab::options().uplink_mtu(1500).start()?;
        let target = COLLECTOR.address(version);
        lab.mirrorctl(&format!("attach s0 --target {target} --vni 42"))?.ok();
        let _turn = Turn::wait()?;
        let mut counted = 0;
        for mtu in [1500, 1400] {
            lab.change_way(&format!("link set u0 mtu {mtu}"))?;
            let room = mtu - overhead;
            let recording = lab.record(|| {
                for length in [100, room - 43, room - 42, room - 41, 1472] {
                    lab.inject(GENERATOR, &craft::udp_v4(length))?;
                }
                traffic::exchange_tcp(lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version), 300_000)
            })?;
            recording.each_frame_has_one_copy(Wanted::vni(42).cut_to(room));
            let traffic = recording.traffic_at(HOST_SOURCE);
            let cut = traffic.iter().filter(|frame| frame.0.len() > room).count() as u64;
            assert!(cut > 200, "the traffic should have held many frames that don't fit: {cut}");
            let stats = lab.stats()?;
            let total = stats["sessions"][0]["truncated_to_mtu"].as_u64().expect("stats count truncated_to_mtu");
            assert_eq!(total - counted, cut, "with MTU {mtu}, truncated_to_mtu should count every cut copy");
            assert_eq!(stats["sessions"][0]["truncated_to_length"], 0);
            counted = total;
        }
    }
    Ok(())
}

#[test]
fn without_a_route_packets_are_counted_and_copies_come_once_there_is_one() -> Result<()> {
    let lab = Lab::new()?;
    let attached = lab.mirrorctl("attach s0 --target 10.9.0.1 --vni 42")?;
    assert!(attached.succeeded(), "a target without route is worth a warning, not a refusal; {attached}");
    assert!(attached.stderr.contains("no route"), "the missing route should be told; {attached}");
    let recording = lab.record(|| lab.small_talk())?;
    recording.nothing_is_copied();
    let skipped = lab.stats()?["skipped"]["no_route"].as_u64();
    let traffic = recording.traffic_at(HOST_SOURCE).len() as u64;
    assert!(skipped >= Some(traffic), "{traffic} frames had no route, {skipped:?} were counted");

    lab.collector.ip("address add 10.9.0.1/32 dev lo")?;
    lab.host.ip(&format!("route add 10.9.0.0/24 via {}", COLLECTOR.v4))?;
    let recording = lab.record(|| lab.small_talk())?;
    recording.each_frame_has_one_copy(Wanted::vni(42));
    Ok(())
}

#[test]
fn a_route_that_refuses_is_counted() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    lab.change_way(&format!("route add blackhole {}/32", COLLECTOR.v4))?;
    let recording = lab.record(|| lab.small_talk())?;
    recording.nothing_is_copied();
    let skipped = lab.stats()?["skipped"]["route_refused"].as_u64();
    let traffic = recording.traffic_at(HOST_SOURCE).len() as u64;
    assert!(skipped >= Some(traffic), "{traffic} frames had a route that refuses, {skipped:?} were counted");
    Ok(())
}

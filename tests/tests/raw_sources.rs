//! Sources whose packets have no Ethernet header: the copy has one, with zero addresses and the right ethertype.

use std::thread;
use std::time::Instant;

use anyhow::Result;
use mirror_tests::tun::{Cable, Carried, HOST_TUN};
use mirror_tests::vxlan::PORT;
use mirror_tests::wait::wait_until;
use mirror_tests::{
    BOTH_PATHS, BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, Lab, Path, Recording, Turn, Wanted, hooks,
};
use mirror_tests::{craft, traffic};
use serde_json::Value;

/// What the cable carried while the collector was watched.
fn record(lab: &Lab, cable: &Cable, bytes: usize) -> Result<(Recording, Vec<Carried>)> {
    let mut carried = Vec::new();
    let recording = lab.record_at(&[], PORT, || {
        carried = cable.carry(|| {
            for version in BOTH_VERSIONS {
                let host = traffic::End { namespace: &lab.host, address: Cable::host_address(version) };
                let generator = traffic::End { namespace: &lab.generator, address: Cable::generator_address(version) };
                traffic::exchange_udp(generator, host, 700)?;
                traffic::ping(generator, host.address, 56)?;
                traffic::ping(host, generator.address, 1000)?;
                traffic::exchange_tcp(generator, host, bytes)?;
            }
            Ok(())
        })?;
        Ok(())
    })?;
    Ok((recording, carried))
}

fn frames(carried: &[Carried]) -> Vec<Frame> {
    carried.iter().map(|carried| carried.frame.clone()).collect()
}

#[test]
fn packets_of_a_tun_device_are_mirrored_behind_an_ethernet_header() -> Result<()> {
    for hook in hooks()? {
        for (offloads, path) in [(false, Path::Fast), (true, Path::Tap), (true, Path::Fast)] {
            let lab = Lab::new()?;
            let cable = Cable::lay(&lab, offloads)?;
            let before = lab.traces()?;
            let attach = format!("attach {HOST_TUN} --target {} --vni 42 --hook {hook} {}", COLLECTOR.v4, path.flag());
            lab.mirrorctl(&attach)?.ok();
            let _turn = Turn::wait()?;
            let (recording, carried) = record(&lab, &cable, 300_000)?;
            for outgoing in [false, true] {
                let super_packets = carried.iter().filter(|one| one.outgoing == outgoing && one.part_of > 1).count();
                assert_eq!(super_packets > 0, offloads, "offloads {offloads}: {super_packets} parts of super-packets");
            }
            let packets = recording.each_has_one_copy(&frames(&carried), Wanted::vni(42));
            assert!(packets > 400, "there should have been traffic: {packets} packets");
            recording.checksums_are_right();
            recording.each_flow_has_one_source_port();

            let stats = lab.stats()?;
            let sum = |outgoing: bool| {
                let way = carried.iter().filter(|carried| carried.outgoing == outgoing);
                // A source counts its packets as they are: without Ethernet header.
                way.fold((0, 0), |(packets, bytes), one| (packets + 1, bytes + one.frame.0.len() as u64 - 14))
            };
            for (direction, outgoing) in [("ingress", false), ("egress", true)] {
                let sources = stats["sources"].as_array().expect("stats have sources");
                let source = sources.iter().find(|source| source["direction"] == direction).expect("both directions");
                let counted = (source["packets"].as_u64(), source["bytes"].as_u64());
                let (packets, bytes) = sum(outgoing);
                assert_eq!(counted, (Some(packets), Some(bytes)), "{direction} of {HOST_TUN}");
            }
            assert_eq!(stats["sessions"][0]["packets"], packets as u64);
            let skipped = stats["skipped"].as_object().expect("an object");
            assert!(skipped.values().all(|count| count == 0), "{stats}");

            lab.mirrorctl(&format!("detach {HOST_TUN}"))?.ok();
            before.are_all_there_is(&lab.traces()?, &format!("after detach with hook {hook}"));
        }
    }
    Ok(())
}

#[test]
fn packets_of_a_tun_device_are_cut_behind_an_ethernet_header() -> Result<()> {
    let lab = Lab::new()?;
    let cable = Cable::lay(&lab, true)?;
    for packet_length in [13, 14, 34, 60, 100, 1500] {
        for path in BOTH_PATHS {
            let command = format!(
                "attach {HOST_TUN} --target {} --vni 42 --packet-length {packet_length} {}",
                COLLECTOR.address(BOTH_VERSIONS[packet_length % 2]),
                path.flag()
            );
            lab.mirrorctl(&command)?.ok();
            let _turn = Turn::wait()?;
            let (recording, carried) = record(&lab, &cable, 50_000)?;
            println!("{path}");
            recording.each_has_one_copy(&frames(&carried), Wanted::vni(42).cut_to(packet_length));
            lab.mirrorctl(&format!("detach {HOST_TUN}"))?.ok();
        }
    }
    Ok(())
}

#[test]
fn a_source_with_and_one_without_ethernet_header_work_side_by_side() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        let cable = Cable::lay(&lab, true)?;
        let before = lab.traces()?;
        lab.mirrorctl(&format!("attach s0 --target {} --vni 1 --hook {hook}", COLLECTOR.v4))?.ok();
        let with_one = lab.traces()?;
        lab.mirrorctl(&format!("attach {HOST_TUN} --target {} --vni 2 --hook {hook}", COLLECTOR.v6))?.ok();
        let (recording, carried) = record(&lab, &cable, 20_000)?;
        recording.each_has_one_copy(&frames(&carried), Wanted::vni(2));
        lab.record(|| lab.small_talk())?.each_frame_has_one_copy(Wanted::vni(1));
        lab.mirrorctl(&format!("detach {HOST_TUN}"))?.ok();
        assert_eq!(with_one.about("pins").matches("raw").count(), 0);
        lab.record(|| lab.small_talk())?.each_frame_has_one_copy(Wanted::vni(1));
        lab.mirrorctl("detach --all")?.ok();
        before.are_all_there_is(&lab.traces()?, "after `detach --all`");
    }
    Ok(())
}

#[test]
fn a_raw_device_that_somebody_deleted_is_named() -> Result<()> {
    let lab = Lab::new()?;
    let _cable = Cable::lay(&lab, false)?;
    let before = lab.traces()?;
    lab.mirrorctl(&format!("attach {HOST_TUN} --target {}", COLLECTOR.v4))?.ok();
    assert_eq!(lab.status()?["sources"][0]["state"], "attached");
    lab.host.ip("link del mcraw-default")?;
    assert_eq!(lab.status()?["sources"][0]["state"], "tap gone");
    lab.mirrorctl(&format!("attach s0 --target {}", COLLECTOR.v4))?.fails(4, &["tap", "detach --all"]);
    lab.mirrorctl("detach --all")?.ok();
    before.are_all_there_is(&lab.traces()?, "after `detach --all`");
    Ok(())
}

#[test]
fn a_killed_attach_of_a_tun_device_leaves_what_can_be_cleaned_up() -> Result<()> {
    const MOMENTS: u32 = 8;
    for hook in hooks()? {
        let lab = Lab::new()?;
        let cable = Cable::lay(&lab, false)?;
        let before = lab.traces()?;
        let attach = format!("attach {HOST_TUN} --target {} --vni 42 --hook {hook}", COLLECTOR.v4);
        let start = Instant::now();
        lab.mirrorctl(&attach)?.ok();
        let attach_time = start.elapsed();
        lab.mirrorctl(&format!("detach {HOST_TUN}"))?.ok();
        for moment in 0..MOMENTS {
            let running = lab.start_mirrorctl(&lab.host, &attach)?;
            // The delay is what is tried out, not a wait for anything.
            thread::sleep(attach_time * moment / MOMENTS);
            let output = running.kill()?;
            assert!(output.was_killed() || output.succeeded(), "{output}");
            let again = lab.mirrorctl(&attach)?;
            // It had finished before it was killed.
            if !again.succeeded() {
                again.fails(4, &[HOST_TUN]);
            }
            let (recording, carried) = record(&lab, &cable, 2_000)?;
            recording.each_has_one_copy(&frames(&carried), Wanted::vni(42));
            lab.mirrorctl("detach --all")?.ok();
            before.are_all_there_is(&lab.traces()?, &format!("after attach was killed at moment {moment}"));
        }
    }
    Ok(())
}

#[test]
fn rules_explain_and_trace_see_the_packets_of_a_tun_device() -> Result<()> {
    let lab = Lab::new()?;
    let cable = Cable::lay(&lab, false)?;
    for command in [
        format!("target create zeek --address {}", COLLECTOR.v4),
        "filter create web".into(),
        "rule add web --direction ingress --rule-number 7 --action accept --protocol udp --source-cidr 10.1.0.0/24 \
         --destination-cidr 10.1.0.2/32 --destination-port-range 9-9"
            .into(),
        "rule add web --direction ingress --rule-number 8 --action accept --protocol udp --source-cidr fd00:1::/64 \
         --destination-cidr fd00:1::2/128 --destination-port-range 9-9"
            .into(),
        format!(
            "session create one --source {HOST_TUN} --target zeek --filter web --session-number 1 --vni 42 \
             --packet-length 1500"
        ),
    ] {
        lab.mirrorctl(&command)?.ok();
    }
    // Addresses of the lab: what the tun device is given need not be its own.
    let packet = |version, port| craft::udp(&GENERATOR, &HOST_SOURCE, version, (1111, port), &craft::content(1, 300));
    let tracing = lab.start_mirrorctl(&lab.host, &format!("trace {HOST_TUN} --direction ingress -c 4 --json"))?;
    if hooks()?.contains(&"tcx") {
        wait_until("trace is attached", || Ok(lab.tcx_programs(HOST_TUN)?.0 == 2))?;
    } else {
        let attached =
            || Ok(lab.host.tc(&format!("filter show dev {HOST_TUN} ingress"))?.matches("handle").count() == 2);
        wait_until("trace is attached", attached)?;
    }
    let recording = lab.record_at(&[], PORT, || {
        for port in [9, 10] {
            for version in BOTH_VERSIONS {
                cable.inject(&packet(version, port).bytes()[14..])?;
            }
        }
        Ok(())
    })?;
    // Of the source there is only what follows the Ethernet header.
    let without_addresses = |frame: Frame| Frame([&[0; 12], &frame.bytes()[12..]].concat());
    let wanted = BOTH_VERSIONS.map(|version| without_addresses(packet(version, 9)));
    assert_eq!(recording.each_has_one_copy(&wanted, Wanted::vni(42)), 2);

    let expected = [Some(7), Some(8), None, None];
    let traced: Value = serde_json::from_str(&tracing.output()?.stdout)?;
    let verdicts = traced.as_array().expect("trace prints an array");
    assert_eq!(verdicts.len(), expected.len(), "{traced}");
    for (verdict, (rule, address)) in
        verdicts.iter().zip(expected.into_iter().zip(["10.1.0.1", "fd00:1::1"].iter().cycle()))
    {
        assert_eq!(verdict["rule_number"].as_u64(), rule, "{verdict}");
        assert!(verdict["summary"].to_string().contains(address), "{verdict}");
    }
    // Questions have an Ethernet header.
    for (version, port, rule) in
        [(BOTH_VERSIONS[0], 9, Some(7)), (BOTH_VERSIONS[1], 9, Some(8)), (BOTH_VERSIONS[1], 10, None)]
    {
        let hex: String = packet(version, port).bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        let verdict =
            lab.mirrorctl(&format!("explain --source {HOST_TUN} --direction ingress --json --packet {hex}"))?.json();
        assert_eq!(verdict["rule_number"].as_u64(), rule, "{verdict}");
    }
    Ok(())
}

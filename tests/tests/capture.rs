//! `mirrorctl capture` at the end of the path: what `attach` sends, it shows.

use std::sync::{Arc, Mutex};

use anyhow::{Result, ensure};
use mirror_tests::wait::wait_until;
use mirror_tests::{BOTH_VERSIONS, COLLECTOR, GENERATOR, HOST_SOURCE, IpVersion, Lab};
use mirror_tests::{traffic, vxlan};

#[test]
fn capture_shows_each_copy_with_its_vni_over_both_families() -> Result<()> {
    let lab = Lab::new()?;
    for version in BOTH_VERSIONS {
        lab.mirrorctl(&format!("attach s0 --target {} --vni 4242", COLLECTOR.address(version)))?.ok();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let shown = Arc::clone(&lines);
        let mut capture = lab.start_mirrorctl_live(&lab.collector, "capture --vni 4242", move |line| {
            shown.lock().unwrap().push(line.to_owned());
        })?;
        wait_until("capture listens", || {
            ensure!(!capture.has_ended()?, "capture ended before it listened");
            lab.listens_at_udp(&lab.collector, vxlan::PORT)
        })?;
        let (generator, host) = (lab.end(GENERATOR, IpVersion::V4), lab.end(HOST_SOURCE, IpVersion::V4));
        traffic::ping(generator, host.address, 56)?;
        traffic::exchange_udp(generator, host, 1000)?;
        let of_traffic = || -> Vec<String> {
            let lines = lines.lock().unwrap();
            lines.iter().filter(|line| line.contains("10.1.0.1") && line.contains("10.1.0.2")).cloned().collect()
        };
        wait_until("capture shows four copies", || Ok(of_traffic().len() >= 4))?;
        lab.flush()?;
        capture.interrupt()?;
        let output = capture.output()?;
        assert!(output.succeeded(), "Ctrl-C is how a capture ends; {output}");
        let lines = of_traffic();
        assert_eq!(lines.len(), 4, "an echo, its reply, a datagram each way: {lines:#?}");
        assert!(lines.iter().all(|line| line.contains("4242")), "each line should tell the VNI: {lines:#?}");
        lab.mirrorctl("detach s0")?.ok();
    }
    Ok(())
}

#[test]
fn capture_leaves_out_other_vnis_and_stops_at_the_count() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 1", COLLECTOR.v4))?.ok();
    lab.mirrorctl(&format!("attach s0 --target {} --vni 2 --instance b", COLLECTOR.v4))?.ok();
    let mut capture = lab.start_mirrorctl(&lab.collector, "capture --vni 2 --count 2")?;
    wait_until("capture listens", || {
        ensure!(!capture.has_ended()?, "capture ended before it listened");
        lab.listens_at_udp(&lab.collector, vxlan::PORT)
    })?;
    for _ in 0..3 {
        traffic::exchange_udp(lab.end(GENERATOR, IpVersion::V4), lab.end(HOST_SOURCE, IpVersion::V4), 100)?;
    }
    let output = capture.output()?;
    assert!(output.succeeded(), "{output}");
    assert_eq!(output.stdout.lines().count(), 2, "{output}");
    assert!(output.stdout.lines().all(|line| line.contains("vni 2 ")), "{output}");
    Ok(())
}

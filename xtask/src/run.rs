//! The lab of `cargo xtask run`: three namespaces, real traffic, copies printed as they arrive.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use mirror_tests::{COLLECTOR, GENERATOR, HOST_SOURCE, HOST_UPLINK, IpVersion, Lab, interrupt, traffic, vxlan};

/// Bytes that the TCP connections of the demonstration carry each way.
const TCP_BYTES: usize = 4000;

/// Runs the main job in a throwaway lab with the `mirrorctl` binary at `mirrorctl`.
pub fn lab(mirrorctl: &Path) -> Result<()> {
    interrupt::remove_labs_on_signal()?;
    let lab = Lab::options().mirrorctl(mirrorctl).start().context("build the lab")?;
    println!("{}", diagram());

    let untouched = lab.traces()?;
    let target = COLLECTOR.v4;
    on_host(&lab, &format!("attach s0 --target {target} --vni 42"))?;

    println!("collector$ mirrorctl capture --vni 42");
    let printed = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&printed);
    let mut capture = lab.start_mirrorctl_live(&lab.collector, "capture --vni 42", move |line| {
        println!("{line}");
        counter.fetch_add(1, Ordering::Release);
    })?;
    mirror_tests::wait::wait_until("mirrorctl capture listens", || {
        ensure!(!capture.has_ended()?, "mirrorctl capture ended before it listened");
        lab.listens_at_udp(&lab.collector, vxlan::PORT)
    })?;
    let mirrored = || -> Result<u64> {
        lab.stats()?["sessions"][0]["packets"].as_u64().context("read the session's counter of packets")
    };
    // The stack's own packets (multicast listener reports) may have been mirrored before anybody listened.
    let unheard = mirrored()?;
    for version in [IpVersion::V4, IpVersion::V6] {
        let (generator, host) = (lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version));
        traffic::ping(generator, host.address, 56)?;
        traffic::exchange_udp(generator, host, 200)?;
        traffic::exchange_tcp(generator, host, TCP_BYTES)?;
    }
    mirror_tests::wait::wait_until("every copy is printed", || {
        Ok(printed.load(Ordering::Acquire) >= mirrored()? - unheard)
    })?;
    capture.interrupt()?;
    let capture = capture.output()?;
    ensure!(capture.succeeded(), "mirrorctl capture failed: {capture}");
    println!("{}", capture.stderr);

    on_host(&lab, "stats")?;
    on_host(&lab, "status")?;
    on_host(&lab, "detach s0")?;
    ensure!(lab.traces()? == untouched, "detach left something behind");
    drop(lab);
    println!("The lab is gone: no namespace, no link, nothing in bpffs.");
    Ok(())
}

/// Runs `mirrorctl` on the lab's host and shows it as a terminal would.
fn on_host(lab: &Lab, arguments: &str) -> Result<()> {
    println!("host$ mirrorctl {arguments}");
    let output = lab.mirrorctl(arguments)?;
    ensure!(output.succeeded(), "mirrorctl {arguments}: {output}");
    println!("{}", output.stdout.trim_end());
    if !output.stderr.is_empty() {
        println!("{}", output.stderr.trim_end());
    }
    println!();
    Ok(())
}

fn diagram() -> String {
    let names = [GENERATOR, HOST_SOURCE, HOST_UPLINK, COLLECTOR];
    let [g, s, u, c] = names.map(|station| station.v4.to_string());
    format!(
        "\
Three network namespaces on this machine, removed at the end:

  generator                      host                      collector
      g0 ------------------- s0        u0 ------------------- c0
  {g:<18}{s:>12}  {u:<10}{c:>20}
             source: mirrored          uplink: copies, VXLAN
"
    )
}

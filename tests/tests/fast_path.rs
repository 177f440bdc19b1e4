//! The fast path: which copies take it, that nothing else about them is different, and that it follows what changes.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use mirror_tests::lab::Station;
use mirror_tests::{
    BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, HOST_UPLINK, IpVersion, Lab, Turn, Wanted, hooks,
};
use mirror_tests::{craft, traffic};

/// How long after a change of routes or neighbours the old way may still be taken.
const ROUTES_ARE_FOLLOWED: Duration = Duration::from_millis(100);

/// Copies of the first session, and those of them that took the fast path.
fn counted(lab: &Lab) -> Result<(u64, u64)> {
    let stats = lab.stats()?;
    let session = &stats["sessions"][0];
    let (all, fast) = (session["packets"].as_u64(), session["fast_path"].as_u64());
    Ok((all.context("stats count packets")?, fast.context("stats count fast_path")?))
}

/// Does `work` until nearly all copies that it makes take the fast path: now and then one has to ask the neighbour, and on
/// a busy machine that is often. Returns what was counted at the last try.
fn until_fast(lab: &Lab, mut work: impl FnMut() -> Result<()>) -> Result<(u64, u64)> {
    const TRIES: usize = 10;
    let mut last = (0, 0);
    for _ in 0..TRIES {
        lab.flush()?;
        let before = counted(lab)?;
        work()?;
        lab.flush()?;
        let after = counted(lab)?;
        last = (after.0 - before.0, after.1 - before.1);
        if last.0 > 0 && last.1 * 10 >= last.0 * 9 {
            break;
        }
    }
    Ok(last)
}

/// Datagrams of several flows, into the host and out of it.
fn datagrams(version: IpVersion) -> Vec<(Station, Frame)> {
    let mut frames = Vec::new();
    for flow in 0..20 {
        for (from, to) in [(GENERATOR, HOST_SOURCE), (HOST_SOURCE, GENERATOR)] {
            let length = 10 + 70 * usize::from(flow);
            frames.push((from, craft::udp(&from, &to, version, (4000 + flow, 9), &craft::content(7, length))));
        }
    }
    frames
}

#[test]
fn ordinary_packets_pass_by_the_tap() -> Result<()> {
    for hook in hooks()? {
        for version in BOTH_VERSIONS {
            for length in [None, Some(100), Some(1000)] {
                let lab = Lab::new()?;
                let cut = length.map_or_else(String::new, |length| format!("--packet-length {length}"));
                let target = COLLECTOR.address(version);
                lab.mirrorctl(&format!("attach s0 --target {target} --vni 42 {cut} --hook {hook}"))?.ok();
                for inner in BOTH_VERSIONS {
                    let (all, fast) = until_fast(&lab, || {
                        let recording = lab.record(|| {
                            datagrams(inner).iter().try_for_each(|(from, frame)| lab.inject(*from, frame))
                        })?;
                        let wanted = length.map_or(Wanted::vni(42), |length| Wanted::vni(42).cut_to(length));
                        recording.each_frame_has_one_copy(wanted);
                        Ok(())
                    })?;
                    assert!(
                        fast * 10 >= all * 9,
                        "{inner:?} to a target of {version:?}, {cut}: of {all} copies {fast} took the fast path"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn without_it_every_copy_takes_the_tap() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42 --no-fast-path", COLLECTOR.v4))?.ok();
    lab.record(|| lab.small_talk())?.each_frame_has_one_copy(Wanted::vni(42));
    let (all, fast) = counted(&lab)?;
    assert!(all > 20 && fast == 0, "of {all} copies {fast} took the fast path");
    Ok(())
}

#[test]
fn super_packets_of_the_host_go_whole_unless_they_are_cut() -> Result<()> {
    for version in BOTH_VERSIONS {
        for (cut, is_fast) in [("", true), ("--packet-length 1514", true), ("--packet-length 1000", false)] {
            let lab = Lab::new()?;
            let _turn = Turn::wait()?;
            lab.mirrorctl(&format!("attach s0 --target {} --vni 42 {cut}", COLLECTOR.address(version)))?.ok();
            let (host, generator) = (lab.end(HOST_SOURCE, version), lab.end(GENERATOR, version));
            let before = counted(&lab)?;
            let recording = lab.record(|| traffic::send_tcp(host, generator, 2_000_000))?;
            let after = counted(&lab)?;
            let (sent, _) = recording.super_packets();
            assert!(sent > 10, "the host should have sent super-packets: {sent}");
            let wanted = Wanted::vni(42);
            recording.each_frame_has_one_copy(if is_fast { wanted } else { wanted.cut_to(1000) });
            let (all, fast) = (after.0 - before.0, after.1 - before.1);
            let right = if is_fast { fast * 2 > all } else { fast * 2 < all };
            assert!(right, "{version:?} {cut}: of {all} copies {fast} took the fast path");
        }
    }
    Ok(())
}

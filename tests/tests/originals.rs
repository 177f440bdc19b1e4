//! The original packet is never changed, held up or lost, whatever happens to its copy.

use anyhow::Result;
use mirror_tests::{BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, Lab, Turn, hooks, vxlan};
use mirror_tests::{craft, traffic};

/// Frames that passed one end of the source's link and frames that passed the other are the same.
#[track_caller]
fn both_ends_saw_the_same(recording: &mirror_tests::Recording) {
    for outgoing in [true, false] {
        let frames = |station, outgoing| -> Vec<Frame> {
            let seen = recording.seen_at(station).iter().filter(|seen| seen.outgoing == outgoing);
            let mut frames: Vec<Frame> = seen.map(|seen| seen.frame.clone()).filter(|f| !f.is_housekeeping()).collect();
            frames.sort();
            frames
        };
        let (sent, received) = (frames(HOST_SOURCE, outgoing), frames(GENERATOR, !outgoing));
        assert!(sent == received, "{} frames on the host's end, {} on the peer's", sent.len(), received.len());
    }
}

#[test]
fn frames_reach_the_peer_as_they_were_sent() -> Result<()> {
    let lab = Lab::new()?;
    let mut frames = vec![craft::tcp_v4(0, 0x10), craft::echo_reply_v4(0)];
    for version in BOTH_VERSIONS {
        for length in [0, 1, 17, 18, 100, 1000, 1452] {
            frames.push(craft::udp(&HOST_SOURCE, &GENERATOR, version, (4000, 9), &craft::content(6, length)));
        }
    }
    let deliver = || -> Result<Vec<Frame>> {
        let recording = lab.record_at(&[GENERATOR], vxlan::PORT, || lab.inject_all(HOST_SOURCE, &frames))?;
        let received = recording.seen_at(GENERATOR).iter().filter(|seen| !seen.outgoing);
        Ok(received.map(|seen| seen.frame.clone()).filter(|frame| frames.contains(frame)).collect())
    };
    assert_eq!(deliver()?, frames, "without mirroring");
    // A session that cuts, one that doesn't, one whose copies all get lost.
    for session in [format!("{} --packet-length 20", COLLECTOR.v4), COLLECTOR.v6.to_string(), "10.9.9.9".into()] {
        for hook in hooks()? {
            let attached = lab.mirrorctl(&format!("attach s0 --target {session} --hook {hook}"))?;
            assert!(attached.succeeded(), "{attached}");
            assert_eq!(deliver()?, frames, "mirrored to {session} by {hook}");
            lab.mirrorctl("detach s0")?.ok();
        }
    }
    Ok(())
}

#[test]
fn bulk_traffic_is_the_same_at_both_ends_while_it_is_mirrored() -> Result<()> {
    let lab = Lab::new()?;
    let _turn = Turn::wait()?;
    for session in ["--packet-length 64", ""] {
        lab.mirrorctl(&format!("attach s0 --target {} {session}", COLLECTOR.v4))?.ok();
        let recording = lab.record_at(&[HOST_SOURCE, GENERATOR], vxlan::PORT, || {
            for version in BOTH_VERSIONS {
                // The content is verified at both ends.
                traffic::exchange_tcp(lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version), 1_000_000)?;
            }
            lab.small_talk()
        })?;
        both_ends_saw_the_same(&recording);
        lab.mirrorctl("detach s0")?.ok();
    }
    Ok(())
}

#[test]
fn traffic_goes_on_when_the_uplink_is_down() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {}", COLLECTOR.v4))?.ok();
    lab.host.ip("link set u0 down")?;
    lab.small_talk()?;
    lab.host.ip("link set u0 up")?;
    lab.small_talk()
}

//! `status` and `stats`: words for people, JSON for programs, figures that add up.

use anyhow::Result;
use mirror_tests::traffic;
use mirror_tests::{BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, Lab, Turn, Wanted, hooks};
use serde_json::{Value, json};

#[test]
fn nothing_attached_is_no_error() -> Result<()> {
    let lab = Lab::new()?;
    let status = lab.status()?;
    assert_eq!(status["sources"], json!([]));
    let stats = lab.stats()?;
    assert_eq!((&stats["sources"], &stats["sessions"], &stats["rules"]), (&json!([]), &json!([]), &json!([])));
    assert!(lab.mirrorctl("status")?.ok().contains("nothing is attached"));
    lab.mirrorctl("stats")?.ok();
    Ok(())
}

#[test]
fn status_tells_what_is_attached_by_which_hook() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        lab.mirrorctl(&format!(
            "attach s0 --target [{}]:4790 --vni 42 --packet-length 128 --session-number 17 --hook {hook}",
            COLLECTOR.v6
        ))?
        .ok();
        let status = lab.status()?;
        let source = &status["sources"][0];
        assert_eq!(source["interface"], "s0", "{status}");
        assert_eq!(source["hook"], hook, "{status}");
        let session = &source["sessions"][0];
        assert_eq!(session["session_number"], 17, "{status}");
        assert_eq!(session["target"], format!("[{}]:4790", COLLECTOR.v6), "{status}");
        assert_eq!(session["vni"], 42, "{status}");
        assert_eq!(session["packet_length"], 128, "{status}");
        let words = lab.mirrorctl("status")?.ok();
        for word in ["s0", hook, "17", &format!("[{}]:4790", COLLECTOR.v6), "42", "128"] {
            assert!(words.contains(word), "status should say {word}: {words}");
        }
    }
    Ok(())
}

#[test]
fn status_and_stats_keep_to_their_instance() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --instance a", COLLECTOR.v4))?.ok();
    assert_eq!(lab.status()?["sources"], json!([]));
    assert_eq!(lab.stats()?["sources"], json!([]));
    let status = lab.mirrorctl("--instance a status --json")?.json();
    assert_eq!(status["sources"][0]["interface"], "s0", "{status}");
    Ok(())
}

#[test]
fn stats_count_what_was_seen_and_what_was_sent() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        let _turn = Turn::wait()?;
        let mut stats = Value::Null;
        let recording = lab.record(|| {
            lab.mirrorctl(&format!("attach s0 --target {} --vni 42 --hook {hook}", COLLECTOR.v4))?.ok();
            for version in BOTH_VERSIONS {
                traffic::exchange_tcp(lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version), 400_000)?;
            }
            lab.small_talk()?;
            lab.flush()?;
            stats = lab.stats()?;
            Ok(())
        })?;
        recording.each_frame_has_one_copy(Wanted::vni(42));
        let figures = |of: &Value| {
            let figure = |name: &str| of[name].as_u64().unwrap_or_else(|| panic!("no figure {name} in {of}"));
            (figure("packets"), figure("bytes"))
        };
        let sum = |frames: &[&Frame]| (frames.len() as u64, frames.iter().map(|frame| frame.0.len() as u64).sum());

        // What the hosts say on their own account between the counting and the end of the recording is in one only.
        let session = &stats["sessions"][0];
        let copied: Vec<&Frame> = recording.copies.iter().map(|copy| &copy.inner).collect();
        let traffic: Vec<&Frame> = copied.iter().copied().filter(|frame| !frame.is_housekeeping()).collect();
        assert_between(sum(&traffic), figures(session), sum(&copied), session);
        assert_eq!((&session["truncated_to_length"], &session["truncated_to_mtu"]), (&json!(0), &json!(0)));
        // Rule 1 takes IPv4, rule 2 IPv6, in either direction, and together they decided on every copy.
        let rules = stats["rules"].as_array().expect("rules is an array");
        let named: Vec<_> =
            rules.iter().map(|rule| (&rule["filter"], &rule["direction"], &rule["rule_number"])).collect();
        let expected = [("ingress", 1), ("ingress", 2), ("egress", 1), ("egress", 2)].map(|rule| json!(rule));
        for ((filter, direction, number), expected) in named.iter().zip(&expected) {
            assert_eq!((filter.as_str(), *direction, *number), (Some("s0-1"), &expected[0], &expected[1]), "{stats}");
        }
        assert_eq!(named.len(), expected.len(), "{stats}");
        let decided: u64 = rules.iter().filter_map(|rule| rule["packets"].as_u64()).sum();
        assert!((traffic.len()..=copied.len()).contains(&(decided as usize)), "rules decided on {decided}: {stats}");
        for (number, is_v4) in [(1, true), (2, false)] {
            let is_taken = |frame: &&&Frame| frame.ip().is_some_and(|ip| ip.source.is_ipv4() == is_v4);
            let taken = traffic.iter().filter(is_taken).count() as u64;
            let counted: u64 = rules
                .iter()
                .filter(|rule| rule["rule_number"] == number)
                .filter_map(|rule| rule["packets"].as_u64())
                .sum();
            assert!(taken > 0 && counted >= taken, "{taken} packets for rule {number}, {counted} counted: {stats}");
        }
        let skipped = stats["skipped"].as_object().expect("skipped is an object");
        assert!(skipped.len() > 5 && skipped.values().all(|count| *count == 0), "nothing was skipped: {stats}");

        for (direction, outgoing) in [("ingress", false), ("egress", true)] {
            let sources = stats["sources"].as_array().expect("sources is an array");
            let source = sources.iter().find(|source| source["direction"] == direction).expect("both directions");
            assert_eq!(source["interface"], "s0", "{stats}");
            // Wire packets, not super-packets; the lab's own markers are among them.
            let traffic = recording.traffic_at(HOST_SOURCE).into_iter();
            let traffic: Vec<&Frame> =
                traffic.filter(|frame| (frame.source_mac() == Some(HOST_SOURCE.mac)) == outgoing).collect();
            assert_between(sum(&traffic), figures(source), recording.passed(HOST_SOURCE, outgoing), source);
        }
        let words = lab.mirrorctl("stats")?.ok();
        for word in ["s0", "ingress", "egress", "s0-1"] {
            assert!(words.contains(word), "stats should say {word}: {words}");
        }
    }
    Ok(())
}

/// Packets and bytes are counted right when no traffic is missing and nothing is counted that wasn't there.
#[track_caller]
fn assert_between(least: (u64, u64), counted: (u64, u64), most: (u64, u64), what: &Value) {
    assert!((least.0..=most.0).contains(&counted.0), "packets: {} to {} passed: {what}", least.0, most.0);
    assert!((least.1..=most.1).contains(&counted.1), "bytes: {} to {} passed: {what}", least.1, most.1);
}

#[test]
fn attach_and_detach_print_one_json_document() -> Result<()> {
    let lab = Lab::new()?;
    let attached: Value = lab.mirrorctl(&format!("--json attach s0 --target {} --vni 42", COLLECTOR.v4))?.json();
    assert_eq!((&attached["interface"], &attached["vni"]), (&json!("s0"), &json!(42)), "{attached}");
    let detached = lab.mirrorctl("detach --all --json")?.json();
    assert_eq!(detached["detached"], json!(["s0"]), "{detached}");
    Ok(())
}

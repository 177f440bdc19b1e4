//! Frames of every kind are copied as they were on the wire, by both paths alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use mirror_tests::corpus::{self, Case, Fate, RECEIVER, SENDER, SOURCE_MTU};
use mirror_tests::lab::Station;
use mirror_tests::vxlan::PORT;
use mirror_tests::{BOTH_PATHS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, IpVersion, Lab, Path, Recording, Wanted};
use serde_json::Value;

/// Room for the longest frame, two tags and the outer headers.
const UPLINK_MTU: u32 = 9200;
/// Frames that the generator adds to those made by hand.
const GENERATED: usize = 200;

/// A lab whose links carry the corpus as a wire does, with a filter for all of it.
fn lab() -> Result<Lab> {
    let lab = Lab::options().source_mtu(SOURCE_MTU).uplink_mtu(UPLINK_MTU).without_source_offloads().start()?;
    let mut definitions = String::from("[[filter]]\nname = \"everything\"\nmirror_non_ip = true\n");
    for direction in ["ingress", "egress"] {
        for (number, network) in [(1, "0.0.0.0/0"), (2, "::/0")] {
            definitions += &format!(
                "[[filter.rule]]\nnumber = {number}\ndirection = \"{direction}\"\naction = \"accept\"\n\
                 source = \"{network}\"\ndestination = \"{network}\"\n"
            );
        }
    }
    let file = lab.scratch_directory().join("everything.toml");
    fs::write(&file, definitions).with_context(|| format!("write {}", file.display()))?;
    lab.mirrorctl(&format!("apply -f {}", file.display()))?.ok();
    Ok(lab)
}

/// Where frames are sent, and what becomes of them there.
type Side = (Station, fn(&Case) -> Fate);
const SIDES: [Side; 2] = [(GENERATOR, |case| case.ingress), (HOST_SOURCE, |case| case.egress)];

/// Sends each frame that can be sent, from both sides.
fn send(lab: &Lab, cases: &[Case]) -> Result<()> {
    for (station, fate) in SIDES {
        let (mut sent, mut refused) = (Vec::new(), Vec::new());
        for case in cases {
            if matches!(fate(case), Fate::NotSent(_)) { &mut refused } else { &mut sent }.push(case.frame.clone());
        }
        lab.inject_all(station, &sent)?;
        for frame in refused {
            assert!(
                lab.inject(station, &frame).is_err(),
                "the kernel sends {frame}, and the corpus says that it doesn't"
            );
        }
    }
    Ok(())
}

/// What was seen at both ends of the link is what was sent, but for what the corpus says never arrives. The value is how
/// many frames passed the source without being copied, by the reason that is counted.
#[track_caller]
fn each_case_passed_as_expected(recording: &Recording, cases: &[Case]) -> BTreeMap<&'static str, u64> {
    let count = |station, outgoing| {
        let mut counts = BTreeMap::<&Frame, usize>::new();
        for seen in recording.seen_at(station).iter().filter(|seen| seen.outgoing == outgoing) {
            *counts.entry(&seen.frame).or_default() += 1;
        }
        counts
    };
    let mut skipped = BTreeMap::new();
    for (from, fate) in SIDES {
        let to = if from == GENERATOR { HOST_SOURCE } else { GENERATOR };
        let (left, arrived) = (count(from, true), count(to, false));
        for case in cases {
            let expected = match fate(case) {
                Fate::Copied => (1, 1),
                Fate::Skipped(reason) => {
                    *skipped.entry(reason).or_default() += 1;
                    (1, 1)
                }
                Fate::SkippedAndNotReceived(reason) => {
                    *skipped.entry(reason).or_default() += 1;
                    (1, 0)
                }
                Fate::NotReceived(_) => (1, 0),
                Fate::NotSent(_) => (0, 0),
            };
            let passed = [&left, &arrived].map(|counts| counts.get(&case.frame).copied().unwrap_or(0));
            assert_eq!((passed[0], passed[1]), expected, "sent and received of {}: {:?}", case.what, case.frame);
        }
    }
    skipped
}

/// What two paths must agree on: the bytes of a copy, its UDP source port, the padding behind it; how often.
type Essence = BTreeMap<(Frame, u16, usize), usize>;

/// The copies of frames of the corpus, among those of whatever else passed.
fn essence(recording: &Recording) -> Essence {
    let mut essence = Essence::new();
    for copy in &recording.copies {
        let bytes = copy.inner.bytes();
        let is_ours = bytes[0] == RECEIVER.0[0] || bytes.get(6..12) == Some(&SENDER.0);
        if is_ours {
            *essence.entry((copy.inner.clone(), copy.source_port, copy.padding)).or_default() += 1;
        }
    }
    essence
}

fn skipped(stats: &Value) -> BTreeMap<String, u64> {
    let counters = stats["skipped"].as_object().expect("stats have reasons");
    counters.iter().map(|(reason, count)| (reason.clone(), count.as_u64().expect("a number"))).collect()
}

/// Sends `cases` both ways through a source that is mirrored by one path, and compares. The value is what the other path
/// must agree on.
fn copies_by(lab: &Lab, path: Path, target: IpVersion, length: Option<usize>, cases: &[Case]) -> Result<Essence> {
    let cut = length.map(|length| format!("--packet-length {length}")).unwrap_or_default();
    let attach =
        format!("attach s0 --target {} --vni 42 --filter everything {cut} {}", COLLECTOR.address(target), path.flag());
    lab.mirrorctl(&attach)?.ok();
    let recording = lab.record_at(&[HOST_SOURCE, GENERATOR], PORT, || send(lab, cases))?;
    let not_copied = each_case_passed_as_expected(&recording, cases);

    let (mut injected, mut exempt) = (BTreeSet::new(), BTreeSet::new());
    for case in cases {
        injected.insert(&case.frame);
        if SIDES.iter().any(|(_, fate)| fate(case) != Fate::Copied) {
            exempt.insert(&case.frame);
        }
    }
    let wanted = Wanted { vni: 42, packet_length: length };
    let how = format!("{path}, {target:?}, {}", if cut.is_empty() { "uncut" } else { &cut });
    let is_traffic = |frame: &Frame| !exempt.contains(frame) && (injected.contains(frame) || !frame.is_housekeeping());
    println!("{how}");
    let frames = recording.every_frame_at_has_one_copy(HOST_SOURCE, is_traffic, wanted);
    let copied: usize =
        cases.iter().map(|case| SIDES.iter().filter(|(_, fate)| fate(case) == Fate::Copied).count()).sum();
    assert!(frames >= copied, "{how}: {frames} of {copied} frames were compared");

    for (reason, count) in skipped(&lab.stats()?) {
        // Copied all the same, as a packet without ports.
        if reason == "extension_headers_too_deep" {
            continue;
        }
        let expected = not_copied.get(reason.as_str()).copied().unwrap_or(0);
        assert_eq!(count, expected, "{how}: {reason}");
    }
    lab.mirrorctl("detach s0")?.ok();
    Ok(essence(&recording))
}

/// One path after the other.
fn both_paths_copy(lab: &Lab, target: IpVersion, length: Option<usize>, cases: &[Case]) -> Result<()> {
    let essences = BOTH_PATHS.map(|path| copies_by(lab, path, target, length, cases).with_context(|| path.to_string()));
    let [tap, fast] = essences;
    let (tap, fast) = (tap?, fast?);
    let differ = |one: &Essence, other: &Essence| {
        one.iter()
            .find(|(copy, count)| other.get(copy) != Some(count))
            .map(|(copy, count)| format!("{count} of {copy:?}"))
    };
    assert!(
        tap == fast,
        "the paths differ, target {target:?}, packet length {length:?}:\nby the tap only: {:?}\nby the fast path only: {:?}",
        differ(&tap, &fast),
        differ(&fast, &tap)
    );
    Ok(())
}

#[test]
fn every_kind_of_frame_is_copied_as_it_was_on_the_wire() -> Result<()> {
    let lab = lab()?;
    for (seed, target) in [(1, IpVersion::V4), (2, IpVersion::V6)] {
        both_paths_copy(&lab, target, None, &corpus::all(seed, GENERATED))?;
    }
    Ok(())
}

/// A third of the corpus at each length, another one at the next; always those whose headers end behind the cut.
#[test]
fn every_kind_of_frame_is_cut_to_the_packet_length() -> Result<()> {
    let lab = lab()?;
    for (round, length) in [1, 13, 14, 20, 34, 64, 100, 128, 1500].into_iter().enumerate() {
        let target = if round % 2 == 0 { IpVersion::V6 } else { IpVersion::V4 };
        let cases: Vec<Case> = corpus::all(round as u64 + 3, GENERATED)
            .into_iter()
            .enumerate()
            .filter(|(index, case)| {
                index % 3 == round % 3 || case.frame.ip().is_some_and(|ip| ip.transport > length.max(100))
            })
            .map(|(_, case)| case)
            .collect();
        both_paths_copy(&lab, target, Some(length), &cases)?;
    }
    Ok(())
}

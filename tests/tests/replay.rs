//! `cargo xtask lab replay`: captures of odd frames pass on both paths, and what should fail does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result};
use mirror_tests::frame::{ARP, ETHERNET_HEADER, IPV4, IPV6, SERVICE_VLAN, TCP, Tag, UDP, VLAN};
use mirror_tests::replay::{self, Direction, Ending, Numbered, Options, Way, between_paths};
use mirror_tests::written::{ETHERNET, Pcap, pcapng};
use mirror_tests::{
    BOTH_PATHS, BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, HOST_UPLINK, IpVersion, craft,
};

const RAW_IP: u32 = 101;
const LINUX_COOKED: u32 = 113;
const WIFI: u32 = 105;

/// A file that is gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, content: &[u8]) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("mirror-replay-{}-{name}", std::process::id()));
        fs::write(&path, content).with_context(|| format!("write {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// What a replay says, and how it ends.
fn replay(options: &Options) -> Result<(Ending, String)> {
    let mut out = Vec::new();
    let ending = replay::run(options, &mut out)?;
    Ok((ending, String::from_utf8_lossy(&out).into_owned()))
}

#[track_caller]
fn passes(options: &Options) -> Result<String> {
    let (ending, said) = replay(options)?;
    assert_eq!(ending, Ending::Same, "{said}");
    Ok(said)
}

#[track_caller]
fn says(said: &str, words: &[&str]) {
    for words in words {
        assert!(said.contains(words), "it should say {words:?}:\n{said}");
    }
}

fn tags(count: usize) -> Vec<Tag> {
    let tag =
        |place| Tag { ethertype: if place % 2 == 0 { SERVICE_VLAN } else { VLAN }, control: 0x2000 | place as u16 };
    (0..count).map(tag).collect()
}

/// A TCP segment that somebody would answer.
fn syn(version: IpVersion) -> Frame {
    let mut segment = vec![0x30, 0x39, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0];
    segment.extend(craft::content(1, 0));
    craft::ip(&GENERATOR, &HOST_SOURCE, version, TCP, &segment)
}

/// ARP (RFC 826): who has the host's address?
fn arp_request(asked: [u8; 4]) -> Frame {
    let mut frame = craft::ethernet(&GENERATOR, &HOST_SOURCE, ARP, &[0, 1, 8, 0, 6, 4, 0, 1]);
    frame.0[..6].fill(0xff);
    frame.0.extend(GENERATOR.mac.0);
    frame.0.extend(GENERATOR.v4.octets());
    frame.0.extend([0; 6]);
    frame.0.extend(asked);
    frame
}

/// What hosts answer, what parsers trip over, and what is rare.
fn odd_frames() -> Vec<Frame> {
    let mut frames = vec![
        arp_request(HOST_SOURCE.v4.octets()),
        arp_request(HOST_UPLINK.v4.octets()),
        // From the collector, or so it says, to the host's other address.
        craft::udp(&COLLECTOR, &HOST_UPLINK, IpVersion::V4, (4000, 4789), &craft::content(2, 60)),
        craft::ethernet(&GENERATOR, &HOST_SOURCE, 0x88cc, &craft::content(3, 46)),
        // IEEE 802.3: a length in place of the ethertype.
        craft::ethernet(&GENERATOR, &HOST_SOURCE, 38, &craft::content(4, 38)),
        craft::ethernet(&GENERATOR, &HOST_SOURCE, 0, &craft::content(5, 20)),
        craft::ethernet(&GENERATOR, &HOST_SOURCE, 0xffff, &[]),
    ];
    for version in BOTH_VERSIONS {
        let ethertype = if version == IpVersion::V4 { IPV4 } else { IPV6 };
        frames.push(syn(version));
        // Echo request (RFC 792, RFC 4443); over IPv6 its checksum is wrong, which is the frame's own affair.
        let (protocol, kind) = if version == IpVersion::V4 { (1, 8) } else { (58, 128) };
        frames.push(craft::ip(&GENERATOR, &HOST_SOURCE, version, protocol, &[kind, 0, 0, 0, 1, 2, 0, 1, 9, 9]));
        for ports in [(1111, 9), (4789, 4789), (53, 53)] {
            frames.push(craft::udp(&GENERATOR, &HOST_SOURCE, version, ports, &craft::content(6, 70)));
        }
        let whole = craft::udp(&GENERATOR, &HOST_SOURCE, version, (5, 6), &craft::content(7, 30));
        for count in 1..=4 {
            frames.push(craft::tagged(&whole, &tags(count)));
        }
        // Cut in its headers, and followed by something.
        for length in [14, 15, 33, 34, 35, 53, 54, 55] {
            frames.push(whole.cut(length));
        }
        frames.push(Frame([whole.bytes(), &craft::content(8, 6)].concat()));
        // No IP at all.
        frames.push(craft::ethernet(&GENERATOR, &HOST_SOURCE, ethertype, &craft::content(9, 60)));
        // Addresses of no station, and of a group as the sender's.
        let mut addresses = whole.clone();
        addresses.0[..12].fill(0);
        frames.push(addresses.clone());
        addresses.0[..12].fill(0xff);
        frames.push(addresses);
        frames.push(craft::ip(&GENERATOR, &HOST_SOURCE, version, UDP, &craft::content(10, 8_900)));
        // Three times the same.
        frames.extend([whole.clone(), whole.clone(), whole]);
    }
    // A later fragment (RFC 791 §3.1).
    let mut fragment = craft::udp_v4(100);
    fragment.0[ETHERNET_HEADER + 7] = 13;
    frames.push(fragment);
    frames
}

#[test]
fn a_pcap_of_odd_frames_passes_in_both_directions() -> Result<()> {
    let frames = odd_frames();
    let mut pcap = Pcap::of(&frames);
    let too_deep = [5, 8].map(|count| craft::tagged(&craft::udp_v4(40), &tags(count)));
    too_deep.iter().for_each(|frame| pcap.put(frame.bytes(), 0));
    // Cut by the capture, shorter than any frame, longer than any device takes, and the lab's own ethertype.
    pcap.put(craft::udp_v4(1400).cut(96).bytes(), 1346);
    pcap.put(&[1; 13], 0);
    pcap.put(&[], 60);
    pcap.put(&craft::ethernet(&GENERATOR, &HOST_SOURCE, 0x1234, &vec![7; 70_000]).0, 0);
    pcap.put(&craft::ethernet(&GENERATOR, &HOST_SOURCE, 0x88b5, b"lab marker").0, 0);
    let file = Scratch::new("odd.pcap", &pcap.0)?;
    let copied = frames.len() + 1;
    for (direction, target_v6, packet_length) in
        [(Direction::Ingress, false, None), (Direction::Egress, true, None), (Direction::Ingress, true, Some(20))]
    {
        let said = passes(&Options { direction, target_v6, packet_length, ..Options::of_file(&file.0) })?;
        says(
            &said,
            &[
                &format!("{} packets, {} to replay", copied + 6, copied + 3),
                "left out: 2 shorter than an Ethernet header",
                "left out: 1 of ethertype 0x88b5",
                "captured: 1 that were cut then",
                &format!("tap:       {} frames in, {copied} copies out", copied + 2),
                &format!("fast path: {} frames in, {copied} copies out", copied + 2),
                "refused by the kernel before they were sent: 1 (Message too long)",
                "too many VLAN tags: 2",
                "no difference",
                "the paths agree",
            ],
        );
    }
    Ok(())
}

#[test]
fn a_pcapng_of_several_link_types_passes() -> Result<()> {
    let frames = odd_frames();
    let raw = BOTH_VERSIONS.map(|version| craft::udp(&GENERATOR, &HOST_SOURCE, version, (7, 8), b"raw"));
    // LINKTYPE_LINUX_SLL: 16 bytes, the protocol at their end.
    let cooked = [vec![0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 1, 1, 0, 0, 8, 0], raw[0].0[ETHERNET_HEADER..].to_vec()].concat();
    let mut packets: Vec<(u32, &[u8])> = frames[..10].iter().map(|frame| (0, frame.bytes())).collect();
    packets.extend(raw.iter().map(|frame| (1, &frame.bytes()[ETHERNET_HEADER..])));
    packets.extend([(2, &cooked[..]), (3, &[8; 30][..]), (2, &[1; 15][..])]);
    let file = Scratch::new("several.pcapng", &pcapng(&[ETHERNET, RAW_IP, LINUX_COOKED, WIFI], &packets))?;
    let said = passes(&Options::of_file(&file.0))?;
    says(
        &said,
        &[
            "15 packets, 13 to replay",
            "left out: 1 of link type 105 (IEEE 802.11)",
            "left out: 1 shorter than a header of link type 113",
            "made-up Ethernet header: 2 of link type 101 (raw IP)",
            "made-up Ethernet header: 1 of link type 113 (Linux cooked)",
            "tap:       13 frames in, 13 copies out",
        ],
    );
    Ok(())
}

#[test]
fn more_frames_than_the_queues_hold_pass() -> Result<()> {
    let frames: Vec<Frame> = (0..4_500_u16)
        .map(|flow| {
            let payload = craft::content(flow.into(), usize::from(flow) % 900);
            craft::udp(&GENERATOR, &HOST_SOURCE, BOTH_VERSIONS[usize::from(flow % 2)], (flow, 9), &payload)
        })
        .collect();
    let file = Scratch::new("many.pcap", &Pcap::of(&frames).0)?;
    let said = passes(&Options { path: replay::Paths::Fast, ..Options::of_file(&file.0) })?;
    says(&said, &["fast path: 4500 frames in, 4500 copies out"]);
    assert!(!said.contains("tap:"), "{said}");
    Ok(())
}

/// The check must be able to fail: what the lab really copied, with one thing changed.
#[test]
fn whatever_is_changed_in_a_copy_is_found() -> Result<()> {
    let frames: Vec<Numbered> =
        (1..=20).map(|number| Numbered { number, frame: craft::udp_v4(50 + number as usize) }).collect();
    let mut matched = Vec::new();
    for path in BOTH_PATHS {
        let mut way = Way::open(&Options::of_file("none"), path, 1514)?;
        let passed = way.pass(&frames)?;
        matched.push(way.judge(&passed)?.expect("nothing is changed yet"));
        let copy_of_7 = passed.copies.iter().position(|copy| copy.inner == frames[6].frame).expect("a copy");

        let mut changed = passed.clone();
        changed.copies[copy_of_7].inner.0[60] ^= 1;
        let difference = way.judge(&changed)?.expect_err("a byte is changed");
        assert_eq!(difference.number, Some(7), "{difference}");
        says(&difference.story, &["frame 7", &path.to_string(), "byte 60"]);

        let mut missing = passed.clone();
        missing.copies.remove(copy_of_7);
        let difference = way.judge(&missing)?.expect_err("a copy is gone");
        assert_eq!(difference.number, Some(7), "{difference}");

        let mut swapped = passed.clone();
        swapped.copies.swap(copy_of_7, copy_of_7 + 1);
        way.judge(&swapped)?.expect_err("the order is another");

        let mut twice = passed.clone();
        twice.copies.insert(copy_of_7, passed.copies[copy_of_7].clone());
        way.judge(&twice)?.expect_err("one copy is there twice");

        let mut counted = passed.clone();
        counted.skipped.insert("vlan_too_deep".into(), 1);
        way.judge(&counted)?.expect_err("something is counted that did not happen");

        // A loss that the tap counted is the lab's.
        missing.skipped.insert("tap_full".into(), 1);
        let error = way.judge(&missing).expect_err("the lab's fault").to_string();
        says(&error, &["queue", "full"]);
    }
    let [tap, fast] = matched.as_mut_slice() else { unreachable!("two paths") };
    assert_eq!(between_paths(tap, fast), None);
    fast.copies.get_mut(&9).expect("a copy of frame 9").source_port ^= 1;
    let difference = between_paths(tap, fast).expect("the paths differ");
    assert_eq!(difference.number, Some(9), "{difference}");
    Ok(())
}

/// The program itself, as a user sees it.
fn program(file: &Path, mirrorctl: Option<&Path>) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lab-replay"));
    command.args(["--path", "tap"]).arg(file);
    command.envs(mirrorctl.map(|path| ("MIRRORCTL", path)));
    command.output().context("run lab-replay")
}

#[test]
fn a_product_that_cuts_copies_fails() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let beside = Path::new(env!("CARGO_BIN_EXE_lab-replay")).with_file_name("mirrorctl");
    let real = std::env::var_os("MIRRORCTL").map_or(beside, PathBuf::from);
    let script = format!(
        "#!/bin/sh\ncase $1 in attach) exec {0} \"$@\" --packet-length 77;; *) exec {0} \"$@\";; esac\n",
        real.display()
    );
    let broken = Scratch::new("mirrorctl", script.as_bytes())?;
    fs::set_permissions(&broken.0, fs::Permissions::from_mode(0o755))?;
    let file = Scratch::new("cut.pcap", &Pcap::of(&[craft::udp_v4(20), craft::udp_v4(200)]).0)?;

    let output = program(&file.0, Some(&broken.0))?;
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&output.stderr));
    says(&said, &["2 frames in, 2 copies out", "frame 2, tap: the copy has 77 bytes, and should have 242"]);

    let output = program(&file.0, None)?;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    Ok(())
}

#[test]
fn files_that_are_no_captures_are_refused_and_broken_ones_replayed_up_to_there() -> Result<()> {
    let good = Pcap::of(&[craft::udp_v4(20), craft::udp_v4(200)]).0;
    let cases: [(&str, &[u8], &str); 5] = [
        ("empty", b"", "neither pcap nor pcapng"),
        ("garbage", &craft::content(1, 300), "neither pcap nor pcapng"),
        ("header", &good[..20], "cut off after packet 0"),
        ("no-packet", &good[..24], "there is no frame to replay"),
        (
            "wifi",
            &{
                let mut wifi = Pcap::new(WIFI);
                wifi.put(&[1; 40], 0);
                wifi.0
            },
            "there is no frame to replay",
        ),
    ];
    for (name, content, why) in cases {
        let file = Scratch::new(name, content)?;
        let output = program(&file.0, None)?;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {error}");
        says(&error, &["error: replay ", name, why]);
    }
    for path in [Path::new("/nowhere/at-all.pcap"), Path::new("/dev"), Path::new("/dev/null")] {
        let output = program(path, None)?;
        assert_eq!(output.status.code(), Some(2), "{path:?}: {output:?}");
    }

    let file = Scratch::new("cut-off.pcap", &good[..good.len() - 3])?;
    let output = program(&file.0, None)?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    says(&String::from_utf8_lossy(&output.stdout), &["1 frames in, 1 copies out", "no difference"]);
    says(&String::from_utf8_lossy(&output.stderr), &["cut off inside packet 2"]);
    Ok(())
}

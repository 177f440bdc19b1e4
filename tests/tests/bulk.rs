//! TCP in bulk, both ways at once, with segmentation offload on at the source: each frame has its copy, each copy is a
//! wire packet with right checksums, and the copies have both streams without a gap.
//!
//! `cargo xtask bulk` runs it with a gigabyte: `MIRROR_BULK` holds the bytes each way, the packet length, the path and
//! where copies are looked at, with commas between them; where one is empty, it is as in the test run.

use std::str::FromStr;

use anyhow::{Context, Result, bail};
use mirror_tests::bulk::{self, Report, TABLE_HEAD, Transfer};
use mirror_tests::{BOTH_PATHS, GENERATOR, HOST_SOURCE, IpVersion, Lab, Path, Turn, offload};

/// Bytes each way in the test run: of the cases with every packet length, and of the others.
const BYTES: u64 = 10_000_000;
const FEWER_BYTES: u64 = 5_000_000;
/// Uncut; inside the TCP header; behind all headers; a jumbo frame's first part, or an ordinary frame but for 14 bytes.
const PACKET_LENGTHS: [Option<usize>; 4] = [None, Some(64), Some(100), Some(1500)];
/// MTUs of ordinary and of jumbo frames, and of uplinks with room for them and their outer headers.
const ORDINARY: u32 = 1500;
const JUMBO: u32 = 9000;
const ORDINARY_UPLINK: u32 = 1600;
const JUMBO_UPLINK: u32 = 9100;
/// Fewer super-packets than that would be none that matter.
const SOME: u64 = 10;

/// What `MIRROR_BULK` asks for.
#[derive(Default)]
struct Asked {
    bytes: Option<u64>,
    packet_length: Option<usize>,
    path: Option<Path>,
    at_uplink: bool,
}

impl Asked {
    fn from_environment() -> Result<Self> {
        let Ok(text) = std::env::var("MIRROR_BULK") else { return Ok(Self::default()) };
        let fields: Vec<&str> = text.split(',').collect();
        let [bytes, packet_length, path, place] = fields[..] else {
            bail!("MIRROR_BULK is {text:?}, not BYTES,LENGTH,PATH,PLACE")
        };
        let path = match path {
            "" => None,
            "tap" => Some(Path::Tap),
            "fast" => Some(Path::Fast),
            other => bail!("MIRROR_BULK names the path {other:?}, not tap or fast"),
        };
        let at_uplink = match place {
            "" => false,
            "uplink" => true,
            other => bail!("MIRROR_BULK names the place {other:?}, not uplink"),
        };
        Ok(Self { bytes: number(bytes)?, packet_length: number(packet_length)?, path, at_uplink })
    }
}

fn number<T: FromStr<Err: std::error::Error + Send + Sync + 'static>>(text: &str) -> Result<Option<T>> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).with_context(|| format!("MIRROR_BULK has {text:?} for a number"))
}

/// A lab whose source puts together what it receives.
fn lab(source_mtu: u32, uplink_mtu: u32) -> Result<Lab> {
    let lab = Lab::options().source_mtu(source_mtu).uplink_mtu(uplink_mtu).start()?;
    lab.host.enter(|| offload::switch(HOST_SOURCE.interface, offload::GRO, true))?;
    bulk::wants_tcp(&lab)?;
    println!("{TABLE_HEAD}");
    Ok(lab)
}

/// What is special about a case.
#[derive(Clone, Copy)]
struct Case {
    version: IpVersion,
    packet_length: Option<usize>,
    one_cpu: bool,
    bytes: u64,
}

fn v4(packet_length: Option<usize>) -> Case {
    Case { version: IpVersion::V4, packet_length, one_cpu: false, bytes: BYTES }
}

fn v6(packet_length: Option<usize>) -> Case {
    Case { version: IpVersion::V6, ..v4(packet_length) }
}

fn fewer_bytes(case: Case) -> Case {
    Case { bytes: FEWER_BYTES, ..case }
}

/// Each case by both paths, checked but for the order of the copies.
fn bulk_is_copied(lab: &Lab, source_mtu: u32, uplink_mtu: u32, cases: &[Case]) -> Result<Vec<Report>> {
    let asked = Asked::from_environment()?;
    let mut reports = Vec::new();
    for path in BOTH_PATHS.into_iter().filter(|path| asked.path.is_none_or(|asked| asked == *path)) {
        for case in cases {
            if asked.packet_length.is_some() && asked.packet_length != case.packet_length {
                continue;
            }
            let _turn = Turn::wait()?;
            let report = bulk::transfer(
                lab,
                Transfer {
                    bytes: asked.bytes.unwrap_or(case.bytes),
                    packet_length: case.packet_length,
                    path,
                    version: case.version,
                    source_mtu: source_mtu as usize,
                    one_cpu: case.one_cpu,
                    at_uplink: asked.at_uplink,
                },
            )?;
            println!("{}", report.line(uplink_mtu));
            report.is_flawless();
            let [received, sent] = report.super_packets;
            assert!(received > SOME && sent > SOME, "super-packets of the kernel: {received} in, {sent} out; {report}");
            reports.push(report);
        }
    }
    Ok(reports)
}

#[test]
fn bulk_over_an_ordinary_uplink_is_copied() -> Result<()> {
    let lab = lab(ORDINARY, ORDINARY_UPLINK)?;
    bulk_is_copied(&lab, ORDINARY, ORDINARY_UPLINK, &PACKET_LENGTHS.map(v4))?;
    bulk_is_copied(&lab, ORDINARY, ORDINARY_UPLINK, &[None, Some(64)].map(v6).map(fewer_bytes)).map(drop)
}

#[test]
fn bulk_in_jumbo_frames_over_a_jumbo_uplink_is_copied() -> Result<()> {
    let lab = lab(JUMBO, JUMBO_UPLINK)?;
    bulk_is_copied(&lab, JUMBO, JUMBO_UPLINK, &PACKET_LENGTHS.map(v4)).map(drop)
}

#[test]
fn bulk_over_a_jumbo_uplink_is_copied() -> Result<()> {
    let lab = lab(ORDINARY, JUMBO_UPLINK)?;
    bulk_is_copied(&lab, ORDINARY, JUMBO_UPLINK, &PACKET_LENGTHS.map(v4)).map(drop)
}

/// Elsewhere the generator's super-packets reach the source whole, as no wire carries them. Here they are cut before they
/// leave, and the source puts them together.
#[test]
fn bulk_that_the_source_put_together_is_copied() -> Result<()> {
    let lab = lab(ORDINARY, ORDINARY_UPLINK)?;
    lab.generator.enter(|| offload::switch(GENERATOR.interface, offload::TSO, false))?;
    bulk_is_copied(&lab, ORDINARY, ORDINARY_UPLINK, &[None, Some(100)].map(v4).map(fewer_bytes)).map(drop)
}

/// On one CPU. A veth has a queue on each CPU, so that a flow which moves from one CPU to another can overtake itself, in
/// the tap and on the lab's own links.
#[test]
fn copies_of_a_direction_come_in_the_order_of_their_frames() -> Result<()> {
    let lab = lab(ORDINARY, ORDINARY_UPLINK)?;
    let cases = [None, Some(100)].map(|packet_length| Case { one_cpu: true, ..fewer_bytes(v4(packet_length)) });
    for report in bulk_is_copied(&lab, ORDINARY, ORDINARY_UPLINK, &cases)? {
        report.is_in_order();
    }
    Ok(())
}

//! A file from its beginning to its end, or to the first difference.

use std::io::Write;

use anyhow::{Context, Result};

use super::compare::{Difference, Matched, between_paths};
use super::{Numbered, Options, Way, file};

/// Frames and bytes of a batch. Much less than what a capture of the lab can hold.
const BATCH_FRAMES: usize = 2_000;
const BATCH_BYTES: usize = 16 << 20;

/// How a replay ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Each copy is its frame.
    Same,
    /// One is not.
    Different,
    /// The file, or its end, could not be read: why.
    Unreadable(String),
}

/// What one path did.
#[derive(Debug, Default)]
struct Totals {
    frames: u64,
    copies: u64,
    refused: std::collections::BTreeMap<String, u64>,
    dropped: u64,
    uncopied: u64,
    vanished: u64,
}

/// Replays a file and tells `out` what came of it. An error is the lab's fault, and says nothing about copies, but for
/// one that names a copy.
pub fn run(options: &Options, out: &mut impl Write) -> Result<Ending> {
    let name = options.file.display();
    let contents = match file::read(&options.file, |_| true) {
        Ok(contents) => contents,
        Err(why) => return Ok(Ending::Unreadable(why)),
    };
    let broken = contents.broken.map(|error| format!("{name}: {error}"));
    writeln!(
        out,
        "{name}: {} packets, {} to replay ({} at s0)",
        contents.packets,
        contents.frames,
        options.direction.name()
    )?;
    for (reason, count) in &contents.left_out {
        writeln!(out, "  left out: {count} {reason}")?;
    }
    for (link, count) in &contents.headers {
        writeln!(out, "  behind a made-up Ethernet header: {count} of link type {link}")?;
    }
    if contents.cut > 0 {
        writeln!(out, "  as far as they were captured: {} that were cut then", contents.cut)?;
    }
    if contents.frames == 0 {
        return Ok(Ending::Unreadable(broken.unwrap_or_else(|| format!("{name}: there is no frame to replay"))));
    }

    let mut ways = Vec::new();
    for &path in options.path.each() {
        ways.push((Way::open(options, path, contents.longest)?, Totals::default()));
    }
    let mut batch = Vec::new();
    let mut bytes = 0;
    let mut found: Result<Option<Difference>> = Ok(None);
    let again = file::read(&options.file, |numbered| {
        bytes += numbered.frame.0.len();
        batch.push(numbered);
        if batch.len() < BATCH_FRAMES && bytes < BATCH_BYTES {
            return true;
        }
        found = replay(&mut ways, &batch);
        batch.clear();
        bytes = 0;
        matches!(found, Ok(None))
    });
    if let Err(why) = again {
        return Ok(Ending::Unreadable(why));
    }
    if matches!(found, Ok(None)) && !batch.is_empty() {
        found = replay(&mut ways, &batch);
    }
    let found = found.with_context(|| format!("replay {name}"))?;

    for (way, totals) in &ways {
        let path = format!("{}:", way.path());
        writeln!(out, "{path:<10} {} frames in, {} copies out", totals.frames, totals.copies)?;
        for (reason, count) in &totals.refused {
            writeln!(out, "  refused by the kernel before they were sent: {count} ({reason})")?;
        }
        if totals.dropped > 0 {
            writeln!(
                out,
                "  dropped by the kernel before any hook, for they end inside a VLAN tag: {}",
                totals.dropped
            )?;
        }
        if totals.vanished > 0 {
            writeln!(out, "  dropped by the kernel on the tap, for they end inside a VLAN tag: {}", totals.vanished)?;
        }
        if totals.uncopied > 0 {
            writeln!(out, "  not copied, and counted as such, for they have too many VLAN tags: {}", totals.uncopied)?;
        }
    }
    if let Some(difference) = found {
        writeln!(out, "the first difference: {difference}")?;
        return Ok(Ending::Different);
    }
    let agree = if ways.len() > 1 { ", and the paths agree" } else { "" };
    writeln!(out, "no difference: every copy is its frame, byte for byte and in order{agree}")?;
    Ok(broken.map_or(Ending::Same, Ending::Unreadable))
}

/// One batch on each path: the first difference, and totals that go on.
fn replay(ways: &mut [(Way, Totals)], batch: &[Numbered]) -> Result<Option<Difference>> {
    let mut matched: Vec<Matched> = Vec::new();
    let mut found = None;
    for (way, totals) in ways {
        let passed = way.pass(batch)?;
        totals.frames += passed.originals.iter().filter(|original| original.number.is_some()).count() as u64;
        for (reason, count) in &passed.refused {
            *totals.refused.entry(reason.clone()).or_default() += count;
        }
        totals.dropped += passed.dropped;
        match way.judge(&passed)? {
            Ok(all) => {
                totals.copies += all.copies.len() as u64;
                totals.uncopied += all.uncopied;
                totals.vanished += all.vanished;
                matched.push(all);
            }
            Err(difference) => {
                let others: Vec<_> = passed.others.iter().map(|frame| frame.cut(way.length())).collect();
                totals.copies += passed.copies.iter().filter(|copy| !others.contains(&copy.inner)).count() as u64;
                found.get_or_insert(*difference);
            }
        }
    }
    if let (None, [tap, fast]) = (&found, matched.as_slice()) {
        found = between_paths(tap, fast);
    }
    Ok(found)
}

//! The frames of a capture that can be replayed, and why the others can't.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use mirror_user::question::capture::{CaptureError, LinkType, Reader};

use super::Numbered;
use crate::frame::{ETHERNET_HEADER, Frame, LOCAL_EXPERIMENT, be16};

/// The link type of Ethernet (draft-ietf-opsawg-pcaplinktype).
const ETHERNET: LinkType = LinkType(1);

/// What is in a file.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Packets in all.
    pub(super) packets: u64,
    /// Frames that can be replayed.
    pub(super) frames: u64,
    /// Bytes of the longest of them.
    pub(super) longest: usize,
    /// How many of them were cut when they were captured.
    pub(super) cut: u64,
    /// How many of them get an Ethernet header, by what they had.
    pub(super) headers: BTreeMap<String, u64>,
    /// Packets that can't be replayed, by reason.
    pub(super) left_out: BTreeMap<String, u64>,
    /// Why there is nothing behind the last packet, if that is not the end of the file.
    pub(super) broken: Option<CaptureError>,
}

/// Why a file can't be replayed at all.
pub(super) type Unreadable = String;

/// Reads a file to its end, or to where it is broken, and hands each frame to `each`, until that returns false.
pub(super) fn read(path: &Path, mut each: impl FnMut(Numbered) -> bool) -> Result<Contents, Unreadable> {
    let in_words = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    // It is read twice.
    if !fs::metadata(path).map_err(|error| in_words(&error))?.is_file() {
        return Err(in_words(&"it is not a regular file"));
    }
    let file = File::open(path).map_err(|error| in_words(&error))?;
    let mut contents = Contents::default();
    for packet in Reader::new(file).map_err(|error| in_words(&error))? {
        let packet = match packet {
            Ok(packet) => packet,
            Err(error) if !error.is_about_one_packet() => {
                contents.broken = Some(error);
                break;
            }
            Err(error) => {
                let reason = match error {
                    CaptureError::LinkType { link, .. } => format!("of link type {link}"),
                    CaptureError::CutHeader { link, .. } => format!("shorter than a header of link type {link}"),
                    other => other.to_string(),
                };
                contents.packets += 1;
                *contents.left_out.entry(reason).or_default() += 1;
                continue;
            }
        };
        contents.packets += 1;
        let frame = Frame(packet.frame);
        let reason = if frame.0.len() < ETHERNET_HEADER {
            Some("shorter than an Ethernet header".into())
        } else if be16(frame.bytes(), 12) == Some(LOCAL_EXPERIMENT) {
            Some(format!("of ethertype {LOCAL_EXPERIMENT:#06x}, which the lab's own markers have"))
        } else {
            None
        };
        if let Some(reason) = reason {
            *contents.left_out.entry(reason).or_default() += 1;
            continue;
        }
        contents.frames += 1;
        contents.longest = contents.longest.max(frame.0.len());
        contents.cut += u64::from(packet.missing > 0);
        if packet.link != ETHERNET {
            *contents.headers.entry(packet.link.to_string()).or_default() += 1;
        }
        if !each(Numbered { number: packet.number, frame }) {
            break;
        }
    }
    Ok(contents)
}

//! Copies against the frames that passed the source. Pure.

use std::collections::BTreeMap;
use std::fmt;

use crate::frame::{Frame, SERVICE_VLAN, VLAN, be16};
use crate::path::Path;
use crate::vxlan::Copy;

/// The product's bound (docs/ARCHITECTURE.md, Limits): a frame with more tags has no copy, and is counted.
const TAGS_MAX: usize = 4;
/// Bytes of a difference that are shown in front of it and behind.
const AROUND: usize = 16;

/// A frame that passed the source.
#[derive(Clone, Debug)]
pub struct Original {
    /// Its place in the file; none for one that is not of the file.
    pub number: Option<u64>,
    /// As it was on the wire.
    pub frame: Frame,
}

impl Original {
    /// Whether the product says that it may leave it out: too many tags, or a tag that the frame ends in.
    fn may_lack_a_copy(&self) -> bool {
        let is_left_out = self.frame.layers().is_some_and(|layers| {
            layers.tags.len() > TAGS_MAX || layers.ethertype == VLAN || layers.ethertype == SERVICE_VLAN
        });
        is_left_out || self.may_vanish()
    }

    /// Whether the kernel may drop it on the way, where nobody counts (see [`ends_in_a_tag`]).
    fn may_vanish(&self) -> bool {
        ends_in_a_tag(&self.frame)
    }

    fn name(&self) -> String {
        self.number.map_or_else(|| "a frame that is not of the file".into(), |number| format!("frame {number}"))
    }
}

/// Copies that are as they should be.
#[derive(Clone, Debug, Default)]
pub struct Matched {
    /// The copies of numbered frames.
    pub copies: BTreeMap<u64, Copy>,
    /// Frames without a copy that may lack one, if they were counted.
    pub uncopied: u64,
    /// Frames without a copy that may lack one, counted or not.
    pub vanished: u64,
}

impl Matched {
    fn lack(&mut self, originals: &[Original]) {
        let vanished = originals.iter().filter(|original| original.may_vanish()).count();
        self.vanished += vanished as u64;
        self.uncopied += (originals.len() - vanished) as u64;
    }
}

/// Whether the kernel, which takes a tag off a frame that it receives before any hook, finds too little behind it, and
/// drops the frame (net/core/skbuff.c, `skb_vlan_untag`).
pub(super) fn ends_in_a_tag(frame: &Frame) -> bool {
    matches!(be16(frame.bytes(), 12), Some(VLAN | SERVICE_VLAN)) && frame.0.len() < 20
}

/// The first thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The frame, by its place in the file.
    pub number: Option<u64>,
    /// What is wrong, in words and bytes.
    pub story: String,
    /// There are too few copies.
    pub is_loss: bool,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.story)
    }
}

/// Finds the copy of each of `originals`, in order, cut to `length` bytes. `others` are frames that may have been copied
/// in between: what passed the source on the lab's own account.
pub fn compare(
    path: Path,
    originals: &[Original],
    copies: &[Copy],
    others: &[Frame],
    length: usize,
) -> Result<Matched, Box<Difference>> {
    // Cut short, copies of different frames may be the same: what may lack a copy lacks it, if that explains all.
    let (lacking, having): (Vec<_>, Vec<_>) =
        originals.iter().cloned().partition(|original| original.may_lack_a_copy());
    if !lacking.is_empty()
        && let Ok(mut matched) = compare_all(path, &having, copies, others, length)
    {
        matched.lack(&lacking);
        return Ok(matched);
    }
    compare_all(path, originals, copies, others, length)
}

fn compare_all(
    path: Path,
    originals: &[Original],
    copies: &[Copy],
    others: &[Frame],
    length: usize,
) -> Result<Matched, Box<Difference>> {
    let mut tolerated: BTreeMap<Frame, usize> = BTreeMap::new();
    for other in others {
        *tolerated.entry(other.cut(length)).or_default() += 1;
    }
    let is_copy_of =
        |copy: &Copy, original: &Original| copy.inner.0 == original.frame.0[..length.min(original.frame.0.len())];
    let mut matched = Matched::default();
    let mut at = 0;
    for copy in copies {
        let passed_over = originals[at..]
            .iter()
            .take_while(|original| original.may_lack_a_copy() && !is_copy_of(copy, original))
            .count();
        if let Some(original) = originals.get(at + passed_over)
            && is_copy_of(copy, original)
        {
            matched.lack(&originals[at..at + passed_over]);
            at += passed_over + 1;
            matched.copies.extend(original.number.map(|number| (number, copy.clone())));
            continue;
        }
        if let Some(left) = tolerated.get_mut(&copy.inner).filter(|left| **left > 0) {
            *left -= 1;
            continue;
        }
        let Some(original) = originals.get(at + passed_over) else {
            return Err(surplus(path, originals, copy, length));
        };
        if originals[at + passed_over..].iter().any(|later| is_copy_of(copy, later)) {
            return Err(missing(path, original));
        }
        if originals[..at].iter().any(|earlier| is_copy_of(copy, earlier)) {
            return Err(surplus(path, originals, copy, length));
        }
        return Err(changed(path, original, copy, length));
    }
    match originals[at..].iter().find(|original| !original.may_lack_a_copy()) {
        Some(original) => Err(missing(path, original)),
        None => {
            matched.lack(&originals[at..]);
            Ok(matched)
        }
    }
}

/// The first copy that is not the same on both paths, outer headers included.
pub fn between_paths(tap: &Matched, fast: &Matched) -> Option<Difference> {
    // Zeros behind the outer packet's end are no part of it.
    let of_packet = |copy: &Copy| Copy { padding: 0, ..copy.clone() };
    let numbers = tap.copies.keys().chain(fast.copies.keys());
    let number = *numbers
        .filter(|number| tap.copies.get(number).map(of_packet) != fast.copies.get(number).map(of_packet))
        .min()?;
    let describe = |copy: Option<&Copy>| match copy {
        None => "no copy".into(),
        Some(Copy {
            source_mac,
            destination_mac,
            source,
            destination,
            source_port,
            destination_port,
            vni,
            inner,
            ..
        }) => {
            format!(
                "{source_mac} > {destination_mac}, {source} port {source_port} > {destination} port {destination_port}, \
                 VNI {vni}, {inner:?}"
            )
        }
    };
    let (tap, fast) = (tap.copies.get(&number), fast.copies.get(&number));
    let story = format!("frame {number}: the paths differ\n  tap:  {}\n  fast: {}", describe(tap), describe(fast));
    Some(Difference { number: Some(number), story, is_loss: tap.is_none() || fast.is_none() })
}

fn missing(path: Path, original: &Original) -> Box<Difference> {
    let story = format!("{}, {path}: it has no copy\n  {:?}", original.name(), original.frame);
    Box::new(Difference { number: original.number, story, is_loss: true })
}

/// A copy of something that has its copy already, or of nothing.
fn surplus(path: Path, originals: &[Original], copy: &Copy, length: usize) -> Box<Difference> {
    let original = originals.iter().find(|original| original.frame.cut(length) == copy.inner);
    let (number, what) = match original {
        Some(original) => (original.number, format!("{}, {path}: it is copied again, or too late", original.name())),
        None => (None, format!("{path}: behind the last frame there is a copy of none")),
    };
    Box::new(Difference { number, story: format!("{what}\n  {:?}", copy.inner), is_loss: false })
}

fn changed(path: Path, original: &Original, copy: &Copy, length: usize) -> Box<Difference> {
    let (is, should_be) = (copy.inner.bytes(), original.frame.cut(length).0);
    let same = is.iter().zip(&should_be).take_while(|(is, should_be)| is == should_be).count();
    let what = match (is.get(same), should_be.get(same)) {
        (Some(is), Some(should_be)) => format!("byte {same} of the copy is {is:#04x}, and should be {should_be:#04x}"),
        _ => format!("the copy has {} bytes, and should have {}", is.len(), should_be.len()),
    };
    let story = format!(
        "{}, {path}: {what}\n  {}{}{}",
        original.name(),
        original.frame,
        dump("should be", &should_be, same),
        dump("is", is, same),
    );
    Box::new(Difference { number: original.number, story, is_loss: false })
}

/// The bytes around `at`, 16 a line.
fn dump(what: &str, bytes: &[u8], at: usize) -> String {
    use fmt::Write as _;
    let first = at.saturating_sub(AROUND) / 16 * 16;
    let shown = bytes.get(first..bytes.len().min(at + AROUND + 1)).unwrap_or_default();
    let mut text = String::new();
    for (line, bytes) in shown.chunks(16).enumerate() {
        let _ = write!(text, "\n  {what:<10} {:04x} ", first + line * 16);
        for byte in bytes {
            let _ = write!(text, " {byte:02x}");
        }
    }
    if shown.is_empty() {
        let _ = write!(text, "\n  {what:<10} {first:04x}  (nothing more)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft;
    use crate::frame::{Mac, Tag};

    fn originals(lengths: &[usize]) -> Vec<Original> {
        let numbers = 1..;
        numbers
            .zip(lengths)
            .map(|(number, &length)| Original { number: Some(number), frame: craft::udp_v4(length) })
            .collect()
    }

    fn copy(inner: &Frame) -> Copy {
        Copy {
            source_mac: Mac([2; 6]),
            destination_mac: Mac([4; 6]),
            source: [10, 2, 0, 1].into(),
            destination: [10, 2, 0, 2].into(),
            source_port: 50_000,
            destination_port: 4789,
            vni: 42,
            inner: inner.clone(),
            padding: 0,
        }
    }

    fn copies(originals: &[Original], length: usize) -> Vec<Copy> {
        originals.iter().map(|original| copy(&original.frame.cut(length))).collect()
    }

    fn difference(originals: &[Original], copies: &[Copy]) -> Difference {
        *compare(Path::Tap, originals, copies, &[], usize::MAX).expect_err("they differ")
    }

    #[test]
    fn copies_as_they_should_be_match() {
        // Twice the same is twice a frame.
        let originals = originals(&[10, 10, 0, 300]);
        for length in [1, 20, 42, usize::MAX] {
            let matched = compare(Path::Tap, &originals, &copies(&originals, length), &[], length).expect("they match");
            assert_eq!((matched.copies.len(), matched.uncopied), (4, 0));
        }
    }

    #[test]
    fn a_changed_byte_is_found_and_shown() {
        let originals = originals(&[10, 100, 20]);
        let mut copies = copies(&originals, usize::MAX);
        copies[1].inner.0[77] ^= 0xff;
        let difference = difference(&originals, &copies);
        assert_eq!((difference.number, difference.is_loss), (Some(2), false));
        let byte = originals[1].frame.0[77];
        for words in
            ["frame 2, tap: byte 77 of the copy", &format!("{byte:#04x}"), &format!("{:#04x}", !byte), " 0030 "]
        {
            assert!(difference.story.contains(words), "{words:?} in {difference}");
        }
    }

    #[test]
    fn a_copy_of_another_length_is_found() {
        let originals = originals(&[10, 100]);
        for length in [1, 99, 142, 141] {
            let mut copies = copies(&originals, usize::MAX);
            copies[1].inner =
                Frame([originals[1].frame.0.as_slice(), &[0]].concat()).cut(if length == 142 { 143 } else { length });
            let difference = difference(&originals, &copies);
            assert_eq!(difference.number, Some(2));
            assert!(difference.story.contains("and should have 142"), "{difference}");
        }
    }

    #[test]
    fn a_copy_that_is_missing_is_found() {
        let originals = originals(&[10, 100, 20]);
        for gone in 0..3 {
            let mut copies = copies(&originals, usize::MAX);
            copies.remove(gone);
            let difference = difference(&originals, &copies);
            assert_eq!((difference.number, difference.is_loss), (Some(gone as u64 + 1), true), "{difference}");
        }
    }

    #[test]
    fn a_copy_too_many_and_a_wrong_order_are_found() {
        let originals = originals(&[10, 100, 20]);
        let mut twice = copies(&originals, usize::MAX);
        twice.insert(1, twice[0].clone());
        assert!(difference(&originals, &twice).story.contains("frame 1, tap: it is copied again"));
        twice.swap_remove(1);
        twice.push(copy(&craft::udp_v4(7)));
        difference(&originals, &twice);
        let mut swapped = copies(&originals, usize::MAX);
        swapped.swap(1, 2);
        assert_eq!(difference(&originals, &swapped).number, Some(2));
        let mut foreign = copies(&originals, usize::MAX);
        foreign.push(copy(&craft::udp_v4(7)));
        assert_eq!(difference(&originals, &foreign).number, None);
    }

    #[test]
    fn the_labs_own_frames_in_between_are_tolerated_once_each() {
        let originals = originals(&[10, 100]);
        let own = craft::echo_reply_v4(5);
        let mut copies = copies(&originals, usize::MAX);
        copies.insert(1, copy(&own));
        compare(Path::Tap, &originals, &copies, std::slice::from_ref(&own), usize::MAX).expect("they match");
        copies.push(copy(&own));
        compare(Path::Tap, &originals, &copies, &[own], usize::MAX).expect_err("once too often");
    }

    #[test]
    fn only_frames_with_too_many_tags_may_lack_a_copy() {
        let tags = |count| vec![Tag { ethertype: VLAN, control: 5 }; count];
        let mut originals = originals(&[10, 20, 30, 40]);
        originals[1].frame = craft::tagged(&originals[1].frame, &tags(5));
        originals[3].frame = craft::tagged(&originals[3].frame, &tags(9));
        let all = copies(&originals, usize::MAX);
        let without = [all[0].clone(), all[2].clone()];
        let matched = compare(Path::Tap, &originals, &without, &[], usize::MAX).expect("they match");
        assert_eq!((matched.copies.len(), matched.uncopied), (2, 2));
        let matched = compare(Path::Tap, &originals, &all, &[], usize::MAX).expect("they match");
        assert_eq!(matched.uncopied, 0);
        originals[1].frame = craft::tagged(&craft::udp_v4(20), &tags(4));
        assert_eq!(difference(&originals, &without).number, Some(2));
    }

    #[test]
    fn paths_that_differ_in_an_outer_header_differ() {
        let originals = originals(&[10, 20]);
        let match_all = |copies: &[Copy]| compare(Path::Tap, &originals, copies, &[], usize::MAX).expect("they match");
        let mut copies = copies(&originals, usize::MAX);
        let tap = match_all(&copies);
        copies[1].padding = 3;
        assert_eq!(between_paths(&tap, &match_all(&copies)), None);
        copies[1].source_port += 1;
        let difference = between_paths(&tap, &match_all(&copies)).expect("they differ");
        assert_eq!(difference.number, Some(2));
        assert!(difference.story.contains("50000") && difference.story.contains("50001"), "{difference}");
    }
}

//! Captures written by hand: what is replayed, and what other decoders read.
//!
//! From draft-ietf-opsawg-pcap and draft-ietf-opsawg-pcapng; shares no code with the product. Numbers are little endian.

use crate::frame::Frame;

/// The link type of Ethernet.
pub const ETHERNET: u32 = 1;

/// A capture in the old format.
#[derive(Clone, Debug)]
pub struct Pcap(pub Vec<u8>);

impl Pcap {
    /// Section 4: the header, with times in microseconds.
    pub fn new(link: u32) -> Self {
        Self(words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, link]))
    }

    /// Section 5: a packet that had `missing` bytes more.
    pub fn put(&mut self, data: &[u8], missing: u32) {
        let length = data.len() as u32;
        self.0.extend(words(&[1, 2, length, length + missing]));
        self.0.extend_from_slice(data);
    }

    /// A capture of whole frames.
    pub fn of<'a>(frames: impl IntoIterator<Item = &'a Frame>) -> Self {
        let mut pcap = Self::new(ETHERNET);
        frames.into_iter().for_each(|frame| pcap.put(frame.bytes(), 0));
        pcap
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A block of section 3.1.
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let padding = vec![0; body.len().next_multiple_of(4) - body.len()];
    let length = words(&[12 + (body.len() + padding.len()) as u32]);
    [words(&[kind]), length.clone(), body.to_vec(), padding, length].concat()
}

/// A capture in the new format: a section with one interface for each link type, and packets of them.
pub fn pcapng(links: &[u32], packets: &[(u32, &[u8])]) -> Vec<u8> {
    let mut file = block(0x0a0d_0d0a, &words(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX]));
    links.iter().for_each(|link| file.extend(block(1, &words(&[*link, 0]))));
    for (interface, data) in packets {
        let length = data.len() as u32;
        file.extend(block(6, &[words(&[*interface, 0, 0, length, length]), data.to_vec()].concat()));
    }
    file
}

//! Writing pcapng (draft-ietf-opsawg-pcapng): one section, one Ethernet interface, a block for every frame.
//!
//! Pure: blocks go into a buffer. Numbers are in host byte order, as the format wants it; the section header tells
//! readers which one that is. Times count nanoseconds since 1970 (`if_tsresol` 9).

use std::time::Duration;

use bytes::BufMut;

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;

const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;
const LINKTYPE_ETHERNET: u16 = 1;

/// Option codes are per block type, but for the first two.
mod option {
    pub const END: u16 = 0;
    pub const COMMENT: u16 = 1;
    pub const SHB_USERAPPL: u16 = 4;
    pub const IF_NAME: u16 = 2;
    pub const IF_TSRESOL: u16 = 9;
    pub const ISB_IFRECV: u16 = 4;
    pub const ISB_OSDROP: u16 = 7;
}

/// A frame and what is known about it.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// When it was received, since 1970.
    pub time: Duration,
    /// Its bytes, or the first of them.
    pub frame: &'a [u8],
    /// How many bytes it had on the wire.
    pub original_length: usize,
    /// Anything a reader should know.
    pub comment: &'a str,
}

/// Opens a section with its one interface.
pub fn put_header(buffer: &mut Vec<u8>, interface: &str) {
    put_block(buffer, SECTION_HEADER, |body| {
        body.put_u32_ne(BYTE_ORDER_MAGIC);
        body.put_u16_ne(1);
        body.put_u16_ne(0);
        // The length of the section: unknown while it is written.
        body.put_i64_ne(-1);
        put_option(body, option::SHB_USERAPPL, concat!("mirrorctl ", env!("CARGO_PKG_VERSION")).as_bytes());
        put_option(body, option::END, &[]);
    });
    put_block(buffer, INTERFACE_DESCRIPTION, |body| {
        body.put_u16_ne(LINKTYPE_ETHERNET);
        body.put_u16_ne(0);
        // No limit on the captured length.
        body.put_u32_ne(0);
        put_option(body, option::IF_NAME, interface.as_bytes());
        put_option(body, option::IF_TSRESOL, &[9]);
        put_option(body, option::END, &[]);
    });
}

/// Adds a frame.
pub fn put_packet(buffer: &mut Vec<u8>, packet: &Packet<'_>) {
    put_block(buffer, ENHANCED_PACKET, |body| {
        body.put_u32_ne(0);
        put_time(body, packet.time);
        put_length(body, packet.frame.len());
        put_length(body, packet.original_length.max(packet.frame.len()));
        put_padded(body, packet.frame);
        put_option(body, option::COMMENT, packet.comment.as_bytes());
        put_option(body, option::END, &[]);
    });
}

/// Adds the counters of the interface: how many packets it received and, if known, how many the kernel dropped.
pub fn put_statistics(buffer: &mut Vec<u8>, time: Duration, received: u64, dropped: Option<u64>) {
    put_block(buffer, INTERFACE_STATISTICS, |body| {
        body.put_u32_ne(0);
        put_time(body, time);
        put_option(body, option::ISB_IFRECV, &received.to_ne_bytes());
        if let Some(dropped) = dropped {
            put_option(body, option::ISB_OSDROP, &dropped.to_ne_bytes());
        }
        put_option(body, option::END, &[]);
    });
}

/// A block has its length at both ends, so that files can be read backwards.
fn put_block(buffer: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = buffer.len();
    buffer.put_u32_ne(kind);
    buffer.put_u32_ne(0);
    body(buffer);
    let length = u32::try_from(buffer.len() + 4 - start).unwrap_or(u32::MAX).to_ne_bytes();
    buffer[start + 4..start + 8].copy_from_slice(&length);
    buffer.put_slice(&length);
}

/// The upper half comes first whatever the byte order. 64 bits of nanoseconds last until 2554.
fn put_time(body: &mut Vec<u8>, time: Duration) {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    body.put_u32_ne((nanoseconds >> 32) as u32);
    body.put_u32_ne(nanoseconds as u32);
}

fn put_length(body: &mut Vec<u8>, length: usize) {
    body.put_u32_ne(u32::try_from(length).unwrap_or(u32::MAX));
}

fn put_option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX))];
    body.put_u16_ne(code);
    body.put_u16_ne(value.len() as u16);
    put_padded(body, value);
}

/// Everything starts at a multiple of 4 bytes.
fn put_padded(body: &mut Vec<u8>, bytes: &[u8]) {
    body.put_slice(bytes);
    body.put_bytes(0, bytes.len().next_multiple_of(4) - bytes.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_packet_is_the_block_of_the_draft() {
        let mut buffer = Vec::new();
        let packet =
            Packet { time: Duration::new(5, 7), frame: &[1, 2, 3, 4, 5], original_length: 60, comment: "VNI 1" };
        put_packet(&mut buffer, &packet);
        let expected: [&[u8]; 12] = [
            &[6, 0, 0, 0],
            &[56, 0, 0, 0],
            &[0, 0, 0, 0],
            &[1, 0, 0, 0], // 5,000,000,007 is 0x1_2a05_f207.
            &[0x07, 0xf2, 0x05, 0x2a],
            &[5, 0, 0, 0],
            &[60, 0, 0, 0],
            &[1, 2, 3, 4, 5, 0, 0, 0],
            &[1, 0, 5, 0],
            &[b'V', b'N', b'I', b' ', b'1', 0, 0, 0],
            &[0, 0, 0, 0],
            &[56, 0, 0, 0],
        ];
        assert_eq!(buffer, expected.concat());
    }

    #[test]
    fn every_block_can_be_walked_from_both_ends() {
        let mut buffer = Vec::new();
        put_header(&mut buffer, "vxlan [::]:4789");
        for length in 0..9 {
            let frame = vec![0xaa; length];
            put_packet(&mut buffer, &Packet { time: Duration::ZERO, frame: &frame, original_length: 0, comment: "" });
        }
        put_statistics(&mut buffer, Duration::ZERO, 9, Some(1));
        put_statistics(&mut buffer, Duration::ZERO, 9, None);

        let word = |at: usize| u32::from_ne_bytes(buffer[at..at + 4].try_into().unwrap()) as usize;
        let (mut at, mut blocks) = (0, 0);
        while at < buffer.len() {
            let length = word(at + 4);
            assert_eq!(length % 4, 0);
            assert_eq!(word(at + length - 4), length, "block {blocks}");
            at += length;
            blocks += 1;
        }
        assert_eq!((at, blocks), (buffer.len(), 13));
    }
}

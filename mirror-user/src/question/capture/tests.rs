//! Files written by hand, field by field as the drafts have them.

use std::io::{self, Read};

use proptest::prelude::*;

use super::*;

/// An ARP frame, as far as anybody cares.
const FRAME: [u8; 15] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x06, 0xaa];

fn le(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn be(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

/// draft-ietf-opsawg-pcap section 4: magic number, version 2.4, two reserved words, snap length, link type.
fn pcap_header(link: u32) -> Vec<u8> {
    le(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 262_144, link])
}

/// Section 5: seconds, fraction, captured length, original length, data.
fn record(data: &[u8]) -> Vec<u8> {
    [le(&[1, 2, data.len() as u32, 1500]).as_slice(), data].concat()
}

fn read(file: &[u8]) -> Result<Vec<Result<Packet, CaptureError>>, CaptureError> {
    Ok(Reader::new(file)?.collect())
}

#[track_caller]
fn frames(file: &[u8]) -> Vec<Vec<u8>> {
    let packets = read(file).expect("a capture");
    let packets: Vec<_> = packets.into_iter().map(|packet| packet.expect("a packet")).collect();
    let numbers: Vec<_> = packets.iter().map(|packet| packet.number).collect();
    assert_eq!(numbers, (1..=packets.len() as u64).collect::<Vec<_>>(), "packets are counted from 1");
    packets.into_iter().map(|packet| packet.frame).collect()
}

/// How many packets come before the end, and what is said there.
#[track_caller]
fn fails(file: &[u8]) -> (usize, String) {
    let mut packets = match Reader::new(file) {
        Ok(packets) => packets,
        Err(error) => return (0, error.to_string()),
    };
    let mut count = 0;
    loop {
        match packets.next().expect("an error at the end") {
            Ok(_) => count += 1,
            Err(error) => {
                assert!(packets.next().is_none(), "nothing comes after {error}");
                return (count, error.to_string());
            }
        }
    }
}

#[test]
fn a_pcap_of_either_byte_order_and_resolution_is_read() {
    for magic in [0xa1b2_c3d4, 0xa1b2_3c4d] {
        let little = [le(&[magic, 0x0004_0002, 0, 0, 65535, 1]), le(&[1, 2, 15, 60]), FRAME.to_vec()].concat();
        assert_eq!(frames(&little), [FRAME], "{magic:#x}, little endian");
        let big = [be(&[magic, 0x0002_0004, 0, 0, 65535, 1]), be(&[1, 2, 15, 60]), FRAME.to_vec()].concat();
        assert_eq!(frames(&big), [FRAME], "{magic:#x}, big endian");
    }
    // libpcap's sf-pcap.c: the header of such a packet has an interface index, a protocol and a type behind it.
    let patched =
        [le(&[0xa1b2_cd34, 0x0004_0002, 0, 0, 65535, 1]), le(&[1, 2, 15, 60, 3, 0x0806]), FRAME.to_vec()].concat();
    assert_eq!(frames(&patched), [FRAME]);
}

#[test]
fn a_packet_tells_what_of_it_is_missing() {
    let pcap = [pcap_header(1), record(&FRAME)].concat();
    assert_eq!(read(&pcap).expect("a capture")[0].as_ref().expect("a packet").missing, 1500 - 15);
    // A file that says it captured more than there was.
    let short = [pcap_header(1), le(&[1, 2, 15, 14]), FRAME.to_vec()].concat();
    assert_eq!(read(&short).expect("a capture")[0].as_ref().expect("a packet").missing, 0);
}

#[test]
fn a_pcap_without_packets_is_empty() {
    assert_eq!(frames(&pcap_header(1)), [] as [Vec<u8>; 0]);
}

#[test]
fn packets_come_in_order_and_empty_ones_count() {
    let file = [pcap_header(1), record(&FRAME), record(&[]), record(&FRAME[..14])].concat();
    assert_eq!(frames(&file), [FRAME.to_vec(), vec![], FRAME[..14].to_vec()]);
}

/// Section 4: FCS length 4 and the P bit in the upper bits of the word that ends with the link type.
#[test]
fn what_is_said_about_check_sequences_is_no_part_of_the_link_type() {
    let file = [pcap_header(0x4400_0001), record(&FRAME)].concat();
    assert_eq!(frames(&file), [FRAME]);
}

#[test]
fn packets_before_a_cut_are_kept() {
    let whole = [pcap_header(1), record(&FRAME), record(&FRAME)].concat();
    let first_end = 24 + 16 + FRAME.len();
    for length in 24..whole.len() {
        let expected = match length {
            24 => continue,
            length if length < first_end => (0, "read capture: it is cut off inside packet 1"),
            length if length == first_end => continue,
            _ => (1, "read capture: it is cut off inside packet 2"),
        };
        let (count, error) = fails(&whole[..length]);
        assert_eq!((count, error.as_str()), expected, "{length} bytes");
    }
    for length in 4..24 {
        assert_eq!(fails(&whole[..length]), (0, "read capture: it is cut off after packet 0".into()), "{length} bytes");
    }
}

#[test]
fn other_files_are_no_captures() {
    for file in [&b""[..], b"\xd4", b"MZ\x90\x00\x03\x00\x00\x00", b"\x1f\x8b\x08\x00abcd", b"\n\r\r\n\0\0\0\0abcd"] {
        assert_eq!(fails(file), (0, "read capture: it is neither pcap nor pcapng".into()), "{file:02x?}");
    }
    assert_eq!(
        fails(&le(&[0xa1b2_c3d4, 0x0004_0003, 0, 0, 262_144, 1])),
        (0, "read capture: it is of pcap version 3; 2 is the one that is known".into())
    );
    let section = [le(&[0x0a0d_0d0a, 28, 0x1a2b_3c4d, 2]), le(&[u32::MAX, u32::MAX, 28])].concat();
    assert_eq!(fails(&section), (0, "read capture: it is of pcapng version 2; 1 is the one that is known".into()));
}

#[test]
fn a_length_is_not_believed() {
    let file = [pcap_header(1), record(&FRAME), le(&[0, 0, u32::MAX, 60]), FRAME.to_vec()].concat();
    assert_eq!(
        fails(&file),
        (1, "read packet 2 of capture: it says that it has 4294967295 bytes; 262144 are the most".into())
    );
    let file = [pcap_header(1), le(&[0, 0, PACKET_MAX, 60]), FRAME.to_vec()].concat();
    assert_eq!(fails(&file), (0, "read capture: it is cut off inside packet 1".into()));
    let longest = vec![7; PACKET_MAX as usize];
    assert_eq!(frames(&[pcap_header(1), record(&longest)].concat()), [longest]);
}

const IPV4_PACKET: [u8; 3] = [0x45, 1, 2];
const IPV6_PACKET: [u8; 3] = [0x60, 1, 2];

fn behind(ethertype: [u8; 2], packet: &[u8]) -> Vec<u8> {
    [&[0; 12], &ethertype[..], packet].concat()
}

#[test]
fn raw_ip_gets_an_ethernet_header() {
    for link in [101, 12, 14] {
        let file = [pcap_header(link), record(&IPV4_PACKET), record(&IPV6_PACKET), record(&[])].concat();
        let expected = [behind([8, 0], &IPV4_PACKET), behind([0x86, 0xdd], &IPV6_PACKET), behind([8, 0], &[])];
        assert_eq!(frames(&file), expected, "link type {link}");
    }
    // These two say what the packet is, whatever it looks like.
    assert_eq!(frames(&[pcap_header(228), record(&IPV6_PACKET)].concat()), [behind([8, 0], &IPV6_PACKET)]);
    assert_eq!(frames(&[pcap_header(229), record(&IPV4_PACKET)].concat()), [behind([0x86, 0xdd], &IPV4_PACKET)]);
}

/// https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL.html
#[test]
fn linux_cooked_packets_get_the_sender_and_the_ethertype_back() {
    let cooked = [&[0, 0, 0, 1, 0, 6, 2, 0, 0, 0, 0, 2, 0xee, 0xee, 0x08, 0x00][..], &IPV4_PACKET].concat();
    let expected = [&[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 2, 8, 0][..], &IPV4_PACKET].concat();
    assert_eq!(frames(&[pcap_header(113), record(&cooked)].concat()), [expected.as_slice()]);
    // A tunnel device: no address.
    let cooked = [&[0, 4, 0xff, 0xfe, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 0x86, 0xdd][..], &IPV6_PACKET].concat();
    assert_eq!(frames(&[pcap_header(113), record(&cooked)].concat()), [behind([0x86, 0xdd], &IPV6_PACKET)]);
    // LINUX_SLL_P_802_2 is no ethertype.
    let cooked = [&[0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4][..], &[0x42, 0x42, 3]].concat();
    assert_eq!(frames(&[pcap_header(113), record(&cooked)].concat()), [behind([0, 3], &[0x42, 0x42, 3])]);

    // https://www.tcpdump.org/linktypes/LINKTYPE_LINUX_SLL2.html
    let cooked = [&[8, 0, 0, 0, 0, 0, 0, 7, 0, 1, 0, 6, 2, 0, 0, 0, 0, 2, 0xee, 0xee][..], &IPV4_PACKET].concat();
    assert_eq!(frames(&[pcap_header(276), record(&cooked)].concat()), [expected]);
}

#[test]
fn a_packet_that_cannot_be_used_does_not_end_the_file() {
    let cooked = [&[0, 4, 0xff, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0][..], &IPV4_PACKET].concat();
    let file = [pcap_header(113), record(&cooked[..15]), record(&cooked)].concat();
    let packets = read(&file).expect("a capture");
    assert_eq!(
        packets[0].as_ref().expect_err("cut").to_string(),
        "read packet 1 of capture: it has 15 bytes, fewer than a header of link type 113 (Linux cooked)"
    );
    let second = packets[1].as_ref().expect("whole");
    assert_eq!((second.number, &second.frame), (2, &behind([8, 0], &IPV4_PACKET)));
    assert_eq!(packets.len(), 2);

    let packets = read(&[pcap_header(127), record(&FRAME), record(&FRAME)].concat()).expect("a capture");
    let errors: Vec<_> = packets.iter().map(|packet| packet.as_ref().expect_err("radiotap").to_string()).collect();
    assert_eq!(
        errors[1],
        "read packet 2 of capture: its link type is 127 (IEEE 802.11 with radiotap); Ethernet, raw IP and Linux cooked \
         are known"
    );
    assert_eq!(LinkType(999).to_string(), "999");
}

/// Block type, total length, body, total length (draft-ietf-opsawg-pcapng section 3.1).
fn block(kind: u32, body: &[u8]) -> Vec<u8> {
    let length = 12 + body.len() as u32;
    [le(&[kind, length]), body.to_vec(), le(&[length])].concat()
}

/// Section 4.1: byte-order magic, version 1.0, length of the section unknown, one option (section 3.5).
fn section() -> Vec<u8> {
    block(0x0a0d_0d0a, &[le(&[0x1a2b_3c4d, 1, u32::MAX, u32::MAX, 0x0003_0004]), b"abc\0".to_vec(), le(&[0])].concat())
}

/// Section 4.2: link type, reserved, snap length.
fn interface(link: u32, snap_length: u32) -> Vec<u8> {
    block(1, &le(&[link, snap_length]))
}

fn padded(data: &[u8]) -> Vec<u8> {
    let mut data = data.to_vec();
    data.resize(data.len().next_multiple_of(4), 0xee);
    data
}

/// Section 4.3: interface, time in two halves, captured length, original length, data.
fn enhanced(interface: u32, data: &[u8]) -> Vec<u8> {
    block(6, &[le(&[interface, 0, 0, data.len() as u32, 1500]), padded(data)].concat())
}

#[test]
fn packets_of_a_pcapng_are_read() {
    let file = [
        section(),
        interface(1, 0),
        interface(101, 0),
        // Section 4.5, name resolution: its one record is the end of records.
        block(4, &le(&[0])),
        enhanced(0, &FRAME),
        enhanced(1, &IPV6_PACKET),
        // With an option: a comment.
        block(6, &[le(&[0, 0, 0, 4, 4]), vec![1, 2, 3, 4], le(&[0x0002_0001]), b"hi\0\0".to_vec(), le(&[0])].concat()),
        // A kind that nobody knows.
        block(0x8000_0001, &[9; 400]),
        // Section 4.4: original length, data.
        block(3, &[le(&[15]), padded(&FRAME)].concat()),
        // Appendix A: interface, drops, time, lengths, data.
        block(2, &[vec![1, 0, 9, 9], le(&[0, 0, 3, 3]), padded(&IPV4_PACKET)].concat()),
    ];
    let expected = [
        FRAME.to_vec(),
        behind([0x86, 0xdd], &IPV6_PACKET),
        vec![1, 2, 3, 4],
        FRAME.to_vec(),
        behind([8, 0], &IPV4_PACKET),
    ];
    assert_eq!(frames(&file.concat()), expected);
}

#[test]
fn a_simple_packet_is_as_long_as_its_interface_allows() {
    let file = [section(), interface(1, 14), block(3, &[le(&[1500]), padded(&FRAME[..14])].concat())].concat();
    assert_eq!(frames(&file), [&FRAME[..14]]);
}

#[test]
fn a_pcapng_of_the_other_byte_order_is_read_section_by_section() {
    let big_block = |kind: u32, body: Vec<u8>| {
        let length = 12 + body.len() as u32;
        [be(&[kind, length]), body, be(&[length])].concat()
    };
    let big = [
        big_block(0x0a0d_0d0a, be(&[0x1a2b_3c4d, 0x0001_0000, u32::MAX, u32::MAX])),
        big_block(1, be(&[101 << 16, 0])),
        big_block(6, [be(&[0, 0, 0, 3, 3]), padded(&IPV4_PACKET)].concat()),
    ]
    .concat();
    assert_eq!(frames(&big), [behind([8, 0], &IPV4_PACKET)]);
    // A section begins with no interfaces, and in its own byte order.
    let little = [section(), interface(1, 0), enhanced(0, &FRAME)].concat();
    assert_eq!(frames(&[big.clone(), little.clone()].concat()), [behind([8, 0], &IPV4_PACKET), FRAME.to_vec()]);
    assert_eq!(frames(&[little, big].concat()), [FRAME.to_vec(), behind([8, 0], &IPV4_PACKET)]);
}

#[test]
fn what_the_own_writer_writes_is_read() {
    let mut file = Vec::new();
    crate::pcapng::put_header(&mut file, "vxlan");
    for length in [14, 15, 60, 1514] {
        let frame = vec![7; length];
        let packet =
            crate::pcapng::Packet { time: std::time::Duration::ZERO, frame: &frame, original_length: 0, comment: "x" };
        crate::pcapng::put_packet(&mut file, &packet);
    }
    crate::pcapng::put_statistics(&mut file, std::time::Duration::ZERO, 4, None);
    assert_eq!(frames(&file).iter().map(Vec::len).collect::<Vec<_>>(), [14, 15, 60, 1514]);
}

#[test]
fn a_pcapng_that_contradicts_itself_is_refused_behind_what_was_read() {
    let start = [section(), interface(1, 0), enhanced(0, &FRAME)].concat();
    let refused = |rest: &[u8]| {
        let (count, error) = fails(&[&start, rest].concat());
        assert_eq!(count, 1, "{error}");
        error
    };
    let packet = |captured| block(6, &[le(&[0, 0, 0, captured, 60]), vec![0; 16]].concat());
    assert_eq!(refused(&packet(17)), "read capture after packet 1: a packet is longer than its block");
    assert_eq!(
        refused(&packet(u32::MAX)),
        "read packet 2 of capture: it says that it has 4294967295 bytes; 262144 are the most"
    );
    assert_eq!(
        refused(&enhanced(1, &FRAME)),
        "read capture after packet 1: a packet is of an interface that is not described"
    );
    for length in [0, 4, 8, 28] {
        assert_eq!(
            refused(&le(&[6, length, 0, 0, 0, 0, 0, 0])),
            "read capture after packet 1: a block is shorter than what it holds",
            "{length}"
        );
    }
    assert_eq!(refused(&le(&[6, 33, 0])), "read capture after packet 1: the length of a block is no multiple of 4");
    assert_eq!(
        refused(&[le(&[6, 32, 0, 0, 0, 0, 0]), le(&[36])].concat()),
        "read capture after packet 1: the two lengths of a block differ"
    );
    assert_eq!(refused(&le(&[99, 16, 0, 20])), "read capture after packet 1: the two lengths of a block differ");
    // A block of 4 GB that isn't there.
    assert_eq!(refused(&le(&[99, u32::MAX - 3, 0, 0])), "read capture: it is cut off after packet 1");
    assert_eq!(refused(&le(&[6, u32::MAX - 3, 0, 0, 0, 15, 15])), "read capture: it is cut off inside packet 2");
    assert_eq!(refused(&[0]), "read capture: it is cut off after packet 1");
}

#[test]
fn interfaces_are_bounded() {
    let mut file = section();
    for _ in 0..INTERFACES_MAX {
        file.extend(interface(1, 0));
    }
    assert_eq!(frames(&[file.clone(), enhanced(65_535, &FRAME)].concat()), [FRAME]);
    assert_eq!(
        fails(&[file, interface(1, 0)].concat()),
        (0, "read capture after packet 0: a section has more than 65536 interfaces".into())
    );
}

/// A file that fails behind its first bytes, and until then gives one byte at a time.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((first, rest)) = self.0.split_first() else {
            return Err(io::Error::other("the disk is gone"));
        };
        buffer[0] = *first;
        self.0 = rest;
        Ok(1)
    }
}

#[test]
fn an_error_of_the_reader_is_told_and_small_reads_are_no_end() {
    for file in [[pcap_header(1), record(&FRAME)].concat(), [section(), interface(1, 0), enhanced(0, &FRAME)].concat()]
    {
        let mut packets = Reader::new(Broken(&file)).expect("a capture");
        assert_eq!(packets.next().expect("one packet").expect("a packet").frame, FRAME);
        let error = packets.next().expect("an error").expect_err("broken");
        assert_eq!(error.to_string(), "read capture after packet 1: the disk is gone");
        assert!(packets.next().is_none());
    }
}

proptest! {
    #[test]
    fn packets_come_back_from_either_format(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..100), 0..8)
    ) {
        let records: Vec<_> = packets.iter().map(|packet| record(packet)).collect();
        prop_assert_eq!(frames(&[pcap_header(1), records.concat()].concat()), packets.clone());
        let blocks: Vec<_> = packets.iter().map(|packet| enhanced(0, packet)).collect();
        prop_assert_eq!(frames(&[section(), interface(1, 0), blocks.concat()].concat()), packets);
    }

    #[test]
    fn a_changed_file_gives_packets_and_at_most_one_end(
        changes in proptest::collection::vec((0..200usize, any::<u8>()), 0..4),
        cut in 0..300usize,
        is_pcap: bool,
    ) {
        let mut file = if is_pcap {
            [pcap_header(1), record(&FRAME), record(&FRAME)].concat()
        } else {
            [section(), interface(1, 0), enhanced(0, &FRAME), block(3, &[le(&[15]), padded(&FRAME)].concat())].concat()
        };
        for (at, byte) in changes {
            if let Some(place) = file.get_mut(at) {
                *place = byte;
            }
        }
        file.truncate(cut);
        if let Ok(mut packets) = Reader::new(file.as_slice()) {
            let seen: Vec<_> = packets.by_ref().collect();
            let fatal = seen.iter().filter(|packet| packet.as_ref().is_err_and(|error| !error.is_about_one_packet()));
            prop_assert!(fatal.count() <= 1);
            prop_assert!(packets.next().is_none());
        }
    }
}

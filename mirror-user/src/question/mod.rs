//! What `explain` is asked about, as frames that the kernel can be asked about: a packet in hexadecimal digits, a flow
//! in words, a capture file.
//!
//! Pure: text or a reader in, frames out. A frame begins with its Ethernet header.

pub mod capture;
pub mod flow;
pub mod hex;

use std::borrow::Cow;

/// Bytes of an Ethernet header: no shorter frame can be asked about.
pub const SHORTEST: usize = 14;
/// The longest frame that the kernel is asked about.
///
/// A test run takes a page less headroom and room for `struct skb_shared_info` (net/bpf/test_run.c, `bpf_test_init`): 3,712
/// bytes in Linux 6.18 with pages of 4 KiB and 17 fragments a packet. With 45, the most that CONFIG_MAX_SKB_FRAGS
/// allows, the same sum is 3,264. This is below both.
pub const LONGEST: usize = 3072;

const ETHERTYPE_AT: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
/// A priority tag (IEEE 802.1Q: VLAN 0).
const PRIORITY_TAG: [u8; 4] = [0x81, 0x00, 0, 0];

/// No frame: shorter than an Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ask about frame: it has {length} bytes; an Ethernet header has {SHORTEST}")]
pub struct TooShort {
    /// Bytes it has.
    pub length: usize,
}

/// The frame to ask the kernel about, which gets the verdict of `frame`.
///
/// Test runs of Linux 6.18 take no frame that ends inside an IP header right behind the Ethernet header, and those of
/// some kernels no Ethernet header alone. Such a frame gets a VLAN tag, which verdicts step over. A frame longer than
/// [`LONGEST`] is cut: ports behind that many bytes of IPv6 extension headers are lost.
pub fn askable(frame: &[u8]) -> Result<Cow<'_, [u8]>, TooShort> {
    let Some((addresses, rest)) = frame.split_at_checked(ETHERTYPE_AT).filter(|_| frame.len() >= SHORTEST) else {
        return Err(TooShort { length: frame.len() });
    };
    let network_header = match [rest[0], rest[1]] {
        IPV4 => 20,
        IPV6 => 40,
        _ => 1,
    };
    if frame.len() < SHORTEST + network_header {
        return Ok(Cow::Owned([addresses, &PRIORITY_TAG, rest].concat()));
    }
    Ok(Cow::Borrowed(&frame[..frame.len().min(LONGEST)]))
}

/// An Ethernet frame with zero addresses.
fn ethernet(ethertype: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(SHORTEST + payload.len());
    frame.resize(ETHERTYPE_AT, 0);
    frame.extend(ethertype);
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_takes_is_left_alone() {
        for (ethertype, payload) in [([0x08, 0x06], 1), (IPV4, 20), (IPV6, 40), ([0x81, 0], 4), (IPV4, LONGEST - 14)] {
            let frame = ethernet(ethertype, &vec![7; payload]);
            assert_eq!(askable(&frame), Ok(Cow::Borrowed(frame.as_slice())), "{ethertype:02x?} and {payload} bytes");
        }
    }

    #[test]
    fn a_frame_cut_in_its_first_header_gets_a_tag() {
        for (ethertype, payload) in [([0x08, 0x06], 0), (IPV4, 0), (IPV4, 19), (IPV6, 0), (IPV6, 39)] {
            let frame = ethernet(ethertype, &vec![7; payload]);
            let asked = askable(&frame).expect("14 bytes or more");
            assert_eq!(asked[..16], [&[0; 12][..], &[0x81, 0, 0, 0]].concat(), "{ethertype:02x?} and {payload} bytes");
            assert_eq!(asked[16..], frame[12..]);
        }
    }

    #[test]
    fn a_frame_without_a_whole_ethernet_header_is_refused() {
        for length in 0..14 {
            assert_eq!(askable(&vec![0; length]), Err(TooShort { length }));
        }
    }

    #[test]
    fn a_long_frame_is_cut() {
        assert_eq!(askable(&[8; LONGEST + 1]).expect("long enough").len(), LONGEST);
    }
}

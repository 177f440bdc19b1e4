//! Decapsulation: from the payload of a UDP datagram to the frame that was mirrored. Pure, and for hostile input.

use mirror_common::vxlan::{FLAGS, VXLAN_LEN};

/// A copy as it was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied<'a> {
    /// VXLAN network identifier: 24 bits.
    pub vni: u32,
    /// The frame from its Ethernet header, or the first bytes of it; never empty.
    pub frame: &'a [u8],
}

/// Why a datagram is not a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than a VXLAN header.
    #[error("{0} bytes are too short for a VXLAN header")]
    TooShort(usize),
    /// The I bit is not set: there is no VNI in it.
    #[error("the VXLAN flags are {0:#04x}, without the bit that says the VNI is valid")]
    NoVni(u8),
    /// Nothing follows the VXLAN header.
    #[error("there is no frame behind the VXLAN header")]
    NoFrame,
}

/// Takes the VXLAN header off.
///
/// RFC 7348 §5: the I flag must be 1 in a valid header; the other flags and the reserved fields are to be ignored on
/// receipt, so they are.
pub fn decapsulate(datagram: &[u8]) -> Result<Copied<'_>, Malformed> {
    let Some((&[flags, _, _, _, vni @ .., _], frame)) = datagram.split_first_chunk::<VXLAN_LEN>() else {
        return Err(Malformed::TooShort(datagram.len()));
    };
    if flags & FLAGS == 0 {
        return Err(Malformed::NoVni(flags));
    }
    if frame.is_empty() {
        return Err(Malformed::NoFrame);
    }
    let [high, middle, low] = vni;
    Ok(Copied { vni: u32::from_be_bytes([0, high, middle, low]), frame })
}

#[cfg(test)]
mod tests {
    use mirror_common::vxlan::MAX_VNI;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_copy_is_taken_out_of_its_header() {
        let datagram = [0x08, 0, 0, 0, 0x12, 0x34, 0x56, 0, 0xaa, 0xbb];
        assert_eq!(decapsulate(&datagram), Ok(Copied { vni: 0x0012_3456, frame: &[0xaa, 0xbb] }));
    }

    #[test]
    fn reserved_bits_are_ignored() {
        let datagram = [0xff, 0xff, 0xff, 0xff, 0, 0, 42, 0xff, 1];
        assert_eq!(decapsulate(&datagram), Ok(Copied { vni: 42, frame: &[1] }));
    }

    #[test]
    fn what_is_no_copy_is_refused() {
        assert_eq!(decapsulate(&[]), Err(Malformed::TooShort(0)));
        assert_eq!(decapsulate(&[8, 0, 0, 0, 0, 0, 1]), Err(Malformed::TooShort(7)));
        assert_eq!(decapsulate(&[8, 0, 0, 0, 0, 0, 1, 0]), Err(Malformed::NoFrame));
        assert_eq!(decapsulate(&[0xf7, 0, 0, 0, 0, 0, 1, 0, 0xaa]), Err(Malformed::NoVni(0xf7)));
        assert_eq!(
            Malformed::NoVni(0).to_string(),
            "the VXLAN flags are 0x00, without the bit that says the VNI is valid"
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_copy_or_refused(datagram in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(copied) = decapsulate(&datagram) {
                prop_assert!(copied.vni <= MAX_VNI);
                prop_assert_eq!(copied.frame, &datagram[VXLAN_LEN..]);
            }
        }

        #[test]
        fn what_is_encapsulated_comes_out(vni in 0..=MAX_VNI, frame in proptest::collection::vec(any::<u8>(), 1..64)) {
            let mut datagram = vec![FLAGS, 0, 0, 0];
            datagram.extend_from_slice(&vni.to_be_bytes()[1..]);
            datagram.push(0);
            datagram.extend_from_slice(&frame);
            prop_assert_eq!(decapsulate(&datagram), Ok(Copied { vni, frame: &frame }));
        }
    }
}

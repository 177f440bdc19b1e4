//! Link types: what stands in front of the packets of a capture (the registry of draft-ietf-opsawg-pcaplinktype).

use std::fmt;

use super::CaptureError;
use crate::question::{IPV4, IPV6, ethernet};

/// A link type, by its number in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LinkType(pub u16);

impl LinkType {
    const ETHERNET: Self = Self(1);
    /// Raw IP as libpcap on Linux wrote it once: the number that the BSDs have for it.
    const RAW_BSD: Self = Self(12);
    /// The same as OpenBSD has it.
    const RAW_OPENBSD: Self = Self(14);
    const RAW: Self = Self(101);
    const LINUX_COOKED: Self = Self(113);
    const IPV4: Self = Self(228);
    const IPV6: Self = Self(229);
    const LINUX_COOKED_2: Self = Self(276);

    /// The packet as an Ethernet frame; `packet` is its number, for errors.
    pub(super) fn frame(self, packet: u64, data: Vec<u8>) -> Result<Vec<u8>, CaptureError> {
        let length = data.len();
        let frame = match self {
            Self::ETHERNET => Some(data),
            // What is neither is no IP packet under either ethertype.
            Self::RAW | Self::RAW_BSD | Self::RAW_OPENBSD => {
                let is_v6 = data.first().is_some_and(|byte| byte >> 4 == 6);
                Some(ethernet(if is_v6 { IPV6 } else { IPV4 }, &data))
            }
            Self::IPV4 => Some(ethernet(IPV4, &data)),
            Self::IPV6 => Some(ethernet(IPV6, &data)),
            Self::LINUX_COOKED => linux_cooked(&data),
            Self::LINUX_COOKED_2 => linux_cooked_2(&data),
            _ => return Err(CaptureError::LinkType { packet, link: self }),
        };
        frame.ok_or(CaptureError::CutHeader { packet, link: self, length })
    }

    const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0 => "BSD loopback",
            1 => "Ethernet",
            6 => "Token Ring",
            9 => "PPP",
            12 | 14 | 101 => "raw IP",
            50 => "PPP over serial lines",
            51 => "PPPoE",
            104 => "Cisco HDLC",
            105 => "IEEE 802.11",
            108 => "OpenBSD loopback",
            113 => "Linux cooked",
            127 => "IEEE 802.11 with radiotap",
            189 | 220 => "USB",
            195 => "IEEE 802.15.4",
            201 => "Bluetooth",
            228 => "IPv4",
            229 => "IPv6",
            239 => "NFLOG",
            253 => "netlink",
            276 => "Linux cooked version 2",
            _ => return None,
        })
    }
}

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} ({name})", self.0),
            None => self.0.fmt(f),
        }
    }
}

/// LINKTYPE_LINUX_SLL: type of packet, ARPHRD, length of the address, 8 bytes for it, protocol; 16 bytes.
fn linux_cooked(data: &[u8]) -> Option<Vec<u8>> {
    let (header, payload) = data.split_first_chunk::<16>()?;
    Some(uncooked([header[4], header[5]], &header[6..], [header[14], header[15]], payload))
}

/// LINKTYPE_LINUX_SLL2: protocol, 2 reserved, interface, ARPHRD, type of packet, length of the address, 8 bytes for it.
fn linux_cooked_2(data: &[u8]) -> Option<Vec<u8>> {
    let (header, payload) = data.split_first_chunk::<20>()?;
    Some(uncooked([0, header[11]], &header[12..], [header[0], header[1]], payload))
}

/// The frame as far as it is known: the sender's address where it has one of Ethernet, and the protocol. Protocols below
/// 0x0600 are Linux's own words for frames with a length field (ETH_P_802_3, ETH_P_802_2).
fn uncooked(address_length: [u8; 2], address: &[u8], protocol: [u8; 2], payload: &[u8]) -> Vec<u8> {
    let is_ethertype = u16::from_be_bytes(protocol) >= 0x0600;
    let field = if is_ethertype { protocol } else { (payload.len().min(1500) as u16).to_be_bytes() };
    let mut frame = ethernet(field, payload);
    if address_length == [0, 6] {
        frame[6..12].copy_from_slice(&address[..6]);
    }
    frame
}

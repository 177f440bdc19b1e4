//! What the kernel leaves to devices: unfinished checksums, super-packets, VLAN tags beside the frame. Turned back
//! into the frames that a wire would have carried, and switched off where a test wants them off.
//!
//! The segmenter is the lab's own reference for "one copy per wire packet": it follows RFC 9293 and what the kernel
//! documents in `Documentation/networking/segmentation-offloads.rst`.

use std::os::fd::AsRawFd;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use crate::checksum;
use crate::frame::{Frame, IPV4, TCP, Tag, UDP, be32};

/// What a packet socket says about a frame beside its bytes (`struct virtio_net_hdr`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// The checksum from `start` to the end is still to be written at `start + offset`.
    pub checksum: Option<Partial>,
    /// The frame stands for several, each with so many bytes of payload.
    pub segment_size: Option<u16>,
}

/// Where an unfinished checksum is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partial {
    /// First byte that it covers.
    pub start: u16,
    /// Its place, counted from `start`.
    pub offset: u16,
}

/// The frames that a wire would have carried for what a packet socket saw.
pub fn on_the_wire(mut bytes: Vec<u8>, unfinished: Unfinished, tag: Option<Tag>) -> Result<Vec<Frame>> {
    let mut frames = match (unfinished.segment_size, unfinished.checksum) {
        (Some(size), _) => segment(&bytes, usize::from(size)).context("segment a super-packet")?,
        (None, Some(partial)) => {
            finish(&mut bytes, partial)?;
            vec![bytes]
        }
        (None, None) => vec![bytes],
    };
    if let Some(tag) = tag {
        frames.iter_mut().for_each(|frame| tag.put_into(frame));
    }
    Ok(frames.into_iter().map(Frame).collect())
}

/// The frame as a sender gives it to a device that finishes it: with nothing but the sum of the pseudo header in the place
/// of its checksum; with `segment_size`, to be cut to frames with so many bytes of payload.
pub fn unfinished(frame: &Frame, segment_size: Option<u16>) -> Result<(Frame, Unfinished)> {
    let ip = frame.ip().context("no IP header")?;
    let offset = match ip.protocol {
        TCP => 16,
        UDP => 6,
        other => bail!("protocol {other} has no checksum that devices finish"),
    };
    let sum = checksum::pseudo_header(ip.source, ip.destination, ip.protocol, ip.end - ip.transport);
    let mut bytes = frame.0.clone();
    bytes[ip.transport + offset..ip.transport + offset + 2].copy_from_slice(&sum.to_be_bytes());
    let checksum = Some(Partial { start: ip.transport as u16, offset: offset as u16 });
    Ok((Frame(bytes), Unfinished { checksum, segment_size }))
}

/// Writes a checksum whose pseudo-header part is in place already.
fn finish(bytes: &mut [u8], partial: Partial) -> Result<()> {
    let start = usize::from(partial.start);
    let at = start + usize::from(partial.offset);
    if at + 2 > bytes.len() {
        bail!("an unfinished checksum at byte {at} of a frame of {}", bytes.len());
    }
    let value = match !checksum::add(0, &bytes[start..]) {
        0 => 0xffff,
        value => value,
    };
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
    Ok(())
}

fn segment(bytes: &[u8], size: usize) -> Result<Vec<Vec<u8>>> {
    let frame = Frame(bytes.to_vec());
    let layers = frame.layers().context("no Ethernet header")?;
    let ip = layers.ip.clone().context("no IP header")?;
    let payload = ip.transport
        + match ip.protocol {
            TCP => usize::from(bytes.get(ip.transport + 12).context("no TCP header")? >> 4) * 4,
            UDP => 8,
            other => bail!("no way to segment protocol {other}"),
        };
    let end = bytes.len().min(ip.end);
    let chunks: Vec<&[u8]> = bytes.get(payload..end).context("no payload")?.chunks(size).collect();
    let last = chunks.len().saturating_sub(1);
    let mut frames = Vec::with_capacity(chunks.len());
    for (index, chunk) in chunks.iter().enumerate() {
        let mut out = bytes[..payload].to_vec();
        out.extend_from_slice(chunk);
        let ip_length = out.len() - layers.network;
        if layers.ethertype == IPV4 {
            let id = u16::from_be_bytes([out[layers.network + 4], out[layers.network + 5]]);
            out[layers.network + 2..layers.network + 4].copy_from_slice(&(ip_length as u16).to_be_bytes());
            out[layers.network + 4..layers.network + 6].copy_from_slice(&id.wrapping_add(index as u16).to_be_bytes());
            checksum::fill_ipv4(&mut out, layers.network);
        } else {
            out[layers.network + 4..layers.network + 6].copy_from_slice(&((ip_length - 40) as u16).to_be_bytes());
        }
        if ip.protocol == TCP {
            const FIN_AND_PSH: u8 = 0x09;
            const CWR: u8 = 0x80;
            let sequence = be32(&out, ip.transport + 4).context("no TCP header")?;
            let sequence = sequence.wrapping_add((index * size) as u32);
            out[ip.transport + 4..ip.transport + 8].copy_from_slice(&sequence.to_be_bytes());
            if index != last {
                out[ip.transport + 13] &= !FIN_AND_PSH;
            }
            if index != 0 {
                out[ip.transport + 13] &= !CWR;
            }
        } else {
            let length = (out.len() - ip.transport) as u16;
            out[ip.transport + 4..ip.transport + 6].copy_from_slice(&length.to_be_bytes());
        }
        let mut whole = ip.clone();
        whole.end = out.len();
        checksum::fill_transport(&mut out, &whole);
        frames.push(out);
    }
    Ok(frames)
}

/// A switch of `ethtool -K`, by its ioctl number (`linux/ethtool.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    name: &'static str,
    command: u32,
}

/// `gro`: received segments are put together. On a veth it also turns NAPI on.
pub const GRO: Switch = Switch { name: "gro", command: 0x2c };
/// `tso`: the device takes TCP super-packets. Off, the kernel cuts them in front of it.
pub const TSO: Switch = Switch { name: "tso", command: 0x1f };

/// Those of `ethtool -K DEV tx off sg off tso off gso off gro off`.
const SWITCHES: [Switch; 5] = [
    GRO,
    Switch { name: "gso", command: 0x24 },
    TSO,
    Switch { name: "sg", command: 0x19 },
    Switch { name: "tx checksum", command: 0x17 },
];

/// `struct ethtool_value`.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

/// Switches every offload of `interface` off, in the network namespace of the calling thread.
pub fn switch_off(interface: &str) -> Result<()> {
    SWITCHES.into_iter().try_for_each(|which| switch(interface, which, false))
}

/// Has `interface` put received frames together to super-packets (`ethtool -K DEV gro on`), in the network namespace of
/// the calling thread.
pub fn switch_gro_on(interface: &str) -> Result<()> {
    switch(interface, GRO, true)
}

/// Turns one switch of `interface`, in the network namespace of the calling thread.
pub fn switch(interface: &str, Switch { name, command }: Switch, on: bool) -> Result<()> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").context("open a socket for ethtool")?;
    let mut value = Value { command, data: u32::from(on) };
    // SAFETY: an `ifreq` is plain old data; zeroes are a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the request is whole, and its data is a `struct ethtool_value`, as the five commands want.
    let code = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    let word = if on { "on" } else { "off" };
    Errno::result(code).with_context(|| format!("switch {name} of {interface} {word}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft;

    #[test]
    fn a_super_packet_becomes_valid_segments() {
        let whole = craft::tcp_v4(3000, 0x19);
        let unfinished = Unfinished { checksum: None, segment_size: Some(1448) };
        let frames = on_the_wire(whole.0.clone(), unfinished, None).unwrap();
        let lengths: Vec<usize> = frames.iter().map(|frame| frame.0.len()).collect();
        assert_eq!(lengths, [54 + 1448, 54 + 1448, 54 + 104]);
        for frame in &frames {
            checksum::verify(frame).unwrap();
        }
        let flags: Vec<u8> = frames.iter().map(|frame| frame.0[14 + 20 + 13]).collect();
        assert_eq!(flags, [0x10, 0x10, 0x19], "FIN and PSH belong to the last segment");
        let payload: Vec<u8> = frames.iter().flat_map(|frame| frame.0[54..].to_vec()).collect();
        assert_eq!(payload, whole.0[54..]);
    }

    #[test]
    fn what_was_left_unfinished_is_finished_as_it_was() {
        for whole in [craft::tcp_v4(999, 0x18), craft::udp_v4(1000)] {
            let (frame, left) = unfinished(&whole, None).unwrap();
            assert_ne!(frame, whole);
            assert_eq!(on_the_wire(frame.0, left, None).unwrap(), [whole]);
        }
    }

    #[test]
    fn a_tag_beside_the_frame_goes_back_in() {
        let frame = craft::udp_v4(10);
        let tag = Tag { ethertype: crate::frame::VLAN, control: 7 };
        let tagged = on_the_wire(frame.0.clone(), Unfinished::default(), Some(tag)).unwrap().remove(0);
        assert_eq!(tagged.layers().unwrap().tags, [tag]);
        assert_eq!(tagged.0[..12], frame.0[..12]);
        assert_eq!(tagged.0[16..], frame.0[12..]);
    }
}

//! Packet sockets (packet(7)): frames in and out of an interface, past the protocol stack.

use std::ffi::CString;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use crate::frame::{Frame, IPV4, TCP, Tag, UDP, VLAN};
use crate::offload::{Partial, Unfinished, on_the_wire};

/// Room for the largest packet the kernel hands over (64 KB and headers) and for what it says about it.
const BUFFER: usize = 10 + 68 * 1024;
/// Bytes of packets that may wait to be read.
const QUEUE: usize = 128 << 20;
/// `struct virtio_net_hdr` (`linux/virtio_net.h`), which precedes each frame.
const VNET_HEADER: usize = 10;

/// What a packet socket listens to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listen {
    /// Nothing: it only sends.
    Nothing,
    /// Frames with this ethertype.
    Ethertype(u16),
    /// Every frame, in and out.
    Everything,
}

/// A packet socket bound to one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// A frame that passed the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// As it was on the wire.
    pub frame: Frame,
    /// Sent by the interface, not received.
    pub outgoing: bool,
    /// How many wire frames the packet stood for that the kernel handled.
    pub part_of: usize,
}

impl PacketSocket {
    /// Opens one in the network namespace of the calling thread.
    pub fn open(interface: &str, listen: Listen) -> Result<Self> {
        let what = || format!("open a packet socket on {interface}");
        // Bound to its interface before it listens: else it would hear others in between.
        // SAFETY: takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
        let fd = Errno::result(fd).with_context(what)?;
        // SAFETY: the call succeeded, so the descriptor is open and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        if listen == Listen::Everything {
            setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).with_context(what)?;
            set_packet_option(&socket, libc::PACKET_AUXDATA, 1).with_context(what)?;
        }
        set_packet_option(&socket, libc::PACKET_VNET_HDR, 1).with_context(what)?;

        let name = CString::new(interface).with_context(what)?;
        // SAFETY: `name` ends with a zero byte.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error()).with_context(what);
        }
        let protocol = match listen {
            Listen::Nothing => 0,
            Listen::Ethertype(ethertype) => ethertype,
            Listen::Everything => libc::ETH_P_ALL as u16,
        };
        // SAFETY: plain old data; zeroes are a value of it.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = index.cast_signed();
        let length = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: `address` is a whole `sockaddr_ll` and `length` its size.
        let code = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        Errno::result(code).with_context(what)?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// Sends `frame` as it is.
    pub fn send(&self, frame: &Frame) -> Result<()> {
        // An empty header in front: nothing is left to the device.
        self.send_behind([0; VNET_HEADER], frame)
    }

    /// Sends `frame` as a packet whose first `linear` bytes, 14 or more, are all that is in its linear part.
    ///
    /// The kernel does as it is told for what is a page long or longer (net/packet/af_packet.c, `packet_alloc_skb`).
    pub fn send_non_linear(&self, frame: &Frame, linear: u16) -> Result<()> {
        let mut header = [0; VNET_HEADER];
        // `hdr_len`, in host order.
        header[2..4].copy_from_slice(&linear.to_ne_bytes());
        self.send_behind(header, frame)
    }

    /// Sends `frame` as a guest gives it to a device that offers to finish it.
    pub fn send_unfinished(&self, frame: &Frame, unfinished: Unfinished) -> Result<()> {
        self.send_behind(vnet_header(frame, unfinished).with_context(|| format!("describe {frame}"))?, frame)
    }

    fn send_behind(&self, header: [u8; VNET_HEADER], frame: &Frame) -> Result<()> {
        let mut packet = header.to_vec();
        packet.extend_from_slice(frame.bytes());
        // SAFETY: the pointer and the length are those of `packet`.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        let sent = Errno::result(sent).with_context(|| format!("send {frame}"))?;
        if sent.cast_unsigned() != packet.len() {
            bail!("send {frame}: only {sent} of {} bytes went out", packet.len());
        }
        Ok(())
    }

    /// Reads everything that is there, as wire frames, to the end of `to`. Fails if the socket had to drop any.
    pub fn read_all(&mut self, to: &mut Vec<Seen>) -> Result<()> {
        while self.read_packet(to)? {}
        self.dropped_nothing()
    }

    /// Hands everything that is there to `look`, as wire frames, and keeps none. Fails if the socket had to drop any.
    pub(crate) fn read_each(&mut self, mut look: impl FnMut(&Seen)) -> Result<()> {
        let mut of_one_packet = Vec::new();
        while self.read_packet(&mut of_one_packet)? {
            of_one_packet.drain(..).for_each(|seen| look(&seen));
        }
        self.dropped_nothing()
    }

    /// Fails if the socket had to drop any packet since this was asked last.
    pub(crate) fn dropped_nothing(&self) -> Result<()> {
        let mut lost = [0_u32; 2];
        let mut length = size_of_val(&lost) as libc::socklen_t;
        // SAFETY: `lost` has the layout and `length` the size of `struct tpacket_stats`.
        let code = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                lost.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        Errno::result(code).context("read the statistics of a packet socket")?;
        match lost {
            [_, 0] => Ok(()),
            [_, drops] => bail!("the lab's own capture had to drop {drops} packets: not the product's fault"),
        }
    }

    /// Reads one packet, as the wire frames that it stands for, to the end of `to`; false when there is none.
    pub(crate) fn read_packet(&mut self, to: &mut Vec<Seen>) -> Result<bool> {
        // Aligned for `cmsghdr`; more than CMSG_SPACE of the one message there can be.
        let mut control = [0_u64; 8];
        let mut part = libc::iovec { iov_base: self.buffer.as_mut_ptr().cast(), iov_len: self.buffer.len() };
        // SAFETY: plain old data; zeroes are a value of it.
        let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
        // SAFETY: plain old data; zeroes are a value of it.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control) as _;
        // SAFETY: every pointer in `message` is to memory that lives through the call, with its size beside it.
        let length = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &raw mut message, libc::MSG_TRUNC) };
        let length = match Errno::result(length) {
            Err(Errno::EAGAIN | Errno::ENETDOWN) => return Ok(false),
            length => length.context("read from a packet socket")?.cast_unsigned(),
        };
        if length > self.buffer.len() || length < VNET_HEADER {
            bail!("a packet socket handed over {length} bytes");
        }
        let (header, frame) = self.buffer[..length].split_at(VNET_HEADER);
        let tag = vlan_tag(&message);
        let frames = on_the_wire(frame.to_vec(), unfinished(header), tag)?;
        let (outgoing, part_of) = (from.sll_pkttype == libc::PACKET_OUTGOING, frames.len());
        to.extend(frames.into_iter().map(|frame| Seen { frame, outgoing, part_of }));
        Ok(true)
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn set_packet_option(socket: &OwnedFd, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `value`.
    let code =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const value).cast(), length) };
    Ok(Errno::result(code).map(drop)?)
}

/// The fields of a `virtio_net_hdr`: flags, segmentation kind, header length, segment size, checksum start and offset;
/// 16-bit ones in host order.
fn unfinished(header: &[u8]) -> Unfinished {
    const NEEDS_CHECKSUM: u8 = 1;
    let half = |offset: usize| u16::from_ne_bytes([header[offset], header[offset + 1]]);
    Unfinished {
        checksum: (header[0] & NEEDS_CHECKSUM != 0).then(|| Partial { start: half(6), offset: half(8) }),
        segment_size: (header[1] != 0).then(|| half(4)),
    }
}

/// The `virtio_net_hdr` of a frame: what [`unfinished`] reads.
fn vnet_header(frame: &Frame, unfinished: Unfinished) -> Result<[u8; VNET_HEADER]> {
    // `linux/virtio_net.h`, VIRTIO_NET_HDR_...
    const NEEDS_CHECKSUM: u8 = 1;
    const GSO_TCPV4: u8 = 1;
    const GSO_TCPV6: u8 = 4;
    const GSO_UDP_L4: u8 = 5;
    let mut header = [0; VNET_HEADER];
    let mut put = |offset: usize, value: u16| header[offset..offset + 2].copy_from_slice(&value.to_ne_bytes());
    if let Some(Partial { start, offset }) = unfinished.checksum {
        put(6, start);
        put(8, offset);
    }
    if let Some(size) = unfinished.segment_size {
        let layers = frame.layers().context("no Ethernet header")?;
        let ip = layers.ip.context("no IP header")?;
        let (kind, length) = match ip.protocol {
            TCP if layers.ethertype == IPV4 => (GSO_TCPV4, usize::from(frame.bytes()[ip.transport + 12] >> 4) * 4),
            TCP => (GSO_TCPV6, usize::from(frame.bytes()[ip.transport + 12] >> 4) * 4),
            UDP => (GSO_UDP_L4, 8),
            other => bail!("no way to segment protocol {other}"),
        };
        put(2, (ip.transport + length) as u16);
        put(4, size);
        header[1] = kind;
    }
    if unfinished.checksum.is_some() {
        header[0] = NEEDS_CHECKSUM;
    }
    Ok(header)
}

/// The tag that the kernel took out of the frame, from `PACKET_AUXDATA`.
fn vlan_tag(message: &libc::msghdr) -> Option<Tag> {
    // SAFETY: `message` was filled in by a successful recvmsg.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, and the kernel wrote it.
        let (level, kind) = unsafe { ((*header).cmsg_level, (*header).cmsg_type) };
        if level == libc::SOL_PACKET && kind == libc::PACKET_AUXDATA {
            // SAFETY: a message of this type carries a `tpacket_auxdata`; the read allows any alignment.
            let data: libc::tpacket_auxdata =
                unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
            if data.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
                return None;
            }
            let known = data.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
            let ethertype = if known { data.tp_vlan_tpid } else { VLAN };
            return Some(Tag { ethertype, control: data.tp_vlan_tci });
        }
        // SAFETY: both pointers are into what recvmsg filled in.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

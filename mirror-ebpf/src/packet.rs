//! The packet a program was called for: the one module that touches it, and the only one with unsafe code on it.
//!
//! Reads and writes go through helpers that check bounds in the kernel and work on non-linear packets too.

use core::mem::MaybeUninit;

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_ADJ_ROOM_ENCAP_L2_SHIFT, BPF_CSUM_LEVEL_INC, BPF_CSUM_LEVEL_QUERY, BPF_CSUM_LEVEL_RESET,
        BPF_F_ADJ_ROOM_ENCAP_L2_ETH, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6,
        BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::{
        bpf_clone_redirect, bpf_csum_level, bpf_csum_update, bpf_probe_read_kernel, bpf_skb_adjust_room,
        bpf_skb_change_head, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes, bpf_skb_store_bytes,
        bpf_skb_vlan_pop,
    },
    programs::TcContext,
};
use mirror_common::{protocol::EtherType, vxlan::ETHERNET_LEN};

use crate::{
    maps::{GSO_TYPE_AT, SOURCE_HAS_ETHERNET, SOURCE_IFINDEX},
    wire,
};

/// A packet at a TC hook. Offsets count from its Ethernet header, or from its network header if it has none.
pub(crate) struct Packet {
    skb: *mut __sk_buff,
}

/// A helper said no; the value is its negative errno or, from [`Packet::clone_to`], a positive `NET_XMIT_` code.
#[derive(Clone, Copy)]
pub(crate) struct HelperError(pub(crate) i64);

/// Types that any bytes of a packet are a value of.
///
/// # Safety
/// Every bit pattern must be a value of the type, and the type must have no padding.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: arrays of bytes have neither padding nor forbidden values.
unsafe impl<const N: usize> Plain for [u8; N] {}
// SAFETY: as above.
unsafe impl<const N: usize> Plain for [u32; N] {}

const fn done(code: i64) -> Result<(), HelperError> {
    if code == 0 { Ok(()) } else { Err(HelperError(code)) }
}

/// `len`, at most `N`, in a form that shows the verifier that it is; `None` for 0, which helpers refuse.
#[inline(always)]
fn bounded<const N: usize>(len: u32) -> Option<u32> {
    // One unsigned comparison shows both bounds, 0 having wrapped around: the verifier of Linux 6.1 learns nothing from
    // `len == 0`. The compiler must not reason from the bounds it knows of `len` and leave the comparison out: the
    // verifier doesn't know them.
    let less_one = core::hint::black_box(len.wrapping_sub(1));
    if less_one < N as u32 { Some(less_one + 1) } else { None }
}

impl Packet {
    pub(crate) fn new(ctx: &TcContext) -> Self {
        Self { skb: ctx.skb.skb }
    }

    /// Whether the packet begins with an Ethernet header, at a source hook: the source says so. A question always does.
    #[inline(always)]
    pub(crate) fn has_ethernet(&self) -> bool {
        SOURCE_HAS_ETHERNET.load() != 0 || self.ifindex() != SOURCE_IFINDEX.load()
    }

    /// Where the packet goes on behind its Ethernet header, at a source hook; 0 where it has none.
    #[inline(always)]
    pub(crate) fn link_header_len(&self) -> u32 {
        if self.has_ethernet() { ETHERNET_LEN as u32 } else { 0 }
    }

    /// For helpers that want the raw context.
    pub(crate) fn as_ptr(&self) -> *mut __sk_buff {
        self.skb
    }

    /// Bytes, Ethernet header included, VLAN tags that the device took off excluded.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        // SAFETY: the kernel passes a valid context; the verifier turns this into a load of the field.
        unsafe { (*self.skb).len }
    }

    /// How many wire packets this one stands for: the segments of a GSO packet, else 1.
    #[inline(always)]
    pub(crate) fn wire_packets(&self) -> u32 {
        let segments = self.counted_segments();
        if segments != 0 {
            return segments;
        }
        // What a program or a guest wrote into a tun or packet socket has a size of segments, but no number of them until
        // the kernel checks the packet (SKB_GSO_DODGY).
        let size = self.segment_size();
        if size == 0 { 1 } else { wire::segments(self, size) }
    }

    /// Bytes of payload in each segment of a GSO packet; 0 for any other.
    #[inline(always)]
    pub(crate) fn segment_size(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.skb).gso_size }
    }

    /// How many segments the kernel says that a GSO packet has; 0 where it hasn't looked yet.
    #[inline(always)]
    pub(crate) fn counted_segments(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.skb).gso_segs }
    }

    /// How the kernel is to segment a super-packet; `None` where that can't be read. See
    /// [`super_packet`](mirror_common::super_packet).
    #[inline(always)]
    pub(crate) fn gso_type(&self) -> Option<u32> {
        let at = GSO_TYPE_AT.load();
        if at.head == 0 {
            return None;
        }
        // A TC program's context is the packet's `struct sk_buff`: what the verifier turns reads of the fields of
        // `__sk_buff` into. It must not see an address here that is known to be the context's.
        let packet = self.skb as u64;
        // SAFETY: the helper reads any address, and says so if there is nothing to read.
        let head = unsafe { bpf_probe_read_kernel((packet + u64::from(at.head)) as *const u64) }.ok()?;
        // SAFETY: as above.
        let end = unsafe { bpf_probe_read_kernel((packet + u64::from(at.end)) as *const u32) }.ok()?;
        let shared = head + u64::from(end);
        // SAFETY: as above.
        unsafe { bpf_probe_read_kernel((shared + u64::from(at.gso_type)) as *const u32) }.ok()
    }

    /// Interface index of the device that the packet came in by; 0 where the host made it.
    #[inline(always)]
    pub(crate) fn came_in_by(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.skb).ingress_ifindex }
    }

    /// Whether no checksum is left to the device (CHECKSUM_PARTIAL). Only for a packet that is nobody else's.
    ///
    /// No field tells. But of a packet whose checksum was verified the helper says so, it lets one without any
    /// statement be called verified (which is taken back here), and changes the sum only of one that was summed up by
    /// a device. What is left is the one that is asked for (`bpf_csum_level`, `bpf_csum_update` in net/core/filter.c).
    #[inline(always)]
    pub(crate) fn has_its_checksums(&self) -> bool {
        // SAFETY: the context is valid for the whole run of the program.
        let level = |level: u32| unsafe { bpf_csum_level(self.skb, u64::from(level)) };
        if level(BPF_CSUM_LEVEL_QUERY) >= 0 {
            return true;
        }
        level(BPF_CSUM_LEVEL_INC);
        if level(BPF_CSUM_LEVEL_QUERY) >= 0 {
            level(BPF_CSUM_LEVEL_RESET);
            return true;
        }
        // SAFETY: as above.
        unsafe { bpf_csum_update(self.skb, 0) >= 0 }
    }

    #[inline(always)]
    pub(crate) fn mark(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.skb).mark }
    }

    #[inline(always)]
    pub(crate) fn set_mark(&self, mark: u32) {
        // SAFETY: as in `len`; the verifier lets TC programs write this field.
        unsafe { (*self.skb).mark = mark };
    }

    /// Interface index of the device whose hook runs.
    #[inline(always)]
    pub(crate) fn ifindex(&self) -> u32 {
        // SAFETY: as in `len`.
        unsafe { (*self.skb).ifindex }
    }

    /// Writes to the start of `skb->cb`, which is a program's scratch space between two others.
    #[inline(always)]
    pub(crate) fn set_answer(&self, [first, second]: [u32; 2]) {
        // SAFETY: as in `set_mark`.
        unsafe { (*self.skb).cb[0] = first };
        // SAFETY: as in `set_mark`.
        unsafe { (*self.skb).cb[1] = second };
    }

    /// `skb->protocol`: what the kernel takes the payload of the Ethernet header for.
    #[inline(always)]
    pub(crate) fn protocol(&self) -> EtherType {
        // SAFETY: as in `len`.
        let network_order = unsafe { (*self.skb).protocol };
        EtherType(u16::from_be(network_order as u16))
    }

    /// The VLAN tag that the device took off the frame, as its four bytes on the wire.
    #[inline(always)]
    pub(crate) fn offloaded_vlan_tag(&self) -> Option<[u8; 4]> {
        // SAFETY: as in `len`.
        if unsafe { (*self.skb).vlan_present } == 0 {
            return None;
        }
        // SAFETY: as in `len`.
        let protocol = unsafe { (*self.skb).vlan_proto };
        // SAFETY: as in `len`.
        let control = unsafe { (*self.skb).vlan_tci };
        // `vlan_proto` is in network order, `vlan_tci` in host order.
        let [p0, p1] = u16::from_be(protocol as u16).to_be_bytes();
        let [c0, c1] = (control as u16).to_be_bytes();
        Some([p0, p1, c0, c1])
    }

    /// Drops the VLAN tag that the device took off. The kernel then takes the next tag off the frame, if there is
    /// one, in the same way.
    #[inline(always)]
    pub(crate) fn pop_vlan_tag(&self) -> Result<(), HelperError> {
        // SAFETY: the context is valid for the whole run of the program.
        done(unsafe { bpf_skb_vlan_pop(self.skb) })
    }

    /// Reads a value at `offset`; `None` when the packet ends before it does.
    #[inline(always)]
    pub(crate) fn load<T: Plain>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: `value` has room for `size_of::<T>()` bytes; the helper checks the packet's bounds.
        let code =
            unsafe { bpf_skb_load_bytes(self.skb.cast(), offset, value.as_mut_ptr().cast(), size_of::<T>() as u32) };
        if code != 0 {
            return None;
        }
        // SAFETY: the helper filled all bytes, and every bit pattern is a `T` (`Plain`).
        Some(unsafe { value.assume_init() })
    }

    /// The `N` words at `OFFSET`, if they lie in the packet's linear part, without a call. Headers nearly always do.
    #[inline(always)]
    pub(crate) fn linear<const OFFSET: usize, const N: usize>(&self) -> Option<[u32; N]> {
        // SAFETY: as in `len`; the verifier knows these two as the ends of the linear part.
        let start = unsafe { (*self.skb).data } as usize;
        // SAFETY: as above.
        let end = unsafe { (*self.skb).data_end } as usize;
        if start + OFFSET + 4 * N > end {
            return None;
        }
        let words = (start + OFFSET) as *const u32;
        // SAFETY: inside the linear part, checked above. The verifier refuses the program on architectures that can't
        // read words there; volatile keeps the compiler from reading bytes instead.
        Some(core::array::from_fn(|index| unsafe { words.add(index).read_volatile() }))
    }

    /// Overwrites the bytes at `offset`.
    #[inline(always)]
    pub(crate) fn store<T: Plain>(&self, offset: u32, value: &T) -> Result<(), HelperError> {
        let from: *const T = value;
        // SAFETY: `value` is `size_of::<T>()` initialised bytes; the helper checks the packet's bounds.
        done(unsafe { bpf_skb_store_bytes(self.skb.cast(), offset, from.cast(), size_of::<T>() as u32, 0) })
    }

    /// Reads `len` bytes at `offset` into the start of `buffer`.
    #[inline(always)]
    pub(crate) fn load_start<const N: usize>(
        &self,
        offset: u32,
        buffer: &mut [u8; N],
        len: u32,
    ) -> Result<(), HelperError> {
        let Some(len) = bounded::<N>(len) else {
            return Ok(());
        };
        // SAFETY: `len` is at most `N`; the helper checks the packet's bounds.
        done(unsafe { bpf_skb_load_bytes(self.skb.cast(), offset, buffer.as_mut_ptr().cast(), len) })
    }

    /// Overwrites the bytes at `offset` with the first `len` of `bytes`.
    #[inline(always)]
    pub(crate) fn store_start<const N: usize>(
        &self,
        offset: u32,
        bytes: &[u8; N],
        len: u32,
    ) -> Result<(), HelperError> {
        let Some(len) = bounded::<N>(len) else {
            return Ok(());
        };
        // SAFETY: `len` is at most `N`; the helper checks the packet's bounds.
        done(unsafe { bpf_skb_store_bytes(self.skb.cast(), offset, bytes.as_ptr().cast(), len, 0) })
    }

    /// Makes the packet `len` bytes long: cuts it, or adds zeros. The kernel refuses to cut into the headers that it
    /// has dissected.
    #[inline(always)]
    pub(crate) fn set_len(&self, len: u32) -> Result<(), HelperError> {
        // SAFETY: the context is valid for the whole run of the program.
        done(unsafe { bpf_skb_change_tail(self.skb, len, 0) })
    }

    /// Adds `len` zero bytes in front.
    #[inline(always)]
    pub(crate) fn push_head(&self, len: u32) -> Result<(), HelperError> {
        // SAFETY: the context is valid for the whole run of the program.
        done(unsafe { bpf_skb_change_head(self.skb, len, 0) })
    }

    /// Adds `len` bytes behind the Ethernet header, for an outer IPv6 or IPv4 header, one of UDP, and a tunnel's with an
    /// inner Ethernet header, and tells the kernel so: what is left to the device, checksum and segmentation, stays
    /// what it was for the inner packet. Where the kernel refuses, nothing has changed.
    ///
    /// FIXED_GSO: else the kernel takes the bytes from each segment's payload.
    #[inline(always)]
    pub(crate) fn push_tunnel(&self, len: u32, outer_is_ipv6: bool) -> Result<(), HelperError> {
        let outer = if outer_is_ipv6 { BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 } else { BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 };
        let flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L4_UDP | BPF_F_ADJ_ROOM_ENCAP_L2_ETH | outer;
        let inner_ethernet = (ETHERNET_LEN as u64) << BPF_ADJ_ROOM_ENCAP_L2_SHIFT;
        // SAFETY: the context is valid for the whole run of the program.
        done(unsafe { bpf_skb_adjust_room(self.skb, len as i32, BPF_ADJ_ROOM_MAC, u64::from(flags) | inner_ethernet) })
    }

    /// Sets whom the kernel takes the packet to be for (`skb->pkt_type`).
    #[inline(always)]
    pub(crate) fn set_type(&self, kind: u32) -> Result<(), HelperError> {
        // SAFETY: the context is valid for the whole run of the program.
        done(unsafe { bpf_skb_change_type(self.skb, kind) })
    }

    /// Sends a clone out of a device.
    #[inline(always)]
    pub(crate) fn clone_to(&self, ifindex: u32) -> Result<(), HelperError> {
        // SAFETY: the context is valid for the whole run of the program.
        done(unsafe { bpf_clone_redirect(self.skb, ifindex, 0) })
    }
}

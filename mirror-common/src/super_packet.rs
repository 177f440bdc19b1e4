//! How a super-packet (GSO packet) is to be segmented, as the kernel puts it: `gso_type` in `struct skb_shared_info`, bits
//! of include/linux/skbuff.h. They were only ever added to.

/// TCP over IPv4, over IPv6, and UDP in datagrams of one size.
pub const TCP_V4: u32 = 1 << 0;
/// See [`TCP_V4`].
pub const TCP_V6: u32 = 1 << 4;
/// See [`TCP_V4`].
pub const UDP: u32 = 1 << 17;
/// TCP whose first segment alone tells of congestion (RFC 3168 §6.1.2).
pub const TCP_ECN: u32 = 1 << 2;

/// What is segmented the same behind outer headers. Not among them, for one: IPv4 headers that all have one identification
/// (`SKB_GSO_TCP_FIXEDID`), which Linux 6.18 takes for the outer ones; lists of packets (`SKB_GSO_FRAGLIST`); headers that
/// nobody has checked (`SKB_GSO_DODGY`); tunnels.
pub const THE_SAME_BEHIND_HEADERS: u32 = TCP_V4 | TCP_V6 | UDP | TCP_ECN;

/// Where the kernel that is running has `gso_type`, in bytes from the beginning of each structure. All zeros: it can't be
/// told.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GsoTypeAt {
    /// `sk_buff.head`, a pointer.
    pub head: u32,
    /// `sk_buff.end`, where behind it the shared information begins.
    pub end: u32,
    /// `skb_shared_info.gso_type`.
    pub gso_type: u32,
}

#[cfg(feature = "user")]
// SAFETY: `repr(C)` of `u32` only: no padding, every bit pattern is a value.
unsafe impl aya::Pod for GsoTypeAt {}

//! Map `SESSIONS`: what the tap needs to know to make a session's copy.

/// Key: the number of a session inside the kernel. User space gives it out; names stay there.
pub type SessionSlot = u32;

/// How many sessions one instance can hold, those that are being replaced included. A hash map costs 16 bytes for each
/// that it might hold, in each of two maps, so this is not the 262,144 that 1,024 sources could have.
pub const MAX_SESSIONS: u32 = 4096;

/// Value of [`Session::family`] for an IPv4 target: `AF_INET` of Linux.
pub const FAMILY_IPV4: u8 = 2;
/// Value of [`Session::family`] for an IPv6 target: `AF_INET6` of Linux.
pub const FAMILY_IPV6: u8 = 10;

/// Value of [`Session::way`]: by the host's routing, to another host.
pub const WAY_ROUTE: u8 = 0;
/// Value of [`Session::way`]: up the host's own stack.
pub const WAY_HOST: u8 = 1;
/// Value of [`Session::way`]: out of a device of the host, as bare frames.
pub const WAY_DEVICE: u8 = 2;

/// Value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    /// The target's address in network order; an IPv4 address is in the first four bytes, the others are zero.
    pub target: [u8; 16],
    /// The outer source address to use where the kernel isn't asked for it, or can't tell it (`BPF_FIB_LOOKUP_SRC` came
    /// with Linux 6.7), laid out like `target`.
    pub source: [u8; 16],
    /// VXLAN network identifier, 24 bits, network order.
    pub vni: [u8; 3],
    /// [`FAMILY_IPV4`] or [`FAMILY_IPV6`]: of `target` and `source`.
    pub family: u8,
    /// UDP destination port, network order.
    pub port: [u8; 2],
    /// Bytes of a frame that are copied, 1 to 8500; 0 copies the whole frame.
    pub packet_length: u16,
    /// [`WAY_ROUTE`], [`WAY_HOST`] or [`WAY_DEVICE`]: how copies get to the target. The last has no address, no port and
    /// no VNI.
    pub way: u8,
    /// 1 where copies may take the fast path, 0 where all go through the tap.
    pub fast_path: u8,
    /// 1 where the way to the target may depend on the copy's UDP source port (several next hops, chosen by a hash of
    /// the ports), 0 where all copies of the session take one way.
    pub way_by_port: u8,
    /// Zero.
    pub reserved: u8,
    /// Interface index of the target's device, for [`WAY_DEVICE`]; 0 where there was none.
    pub device: u32,
    /// The MTU that the route to the target names, for [`WAY_ROUTE`]; 0 where it names none. The kernel tells the programs
    /// the device's MTU, and a route's only if it is locked.
    pub route_mtu: u32,
}

const _: () = assert!(size_of::<Session>() == 52);

#[cfg(feature = "user")]
// SAFETY: `repr(C)`, fields without padding (asserted above), every bit pattern is a value.
unsafe impl aya::Pod for Session {}

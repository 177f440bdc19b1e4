//! Map `TRACE`: verdicts of live packets, for `trace`.

/// Bytes of a frame that go with its verdict: headers of Ethernet, IPv6 and TCP, with some room.
pub const TRACED_BYTES: usize = 96;

/// A verdict and the packet it is about.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traced {
    /// When, in nanoseconds of the monotonic clock.
    pub time: u64,
    /// [`Verdict::to_answer`](crate::table::Verdict::to_answer).
    pub answer: [u32; 2],
    /// Bytes of the packet, Ethernet header included, VLAN tag that the device took off excluded.
    pub length: u32,
    /// Wire packets that it stands for.
    pub wire_packets: u32,
    /// The VLAN tag that the device took off, as its bytes on the wire; zeros if there is none.
    pub vlan_tag: [u8; 4],
    /// Bytes of `frame` that are the packet's.
    pub traced: u32,
    /// Its beginning.
    pub frame: [u8; TRACED_BYTES],
}

const _: () = assert!(size_of::<Traced>() == 128);

//! The trace that the benchmark's programs go through (feature `bench` of the kernel programs).

/// Packets of a trace.
pub const TRACE_PACKETS: usize = 10_000;
/// What a packet of the trace has behind its Ethernet header: an IPv4 header and ports.
pub const TRACE_BYTES: usize = 24;
/// A packet of the trace.
pub type TracePacket = [u8; TRACE_BYTES];

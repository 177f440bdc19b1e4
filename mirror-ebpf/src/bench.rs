//! Programs of `cargo xtask bench` (feature `bench`); no other build has them.
//!
//! One call of BPF_PROG_TEST_RUN runs a program many times on one packet. These take the next packet of a trace each
//! time and write its headers into the packet, so that a run goes through different packets. `bench_empty` does only
//! that; `bench_verdict` judges the packet too. The difference is the verdict's cost.

use aya_ebpf::{
    bindings::{TC_ACT_OK, tcx_action_base::TCX_NEXT, xdp_action},
    btf_maps::{Array, PerCpuArray},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};
use mirror_common::{
    bench::{TRACE_PACKETS, TracePacket},
    vxlan::ETHERNET_LEN,
};

use crate::{classify, packet::Packet};

#[btf_map]
static BENCH_TRACE: Array<TracePacket, TRACE_PACKETS> = Array::new();

/// Where in the trace each CPU is.
#[btf_map]
static BENCH_NEXT: PerCpuArray<u32, 1> = PerCpuArray::new();

/// The next packet of the trace.
#[inline(always)]
fn next() -> Option<&'static TracePacket> {
    let next = BENCH_NEXT.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value.
    let next = unsafe { &mut *next };
    let index = *next;
    *next = if index + 1 < TRACE_PACKETS as u32 { index + 1 } else { 0 };
    BENCH_TRACE.get(index)
}

#[inline(always)]
fn write_next(packet: &Packet) -> bool {
    next().is_some_and(|headers| packet.store(ETHERNET_LEN as u32, headers).is_ok())
}

/// Writes the next packet of the trace, and nothing else.
#[classifier]
fn bench_empty(ctx: TcContext) -> i32 {
    i32::from(write_next(&Packet::new(&ctx)))
}

/// Writes the next packet of the trace and judges it, like a live one.
#[classifier]
fn bench_verdict(ctx: TcContext) -> i32 {
    let packet = Packet::new(&ctx);
    if !write_next(&packet) {
        return TC_ACT_OK;
    }
    classify::decide(&packet, true).session.map_or(-1, |slot| slot as i32)
}

/// At an interface: judges what comes, and mirrors nothing.
#[classifier]
fn bench_hook(ctx: TcContext) -> i32 {
    classify::decide(&Packet::new(&ctx), true);
    TCX_NEXT
}

/// Sends the trace out of the interface that it is run for.
#[xdp]
fn bench_generate(ctx: XdpContext) -> u32 {
    let Some(headers) = next() else {
        return xdp_action::XDP_ABORTED;
    };
    let start = ctx.data() + ETHERNET_LEN;
    if start + size_of::<TracePacket>() > ctx.data_end() {
        return xdp_action::XDP_ABORTED;
    }
    // SAFETY: the packet has so many bytes there, checked above.
    unsafe { core::ptr::write_unaligned(start as *mut TracePacket, *headers) };
    xdp_action::XDP_TX
}

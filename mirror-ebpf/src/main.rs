//! The kernel programs of mirrorctl.
//!
//! A packet's path is the list of modules: the source hook ([`source`]) tells own copies apart ([`own_copy`]), asks
//! which session wants the packet ([`classify`]) and clones it to the tap ([`clone`]; a clone without Ethernet header gets
//! one first, in [`raw`]). In front of the tap, [`fast`] makes a copy of it at once where it can: to a known next hop
//! ([`next_hop`]), and not in front of others of its flow ([`order`]). Every other clone crosses the tap, and the kernel
//! cuts GSO packets into wire packets and fills in checksums on the way. The hook at the tap's other end ([`tap`]) takes
//! VLAN tags off ([`vlan`]), reads the flow ([`flow`]), looks up the way to the target ([`route`], or [`host`] if that is
//! this one, or [`device`] if it is an interface), cuts the frame and puts the outer headers on ([`encapsulate`]), and
//! sends the copy ([`send`]). [`count`] counts, [`packet`] is the one place that touches the packet, [`maps`] lists what is
//! shared with user space.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(feature = "bench")]
mod bench;
mod classify;
mod clone;
mod count;
mod device;
mod encapsulate;
mod fast;
mod fields;
mod flow;
mod host;
mod maps;
mod next_hop;
mod order;
mod own_copy;
mod packet;
mod raw;
mod route;
mod send;
mod source;
mod table;
mod tap;
mod trace;
mod vlan;
mod wire;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, tcx_action_base::TCX_NEXT},
    macros::classifier,
    programs::TcContext,
};
use mirror_common::policy::Direction;

use crate::packet::Packet;

/// At the source: packets that the interface receives.
#[classifier]
fn mirror_ingress(ctx: TcContext) -> i32 {
    source::observe(&Packet::new(&ctx), Direction::Ingress);
    TCX_NEXT
}

/// At the source: packets that the interface sends.
#[classifier]
fn mirror_egress(ctx: TcContext) -> i32 {
    source::observe(&Packet::new(&ctx), Direction::Egress);
    TCX_NEXT
}

/// At the source, in front of the others, while somebody traces.
#[classifier]
fn mirror_trace(ctx: TcContext) -> i32 {
    trace::report(&Packet::new(&ctx));
    TCX_NEXT
}

/// At the egress of the sending end of the tap: clones that need no tap leave here.
#[classifier]
fn mirror_fast(ctx: TcContext) -> i32 {
    action(&ctx, fast::forward(&Packet::new(&ctx)))
}

/// At the receiving end of the tap: clones on their way to a target.
#[classifier]
fn mirror_tap(ctx: TcContext) -> i32 {
    action(&ctx, tap::forward(&Packet::new(&ctx)))
}

/// At the egress of the raw device: clones from sources without Ethernet header, on their way to the tap.
#[classifier]
fn mirror_raw(ctx: TcContext) -> i32 {
    action(&ctx, raw::forward(&Packet::new(&ctx)))
}

#[inline(always)]
fn action(_ctx: &TcContext, forwarded: Result<i32, tap::Stop>) -> i32 {
    match forwarded {
        Ok(action) => action,
        Err(tap::Stop::Skipped(reason)) => {
            count::skipped(reason);
            #[cfg(feature = "log")]
            aya_log_ebpf::info!(_ctx, "copy skipped: {}", reason.name());
            TC_ACT_SHOT
        }
        Err(tap::Stop::NotACopy) => TC_ACT_SHOT,
    }
}

/// Lets the kernel run helpers that it keeps for GPL-compatible programs (`bpf_fib_lookup`).
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier takes no program that can get here.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}

//! Tells `trace` of a packet's verdict. Attached only while somebody watches, in front of the source hook, with the same
//! table; changes and counts nothing.

use aya_ebpf::{
    btf_maps::{PerCpuArray, RingBuf},
    helpers::bpf_ktime_get_ns,
    macros::btf_map,
};
use mirror_common::{
    trace::{TRACED_BYTES, Traced},
    vxlan::{ETHERNET_LEN, ETHERTYPE_AT},
};

use crate::{classify, own_copy, packet::Packet};

/// User space makes it larger; the least that a kernel with pages of 64 KiB takes.
#[btf_map]
static TRACE: RingBuf<Traced, 65536> = RingBuf::new();

/// Verdicts that found `TRACE` full.
#[btf_map]
static TRACE_LOST: PerCpuArray<u64, 1> = PerCpuArray::new();

#[inline(always)]
pub(crate) fn report(packet: &Packet) {
    if own_copy::is_own_copy(packet) {
        return;
    }
    let verdict = classify::decide(packet, false).verdict;
    let has_ethernet = packet.has_ethernet();
    let length = if has_ethernet { packet.len() } else { packet.len() + ETHERNET_LEN as u32 };
    let mut traced = Traced {
        // SAFETY: takes no pointers.
        time: unsafe { bpf_ktime_get_ns() },
        answer: verdict.to_answer(),
        length,
        wire_packets: packet.wire_packets(),
        vlan_tag: packet.offloaded_vlan_tag().unwrap_or_default(),
        traced: length.min(TRACED_BYTES as u32),
        frame: [0; TRACED_BYTES],
    };
    let traced_bytes = traced.traced;
    let loaded = if has_ethernet {
        packet.load_start(0, &mut traced.frame, traced_bytes)
    } else {
        // As the copy has it: zero addresses, the ethertype, the packet.
        let [high, low] = packet.protocol().to_wire();
        traced.frame[ETHERTYPE_AT] = high;
        traced.frame[ETHERTYPE_AT + 1] = low;
        match traced.frame.last_chunk_mut::<{ TRACED_BYTES - ETHERNET_LEN }>() {
            Some(rest) => packet.load_start(0, rest, traced_bytes.saturating_sub(ETHERNET_LEN as u32)),
            None => Ok(()),
        }
    };
    if loaded.is_err() {
        traced.traced = 0;
    }
    if TRACE.output(traced, 0).is_err()
        && let Some(lost) = TRACE_LOST.get_ptr_mut(0)
    {
        // SAFETY: this CPU's own value, and a TC program has its CPU for itself until it returns.
        unsafe { *lost += 1 };
    }
}

//! The fast path: the hook at the egress of the tap's sending end, where a clone is made a copy at once and redirected to
//! the uplink, if it is certain that the collector gets the same as by the tap. Every other clone goes on to the tap.
//!
//! A frame that would get lost between the tap's two ends is counted here.
//!
//! This device is the instance's own: no bare clone is ever in front of an uplink's hooks, whoever takes this program
//! away.

use aya_ebpf::{
    bindings::tcx_action_base::TCX_NEXT,
    helpers::{bpf_ktime_get_coarse_ns, bpf_redirect},
};
use mirror_common::{
    mark::CopyMark,
    protocol::EtherType,
    session::{Session, SessionSlot, WAY_ROUTE},
    skip::SkipReason,
    super_packet::THE_SAME_BEHIND_HEADERS,
    uplink::FINISHES,
    vxlan::{ETHERNET_LEN, ETHERTYPE_AT},
};

use crate::{
    count,
    encapsulate::{self, Outer, Refused},
    flow,
    maps::{SESSIONS, UPLINKS},
    next_hop, order,
    packet::Packet,
    route::{self, NextHop},
    send,
    tap::Stop,
    vlan::{TAG_LEN, Tags},
    wire,
};

/// Room in the 16-bit lengths of the outer headers for a super-packet.
const SUPER_PACKET_MAX: u32 = u16::MAX as u32 - 128;

/// What the fast path does with a clone.
enum Form {
    /// All is done to it already: cut to so many bytes, or whole.
    Finished { kept: u32 },
    /// Whole, and the uplink does what is left.
    Unfinished,
}

/// Sends a clone, or lets it go on to the tap. The value is the action to return.
#[inline(always)]
pub(crate) fn forward(packet: &Packet) -> Result<i32, Stop> {
    Ok(try_send(packet).unwrap_or(Ok(TCX_NEXT))?)
}

/// `None` where the clone goes on to the tap.
#[inline(always)]
fn try_send(packet: &Packet) -> Option<Result<i32, SkipReason>> {
    let CopyMark { slot, encapsulated: false, .. } = CopyMark::from_mark(packet.mark())? else {
        return None;
    };
    if ends_in_a_tag(packet) {
        return Some(Err(SkipReason::VlanCutShort));
    }
    let session = SESSIONS.get_ptr(slot)?;
    // SAFETY: entries are made before a source hook can name them, and only replaced as a whole.
    let session: &Session = unsafe { &*session };
    if session.fast_path == 0 || session.way != WAY_ROUTE || !is_plain(packet) {
        return None;
    }
    let source_port = flow::read(packet).source_port();
    // SAFETY: takes no pointers.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    let sent = choose(packet, session, slot, source_port, now).and_then(|(form, next_hop)| {
        if order::is_waiting(source_port, now) {
            order::follow(source_port, packet.wire_packets());
            return Some(None);
        }
        send(packet, session, slot, source_port, &form, next_hop).map(Some)
    });
    match sent {
        Some(Some(result)) => return Some(result),
        Some(None) => {}
        None => order::enter(source_port, packet.wire_packets(), now),
    }
    packet.set_mark(CopyMark { slot, encapsulated: false, in_lane: true }.to_mark());
    None
}

/// Whether the tap's receiving end would drop the frame without a word: there the kernel takes the first tag off, and wants
/// an ethertype behind it (`skb_vlan_untag` in net/core/skbuff.c).
#[inline(always)]
fn ends_in_a_tag(packet: &Packet) -> bool {
    if packet.len() >= ETHERNET_LEN as u32 + TAG_LEN + 2 || packet.offloaded_vlan_tag().is_some() {
        return false;
    }
    let ethertype = packet.load::<[u8; 2]>(ETHERTYPE_AT as u32).map(EtherType::from_wire);
    matches!(ethertype, Some(EtherType::VLAN | EtherType::SERVICE_VLAN))
}

/// Whether the frame has no VLAN tag, in it or beside it, and the kernel takes it for what its ethertype says.
#[inline(always)]
fn is_plain(packet: &Packet) -> bool {
    let Some([word]) = packet.linear::<ETHERTYPE_AT, 1>() else {
        return false;
    };
    let ethertype = EtherType((u32::from_be(word) >> 16) as u16);
    ethertype == packet.protocol()
        && ethertype != EtherType::VLAN
        && ethertype != EtherType::SERVICE_VLAN
        && packet.offloaded_vlan_tag().is_none()
}

/// What is to be done with a clone, and the way it goes; `None` where it must take the tap.
#[inline(always)]
fn choose(
    packet: &Packet,
    session: &Session,
    slot: SessionSlot,
    source_port: u16,
    now: u64,
) -> Option<(Form, &'static NextHop)> {
    let next_hop = next_hop::of(packet, session, slot, source_port, now)?;
    let room = route::room(session, next_hop.mtu)?;
    let length = packet.len();
    let packet_length = match u32::from(session.packet_length) {
        0 => u32::MAX,
        length => length,
    };
    let segment_size = packet.segment_size();
    if segment_size == 0 {
        let kept = length.min(packet_length);
        if kept > room {
            return None;
        }
        if packet.has_its_checksums() {
            return Some((Form::Finished { kept }, next_hop));
        }
        return (kept == length && finishes(next_hop)).then_some((Form::Unfinished, next_hop));
    }
    if !is_segmented_the_same(packet) || length > SUPER_PACKET_MAX {
        return None;
    }
    let longest = wire::headers(packet)? + segment_size;
    (longest <= room && longest <= packet_length && finishes(next_hop)).then_some((Form::Unfinished, next_hop))
}

/// Whether a super-packet makes the same wire packets behind outer headers.
#[inline(always)]
fn is_segmented_the_same(packet: &Packet) -> bool {
    // Not yet looked at by the kernel: headers as a guest wrote them.
    if packet.counted_segments() == 0 {
        return false;
    }
    match packet.gso_type() {
        Some(gso_type) => gso_type & !THE_SAME_BEHIND_HEADERS == 0,
        // The host's own are of those kinds.
        None => packet.came_in_by() == 0,
    }
}

#[inline(always)]
fn finishes(next_hop: &NextHop) -> bool {
    // SAFETY: nobody removes entries, and a value is one word.
    unsafe { UPLINKS.get(next_hop.uplink) }.is_some_and(|flags| flags & FINISHES != 0)
}

/// Makes the copy and sends it; `None` where the kernel refuses and the frame is as it was.
#[inline(always)]
fn send(
    packet: &Packet,
    session: &Session,
    slot: SessionSlot,
    source_port: u16,
    form: &Form,
    next_hop: &NextHop,
) -> Option<Result<i32, SkipReason>> {
    let outer = Outer { source: next_hop.source, source_port, macs: next_hop.macs };
    let (length, wire_packets) = (packet.len(), packet.wire_packets());
    let (bytes, cut) = match *form {
        Form::Finished { kept } => {
            match encapsulate::encapsulate(packet, session, &outer, &Tags::NONE, kept) {
                Ok(()) => {}
                Err(SkipReason::CutFailed) => return None,
                Err(reason) => return Some(Err(reason)),
            }
            (u64::from(kept), kept < length)
        }
        Form::Unfinished => {
            let bytes = wire::bytes(packet);
            match encapsulate::encapsulate_unfinished(packet, session, &outer) {
                Ok(()) => {}
                Err(Refused::Unchanged) => return None,
                Err(Refused::Changed) => return Some(Err(SkipReason::EncapsulateFailed)),
            }
            (bytes, false)
        }
    };
    packet.set_mark(CopyMark { slot, encapsulated: true, in_lane: false }.to_mark());
    // SAFETY: takes no pointers.
    let action = send::redirected(unsafe { bpf_redirect(next_hop.uplink, 0) });
    if action.is_ok() {
        count::mirrored_fast(slot, wire_packets, bytes, cut);
    }
    Some(action)
}

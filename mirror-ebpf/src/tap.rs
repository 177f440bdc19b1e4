//! The hook at the tap's receiving end. What arrives here is a wire packet: the kernel has segmented GSO packets and
//! filled in checksums on the way (validate_xmit_skb), because the sending end offers no offloads.

use aya_ebpf::bindings::TC_ACT_SHOT;
use mirror_common::{
    mark::CopyMark,
    session::{Session, SessionSlot, WAY_DEVICE, WAY_HOST},
    skip::SkipReason,
};

use crate::{
    count::{self, Cut},
    device,
    encapsulate::{self, Outer},
    flow, host,
    maps::SESSIONS,
    order,
    packet::Packet,
    route, send,
    vlan::{self, Tags},
};

/// Why a frame on the tap is not sent on.
pub(crate) enum Stop {
    /// A copy that can't go out.
    Skipped(SkipReason),
    /// Some program of the host sent it to the tap device (LLDP and DHCP clients try every device).
    NotACopy,
}

impl From<SkipReason> for Stop {
    fn from(reason: SkipReason) -> Self {
        Self::Skipped(reason)
    }
}

/// Turns a clone into a copy and sends it. The value is the action to return.
#[inline(always)]
pub(crate) fn forward(packet: &Packet) -> Result<i32, Stop> {
    let mark = CopyMark::from_mark(packet.mark()).ok_or(Stop::NotACopy)?;
    let session = SESSIONS.get_ptr(mark.slot).ok_or(SkipReason::SessionGone)?;
    // SAFETY: entries are made before a source hook can name them, and only replaced as a whole.
    let session: &Session = unsafe { &*session };
    if mark.encapsulated {
        return Ok(send_again(packet, mark, session)?);
    }

    let tags = vlan::take(packet)?;
    let mut kept = packet.len() + tags.len();
    let packet_length = u32::from(session.packet_length);
    if packet_length != 0 && packet_length < kept {
        kept = packet_length;
        count::truncated(mark.slot, Cut::ToLength);
    }
    if session.way == WAY_DEVICE {
        device::send(packet, mark.slot, session, tags, kept)?;
        return Ok(TC_ACT_SHOT);
    }
    let source_port = flow::read(packet).source_port();
    if session.way == WAY_HOST {
        return Ok(to_host(packet, mark.slot, session, tags, source_port, kept)?);
    }
    Ok(match by_route(packet, mark, session, tags, source_port, kept) {
        Ok(Sent::Around(action)) => action,
        Ok(Sent::Away(action)) => {
            leave(mark, source_port);
            action
        }
        Err(reason) => {
            leave(mark, source_port);
            return Err(reason.into());
        }
    })
}

/// What has become of a copy, and the action to return.
enum Sent {
    /// It comes once more (see [`send::around`]).
    Around(i32),
    Away(i32),
}

/// Nobody waits for this copy any more.
#[inline(always)]
fn leave(mark: CopyMark, source_port: u16) {
    if mark.in_lane {
        order::leave(source_port);
    }
}

/// Makes a copy for another host.
#[inline(always)]
fn by_route(
    packet: &Packet,
    mark: CopyMark,
    session: &Session,
    tags: &Tags,
    source_port: u16,
    mut kept: u32,
) -> Result<Sent, SkipReason> {
    let mut route = route::to_target(packet, session, source_port, kept);
    if let Err(route::NoWay::TooLong { mtu }) = route {
        kept = route::room(session, mtu).ok_or(SkipReason::MtuTooSmall)?;
        count::truncated(mark.slot, Cut::ToMtu);
        route = route::to_target(packet, session, source_port, kept);
    }
    let route = route.map_err(route::NoWay::skip_reason)?;

    // The helpers that change the packet leave `skb->protocol` alone: read it while it is the frame's.
    let protocol = packet.protocol();
    // MAC addresses are the neighbour code's to fill in.
    let outer = Outer { source: route.source, source_port, macs: [[0; 6]; 2] };
    encapsulate::encapsulate(packet, session, &outer, tags, kept)?;
    packet.set_mark(CopyMark { encapsulated: true, ..mark }.to_mark());
    if protocol != encapsulate::outer_ethertype(session) {
        return send::around(packet).map(Sent::Around);
    }
    let action = send::to_neighbour(&route)?;
    count::mirrored(mark.slot, kept);
    Ok(Sent::Away(action))
}

/// Makes a copy for a socket of this host.
#[inline(always)]
fn to_host(
    packet: &Packet,
    slot: SessionSlot,
    session: &Session,
    tags: &Tags,
    source_port: u16,
    mut kept: u32,
) -> Result<i32, SkipReason> {
    if !host::has_listener(packet, session, source_port) {
        return Err(SkipReason::NobodyListens);
    }
    let room = route::LARGEST_PACKET - route::overhead(session);
    if kept > room {
        kept = room;
        count::truncated(slot, Cut::ToMtu);
    }
    let outer = Outer { source: route::words(&session.source), source_port, macs: [[0; 6]; 2] };
    encapsulate::encapsulate(packet, session, &outer, tags, kept)?;
    packet.set_mark(CopyMark { slot, encapsulated: true, in_lane: false }.to_mark());
    let Some(action) = host::deliver(session) else {
        return send::around(packet);
    };
    let action = action?;
    count::mirrored(slot, kept);
    Ok(action)
}

/// The second visit of a finished copy (see [`send::around`]).
#[inline(always)]
fn send_again(packet: &Packet, mark: CopyMark, session: &Session) -> Result<i32, SkipReason> {
    let (source_port, kept) = encapsulate::read_back(packet, session).ok_or(SkipReason::EncapsulateFailed)?;
    let action = if session.way == WAY_HOST {
        host::deliver_again(packet, session)?
    } else {
        leave(mark, source_port);
        let route = route::to_target(packet, session, source_port, kept).map_err(route::NoWay::skip_reason)?;
        send::to_neighbour(&route)?
    };
    count::mirrored(mark.slot, kept);
    Ok(action)
}

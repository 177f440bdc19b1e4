//! Which session gets a packet.

use mirror_common::{
    policy::{Direction, Policy},
    protocol::EtherType,
    session::SessionSlot,
};

use crate::{maps::POLICY, packet::Packet};

/// How many VLAN tags inside the frame are stepped over; a frame with more is not taken for IP.
const VLAN_MAX_DEPTH: u32 = 2;

/// The session that wants `packet`. The one filter there is accepts IPv4 and IPv6 and nothing else.
#[inline(always)]
pub(crate) fn session_for(packet: &Packet, direction: Direction) -> Option<SessionSlot> {
    // SAFETY: user space replaces the value as one aligned word.
    let policy = unsafe { *POLICY.get_ptr(direction as u32)? };
    if policy.session == Policy::NO_SESSION || !is_ip(packet) {
        return None;
    }
    Some(policy.session)
}

#[inline(always)]
fn is_ip(packet: &Packet) -> bool {
    let mut ethertype = packet.protocol();
    let mut offset = 12;
    for _ in 0..=VLAN_MAX_DEPTH {
        match ethertype {
            EtherType::IPV4 | EtherType::IPV6 => return true,
            EtherType::VLAN | EtherType::SERVICE_VLAN => {}
            _ => return false,
        }
        offset += 4;
        let Some(bytes) = packet.load::<[u8; 2]>(offset) else {
            return false;
        };
        ethertype = EtherType::from_wire(bytes);
    }
    false
}

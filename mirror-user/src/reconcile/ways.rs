//! What the kernel programs can't see of the ways to targets: an MTU that a route names without locking it, and whether
//! what is left to an uplink (a checksum, the segmentation of a super-packet) is done before anybody looks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mirror_common::uplink::{FINISHES, MAX_UPLINKS, Uplink};

use crate::error::Result;
use crate::instance::Instance;
use crate::kernel::Kernel;
use crate::links::{Destination, Link, Links};
use crate::offloads;
use crate::state::{State, Target};

/// Tells the kernel what routing has for the targets now.
pub(super) fn tell(instance: &Instance, links: &Links, state: &State) -> Result<()> {
    let Some(kernel) = Kernel::open(instance) else {
        return Ok(());
    };
    let interfaces = links.list()?;
    let mut known: BTreeMap<IpAddr, Destination> = BTreeMap::new();
    let mut uplinks: BTreeMap<u32, Uplink> = BTreeMap::new();
    for session in state.sessions() {
        let Target::Address(endpoint) = &session.target else { continue };
        let destination = match known.get(&endpoint.address) {
            Some(known) => *known,
            None => links.destination(endpoint.address)?,
        };
        known.insert(endpoint.address, destination);
        let Destination::Remote { uplink, mtu, .. } = destination else { continue };
        kernel.set_route_mtu(session.slot, mtu.unwrap_or(0))?;
        let has_room = uplinks.len() < MAX_UPLINKS as usize;
        if let Some(link) = interfaces.iter().find(|link| link.index == uplink && has_room) {
            uplinks.entry(uplink).or_insert_with(|| if finishes(link) { FINISHES } else { 0 });
        }
    }
    kernel.set_uplinks(uplinks)
}

/// A device of hardware finishes what it is given. Others may hand it on as it is (veth to the namespace at its other end,
/// virtio to the hypervisor), unless they are given nothing to finish.
fn finishes(link: &Link) -> bool {
    let is_hardware = link.kind.is_none() && offloads::driver(&link.name).is_ok_and(|driver| driver != "virtio_net");
    is_hardware || offloads::leaves_nothing_to(&link.name).unwrap_or(false)
}

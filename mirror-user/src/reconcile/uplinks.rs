//! What the kernel programs can't see of the interfaces that copies leave by: whether what is left to the device, a
//! checksum or the segmentation of a super-packet, is done before anybody looks.

use std::collections::{BTreeMap, BTreeSet};

use mirror_common::uplink::{FINISHES, MAX_UPLINKS, Uplink};

use crate::error::Result;
use crate::instance::Instance;
use crate::kernel::Kernel;
use crate::links::{Destination, Link, Links};
use crate::offloads;
use crate::state::{State, Target};

/// Tells the kernel of the uplinks that routing has for the targets now. Until it is told of one, copies that need
/// finishing take the tap.
pub(super) fn tell(instance: &Instance, links: &Links, state: &State) -> Result<()> {
    let Some(kernel) = Kernel::open(instance) else {
        return Ok(());
    };
    let mut uplinks: BTreeMap<u32, Uplink> = BTreeMap::new();
    let interfaces = links.list()?;
    let targets: BTreeSet<_> = state
        .sessions()
        .filter_map(|session| match &session.target {
            Target::Address(endpoint) => Some(endpoint.address),
            Target::Interface { .. } => None,
        })
        .collect();
    for target in targets {
        let Destination::Remote { uplink, .. } = links.destination(target)? else { continue };
        if uplinks.contains_key(&uplink) || uplinks.len() == MAX_UPLINKS as usize {
            continue;
        }
        if let Some(link) = interfaces.iter().find(|link| link.index == uplink) {
            uplinks.insert(uplink, if finishes(link) { FINISHES } else { 0 });
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

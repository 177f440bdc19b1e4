//! VLAN tags of the mirrored frame. The kernel moves the outermost tag of a received frame into the packet's metadata;
//! left there, it would end up on the outer frame. The copy has all tags where they were on the wire.

use aya_ebpf::{btf_maps::PerCpuArray, macros::btf_map};
use mirror_common::skip::SkipReason;

use crate::packet::Packet;

/// How many tags are unstacked: two that the standards name and two to spare. A frame with more is not mirrored and
/// counted as `vlan_too_deep`.
pub(crate) const MAX_TAGS: usize = 4;
/// Bytes of a tag.
pub(crate) const TAG_LEN: u32 = 4;

/// The tags of a frame, outermost first.
#[derive(Clone, Copy)]
pub(crate) struct Tags {
    tags: [[u8; 4]; MAX_TAGS],
    count: u32,
}

impl Tags {
    /// No tags.
    pub(crate) const NONE: Self = Self { tags: [[0; 4]; MAX_TAGS], count: 0 };

    /// Bytes that the tags take in the frame.
    #[inline(always)]
    pub(crate) fn len(&self) -> u32 {
        self.count() * TAG_LEN
    }

    /// Read anew each time: what the verifier once knows of it, it follows to the end of the program, once for each count.
    #[inline(always)]
    fn count(&self) -> u32 {
        // SAFETY: a reference is valid for reads.
        unsafe { (&raw const self.count).read_volatile() }
    }

    /// The tag at `index`, if there are so many.
    #[inline(always)]
    pub(crate) fn get(&self, index: usize) -> Option<&[u8; 4]> {
        if (index as u32) < self.count() { self.tags.get(index) } else { None }
    }
}

/// The tags of the packet that this CPU is at. In a map, and not on the stack, for the verifier's sake (see [`Tags::count`]).
#[btf_map]
static TAGS: PerCpuArray<Tags, 1> = PerCpuArray::new();

/// Takes all tags off `packet`.
#[inline(always)]
pub(crate) fn take(packet: &Packet) -> Result<&'static Tags, SkipReason> {
    // There always is one.
    let tags = TAGS.get_ptr_mut(0).ok_or(SkipReason::VlanTooDeep)?;
    // SAFETY: this CPU's own value; a TC program has its CPU for itself until it returns.
    let tags = unsafe { &mut *tags };
    let mut count = 0;
    for slot in &mut tags.tags {
        let Some(tag) = packet.offloaded_vlan_tag() else {
            break;
        };
        *slot = tag;
        count += 1;
        // An error is about the next tag, which the kernel then leaves in the frame (`skb_vlan_pop` in
        // net/core/skbuff.c): one with less than two bytes behind it is no tag to the kernel.
        let _ = packet.pop_vlan_tag();
    }
    tags.count = count;
    if packet.offloaded_vlan_tag().is_some() { Err(SkipReason::VlanTooDeep) } else { Ok(tags) }
}

//! Where fields are in the kernel's own structures, from its type information (BTF, Documentation/bpf/btf.rst).
//!
//! One thing that the kernel programs want to know of a packet is not in their sight: `gso_type`, how a super-packet is to
//! be segmented. Where there is no type information, they do without.

use std::fs;

use mirror_common::super_packet::GsoTypeAt;

use crate::host::KERNEL_BTF;

/// Bytes of the header of a type, and of a member of a structure.
const TYPE_LEN: usize = 12;
const MEMBER_LEN: usize = 12;
const MAGIC: u16 = 0xeb9f;

const KIND_STRUCT: u32 = 4;

/// Where `gso_type` is; `None` where it can't be told.
pub(super) fn gso_type_at() -> Option<GsoTypeAt> {
    // There the end of a packet's room is a pointer, not an offset (NET_SKBUFF_DATA_USES_OFFSET).
    if cfg!(not(target_pointer_width = "64")) {
        return None;
    }
    find(&fs::read(KERNEL_BTF).ok()?)
}

fn find(btf: &[u8]) -> Option<GsoTypeAt> {
    let types = Types::open(btf)?;
    let (mut packet, mut shared) = (None, None);
    types.structs(|name, members| match name {
        b"sk_buff" => packet = Some((types.offset(members, b"head"), types.offset(members, b"end"))),
        b"skb_shared_info" => shared = types.offset(members, b"gso_type"),
        _ => {}
    })?;
    let (head, end) = packet?;
    Some(GsoTypeAt { head: head?, end: end?, gso_type: shared? })
}

struct Types<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(bytes.try_into().ok()?))
}

impl<'a> Types<'a> {
    /// Reads the header: magic, version, flags; its own length; offset and length of types and of strings.
    fn open(btf: &'a [u8]) -> Option<Self> {
        let magic = u16::from_ne_bytes(btf.get(..2)?.try_into().ok()?);
        if magic != MAGIC {
            return None;
        }
        let field = |index: usize| u32_at(btf, 4 + 4 * index).map(|value| value as usize);
        let body = btf.get(field(0)?..)?;
        let part = |offset: usize, length: usize| body.get(offset..offset.checked_add(length)?);
        Some(Self { types: part(field(1)?, field(2)?)?, strings: part(field(3)?, field(4)?)? })
    }

    /// Hands each structure to `visit`, its name and its members. `None` where the types can't be read.
    fn structs(&self, mut visit: impl FnMut(&[u8], &'a [u8])) -> Option<()> {
        let mut at = 0;
        while at < self.types.len() {
            let (name, info) = (u32_at(self.types, at)?, u32_at(self.types, at + 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            at += TYPE_LEN;
            let length = match kind {
                // Pointer, forward, typedef, volatile, const, restrict, function, float, type tag.
                2 | 7..=12 | 16 | 18 => 0,
                // Integer, variable, declaration tag.
                1 | 14 | 17 => 4,
                // Array.
                3 => 12,
                // Structure, union.
                KIND_STRUCT | 5 => MEMBER_LEN * count,
                // Enumeration, parameters of a function.
                6 | 13 => 8 * count,
                // Section, enumeration of 64 bits.
                15 | 19 => 12 * count,
                _ => return None,
            };
            let more = self.types.get(at..at + length)?;
            at += length;
            if kind == KIND_STRUCT {
                visit(self.string(name), more);
            }
        }
        Some(())
    }

    fn string(&self, at: u32) -> &'a [u8] {
        let rest = self.strings.get(at as usize..).unwrap_or_default();
        rest.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Where a member is, in bytes.
    fn offset(&self, members: &[u8], wanted: &[u8]) -> Option<u32> {
        members.chunks_exact(MEMBER_LEN).find_map(|member| {
            // Name, type, offset in bits; of a structure with bit fields the upper byte of the last is their size.
            let (name, bits) = (u32_at(member, 0)?, u32_at(member, 8)? & 0x00ff_ffff);
            (self.string(name) == wanted && bits % 8 == 0).then_some(bits / 8)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Type information with `structs`: name, members and their offsets in bits.
    fn btf(structs: &[(&str, &[(&str, u32)])]) -> Vec<u8> {
        let (mut types, mut strings) = (Vec::new(), vec![0]);
        let mut string = |text: &str| {
            let at = strings.len() as u32;
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            at
        };
        let mut words = |words: &[u32]| types.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        // An integer and an enumeration, to step over.
        words(&[string("int"), 1 << 24, 4, 32, string("choice"), 6 << 24 | 1, 4, string("one"), 1]);
        for (name, members) in structs {
            words(&[string(name), KIND_STRUCT << 24 | members.len() as u32, 64]);
            for (name, bits) in *members {
                words(&[string(name), 1, *bits]);
            }
        }
        let mut btf = MAGIC.to_ne_bytes().to_vec();
        btf.extend_from_slice(&[1, 0]);
        for field in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            btf.extend_from_slice(&field.to_ne_bytes());
        }
        [btf, types, strings].concat()
    }

    #[test]
    fn fields_are_found_by_name() {
        let all = btf(&[
            ("other", &[("head", 8), ("gso_type", 16)]),
            ("skb_shared_info", &[("flags", 0), ("gso_type", 192)]),
            ("sk_buff", &[("next", 0), ("end", 1504), ("head", 1536)]),
        ]);
        assert_eq!(find(&all), Some(GsoTypeAt { head: 192, end: 188, gso_type: 24 }));
        let without = btf(&[("sk_buff", &[("end", 1504), ("head", 1536)]), ("skb_shared_info", &[("flags", 0)])]);
        assert_eq!(find(&without), None);
    }

    #[test]
    fn what_is_no_type_information_says_nothing() {
        let all = btf(&[("skb_shared_info", &[("gso_type", 192)]), ("sk_buff", &[("end", 8), ("head", 16)])]);
        for length in 0..all.len() {
            // The strings may be cut where nothing is left of them that matters.
            let _ = find(&all[..length]);
        }
        for at in 0..all.len() {
            let mut changed = all.clone();
            changed[at] ^= 0xff;
            let _ = find(&changed);
        }
        assert_eq!(find(&[]), None);
    }
}

//! Makes the map `TABLE`: one value, as large as the policy. aya makes maps only as large as the object file says, so
//! the map is made here, and the loader finds it by its pin.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use aya::maps::{Array, MapData};
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_type};
use aya_obj::maps::{LegacyMap, bpf_map_def};
use aya_obj::{EbpfSectionKind, Map};
use mirror_common::table::{RuleEntry, Shape};

use super::{SHAPE, TABLE, failed, open, typed};
use crate::compile::Policy;
use crate::error::{Error, Kind, Result};

/// Makes the maps of a compiled policy and pins them in `directory`: the table, and its shape for who comes later.
pub(super) fn create(policy: &Policy, directory: &Path) -> Result<()> {
    let what = format!("create map {TABLE}");
    let value_size = u32::try_from(size_of_val(policy.table.as_slice()))
        .map_err(|_| Error::new(Kind::Failed, &what, "the policy needs more than 4 GiB of tables"))?;
    let map = array(TABLE, value_size)?;
    element(bpf_cmd::BPF_MAP_UPDATE_ELEM, map.fd().as_fd(), policy.table.as_ptr().cast_mut().cast())
        .map_err(|error| Error::failed(&what, &error))?;
    pin(map, &directory.join(TABLE))?;

    let map = array(SHAPE, size_of::<Shape>() as u32)?;
    pin(map, &directory.join(SHAPE))?;
    let mut array: Array<_, Shape> = typed(aya::maps::Map::Array(open(&directory.join(SHAPE))?), SHAPE)?;
    array.set(0, policy.shape, 0).map_err(|error| failed(format_args!("write map {SHAPE}"))(&error))
}

/// The shape of the table that is pinned in `directory`.
pub(super) fn shape(directory: &Path) -> Result<Shape> {
    let array: Array<_, Shape> = typed(aya::maps::Map::Array(open(&directory.join(SHAPE))?), SHAPE)?;
    array.get(&0, 0).map_err(|error| failed(format_args!("read map {SHAPE}"))(&error))
}

/// An array of one value.
fn array(name: &str, value_size: u32) -> Result<MapData> {
    let definition = bpf_map_def {
        map_type: bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        key_size: size_of::<u32>() as u32,
        value_size,
        max_entries: 1,
        ..Default::default()
    };
    let map = Map::Legacy(LegacyMap {
        def: definition,
        inner_def: None,
        section_index: 0,
        section_kind: EbpfSectionKind::Maps,
        symbol_index: None,
        data: Vec::new(),
    });
    MapData::create(map, name, None).map_err(|error| failed(format_args!("create map {name}"))(&error))
}

fn pin(map: MapData, path: &Path) -> Result<()> {
    map.pin(path).map_err(|error| failed(format_args!("pin map {}", path.display()))(&error))
}

/// The rules of the pinned map, in the order of evaluation.
pub(super) fn rules(pin: &Path) -> Result<Vec<RuleEntry>> {
    let what = format!("read map {}", pin.display());
    let map = open(pin)?;
    let size = map.info().map_err(|error| failed(&what)(&error))?.value_size() as usize;
    // The kernel copies whole values, so there must be room for one.
    let mut table = vec![0u64; size.div_ceil(size_of::<u64>())];
    element(bpf_cmd::BPF_MAP_LOOKUP_ELEM, map.fd().as_fd(), table.as_mut_ptr().cast())
        .map_err(|error| Error::failed(&what, &error))?;
    let halves = |word: u64| {
        let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
        ([a, b, c, d], [e, f, g, h])
    };
    let (offset, count) = halves(table.first().copied().unwrap_or(0));
    let first = u32::from_ne_bytes(offset) as usize / size_of::<u64>();
    let rules = table
        .get(first..first + u32::from_ne_bytes(count) as usize)
        .ok_or_else(|| Error::new(Kind::Failed, &what, "its header says that rules are behind its end"))?;
    let entry = |word: &u64| {
        let (slot, [a, b, c, d]) = halves(*word);
        RuleEntry {
            slot: u32::from_ne_bytes(slot),
            resume: u16::from_ne_bytes([a, b]),
            number: u16::from_ne_bytes([c, d]),
        }
    };
    Ok(rules.iter().map(entry).collect())
}

/// Reads or writes the one value of the map, which is as long as what `value` points to.
fn element(command: bpf_cmd, map: BorrowedFd<'_>, value: *mut u8) -> io::Result<()> {
    let key = 0u32;
    // SAFETY: a union of plain integers: all zeros is a value of it.
    let mut attributes: bpf_attr = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: writing fields of a union of plain integers.
    let fields = unsafe { &mut attributes.__bindgen_anon_2 };
    fields.map_fd = map.as_raw_fd() as u32;
    fields.key = (&raw const key) as u64;
    fields.__bindgen_anon_1.value = value as u64;
    // SAFETY: `key` and what `value` points to are as long as the map's key and value (the two callers see to it), and
    // outlive the call; only a lookup writes to it, and its caller has lent it mutably.
    let code =
        unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_long, &raw const attributes, size_of::<bpf_attr>()) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

//! Makes the map `TABLE`: one value, as large as the policy. aya makes maps only as large as the object file says, so
//! the map is made here, and the loader finds it by its pin.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use aya::maps::MapData;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_type};
use aya_obj::maps::{LegacyMap, bpf_map_def};
use aya_obj::{EbpfSectionKind, Map};

use super::{TABLE, failed};
use crate::error::{Error, Kind, Result};

/// Makes the map, fills it and pins it at `pin`.
pub(super) fn create(table: &[u64], pin: &Path) -> Result<()> {
    let what = format!("create map {TABLE}");
    let value_size = u32::try_from(size_of_val(table))
        .map_err(|_| Error::new(Kind::Failed, &what, "the policy needs more than 4 GiB of tables"))?;
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
    let map = MapData::create(map, TABLE, None).map_err(|error| failed(&what)(&error))?;
    write(map.fd().as_fd(), table).map_err(|error| Error::failed(&what, &error))?;
    map.pin(pin).map_err(|error| failed(format_args!("pin map {}", pin.display()))(&error))
}

/// Writes the one value of the map.
fn write(map: BorrowedFd<'_>, table: &[u64]) -> io::Result<()> {
    let key = 0u32;
    // SAFETY: a union of plain integers: all zeros is a value of it.
    let mut attributes: bpf_attr = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: writing fields of a union of plain integers.
    let update = unsafe { &mut attributes.__bindgen_anon_2 };
    update.map_fd = map.as_raw_fd() as u32;
    update.key = (&raw const key) as u64;
    update.__bindgen_anon_1.value = table.as_ptr() as u64;
    // SAFETY: `key` and `table` are as long as the map's key and value (`create`), and outlive the call.
    let code = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            bpf_cmd::BPF_MAP_UPDATE_ELEM as libc::c_long,
            &raw const attributes,
            size_of::<bpf_attr>(),
        )
    };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

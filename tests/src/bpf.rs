//! bpf(2), as much of it as tests need that look at the kernel past the product's back. Written from `linux/bpf.h`; shares
//! no code with the product.

use std::ffi::CString;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;

const MAP_CREATE: libc::c_long = 0;
const MAP_DELETE_ELEM: libc::c_long = 3;
const MAP_GET_NEXT_KEY: libc::c_long = 4;
const PROG_LOAD: libc::c_long = 5;
const OBJ_PIN: libc::c_long = 6;
const OBJ_GET: libc::c_long = 7;
const MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
const LINK_CREATE: libc::c_long = 28;

/// Calls bpf(2) with the part of `union bpf_attr` that the command reads.
fn call<T>(command: libc::c_long, attributes: &T) -> nix::Result<RawFd> {
    // SAFETY: the attributes are whole, initialised and of the size that is passed; what they point to outlives the call, as
    // every caller here sees to.
    let code = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    Errno::result(code).map(|code| code as RawFd)
}

fn descriptor(answer: nix::Result<RawFd>) -> nix::Result<OwnedFd> {
    // SAFETY: the call has just made it, and nobody else knows of it.
    answer.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[repr(C)]
struct Pinned {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
struct Element {
    map: u32,
    padding: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn c_path(path: &Path) -> Result<CString> {
    CString::new(path.as_os_str().as_bytes()).with_context(|| format!("{} has a zero byte", path.display()))
}

/// Opens what is pinned at `path`.
pub fn open(path: &Path) -> Result<OwnedFd> {
    let name = c_path(path)?;
    let attributes = Pinned { path: name.as_ptr() as u64, fd: 0, flags: 0 };
    descriptor(call(OBJ_GET, &attributes)).with_context(|| format!("open pin {}", path.display()))
}

pub(crate) fn pin(what: &OwnedFd, path: &Path) -> Result<()> {
    let name = c_path(path)?;
    let attributes = Pinned { path: name.as_ptr() as u64, fd: what.as_raw_fd().cast_unsigned(), flags: 0 };
    call(OBJ_PIN, &attributes).with_context(|| format!("pin {}", path.display()))?;
    Ok(())
}

/// Removes every entry of a map whose keys are 32-bit numbers; returns how many there were.
pub fn clear(map: &OwnedFd) -> Result<usize> {
    let mut key = 0_u32;
    let mut removed = 0;
    let map = map.as_raw_fd().cast_unsigned();
    loop {
        let first = Element { map, padding: 0, key: 0, value: std::ptr::from_mut(&mut key) as u64, flags: 0 };
        match call(MAP_GET_NEXT_KEY, &first) {
            Err(Errno::ENOENT) => return Ok(removed),
            answer => answer.context("ask for the first key of a map")?,
        };
        let entry = Element { map, padding: 0, key: std::ptr::from_ref(&key) as u64, value: 0, flags: 0 };
        call(MAP_DELETE_ELEM, &entry).with_context(|| format!("delete entry {key} of a map"))?;
        removed += 1;
    }
}

/// Makes a queue of `entries` values of `T`.
pub(crate) fn queue<T>(entries: u32) -> Result<OwnedFd> {
    const QUEUE: u32 = 22;
    let attributes: [u32; 5] = [QUEUE, 0, size_of::<T>() as u32, entries, 0];
    descriptor(call(MAP_CREATE, &attributes)).context("make a queue")
}

/// Takes the next value out of a queue.
///
/// # Safety
/// Every bit pattern must be a value of `T`, and the queue must have been made for `T`.
pub(crate) unsafe fn pop<T>(queue: &OwnedFd) -> Result<Option<T>> {
    let mut value = std::mem::MaybeUninit::<T>::zeroed();
    let element = Element {
        map: queue.as_raw_fd().cast_unsigned(),
        padding: 0,
        key: 0,
        value: value.as_mut_ptr() as u64,
        flags: 0,
    };
    match call(MAP_LOOKUP_AND_DELETE_ELEM, &element) {
        Err(Errno::ENOENT) => Ok(None),
        answer => {
            answer.context("take a value out of a queue")?;
            // SAFETY: the kernel wrote all of it; any bytes are a value, by contract.
            Ok(Some(unsafe { value.assume_init() }))
        }
    }
}

/// An instruction: operation, registers, offset, number (RFC 9669 §3).
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Instruction {
    operation: u8,
    registers: u8,
    offset: i16,
    number: i32,
}

impl Instruction {
    pub(crate) const fn new(operation: u8, to: u8, from: u8, offset: i16, number: i32) -> Self {
        Self { operation, registers: to | from << 4, offset, number }
    }
}

/// Loads a program for TC hooks.
pub(crate) fn load(instructions: &[Instruction]) -> Result<OwnedFd> {
    const SCHED_CLS: u32 = 3;
    #[repr(C)]
    struct Attributes {
        program_type: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
    }
    let mut log = vec![0_u8; 1 << 16];
    let attributes = Attributes {
        program_type: SCHED_CLS,
        count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log_level: 1,
        log_size: log.len() as u32,
        log: log.as_mut_ptr() as u64,
    };
    descriptor(call(PROG_LOAD, &attributes)).with_context(|| {
        let end = log.iter().position(|&byte| byte == 0).unwrap_or(log.len());
        format!("load a program: {}", String::from_utf8_lossy(&log[..end]))
    })
}

/// Attaches a program by TCX, in front of all others or behind them, for as long as the descriptor is open.
pub(crate) fn attach_tcx(program: &OwnedFd, interface: u32, attach_type: u32, first: bool) -> Result<OwnedFd> {
    const BEFORE: u32 = 1 << 3;
    const AFTER: u32 = 1 << 4;
    let flags = if first { BEFORE } else { AFTER };
    // Relative to nothing, at any revision.
    let attributes: [u32; 8] = [program.as_raw_fd().cast_unsigned(), interface, attach_type, flags, 0, 0, 0, 0];
    descriptor(call(LINK_CREATE, &attributes)).context("attach a program by TCX")
}

//! Detaches a pinned TCX link, at once.
//!
//! Removing the last pin of a link detaches it too, but later: the kernel lets go of links in a work queue. aya has no
//! call for BPF_LINK_DETACH (Linux 5.9), so it is made here.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Commands of bpf(2), as numbered in include/uapi/linux/bpf.h.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_LINK_DETACH: libc::c_long = 34;

/// Detaches the link that is pinned at `path`. One that is detached already, or whose device is gone, is no error.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    let link = open(path)?;
    // The part of `union bpf_attr` that the command reads: the link.
    let attributes = link.as_raw_fd();
    // SAFETY: `attributes` is as long as is said, and outlives the call.
    let code =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_LINK_DETACH, &raw const attributes, size_of_val(&attributes)) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    /// The part of `union bpf_attr` that the command reads.
    #[repr(C)]
    struct Attributes {
        path: u64,
        bpf_fd: u32,
        file_flags: u32,
    }

    let path = CString::new(path.as_os_str().as_bytes())?;
    let attributes = Attributes { path: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: `attributes` is as long as is said and names a string that ends; both outlive the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attributes, size_of_val(&attributes)) };
    let Ok(fd) = i32::try_from(fd) else {
        return Err(io::Error::other("the kernel's answer is no file descriptor"));
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

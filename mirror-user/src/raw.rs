//! The raw device: a tun device of the instance's own, where clones from sources without Ethernet header get one on their
//! way to the tap. There is one only where there is such a source. Nobody reads it, and nothing ever gets through it.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;

use crate::error::{Error, Kind, Result};
use crate::instance::Instance;
use crate::links::{Link, Links};
use crate::tap;

/// No packet of any source is too long for it.
const MTU: u32 = 65535;
const TUN: &str = "/dev/net/tun";

/// Makes the device. It is down: nothing can pass before there is a program at its egress.
pub fn create(instance: &Instance, links: &Links) -> Result<Link> {
    let name = instance.raw_device();
    let what = format!("create interface {name}");
    let failed = |error: &std::io::Error| {
        Error::failed(format_args!("{what}: open {TUN}"), error)
            .hint("a source without Ethernet header needs tun devices: 'modprobe tun'")
    };
    // rtnetlink makes no tun devices.
    let tun = OpenOptions::new().read(true).write(true).open(TUN).map_err(|error| failed(&error))?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short },
    };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    // SAFETY: `request` is a whole `ifreq` that outlives the call.
    if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(Error::failed(what, &std::io::Error::last_os_error()));
    }
    // It stays when the file is closed.
    // SAFETY: takes a number.
    if unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETPERSIST, 1) } < 0 {
        return Err(Error::failed(what, &std::io::Error::last_os_error()));
    }
    tap::set(&format!("ipv6/conf/{name}/disable_ipv6"), "1")?;
    find(instance, links)?.ok_or_else(|| Error::new(Kind::Failed, what, "it is gone again"))
}

/// Lets packets through.
pub fn set_up(raw: &Link, links: &Links) -> Result<()> {
    links.set_up_quietly(raw, MTU)
}

/// The raw device of the instance, if it is there.
pub fn find(instance: &Instance, links: &Links) -> Result<Option<Link>> {
    links.find(&instance.raw_device())
}

/// Removes it; none is no error.
pub fn remove(instance: &Instance, links: &Links) -> Result<()> {
    match find(instance, links)? {
        Some(raw) => links.delete(&raw),
        None => Ok(()),
    }
}

//! A cable between two namespaces: two tun devices, whose packets have no Ethernet header, or two tap devices, whose packets
//! have one; and a thread that carries packets from one to the other and writes down what it carries.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use crate::craft::IpVersion;
use crate::frame::{Frame, IPV4, IPV6};
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::offload::{Partial, Unfinished, on_the_wire};

/// The host's end.
pub const HOST_TUN: &str = "t0";
/// The generator's end.
pub const GENERATOR_TUN: &str = "t1";

/// `struct virtio_net_hdr` (`linux/virtio_net.h`), which precedes each packet.
const VNET_HEADER: usize = 10;
/// Nothing comes any more when nothing came for so long: longer than TCP delays an acknowledgement.
const SILENCE: Duration = Duration::from_millis(300);

/// The cable.
#[derive(Debug)]
pub struct Cable {
    host: File,
    generator: File,
    kind: Kind,
}

/// What its ends are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Devices without Ethernet header.
    Tun,
    /// Devices with one.
    Tap,
}

/// A packet that the cable carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// One wire packet, as a copy should show it: if it has no Ethernet header, behind one with zero addresses.
    pub frame: Frame,
    /// From the host to the generator.
    pub outgoing: bool,
    /// How many wire packets the packet stood for.
    pub part_of: usize,
}

/// The address of an end, 1 or 2.
const fn address(version: IpVersion, end: u8) -> IpAddr {
    match version {
        IpVersion::V4 => IpAddr::V4(Ipv4Addr::new(10, 7, 0, end)),
        IpVersion::V6 => IpAddr::V6(Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, end as u16)),
    }
}

impl Cable {
    /// Lays one of tun devices. With `offloads` its ends take super-packets and unfinished checksums.
    pub fn lay(lab: &Lab, offloads: bool) -> Result<Self> {
        Self::lay_of(Kind::Tun, lab, offloads)
    }

    /// Lays one of any kind.
    pub fn lay_of(kind: Kind, lab: &Lab, offloads: bool) -> Result<Self> {
        let host = open(kind, &lab.host, HOST_TUN, 1, offloads)?;
        let generator = open(kind, &lab.generator, GENERATOR_TUN, 2, offloads)?;
        Ok(Self { host, generator, kind })
    }

    /// The host's address.
    pub const fn host_address(version: IpVersion) -> IpAddr {
        address(version, 1)
    }

    /// The generator's address.
    pub const fn generator_address(version: IpVersion) -> IpAddr {
        address(version, 2)
    }

    /// Carries packets while `work` is done and until they have ceased; the value is what was carried.
    pub fn carry(&self, work: impl FnOnce() -> Result<()>) -> Result<Vec<Carried>> {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let carrying = scope.spawn(|| self.carry_until(&done));
            let worked = work();
            done.store(true, Ordering::Release);
            let carried = carrying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            worked.and(carried)
        })
    }

    /// Puts a packet into the host's end, as if it came from the generator; the value is how copies should show it.
    pub fn inject(&self, packet: &[u8]) -> Result<Frame> {
        let written = [&[0; VNET_HEADER], packet].concat();
        (&self.host).write_all(&written).context("write to a tun device")?;
        with_ethernet(packet)
    }

    fn carry_until(&self, done: &AtomicBool) -> Result<Vec<Carried>> {
        let mut buffer = vec![0; VNET_HEADER + 68 * 1024];
        let mut carried = Vec::new();
        let mut last = Instant::now();
        while !done.load(Ordering::Acquire) || last.elapsed() < SILENCE {
            let mut idle = true;
            for (from, to, outgoing) in [(&self.host, &self.generator, true), (&self.generator, &self.host, false)] {
                let (mut from, mut to) = (from, to);
                match from.read(&mut buffer) {
                    Ok(length) => {
                        (idle, last) = (false, Instant::now());
                        let frames = wire_frames(self.kind, &buffer[..length])?;
                        let part_of = frames.len();
                        carried.extend(frames.into_iter().map(|frame| Carried { frame, outgoing, part_of }));
                        to.write_all(&buffer[..length]).context("write to a tun device")?;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error).context("read from a tun device"),
                }
            }
            if idle {
                thread::sleep(Duration::from_micros(200));
            }
        }
        Ok(carried)
    }
}

fn wire_frames(kind: Kind, read: &[u8]) -> Result<Vec<Frame>> {
    const NEEDS_CHECKSUM: u8 = 1;
    let (header, packet) = read.split_at_checked(VNET_HEADER).context("a tun device handed over too few bytes")?;
    let half = |offset: usize| u16::from_ne_bytes([header[offset], header[offset + 1]]);
    let (frame, missing) = match kind {
        Kind::Tun => (with_ethernet(packet)?, 14),
        Kind::Tap => (Frame(packet.to_vec()), 0),
    };
    // Counted from the packet here, from the frame there.
    let start = half(6) + missing;
    let unfinished = Unfinished {
        checksum: (header[0] & NEEDS_CHECKSUM != 0).then(|| Partial { start, offset: half(8) }),
        segment_size: (header[1] != 0).then(|| half(4)),
    };
    on_the_wire(frame.0, unfinished, None)
}

fn with_ethernet(packet: &[u8]) -> Result<Frame> {
    let ethertype = match packet.first().map(|byte| byte >> 4) {
        Some(4) => IPV4,
        Some(6) => IPV6,
        version => bail!("a packet of IP version {version:?}"),
    };
    let [high, low] = ethertype.to_be_bytes();
    Ok(Frame([&[0; 12], [high, low].as_slice(), packet].concat()))
}

fn open(kind: Kind, namespace: &Namespace, name: &str, end: u8, offloads: bool) -> Result<File> {
    let what = || format!("make tun device {name}");
    let file = namespace.enter(|| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open("/dev/net/tun").with_context(what)?;
        let kind = if kind == Kind::Tun { libc::IFF_TUN } else { libc::IFF_TAP };
        let flags = kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        let mut request = libc::ifreq {
            ifr_name: [0; libc::IFNAMSIZ],
            ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: flags as libc::c_short },
        };
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from.cast_signed();
        }
        // SAFETY: `request` is a whole `ifreq` that outlives the call.
        Errno::result(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) })
            .with_context(what)?;
        let taken = if offloads { libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 } else { 0 };
        // SAFETY: takes a number.
        let code = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, u64::from(taken)) };
        Errno::result(code).with_context(what)?;
        Ok(file)
    })?;
    // No link-local address: nobody speaks unasked.
    namespace.set_sysctl(&format!("ipv6/conf/{name}/addr_gen_mode"), "1")?;
    let (v4, v6) = (address(IpVersion::V4, end), address(IpVersion::V6, end));
    namespace.ip_batch(&format!(
        "link set {name} up\naddress add {v4}/24 dev {name}\naddress add {v6}/64 dev {name} nodad\n"
    ))?;
    Ok(file)
}

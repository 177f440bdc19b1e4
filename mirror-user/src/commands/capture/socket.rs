//! The UDP socket that copies arrive at.

use std::fs;
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mirror_common::vxlan::DEFAULT_PORT;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, recvmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::stat::fstat;
use nix::sys::time::TimeSpec;
use nix::{setsockopt_impl, sockopt_impl};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::error::{Error, Kind, Result};
use crate::model::Endpoint;

/// Room for bursts: 32 MiB are some 15,000 copies of full-sized frames.
const RECEIVE_BUFFER: usize = 32 << 20;
/// No UDP datagram is longer.
const LONGEST_DATAGRAM: usize = 65_535;

sockopt_impl!(
    /// Receive datagrams with a zero checksum over IPv6, as RFC 6935 has it for tunnels (Linux 3.16).
    NoCheck6Rx,
    SetOnly,
    libc::IPPROTO_UDP,
    libc::UDP_NO_CHECK6_RX,
    bool
);

/// A bound socket and the buffers to receive with.
pub struct Socket {
    socket: UdpSocket,
    local: SocketAddr,
    buffer: Box<[u8]>,
    control: Vec<u8>,
}

/// A datagram as it was received.
pub struct Datagram<'a> {
    /// When the kernel received it, since 1970.
    pub time: Duration,
    /// Who sent it; an IPv4 sender as IPv4, also on a socket of both families.
    pub source: SocketAddr,
    /// What is behind the UDP header.
    pub payload: &'a [u8],
}

impl Socket {
    /// Listens at `listen`, or at every address of both families (of IPv4 only on a host without IPv6).
    pub fn bind(listen: Option<Endpoint>) -> Result<Self> {
        let address = |listen: Endpoint| SocketAddr::from(listen);
        let (local, bound) = match listen {
            Some(listen) => (address(listen), open(address(listen))),
            None => {
                let both = address(Endpoint { address: Ipv6Addr::UNSPECIFIED.into(), port: DEFAULT_PORT });
                match open(both) {
                    Err(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL) => {
                        let ipv4 = address(Endpoint { address: Ipv4Addr::UNSPECIFIED.into(), port: DEFAULT_PORT });
                        (ipv4, open(ipv4))
                    }
                    bound => (both, bound),
                }
            }
        };
        let socket = bound.map_err(|error| cannot_listen(local, error))?;
        let socket =
            UdpSocket::from_std(socket).map_err(|error| Error::failed(format_args!("listen at {local}"), &error))?;
        Ok(Self {
            socket,
            local,
            buffer: vec![0; LONGEST_DATAGRAM].into_boxed_slice(),
            control: nix::cmsg_space!(TimeSpec),
        })
    }

    /// Where it listens.
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// Waits until there is something to receive.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// The next datagram, if there is one.
    pub fn receive(&mut self) -> io::Result<Option<Datagram<'_>>> {
        let Self { socket, buffer, control, .. } = self;
        let received = socket.try_io(Interest::READABLE, || {
            let mut parts = [IoSliceMut::new(buffer)];
            let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(control), MsgFlags::empty())?;
            let time = message.cmsgs().ok().and_then(|mut controls| {
                controls.find_map(|control| match control {
                    ControlMessageOwned::ScmTimestampns(time) => Some(Duration::from(time)),
                    _ => None,
                })
            });
            Ok((message.bytes, message.address.as_ref().and_then(sender), time))
        });
        match received {
            Ok((length, source, time)) => Ok(Some(Datagram {
                time: time.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()),
                source: source.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0)),
                payload: &self.buffer[..length],
            })),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many datagrams the kernel dropped because they came faster than they were received; `None` if it doesn't
    /// tell.
    pub fn dropped(&self) -> Option<u64> {
        let table = if self.local.is_ipv4() { "/proc/self/net/udp" } else { "/proc/self/net/udp6" };
        let inode = fstat(&self.socket).ok()?.st_ino;
        drops_of(&fs::read_to_string(table).ok()?, inode)
    }
}

fn open(address: SocketAddr) -> nix::Result<std::net::UdpSocket> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    if address.is_ipv6() {
        // Whatever net.ipv6.bindv6only says: [::] is every address of both families.
        setsockopt(&socket, sockopt::Ipv6V6Only, &!address.ip().is_unspecified())?;
        setsockopt(&socket, NoCheck6Rx, &true)?;
    }
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    // Beyond net.core.rmem_max with CAP_NET_ADMIN, up to it without.
    if setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER)?;
    }
    bind(socket.as_fd().as_raw_fd(), &SockaddrStorage::from(address))?;
    Ok(socket.into())
}

fn cannot_listen(address: SocketAddr, error: Errno) -> Error {
    let what = format!("listen at {address}");
    match error {
        Errno::EADDRINUSE => Error::new(Kind::Conflict, what, "the port is in use").hint(format_args!(
            "'ss -ulnp sport = :{}' tells by whom (a vxlan device has no process); --listen takes another port",
            address.port()
        )),
        Errno::EADDRNOTAVAIL => Error::new(Kind::BadInput, what, "this is no address of this host")
            .hint("'ip address' lists them; without --listen it is every address"),
        Errno::EACCES => Error::new(Kind::NotPermitted, what, "a port below 1024 needs CAP_NET_BIND_SERVICE")
            .hint("run it with sudo, or give --listen a higher port"),
        Errno::EAFNOSUPPORT => Error::new(Kind::BadInput, what, "this host has no IPv6"),
        Errno::EINVAL if is_link_local(address.ip()) => {
            Error::new(Kind::BadInput, what, "a link-local address is an address only together with an interface")
                .hint("listen at another address of this host, or at every one: leave --listen out")
        }
        _ => Error::failed(what, &error),
    }
}

const fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn sender(address: &SockaddrStorage) -> Option<SocketAddr> {
    let address: SocketAddr = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
        (Some(ipv4), _) => SocketAddr::V4((*ipv4).into()),
        (_, Some(ipv6)) => SocketAddr::V6((*ipv6).into()),
        _ => return None,
    };
    Some(SocketAddr::new(address.ip().to_canonical(), address.port()))
}

/// The last column of the socket's line in /proc/net/udp (net/ipv4/udp.c, `udp4_format_sock`).
fn drops_of(table: &str, inode: u64) -> Option<u64> {
    const INODE: usize = 9;
    const DROPS: usize = 12;
    table.lines().skip(1).find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        (columns.get(INODE)?.parse() == Ok(inode)).then(|| columns.get(DROPS)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_found_by_inode() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
                      13: 00000000:12B5 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 41 2 0000000000000000 0\n\
                      99: 0100007F:12B6 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 4242 2 0000000000000000 17\n";
        assert_eq!(drops_of(table, 4242), Some(17));
        assert_eq!(drops_of(table, 41), Some(0));
        assert_eq!(drops_of(table, 42), None);
        assert_eq!(drops_of("", 42), None);
    }
}

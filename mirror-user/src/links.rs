//! Network interfaces, routes and qdiscs, over rtnetlink.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMetric, RouteType};
use netlink_packet_route::tc::{TcAttribute, TcHandle};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::runtime::Runtime;

use crate::error::{Error, Kind, Result};

/// A netlink connection into the network namespace that this process was in when it was opened.
pub struct Links {
    runtime: Runtime,
    handle: Handle,
}

/// What is needed to know of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Whether its packets have an Ethernet header.
    pub has_ethernet_header: bool,
    /// What its driver calls itself, where it does ("veth").
    pub kind: Option<String>,
    /// Set up by the administrator.
    pub up: bool,
    /// Packets that could not be handed on in sending.
    pub tx_dropped: u64,
}

/// What the routing table says of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Packets leave through an interface.
    Remote {
        /// Its index.
        uplink: u32,
        /// The address that they are sent from.
        source: Option<IpAddr>,
        /// The MTU that the route names, locked or not.
        mtu: Option<u32>,
    },
    /// It is an address of this host.
    Local,
    /// Broadcast, multicast, anycast.
    NotUnicast,
    /// A route says unreachable, blackhole or prohibit.
    Refused,
    /// There is no route.
    NoRoute,
}

/// The qdisc that holds filters for both directions.
pub const CLSACT: &str = "clsact";

fn netlink(what: impl std::fmt::Display) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |error| match errno(&error) {
        Some(errno) => Error::failed(what, &std::io::Error::from_raw_os_error(errno)),
        None => Error::failed(what, &error),
    }
}

fn errno(error: &rtnetlink::Error) -> Option<i32> {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.code.map(|code| -code.get()),
        _ => None,
    }
}

impl Links {
    /// Opens the connection.
    pub fn open() -> Result<Self> {
        let failed = |error| Error::failed("open netlink socket", &error);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
        let (connection, handle, _) = {
            let _entered = runtime.enter();
            rtnetlink::new_connection().map_err(failed)?
        };
        runtime.spawn(connection);
        Ok(Self { runtime, handle })
    }

    /// The interface with this name, if there is one.
    pub fn find(&self, name: &str) -> Result<Option<Link>> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        let found = self.runtime.block_on(found.try_next());
        match found {
            Ok(message) => Ok(message.as_ref().map(link)),
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(netlink(format_args!("look up interface {name}"))(error)),
        }
    }

    /// Every interface.
    pub fn list(&self) -> Result<Vec<Link>> {
        let found = self.handle.link().get().execute().try_collect::<Vec<_>>();
        let found = self.runtime.block_on(found).map_err(netlink("list interfaces"))?;
        Ok(found.iter().map(link).collect())
    }

    /// Makes a pair of veth devices.
    pub fn add_veth(&self, name: &str, peer: &str) -> Result<()> {
        let added = self.handle.link().add(LinkVeth::new(name, peer).build()).execute();
        self.runtime.block_on(added).map_err(netlink(format_args!("create interface {name}")))
    }

    /// Sets a helper device up, with `mtu`, with no ARP of its own.
    pub fn set_up_quietly(&self, link: &Link, mtu: u32) -> Result<()> {
        let message = LinkUnspec::new_with_index(link.index).mtu(mtu).arp(false).up().build();
        let set = self.handle.link().set(message).execute();
        self.runtime.block_on(set).map_err(netlink(format_args!("set up interface {}", link.name)))
    }

    /// Deletes an interface, and its peer if it is one of a pair.
    pub fn delete(&self, link: &Link) -> Result<()> {
        let deleted = self.handle.link().del(link.index).execute();
        match self.runtime.block_on(deleted) {
            Err(error) if errno(&error) == Some(libc::ENODEV) => Ok(()),
            deleted => deleted.map_err(netlink(format_args!("delete interface {}", link.name))),
        }
    }

    /// Where packets to `address` go.
    pub fn destination(&self, address: IpAddr) -> Result<Destination> {
        let what = format!("look up route to {address}");
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let message = RouteMessageBuilder::<IpAddr>::new()
            .destination_prefix(address, prefix)
            .map_err(|error| Error::failed(&what, &error))?
            .build();
        let mut found = self.handle.route().get(message).execute();
        let message = match self.runtime.block_on(found.try_next()) {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(Destination::NoRoute),
            Err(error) => {
                return match errno(&error) {
                    Some(libc::ENETUNREACH) => Ok(Destination::NoRoute),
                    Some(libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => Ok(Destination::Refused),
                    _ => Err(netlink(what)(error)),
                };
            }
        };
        let mut uplink = None;
        let mut source = None;
        let mut mtu = None;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Oif(index) => uplink = Some(*index),
                RouteAttribute::PrefSource(RouteAddress::Inet(address)) => source = Some(IpAddr::V4(*address)),
                RouteAttribute::PrefSource(RouteAddress::Inet6(address)) => source = Some(IpAddr::V6(*address)),
                RouteAttribute::Metrics(metrics) => {
                    mtu = metrics.iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) if *mtu != 0 => Some(*mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        Ok(match (message.header.kind, uplink) {
            (RouteType::Unicast, Some(uplink)) => Destination::Remote { uplink, source, mtu },
            (RouteType::Local, _) => Destination::Local,
            (RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast, _) => Destination::NotUnicast,
            (RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit, _) => Destination::Refused,
            _ => Destination::NoRoute,
        })
    }

    /// The kind of the qdisc that holds ingress filters, if there is one: "clsact", or the older "ingress".
    pub fn ingress_qdisc(&self, index: u32) -> Result<Option<String>> {
        let index = signed(index)?;
        let found = self.handle.qdisc().get().index(index).execute().try_collect::<Vec<_>>();
        let found = self.runtime.block_on(found).map_err(netlink("list qdiscs"))?;
        Ok(found.iter().filter(|qdisc| qdisc.header.index == index).find_map(|qdisc| {
            qdisc.attributes.iter().find_map(|attribute| match attribute {
                TcAttribute::Kind(kind) if kind == CLSACT || kind == "ingress" => Some(kind.clone()),
                _ => None,
            })
        }))
    }

    /// Whether the clsact qdisc of the interface has a filter, on either side.
    pub fn has_filters(&self, index: u32) -> Result<bool> {
        let index = signed(index)?;
        let ingress = self.handle.traffic_filter(index).get().ingress().execute().try_collect::<Vec<_>>();
        let ingress = self.runtime.block_on(ingress).map_err(netlink("list ingress filters"))?;
        let egress = self.handle.traffic_filter(index).get().egress().execute().try_collect::<Vec<_>>();
        let egress = self.runtime.block_on(egress).map_err(netlink("list egress filters"))?;
        Ok(!ingress.is_empty() || !egress.is_empty())
    }

    /// Removes the clsact qdisc of an interface; none is no error.
    pub fn delete_clsact(&self, index: u32) -> Result<()> {
        let mut request = self.handle.qdisc().del(signed(index)?);
        request.message_mut().header.parent = TcHandle::CLSACT;
        match self.runtime.block_on(request.execute()) {
            Err(error) if matches!(errno(&error), Some(libc::ENODEV | libc::EINVAL | libc::ENOENT)) => Ok(()),
            deleted => deleted.map_err(netlink("delete clsact qdisc")),
        }
    }
}

/// Traffic control messages have signed interface indexes.
fn signed(index: u32) -> Result<i32> {
    i32::try_from(index)
        .map_err(|_| Error::new(Kind::Failed, format_args!("use interface index {index}"), "it is out of range"))
}

fn link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        has_ethernet_header: matches!(message.header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback),
        kind: None,
        up: message.header.flags.contains(LinkFlags::Up),
        tx_dropped: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Stats64(stats) => link.tx_dropped = stats.tx_dropped,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = Some(kind_name(kind));
                    }
                }
            }
            _ => {}
        }
    }
    link
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}

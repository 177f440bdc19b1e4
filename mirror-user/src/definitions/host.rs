//! What only the host can tell about definitions: which interfaces and addresses it has.

use std::net::IpAddr;

use super::Definitions;
use super::refusal::Refusal;
use super::target::Destination;
use crate::error::Result;
use crate::instance::Instance;
use crate::model::InterfaceName;

/// The host that definitions are for.
pub trait Host {
    /// Whether there is such an interface now.
    fn has_interface(&self, name: &InterfaceName) -> Result<bool>;

    /// Whether the address is one of the host's own.
    fn has_address(&self, address: IpAddr) -> Result<bool>;
}

/// Refuses what `new` wants of the host that it doesn't have. What `old` wanted already is left alone: an interface may
/// come and go. `what` is the command ("create target zeek").
pub fn check(what: &str, old: &Definitions, new: &Definitions, host: &impl Host) -> Result<()> {
    for target in new.targets() {
        let name = &target.name;
        if old.targets.get(name).is_some_and(|old| old.destination == target.destination) {
            continue;
        }
        match &target.destination {
            Destination::Interface(interface) => {
                check_interface(interface, host)
                    .and_then(|refusal| fail(refusal.map(|refusal| refusal.at(format_args!("target {name}"))), what))?;
            }
            Destination::Address(endpoint) if host.has_address(endpoint.address)? => {
                let refusal = Refusal::bad_input(format_args!(
                    "target {name}: address {}: it is an address of this host; copies go to other hosts only",
                    endpoint.address
                ));
                return Err(refusal.during(what));
            }
            Destination::Address(_) => {}
        }
    }
    for session in new.sessions() {
        let name = &session.name;
        if old.sessions.get(name).is_some_and(|old| old.source == session.source) {
            continue;
        }
        check_interface(&session.source, host).and_then(|refusal| {
            fail(refusal.map(|refusal| refusal.at(format_args!("session {name}: source"))), what)
        })?;
    }
    Ok(())
}

fn fail(refusal: Option<Refusal>, what: &str) -> Result<()> {
    refusal.map_or(Ok(()), |refusal| Err(refusal.during(what)))
}

/// Why an interface can't be used, if it can't.
fn check_interface(interface: &InterfaceName, host: &impl Host) -> Result<Option<Refusal>> {
    if Instance::is_helper_device(interface) {
        let refusal =
            Refusal::bad_input(format_args!("interface {interface}: it is a helper device of mirrorctl itself"));
        return Ok(Some(refusal));
    }
    if !host.has_interface(interface)? {
        let refusal = Refusal::not_found(format_args!("interface {interface}: there is no such interface"));
        return Ok(Some(refusal.hint("'ip link' lists them")));
    }
    Ok(None)
}

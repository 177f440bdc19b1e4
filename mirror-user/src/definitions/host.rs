//! What only the host can tell about definitions: which interfaces it has.

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
}

/// Refuses what `new` wants of the host that it doesn't have. What `old` wanted already is left alone: an interface may
/// come and go. `what` is the command ("create target zeek").
pub fn check(what: &str, old: &Definitions, new: &Definitions, host: &impl Host) -> Result<()> {
    for target in new.targets() {
        if old.targets.get(&target.name).is_some_and(|old| old.destination == target.destination) {
            continue;
        }
        let refusal = match &target.destination {
            Destination::Interface(interface) => unusable(interface, "interface", host)?,
            Destination::Address(_) => None,
        };
        if let Some(refusal) = refusal {
            return Err(refusal.at(format_args!("target {}", target.name)).during(what));
        }
    }
    for session in new.sessions() {
        if old.sessions.get(&session.name).is_some_and(|old| old.source == session.source) {
            continue;
        }
        if let Some(refusal) = unusable(&session.source, "source", host)? {
            return Err(refusal.at(format_args!("session {}", session.name)).during(what));
        }
    }
    Ok(())
}

/// Why an interface can't be used, if it can't; `field` is what it would be.
fn unusable(interface: &InterfaceName, field: &str, host: &impl Host) -> Result<Option<Refusal>> {
    if Instance::is_helper_device(interface) {
        return Ok(Some(Refusal::bad_input(format_args!(
            "{field} {interface}: it is a helper device of mirrorctl itself"
        ))));
    }
    if !host.has_interface(interface)? {
        let refusal = Refusal::not_found(format_args!("{field} {interface}: there is no such interface"));
        return Ok(Some(refusal.hint("'ip link' lists them")));
    }
    Ok(None)
}

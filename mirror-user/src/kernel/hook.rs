//! The two ways to attach a TC program, and their places among other programs of the interface.
//!
//! With TCX ours comes first at ingress and last at egress, among the programs that are there when it is attached: it
//! sees what is on the wire. In clsact it comes first in both directions: a filter in front of it that matches ends the
//! evaluation and would hide packets. All TCX programs run before the filters of clsact.

use std::path::Path;

use aya::programs::links::{FdLink, LinkOrder, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle};
use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use mirror_common::policy::Direction;

use super::failed;
use crate::error::{Error, Result};
use crate::instance::Instance;
use crate::links::Link;
use crate::state::Hook;

/// Priority of the filters in clsact, lower first. Filters of one priority are of one kind; other BPF programs may
/// share this one, each with a handle of its own.
const PRIORITY: u16 = 1;

const fn attach_type(direction: Direction) -> TcAttachType {
    match direction {
        Direction::Ingress => TcAttachType::Ingress,
        Direction::Egress => TcAttachType::Egress,
    }
}

/// Attaches a loaded program so that it outlives this process: a TCX link is pinned at `pin`; a filter stays anyway.
pub(super) fn attach(
    program: &mut SchedClassifier,
    interface: &Link,
    direction: Direction,
    hook: Hook,
    instance: &Instance,
    pin: &Path,
) -> Result<()> {
    let what = format!("attach to {} of {}", direction.name(), interface.name);
    let order = match direction {
        Direction::Ingress => LinkOrder::first(),
        Direction::Egress => LinkOrder::last(),
    };
    let options = match hook {
        Hook::Tcx => TcAttachOptions::TcxOrder(order),
        Hook::Tc => {
            add_clsact(&interface.name).map_err(|error| failed(format_args!("{what}: add clsact qdisc"))(&error))?;
            TcAttachOptions::Netlink(NlOptions {
                priority: PRIORITY,
                handle: TcHandle::from(instance.filter_handle()),
                classid: None,
            })
        }
    };
    let link = program
        .attach_with_options(&interface.name, attach_type(direction), options)
        .and_then(|id| program.take_link(id))
        .map_err(|error| failed(&what)(&error))?;
    match hook {
        Hook::Tcx => {
            let link = FdLink::try_from(link).map_err(|error| failed(&what)(&error))?;
            link.pin(pin).map_err(|error| failed(format_args!("pin link {}", pin.display()))(&error))?;
        }
        // Dropped, a filter's link would detach.
        Hook::Tc => std::mem::forget(link),
    }
    Ok(())
}

/// Attaches a loaded program in front of all others, for as long as the value lives: with TCX the kernel sees to it
/// that it goes with this process, however that ends.
pub(super) fn attach_for_now(
    program: &mut SchedClassifier,
    interface: &Link,
    direction: Direction,
    tcx: bool,
    instance: &Instance,
) -> Result<SchedClassifierLink> {
    let what = format!("attach to {} of {}", direction.name(), interface.name);
    let options = if tcx {
        TcAttachOptions::TcxOrder(LinkOrder::first())
    } else {
        add_clsact(&interface.name).map_err(|error| failed(format_args!("{what}: add clsact qdisc"))(&error))?;
        // The kernel puts a new filter in front of those of its priority (`cls_bpf_change` in net/sched/cls_bpf.c).
        TcAttachOptions::Netlink(NlOptions {
            priority: PRIORITY,
            handle: TcHandle::from(instance.trace_filter_handle()),
            classid: None,
        })
    };
    program
        .attach_with_options(&interface.name, attach_type(direction), options)
        .and_then(|id| program.take_link(id))
        .map_err(|error| failed(&what)(&error))
}

/// Puts a loaded program in the place of the one that is attached, in one step.
pub(super) fn replace(
    program: &mut SchedClassifier,
    interface: &Link,
    direction: Direction,
    hook: Hook,
    instance: &Instance,
    pin: &Path,
) -> Result<()> {
    let what = format!("replace the program at {} of {}", direction.name(), interface.name);
    let link = match hook {
        Hook::Tcx => {
            let pinned = PinnedLink::from_pin(pin).map_err(|error| failed(&what)(&error))?;
            // The pin stays: only the handle of it goes when this ends.
            let link = FdLink::from(pinned);
            SchedClassifierLink::try_from(link).map_err(|error| failed(&what)(&error))?
        }
        Hook::Tc => SchedClassifierLink::attached(
            &interface.name,
            attach_type(direction),
            PRIORITY,
            TcHandle::from(instance.filter_handle()),
            None,
        )
        .map_err(|error| Error::failed(&what, &error))?,
    };
    let link =
        program.attach_to_link(link).and_then(|id| program.take_link(id)).map_err(|error| failed(&what)(&error))?;
    if let Hook::Tc = hook {
        // Dropped, a filter's link would detach.
        std::mem::forget(link);
    }
    Ok(())
}

fn add_clsact(interface: &str) -> std::result::Result<(), TcError> {
    match tc::qdisc_add_clsact(interface) {
        Err(error) if errno(&error) == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// Removes this instance's filters from an interface; none is no error.
pub fn remove_filters(interface: &Link, instance: &Instance) -> Result<()> {
    let handles = [instance.filter_handle(), instance.trace_filter_handle()];
    for (direction, handle) in
        Direction::ALL.into_iter().flat_map(|direction| handles.map(|handle| (direction, handle)))
    {
        let what = format!("detach from {} of {}", direction.name(), interface.name);
        let link = SchedClassifierLink::attached(
            &interface.name,
            attach_type(direction),
            PRIORITY,
            TcHandle::from(handle),
            None,
        )
        .map_err(|error| Error::failed(&what, &error))?;
        match aya::programs::links::Link::detach(link) {
            Ok(()) => {}
            Err(ProgramError::NetlinkError(error))
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOENT | libc::EINVAL | libc::ENODEV | libc::EOPNOTSUPP)
                ) => {}
            Err(error) => return Err(failed(&what)(&error)),
        }
    }
    Ok(())
}

fn errno(error: &TcError) -> Option<i32> {
    match error {
        TcError::NetlinkError(error) => error.raw_os_error(),
        TcError::IoError(error) => error.raw_os_error(),
        _ => None,
    }
}

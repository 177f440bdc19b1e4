//! `doctor`: what this host has of what mirroring needs at run time, and what to do about the rest.

use serde::Serialize;
use tabled::builder::Builder;
use tabled::settings::object::Columns;
use tabled::settings::{Padding, Style};

use crate::commands::print;
use crate::error::{Error, Kind, Result};
use crate::host::{self, BPFFS, FIB_SOURCE_KERNEL, KERNEL_BTF, KernelVersion, OLDEST_KERNEL, TCX_KERNEL};

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It is there.
    Ok,
    /// Mirroring works without it, or less well.
    Warning,
    /// Mirroring does not work without it.
    Missing,
    /// It could not be checked.
    Unknown,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }
}

/// One line of the table.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    state: State,
    found: String,
    /// What to do, if there is something.
    action: Option<String>,
}

/// The JSON document.
#[derive(Debug, Serialize)]
struct Report {
    /// Nothing is missing.
    ok: bool,
    checks: Vec<Check>,
}

/// Prints every check; fails if something that is needed is missing.
pub fn run(json: bool) -> Result<()> {
    let checks = checks()?;
    let missing: Vec<&str> =
        checks.iter().filter(|check| check.state == State::Missing).map(|check| check.name).collect();
    let missing = missing.join(", ");
    let report = Report { ok: missing.is_empty(), checks };
    print(json, &report, || table(&report.checks))?;
    if report.ok {
        return Ok(());
    }
    let error = Error::new(Kind::Failed, "check this host", format_args!("missing: {missing}"));
    Err(if json { error } else { error.hint("the last column says what to do") })
}

fn table(checks: &[Check]) -> String {
    let mut builder = Builder::default();
    builder.push_record(["CHECK", "STATE", "FOUND", "WHAT TO DO"]);
    for check in checks {
        builder.push_record([check.name, check.state.name(), &check.found, check.action.as_deref().unwrap_or("")]);
    }
    let mut table = builder.build();
    table.with(Style::empty()).modify(Columns::new(..), Padding::new(0, 2, 0, 0));
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn checks() -> Result<Vec<Check>> {
    let mut checks = vec![kernel()?, capabilities()?, bpffs(), tcx()];
    checks.extend(host::HELPERS.into_iter().map(|(name, helper)| {
        let found = host::has_helper(helper);
        needed(name, found, "TC programs may call it", "TC programs may not call it", kernel_with_networking)
    }));
    checks.push(needed("veth", host::has_veth(), "can be made", "this kernel makes none", || {
        "modprobe veth, or a kernel with CONFIG_VETH".to_owned()
    }));
    checks.push(fib_source());
    checks.push(jit());
    checks.push(btf());
    Ok(checks)
}

fn kernel_with_networking() -> String {
    format!("a kernel of Linux {OLDEST_KERNEL} or newer with CONFIG_NET_CLS_ACT and CONFIG_BPF_SYSCALL")
}

/// A check of something that mirroring can't do without.
fn needed(
    name: &'static str,
    answer: Result<bool>,
    present: &str,
    absent: &str,
    action: impl FnOnce() -> String,
) -> Check {
    match answer {
        Ok(true) => Check { name, state: State::Ok, found: present.to_owned(), action: None },
        Ok(false) => Check { name, state: State::Missing, found: absent.to_owned(), action: Some(action()) },
        Err(error) => unknown(name, &error),
    }
}

fn unknown(name: &'static str, error: &Error) -> Check {
    let action = (error.kind() == Kind::NotPermitted).then(|| "run doctor as root to know".to_owned());
    Check { name, state: State::Unknown, found: error.to_string(), action }
}

fn kernel() -> Result<Check> {
    let (name, found) = ("kernel", format!("Linux {}", host::kernel_release()?));
    Ok(if KernelVersion::running()? >= OLDEST_KERNEL {
        Check { name, state: State::Ok, found, action: None }
    } else {
        let action = Some(format!("boot a kernel of Linux {OLDEST_KERNEL} or newer"));
        Check { name, state: State::Missing, found, action }
    })
}

fn capabilities() -> Result<Check> {
    let name = "capabilities";
    let missing = host::missing_capabilities()?;
    Ok(if !missing.is_empty() && !nix::unistd::geteuid().is_root() {
        let found = format!("not root; without {}", missing.join(", "));
        Check { name, state: State::Warning, found, action: Some("use sudo for attach and detach".to_owned()) }
    } else if !missing.is_empty() {
        let found = format!("root without {}", missing.join(", "));
        Check { name, state: State::Missing, found, action: Some("give the container these capabilities".to_owned()) }
    } else if !host::in_host_user_namespace() {
        let found = "a user namespace that is not the host's".to_owned();
        Check { name, state: State::Missing, found, action: Some("run it as root of the host".to_owned()) }
    } else {
        Check { name, state: State::Ok, found: "all that are needed".to_owned(), action: None }
    })
}

fn bpffs() -> Check {
    let name = "bpffs";
    match host::require_bpffs("check bpffs") {
        Ok(()) => Check { name, state: State::Ok, found: format!("mounted at {BPFFS}"), action: None },
        Err(error) => {
            let found = error.to_string();
            let found = found.strip_prefix("check bpffs: ").unwrap_or(&found).to_owned();
            Check { name, state: State::Missing, found, action: error.hint_text().map(str::to_owned) }
        }
    }
}

fn tcx() -> Check {
    let name = "hook";
    match host::has_tcx() {
        Ok(true) => Check { name, state: State::Ok, found: "TCX".to_owned(), action: None },
        // The same packets are seen, so there is nothing to do.
        Ok(false) => Check {
            name,
            state: State::Ok,
            found: format!("the clsact qdisc; TCX is not here (it came with Linux {TCX_KERNEL})"),
            action: None,
        },
        Err(error) => unknown(name, &error),
    }
}

fn fib_source() -> Check {
    let name = "BPF_FIB_LOOKUP_SRC";
    match host::has_fib_source() {
        Ok(true) => Check { name, state: State::Ok, found: "routes tell the source address".to_owned(), action: None },
        Ok(false) => Check {
            name,
            state: State::Warning,
            found: format!(
                "not here (it came with Linux {FIB_SOURCE_KERNEL}): copies keep the source address of attach"
            ),
            action: Some("attach again when the host's address towards a target has changed".to_owned()),
        },
        Err(error) => unknown(name, &error),
    }
}

fn jit() -> Check {
    let name = "JIT";
    match host::has_jit() {
        Some(true) => Check { name, state: State::Ok, found: "on".to_owned(), action: None },
        Some(false) => Check {
            name,
            state: State::Warning,
            found: "off: programs are interpreted, several times slower".to_owned(),
            action: Some("sysctl net.core.bpf_jit_enable=1".to_owned()),
        },
        None => Check {
            name,
            state: State::Unknown,
            found: "net.core.bpf_jit_enable can't be read here".to_owned(),
            action: Some("run doctor as root in the host's network namespace to know".to_owned()),
        },
    }
}

fn btf() -> Check {
    let name = "BTF";
    if host::has_btf() {
        Check { name, state: State::Ok, found: KERNEL_BTF.to_owned(), action: None }
    } else {
        let found = format!("no {KERNEL_BTF}: attach works without");
        Check { name, state: State::Warning, found, action: Some("a kernel with CONFIG_DEBUG_INFO_BTF".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_line_for_every_check() {
        let checks = [
            Check { name: "bpffs", state: State::Ok, found: "mounted".into(), action: None },
            Check { name: "JIT", state: State::Warning, found: "off".into(), action: Some("turn it on".into()) },
        ];
        assert_eq!(
            table(&checks),
            "CHECK  STATE    FOUND    WHAT TO DO\n\
             bpffs  ok       mounted\n\
             JIT    warning  off      turn it on"
        );
    }

    #[test]
    fn without_permission_nothing_is_claimed() {
        let refused = || Error::new(Kind::NotPermitted, "ask the kernel for veth", "the kernel tells only root");
        let check = needed("veth", Err(refused()), "yes", "no", String::new);
        assert_eq!(check.state, State::Unknown);
        assert_eq!(check.action.as_deref(), Some("run doctor as root to know"));
    }

    #[test]
    fn every_check_can_be_made_here() {
        let checks = checks().unwrap();
        assert!(checks.iter().any(|check| check.name == "kernel" && check.found.starts_with("Linux ")));
        assert!(checks.iter().all(|check| check.state != State::Missing || check.action.is_some()));
    }
}

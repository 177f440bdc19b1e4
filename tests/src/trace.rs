//! What a command leaves behind on a host: everything that the kernel and the file system would show.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;

use crate::lab::{HOST_SOURCE, HOST_UPLINK, Lab};
use crate::process::read_file;

/// The state of a lab's host, by what it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces(BTreeMap<String, String>);

impl Lab {
    /// Takes down the state of the host: devices, addresses, routes, queueing disciplines, filters, TCX programs,
    /// switches, pins, and files of `mirrorctl`.
    pub fn traces(&self) -> Result<Traces> {
        let mut state = BTreeMap::new();
        let host = &self.host;
        // First what might go away by itself a moment later.
        for interface in [HOST_SOURCE.interface, HOST_UPLINK.interface] {
            state.insert(format!("TCX programs of {interface}"), format!("{:?}", self.tcx_programs(interface)?));
        }
        for question in ["-details -oneline link show", "-oneline address show", "rule show", "-6 rule show"] {
            state.insert(format!("ip {question}"), host.ip(question)?);
        }
        for question in ["route show table all", "-6 route show table all"] {
            state.insert(format!("ip {question}"), host.ip(question)?);
        }
        state.insert("tc qdisc show".into(), host.tc("qdisc show")?);
        for interface in [HOST_SOURCE.interface, HOST_UPLINK.interface] {
            let filters = host.tc(&format!("filter show dev {interface}"))?
                + &host.tc(&format!("filter show dev {interface} ingress"))?
                + &host.tc(&format!("filter show dev {interface} egress"))?;
            state.insert(format!("tc filter show dev {interface}"), filters);
        }
        host.enter(|| {
            for family in ["ipv4", "ipv6"] {
                for scope in ["all", "default", HOST_SOURCE.interface, HOST_UPLINK.interface] {
                    let directory = format!("/proc/sys/net/{family}/conf/{scope}");
                    state.insert(directory.clone(), switches(Path::new(&directory))?);
                }
            }
            Ok(())
        })?;
        if let Some(bpffs) = self.bpffs() {
            state.insert("pins".into(), list(bpffs)?);
        }
        state.insert("files".into(), list(&self.state_directory())?);
        Ok(Traces(state))
    }

    /// How many programs are attached to an interface of the host, by whatever hook: ingress, egress.
    pub fn programs(&self, interface: &str) -> Result<(u32, u32)> {
        if hooks()?.contains(&"tcx") {
            return self.tcx_programs(interface);
        }
        let count = |direction: &str| -> Result<u32> {
            let filters = self.host.tc(&format!("filter show dev {interface} {direction}"))?;
            Ok(filters.lines().filter(|line| line.contains(" handle ")).count() as u32)
        };
        Ok((count("ingress")?, count("egress")?))
    }

    /// How many TCX programs the kernel has on an interface of the host: ingress, egress.
    pub fn tcx_programs(&self, interface: &str) -> Result<(u32, u32)> {
        self.host.enter(|| {
            let index = nix::net::if_::if_nametoindex(interface).with_context(|| format!("find {interface}"))?;
            Ok((count_tcx(index, TCX_INGRESS)?, count_tcx(index, TCX_EGRESS)?))
        })
    }
}

impl Traces {
    /// Asserts that the host is now as it was when `self` was taken down.
    #[track_caller]
    pub fn are_all_there_is(&self, now: &Self, when: &str) {
        for (what, before) in &self.0 {
            let after = now.0.get(what).map(String::as_str).unwrap_or_default();
            assert_eq!(after, before, "{when}, `{what}` should be what it was before");
        }
    }

    /// The answer to one of the questions.
    pub fn about(&self, what: &str) -> &str {
        self.0.get(what).map(String::as_str).unwrap_or_default()
    }
}

/// Paths below `directory`, sorted, one a line.
fn list(directory: &Path) -> Result<String> {
    let mut lines = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).with_context(|| format!("list {}", next.display()))? {
            let entry = entry.with_context(|| format!("list {}", next.display()))?;
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                open.push(path.clone());
            }
            lines.push(path.strip_prefix(directory).unwrap_or(&path).display().to_string());
        }
    }
    lines.sort();
    Ok(lines.join("\n"))
}

fn switches(directory: &Path) -> Result<String> {
    let mut lines = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| format!("list {}", directory.display()))? {
        let path = entry.with_context(|| format!("list {}", directory.display()))?.path();
        // A few can only be written, or have no value yet.
        if let Ok(value) = read_file(&path) {
            lines.push(format!("{} = {}", path.display(), value.trim()));
        }
    }
    lines.sort();
    Ok(lines.join("\n"))
}

/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS` (`linux/bpf.h`).
const TCX_INGRESS: u32 = 46;
const TCX_EGRESS: u32 = 47;

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` uses.
#[repr(C)]
#[derive(Default)]
struct Query {
    interface: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    padding: u32,
    program_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// The values of `--hook` that this kernel has.
pub fn hooks() -> Result<Vec<&'static str>> {
    // The loopback interface is the first of every namespace.
    let tcx = query_tcx(1, TCX_INGRESS)?.map(|_| "tcx");
    Ok(tcx.into_iter().chain(["tc"]).collect())
}

fn count_tcx(interface: u32, attach_type: u32) -> Result<u32> {
    Ok(query_tcx(interface, attach_type)?.unwrap_or(0))
}

/// How many TCX programs there are; `None` where the kernel has no TCX.
fn query_tcx(interface: u32, attach_type: u32) -> Result<Option<u32>> {
    const BPF_PROG_QUERY: libc::c_long = 16;
    let mut query = Query { interface, attach_type, ..Query::default() };
    // SAFETY: the attribute is whole and initialised, its size is passed, and it holds no pointers.
    let code = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    match Errno::result(code) {
        // Before Linux 6.6.
        Err(Errno::EINVAL) => Ok(None),
        // Linux 6.6.0 answers so where nothing is attached.
        Err(Errno::ENOENT) => Ok(Some(0)),
        result => result.map(|_| Some(query.count)).context("ask the kernel for TCX programs"),
    }
}

//! Asks the kernel for verdicts: runs the classifier on frames that never were on a wire (BPF_PROG_TEST_RUN).

use std::path::Path;

use aya::Ebpf;
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use mirror_common::policy::Direction;
use mirror_common::session::SessionSlot;
use mirror_common::table::{RuleEntry, Verdict};

use super::{
    AtSource, Constants, Load, TABLE, create_directory, failed, load_one, loaded_program, program, remove_pins,
    source_program, table,
};
use crate::compile::Policy;
use crate::error::{Error, Kind, Result};

/// The source program of a policy, loaded but not attached.
#[derive(Debug)]
pub struct Judge {
    programs: Ebpf,
}

impl Judge {
    /// Loads the program for `policy`. `directory`, in bpffs, holds a pin while it is loaded.
    pub fn load(policy: &Policy, directory: &Path) -> Result<Self> {
        remove_pins(directory)?;
        create_directory(directory)?;
        table::create(policy, directory)?;
        let constants = Constants::NONE;
        let load = Load {
            constants,
            source: AtSource::NONE,
            policy,
            maps: vec![(TABLE, directory.join(TABLE))],
            ring_bytes: None,
        };
        let mut programs = load_one(&load)?;
        program(&mut programs, source_program(Direction::Ingress))?;
        remove_pins(directory)?;
        Ok(Self { programs })
    }

    /// The verdict on a frame, which begins with its Ethernet header.
    pub fn verdict(&mut self, frame: &[u8]) -> Result<Verdict> {
        let program = loaded_program(&mut self.programs, source_program(Direction::Ingress))?;
        ask(program, frame, LOOPBACK)
    }
}

/// The attached program of a direction, asked about frames that never were on a wire. Nothing is mirrored or counted.
#[derive(Debug)]
pub struct AttachedJudge {
    program: SchedClassifier,
    rules: Vec<RuleEntry>,
    /// Where the frames claim to be: any interface of this network namespace but the source.
    elsewhere: u32,
}

/// An answer, in terms of user space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This rule accepts.
    Rule(RuleEntry),
    /// No IP header, and the session with this slot takes such frames.
    NonIp(SessionSlot),
    /// No session wants it; this was the last rule to reject it.
    Rejected(RuleEntry),
    /// No session wants it, and no rule matches.
    None,
}

impl AttachedJudge {
    pub(super) fn new(program: SchedClassifier, rules: Vec<RuleEntry>, ifindex: u32, tap_ifindex: u32) -> Self {
        let elsewhere = if ifindex == LOOPBACK { tap_ifindex } else { LOOPBACK };
        Self { program, rules, elsewhere }
    }

    /// The verdict on a frame, which begins with its Ethernet header.
    pub fn verdict(&self, frame: &[u8]) -> Result<Answer> {
        Answer::new(ask(&self.program, frame, self.elsewhere)?, &self.rules)
    }
}

impl Answer {
    /// `verdict` of a program that goes by `rules`.
    pub(super) fn new(verdict: Verdict, rules: &[RuleEntry]) -> Result<Self> {
        let rule = |place: u32| {
            rules.get(place as usize).copied().ok_or_else(|| {
                let why = format!("it names rule {place} of {}", rules.len());
                Error::new(Kind::Failed, "ask the kernel for a verdict", why)
            })
        };
        Ok(match verdict {
            Verdict::Rule(place) => Self::Rule(rule(place)?),
            Verdict::NonIp(slot) => Self::NonIp(slot),
            Verdict::Rejected(place) => Self::Rejected(rule(place)?),
            Verdict::None => Self::None,
        })
    }
}

/// Interface index of the loopback device, which every network namespace has; test runs are there if nothing else is
/// said.
const LOOPBACK: u32 = 1;

// `struct __sk_buff` of include/uapi/linux/bpf.h: where in it the fields are that a question needs.
const IFINDEX_AT: usize = 40;
const CB_AT: usize = 48;
/// Room for the context that comes back: 192 bytes in Linux 6.18. The kernel fails if there is too little.
const CONTEXT_ROOM: usize = 512;

/// Asks a source program for its verdict on a frame that claims to be at `ifindex`, which must not be its source.
pub(super) fn ask(program: &SchedClassifier, frame: &[u8], ifindex: u32) -> Result<Verdict> {
    let what = "ask the kernel for a verdict";
    let mut question = [0u8; IFINDEX_AT + 4];
    question[IFINDEX_AT..].copy_from_slice(&ifindex.to_ne_bytes());
    let mut answer = [0u8; CONTEXT_ROOM];
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.ctx_in = Some(&question);
    options.ctx_out = Some(&mut answer);
    program.test_run(options).map_err(|error| failed(what)(&error))?;
    let [a, b, c, d, e, f, g, h] = answer[CB_AT..][..8].try_into().expect("8 bytes");
    Verdict::from_answer([u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])])
        .ok_or_else(|| Error::new(Kind::Failed, what, "the program took it for a live packet"))
}

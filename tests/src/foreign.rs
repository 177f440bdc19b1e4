//! Programs of somebody else at the TC hooks of the lab's host, beside those of the product: one that writes down what it
//! sees, one that stamps what passes. Put together from instructions by hand: there is no compiler for them here.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use nix::net::if_::if_nametoindex;

use crate::bpf::{self, Instruction};
use crate::frame::Frame;
use crate::lab::Lab;

/// Bytes of a packet that a record has.
pub const RECORDED: usize = 256;
/// Records that may wait; the value keeps one queue below 4 MiB.
const RECORDS: u32 = 8192;

/// What a program tells the kernel to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ask the next program (`TCX_NEXT`, `TC_ACT_UNSPEC`).
    Next = -1,
    /// Let it pass, and ask nobody else (`TCX_PASS`, `TC_ACT_OK`).
    Ok = 0,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// In.
    Ingress,
    /// Out.
    Egress,
}

/// Both.
pub const BOTH_WAYS: [Way; 2] = [Way::Ingress, Way::Egress];

impl Way {
    /// As `tc` calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// `BPF_TCX_INGRESS`, `BPF_TCX_EGRESS`.
    const fn attach_type(self) -> u32 {
        match self {
            Self::Ingress => 46,
            Self::Egress => 47,
        }
    }
}

/// Where a program stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// By TCX, in front of all that are there now.
    TcxFirst,
    /// By TCX, behind all that are there now.
    TcxLast,
    /// In the clsact qdisc, which must be there, with this priority.
    Clsact(u16),
}

/// What a program read of a packet: fields of `struct __sk_buff`, by their names there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "the kernel's names")]
pub struct Record {
    pub len: u32,
    pub pkt_type: u32,
    pub mark: u32,
    pub queue_mapping: u32,
    pub protocol: u32,
    pub vlan_present: u32,
    pub vlan_tci: u32,
    pub vlan_proto: u32,
    pub priority: u32,
    pub tc_index: u32,
    pub cb: [u32; 5],
    pub hash: u32,
    pub gso_segs: u32,
    pub gso_size: u32,
    pub wire_len: u32,
    pub tstamp_type: u32,
    pub tstamp: u64,
    pub hwtstamp: u64,
    /// The packet's first bytes, zeros behind its end.
    pub bytes: [u8; RECORDED],
}

/// Offsets in `struct __sk_buff` of the 32-bit fields of [`Record`], in order.
const FIELDS: [i16; 19] = [0, 4, 8, 12, 16, 20, 24, 28, 32, 44, 48, 52, 56, 60, 64, 68, 164, 176, 160];
const TSTAMP_TYPE: i16 = 180;
const TSTAMP: i16 = 152;
const HWTSTAMP: i16 = 184;

impl Record {
    /// What there is of the packet.
    pub fn frame(&self) -> Frame {
        Frame(self.bytes[..RECORDED.min(self.len as usize)].to_vec())
    }
}

/// What [`Program::stamp`] writes into each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the kernel's names")]
pub struct Stamp {
    pub mark: u32,
    pub queue_mapping: u32,
    pub priority: u32,
    pub tc_index: u32,
    pub cb: [u32; 5],
    pub hash: u32,
    pub tstamp: u32,
}

/// A program of somebody else.
#[derive(Debug)]
pub struct Program {
    program: OwnedFd,
    records: Option<OwnedFd>,
}

/// A program at its place, by TCX until this is dropped, in a clsact qdisc as long as that is there.
#[derive(Debug)]
pub struct Attached(#[expect(dead_code, reason = "dropping it is what detaches")] Option<OwnedFd>);

// Registers: r0 what is returned, r1 to r5 arguments of calls, r6 kept through calls, r10 the end of the stack.
const LOAD_32: u8 = 0x61;
const LOAD_64: u8 = 0x79;
const LOAD_8: u8 = 0x71;
const STORE_32: u8 = 0x63;
const STORE_64: u8 = 0x7b;
const STORE_NUMBER_64: u8 = 0x7a;
const MOVE: u8 = 0xbf;
const MOVE_NUMBER: u8 = 0xb7;
const MOVE_NUMBER_32: u8 = 0xb4;
const ADD_NUMBER: u8 = 0x07;
const JUMP_IF_NOT_ABOVE: u8 = 0xb5;
const JUMP_IF_EQUAL: u8 = 0x15;
const LOAD_MAP: u8 = 0x18;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const SKB_LOAD_BYTES: i32 = 26;
const SET_HASH: i32 = 48;
const MAP_PUSH: i32 = 87;
const SKB_SET_TSTAMP: i32 = 192;

impl Program {
    /// One that writes down what it sees, changes nothing, and answers `verdict`.
    pub fn recorder(verdict: Verdict) -> Result<Self> {
        use std::os::fd::AsRawFd;
        const SIZE: i16 = size_of::<Record>() as i16;
        const BYTES: i16 = std::mem::offset_of!(Record, bytes) as i16;
        let records = bpf::queue::<Record>(RECORDS)?;
        let i = Instruction::new;
        let mut code = vec![i(MOVE, 6, 1, 0, 0)];
        code.extend((0..SIZE / 8).map(|word| i(STORE_NUMBER_64, 10, 0, word * 8 - SIZE, 0)));
        let mut at = -SIZE;
        for field in FIELDS {
            code.extend([i(LOAD_32, 1, 6, field, 0), i(STORE_32, 10, 1, at, 0)]);
            at += 4;
        }
        code.extend([i(LOAD_8, 1, 6, TSTAMP_TYPE, 0), i(STORE_32, 10, 1, at, 0)]);
        at += 4;
        for field in [TSTAMP, HWTSTAMP] {
            code.extend([i(LOAD_64, 1, 6, field, 0), i(STORE_64, 10, 1, at, 0)]);
            at += 8;
        }
        assert_eq!(at, BYTES - SIZE, "the fields are those of a record");
        code.extend([
            i(LOAD_32, 4, 6, 0, 0),
            i(JUMP_IF_NOT_ABOVE, 4, 0, 1, RECORDED as i32),
            i(MOVE_NUMBER, 4, 0, 0, RECORDED as i32),
            i(JUMP_IF_EQUAL, 4, 0, 5, 0),
            i(MOVE, 1, 6, 0, 0),
            i(MOVE_NUMBER, 2, 0, 0, 0),
            i(MOVE, 3, 10, 0, 0),
            i(ADD_NUMBER, 3, 0, 0, i32::from(BYTES - SIZE)),
            i(CALL, 0, 0, 0, SKB_LOAD_BYTES),
            // The map is named by its descriptor (BPF_PSEUDO_MAP_FD).
            i(LOAD_MAP, 1, 1, 0, records.as_raw_fd()),
            i(0, 0, 0, 0, 0),
            i(MOVE, 2, 10, 0, 0),
            i(ADD_NUMBER, 2, 0, 0, i32::from(-SIZE)),
            i(MOVE_NUMBER, 3, 0, 0, 0),
            i(CALL, 0, 0, 0, MAP_PUSH),
        ]);
        code.extend(ending(verdict));
        Ok(Self { program: bpf::load(&code)?, records: Some(records) })
    }

    /// One that does nothing and answers `verdict`.
    pub fn idle(verdict: Verdict) -> Result<Self> {
        Ok(Self { program: bpf::load(&ending(verdict))?, records: None })
    }

    /// One that writes `stamp` into every packet and asks the next program.
    pub fn stamp(stamp: &Stamp) -> Result<Self> {
        let i = Instruction::new;
        let mut code = vec![i(MOVE, 6, 1, 0, 0)];
        let fields = [(8, stamp.mark), (12, stamp.queue_mapping), (32, stamp.priority), (44, stamp.tc_index)];
        let cb = stamp.cb.iter().enumerate().map(|(index, value)| (48 + index as i16 * 4, *value));
        for (field, value) in fields.into_iter().chain(cb) {
            code.extend([i(MOVE_NUMBER_32, 1, 0, 0, value.cast_signed()), i(STORE_32, 6, 1, field, 0)]);
        }
        const MONOTONIC: i32 = 1;
        code.extend([
            i(MOVE, 1, 6, 0, 0),
            i(MOVE_NUMBER_32, 2, 0, 0, stamp.hash.cast_signed()),
            i(CALL, 0, 0, 0, SET_HASH),
            i(MOVE, 1, 6, 0, 0),
            i(MOVE_NUMBER_32, 2, 0, 0, stamp.tstamp.cast_signed()),
            i(MOVE_NUMBER, 3, 0, 0, MONOTONIC),
            i(CALL, 0, 0, 0, SKB_SET_TSTAMP),
        ]);
        code.extend(ending(Verdict::Next));
        Ok(Self { program: bpf::load(&code)?, records: None })
    }

    /// Attaches it to an interface of the lab's host.
    pub fn attach(&self, lab: &Lab, interface: &str, way: Way, place: Place) -> Result<Attached> {
        let priority = match place {
            Place::TcxFirst | Place::TcxLast => {
                let first = place == Place::TcxFirst;
                let link = lab.host.enter(|| {
                    let index = if_nametoindex(interface).with_context(|| format!("find {interface}"))?;
                    bpf::attach_tcx(&self.program, index, way.attach_type(), first)
                })?;
                return Ok(Attached(Some(link)));
            }
            Place::Clsact(priority) => priority,
        };
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let pin = lab.bpffs().context("the lab has a bpffs")?.join(format!("foreign-{number}"));
        bpf::pin(&self.program, &pin)?;
        let added = lab.host.tc(&format!(
            "filter add dev {interface} {} pref {priority} protocol all bpf direct-action object-pinned {}",
            way.name(),
            pin.display()
        ));
        fs::remove_file(&pin).with_context(|| format!("remove pin {}", pin.display()))?;
        added.map(|_| Attached(None))
    }

    /// What it has written down since the last call, in order.
    pub fn take(&self) -> Result<Vec<Record>> {
        let queue = self.records.as_ref().context("this program writes nothing down")?;
        let mut records = Vec::new();
        // SAFETY: the queue was made for records, which are numbers and bytes.
        while let Some(record) = unsafe { bpf::pop::<Record>(queue)? } {
            records.push(record);
        }
        ensure!(records.len() < RECORDS as usize, "a foreign program saw more packets than it could write down");
        Ok(records)
    }
}

fn ending(verdict: Verdict) -> [Instruction; 2] {
    [Instruction::new(MOVE_NUMBER, 0, 0, 0, verdict as i32), Instruction::new(EXIT, 0, 0, 0, 0)]
}

//! A watcher of the uplink for work that takes long: it judges each frame as it comes and keeps none, so that its memory
//! doesn't grow.
//!
//! It listens twice, where frames leave the host (u0) and where they arrive (c0): a frame that is lost on the link, or that
//! is changed behind the first place, is judged all the same.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::frame::Frame;
use crate::lab::{COLLECTOR, GENERATOR, HOST_SOURCE, HOST_UPLINK, Lab};
use crate::packet_socket::{Listen, PacketSocket};
use crate::recording::{is_of_the_uplink, silent_receiver};
use crate::vxlan::{Copy, PORT};

/// How many strays are kept to be shown.
const KEPT_STRAYS: usize = 5;
/// Bytes of the longest frame that the source's link carries: its MTU, the Ethernet header, two tags.
const LONGEST: usize = 1500 + 14 + 8;

/// What left by the uplink.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Frames that were judged: each counts where it left and where it arrived.
    pub frames: u64,
    /// Copies among them, by VNI.
    pub copies: BTreeMap<u32, u64>,
    /// ARP and neighbour discovery of the uplink itself, and the lab's markers.
    pub housekeeping: u64,
    /// Everything else.
    pub strays: u64,
    /// The first few of those, and why they are.
    pub shown: Vec<(String, Frame)>,
}

impl Tally {
    /// Copies of all VNIs.
    pub fn all_copies(&self) -> u64 {
        self.copies.values().sum()
    }

    /// Asserts that there was no stray.
    #[track_caller]
    pub fn has_no_strays(&self) {
        let shown: String = self.shown.iter().map(|(why, frame)| format!("\n{why}: {frame:?}")).collect();
        assert_eq!(self.strays, 0, "frames that should never leave by the uplink{shown}");
    }

    fn judge(&mut self, frame: &Frame, vnis: &[u32]) {
        self.frames += 1;
        match judge(frame, vnis) {
            Ok(Some(vni)) => *self.copies.entry(vni).or_default() += 1,
            Ok(None) => self.housekeeping += 1,
            Err(why) => {
                self.strays += 1;
                if self.shown.len() < KEPT_STRAYS {
                    self.shown.push((why, frame.clone()));
                }
            }
        }
    }
}

/// The VNI of a copy, nothing for the uplink's own housekeeping, or what is wrong.
fn judge(frame: &Frame, vnis: &[u32]) -> Result<Option<u32>, String> {
    if is_of_the_uplink(frame) {
        return Ok(None);
    }
    let copy = Copy::read(frame, PORT).ok_or("not a copy")?.map_err(|broken| format!("a broken copy: {broken}"))?;
    if !vnis.contains(&copy.vni) {
        return Err(format!("a copy with VNI {}, which no session has", copy.vni));
    }
    if copy.source_mac != HOST_UPLINK.mac || copy.destination_mac != COLLECTOR.mac {
        return Err("a copy with the wrong outer MAC addresses".into());
    }
    let expected = [HOST_UPLINK, COLLECTOR].map(|end| match copy.source.is_ipv4() {
        true => end.v4.into(),
        false => std::net::IpAddr::from(end.v6),
    });
    if [copy.source, copy.destination] != expected {
        return Err("a copy with the wrong outer IP addresses".into());
    }
    let inner = &copy.inner;
    if inner.0.len() > LONGEST {
        return Err(format!("a copy of {} bytes, more than a wire frame has", inner.0.len()));
    }
    if inner.source_mac().is_none_or(|mac| mac != GENERATOR.mac && mac != HOST_SOURCE.mac) {
        return Err("a copy of a frame that nobody at the source's link sent".into());
    }
    Ok(Some(copy.vni))
}

impl Lab {
    /// Watches the uplink while `work` is done; copies may carry one of `vnis`.
    pub fn watch_uplink<T>(&self, vnis: &[u32], work: impl FnOnce() -> Result<T>) -> Result<(Tally, T)> {
        let _sink = self.collector.enter(|| silent_receiver(PORT))?;
        let open = |station: crate::lab::Station| {
            self.namespace_of(station).enter(|| PacketSocket::open(station.interface, Listen::Everything))
        };
        let mut leaving = open(HOST_UPLINK)?;
        let mut arriving = open(COLLECTOR)?;
        let mut tally = Tally::default();
        let done = AtomicBool::new(false);
        let worked = thread::scope(|scope| {
            let watching = scope.spawn(|| -> Result<()> {
                while !done.load(Ordering::Acquire) {
                    wait(&leaving, &arriving)?;
                    look(&mut leaving, &mut arriving, &mut tally, vnis)?;
                }
                Ok(())
            });
            let worked = {
                let _ends_watching = SetOnDrop(&done);
                work()
            };
            watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            worked
        })?;
        self.flush()?;
        look(&mut leaving, &mut arriving, &mut tally, vnis)?;
        Ok((tally, worked))
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

fn wait(leaving: &PacketSocket, arriving: &PacketSocket) -> Result<()> {
    const LOOK_UP_MS: u8 = 20;
    let mut waiting = [leaving, arriving].map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN));
    poll(&mut waiting, PollTimeout::from(LOOK_UP_MS)).context("wait for frames")?;
    Ok(())
}

fn look(leaving: &mut PacketSocket, arriving: &mut PacketSocket, tally: &mut Tally, vnis: &[u32]) -> Result<()> {
    leaving.read_each(|seen| {
        if seen.outgoing {
            tally.judge(&seen.frame, vnis);
        }
    })?;
    arriving.read_each(|seen| {
        if !seen.outgoing {
            tally.judge(&seen.frame, vnis);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft::{self, IpVersion};
    use crate::frame::ARP;

    #[test]
    fn copies_pass_and_whatever_else_is_a_stray() {
        let vxlan = |vni: u8, inner: &Frame| {
            let payload = [&[8, 0, 0, 0, 0, 0, vni, 0], inner.bytes()].concat();
            let mut frame = craft::udp(&HOST_UPLINK, &COLLECTOR, IpVersion::V4, (50_000, PORT), &payload);
            // As ours: no identification, no fragments, no UDP checksum.
            frame.0[14 + 4..14 + 8].copy_from_slice(&[0, 0, 0x40, 0]);
            frame.0[14 + 20 + 6..14 + 20 + 8].copy_from_slice(&[0, 0]);
            crate::checksum::fill_ipv4(&mut frame.0, 14);
            frame
        };
        let inner = craft::udp_v4(100);
        assert_eq!(judge(&vxlan(1, &inner), &[1]), Ok(Some(1)));
        assert!(judge(&vxlan(2, &inner), &[1]).is_err(), "an unknown VNI");
        assert!(judge(&inner, &[1]).is_err(), "a bare frame");
        assert!(judge(&vxlan(1, &craft::udp_v4(LONGEST)), &[1]).is_err(), "a super-packet");
        assert!(judge(&vxlan(1, &vxlan(1, &inner)), &[1]).is_err(), "a copy of a copy");
        let arp = |from| craft::ethernet(from, &COLLECTOR, ARP, &[0; 28]);
        assert_eq!(judge(&arp(&HOST_UPLINK), &[1]), Ok(None));
        assert!(judge(&arp(&HOST_SOURCE), &[1]).is_err(), "a bare copy of housekeeping");
    }
}

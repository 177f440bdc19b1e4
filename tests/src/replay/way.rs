//! A lab whose source is mirrored by one path, and frames that pass it.

use std::collections::BTreeMap;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

use super::compare::{Difference, Matched, Original, compare, ends_in_a_tag};
use super::{Direction, Options};
use crate::craft::IpVersion;
use crate::frame::Frame;
use crate::lab::{COLLECTOR, GENERATOR, HOST_SOURCE, HOST_UPLINK, Lab, Station};
use crate::packet_socket::{Listen, PacketSocket};
use crate::path::Path;
use crate::vxlan::{self, Copy};

/// Any number will do.
const VNI: u32 = 4711;
/// Frames sent before the lab is given time: its queues take 1,000 packets, and every lab uses the same.
const AT_ONCE: usize = 64;
/// Largest MTU of a veth link.
const SOURCE_MTU_MAX: usize = 65_535;
/// The kernel lets no program put a header in front of more than four pages less some (net/core/filter.c,
/// BPF_SKB_MAX_LEN): longer frames, which are no frames but what a host handled in their place, are compared as far as
/// their copies go.
const UPLINK_MTU_MAX: usize = 16_000;
/// An Ethernet header with the two tags that may come on top of an MTU, and outer headers over IPv6.
const HEADROOM: usize = 22 + 70;
/// The counter of copies that found the queue of the tap full.
const TAP_FULL: &str = "tap_full";
/// The counter of frames with more tags than the product unstacks.
const TOO_DEEP: &str = "vlan_too_deep";
/// The counter of frames that end in a tag.
const CUT_SHORT: &str = "vlan_cut_short";
/// A counter of packets that are mirrored all the same.
const EXTENSION_HEADERS: &str = "extension_headers_too_deep";

/// A frame of a file, and its place there.
#[derive(Clone, Debug)]
pub struct Numbered {
    /// The first is 1.
    pub number: u64,
    /// Its bytes.
    pub frame: Frame,
}

/// A lab, one path.
#[derive(Debug)]
pub struct Way {
    lab: Lab,
    path: Path,
    direction: Direction,
    /// Bytes that a copy has at most.
    length: usize,
    skipped: BTreeMap<String, u64>,
}

/// What became of a batch.
#[derive(Clone, Debug)]
pub struct Passed {
    /// Frames that passed the source, in order.
    pub originals: Vec<Original>,
    /// Frames that passed it on the lab's own account.
    pub others: Vec<Frame>,
    /// What the collector got, in order.
    pub copies: Vec<Copy>,
    /// Frames that the kernel would not send: how many, by its reason.
    pub refused: BTreeMap<String, u64>,
    /// Frames that the kernel dropped before the source's hook: those that end inside a VLAN tag.
    pub dropped: u64,
    /// What the product counted as not sent, by reason.
    pub skipped: BTreeMap<String, u64>,
}

impl Way {
    /// Builds the lab for frames of at most `longest` bytes, and attaches.
    pub fn open(options: &Options, path: Path, longest: usize) -> Result<Self> {
        let source_mtu = longest.clamp(1500, SOURCE_MTU_MAX);
        let uplink_mtu = (source_mtu + HEADROOM).min(UPLINK_MTU_MAX);
        let lab = Lab::options()
            .without_source_offloads()
            .source_mtu(source_mtu as u32)
            .uplink_mtu(uplink_mtu as u32)
            .start()
            .context("build the lab")?;
        silence(&lab, GENERATOR)?;
        silence(&lab, HOST_SOURCE)?;
        let version = if options.target_v6 { IpVersion::V6 } else { IpVersion::V4 };
        let target = COLLECTOR.address(version);
        // Copies that wait for their neighbour may overtake each other.
        lab.host.ip(&format!(
            "neighbour replace {target} lladdr {} nud permanent dev {}",
            COLLECTOR.mac, HOST_UPLINK.interface
        ))?;
        let direction = options.direction;
        // One direction: answers of the hosts, should there be any, go the other way.
        let rule = |number: u32, cidr: &str| {
            format!(
                "rule add all --direction {} --rule-number {number} --action accept --source-cidr {cidr} \
                 --destination-cidr {cidr}",
                direction.name()
            )
        };
        let cut = options.packet_length.map(|length| format!("--packet-length {length}")).unwrap_or_default();
        for command in [
            "filter create all --mirror-non-ip".to_owned(),
            rule(1, "0.0.0.0/0"),
            rule(2, "::/0"),
            format!("attach s0 --target {target} --filter all --vni {VNI} {cut} {}", path.flag()),
        ] {
            let output = lab.mirrorctl(&command)?;
            if !output.succeeded() {
                bail!("mirrorctl {command}: {output}");
            }
        }
        // RFC 791 §3.1, RFC 8200 §3: what fits behind the outer headers in one packet.
        let room = uplink_mtu - if options.target_v6 { 40 + 16 } else { 20 + 16 };
        let length = room.min(options.packet_length.map_or(usize::MAX, usize::from));
        let mut way = Self { lab, path, direction, length, skipped: BTreeMap::new() };
        way.skipped = way.counted()?;
        Ok(way)
    }

    /// Which path it is.
    pub fn path(&self) -> Path {
        self.path
    }

    /// Bytes that a copy has at most.
    pub fn length(&self) -> usize {
        self.length
    }

    /// The lab.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Sends `frames` past the source and returns what passed it and what was copied. An error is the lab's fault, but
    /// for one that names a copy.
    pub fn pass(&mut self, frames: &[Numbered]) -> Result<Passed> {
        let at = match self.direction {
            Direction::Ingress => GENERATOR,
            Direction::Egress => HOST_SOURCE,
        };
        let mut sent = Err(anyhow::anyhow!("nothing was sent"));
        let recording = self.lab.record_at(&[HOST_SOURCE], vxlan::PORT, || {
            sent = self.send(at, frames);
            Ok(())
        });
        let (sent, refused) = sent?;
        let recording = recording?;
        if let Some(stray) = recording.strays.first() {
            bail!(
                "{}: {} frames reached the collector that are no copies; the first: {stray:?}",
                self.path,
                recording.strays.len()
            );
        }
        let outgoing = self.direction == Direction::Egress;
        let (passed, others): (Vec<_>, Vec<_>) =
            recording.seen_at(HOST_SOURCE).iter().partition(|seen| seen.outgoing == outgoing);
        let (originals, lacking) = align(&sent, passed.into_iter().map(|seen| seen.frame.clone()));
        if let Some(lost) = lacking.iter().find(|lost| !ends_in_a_tag(&lost.frame)) {
            bail!("frame {} never passed the source: {:?}", lost.number, lost.frame);
        }
        let others = others.into_iter().chain(recording.markers_at(HOST_SOURCE)).map(|seen| seen.frame.clone());
        let before = std::mem::take(&mut self.skipped);
        self.skipped = self.counted()?;
        let skipped = self.skipped.iter().filter_map(|(reason, count)| {
            let more = count - before.get(reason).copied().unwrap_or(0);
            (more > 0).then(|| (reason.clone(), more))
        });
        Ok(Passed {
            originals,
            others: others.collect(),
            refused,
            dropped: lacking.len() as u64,
            skipped: skipped.collect(),
            copies: recording.copies.into_iter().filter(|copy| copy.vni == VNI).collect(),
        })
    }

    /// Sends frames in order; the value is those that the kernel took, and its reasons for the others.
    fn send<'a>(&self, at: Station, frames: &'a [Numbered]) -> Result<(Vec<&'a Numbered>, BTreeMap<String, u64>)> {
        let socket = self.lab.namespace_of(at).enter(|| PacketSocket::open(at.interface, Listen::Nothing))?;
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                // The links keep the order of what one CPU sends.
                let here = sched_getcpu().context("ask which CPU this is")?;
                let mut one = CpuSet::new();
                one.set(here).context("choose a CPU")?;
                sched_setaffinity(Pid::from_raw(0), &one).with_context(|| format!("stay on CPU {here}"))?;
                let (mut sent, mut refused) = (Vec::with_capacity(frames.len()), BTreeMap::new());
                for few in frames.chunks(AT_ONCE) {
                    for numbered in few {
                        match socket.send(&numbered.frame) {
                            Ok(()) => sent.push(numbered),
                            Err(error) => match error.downcast_ref::<Errno>() {
                                // A queue was full, or memory short.
                                None | Some(Errno::ENOBUFS | Errno::ENOMEM | Errno::EAGAIN) => return Err(error),
                                Some(reason) => *refused.entry(reason.desc().to_owned()).or_default() += 1,
                            },
                        }
                    }
                    self.lab.flush()?;
                }
                Ok((sent, refused))
            });
            sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// What the product counted as not sent, since it was attached.
    fn counted(&self) -> Result<BTreeMap<String, u64>> {
        let stats = self.lab.stats()?;
        let skipped = stats["skipped"].as_object().context("stats have no skip reasons")?;
        Ok(skipped.iter().filter_map(|(reason, count)| Some((reason.clone(), count.as_u64()?))).collect())
    }

    /// Compares. An error says that the lab lost copies.
    pub fn judge(&self, passed: &Passed) -> Result<Result<Matched, Box<Difference>>> {
        let judged = compare(self.path, &passed.originals, &passed.copies, &passed.others, self.length);
        let counted = |reason: &str| passed.skipped.get(reason).copied().unwrap_or(0);
        let excuses: Vec<String> =
            passed.skipped.iter().map(|(reason, count)| format!("{count} as {reason}")).collect();
        match judged {
            Err(difference) if difference.is_loss && counted(TAP_FULL) > 0 => {
                bail!("the tap's queue, which all labs of this machine share, was full: {} copies", counted(TAP_FULL))
            }
            Err(mut difference) if !excuses.is_empty() => {
                difference.story += &format!("\n  the product counted {} in this batch", excuses.join(", "));
                Ok(Err(difference))
            }
            Ok(matched) => {
                let wrong = passed
                    .skipped
                    .keys()
                    .any(|reason| ![TOO_DEEP, CUT_SHORT, EXTENSION_HEADERS].contains(&reason.as_str()));
                let all = matched.uncopied..=matched.uncopied + matched.vanished;
                if wrong || !all.contains(&(counted(TOO_DEEP) + counted(CUT_SHORT))) {
                    let story = format!(
                        "{}: every frame has its copy but {} with too many tags, and the product counted {}",
                        self.path,
                        matched.uncopied,
                        if excuses.is_empty() { "none".into() } else { excuses.join(", ") }
                    );
                    return Ok(Err(Box::new(Difference { number: None, story, is_loss: false })));
                }
                Ok(Ok(matched))
            }
            judged => Ok(judged),
        }
    }
}

/// Nobody answers at this interface: whatever a capture holds, it starts no conversation.
fn silence(lab: &Lab, station: Station) -> Result<()> {
    let namespace = lab.namespace_of(station);
    let interface = station.interface;
    namespace.set_sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "1")?;
    namespace.set_sysctl("ipv4/ip_forward", "0")?;
    // RFC 3704: no packet comes from where nothing is routed to.
    namespace.set_sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "1")?;
    namespace.ip_batch(&format!("address flush dev {interface}\nlink set {interface} arp off\n"))
}

/// Which of the `sent` frames passed the source, which didn't, and what else did.
fn align<'a>(sent: &[&'a Numbered], passed: impl Iterator<Item = Frame>) -> (Vec<Original>, Vec<&'a Numbered>) {
    let (mut originals, mut lacking) = (Vec::new(), Vec::new());
    let mut rest = sent;
    for frame in passed {
        let place = rest.iter().position(|numbered| numbered.frame == frame);
        let number = place.map(|place| {
            lacking.extend(&rest[..place]);
            let number = rest[place].number;
            rest = &rest[place + 1..];
            number
        });
        originals.push(Original { number, frame });
    }
    lacking.extend(rest);
    (originals, lacking)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft;

    #[test]
    fn what_passed_is_told_from_what_did_not_and_from_the_rest() {
        let sent: Vec<Numbered> =
            (1..=4).map(|number| Numbered { number, frame: craft::udp_v4(number as usize) }).collect();
        let sent: Vec<&Numbered> = sent.iter().collect();
        let passed = [1, 9, 3].map(craft::udp_v4);
        let (originals, lacking) = align(&sent, passed.into_iter());
        let numbers: Vec<_> = originals.iter().map(|original| original.number).collect();
        assert_eq!(numbers, [Some(1), None, Some(3)]);
        let lacking: Vec<_> = lacking.iter().map(|numbered| numbered.number).collect();
        assert_eq!(lacking, [2, 4]);
    }
}

//! A change of policy is atomic: every packet is judged by the whole old policy or the whole new one, whatever happens
//! to the command.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mirror_tests::{COLLECTOR, GENERATOR, HOST_SOURCE, Lab, Turn, hooks};

/// Everything of either direction goes to one session, whose VNI this is.
fn everything_to(vni: u32) -> String {
    let rule = |direction: &str| {
        format!(
            "[[filter.rule]]\nnumber = 1\ndirection = \"{direction}\"\naction = \"accept\"\nprotocol = \"udp\"\n\
             source = \"0.0.0.0/0\"\ndestination = \"0.0.0.0/0\"\n"
        )
    };
    format!(
        "[[target]]\nname = \"collector\"\naddress = \"{}\"\n[[filter]]\nname = \"all-{vni}\"\n{}{}\
         [[session]]\nname = \"to-{vni}\"\nnumber = 1\nsource = \"s0\"\ntarget = \"collector\"\nfilter = \"all-{vni}\"\nvni = {vni}\n",
        COLLECTOR.v4,
        rule("ingress"),
        rule("egress"),
    )
}

/// The UDP port that echoes.
const ECHO: u16 = 7;
/// Datagrams and copies on their way at once: fewer than any queue or socket buffer of the lab holds.
const IN_FLIGHT: u64 = 20;

/// UDP datagrams that the generator sends without a pause and the host sends back, and the copies of both.
struct Flow {
    lab: Lab,
    /// Datagrams sent.
    sent: AtomicU64,
    /// Copies received.
    received: AtomicU64,
    stop: AtomicBool,
}

/// The copies of a numbered datagram, of the one that came in and of the one that went out: the VNI of the copy, or one of
/// the two below. There are millions.
type Copies = [u8; 2];
const NO_COPY: u8 = 0;
const SEVERAL_COPIES: u8 = u8::MAX;

impl Flow {
    fn new(lab: Lab) -> Self {
        Self { lab, sent: AtomicU64::new(0), received: AtomicU64::new(0), stop: AtomicBool::new(false) }
    }

    /// Lets datagrams flow while `work` is done; the value is the VNIs of the copies of each.
    fn during(&self, work: impl FnOnce(&Lab) -> Result<()>) -> Result<Vec<Copies>> {
        let open = |station: mirror_tests::lab::Station, port: u16| {
            self.lab.namespace_of(station).enter(|| {
                let socket = UdpSocket::bind((station.v4, port)).context("bind a UDP socket")?;
                socket.set_read_timeout(Some(Duration::from_millis(100))).context("limit the wait")?;
                Ok(socket)
            })
        };
        let (generator, host, collector) = (open(GENERATOR, 0)?, open(HOST_SOURCE, ECHO)?, open(COLLECTOR, 4789)?);
        thread::scope(|scope| {
            let sending = scope.spawn(|| self.send(&generator));
            let echoing = scope.spawn(|| self.echo(&host));
            let collecting = scope.spawn(|| self.collect(&collector));
            let worked = {
                let _ends_the_flow = SetOnDrop(&self.stop);
                work(&self.lab)
            };
            let join = |thread: thread::ScopedJoinHandle<'_, Result<()>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            worked.and(join(sending)).and(join(echoing))?;
            collecting.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn send(&self, socket: &UdpSocket) -> Result<()> {
        let mut progress = (0, Instant::now());
        while !self.stopped() {
            let (sent, received) = (self.sent.load(Ordering::Relaxed), self.received.load(Ordering::Relaxed));
            if received != progress.0 {
                progress = (received, Instant::now());
            }
            if 2 * sent >= received + IN_FLIGHT {
                ensure!(
                    progress.1.elapsed() < Duration::from_secs(10),
                    "{sent} datagrams went each way and only {received} copies came: some packet was not mirrored"
                );
                // Leaves the CPU to the commands, which have as much to do with it.
                thread::sleep(Duration::from_micros(400));
                continue;
            }
            socket.send_to(&sent.to_be_bytes(), (HOST_SOURCE.v4, ECHO)).context("send a datagram")?;
            self.sent.store(sent + 1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn echo(&self, socket: &UdpSocket) -> Result<()> {
        let mut datagram = [0; 8];
        loop {
            match socket.recv_from(&mut datagram) {
                Ok((_, from)) => drop(socket.send_to(&datagram, from).context("send a datagram back")?),
                Err(_) if self.stopped() => return Ok(()),
                Err(_) => {}
            }
        }
    }

    fn collect(&self, socket: &UdpSocket) -> Result<Vec<Copies>> {
        let mut copies: Vec<Copies> = Vec::new();
        let mut packet = [0; 2048];
        let mut quiet_since = Instant::now();
        loop {
            let Ok(length) = socket.recv(&mut packet) else {
                let missing = 2 * self.sent.load(Ordering::Relaxed) > self.received.load(Ordering::Relaxed);
                let patience = if missing { Duration::from_secs(5) } else { Duration::from_millis(300) };
                if self.stopped() && quiet_since.elapsed() > patience {
                    return Ok(copies);
                }
                continue;
            };
            quiet_since = Instant::now();
            let Some((number, direction, vni)) = read_copy(&packet[..length]) else { continue };
            let number = usize::try_from(number)?;
            if copies.len() <= number {
                copies.resize(number + 1, Copies::default());
            }
            let copy = &mut copies[number][direction];
            *copy = if *copy == NO_COPY { vni } else { SEVERAL_COPIES };
            self.received.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Sets a flag when it is dropped, by a panic too.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The number of the datagram, 0 on its way there and 1 on its way back, and the VNI of the copy. RFC 7348 §5: a header
/// of 8 bytes, then the frame.
fn read_copy(payload: &[u8]) -> Option<(u64, usize, u8)> {
    let [0x08, 0, 0, 0, 0, 0, vni, 0] = *payload.first_chunk::<8>()? else { return None };
    let udp = payload.get(8 + 14 + 20..)?;
    let port = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    let direction = match (port(0)?, port(2)?) {
        (_, ECHO) => 0,
        (ECHO, _) => 1,
        _ => return None,
    };
    let number = u64::from_be_bytes(*udp.get(8..)?.first_chunk::<8>()?);
    Some((number, direction, vni))
}

/// Fails unless every datagram, there and back, was mirrored once, to VNI 1 or 2; returns how many went to each.
#[track_caller]
fn each_is_mirrored_once(flow: &Flow, copies: &[Copies]) -> [usize; 2] {
    let sent = flow.sent.load(Ordering::Relaxed) as usize;
    assert_eq!(copies.len(), sent, "{sent} datagrams were sent");
    let mut counts = [0; 2];
    for (number, copies) in copies.iter().enumerate() {
        for (way, copy) in ["there", "back"].iter().zip(copies) {
            match copy {
                1 | 2 => counts[usize::from(*copy) - 1] += 1,
                &NO_COPY => panic!("datagram {number} was not mirrored on its way {way}"),
                &SEVERAL_COPIES => panic!("datagram {number} was mirrored more than once on its way {way}"),
                vni => panic!("datagram {number} went to VNI {vni} on its way {way}"),
            }
        }
    }
    counts
}

/// 1,000 switches through the program itself, each a build beside the old policy, a switch and a clean-up.
#[test]
fn every_packet_is_mirrored_once_through_a_thousand_switches() -> Result<()> {
    switches(hooks()?[0], 1_000)
}

#[test]
fn every_packet_is_mirrored_once_through_switches_of_clsact_filters() -> Result<()> {
    switches("tc", 50)
}

fn switches(hook: &str, count: usize) -> Result<()> {
    let lab = Lab::new()?;
    let files = [1, 2].map(|vni| lab.scratch_directory().join(format!("{vni}.toml")));
    for (file, vni) in files.iter().zip([1, 2]) {
        fs::write(file, everything_to(vni)).context("write a definitions file")?;
    }
    let apply = |lab: &Lab, file: usize| -> Result<()> {
        lab.mirrorctl(&format!("apply -f {}", files[file].display()))?.ok();
        Ok(())
    };
    apply(&lab, 0)?;
    lab.mirrorctl("detach s0")?.ok();
    lab.mirrorctl(&format!("attach s0 --hook {hook}"))?.ok();
    let _turn = Turn::wait()?;
    let flow = Flow::new(lab);
    let began = Instant::now();
    let copies = flow.during(|lab| (1..=count).try_for_each(|round| apply(lab, round % 2)))?;
    let seconds = began.elapsed().as_secs_f64();
    let [a, b] = each_is_mirrored_once(&flow, &copies);
    println!("{count} switches in {seconds:.1} s under {} packets: {a} to A, {b} to B", a + b);
    assert!(a > count && b > count, "both sessions should have got packets: {a} and {b}");
    let stats = flow.lab.stats()?;
    let skipped = stats["skipped"].as_object().context("skipped is an object")?;
    assert!(skipped.values().all(|count| *count == 0), "nothing was skipped: {stats}");
    Ok(())
}

/// The names in a directory.
fn entries(directory: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

/// kill -9 at any moment of a change: the kernel goes by one policy or the other, and the next command mends the rest.
#[test]
fn a_killed_change_leaves_one_whole_policy() -> Result<()> {
    let lab = Lab::new()?;
    let files = [1, 2].map(|vni| lab.scratch_directory().join(format!("{vni}.toml")));
    for (file, vni) in files.iter().zip([1, 2]) {
        fs::write(file, everything_to(vni)).context("write a definitions file")?;
    }
    lab.mirrorctl(&format!("apply -f {}", files[0].display()))?.ok();
    let _turn = Turn::wait()?;
    let flow = Flow::new(lab);
    let mut killed = 0;
    let copies = flow.during(|lab| {
        for round in 0..60 {
            let words = format!("apply -f {}", files[(round + 1) % 2].display());
            let running = lab.start_mirrorctl(&lab.host, &words)?;
            thread::sleep(Duration::from_millis(1 + round as u64 * 2));
            if running.kill()?.was_killed() {
                killed += 1;
            }
            if round % 7 == 6 {
                lab.mirrorctl(&words)?.ok();
            }
        }
        lab.mirrorctl(&format!("apply -f {}", files[0].display()))?.ok();
        Ok(())
    })?;
    each_is_mirrored_once(&flow, &copies);
    assert!(killed > 10, "only {killed} of 60 commands were killed while they ran");
    let status = flow.lab.status()?;
    assert_eq!(status["sources"][0]["sessions"][0]["vni"], 1, "{status}");
    let sources = flow
        .lab
        .bpffs()
        .context("the lab has a bpffs")?
        .join(format!("mirrorctl/default/v{}/sources", mirror_common::LAYOUT_VERSION));
    let [source] = &entries(&sources)?[..] else {
        panic!("one source is attached, pinned are {:?}", entries(&sources)?)
    };
    let generations: Vec<_> =
        entries(&sources.join(source))?.into_iter().filter(|name| name.parse::<u64>().is_ok()).collect();
    assert_eq!(generations.len(), 1, "what was replaced should be gone: {generations:?}");
    flow.lab.mirrorctl("detach --all")?.ok();
    Ok(())
}

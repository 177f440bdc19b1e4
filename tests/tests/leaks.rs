//! A raw clone never leaves by the uplink: not while sources are attached and detached and policies change, and not
//! when a command is killed at any moment.

use std::fmt::Write as _;
use std::fs;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use mirror_tests::frame::{Tag, VLAN};
use mirror_tests::lab::Station;
use mirror_tests::random::Random;
use mirror_tests::{
    BOTH_PATHS, BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, HOST_UPLINK, IpVersion, Lab, hooks,
};
use mirror_tests::{craft, traffic};
use nix::sys::socket::{setsockopt, sockopt};

/// Cycles of the usual test run; `MIRROR_LEAKS` asks for another number (`cargo xtask leaks`).
const CYCLES: usize = 100;
/// Cycles between two looks at what `detach --all` leaves behind.
const ROUND: usize = 50;

/// VNIs of the sessions of definitions files, of those that `attach` makes, and the one that `session modify` sets.
const OF_FILES: [u32; 3] = [21, 22, 23];
const OF_ATTACH: [u32; 2] = [11, 12];
const MODIFIED: u32 = 31;

/// `MIRROR_SEED`, else one that is new each time.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    std::env::var("MIRROR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(now)
}

/// Everything that passes s0 goes to one session, cut or not, or all but one protocol.
fn definitions(vni: u32) -> String {
    let (target, length, protocol) = match vni {
        21 => (COLLECTOR.address(IpVersion::V4), "", ""),
        22 => (COLLECTOR.address(IpVersion::V6), "packet_length = 100\n", ""),
        _ => (COLLECTOR.address(IpVersion::V4), "packet_length = 1000\n", "protocol = \"tcp\"\n"),
    };
    let mut text = format!(
        "[[target]]\nname = \"collector\"\naddress = \"{target}\"\n[[filter]]\nname = \"f{vni}\"\nmirror_non_ip = true\n"
    );
    for direction in ["ingress", "egress"] {
        for (number, any) in [(1, "0.0.0.0/0"), (2, "::/0")] {
            let _ = write!(
                text,
                "[[filter.rule]]\nnumber = {number}\ndirection = \"{direction}\"\naction = \"accept\"\n\
                 source = \"{any}\"\ndestination = \"{any}\"\n{protocol}"
            );
        }
    }
    text + &format!(
        "[[session]]\nname = \"mirror\"\nnumber = 1\nsource = \"s0\"\ntarget = \"collector\"\nfilter = \"f{vni}\"\n\
         vni = {vni}\n{length}"
    )
}

/// Traffic through the source that never ends by itself: TCP and UDP with super-packets, and frames that are not IP. So
/// little at once that it never fills the queues that all labs share.
///
/// The value is how many datagrams were sent and how many of them didn't arrive.
fn talk(lab: &Lab, stop: &AtomicBool) -> Result<(u64, u64)> {
    // Both ends hand their kernels datagrams of many segments (UDP_SEGMENT); the ports are nobody's, which is answered
    // by ICMP.
    const SEGMENT: i32 = 1200;
    let open = |station: Station| {
        lab.namespace_of(station).enter(|| {
            let socket = UdpSocket::bind((station.v4, 0)).context("bind a UDP socket")?;
            socket.set_nonblocking(true).context("never wait for a datagram")?;
            Ok(socket)
        })
    };
    let super_sockets = [open(GENERATOR)?, open(HOST_SOURCE)?];
    for socket in &super_sockets {
        setsockopt(socket, sockopt::UdpGsoSegment, &SEGMENT).context("ask for UDP segmentation")?;
    }
    let [generator, host] = [open(GENERATOR)?, open(HOST_SOURCE)?];
    let [to_generator, to_host] = [&generator, &host].map(UdpSocket::local_addr);
    let (to_generator, to_host) = (to_generator.context("read an address")?, to_host.context("read an address")?);
    let datagram = craft::content(7, 12_000);
    let non_ip: [(Station, Frame); 4] = [
        // LLDP (IEEE 802.1AB), MPLS (RFC 3032), a tagged packet, one of a made-up protocol.
        (GENERATOR, craft::ethernet(&GENERATOR, &HOST_SOURCE, 0x88cc, &craft::content(1, 60))),
        (HOST_SOURCE, craft::ethernet(&HOST_SOURCE, &GENERATOR, 0x8847, &craft::content(2, 300))),
        (GENERATOR, craft::tagged(&craft::udp_v4(200), &[Tag { ethertype: VLAN, control: 5 }])),
        (HOST_SOURCE, craft::ethernet(&HOST_SOURCE, &GENERATOR, 0x88b6, &craft::content(3, 1000))),
    ];
    let (mut sent, mut received) = (0, 0);
    let read = || -> u64 {
        let mut buffer = [0; 2048];
        [&generator, &host]
            .map(|socket| std::iter::from_fn(|| socket.recv(&mut buffer).ok()).count() as u64)
            .iter()
            .sum()
    };
    while !stop.load(Ordering::Relaxed) {
        for version in BOTH_VERSIONS {
            traffic::exchange_tcp(lab.end(GENERATOR, version), lab.end(HOST_SOURCE, version), 40_000)?;
        }
        for (from, to) in [(&generator, to_host), (&host, to_generator)] {
            from.send_to(&datagram[..700], to).context("send a datagram")?;
            sent += 1;
        }
        for (socket, to) in super_sockets.iter().zip([HOST_SOURCE, GENERATOR]) {
            socket.send_to(&datagram, (to.v4, 9)).context("send many datagrams at once")?;
        }
        for (at, frame) in &non_ip {
            lab.inject(*at, frame)?;
        }
        // Leaves some of the CPU to the commands.
        thread::sleep(Duration::from_millis(5));
        received += read();
    }
    lab.flush()?;
    received += read();
    Ok((sent, sent - received))
}

/// A kind of command, how long it takes, and what came of it.
struct Kind {
    time: Duration,
    runs: u64,
    kills: u64,
    refusals: u64,
}

struct Cycles<'a> {
    lab: &'a Lab,
    random: Random,
    files: Vec<String>,
    hooks: Vec<&'static str>,
    kinds: std::collections::BTreeMap<&'static str, Kind>,
    /// What ended with a status that no such command should have.
    failures: Vec<String>,
}

impl Cycles<'_> {
    /// A command: what kind it is, and its words.
    fn draw(&mut self) -> (&'static str, String) {
        let hook = *self.random.pick(&self.hooks);
        let path = self.random.pick(&BOTH_PATHS).flag();
        let instance = if self.random.once_in(6) { " --instance b" } else { "" };
        let (kind, words) = match self.random.below(16) {
            0..=2 => {
                let at = self.random.below(2);
                let target = COLLECTOR.address(BOTH_VERSIONS[at]);
                let length = *self.random.pick(&["", "--packet-length 64", "--packet-length 1500"]);
                let words =
                    format!("attach s0 --target {target} --vni {} --hook {hook} {path} {length}", OF_ATTACH[at]);
                ("attach", words)
            }
            3..=5 => ("attach again", format!("attach s0 --hook {hook} {path}")),
            6..=7 => ("detach", "detach s0".into()),
            8 => ("detach --all", "detach --all".into()),
            9..=12 => ("apply", format!("apply -f {}", self.random.pick(&self.files))),
            13 => ("session modify", format!("session modify mirror --vni {MODIFIED}")),
            14 => {
                let length = self.random.pick(&[64, 128, 1400]);
                ("session modify", format!("session modify mirror --packet-length {length}"))
            }
            _ => ("stats", "stats".into()),
        };
        (kind, words + instance)
    }

    fn cycle(&mut self) -> Result<()> {
        let (kind, words) = self.draw();
        let is_killed = self.random.once_in(2);
        let lasts =
            self.kinds.entry(kind).or_insert(Kind { time: Duration::from_millis(50), runs: 0, kills: 0, refusals: 0 });
        let started = Instant::now();
        let running = self.lab.start_mirrorctl(&self.lab.host, &words)?;
        let output = if is_killed {
            // The moment is what is tried out, not a wait for anything.
            let most = lasts.time.as_micros().max(1) as usize;
            thread::sleep(Duration::from_micros(self.random.below(most) as u64));
            running.kill()?
        } else {
            let output = running.output()?;
            if output.succeeded() {
                lasts.time = (lasts.time * 7 + started.elapsed()) / 8;
            }
            output
        };
        lasts.runs += 1;
        match output.status() {
            Some(0) => {}
            // Not found, in conflict with what is there: what the draw makes of it.
            Some(3 | 4) => lasts.refusals += 1,
            // Of a source that has no session (any more).
            Some(2) if kind == "attach again" => lasts.refusals += 1,
            None if output.was_killed() => lasts.kills += 1,
            _ => self.failures.push(format!("`{words}`: {output}")),
        }
        Ok(())
    }
}

#[test]
fn no_raw_clone_leaves_by_the_uplink_whatever_is_done_and_killed() -> Result<()> {
    let cycles = std::env::var("MIRROR_LEAKS").ok().and_then(|cycles| cycles.parse().ok()).unwrap_or(CYCLES);
    let seed = seed();
    println!("MIRROR_SEED={seed} MIRROR_LEAKS={cycles}");
    let lab = Lab::new()?;
    let before = lab.traces()?;
    let mut files = Vec::new();
    for vni in OF_FILES {
        let file = lab.scratch_directory().join(format!("{vni}.toml"));
        fs::write(&file, definitions(vni)).context("write a definitions file")?;
        files.push(file.display().to_string());
    }
    // One that ends every session: after it `attach` finds its session number free.
    let nothing = lab.scratch_directory().join("nothing.toml");
    fs::write(&nothing, "").context("write a definitions file")?;
    lab.mirrorctl(&format!("apply -f {}", nothing.display()))?.ok();
    files.extend([nothing.display().to_string(), nothing.display().to_string()]);
    let vnis: Vec<u32> = OF_FILES.into_iter().chain(OF_ATTACH).chain([MODIFIED]).collect();
    let mut state = Cycles {
        lab: &lab,
        random: Random::new(seed),
        files,
        hooks: hooks()?,
        kinds: Default::default(),
        failures: Vec::new(),
    };
    let began = Instant::now();
    let stop = AtomicBool::new(false);
    let dropped_before = lab.lost_by_links()?;
    let (tally, (sent, lost)) = lab.watch_uplink(&vnis, || {
        thread::scope(|scope| {
            let talking = scope.spawn(|| talk(&lab, &stop));
            let worked = (|| -> Result<()> {
                for number in 1..=cycles {
                    // Without traffic there is nothing to be proved; its own error is told below.
                    if talking.is_finished() {
                        return Ok(());
                    }
                    state.cycle().with_context(|| format!("MIRROR_SEED={seed}: cycle {number}"))?;
                    if number % 1000 == 0 {
                        println!("{number} cycles in {:.0} s", began.elapsed().as_secs_f64());
                    }
                    if number % ROUND == 0 || number == cycles {
                        for instance in ["", " --instance b"] {
                            lab.mirrorctl(&format!("detach --all{instance}"))?.ok();
                        }
                        let now = lab.traces()?;
                        for what in ["ip -details -oneline link show", "tc qdisc show", "tc filter show dev s0", "pins"]
                        {
                            assert_eq!(
                                now.about(what),
                                before.about(what),
                                "MIRROR_SEED={seed}: `{what}` after {number} cycles and `detach --all`"
                            );
                        }
                    }
                }
                Ok(())
            })();
            stop.store(true, Ordering::Relaxed);
            let talked = talking.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            worked.and(talked)
        })
    })?;
    let sum = |of: fn(&Kind) -> u64| -> u64 { state.kinds.values().map(of).sum() };
    let kills = sum(|kind| kind.kills);
    for (name, kind) in &state.kinds {
        println!(
            "{name}: {} runs, {} killed, {} refused, {} ms",
            kind.runs,
            kind.kills,
            kind.refusals,
            kind.time.as_millis()
        );
    }
    println!(
        "{cycles} cycles in {:.1} s, {kills} kills: {} frames watched, {} copies {:?}, {} housekeeping, {} strays",
        began.elapsed().as_secs_f64(),
        tally.frames,
        tally.all_copies(),
        tally.copies,
        tally.housekeeping,
        tally.strays
    );
    let dropped = lab.lost_by_links()? - dropped_before;
    println!(
        "{sent} single datagrams, {lost} lost; the lab's links dropped {dropped} packets, their queues being full"
    );
    tally.has_no_strays();
    assert!(
        lost <= dropped,
        "{lost} of {sent} original datagrams are lost, and the links dropped only {dropped} packets"
    );
    assert!(state.failures.is_empty(), "{} commands failed, the first: {}", state.failures.len(), state.failures[0]);
    assert!(kills as usize > cycles / 20, "only {kills} of {cycles} commands were killed while they ran");
    assert!(tally.all_copies() > 1000, "copies should have come while all this was done");
    // So many that chance leaves none out.
    assert!(cycles < 2000 || vnis.iter().all(|vni| tally.copies.contains_key(vni)), "each VNI had its time");
    Ok(())
}

#[test]
fn the_watcher_sees_a_bare_frame_at_both_ends() -> Result<()> {
    let lab = Lab::new()?;
    let (tally, ()) = lab.watch_uplink(&[42], || {
        lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
        lab.small_talk()?;
        lab.inject(HOST_UPLINK, &craft::udp_v4(100))?;
        lab.mirrorctl("detach s0")?.ok();
        Ok(())
    })?;
    assert!(tally.all_copies() > 50, "{tally:?}");
    assert_eq!(tally.strays, 2, "one frame, where it leaves and where it arrives: {tally:?}");
    Ok(())
}

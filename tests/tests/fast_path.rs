//! The fast path: which copies take it, that nothing else about them is different, and that it follows what changes.

use std::fs;
use std::thread;

use anyhow::{Context, Result};
use mirror_common::LAYOUT_VERSION;
use mirror_tests::frame::Mac;
use mirror_tests::lab::Station;
use mirror_tests::packet_socket::{Listen, PacketSocket};
use mirror_tests::vxlan::PORT;
use mirror_tests::wait::wait_until;
use mirror_tests::{BOTH_VERSIONS, COLLECTOR, Frame, GENERATOR, HOST_SOURCE, IpVersion, Lab, Turn, Wanted, hooks};
use mirror_tests::{craft, traffic};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

/// Copies of the first session, and those of them that took the fast path.
fn counted(lab: &Lab) -> Result<(u64, u64)> {
    let stats = lab.stats()?;
    let session = &stats["sessions"][0];
    let (all, fast) = (session["packets"].as_u64(), session["fast_path"].as_u64());
    Ok((all.context("stats count packets")?, fast.context("stats count fast_path")?))
}

/// Does `work` until nearly all copies that it makes take the fast path: now and then one has to ask the neighbour, and on
/// a busy machine that is often. Returns what was counted at the last try.
fn until_fast(lab: &Lab, mut work: impl FnMut() -> Result<()>) -> Result<(u64, u64)> {
    const TRIES: usize = 10;
    let mut last = (0, 0);
    for _ in 0..TRIES {
        lab.flush()?;
        let before = counted(lab)?;
        work()?;
        lab.flush()?;
        let after = counted(lab)?;
        last = (after.0 - before.0, after.1 - before.1);
        if last.0 > 0 && last.1 * 10 >= last.0 * 9 {
            break;
        }
    }
    Ok(last)
}

/// Datagrams of several flows, into the host and out of it.
fn datagrams(version: IpVersion) -> Vec<(Station, Frame)> {
    let mut frames = Vec::new();
    for flow in 0..20 {
        for (from, to) in [(GENERATOR, HOST_SOURCE), (HOST_SOURCE, GENERATOR)] {
            let length = 10 + 70 * usize::from(flow);
            frames.push((from, craft::udp(&from, &to, version, (4000 + flow, 9), &craft::content(7, length))));
        }
    }
    frames
}

#[test]
fn ordinary_packets_pass_by_the_tap() -> Result<()> {
    for hook in hooks()? {
        for version in BOTH_VERSIONS {
            for length in [None, Some(100), Some(1000)] {
                // The hook has no say in what becomes of a clone: one that is cut is enough for the older one.
                if hook == "tc" && length != Some(100) {
                    continue;
                }
                let lab = Lab::new()?;
                let cut = length.map_or_else(String::new, |length| format!("--packet-length {length}"));
                let target = COLLECTOR.address(version);
                lab.mirrorctl(&format!("attach s0 --target {target} --vni 42 {cut} --hook {hook}"))?.ok();
                for inner in BOTH_VERSIONS {
                    let (all, fast) = until_fast(&lab, || {
                        let recording = lab.record(|| {
                            datagrams(inner).iter().try_for_each(|(from, frame)| lab.inject(*from, frame))
                        })?;
                        let wanted = length.map_or(Wanted::vni(42), |length| Wanted::vni(42).cut_to(length));
                        recording.each_frame_has_one_copy(wanted);
                        Ok(())
                    })?;
                    assert!(
                        fast * 10 >= all * 9,
                        "{inner:?} to a target of {version:?}, {cut}: of {all} copies {fast} took the fast path"
                    );
                }
            }
        }
    }
    Ok(())
}

#[test]
fn without_it_every_copy_takes_the_tap() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42 --no-fast-path", COLLECTOR.v4))?.ok();
    lab.record(|| lab.small_talk())?.each_frame_has_one_copy(Wanted::vni(42));
    let (all, fast) = counted(&lab)?;
    assert!(all > 20 && fast == 0, "of {all} copies {fast} took the fast path");
    assert_eq!(lab.status()?["sources"][0]["fast_path"], false);
    // A change of the session is none of that.
    lab.mirrorctl("session modify s0-1 --vni 43")?.ok();
    lab.record(|| lab.small_talk())?.each_frame_has_one_copy(Wanted::vni(43));
    assert_eq!(counted(&lab)?.1, 0, "copies that took the fast path after a change");
    Ok(())
}

#[test]
fn super_packets_go_whole_unless_they_are_cut() -> Result<()> {
    for version in BOTH_VERSIONS {
        for (cut, is_fast) in [("", true), ("--packet-length 1514", true), ("--packet-length 1000", false)] {
            let lab = Lab::new()?;
            let _turn = Turn::wait()?;
            lab.mirrorctl(&format!("attach s0 --target {} --vni 42 {cut}", COLLECTOR.address(version)))?.ok();
            let (host, generator) = (lab.end(HOST_SOURCE, version), lab.end(GENERATOR, version));
            for (from, to) in [(host, generator), (generator, host)] {
                let before = counted(&lab)?;
                let recording = lab.record(|| traffic::send_tcp(from, to, 1_000_000))?;
                let after = counted(&lab)?;
                let (sent, received) = recording.super_packets();
                assert!(sent + received > 10, "there should have been super-packets: {sent} out, {received} in");
                let wanted = Wanted::vni(42);
                recording.each_frame_has_one_copy(if is_fast { wanted } else { wanted.cut_to(1000) });
                if is_fast {
                    recording.checksums_are_right();
                }
                let (all, fast) = (after.0 - before.0, after.1 - before.1);
                let right = if is_fast { fast * 2 > all } else { fast * 2 < all };
                assert!(right, "{version:?} {cut}: of {all} copies {fast} took the fast path");
            }
        }
    }
    Ok(())
}

#[test]
fn changes_of_route_and_neighbour_are_followed() -> Result<()> {
    for version in BOTH_VERSIONS {
        let lab = Lab::new()?;
        lab.collector.set_sysctl("ipv4/conf/all/arp_ignore", "1")?;
        let target = COLLECTOR.address(version);
        lab.mirrorctl(&format!("attach s0 --target {target} --vni 42"))?.ok();
        let frame = craft::udp(&GENERATOR, &HOST_SOURCE, version, (4000, 9), &craft::content(1, 1300));
        let fast_copies = || -> Result<()> {
            let (all, fast) = until_fast(&lab, || lab.inject_all(GENERATOR, &vec![frame.clone(); 20]))?;
            assert!(fast * 10 >= all * 9, "{version:?}: of {all} copies {fast} took the fast path");
            Ok(())
        };
        fast_copies()?;

        // Another next hop address for the collector's: a neighbour that somebody has changed.
        let other = Mac([0x02, 0, 0, 0, 2, 99]);
        lab.change_way(&format!("neighbour replace {target} lladdr {other} dev u0 nud permanent"))?;
        let recording = lab.record(|| lab.inject_all(GENERATOR, &vec![frame.clone(); 20]))?;
        let copies: Vec<_> = recording.copies.iter().filter(|copy| copy.inner == frame).collect();
        assert_eq!(copies.len(), 20);
        assert!(copies.iter().all(|copy| copy.destination_mac == other), "{version:?}: every copy goes to {other}");
        lab.host.ip(&format!("neighbour del {target} dev u0"))?;
        fast_copies()?;

        // An MTU that the copy doesn't fit any more.
        lab.change_way("link set u0 mtu 1330")?;
        let recording = lab.record(|| lab.inject_all(GENERATOR, &vec![frame.clone(); 20]))?;
        let room = 1330 - 8 - 8 - if version == IpVersion::V4 { 20 } else { 40 };
        let copies: Vec<_> = recording.copies.iter().filter(|copy| copy.inner == frame.cut(room)).collect();
        assert_eq!(copies.len(), 20, "{version:?}: every copy is cut to {room} bytes");
        lab.change_way("link set u0 mtu 1600")?;
        fast_copies()?;

        // A route that refuses.
        let prefix = if version == IpVersion::V4 { 32 } else { 128 };
        lab.change_way(&format!("route add prohibit {target}/{prefix} metric 1"))?;
        let recording = lab.record(|| lab.inject_all(GENERATOR, &vec![frame.clone(); 20]))?;
        recording.nothing_is_copied();
        lab.host.ip(&format!("route del prohibit {target}/{prefix} metric 1"))?;
        wait_until("copies come again", || {
            let recording = lab.record(|| lab.inject(GENERATOR, &frame))?;
            Ok(recording.copies.iter().any(|copy| copy.inner == frame))
        })?;
    }
    Ok(())
}

#[test]
fn the_neighbour_is_asked_now_and_then_whether_it_is_there() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    let state = || lab.host.ip(&format!("neighbour show {} dev u0", COLLECTOR.v4));
    lab.record(|| lab.inject(GENERATOR, &craft::udp_v4(100)))?;
    lab.host.ip(&format!("neighbour change {} lladdr {} dev u0 nud stale", COLLECTOR.v4, COLLECTOR.mac))?;
    assert!(state()?.contains("STALE"), "{}", state()?);
    // Fast copies alone would leave it so for ever: a stale neighbour has an address.
    wait_until("the kernel doubts the neighbour", || {
        lab.inject(GENERATOR, &craft::udp_v4(100))?;
        Ok(!state()?.contains("STALE"))
    })
}

#[test]
fn without_the_program_every_copy_takes_the_tap() -> Result<()> {
    let lab = Lab::new()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    let frames: Vec<Frame> = (0..20).map(craft::udp_v4).collect();
    let (all, fast) = until_fast(&lab, || lab.inject_all(GENERATOR, &frames))?;
    assert!(fast * 10 >= all * 9, "of {all} copies {fast} took the fast path");
    // Without its last pin a link is gone, a little later.
    let pins = lab.bpffs().context("the lab has a bpffs")?.join(format!("mirrorctl/default/v{LAYOUT_VERSION}"));
    assert_eq!(lab.status()?["sources"][0]["fast_path"], true);
    fs::remove_file(pins.join("fast")).context("remove the link of the fast path")?;
    assert_eq!(lab.status()?["sources"][0]["fast_path"], false);
    wait_until("the fast path is gone", || {
        let before = counted(&lab)?;
        let recording = lab.record(|| lab.inject_all(GENERATOR, &frames))?;
        recording.each_frame_has_one_copy(Wanted::vni(42));
        let after = counted(&lab)?;
        Ok(after.1 == before.1)
    })
}

#[test]
fn an_uplink_that_finishes_nothing_gets_finished_copies() -> Result<()> {
    for version in BOTH_VERSIONS {
        let lab = Lab::new()?;
        let _turn = Turn::wait()?;
        // As a veth pair is unless somebody changes it: what is sent arrives as it is, checksums unfinished.
        for (namespace, interface) in [(&lab.host, "u0"), (&lab.collector, "c0")] {
            namespace.run("ethtool", &["-K", interface, "tx", "on", "sg", "on", "tso", "on", "gso", "on"], "")?;
        }
        lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.address(version)))?.ok();
        let (host, generator) = (lab.end(HOST_SOURCE, version), lab.end(GENERATOR, version));
        let recording = lab.record_at(&[HOST_SOURCE, COLLECTOR], PORT, || {
            traffic::send_tcp(host, generator, 1_000_000)?;
            lab.small_talk()
        })?;
        recording.each_frame_has_one_copy(Wanted::vni(42));
        recording.checksums_are_right();
        let (sent, _) = recording.super_packets();
        assert!(sent > 10, "the host should have sent super-packets: {sent}");
        let arrived = recording.seen_at(COLLECTOR).iter().filter(|seen| !seen.outgoing);
        let most = arrived.map(|seen| seen.part_of).max();
        assert_eq!(most, Some(1), "{version:?}: no super-packet should arrive at the collector");
    }
    Ok(())
}

/// Does `work`, and all that it starts, on the first CPU.
fn on_first_cpu<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let mut one = CpuSet::new();
            one.set(0).context("choose a CPU")?;
            sched_setaffinity(Pid::from_raw(0), &one).context("move to CPU 0")?;
            work()
        });
        worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[test]
fn copies_of_a_flow_keep_the_order_of_its_packets() -> Result<()> {
    // The path takes the short packets, not the long ones whole: those take the tap.
    let lab = Lab::options().uplink_mtu(1500).start()?;
    lab.mirrorctl(&format!("attach s0 --target {} --vni 42", COLLECTOR.v4))?.ok();
    // Received on the second CPU, while the first one sends: it handles several packets before it comes to their clones.
    let rps = "echo 2 > /sys/class/net/s0/queues/rx-0/rps_cpus";
    lab.host.run("ip", &["netns", "exec", lab.host.name(), "sh", "-c", rps], "")?;
    let frames: Vec<Frame> = (0..400)
        .map(|index| {
            let length = if index % 2 == 0 { 1470 } else { 40 };
            craft::udp(&GENERATOR, &HOST_SOURCE, IpVersion::V4, (4000, 9), &craft::content(index, length))
        })
        .collect();
    let before = counted(&lab)?;
    let recording = on_first_cpu(|| lab.record(|| lab.inject_all(GENERATOR, &frames)))?;
    let after = counted(&lab)?;
    let (all, fast) = (after.0 - before.0, after.1 - before.1);
    let room = 1500 - 20 - 8 - 8;
    let copied: Vec<Option<usize>> = recording
        .copies
        .iter()
        .filter(|copy| copy.inner.ports() == Some((4000, 9)))
        .map(|copy| frames.iter().position(|frame| frame.cut(room) == copy.inner))
        .collect();
    let sent: Vec<Option<usize>> = (0..frames.len()).map(Some).collect();
    let first = sent.iter().zip(&copied).position(|(sent, copied)| sent != copied);
    assert_eq!(first, None, "the place of the first copy out of order ({all} copies, {fast} by the fast path)");
    assert_eq!(copied.len(), sent.len());
    Ok(())
}

#[test]
fn sessions_send_over_several_uplinks_at_once() -> Result<()> {
    let lab = Lab::new()?;
    // Three more links between host and collector.
    let networks = [(3, "10.3.0"), (4, "10.4.0"), (5, "10.5.0")];
    for (link, network) in networks {
        lab.host.ip(&format!(
            "link add u{link} mtu 1600 type veth peer name c{link} mtu 1600 netns {}",
            lab.collector.name()
        ))?;
        for (namespace, interface, end) in [(&lab.host, format!("u{link}"), 1), (&lab.collector, format!("c{link}"), 2)]
        {
            namespace.ip(&format!("address add {network}.{end}/24 dev {interface}"))?;
            namespace.ip(&format!("link set {interface} up"))?;
            namespace.run("ethtool", &["-K", &interface, "tx", "off", "sg", "off", "tso", "off", "gso", "off"], "")?;
        }
    }
    let filter = |port: u16| {
        format!(
            "[[filter]]\nname = \"f{port}\"\n[[filter.rule]]\nnumber = 1\ndirection = \"ingress\"\naction = \"accept\"\n\
             protocol = \"udp\"\nsource = \"0.0.0.0/0\"\ndestination = \"0.0.0.0/0\"\ndestination_ports = \"{port}-{port}\"\n"
        )
    };
    let mut definitions = String::new();
    for (link, network) in networks {
        let port = 1000 + link;
        definitions += &filter(port);
        definitions += &format!("[[target]]\nname = \"t{link}\"\naddress = \"{network}.2\"\n");
        definitions += &format!(
            "[[session]]\nname = \"s{link}\"\nnumber = {link}\nsource = \"s0\"\ntarget = \"t{link}\"\nfilter = \"f{port}\"\n\
             vni = {link}\n"
        );
    }
    let file = lab.scratch_directory().join("definitions.toml");
    fs::write(&file, definitions).context("write a definitions file")?;
    lab.mirrorctl(&format!("apply -f {}", file.display()))?.ok();

    let frames: Vec<(u16, Frame)> = (0..60)
        .map(|index| {
            let link = 3 + index % 3;
            let payload = craft::content(u64::from(index), 200);
            (link, craft::udp(&GENERATOR, &HOST_SOURCE, IpVersion::V4, (2000 + index, 1000 + link), &payload))
        })
        .collect();
    let mut listeners = Vec::new();
    for (link, _) in networks {
        let interface = format!("c{link}");
        listeners.push((link, lab.collector.enter(|| PacketSocket::open(&interface, Listen::Everything))?));
    }
    let mut arrived: Vec<(u16, mirror_tests::Copy)> = Vec::new();
    let mut rounds = 0;
    wait_until("copies have taken the fast path over every uplink", || {
        rounds += 1;
        for (_, frame) in &frames {
            lab.inject(GENERATOR, frame)?;
        }
        lab.flush()?;
        let stats = lab.stats()?;
        let sessions = stats["sessions"].as_array().context("stats list sessions")?;
        Ok(sessions.len() == 3 && sessions.iter().all(|session| session["fast_path"].as_u64() >= Some(10)))
    })?;
    wait_until("every copy arrives", || {
        for (link, listener) in &mut listeners {
            let mut seen = Vec::new();
            listener.read_all(&mut seen)?;
            let copies = seen.iter().filter_map(|seen| mirror_tests::Copy::read(&seen.frame, PORT));
            arrived.extend(copies.filter_map(Result::ok).map(|copy| (*link, copy)));
        }
        Ok(arrived.len() >= rounds * frames.len())
    })?;
    for (link, frame) in &frames {
        let here =
            arrived.iter().filter(|(at, copy)| at == link && copy.vni == u32::from(*link) && copy.inner == *frame);
        assert_eq!(here.count(), rounds, "{frame} should have come {rounds} times by c{link}");
    }
    assert_eq!(arrived.len(), rounds * frames.len());
    Ok(())
}

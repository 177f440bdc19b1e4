//! A collector on the mirrored host itself: copies reach a socket there, and nothing leaves the host.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use anyhow::{Context, Result};
use mirror_tests::craft::{self, content};
use mirror_tests::vxlan::PORT;
use mirror_tests::wait::wait_until;
use mirror_tests::{
    BOTH_VERSIONS, Frame, GENERATOR, HOST_SOURCE, HOST_UPLINK, IpVersion, Lab, Recording, checksum, hooks, traffic,
};
use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// A collector in the host's namespace, at every address.
struct Collector(UdpSocket);

impl Collector {
    fn open(lab: &Lab) -> Result<Self> {
        let socket = lab.host.enter(|| {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)).context("open a UDP socket")?;
            socket.set_only_v6(false)?;
            socket.set_recv_buffer_size(64 << 20)?;
            nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(64 << 20))?;
            accept_no_checksum(&socket)?;
            socket.bind(&SockAddr::from(SocketAddr::new(IpAddr::from([0; 16]), PORT))).context("bind")?;
            Ok(UdpSocket::from(socket))
        })?;
        socket.set_nonblocking(true)?;
        Ok(Self(socket))
    }

    /// The frames of all copies that have come, with the addresses that they came from.
    fn take(&self, vni: u32) -> Result<Vec<(IpAddr, Frame)>> {
        let mut buffer = vec![0; 1 << 16];
        let mut frames = Vec::new();
        loop {
            let (length, from) = match self.0.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(frames),
                Err(error) => return Err(error).context("receive"),
            };
            // RFC 7348 §5.
            let [_, v1, v2, v3] = vni.to_be_bytes();
            assert_eq!(buffer[..8], [8, 0, 0, 0, v1, v2, v3, 0], "a VXLAN header with VNI {vni}");
            frames.push((from.ip().to_canonical(), Frame(buffer[8..length].to_vec())));
        }
    }
}

/// Over IPv6 a socket takes datagrams without checksum only if it says so (RFC 6935 §5).
fn accept_no_checksum(socket: &Socket) -> Result<()> {
    const UDP_NO_CHECK6_RX: libc::c_int = 102;
    let on: libc::c_int = 1;
    // SAFETY: the pointer and the length are those of `on`.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_UDP,
            UDP_NO_CHECK6_RX,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    Errno::result(code).map(drop).context("accept datagrams without checksum")
}

/// Asserts that each frame of the source's traffic has come to the host's collector once, from `from`.
#[track_caller]
fn each_has_one_copy(recording: &Recording, copies: &[(IpAddr, Frame)], from: IpAddr, cut: usize) {
    recording.nothing_is_copied();
    let mut seen: Vec<Frame> = recording.traffic_at(HOST_SOURCE).into_iter().map(|frame| frame.cut(cut)).collect();
    let mut copied: Vec<Frame> =
        copies.iter().map(|(_, frame)| frame).filter(|frame| !frame.is_housekeeping()).cloned().collect();
    seen.sort();
    copied.sort();
    assert_eq!(copied.len(), seen.len(), "copies of the frames of {from}");
    assert!(copied == seen, "copies should be the frames that passed the source");
    assert!(copies.iter().all(|(source, _)| *source == from), "copies should come from {from}");
}

#[test]
fn copies_for_an_address_of_the_host_reach_its_socket() -> Result<()> {
    for hook in hooks()? {
        let lab = Lab::new()?;
        let before = lab.traces()?;
        let targets = [
            "127.0.0.1".parse()?,
            "127.9.9.9".parse()?,
            "::1".parse()?,
            HOST_SOURCE.address(IpVersion::V4),
            HOST_SOURCE.address(IpVersion::V6),
            HOST_UPLINK.address(IpVersion::V4),
            HOST_UPLINK.address(IpVersion::V6),
        ];
        for target in targets {
            for cut in [None, Some(100)] {
                let length = cut.map_or_else(String::new, |length| format!("--packet-length {length}"));
                let collector = Collector::open(&lab)?;
                lab.mirrorctl(&format!("attach s0 --target {target} --vni 42 {length} --hook {hook}"))?.ok();
                let recording = lab.record(|| lab.small_talk())?;
                each_has_one_copy(&recording, &collector.take(42)?, target, cut.unwrap_or(usize::MAX));
                let stats = lab.stats()?;
                let skipped = stats["skipped"].as_object().expect("an object");
                assert!(skipped.values().all(|count| count == 0), "{stats}");
                lab.mirrorctl("detach s0")?.ok();
                before.are_all_there_is(&lab.traces()?, &format!("after {target} was the target"));
            }
        }
    }
    Ok(())
}

#[test]
fn the_traffic_of_loopback_is_mirrored_to_loopback_without_a_loop() -> Result<()> {
    for target in ["127.0.0.1", "::1"] {
        for hook in hooks()? {
            let lab = Lab::new()?;
            let collector = Collector::open(&lab)?;
            lab.mirrorctl(&format!("attach lo --target {target} --vni 42 --hook {hook}"))?.ok();
            for version in BOTH_VERSIONS {
                let address: IpAddr = if version == IpVersion::V4 { "127.0.0.1".parse()? } else { "::1".parse()? };
                let end = traffic::End { namespace: &lab.host, address };
                for length in [10, 1000, 20_000] {
                    traffic::exchange_udp(end, end, length)?;
                }
                traffic::ping(end, address, 56)?;
                traffic::exchange_tcp(end, end, 100_000)?;
            }
            lab.flush()?;
            let copies = collector.take(42)?;
            for (_, frame) in &copies {
                assert!(frame.ports().is_none_or(|(_, port)| port != PORT), "a copy was mirrored: {frame:?}");
                if frame.0.len() < 15_900 {
                    checksum::verify(frame).map_err(|wrong| anyhow::anyhow!("in a copy, {wrong}: {frame:?}"))?;
                }
            }
            for version in BOTH_VERSIONS {
                for (length, seed) in [(10, 3), (10, 4), (1000, 3), (1000, 4)] {
                    let sent = content(seed, length);
                    // Out of lo, and into it.
                    let of_this = copies.iter().filter(|(_, frame)| {
                        let is_of = frame.ip().is_some_and(|ip| ip.source.is_ipv4() == (version == IpVersion::V4));
                        is_of && frame.ports().is_some() && frame.bytes().ends_with(&sent)
                    });
                    assert_eq!(of_this.count(), 2, "a datagram of {length} bytes over {version:?}");
                }
            }
            let cut = copies.iter().filter(|(_, frame)| frame.0.len() > 15_900).count() as u64;
            let stats = lab.stats()?;
            assert!(cut >= 8, "frames of 20,000 bytes should have been cut to what a copy can have: {cut}");
            assert_eq!(stats["sessions"][0]["truncated_to_mtu"].as_u64(), Some(cut), "{stats}");
            assert_eq!(stats["skipped"]["nobody_listens"], 0, "{stats}");
        }
    }
    Ok(())
}

#[test]
fn without_a_listener_copies_are_counted_and_no_storm_begins() -> Result<()> {
    for (source, target) in [("lo", "127.0.0.1"), ("lo", "::1"), ("s0", "127.0.0.1"), ("s0", "10.1.0.2")] {
        let lab = Lab::new()?;
        lab.mirrorctl(&format!("attach {source} --target {target} --vni 42"))?.ok();
        let (from, to): (_, IpAddr) = match source {
            "lo" => (&lab.host, "127.0.0.1".parse()?),
            _ => (&lab.generator, HOST_SOURCE.v4.into()),
        };
        let address = if source == "lo" { to } else { GENERATOR.v4.into() };
        traffic::ping(traffic::End { namespace: from, address }, to, 56)?;
        lab.flush()?;
        let stats = lab.stats()?;
        let skipped = stats["skipped"]["nobody_listens"].as_u64();
        // Request and reply; on lo each goes out and comes in.
        let passed = if source == "lo" { 4 } else { 2 };
        // The hosts say a little on their own account at s0.
        let most = if source == "lo" { passed } else { passed + 10 };
        assert!((Some(passed)..=Some(most)).contains(&skipped), "{source} to {target}: {stats}");
        assert_eq!(stats["sessions"][0]["packets"], 0, "{stats}");
    }
    Ok(())
}

#[test]
fn capture_on_the_host_itself_shows_copies() -> Result<()> {
    for target in ["127.0.0.1", "::1"] {
        let lab = Lab::new()?;
        // Nothing but the echo: the hosts may say something on their own account.
        lab.mirrorctl("filter create echo")?.ok();
        for direction in ["ingress", "egress"] {
            lab.mirrorctl(&format!(
                "rule add echo --direction {direction} --rule-number 1 --action accept --protocol icmp \
                 --source-cidr 0.0.0.0/0 --destination-cidr 0.0.0.0/0"
            ))?
            .ok();
        }
        let capture = lab.start_mirrorctl(&lab.host, &format!("capture --listen {target} --vni 42 -c 2"))?;
        wait_until("capture listens", || lab.listens_at_udp(&lab.host, PORT))?;
        lab.mirrorctl(&format!("attach s0 --target {target} --vni 42 --filter echo"))?.ok();
        traffic::ping(lab.end(GENERATOR, IpVersion::V4), HOST_SOURCE.v4.into(), 56)?;
        let output = capture.output()?;
        assert!(output.stdout.contains("ICMP 10.1.0.1 > 10.1.0.2 echo request"), "{output}");
        assert!(output.stdout.contains("ICMP 10.1.0.2 > 10.1.0.1 echo reply"), "{output}");
    }
    Ok(())
}

#[test]
fn a_reverse_path_filter_that_would_drop_copies_is_named() -> Result<()> {
    let lab = Lab::new()?;
    lab.host.set_sysctl("ipv4/conf/all/rp_filter", "2")?;
    let before = lab.traces()?;
    let attach = "attach s0 --vni 42 --target";
    lab.mirrorctl(&format!("{attach} 10.1.0.2"))?.fails(2, &["10.1.0.2", "rp_filter = 2", "hint: use 127.0.0.1"]);
    before.are_all_there_is(&lab.traces()?, "after the refusal");
    for target in ["127.0.0.1", "fd00:1::2"] {
        let collector = Collector::open(&lab)?;
        lab.mirrorctl(&format!("{attach} {target}"))?.ok();
        let recording = lab.record(|| {
            // The lab's own replies come in where a strict filter lets them.
            lab.inject(GENERATOR, &craft::echo_reply_v4(100))
        })?;
        each_has_one_copy(&recording, &collector.take(42)?, target.parse()?, usize::MAX);
        lab.mirrorctl("detach s0")?.ok();
    }
    Ok(())
}

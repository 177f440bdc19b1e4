//! `mirrorctl capture` over the loopback device, from datagrams to what a reader gets. Needs no root.
#![expect(clippy::unwrap_used, reason = "a test that panics has failed, which is all there is to say")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::UdpSocket;
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::setsockopt;
use nix::unistd::Pid;
use nix::{setsockopt_impl, sockopt_impl};

sockopt_impl!(
    /// Send with a zero checksum over IPv6, as copies are.
    NoCheck6Tx,
    SetOnly,
    libc::IPPROTO_UDP,
    libc::UDP_NO_CHECK6_TX,
    bool
);

/// A running `mirrorctl capture`.
struct Capture {
    child: Child,
    stdout: BufReader<ChildStdout>,
    stderr: BufReader<ChildStderr>,
}

/// What a command that has ended leaves.
struct Ended {
    status: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Capture {
    /// Returns once it listens. Ends by itself, so that a test that waits in vain fails instead of hanging.
    fn start(arguments: &[&str]) -> Self {
        let mut capture = Self::spawn(arguments);
        let mut line = String::new();
        capture.stderr.read_line(&mut line).unwrap();
        assert!(line.starts_with("listening at "), "{line}");
        capture
    }

    fn spawn(arguments: &[&str]) -> Self {
        let mut child = Command::new("timeout")
            .args(["--kill-after=1", "30", env!("CARGO_BIN_EXE_mirrorctl"), "capture"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = BufReader::new(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        line
    }

    fn interrupt(self) -> Ended {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), Signal::SIGINT).unwrap();
        self.wait()
    }

    fn wait(mut self) -> Ended {
        let (mut stdout, mut stderr) = (String::new(), String::new());
        self.stdout.read_to_string(&mut stdout).unwrap();
        self.stderr.read_to_string(&mut stderr).unwrap();
        Ended { status: self.child.wait().unwrap().code(), stdout, stderr }
    }
}

/// A port of the loopback device that nobody listens at.
fn free_port() -> u16 {
    UdpSocket::bind("[::]:0").or_else(|_| UdpSocket::bind("0.0.0.0:0")).unwrap().local_addr().unwrap().port()
}

fn copy(vni: u8, frame: &[u8]) -> Vec<u8> {
    [&[8, 0, 0, 0, 0, 0, vni, 0], frame].concat()
}

/// A UDP packet of 4 bytes from 192.0.2.1 to 192.0.2.2.
const UDP: [u8; 46] = [
    2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, // Ethernet
    0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2, // IPv4
    0, 53, 0xc0, 0, 0, 12, 0, 0, 1, 2, 3, 4, // UDP
];

#[test]
fn copies_are_printed_as_they_come() {
    let port = free_port();
    let mut capture = Capture::start(&["--listen", &format!("127.0.0.1:{port}"), "--vni", "42"]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = |datagram: &[u8]| sender.send_to(datagram, ("127.0.0.1", port)).unwrap();
    let from = format!("vni 42 from {}", sender.local_addr().unwrap());

    send(&copy(42, &UDP));
    let line = capture.line();
    assert!(line.ends_with(&format!("Z {from} len 46: UDP 192.0.2.1:53 > 192.0.2.2:49152 len 4\n")), "{line}");

    send(&copy(43, &UDP));
    send(&[0; 20]);
    send(&[]);
    send(&copy(42, &UDP[..40]));
    let line = capture.line();
    let expected = format!("Z {from} len 40: UDP 192.0.2.1:53 > 192.0.2.2:49152 len 4 [cut: 40 of 46 bytes]\n");
    assert!(line.ends_with(&expected), "{line}");

    let ended = capture.interrupt();
    assert_eq!(ended.stderr, "5 received, 2 shown, 1 with another VNI, 2 malformed, 0 dropped by the kernel\n");
    assert_eq!((ended.stdout.as_str(), ended.status), ("", Some(0)));
}

#[test]
fn both_families_are_received_with_a_zero_checksum() {
    let port = free_port();
    let Ok(sender) = UdpSocket::bind("[::1]:0") else {
        eprintln!("skipped: this host has no IPv6");
        return;
    };
    let capture = Capture::start(&["--listen", &format!("[::]:{port}"), "--json", "-c", "2"]);
    setsockopt(&sender, NoCheck6Tx, &true).unwrap();
    sender.send_to(&copy(1, &UDP), ("::1", port)).unwrap();
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    other.send_to(&copy(2, &UDP), ("127.0.0.1", port)).unwrap();

    let ended = capture.wait();
    assert_eq!(ended.status, Some(0), "{}", ended.stderr);
    let copies: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let sources = [&copies[0]["source"], &copies[1]["source"]];
    assert_eq!(sources, [&sender.local_addr().unwrap().to_string(), &other.local_addr().unwrap().to_string()]);
    assert_eq!((&copies[0]["vni"], &copies[1]["vni"]), (&1.into(), &2.into()));
}

#[test]
fn a_file_is_readable_while_it_is_written() {
    let port = free_port();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("copies.pcapng");
    let capture = Capture::start(&["--listen", &format!("127.0.0.1:{port}"), "-w", path.to_str().unwrap()]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.send_to(&copy(42, &UDP), ("127.0.0.1", port)).unwrap();
    sender.send_to(&copy(42, &UDP[..20]), ("127.0.0.1", port)).unwrap();

    // Section header, interface description, two packets: what a kill would leave.
    let blocks = loop {
        let blocks = block_types(&fs::read(&path).unwrap());
        if blocks.len() >= 4 {
            break blocks;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(blocks, [0x0a0d_0d0a, 1, 6, 6]);
    let ended = capture.interrupt();
    assert_eq!((ended.stdout.as_str(), ended.status), ("", Some(0)), "{}", ended.stderr);
    assert_eq!(block_types(&fs::read(&path).unwrap()), [0x0a0d_0d0a, 1, 6, 6, 5]);
}

/// The type of every block; fails if the last one isn't whole.
fn block_types(file: &[u8]) -> Vec<u32> {
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
    let (mut at, mut types) = (0, Vec::new());
    while at < file.len() {
        types.push(word(at));
        let length = word(at + 4);
        at += length as usize;
        assert_eq!(word(at - 4), length);
    }
    types
}

#[test]
fn a_reader_that_goes_is_no_error() {
    let port = free_port();
    let mut capture = Capture::start(&["--listen", &format!("127.0.0.1:{port}")]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let send = || sender.send_to(&copy(42, &UDP), ("127.0.0.1", port)).unwrap();
    send();
    capture.line();
    drop(capture.stdout);
    // More than once: a process that another test is just starting may hold the other end for a moment.
    let status = loop {
        send();
        std::thread::sleep(Duration::from_millis(10));
        if let Some(status) = capture.child.try_wait().unwrap() {
            break status;
        }
    };
    let mut stderr = String::new();
    capture.stderr.read_to_string(&mut stderr).unwrap();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert!(stderr.ends_with(" 0 malformed, 0 dropped by the kernel\n"), "{stderr}");
}

#[test]
fn what_cannot_be_listened_at_is_refused() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("never.pcapng");
    for (listen, status, error) in [
        (taken.as_str(), 4, format!("error: listen at {taken}: the port is in use\nhint: ")),
        ("192.0.2.77", 2, "error: listen at 192.0.2.77:4789: this is no address of this host\nhint: ".to_owned()),
        ("collector", 2, "error: read command line: invalid value 'collector'".to_owned()),
    ] {
        let ended = Capture::spawn(&["--listen", listen, "-w", file.to_str().unwrap()]).wait();
        assert!(ended.stderr.starts_with(&error), "{}", ended.stderr);
        assert_eq!((ended.status, ended.stdout.as_str()), (Some(status), ""));
        assert!(!file.exists());
    }
    let port = format!("127.0.0.1:{}", free_port());
    let ended = Capture::spawn(&["--listen", &port, "-w", "/nonexistent/copies.pcapng"]).wait();
    assert!(ended.stderr.starts_with("error: create /nonexistent/copies.pcapng: "), "{}", ended.stderr);
    assert_eq!(ended.status, Some(3));
}

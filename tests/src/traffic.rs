//! Real traffic between two namespaces, through the hosts' own protocol stacks, its content verified at both ends.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::checksum;
use crate::craft::content;
use crate::namespace::Namespace;
use crate::wait::PATIENCE;

/// Bytes of a TCP connection that may be under way in one direction. What is under way is mirrored into queues of
/// 1,000 packets (`netdev_max_backlog`) that all labs share: this is what keeps the lab from losing copies itself.
const WINDOW: usize = 96 * 1024;

/// One end of a conversation.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where it is.
    pub namespace: &'a Namespace,
    /// Its address.
    pub address: IpAddr,
}

/// Sends `bytes` bytes each way over one TCP connection, both ways at once, and verifies what arrives.
pub fn exchange_tcp(client: End<'_>, server: End<'_>, bytes: usize) -> Result<()> {
    tcp(client, server, bytes, bytes)
}

/// Sends `bytes` bytes from `client` to `server` over one TCP connection, and verifies what arrives.
pub fn send_tcp(client: End<'_>, server: End<'_>, bytes: usize) -> Result<()> {
    tcp(client, server, bytes, 0)
}

fn tcp(client: End<'_>, server: End<'_>, bytes_there: usize, bytes_back: usize) -> Result<()> {
    let (calling, called) = connect_tcp(client, server)?;
    let (there, back) = (content(1, bytes_there), content(2, bytes_back));
    thread::scope(|scope| {
        let ends = [(&calling, &there, &back), (&called, &back, &there)];
        let workers = ends.map(|(stream, sends, expects)| {
            let writer = scope.spawn(move || send_stream(stream, sends));
            let reader = scope.spawn(move || expect_stream(stream, expects));
            [writer, reader]
        });
        workers.into_iter().flatten().try_for_each(|worker| match worker.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    })
}

/// Both ends of a new TCP connection, with a bounded window.
pub(crate) fn connect_tcp(client: End<'_>, server: End<'_>) -> Result<(TcpStream, TcpStream)> {
    let listener = server.namespace.enter(|| {
        let domain = Domain::for_address(SocketAddr::new(server.address, 0));
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).context("open a TCP socket")?;
        bound_window(&socket)?;
        socket.bind(&SocketAddr::new(server.address, 0).into()).context("bind a TCP socket")?;
        socket.listen(1).context("listen")?;
        Ok(TcpListener::from(socket))
    })?;
    let to = listener.local_addr().context("read the address of a listener")?;
    let calling = client.namespace.enter(|| {
        let socket =
            Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)).context("open a TCP socket")?;
        bound_window(&socket)?;
        socket.bind(&SocketAddr::new(client.address, 0).into()).context("bind a TCP socket")?;
        socket.connect_timeout(&to.into(), PATIENCE).with_context(|| format!("connect to {to}"))?;
        Ok(TcpStream::from(socket))
    })?;
    let (called, _) = listener.accept().context("accept a TCP connection")?;
    for stream in [&calling, &called] {
        stream.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
        stream.set_write_timeout(Some(PATIENCE)).context("set a timeout")?;
    }
    Ok((calling, called))
}

fn bound_window(socket: &Socket) -> Result<()> {
    // The kernel doubles both figures.
    socket.set_recv_buffer_size(WINDOW / 2).context("bound a receive buffer")?;
    socket.set_send_buffer_size(WINDOW / 2).context("bound a send buffer")?;
    socket.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
    socket.set_write_timeout(Some(PATIENCE)).context("set a timeout")
}

fn send_stream(mut stream: &TcpStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes).context("send over TCP")?;
    stream.shutdown(Shutdown::Write).context("end a TCP stream")
}

fn expect_stream(mut stream: &TcpStream, expected: &[u8]) -> Result<()> {
    let mut received = Vec::with_capacity(expected.len());
    stream.read_to_end(&mut received).context("receive over TCP")?;
    ensure!(received == expected, "a TCP stream arrived changed: {} bytes of {}", received.len(), expected.len());
    Ok(())
}

/// Sends one datagram of `length` bytes each way and verifies what arrives. Never fragments.
pub fn exchange_udp(client: End<'_>, server: End<'_>, length: usize) -> Result<()> {
    let open = |end: End<'_>| {
        end.namespace.enter(|| {
            let socket = UdpSocket::bind((end.address, 0)).context("bind a UDP socket")?;
            socket.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
            if end.address.is_ipv6() {
                // IPv4 sockets forbid them by themselves (path MTU discovery).
                setsockopt(&socket, sockopt::Ipv6DontFrag, &true).context("forbid fragments")?;
            }
            Ok(socket)
        })
    };
    let (client, server) = (open(client)?, open(server)?);
    for (seed, from, to) in [(3, &client, &server), (4, &server, &client)] {
        let address = to.local_addr().context("read the address of a UDP socket")?;
        let sent = content(seed, length);
        from.send_to(&sent, address).with_context(|| format!("send {length} bytes over UDP"))?;
        let mut received = vec![0; length + 1];
        let (got, _) = to.recv_from(&mut received).with_context(|| format!("receive {length} bytes over UDP"))?;
        ensure!(received[..got] == sent, "a datagram of {length} bytes arrived changed");
    }
    Ok(())
}

/// Sends `datagrams` datagrams of `length` bytes each way, and one that is shorter, as one packet that the kernel is to
/// segment (UDP_SEGMENT, udp(7)); verifies what arrives.
pub fn exchange_udp_segmented(client: End<'_>, server: End<'_>, length: usize, datagrams: usize) -> Result<()> {
    let open = |end: End<'_>| {
        end.namespace.enter(|| {
            let socket = UdpSocket::bind((end.address, 0)).context("bind a UDP socket")?;
            socket.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
            setsockopt(&socket, sockopt::UdpGsoSegment, &(length as i32)).context("ask for segmentation")?;
            Ok(socket)
        })
    };
    let (client, server) = (open(client)?, open(server)?);
    for (seed, from, to) in [(6, &client, &server), (7, &server, &client)] {
        let address = to.local_addr().context("read the address of a UDP socket")?;
        let sent = content(seed, length * datagrams + length / 2);
        from.send_to(&sent, address).with_context(|| format!("send {} bytes over UDP", sent.len()))?;
        let mut received = vec![0; length + 1];
        for datagram in sent.chunks(length) {
            let (got, _) = to.recv_from(&mut received).context("receive a datagram of several")?;
            ensure!(received[..got] == *datagram, "a datagram of {} bytes arrived changed", datagram.len());
        }
    }
    Ok(())
}

/// One ICMP or ICMPv6 echo with `length` bytes of data; the answer is verified.
pub fn ping(client: End<'_>, to: IpAddr, length: usize) -> Result<()> {
    // RFC 792 and RFC 4443 §4: types of request and reply.
    let (domain, protocol, request, reply) = match to {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut socket = client.namespace.enter(|| {
        let socket = Socket::new(domain, Type::RAW, Some(protocol)).context("open an ICMP socket")?;
        socket.bind(&SocketAddr::new(client.address, 0).into()).context("bind an ICMP socket")?;
        socket.set_read_timeout(Some(PATIENCE)).context("set a timeout")?;
        Ok(socket)
    })?;
    let identifier = (length as u16 ^ 0x5a5a).to_be_bytes();
    let mut message = vec![request, 0, 0, 0, identifier[0], identifier[1], 0, 1];
    message.extend(content(5, length));
    if to.is_ipv4() {
        // Over IPv6 the kernel does it (RFC 3542 §3.1).
        let sum = !checksum::add(0, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    socket.send_to(&message, &SocketAddr::new(to, 0).into()).with_context(|| format!("ping {to}"))?;
    let mut buffer = vec![0; length + 256];
    loop {
        let got = socket.read(&mut buffer).with_context(|| format!("wait for the echo of {length} bytes from {to}"))?;
        // A raw IPv4 socket shows the IP header, a raw IPv6 socket doesn't.
        let header = if to.is_ipv4() { usize::from(buffer[0] & 0x0f) * 4 } else { 0 };
        let answer = buffer.get(header..got).context("an echo without a header")?;
        if answer.first() == Some(&reply) && answer.get(4..6) == Some(&identifier) {
            ensure!(answer[6..] == message[6..], "an echo of {length} bytes arrived changed");
            return Ok(());
        }
    }
}

//! The addresses of the host's DNS resolvers: whose traffic `network_services = ["dns"]` is about.

use std::fs;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::error::{Error, Result};

/// What programs of this host ask (resolv.conf(5)).
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Whom systemd-resolved asks in turn (systemd-resolved.service(8)).
const BEHIND_STUB: &str = "/run/systemd/resolve/resolv.conf";
/// The addresses at which systemd-resolved answers programs of this host (the same page).
const STUBS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), IpAddr::V4(Ipv4Addr::new(127, 0, 0, 54))];

/// The resolvers of this host, in the order in which they are asked. Where programs ask systemd-resolved on a loopback
/// address, the ones that it asks come as well: these are whom packets go to. No file, no resolvers.
pub fn resolvers() -> Result<Vec<IpAddr>> {
    read(Path::new(RESOLV_CONF), Path::new(BEHIND_STUB))
}

fn read(resolv_conf: &Path, behind_stub: &Path) -> Result<Vec<IpAddr>> {
    let mut resolvers = parse(&text(resolv_conf)?);
    if resolvers.iter().any(|resolver| STUBS.contains(resolver)) {
        for resolver in parse(&text(behind_stub)?) {
            add(&mut resolvers, resolver);
        }
    }
    Ok(resolvers)
}

fn text(path: &Path) -> Result<String> {
    match fs::read(path) {
        // A comment may have any encoding.
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::failed(format_args!("read {}", path.display()), &error)),
    }
}

/// The name servers of a resolv.conf, each once, in order. Lines that can't be read are passed over, as the C library
/// does. It also stops at the third; other programs (musl, Go, systemd-resolved) have other limits, and a session that
/// wants DNS wants that of all of them.
pub fn parse(text: &str) -> Vec<IpAddr> {
    let mut resolvers = Vec::new();
    for line in text.lines() {
        // The keyword begins the line and is followed by a blank (glibc, resolv/res_init.c).
        let Some(rest) = line.strip_prefix("nameserver").filter(|rest| rest.starts_with([' ', '\t'])) else {
            continue;
        };
        // The address is the next word; what follows it is not looked at.
        let rest = rest.trim_start_matches([' ', '\t']);
        let word = rest.split([' ', '\t', ';', '#', '\r']).next().unwrap_or_default();
        // A scope (RFC 4007 §11) says by which interface; packets don't have it.
        let (address, scope) = word.split_once('%').map_or((word, None), |(address, scope)| (address, Some(scope)));
        match address.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) if scope.is_some() => {}
            Ok(resolver) => add(&mut resolvers, resolver),
            Err(_) => {}
        }
    }
    resolvers
}

/// Adds an address that packets can have, unless it is there.
fn add(resolvers: &mut Vec<IpAddr>, resolver: IpAddr) {
    // glibc sends to IPv4-mapped addresses and to 0.0.0.0 as well: as IPv4, and to this host (ip(7)).
    let resolver = match resolver.to_canonical() {
        IpAddr::V4(address) if address.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(address) if address.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        resolver => resolver,
    };
    if !resolvers.contains(&resolver) {
        resolvers.push(resolver);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(text: &str) -> Vec<String> {
        parse(text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn name_servers_come_in_order_and_once() {
        let text = "# by hand\nsearch example.net\nnameserver 192.0.2.53\nnameserver\t2001:db8::53\noptions edns0\n\
                    nameserver 192.0.2.53\nnameserver 198.51.100.1\nnameserver 198.51.100.2";
        assert_eq!(addresses(text), ["192.0.2.53", "2001:db8::53", "198.51.100.1", "198.51.100.2"]);
        assert_eq!(addresses(""), [] as [&str; 0]);
    }

    #[test]
    fn scopes_and_what_follows_the_address_are_left_out() {
        let text = "nameserver fe80::1%eth0\nnameserver fe80::2%2 trailing\nnameserver 192.0.2.1 # comment\r\n\
                    nameserver   192.0.2.2;comment\nnameserver 192.0.2.3\r\n";
        assert_eq!(addresses(text), ["fe80::1", "fe80::2", "192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    }

    #[test]
    fn lines_that_cannot_be_read_are_passed_over() {
        let text = "nameserver\nnameserver \nnameserver dns.example.net\nnameserver192.0.2.1\n nameserver 192.0.2.2\n\
                    NAMESERVER 192.0.2.3\n#nameserver 192.0.2.4\n;nameserver 192.0.2.5\nnameservers 192.0.2.6\n\
                    nameserver 192.0.2.256\nnameserver 192.0.2.1%eth0\nnameserver 192.0.2.7\n";
        assert_eq!(addresses(text), ["192.0.2.7"]);
    }

    #[test]
    fn an_address_is_as_packets_have_it() {
        assert_eq!(addresses("nameserver ::ffff:192.0.2.1\nnameserver 192.0.2.1"), ["192.0.2.1"]);
        assert_eq!(addresses("nameserver 0.0.0.0\nnameserver ::"), ["127.0.0.1", "::1"]);
    }

    #[test]
    fn the_servers_behind_the_stub_of_systemd_come_as_well() {
        let directory = tempfile::tempdir().expect("a directory");
        let (resolv_conf, behind) = (directory.path().join("resolv.conf"), directory.path().join("behind"));
        let found = || {
            let found = read(&resolv_conf, &behind).expect("readable");
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found(), [] as [&str; 0], "no file, no resolvers");
        fs::write(&behind, "nameserver 192.0.2.1\nnameserver 192.0.2.2\n").expect("written");
        fs::write(&resolv_conf, "nameserver 198.51.100.1\n").expect("written");
        assert_eq!(found(), ["198.51.100.1"], "nobody asks the stub");
        for stub in ["127.0.0.53", "127.0.0.54"] {
            fs::write(&resolv_conf, format!("nameserver {stub}\nnameserver 192.0.2.2\n")).expect("written");
            assert_eq!(found(), [stub, "192.0.2.2", "192.0.2.1"]);
        }
        fs::write(&resolv_conf, b"# caf\xe9\nnameserver 127.0.0.53\n").expect("written");
        fs::remove_file(&behind).expect("removed");
        assert_eq!(found(), ["127.0.0.53"], "systemd-resolved has not run");
    }

    #[test]
    fn a_file_that_cannot_be_read_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let error = read(directory.path(), directory.path()).expect_err("a directory is no file");
        assert!(error.to_string().starts_with(&format!("read {}: ", directory.path().display())), "{error}");
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>(), lines in "(nameserver[ \t%0-9a-f:.;#\n]{0,20}){0,8}") {
            for text in [text, lines] {
                let found = parse(&text);
                let written: String = found.iter().map(|resolver| format!("nameserver {resolver}\n")).collect();
                prop_assert_eq!(parse(&written), found);
            }
        }
    }
}

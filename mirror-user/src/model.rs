//! Definitions: the words of the product as types that cannot hold a wrong value.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use mirror_common::vxlan;
use serde::{Deserialize, Serialize};

/// Why a value can't be one of the types below; reads after "invalid value '…': ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidValue(String);

impl InvalidValue {
    /// `why` is a whole sentence without its full stop.
    pub fn new(why: impl fmt::Display) -> Self {
        Self(why.to_string())
    }
}

macro_rules! ranged_number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $range:expr, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "u64")]
        pub struct $name($inner);

        impl $name {
            /// The number.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl TryFrom<u64> for $name {
            type Error = InvalidValue;

            fn try_from(number: u64) -> Result<Self, InvalidValue> {
                let range = $range;
                match <$inner>::try_from(number) {
                    Ok(inner) if range.contains(&inner) => Ok(Self(inner)),
                    _ => Err(InvalidValue::new(format_args!(
                        concat!($what, " must be {} to {}"),
                        range.start(),
                        range.end()
                    ))),
                }
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> Result<Self, InvalidValue> {
                let out_of_range = || Self::try_from(u64::MAX).expect_err("u64::MAX is in no range of this module");
                // A sign or blanks are no part of a number here, though `parse` would take a plus.
                if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
                    return Err(out_of_range());
                }
                Self::try_from(text.parse::<u64>().map_err(|_| out_of_range())?)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

pub(crate) use ranged_number;

ranged_number! {
    /// The place of a session in the evaluation of its source: 1 comes first.
    SessionNumber(u16), 1..=32766, "a session number"
}
ranged_number! {
    /// VXLAN network identifier.
    Vni(u32), 0..=vxlan::MAX_VNI, "a VNI"
}
ranged_number! {
    /// How many bytes of a packet are copied, counted from its Ethernet header.
    PacketLength(u16), 1..=8500, "a packet length"
}

/// An address and a UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Endpoint {
    /// IPv4 or IPv6.
    pub address: IpAddr,
    /// UDP port.
    pub port: u16,
}

impl Endpoint {
    /// `address` with the port of VXLAN.
    pub const fn new(address: IpAddr) -> Self {
        Self { address, port: vxlan::DEFAULT_PORT }
    }
}

impl FromStr for Endpoint {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::new(address));
        }
        match text.parse::<SocketAddr>() {
            Ok(socket) if socket.port() == 0 => Err(InvalidValue("a port must be 1 to 65535".into())),
            Ok(socket) => Ok(Self { address: socket.ip(), port: socket.port() }),
            Err(_) => Err(InvalidValue(
                "not an IPv4 or IPv6 address; write 192.0.2.1, 192.0.2.1:4789, 2001:db8::1 or [2001:db8::1]:4789"
                    .into(),
            )),
        }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(endpoint: Endpoint) -> Self {
        Self::new(endpoint.address, endpoint.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

/// The name of a network interface: 1 to 15 bytes, no slash, no blank (the kernel's `dev_valid_name`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InterfaceName(String);

impl InterfaceName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let valid = (1..=15).contains(&text.len())
            && text != "."
            && text != ".."
            && !text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control());
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidValue("an interface name has 1 to 15 bytes, without slashes, colons and blanks".into()))
        }
    }
}

impl TryFrom<String> for InterfaceName {
    type Error = InvalidValue;

    fn try_from(text: String) -> Result<Self, InvalidValue> {
        text.parse()
    }
}

impl From<InterfaceName> for String {
    fn from(name: InterfaceName) -> Self {
        name.0
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_to_their_ranges() {
        assert_eq!("1".parse::<SessionNumber>().map(SessionNumber::get), Ok(1));
        assert_eq!("32766".parse::<SessionNumber>().map(SessionNumber::get), Ok(32766));
        assert_eq!("0".parse::<Vni>().map(Vni::get), Ok(0));
        assert_eq!("16777215".parse::<Vni>().map(Vni::get), Ok(16_777_215));
        assert_eq!("8500".parse::<PacketLength>().map(PacketLength::get), Ok(8500));
        for text in ["0", "32767", "-1", "+1", "", " 1", "1e3", "99999999999999999999999"] {
            let error = text.parse::<SessionNumber>().expect_err(text);
            assert_eq!(error.to_string(), "a session number must be 1 to 32766", "{text:?}");
        }
        assert_eq!("16777216".parse::<Vni>().expect_err("too large").to_string(), "a VNI must be 0 to 16777215");
        assert_eq!(
            "8501".parse::<PacketLength>().expect_err("too large").to_string(),
            "a packet length must be 1 to 8500"
        );
    }

    #[test]
    fn endpoints_have_a_default_port() {
        let endpoint = |text: &str| text.parse::<Endpoint>().map(|endpoint| endpoint.to_string());
        assert_eq!(endpoint("192.0.2.1").as_deref(), Ok("192.0.2.1:4789"));
        assert_eq!(endpoint("192.0.2.1:53").as_deref(), Ok("192.0.2.1:53"));
        assert_eq!(endpoint("2001:db8::1").as_deref(), Ok("[2001:db8::1]:4789"));
        assert_eq!(endpoint("[2001:db8::1]:53").as_deref(), Ok("[2001:db8::1]:53"));
        for text in ["", "collector", "192.0.2", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "[2001:db8::1]"] {
            endpoint(text).expect_err(text);
        }
    }

    #[test]
    fn interface_names_are_the_kernels() {
        for text in ["lo", "eth0", "enp0s31f6", "abcdefghijklmno", "br-1.2"] {
            text.parse::<InterfaceName>().expect(text);
        }
        for text in ["", ".", "..", "a/b", "a b", "a:1", "abcdefghijklmnop", "a\n"] {
            text.parse::<InterfaceName>().expect_err(text);
        }
    }
}

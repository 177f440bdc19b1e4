//! Names of IP protocols. The numbers are IANA's "Assigned Internet Protocol Numbers"; the names are the ones that
//! `/etc/protocols`, `ip` and `nft` use. The table is here so that a file means the same on every host.

use crate::model::InvalidValue;

/// TCP: has ports.
pub const TCP: u8 = 6;
/// UDP: has ports.
pub const UDP: u8 = 17;

/// Number and name; where a number comes twice, the first name is the one that is printed.
const NAMES: [(u8, &str); 23] = [
    (1, "icmp"),
    (2, "igmp"),
    (4, "ipencap"),
    (4, "ipip"),
    (TCP, "tcp"),
    (UDP, "udp"),
    (33, "dccp"),
    (41, "ipv6"),
    (46, "rsvp"),
    (47, "gre"),
    (50, "esp"),
    (51, "ah"),
    (58, "ipv6-icmp"),
    (58, "icmpv6"),
    (88, "eigrp"),
    (89, "ospf"),
    (103, "pim"),
    (112, "vrrp"),
    (115, "l2tp"),
    (132, "sctp"),
    (135, "mobility-header"),
    (136, "udplite"),
    (137, "mpls-in-ip"),
];

/// Whether packets of the protocol have ports that a rule can name.
pub const fn has_ports(protocol: u8) -> bool {
    matches!(protocol, TCP | UDP)
}

/// The number behind a name or a number as text.
pub fn parse(text: &str) -> Result<u8, InvalidValue> {
    if !text.is_empty()
        && text.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(number) = text.parse()
    {
        return Ok(number);
    }
    NAMES.iter().find(|(_, name)| name.eq_ignore_ascii_case(text)).map(|(number, _)| *number).ok_or_else(|| {
        InvalidValue::new("a protocol is a number of 0 to 255, or a name such as tcp, udp, icmp, icmpv6")
    })
}

/// The name, or the number where there is none.
pub fn text(protocol: u8) -> String {
    let name = NAMES.iter().find(|(number, _)| *number == protocol).map(|(_, name)| (*name).to_owned());
    name.unwrap_or_else(|| protocol.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_numbers() {
        for (written, number) in [("tcp", 6), ("UDP", 17), ("6", 6), ("0", 0), ("255", 255), ("icmpv6", 58)] {
            assert_eq!(parse(written), Ok(number), "{written}");
        }
        for written in ["", "256", "-1", "+6", "all", "tcp ", "6.0", "99999999999"] {
            let error = parse(written).expect_err(written);
            assert_eq!(
                error.to_string(),
                "a protocol is a number of 0 to 255, or a name such as tcp, udp, icmp, icmpv6",
                "{written}"
            );
        }
    }

    #[test]
    fn what_is_printed_can_be_read() {
        for number in 0..=u8::MAX {
            assert_eq!(parse(&text(number)), Ok(number));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(written in any::<String>()) {
            let _ = parse(&written);
        }
    }
}

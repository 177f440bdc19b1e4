//! Ids: given to every resource at creation, never changed, never used again. AWS's form: a prefix that tells the kind,
//! and 17 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result};
use crate::model::InvalidValue;

/// Hexadecimal digits of an id.
const DIGITS: usize = 17;
/// The prefixes of all kinds.
const PREFIXES: [&str; 4] = [SessionId::PREFIX, TargetId::PREFIX, FilterId::PREFIX, RuleId::PREFIX];

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// What every id of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// An id that nothing else has: 68 random bits.
            pub fn random() -> Result<Self> {
                random_digits().map(Self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidValue;

            fn from_str(text: &str) -> std::result::Result<Self, InvalidValue> {
                let invalid = || InvalidValue::new(concat!("an id of this kind is ", $prefix, " and 17 digits of 0-9a-f"));
                let digits = text.strip_prefix($prefix).ok_or_else(invalid)?;
                let lower_case = digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
                if digits.len() != DIGITS || !lower_case {
                    return Err(invalid());
                }
                u128::from_str_radix(digits, 16).map(Self).map_err(|_| invalid())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{:0width$x}", $prefix, self.0, width = DIGITS)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// The id of a session.
    SessionId, "tms-"
}
id! {
    /// The id of a target.
    TargetId, "tmt-"
}
id! {
    /// The id of a filter.
    FilterId, "tmf-"
}
id! {
    /// The id of a rule.
    RuleId, "tmfr-"
}

/// Whether `text` could be taken for an id, of whatever kind and in either case.
pub fn looks_like_id(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    PREFIXES.iter().any(|prefix| {
        text.strip_prefix(prefix)
            .is_some_and(|digits| digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    })
}

fn random_digits() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| Error::failed("draw a random id", &error))?;
    Ok(u128::from_be_bytes(bytes) >> (128 - 4 * DIGITS))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_have_the_form_of_aws() {
        for _ in 0..100 {
            let id = RuleId::random().expect("random").to_string();
            assert_eq!(id.len(), 22, "{id}");
            assert!(id.starts_with("tmfr-"), "{id}");
            assert_eq!(id.parse::<RuleId>().expect("an id").to_string(), id);
            assert!(looks_like_id(&id), "{id}");
            id.parse::<FilterId>().expect_err("another kind");
        }
        assert_eq!(TargetId(0xa).to_string(), "tmt-0000000000000000a");
        assert_ne!(SessionId::random().expect("random"), SessionId::random().expect("random"));
    }

    #[test]
    fn other_text_is_no_id() {
        for text in ["", "tms-", "tms-0", "tms-0000000000000000g", "tms-000000000000000000", "0000000000000000a"] {
            text.parse::<SessionId>().expect_err(text);
            assert!(!looks_like_id(text), "{text}");
        }
        "tms-0000000000000000A".parse::<SessionId>().expect_err("upper case");
        "tms-+0000000000000001".parse::<SessionId>().expect_err("a sign");
        assert!(looks_like_id("TMS-0000000000000000A"));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = text.parse::<SessionId>();
            looks_like_id(&text);
        }
    }
}

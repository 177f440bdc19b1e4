//! A packet in hexadecimal digits.

use super::{LONGEST, SHORTEST};

/// What digits may be written like, for errors.
const WRITTEN: &str = "write two hexadecimal digits for each byte, with blanks or colons between bytes if you like";

/// Why a text is no packet. Positions count characters from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HexError {
    /// Nothing but blanks.
    #[error("read packet: there are no digits; {WRITTEN}")]
    Empty,
    /// Another character.
    #[error("read packet: character {position} is {character:?}, no hexadecimal digit; {WRITTEN}")]
    NoDigit {
        /// Where it is.
        position: usize,
        /// What it is.
        character: char,
    },
    /// A byte with one digit.
    #[error("read packet: the digit {character:?} at character {position} has no second one; {WRITTEN}")]
    HalfByte {
        /// Where the digit is.
        position: usize,
        /// The digit.
        character: char,
    },
    /// A dump's offset in front of the bytes: it would be taken for bytes.
    #[error("read packet: it begins with the offset of a dump; give the bytes alone")]
    Offset,
    /// Fewer bytes than an Ethernet header.
    #[error("read packet: it has {0} bytes; a packet begins with its Ethernet header and has {SHORTEST} to {LONGEST}")]
    TooShort(usize),
    /// More bytes than the kernel takes.
    #[error("read packet: it has more than {LONGEST} bytes, the most that the kernel can be asked about")]
    TooLong,
}

/// The bytes that `text` writes down: two digits each, upper or lower case. `0x` may stand in front, and blanks, line
/// ends and colons between bytes.
pub fn parse(text: &str) -> Result<Vec<u8>, HexError> {
    let mut characters = text.chars().zip(1..).skip_while(|(character, _)| character.is_ascii_whitespace()).peekable();
    let digits = text.trim_ascii_start();
    if let Some(digits) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        characters.next();
        characters.next();
        if digits.find(|c: char| !c.is_ascii_hexdigit()).is_some_and(|at| at > 2 && digits[at..].starts_with(':')) {
            return Err(HexError::Offset);
        }
    }
    let mut bytes = Vec::new();
    while let Some((character, position)) = characters.next() {
        if character.is_ascii_whitespace() || character == ':' {
            continue;
        }
        let high = character.to_digit(16).ok_or(HexError::NoDigit { position, character })?;
        let low = match characters.next() {
            Some((low, _)) if low.is_ascii_hexdigit() => low.to_digit(16).unwrap_or_default(),
            Some((other, at)) if !other.is_ascii_whitespace() && other != ':' => {
                return Err(HexError::NoDigit { position: at, character: other });
            }
            _ => return Err(HexError::HalfByte { position, character }),
        };
        if bytes.len() == LONGEST {
            return Err(HexError::TooLong);
        }
        bytes.push((high << 4 | low) as u8);
    }
    match bytes.len() {
        0 => Err(HexError::Empty),
        length if length < SHORTEST => Err(HexError::TooShort(length)),
        _ => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES: [u8; 14] = [0x02, 0, 0, 0, 0, 0xab, 0xcd, 0xef, 0, 1, 2, 3, 0x08, 0x06];

    #[test]
    fn digits_are_read_however_they_are_grouped() {
        for text in [
            "0200000000abcdef000102030806",
            "0x0200000000abcdef000102030806",
            "0X0200000000ABCDEF000102030806",
            "02:00:00:00:00:ab cd:ef:00:01:02:03 0806",
            "  0200 0000 00ab\n\tcdef 0001 0203\r\n0806\n",
            "0x02 00 00 00 00 aB Cd ef 00 01 02 03 08 06",
        ] {
            assert_eq!(parse(text), Ok(BYTES.to_vec()), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_packet_is_refused_with_its_place() {
        let says = |text: &str| parse(text).expect_err(text).to_string();
        assert_eq!(says(""), format!("read packet: there are no digits; {WRITTEN}"));
        assert_eq!(says(" : \n"), format!("read packet: there are no digits; {WRITTEN}"));
        assert_eq!(says("0x"), format!("read packet: there are no digits; {WRITTEN}"));
        assert_eq!(says("02 0g"), format!("read packet: character 5 is 'g', no hexadecimal digit; {WRITTEN}"));
        assert_eq!(says("0x02é0"), format!("read packet: character 5 is 'é', no hexadecimal digit; {WRITTEN}"));
        assert_eq!(says("02 0x03"), format!("read packet: character 5 is 'x', no hexadecimal digit; {WRITTEN}"));
        assert_eq!(says("02 0 03"), format!("read packet: the digit '0' at character 4 has no second one; {WRITTEN}"));
        assert_eq!(says("020"), format!("read packet: the digit '0' at character 3 has no second one; {WRITTEN}"));
        assert_eq!(
            says("0x0000:  4500 0034"),
            "read packet: it begins with the offset of a dump; give the bytes alone"
        );
        assert_eq!(
            says(&"00".repeat(13)),
            "read packet: it has 13 bytes; a packet begins with its Ethernet header and has 14 to 3072"
        );
        assert_eq!(
            says(&"00".repeat(3073)),
            "read packet: it has more than 3072 bytes, the most that the kernel can be asked about"
        );
        assert_eq!(parse(&"00".repeat(3072)).map(|bytes| bytes.len()), Ok(3072));
    }

    proptest! {
        #[test]
        fn bytes_come_back(
            bytes in proptest::collection::vec(any::<u8>(), 14..200),
            separator in "[ :\n\t]{0,2}",
            upper: bool,
        ) {
            let digits = bytes.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") });
            prop_assert_eq!(parse(&digits.collect::<Vec<_>>().join(&separator)), Ok(bytes));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in any::<String>(), digits in "[0-9a-fxX: \n]{0,80}") {
            for text in [&text, &digits] {
                if let Ok(bytes) = parse(text) {
                    prop_assert!((SHORTEST..=LONGEST).contains(&bytes.len()));
                }
            }
        }
    }
}

//! What people write on resources: names, descriptions, tags. All of it is printable text: it comes back in tables,
//! in errors and on terminals. Lengths are in characters.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::collections::btree_map;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::id::looks_like_id;
use super::refusal::Refusal;
use crate::model::InvalidValue;

/// Longest name.
pub const NAME_MAX: usize = 255;
/// Longest description.
pub const DESCRIPTION_MAX: usize = 255;
/// Most tags of a resource.
pub const TAGS_MAX: usize = 50;
/// Longest key of a tag.
pub const TAG_KEY_MAX: usize = 127;
/// Longest value of a tag.
pub const TAG_VALUE_MAX: usize = 256;

/// The name of a target, filter or session: unique among its kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Name(String);

impl Name {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let length_is_valid = (1..=NAME_MAX).contains(&text.chars().count());
        if !length_is_valid || !is_printable(text) || text.trim() != text {
            return Err(InvalidValue::new(format_args!(
                "a name has 1 to {NAME_MAX} printable characters, with no blank at either end"
            )));
        }
        if looks_like_id(text) {
            return Err(InvalidValue::new("a name can't look like an id"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What people say about a resource, on one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Description(String);

impl Description {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Description {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if text.chars().count() > DESCRIPTION_MAX || !is_printable(text) {
            return Err(InvalidValue::new(format_args!(
                "a description has at most {DESCRIPTION_MAX} printable characters"
            )));
        }
        Ok(Self(text.to_owned()))
    }
}

impl From<Description> for String {
    fn from(description: Description) -> Self {
        description.0
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A tag: a key and what it is set to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    key: String,
    value: String,
}

impl Tag {
    /// The tag `key` = `value`.
    pub fn new(key: &str, value: &str) -> Result<Self, InvalidValue> {
        if !(1..=TAG_KEY_MAX).contains(&key.chars().count()) || !is_printable(key) {
            return Err(InvalidValue::new(format_args!(
                "the key of a tag has 1 to {TAG_KEY_MAX} printable characters"
            )));
        }
        if value.chars().count() > TAG_VALUE_MAX || !is_printable(value) {
            return Err(InvalidValue::new(format_args!(
                "the value of a tag has at most {TAG_VALUE_MAX} printable characters"
            )));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }
}

impl FromStr for Tag {
    type Err = InvalidValue;

    /// From KEY=VALUE. A key with an equals sign in it can only come from a file.
    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        match text.split_once('=') {
            Some((key, value)) => Self::new(key, value),
            None => Err(InvalidValue::new("a tag is written KEY=VALUE")),
        }
    }
}

/// The tags of a resource, by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tags(BTreeMap<String, String>);

impl Tags {
    /// Tags that each have a key of their own.
    pub fn new(tags: impl IntoIterator<Item = Tag>) -> Result<Self, Refusal> {
        let mut map = BTreeMap::new();
        for Tag { key, value } in tags {
            if map.contains_key(&key) {
                return Err(Refusal::bad_input(format_args!("tag '{key}' is given twice")));
            }
            map.insert(key, value);
        }
        Self::limited(map)
    }

    /// Sets every one of `tags`, the last one where a key comes twice; none if there would be too many.
    pub fn set(&mut self, tags: impl IntoIterator<Item = Tag>) -> Result<(), Refusal> {
        let mut map = self.0.clone();
        map.extend(tags.into_iter().map(|Tag { key, value }| (key, value)));
        *self = Self::limited(map)?;
        Ok(())
    }

    /// Removes every one of `keys`; none if one isn't there.
    pub fn remove(&mut self, keys: &[String]) -> Result<(), Refusal> {
        if let Some(key) = keys.iter().find(|key| !self.0.contains_key(*key)) {
            return Err(Refusal::not_found(format_args!("tag {key:?}: there is no such tag")));
        }
        self.0.retain(|key, _| !keys.contains(key));
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// Keys and values, by key.
    pub fn iter(&self) -> btree_map::Iter<'_, String, String> {
        self.0.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn limited(map: BTreeMap<String, String>) -> Result<Self, Refusal> {
        if map.len() > TAGS_MAX {
            return Err(Refusal::bad_input(format_args!("{} tags: there can be at most {TAGS_MAX}", map.len())));
        }
        Ok(Self(map))
    }
}

impl<'a> IntoIterator for &'a Tags {
    type Item = (&'a String, &'a String);
    type IntoIter = btree_map::Iter<'a, String, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

/// Whether every character can be seen, or is a blank: nothing that moves the cursor, ends the line, turns the
/// direction of writing, or makes two different names look the same by taking no room.
pub(super) fn is_printable(text: &str) -> bool {
    !text.chars().any(|character| {
        character.is_control()
            || matches!(character,
                '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
                | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::error::Kind;

    fn tag(text: &str) -> Tag {
        text.parse().expect(text)
    }

    #[test]
    fn names_are_printable_and_no_ids() {
        let long = "é".repeat(NAME_MAX);
        for text in ["a", "web-to-zeek", "a b", "Zürich", "tms-", "tmt-office", "-", "1", &long] {
            text.parse::<Name>().expect(text);
        }
        let too_long = "a".repeat(NAME_MAX + 1);
        for text in ["", " ", " a", "a ", "a\n", "a\tb", "a\u{1b}[2J", "a\u{202e}b", "a\u{200b}", "\u{a0}a", &too_long]
        {
            let error = text.parse::<Name>().expect_err(text);
            assert_eq!(
                error.to_string(),
                "a name has 1 to 255 printable characters, with no blank at either end",
                "{text:?}"
            );
        }
        let error = "tmf-0123456789abcdef0".parse::<Name>().expect_err("an id");
        assert_eq!(error.to_string(), "a name can't look like an id");
    }

    #[test]
    fn descriptions_are_short_and_on_one_line() {
        "".parse::<Description>().expect("empty");
        "ü".repeat(255).parse::<Description>().expect("255 characters");
        for text in ["a\nb".to_owned(), "a".repeat(256)] {
            let error = text.parse::<Description>().expect_err(&text);
            assert_eq!(error.to_string(), "a description has at most 255 printable characters");
        }
    }

    #[test]
    fn tags_keep_to_their_lengths() {
        let key = "k".repeat(127);
        let value = "v".repeat(256);
        assert_eq!(tag(&format!("{key}={value}")), Tag { key, value });
        assert_eq!(tag("team=a=b"), Tag { key: "team".into(), value: "a=b".into() });
        assert_eq!(tag("team="), Tag { key: "team".into(), value: String::new() });
        let error = |text: &str| text.parse::<Tag>().expect_err(text).to_string();
        assert_eq!(error("team"), "a tag is written KEY=VALUE");
        assert_eq!(error("=secops"), "the key of a tag has 1 to 127 printable characters");
        assert_eq!(error(&format!("{}=", "k".repeat(128))), "the key of a tag has 1 to 127 printable characters");
        assert_eq!(error(&format!("k={}", "v".repeat(257))), "the value of a tag has at most 256 printable characters");
        assert_eq!(error("k=\u{7}"), "the value of a tag has at most 256 printable characters");
    }

    #[test]
    fn there_are_at_most_50_tags() {
        let fifty = |from: usize| (from..from + 50).map(|number| tag(&format!("k{number}=v")));
        let mut tags = Tags::new(fifty(0)).expect("50 tags");
        tags.set([tag("k0=w")]).expect("still 50");
        let before = tags.clone();
        let refusal = tags.set([tag("k1=w"), tag("k50=w")]).expect_err("51 tags");
        assert_eq!((refusal.kind(), refusal.to_string()), (Kind::BadInput, "51 tags: there can be at most 50".into()));
        assert_eq!(tags, before);
        Tags::new(fifty(0).chain(fifty(50))).expect_err("100 tags");
    }

    #[test]
    fn tags_are_removed_all_or_none() {
        let mut tags = Tags::new([tag("a=1"), tag("b=2")]).expect("tags");
        let before = tags.clone();
        let refusal = tags.remove(&["a".into(), "c".into()]).expect_err("no c");
        assert_eq!((refusal.kind(), refusal.to_string()), (Kind::NotFound, "tag \"c\": there is no such tag".into()));
        assert_eq!(tags, before);
        tags.remove(&["a".into(), "b".into()]).expect("both are there");
        assert!(tags.is_empty());
        let refusal = Tags::new([tag("a=1"), tag("a=2")]).expect_err("twice");
        assert_eq!((refusal.kind(), refusal.to_string()), (Kind::BadInput, "tag 'a' is given twice".into()));
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in any::<String>()) {
            let _ = text.parse::<Name>();
            let _ = text.parse::<Description>();
            let _ = text.parse::<Tag>();
        }
    }
}

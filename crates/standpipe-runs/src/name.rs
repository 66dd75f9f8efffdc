//! Names of runs, tasks and jobs, and the ids of runs. They are keys of the tree, parts of addresses and of file
//! names, so they hold nothing that any of these would escape.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;

/// Why a text is no name or id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a name is 1 to 64 of the characters A-Z a-z 0-9 _ -, and does not begin with -")]
pub struct InvalidName;

/// The name of a run, a task or a job: 1 to 64 of `A-Z a-z 0-9 _ -`, not beginning with `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        let fits = (1..=NAME_BYTES_MAX).contains(&text.len()) && !text.starts_with('-');
        if fits && text.bytes().all(good) { Ok(Self(text.into())) } else { Err(InvalidName) }
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One run: its name, and which of that name it is, counted from 1. Written `nightly@17`; `@` is in no name, so
/// an id is never taken for a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId {
    /// The name it shares with earlier and later runs of the same thing.
    pub name: Name,
    /// The how manieth of that name.
    pub number: u64,
}

impl FromStr for RunId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (name, number) = text.split_once('@').ok_or(InvalidName)?;
        let canonical = !number.starts_with(['0', '+']);
        let number = number.parse().ok().filter(|_| canonical).ok_or(InvalidName)?;
        Ok(Self { name: name.parse()?, number })
    }
}

impl TryFrom<String> for RunId {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_and_ids_are_told_from_them() {
        for good in ["a", "nightly", "build-2", "_x", "9", &"n".repeat(64)] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        for bad in ["", "-a", "a b", "a.b", "a/b", "a@1", "é", &"n".repeat(65)] {
            assert_eq!(bad.parse::<Name>(), Err(InvalidName), "{bad}");
        }
        assert_eq!("build-2@17".parse::<RunId>().unwrap().to_string(), "build-2@17");
        for bad in ["build", "build@", "@1", "a@0", "a@01", "a@+1", "a@-1", "a@1@2", "a@18446744073709551616"] {
            assert_eq!(bad.parse::<RunId>(), Err(InvalidName), "{bad}");
        }
    }
}

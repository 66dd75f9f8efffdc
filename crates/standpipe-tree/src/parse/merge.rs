//! A multi-path update: an object whose keys are paths.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::error::{ParseError, SpecialError};
use super::walk::{Node, Scalar, Walk, unread};
use super::{ParseLimits, integers};
use crate::key::KeyError;
use crate::path::{Location, Path, PathError};
use crate::rows::{Rows, RowsBuilder};

/// A parsed update.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Merge {
    /// What to write where: absolute, in key order, no location covering another.
    pub writes: Vec<(Location, Rows)>,
}

/// Parses a JSON text as an update of children of `base` (firebase-rtdb.md §3.3). `limits` are those below `base`.
pub fn parse_merge(json: &[u8], base: &Path, limits: &ParseLimits) -> Result<Merge, ParseError> {
    let text = std::str::from_utf8(json).map_err(|_| ParseError::Syntax)?;
    let mut members = Members { base, limits: *limits, writes: Vec::new(), rounded: false, refused: None };
    let mut json = serde_json::Deserializer::from_str(text);
    let outcome = (&mut members).deserialize(&mut json).and_then(|()| json.end());
    let Members { mut writes, rounded, refused, .. } = members;
    outcome.map_err(|error| refused.unwrap_or_else(|| unread(&error)))?;
    if rounded {
        integers::check(text)?;
    }
    writes.sort_by(|a, b| a.0.cmp(&b.0));
    // What a location covers follows it directly.
    if let Some([upper, lower]) = writes.array_windows().find(|[upper, lower]| upper.0.covers(&lower.0)) {
        return Err(ParseError::Overlap { upper: upper.0.clone(), lower: lower.0.clone() });
    }
    Ok(Merge { writes })
}

/// Reads the members of the update.
struct Members<'m> {
    base: &'m Path,
    /// What is left for members to come.
    limits: ParseLimits,
    writes: Vec<(Location, Rows)>,
    rounded: bool,
    refused: Option<ParseError>,
}

impl Members<'_> {
    /// Keeps the reason and gives serde something to carry up.
    fn refuse<E: Error>(&mut self, error: ParseError) -> Result<(), E> {
        self.refused = Some(error);
        Err(E::custom("refused"))
    }

    fn not_an_object<E: Error>(&mut self) -> Result<(), E> {
        self.refuse(ParseError::NotAnObject)
    }

    /// The location that `key` names below `base`, and the limits there.
    fn locate(&self, key: &str) -> Result<(Location, ParseLimits), PathError> {
        let below = Location::parse(key)?;
        let path = below.path();
        if below == Location::Node(Path::root()) {
            return Err(KeyError::Empty.into());
        }
        let ParseLimits { depth_left_max, encoded_key_bytes_max, .. } = self.limits;
        let depth_left_max = depth_left_max.checked_sub(path.depth()).ok_or(PathError::TooDeep)?;
        let encoded_key_bytes_max = encoded_key_bytes_max.checked_sub(path.encode().len()).ok_or(PathError::TooLong)?;
        let limits = ParseLimits { depth_left_max, encoded_key_bytes_max, ..self.limits };
        Ok((below.below(self.base)?, limits))
    }
}

impl<'de> DeserializeSeed<'de> for &mut Members<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let (location, limits) = match self.locate(&key) {
                Ok(located) => located,
                Err(reason) => return self.refuse(ParseError::Path { path: key, reason }),
            };
            let rows = map.next_value_seed(Value { members: &mut *self, location: &location, limits })?;
            self.writes.push((location, rows));
        }
        Ok(())
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.not_an_object()
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<(), E> {
        self.not_an_object()
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<(), E> {
        self.not_an_object()
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<(), E> {
        self.not_an_object()
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<(), E> {
        self.not_an_object()
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<(), E> {
        self.not_an_object()
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<(), A::Error> {
        self.not_an_object()
    }
}

/// Reads the new value of one location.
struct Value<'v, 'm> {
    members: &'v mut Members<'m>,
    location: &'v Location,
    limits: ParseLimits,
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = Rows;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Rows, D::Error> {
        let Value { members, location, limits } = self;
        let mut rows = RowsBuilder::new();
        let mut walk = Walk::new(&mut rows, limits, location.to_string().trim_end_matches('/').to_owned());
        let outcome = match location {
            Location::Node(_) => Node(&mut walk).deserialize(deserializer).map(|_| ()),
            Location::Priority(_) => Scalar { walk: &mut walk, role: SpecialError::Priority }
                .deserialize(deserializer)
                .and_then(|present| if present { walk.emit() } else { Ok(()) }),
        };
        if let Err(error) = outcome {
            members.refused = walk.refused;
            return Err(error);
        }
        members.rounded |= walk.rounded;
        // All members together are one write.
        members.limits.leaves_max -= walk.leaves;
        match rows.finish() {
            Ok(rows) => Ok(rows),
            Err(conflict) => {
                members.refused = Some(conflict.into());
                Err(D::Error::custom("refused"))
            }
        }
    }
}

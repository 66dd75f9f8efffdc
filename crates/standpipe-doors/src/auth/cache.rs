//! Tokens that were verified, so that a client which sends the same one with every request costs a hash
//! and not a signature. Bounded: in two halves, of which the older is dropped when the newer is full.

use std::collections::HashMap;
use std::time::SystemTime;

use aws_lc_rs::digest;
use parking_lot::Mutex;

use super::Identified;

type Digest = [u8; 32];

/// See the module's text.
#[derive(Debug, Default)]
pub(super) struct Cache(Mutex<Halves>);

#[derive(Debug, Default)]
struct Halves {
    /// The keys they were verified with; others forget them all.
    version: u64,
    newer: HashMap<Digest, Identified>,
    older: HashMap<Digest, Identified>,
}

/// What a token is remembered by: nobody can make another with the same.
pub(super) fn digest(token: &str) -> Digest {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
    out
}

impl Cache {
    /// Who the bearer is, if it was verified with these keys and lasts.
    pub(super) fn get(&self, token: &Digest, version: u64, now: SystemTime) -> Option<Identified> {
        let mut halves = self.0.lock();
        if halves.version != version {
            *halves = Halves { version, ..Halves::default() };
            return None;
        }
        let found = match halves.newer.get(token) {
            Some(found) => found.clone(),
            None => {
                let found = halves.older.remove(token)?;
                halves.newer.insert(*token, found.clone());
                found
            }
        };
        found.expires_at.is_none_or(|at| now < at).then_some(found)
    }

    /// Remembers at most about `entries_max`.
    pub(super) fn put(&self, token: Digest, version: u64, bearer: Identified, entries_max: usize) {
        let mut halves = self.0.lock();
        if halves.version != version {
            *halves = Halves { version, ..Halves::default() };
        }
        if halves.newer.len() >= entries_max.div_ceil(2) {
            halves.older = std::mem::take(&mut halves.newer);
        }
        halves.newer.insert(token, bearer);
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        *self.0.lock() = Halves::default();
    }

    pub(super) fn len(&self) -> usize {
        let halves = self.0.lock();
        halves.newer.len() + halves.older.len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use standpipe_engine::Identity;

    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_what_is_used() {
        let cache = Cache::default();
        let bearer = Identified {
            identity: Identity::Anonymous,
            expires_at: Some(UNIX_EPOCH + Duration::from_secs(9)),
            terms: None,
        };
        let early = UNIX_EPOCH;
        let used = digest("used");
        cache.put(used, 0, bearer.clone(), 100);
        for number in 0..10_000 {
            cache.put(digest(&number.to_string()), 0, bearer.clone(), 100);
            assert!(cache.get(&used, 0, early).is_some(), "{number}");
            assert!(cache.len() <= 101, "{}", cache.len());
        }
        assert!(cache.get(&digest("0"), 0, early).is_none());
        assert!(cache.get(&used, 0, UNIX_EPOCH + Duration::from_secs(9)).is_none(), "expired");
        assert!(cache.get(&used, 1, early).is_none(), "other keys");
        assert_eq!(cache.len(), 0);
    }
}

//! Keys of the tables: `tree` rows (a prefix byte, since LMDB refuses the empty key of the root,
//! then the encoded path), `changes` rows (last revision of the record, big-endian) and `leases` rows
//! (a prefix byte, the lease, then the encoded location).

use std::ops::Bound;

use crate::lease::LeaseId;

/// In front of every encoded path in `tree`.
pub(crate) const TREE_PREFIX: u8 = b't';

/// The `tree` key of an encoded path.
pub(crate) fn tree_key(encoded_path: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(encoded_path.len() + 1);
    key.push(TREE_PREFIX);
    key.extend_from_slice(encoded_path);
    key
}

/// In front of every key in `leases`.
pub(crate) const LEASE_PREFIX: u8 = b'l';

/// The `leases` key of an encoded location; of the empty one, what all keys of the lease begin with.
pub(crate) fn lease_key(lease: LeaseId, encoded_location: &[u8]) -> Vec<u8> {
    [&[LEASE_PREFIX], &lease.0[..], encoded_location].concat()
}

/// The smallest key that is greater than every key beginning with `prefix`.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

/// All keys from `start` on that begin with `prefix`.
pub(crate) fn range_from<'a>(start: &'a [u8], end: &'a [u8]) -> (Bound<&'a [u8]>, Bound<&'a [u8]>) {
    (Bound::Included(start), Bound::Excluded(end))
}

/// The `changes` key of the record whose last revision is `rev`.
pub(crate) fn change_key(rev: u64) -> [u8; 8] {
    rev.to_be_bytes()
}

/// The revision of a `changes` key.
pub(crate) fn change_rev(key: &[u8]) -> Option<u64> {
    key.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_is_just_above_every_key_with_the_prefix() {
        let check = |prefix: &[u8], end: &[u8]| assert_eq!(prefix_end(prefix), end);
        check(b"ta", b"tb");
        check(&[1, 255], &[2]);
        check(&[116, 1, 0, 0], &[116, 1, 0, 1]);
        assert!(tree_key(&[]) < tree_key(&[0]));
        assert_eq!(change_rev(&change_key(77)), Some(77));
        assert!(change_key(255) < change_key(256));
    }
}

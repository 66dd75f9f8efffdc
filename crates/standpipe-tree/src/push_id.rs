//! Push ids: keys that sort by the time they were made (firebase-rtdb.md §3.8).
//!
//! The clock and the randomness are the caller's.

const ALPHABET: &[u8; 64] = b"-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz";

/// Makes push ids, each greater than the ones before.
#[derive(Clone, Debug, Default)]
pub struct PushIds {
    last_ms: u64,
    /// The random part of the last id, six bits in each byte.
    last_random: [u8; 12],
    started: bool,
}

impl PushIds {
    /// The next id, of 20 characters. `random` is used only when `now_ms` is later than at the last id.
    pub fn next(&mut self, now_ms: u64, random: [u8; 12]) -> String {
        if !self.started || now_ms > self.last_ms {
            self.last_ms = now_ms;
            self.last_random = random.map(|byte| byte % 64);
            self.started = true;
        } else if !increment(&mut self.last_random) {
            // All random parts of this millisecond are used up: borrow from the next one.
            self.last_ms += 1;
        }
        let time = (0..8).rev().map(|digit| (self.last_ms >> (6 * digit)) as usize % 64);
        let random = self.last_random.iter().map(|&digit| usize::from(digit));
        time.chain(random).map(|digit| char::from(ALPHABET[digit])).collect()
    }
}

/// Adds one to a number of base 64 digits; `false` when it overflowed to zero.
fn increment(digits: &mut [u8]) -> bool {
    for digit in digits.iter_mut().rev() {
        *digit = (*digit + 1) % 64;
        if *digit != 0 {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::compare_keys;

    #[test]
    fn ids_are_time_and_then_randomness() {
        let mut ids = PushIds::default();
        assert_eq!(ids.next(0, [0; 12]), "--------------------");
        assert_eq!(ids.next(0, [9; 12]), "-------------------0");
        assert_eq!(ids.next(1, [63, 64, 2, 3, 4, 5, 6, 7, 8, 9, 10, 63]), "-------0z-123456789z");
        assert_eq!(ids.next(1, [0; 12]), "-------0z-12345678A-");
        assert_eq!(ids.next(1 << 42, [0; 12]), "0-------------------");
    }

    #[test]
    fn ids_ascend_even_when_the_clock_does_not() {
        let mut ids = PushIds::default();
        let mut last = ids.next(1000, [63; 12]);
        for now_ms in [1000, 1000, 999, 1001, 5, 1002] {
            let id = ids.next(now_ms, [63; 12]);
            assert!(compare_keys(&last, &id).is_lt() && id.len() == 20, "{last} {id}");
            last = id;
        }
    }
}

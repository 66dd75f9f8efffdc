//! Randomness for identities and push ids, from the operating system.

use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// `N` unguessable bytes.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut out = [0; N];
    SystemRandom::new().fill(&mut out).expect("the operating system's generator does not fail once seeded");
    out
}

/// 256 unguessable bits in hexadecimal: a secret that goes into headers and files.
pub fn random_token() -> String {
    bytes::<32>().iter().map(|byte| format!("{byte:02x}")).collect()
}

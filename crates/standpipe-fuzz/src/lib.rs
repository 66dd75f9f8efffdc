//! What must hold for any bytes from outside: one check for each decoder, which panics when something
//! does not. The fuzzer (`fuzz/`, `cargo xtask fuzz`) looks for bytes that break one; the seeds it
//! starts from, and what it once found, are run by this crate's test. Not part of the product.

mod codecs;
mod firebase;
mod jsonrpc;
mod pipeline;
mod records;
mod rules;
mod tree;

pub use codecs::{line, resp_commands, resp_replies, sse};
pub use firebase::{firebase_frames, firebase_polls};
pub use jsonrpc::{jsonrpc, jsonrpc_lines};
pub use pipeline::pipeline;
pub use records::{change, record};
pub use rules::rules;
pub use tree::{json, path, query};

/// A check of the bytes given.
pub type Check = fn(&[u8]);

/// Every check by its name, which is also that of its seeds and of its fuzz target.
pub const TARGETS: &[(&str, Check)] = &[
    ("change", change),
    ("firebase_frames", firebase_frames),
    ("firebase_polls", firebase_polls),
    ("json", json),
    ("jsonrpc", jsonrpc),
    ("jsonrpc_lines", jsonrpc_lines),
    ("line", line),
    ("path", path),
    ("pipeline", pipeline),
    ("query", query),
    ("record", record),
    ("resp_commands", resp_commands),
    ("resp_replies", resp_replies),
    ("rules", rules),
    ("sse", sse),
];

/// Two ways to cut `data`: after every so many bytes, as its first byte says, and not at all.
fn cuts(data: &[u8]) -> (&[u8], usize) {
    match data {
        [] => (data, 1),
        [size, data @ ..] => (data, usize::from(*size).max(1)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn fuzz(folder: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz").join(folder)
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn seeds_hold() {
        for (name, check) in TARGETS {
            let seeds = files(&fuzz("seeds").join(name));
            assert!(seeds.len() >= 3, "{name} has seeds");
            for seed in seeds {
                eprintln!("{}", seed.display());
                let bytes = std::fs::read(&seed).unwrap();
                check(&bytes);
                // Truncated, and each bit of its beginning turned round: close to what is right, and wrong.
                (0..bytes.len().min(512)).for_each(|end| check(&bytes[..end]));
                for bit in 0..bytes.len().min(128) * 8 {
                    let mut bytes = bytes.clone();
                    bytes[bit / 8] ^= 1 << (bit % 8);
                    check(&bytes);
                }
            }
        }
    }

    #[test]
    fn each_check_has_a_fuzz_target() {
        let targets: BTreeSet<_> = files(&fuzz("fuzz_targets")).into_iter().collect();
        let expected = TARGETS.iter().map(|(name, _)| fuzz("fuzz_targets").join(format!("{name}.rs"))).collect();
        assert_eq!(targets, expected);
    }
}

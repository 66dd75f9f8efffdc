//! Fuzz target of [`standpipe_fuzz::firebase_polls`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| standpipe_fuzz::firebase_polls(data));

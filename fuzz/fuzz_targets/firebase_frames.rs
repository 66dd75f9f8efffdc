//! Fuzz target of [`standpipe_fuzz::firebase_frames`].

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| standpipe_fuzz::firebase_frames(data));

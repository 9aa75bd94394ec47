//! The fuzz target of the envelope: see ../envelope.rs.

#![no_main]

#[path = "../envelope.rs"]
mod envelope;

libfuzzer_sys::fuzz_target!(|data: &[u8]| envelope::fuzz_envelope(data));

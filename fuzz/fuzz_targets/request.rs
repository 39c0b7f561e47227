//! One frame: as a greeting, and as a request after it.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use naru::model::BrokerId;
use naru::net::{Protocol, Settings};
use naru::wire::{Identity, NativeProtocol};

fn protocol() -> NativeProtocol {
    let identity = Identity {
        cluster_id: "fuzz".to_owned(),
        broker_id: BrokerId(1),
        server_version: "0".to_owned(),
        features: Vec::new(),
        batch_bytes_max: 1 << 20,
        step_bytes_max: 8 << 20,
    };
    NativeProtocol::new(identity, &Settings::default())
}

fuzz_target!(|input: &[u8]| {
    let protocol = protocol();
    let frame = Bytes::copy_from_slice(input);
    let first = protocol.decode(frame.clone());
    // The same frame means the same, and every refusal finds the same id.
    let again = protocol.decode(frame.clone());
    assert_eq!(first.id, again.id);
    assert_eq!(format!("{:?}", first.decision), format!("{:?}", again.decision));
    let _ = protocol.greet(frame);
});

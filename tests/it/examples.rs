//! The clients in `examples/`, against a live broker.

use std::process::Command;

use crate::broker::Broker;

#[test]
fn python_example_produces_and_fetches() {
    let probe = Command::new("python3")
        .args(["-c", "import google.protobuf, grpc_tools"])
        .output();
    if !probe.as_ref().is_ok_and(|o| o.status.success()) {
        eprintln!(
            "SKIPPED: the Python example: python3 with protobuf and grpcio-tools is not there; \
             pip install -r examples/python/requirements.txt"
        );
        return;
    }
    let broker = Broker::start();
    let root = env!("CARGO_MANIFEST_DIR");
    let run = Command::new("python3")
        .arg(format!("{root}/examples/python/produce_fetch.py"))
        .arg(&broker.native)
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&run.stdout),
        String::from_utf8_lossy(&run.stderr),
    );
    assert!(run.status.success(), "{out}{err}");
    assert!(
        out.contains("acknowledged: offsets 0 to 10") && out.contains("fetched: 11 records, the same"),
        "{out}"
    );
}

//! Generates `naru::pb` from `proto/` with protox, so that no `protoc` is needed; tells the crate its compiler's version.

use std::process::Command;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/naru/v1/naru.proto",
        "proto/naru/internal/v1/meta.proto",
        "proto/naru/internal/v1/groups.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rustc-env=NARU_RUSTC_VERSION={}", rustc_version());
    println!("cargo:rerun-if-env-changed=NARU_REVISION");
    let descriptors = protox::compile(files, ["proto"])?;
    prost_build::Config::new()
        // Record bytes stay slices of the read buffer.
        .bytes(["."])
        .btree_map(["."])
        .compile_fds(descriptors)?;
    Ok(())
}

/// For `naru version`; a compiler that does not say is no reason to fail a build.
fn rustc_version() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output();
    let text = output.ok().and_then(|o| String::from_utf8(o.stdout).ok());
    let version = text.as_deref().and_then(|t| t.split_whitespace().nth(1));
    version.unwrap_or("unknown").to_owned()
}

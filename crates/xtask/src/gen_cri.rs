//! `cargo xtask gen-cri`: the Rust side of `proto/`, written to `crates/cri/src/gen` (that of `kms.proto` to
//! `crates/store/src/envelope/gen`) and committed, so that an
//! ordinary build needs no protoc.

use std::path::Path;

use anyhow::{Context, Result};

/// The definitions generated, relative to `proto/`.
const FILES: &[&str] = &[
    "cri.proto",
    "containerd/descriptor.proto",
    "containerd/events.proto",
    "containerd/content.proto",
    "containerd/images.proto",
    "containerd/leases.proto",
];

/// Generates into the workspace this xtask was built from. Needs `protoc` on the path.
pub fn run() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (proto, out) = (root.join("proto"), root.join("crates/cri/src/gen"));
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    let files: Vec<_> = FILES.iter().map(|f| proto.join(f)).collect();
    tonic_prost_build::configure()
        .build_server(false)
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .bytes(".containerd.services.content.v1.WriteContentRequest.data")
        .out_dir(&out)
        .compile_protos(&files, std::slice::from_ref(&proto))
        .context("generate from proto/")?;
    // The server side is for the plugin that tests run.
    let out = root.join("crates/store/src/envelope/gen");
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    tonic_prost_build::configure()
        .build_transport(false)
        .emit_rerun_if_changed(false)
        .btree_map(".")
        .out_dir(&out)
        .compile_protos(&[proto.join("kms.proto")], &[proto])
        .context("generate from proto/kms.proto")
}

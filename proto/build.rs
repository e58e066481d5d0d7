//! Compiles the protocol definitions without a system `protoc`.

use std::path::PathBuf;

use prost::Message as _;

const FILES: [&str; 6] = [
    "moorline/v1/types.proto",
    "moorline/v1/saga.proto",
    "moorline/v1/cloud.proto",
    "moorline/v1/agent.proto",
    "moorline/v1/rollout.proto",
    "moorline/v1/operator.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("moorline.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}

//! Compiles the .proto files with protox, so that the build does not need protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = protox::compile(["arena.proto"], ["proto"])?;
    prost_build::Config::new().compile_fds(files)?;
    println!("cargo:rerun-if-changed=proto");
    Ok(())
}

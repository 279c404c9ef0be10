//! Makes JavaScript from the client for browsers, `client/typescript`, which the playground of the admin listener uses.
//!
//! A browser cannot read types, so this removes them. The client is built without Node and npm here, because `make run`
//! needs only Rust, and nothing that is generated is in the repository.
#![allow(clippy::print_stdout, reason = "cargo reads it")]

use oxc_allocator::Allocator;
use oxc_codegen::{Codegen, CodegenOptions, CommentOptions};
use oxc_parser::Parser;
use oxc_semantic::SemanticBuilder;
use oxc_span::SourceType;
use oxc_transformer::{TransformOptions, Transformer};
use std::{
    env,
    error::Error,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

const SOURCE: &str = "../client/typescript/src";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={SOURCE}");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut sources =
        fs::read_dir(SOURCE)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    sources.retain(|path| is_source(path));
    sources.sort();
    let mut table = "[\n".to_owned();
    for source in sources {
        let name = source.file_name().unwrap_or_default().to_string_lossy();
        let script = out.join(&*name);
        fs::write(&script, without_types(&source)?)?;
        writeln!(table, "(\"client/{name}\", SCRIPT, include_str!({script:?})),")?;
    }
    table.push(']');
    fs::write(out.join("client.rs"), table)?;
    Ok(())
}

/// Whether a file is a part of the client. Editors keep their own files beside those that are open.
fn is_source(path: &Path) -> bool {
    let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
    path.extension().is_some_and(|extension| extension == "ts") && !is_hidden
}

/// Returns the file as JavaScript, without types and comments.
fn without_types(path: &Path) -> Result<String, Box<dyn Error>> {
    let (text, allocator) = (fs::read_to_string(path)?, Allocator::default());
    let parsed = Parser::new(&allocator, &text, SourceType::from_path(path)?).parse();
    let mut program = parsed.program;
    let analyzed = SemanticBuilder::new().build(&program);
    let mut errors = parsed.diagnostics.into_iter().chain(analyzed.diagnostics).collect::<Vec<_>>();
    let scoping = analyzed.semantic.into_scoping();
    let options = TransformOptions::default();
    errors.extend(Transformer::new(&allocator, path, &options).build_with_scoping(scoping, &mut program).diagnostics);
    if let Some(error) = errors.first() {
        return Err(format!("{}: {error}", path.display()).into());
    }
    let options = CodegenOptions { comments: CommentOptions::disabled(), ..CodegenOptions::default() };
    Ok(Codegen::new().with_options(options).build(&program).code)
}

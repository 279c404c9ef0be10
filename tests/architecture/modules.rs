//! Reads the module tree of a crate, and which module uses which.
//!
//! The tree is read from the syntax of the files. A search of the text would miss nested `use` items, and could not
//! tell test modules from other modules.

use proc_macro2::{Ident, TokenStream, TokenTree};
use quote::ToTokens;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use syn::{Attribute, Item, ItemMod, UseTree};

/// A module that has a file of its own, without the code that only tests compile.
pub(crate) struct Module {
    pub(crate) file: PathBuf,
    /// The paths that its code names, from the root of the crate or of another crate, such as `crate::plugin::Lease` or
    /// `tokio::net::TcpStream`.
    pub(crate) paths: BTreeSet<String>,
    /// The modules of the same crate that those paths lead to.
    pub(crate) uses: BTreeSet<String>,
    /// The string literals of its code.
    pub(crate) strings: BTreeSet<String>,
    /// The numbers of its code as they are written.
    pub(crate) numbers: BTreeSet<String>,
}

/// Returns the modules of a crate by their paths. `root` is the file of the root module, which has the path `crate`.
pub(crate) fn tree(root: &Path) -> BTreeMap<String, Module> {
    let mut modules = BTreeMap::new();
    read(root, root.parent().unwrap(), "crate", &mut modules);
    let names: BTreeSet<String> = modules.keys().cloned().collect();
    for (name, module) in &mut modules {
        let targets = module.paths.iter().filter_map(|path| owner(path, &names));
        module.uses = targets.filter(|target| target != name).collect();
    }
    modules
}

/// Returns the innermost module that the path leads through.
fn owner(path: &str, modules: &BTreeSet<String>) -> Option<String> {
    let mut path = path.strip_prefix("crate::")?;
    loop {
        if modules.contains(path) {
            return Some(path.to_owned());
        }
        path = path.rsplit_once("::")?.0;
    }
}

/// Reads the file of a module, and the files of its child modules.
fn read(file: &Path, folder: &Path, name: &str, modules: &mut BTreeMap<String, Module>) {
    let text = fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let mut reader = Reader { scope: name.to_owned(), children: Vec::new(), found: Found::default() };
    reader.items(&syntax.items);
    let Reader { children, found, .. } = reader;
    let Found { paths, strings, numbers } = found;
    let name = name.strip_prefix("crate::").unwrap_or(name).to_owned();
    modules.insert(name, Module { file: file.to_owned(), paths, uses: BTreeSet::new(), strings, numbers });
    for (child, path) in children {
        let leaf = child.rsplit("::").next().unwrap();
        let file = match path {
            Some(path) => file.parent().unwrap().join(path),
            None => [folder.join(format!("{leaf}.rs")), folder.join(leaf).join("mod.rs")]
                .into_iter()
                .find(|file| file.exists())
                .unwrap_or_else(|| panic!("no file for the module {child}")),
        };
        read(&file, &folder.join(leaf), &child, modules);
    }
}

#[derive(Default)]
struct Found {
    paths: BTreeSet<String>,
    strings: BTreeSet<String>,
    numbers: BTreeSet<String>,
}

struct Reader {
    /// The path of the module that is being read.
    scope: String,
    /// The child modules that have files of their own, each with the path of its `path` attribute, if it has one.
    children: Vec<(String, Option<String>)>,
    found: Found,
}

impl Reader {
    fn items(&mut self, items: &[Item]) {
        for item in items {
            if is_for_tests(attributes(item)) {
                continue;
            }
            match item {
                Item::Mod(module) => self.module(module),
                Item::Use(item) => self.use_tree("", &item.tree),
                other => self.tokens(other.to_token_stream()),
            }
        }
    }

    fn module(&mut self, module: &ItemMod) {
        let name = format!("{}::{}", self.scope, module.ident);
        match &module.content {
            // The code of an inline module belongs to this file.
            Some((_, items)) => self.items(items),
            None => self.children.push((name, path_attribute(&module.attrs))),
        }
    }

    fn use_tree(&mut self, prefix: &str, tree: &UseTree) {
        let joined = |name: &Ident| if prefix.is_empty() { name.to_string() } else { format!("{prefix}::{name}") };
        match tree {
            UseTree::Path(path) => self.use_tree(&joined(&path.ident), &path.tree),
            UseTree::Name(name) if name.ident == "self" => self.path(prefix),
            UseTree::Name(name) => self.path(&joined(&name.ident)),
            UseTree::Rename(name) => self.path(&joined(&name.ident)),
            UseTree::Glob(_) => self.path(prefix),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(prefix, tree)),
        }
    }

    /// Records the paths and literals in code, also those in the arguments of macros.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = String::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if colons == 2 && !path.is_empty() => {
                    path = format!("{path}::{ident}");
                    colons = 0;
                    continue;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' && !path.is_empty() && colons < 2 => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) => {
                    self.path(&path);
                    path = ident.to_string();
                }
                TokenTree::Group(group) => {
                    self.path(&path);
                    path.clear();
                    self.tokens(group.stream());
                }
                TokenTree::Literal(literal) => {
                    self.path(&path);
                    path.clear();
                    self.literal(&literal);
                }
                TokenTree::Punct(_) => {
                    self.path(&path);
                    path.clear();
                }
            }
            colons = 0;
        }
        self.path(&path);
    }

    fn literal(&mut self, literal: &proc_macro2::Literal) {
        match syn::parse2(TokenTree::from(literal.clone()).into()) {
            Ok(syn::Lit::Str(text)) => self.found.strings.insert(text.value()),
            Ok(syn::Lit::ByteStr(bytes)) => {
                self.found.strings.insert(String::from_utf8_lossy(&bytes.value()).into_owned())
            }
            Ok(syn::Lit::Int(_)) => self.found.numbers.insert(literal.to_string()),
            _ => false,
        };
    }

    /// Records a path as seen from the root of the crate. A single name is ignored: if the item is in another module,
    /// there is a `use` of the item.
    fn path(&mut self, path: &str) {
        let Some((first, rest)) = path.split_once("::") else { return };
        let found = match first {
            "crate" => path.to_owned(),
            "self" => format!("{}::{rest}", self.scope),
            "super" => {
                let (mut scope, mut rest) = (self.parent(&self.scope).to_owned(), rest);
                while let Some(further) = rest.strip_prefix("super::") {
                    (scope, rest) = (self.parent(&scope).to_owned(), further);
                }
                format!("{scope}::{rest}")
            }
            // A child of this module, or another crate.
            child if self.children.iter().any(|(name, _)| name.ends_with(&format!("::{child}"))) => {
                format!("{}::{path}", self.scope)
            }
            _ => path.to_owned(),
        };
        self.found.paths.insert(found);
    }

    fn parent<'a>(&self, scope: &'a str) -> &'a str {
        scope.rsplit_once("::").unwrap_or_else(|| panic!("`super` above the root, in {}", self.scope)).0
    }
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Returns whether an item with these attributes is compiled for tests only.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| attribute.to_token_stream().to_string().replace(' ', "") == "#[cfg(test)]")
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    let syn::Meta::NameValue(pair) = &attribute.meta else { return None };
    let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(path), .. }) = &pair.value else { return None };
    Some(path.value())
}

/// Returns the circles in which modules use each other. Each circle is one line that lists its modules in order.
pub(crate) fn circles(modules: &BTreeMap<String, Module>) -> Vec<String> {
    let mut circles = BTreeSet::new();
    for start in modules.keys() {
        let mut way = vec![start.as_str()];
        if let Some(circle) = around(start, start, modules, &mut way, &mut BTreeSet::new()) {
            // The same circle is found from each of its modules.
            let first = (0..circle.len()).min_by_key(|i| circle[*i]).unwrap();
            let ordered: Vec<_> = circle.iter().cycle().skip(first).take(circle.len() + 1).copied().collect();
            circles.insert(ordered.join(" -> "));
        }
    }
    circles.into_iter().collect()
}

/// Returns a path of uses from the module `at` back to the module `start`, if there is one.
fn around<'a>(
    start: &str,
    at: &'a str,
    modules: &'a BTreeMap<String, Module>,
    way: &mut Vec<&'a str>,
    seen: &mut BTreeSet<&'a str>,
) -> Option<Vec<&'a str>> {
    for next in &modules[at].uses {
        if next == start {
            return Some(way.clone());
        }
        if seen.insert(next) {
            way.push(next);
            if let Some(circle) = around(start, next, modules, way, seen) {
                return Some(circle);
            }
            way.pop();
        }
    }
    None
}

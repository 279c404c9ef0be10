//! Small plugin files that take a compiler very much time or memory. Most of the files are a good plugin with a section
//! appended.

/// Encodes a number as LEB128.
fn leb(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Encodes a section: its id, its length, its bytes.
fn section(id: u8, bytes: &[u8]) -> Vec<u8> {
    [&[id], leb(bytes.len()).as_slice(), bytes].concat()
}

/// Returns a component's type section with a single type. The type is a component type that contains a component type,
/// and so on, down to this depth.
fn nested_types(depth: usize) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend([0x41, 0x01, 0x01].repeat(depth));
    bytes.extend([0x41, 0x00]);
    section(7, &bytes)
}

/// Returns the plugin with component types that are nested to this depth, at 3 bytes per level. A parser recurses once
/// per level.
#[must_use]
pub fn nested(plugin: &[u8], depth: usize) -> Vec<u8> {
    [plugin, &nested_types(depth)].concat()
}

/// Returns a core module with an embedded WIT that is nested to this depth.
#[must_use]
pub fn nested_wit(depth: usize) -> Vec<u8> {
    let name = b"component-type:bomb";
    let wit = [b"\0asm\x0d\0\x01\0".as_slice(), &nested_types(depth)].concat();
    let custom = [leb(name.len()).as_slice(), name, &wit].concat();
    [b"\0asm\x01\0\0\0".as_slice(), &section(0, &custom)].concat()
}

/// Returns the plugin with a core module of `count` empty functions, at 4 bytes each.
#[must_use]
pub fn functions(plugin: &[u8], count: usize) -> Vec<u8> {
    let types = section(1, &[1, 0x60, 0, 0]);
    let declared = section(3, &[leb(count).as_slice(), &vec![0; count]].concat());
    let code = section(10, &[leb(count).as_slice(), &[2, 0, 0x0b].repeat(count)].concat());
    let module = [b"\0asm\x01\0\0\0".as_slice(), &types, &declared, &code].concat();
    [plugin, &section(1, &module)].concat()
}

/// The number of data segments of one core module, nearly as many as a module may have.
const SEGMENTS: usize = 99_000;

/// Returns the plugin with core modules of 99,000 data segments, at 600 KB for each module. Each segment is one byte at the
/// begin of the memory.
#[must_use]
pub fn segments(plugin: &[u8], modules: usize) -> Vec<u8> {
    let memory = section(5, &[1, 0, 0]);
    let data = section(11, &[leb(SEGMENTS).as_slice(), &[0, 0x41, 0, 0x0b, 1, b'x'].repeat(SEGMENTS)].concat());
    let module = section(1, &[b"\0asm\x01\0\0\0".as_slice(), &memory, &data].concat());
    [plugin, &module.repeat(modules)].concat()
}

/// Returns the text of a component with one more function, which takes minutes to compile. It has nested loops, and every
/// loop changes locals that all loops use.
#[must_use]
pub fn loops(text: &str) -> String {
    let (locals, depth) = (4000, 400);
    let set = |i| format!("(local.set {i} (i64.add (local.get {i}) (local.get 1)))");
    let sets: String = (0..locals).step_by(10).map(set).collect();
    let (open, close) = ("(loop ".repeat(depth), format!("{sets} (br_if 0 (i64.eqz (local.get 0))))").repeat(depth));
    let function = format!("(func (local {}) {open}{close})", "i64 ".repeat(locals));
    let memory = "(memory (export \"memory\") 1)";
    assert!(text.contains(memory), "the text has no {memory}");
    text.replacen(memory, &format!("{memory} {function}"), 1)
}

/// Returns the text of a component with a chain of `levels` inner components. Each component of the chain instantiates
/// its predecessor twice, so the number of instances is 2 to the power of `levels`.
#[must_use]
pub fn doubled(text: &str, levels: usize) -> String {
    let mut text = text.trim_end().strip_suffix(')').expect("a component").to_owned();
    text.push_str("(component $double0 (core module $m (func)) (core instance (instantiate $m)))");
    for level in 1..=levels {
        let one = format!("(instance (instantiate $double{}))", level - 1);
        text.push_str(&format!("(component $double{level} {one} {one})"));
    }
    text.push_str(&format!("(instance (instantiate $double{levels})))"));
    text
}

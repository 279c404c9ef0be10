//! Plugin files that are small and cost a compiler far more than they should. Each is a good plugin with a section behind it.

/// A number as WebAssembly writes it: LEB128.
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

/// A section or a custom section's content: its id, its length, its bytes.
fn section(id: u8, bytes: &[u8]) -> Vec<u8> {
    [&[id], leb(bytes.len()).as_slice(), bytes].concat()
}

/// A section of a component with one type: a component that declares a component that declares a component, and so on.
fn nested_types(depth: usize) -> Vec<u8> {
    let mut bytes = vec![1];
    bytes.extend([0x41, 0x01, 0x01].repeat(depth));
    bytes.extend([0x41, 0x00]);
    section(7, &bytes)
}

/// The plugin with component types nested so deeply, 3 bytes a level. A parser recurses over them.
#[must_use]
pub fn nested(plugin: &[u8], depth: usize) -> Vec<u8> {
    [plugin, &nested_types(depth)].concat()
}

/// A core module whose WIT is nested so deeply.
#[must_use]
pub fn nested_wit(depth: usize) -> Vec<u8> {
    let name = b"component-type:bomb";
    let wit = [b"\0asm\x0d\0\x01\0".as_slice(), &nested_types(depth)].concat();
    let custom = [leb(name.len()).as_slice(), name, &wit].concat();
    [b"\0asm\x01\0\0\0".as_slice(), &section(0, &custom)].concat()
}

/// The plugin with a core module of so many functions without a body, 4 bytes each.
#[must_use]
pub fn functions(plugin: &[u8], count: usize) -> Vec<u8> {
    let types = section(1, &[1, 0x60, 0, 0]);
    let declared = section(3, &[leb(count).as_slice(), &vec![0; count]].concat());
    let code = section(10, &[leb(count).as_slice(), &[2, 0, 0x0b].repeat(count)].concat());
    let module = [b"\0asm\x01\0\0\0".as_slice(), &types, &declared, &code].concat();
    [plugin, &section(1, &module)].concat()
}

/// The text of a component, which ends in `)`, with a component at its end that instantiates its predecessor twice, and so on: so many
/// levels double the instances so often.
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

//! Texts that a plugin or a stranger influences, made fit for a log line, an error or an HTTP answer: bounded, and without control
//! characters.

use std::fmt::{self, Display, Write};

/// The bytes that are kept of such a text, the mark of a cut included.
pub const MAX_TEXT_BYTES: usize = 4096;

/// Stands at the end of a text that was cut.
const CUT: &str = "… (cut)";

/// Formats a value, at most [`MAX_TEXT_BYTES`] of it. Control characters are escaped as Rust escapes them.
///
/// Formatting stops at the bound, so a value whose text would be gigabytes costs no more than one of 4 KB.
#[must_use]
pub fn bounded(value: impl Display) -> String {
    bounded_to(MAX_TEXT_BYTES, value)
}

/// The same with another bound in bytes.
#[must_use]
pub fn bounded_to(max_bytes: usize, value: impl Display) -> String {
    let mut writer = Bounded { text: String::new(), room: max_bytes.saturating_sub(CUT.len()) };
    // An error means that the text was cut; what a `Display` of its own returns as an error looks the same.
    if write!(writer, "{value}").is_err() {
        writer.text.push_str(CUT);
    }
    writer.text
}

struct Bounded {
    text: String,
    room: usize,
}

impl Write for Bounded {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        piece.chars().try_for_each(|c| self.write_char(c))
    }

    fn write_char(&mut self, c: char) -> fmt::Result {
        let before = self.text.len();
        if is_safe(c) {
            self.text.push(c);
        } else {
            self.text.extend(c.escape_default());
        }
        if self.text.len() <= self.room {
            return Ok(());
        }
        self.text.truncate(before);
        Err(fmt::Error)
    }
}

/// Whether a character may stand in a log line: not a control character, and none that changes the direction or the end of a line.
fn is_safe(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_are_escaped_and_other_text_is_kept() {
        assert_eq!(bounded("grüße\n\u{1b}[31m\u{202e}x"), "grüße\\n\\u{1b}[31m\\u{202e}x");
    }

    #[test]
    fn formatting_stops_at_the_bound() {
        struct Endless;
        impl Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("endless ")?;
                }
            }
        }
        let text = bounded(Endless);
        assert!(text.len() <= MAX_TEXT_BYTES && text.ends_with(CUT), "{text}");
    }

    proptest! {
        #[test]
        fn no_text_is_longer_than_the_bound_or_has_a_control_character(text: String, max_bytes in 16..200_usize) {
            let bounded = bounded_to(max_bytes, &text);
            prop_assert!(bounded.len() <= max_bytes && bounded.chars().all(is_safe));
        }
    }
}

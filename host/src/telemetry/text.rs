//! Makes texts from plugins and strangers fit for a log line, an error or an HTTP answer. The result is bounded and has
//! no control characters.

use std::fmt::{self, Display, Write};

/// The maximum length of a bounded text in bytes, including the mark of a cut.
pub const MAX_TEXT_BYTES: usize = 4096;

/// The mark at the end of a text that was cut.
const CUT: &str = "… (cut)";

/// Formats a value as a text of at most [`MAX_TEXT_BYTES`] bytes. Control characters are escaped as Rust escapes them.
///
/// Formatting stops at the bound, so a value with gigabytes of text costs no more than one with 4 KB.
#[must_use]
pub fn bounded(value: impl Display) -> String {
    bounded_to(MAX_TEXT_BYTES, value)
}

/// Formats a value as [`bounded`] does, but as a text of at most `max_bytes` bytes.
#[must_use]
pub fn bounded_to(max_bytes: usize, value: impl Display) -> String {
    let mut writer = Bounded { text: String::new(), max_bytes: max_bytes.saturating_sub(CUT.len()) };
    // An error means that the text was cut. An error of the value's own `Display` looks the same.
    if write!(writer, "{value}").is_err() {
        writer.text.push_str(CUT);
    }
    writer.text
}

/// Escapes the control characters of a text, as [`bounded`] does, whatever its length.
#[must_use]
pub fn escaped(text: &str) -> String {
    bounded_to(usize::MAX, text)
}

struct Bounded {
    text: String,
    max_bytes: usize,
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
        if self.text.len() <= self.max_bytes {
            return Ok(());
        }
        self.text.truncate(before);
        Err(fmt::Error)
    }
}

/// Returns whether a character may appear in a log line. Control characters may not appear, nor may characters that
/// change the direction of the text or end the line.
fn is_safe(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}')
        && !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
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

//! The text of strangers, made fit for a terminal. A terminal obeys control characters, and only its user may give it
//! orders.

use std::fmt::Write;

/// The most characters that are shown of one text. More of them would push everything else off the screen.
const MAX_CHARS: usize = 2000;

/// Escapes the characters that a terminal obeys, and cuts a text that is too long.
#[must_use]
pub fn clean(stranger: &str) -> String {
    let mut text = String::with_capacity(stranger.len().min(MAX_CHARS));
    for (count, c) in stranger.chars().enumerate() {
        if count == MAX_CHARS {
            // Writing to a String cannot fail.
            let _ = write!(text, "… ({} bytes)", stranger.len());
            break;
        }
        if obeyed_by_terminals(c) {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

/// Whether the text has no character that a terminal obeys.
#[must_use]
pub fn is_printable(stranger: &str) -> bool {
    !stranger.contains(obeyed_by_terminals)
}

/// Control characters, and the characters that break the line or turn the direction of the text around them.
fn obeyed_by_terminals(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(stranger: &str, shown: &str) {
        assert_eq!(clean(stranger), shown);
        assert_eq!(is_printable(stranger), stranger == shown);
    }

    #[test]
    fn a_terminal_gets_no_orders_from_strangers() {
        check("\x1b]0;pwned\x07\u{9b}2J", "\\u{1b}]0;pwned\\u{7}\\u{9b}2J");
        check("a\u{202e}b\u{2066}c\u{2028}d", "a\\u{202e}b\\u{2066}c\\u{2028}d");
        check("grüße 🎲 \\n \"so\"", "grüße 🎲 \\n \"so\"");
    }

    #[test]
    fn a_long_text_is_cut() {
        assert_eq!(clean(&"é".repeat(2000)), "é".repeat(2000));
        assert_eq!(clean(&"é".repeat(2001)), format!("{}… (4002 bytes)", "é".repeat(2000)));
    }
}

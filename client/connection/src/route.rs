/// Parses a route: a byte in decimal, such as `16`, or in hexadecimal after `0x`, as errors show it.
///
/// # Errors
/// Fails if the text is no number, or more than 255.
pub fn route(text: &str) -> Result<u8, String> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    u8::from_str_radix(digits, radix).map_err(|_| "a route is a number from 0 to 255, such as 16 or 0x10".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_decimal_or_hexadecimal() {
        for (text, number) in [("0", 0), ("16", 16), ("255", 255), ("0x10", 16), ("0xff", 255), ("0xFF", 255)] {
            assert_eq!(route(text), Ok(number), "{text}");
        }
        for text in ["", "256", "-1", "ff", "0x", "0x100", "0x-1", "1 6", "chat"] {
            assert!(route(text).unwrap_err().contains("from 0 to 255"), "{text}");
        }
    }
}

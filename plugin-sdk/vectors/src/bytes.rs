//! The JSON form of bytes in a table: a string if the bytes are UTF-8, otherwise hexadecimal digits.

use serde::{Deserialize, Serialize};

/// The bytes of a payload or a body.
///
/// The JSON form is a string, or an object `{"hex": "…"}` with an even number of hexadecimal digits.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Bytes(pub Vec<u8>);

#[derive(Clone, Deserialize, Serialize)]
#[serde(untagged)]
enum Written {
    Text(String),
    Hex { hex: String },
}

impl TryFrom<Written> for Bytes {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            Written::Text(text) => Ok(Self(text.into_bytes())),
            Written::Hex { hex } => {
                let digits: Option<Vec<_>> = hex.chars().map(|digit| digit.to_digit(16)).collect();
                let digits = digits.filter(|digits| digits.len().is_multiple_of(2));
                let digits = digits.ok_or_else(|| format!("{hex:?} is not an even number of hexadecimal digits"))?;
                let byte = |pair: &[u32]| u8::try_from(pair[0] << 4 | pair[1]).unwrap_or_default();
                Ok(Self(digits.chunks_exact(2).map(byte).collect()))
            }
        }
    }
}

impl From<Bytes> for Written {
    fn from(Bytes(bytes): Bytes) -> Self {
        match String::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(error) => {
                let hex = error.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
                Self::Hex { hex }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_and_the_rest_is_hexadecimal() {
        for (bytes, json) in [(&b"hi"[..], r#""hi""#), (b"\xff\x00", r#"{"hex":"ff00"}"#)] {
            assert_eq!(serde_json::to_string(&Bytes(bytes.to_vec())).unwrap(), json);
            assert_eq!(serde_json::from_str::<Bytes>(json).unwrap().0, bytes);
        }
        for wrong in [r#"{"hex":"f"}"#, r#"{"hex":"xy"}"#] {
            assert!(serde_json::from_str::<Bytes>(wrong).is_err(), "{wrong}");
        }
    }
}

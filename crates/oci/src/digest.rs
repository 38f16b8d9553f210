//! Content digests: the type that every path and every comparison is built from.
//! Only parses and prints; computing one is the store's business.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A digest in its one canonical form, `sha256:<64 lower-case hex>` or `sha512:<128>`.
/// A value of this type is safe as one path component once `:` is cut (see [`Digest::hex`]).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(Box<str>);

/// Why a string is not a digest; the texts are those of go-digest, which Docker prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DigestError {
    /// No `algorithm:hex`, or characters that do not belong.
    Format,
    /// Neither sha256 nor sha512.
    Algorithm,
    /// The hex part is too short or too long for its algorithm.
    Length,
}

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DigestError::Format => "invalid checksum digest format",
            DigestError::Algorithm => "unsupported digest algorithm",
            DigestError::Length => "invalid checksum digest length",
        })
    }
}

impl std::error::Error for DigestError {}

impl Digest {
    /// Parses `algorithm:hex` exactly: known algorithm, lower-case hex, right length, nothing around it.
    pub fn parse(text: &str) -> Result<Digest, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Format)?;
        let length = match algorithm {
            "sha256" => 64,
            "sha512" => 128,
            "" => return Err(DigestError::Format),
            _ if algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+._-".contains(&byte)) => {
                return Err(DigestError::Algorithm);
            }
            _ => return Err(DigestError::Format),
        };
        if !hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) || hex.is_empty() {
            return Err(DigestError::Format);
        }
        if hex.len() != length {
            return Err(DigestError::Length);
        }
        Ok(Digest(text.into()))
    }

    /// The digest with these 32 bytes as SHA-256 value.
    pub fn from_sha256(value: [u8; 32]) -> Digest {
        Digest(format!("sha256:{}", to_hex(&value)).into())
    }

    /// The digest with these 64 bytes as SHA-512 value.
    pub fn from_sha512(value: [u8; 64]) -> Digest {
        Digest(format!("sha512:{}", to_hex(&value)).into())
    }

    /// `sha256` or `sha512`.
    pub fn algorithm(&self) -> &str {
        self.0.split_once(':').map_or("", |(algorithm, _)| algorithm)
    }

    /// The value in lower-case hex, 64 or 128 characters.
    pub fn hex(&self) -> &str {
        self.0.split_once(':').map_or("", |(_, hex)| hex)
    }

    /// The first 12 hex characters, as people are shown.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }

    /// The whole digest, `algorithm:hex`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn to_hex(bytes: &[u8]) -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]).map(char::from).collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Digest, DigestError> {
        Digest::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Digest::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_only_the_canonical_form() {
        let hex = "a".repeat(64);
        let digest = Digest::parse(&format!("sha256:{hex}")).unwrap();
        assert_eq!((digest.algorithm(), digest.hex(), digest.short()), ("sha256", &*hex, "aaaaaaaaaaaa"));
        assert!(Digest::parse(&format!("sha512:{}", "0".repeat(128))).is_ok());
        let refused = [
            (String::new(), DigestError::Format),
            (hex.clone(), DigestError::Format),
            (format!(":{hex}"), DigestError::Format),
            (format!("sha256:{}", "A".repeat(64)), DigestError::Format),
            (format!("sha256:{}", "a".repeat(63)), DigestError::Length),
            (format!("sha256:{}", "a".repeat(65)), DigestError::Length),
            (format!("sha256:../{}", "a".repeat(61)), DigestError::Format),
            (format!("sha256:{hex}\n"), DigestError::Format),
            (format!(" sha256:{hex}"), DigestError::Format),
            (format!("sha512:{hex}"), DigestError::Length),
            (format!("blake3:{hex}"), DigestError::Algorithm),
            (format!("SHA256:{hex}"), DigestError::Algorithm),
            ("sha256:".into(), DigestError::Format),
        ];
        for (text, why) in refused {
            assert_eq!(Digest::parse(&text), Err(why), "{text:?}");
        }
    }

    #[test]
    fn prints_what_it_parsed() {
        let digest = Digest::from_sha256([0xab; 32]);
        assert_eq!(digest.to_string(), format!("sha256:{}", "ab".repeat(32)));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
        assert!(serde_json::from_str::<Digest>("\"sha256:00\"").is_err());
    }
}

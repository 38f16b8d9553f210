//! Credentials in the header `X-Registry-Auth`: JSON in base64, in any of the alphabets clients use.
//! Owns encoding and decoding; must not keep or log a credential.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::system::AuthConfig;

const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, LENIENT);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);

/// Reads the header. An absent or empty one, and `null` or `{}` in it, mean no credentials.
///
/// # Errors
/// When it is neither base64 nor JSON inside. The text does not repeat the header.
pub fn decode(header: &str) -> Result<Option<AuthConfig>, String> {
    let header = header.trim();
    if header.is_empty() {
        return Ok(None);
    }
    let bytes = URL_SAFE
        .decode(header)
        .or_else(|_| STANDARD.decode(header))
        .map_err(|_| "invalid X-Registry-Auth header: must be a valid base64url-encoded string".to_owned())?;
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let mut auth: AuthConfig = serde_json::from_slice::<Option<AuthConfig>>(&bytes)
        .map_err(|_| "invalid X-Registry-Auth header: must be valid JSON".to_owned())?
        .unwrap_or_default();
    if auth.username.is_empty() && auth.password.is_empty() && !auth.auth.is_empty() {
        split_legacy(&mut auth);
    }
    Ok((auth != AuthConfig::default()).then_some(auth))
}

/// Writes the header as Docker's client does: URL-safe alphabet, padded.
#[must_use]
pub fn encode(auth: &AuthConfig) -> String {
    let json = serde_json::to_vec(auth).expect("credentials are strings and always JSON");
    base64::engine::general_purpose::URL_SAFE.encode(json)
}

/// The older form of credentials: `user:password` in base64 in the field `auth`.
fn split_legacy(auth: &mut AuthConfig) {
    let decoded = STANDARD.decode(&auth.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some((user, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) {
        auth.username = user.to_owned();
        auth.password = password.trim_end_matches('\0').to_owned();
        auth.auth.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_alphabet_and_padding_is_read() {
        // The password makes characters that differ between the alphabets.
        let auth = AuthConfig { username: "u".into(), password: "??>>~~\u{ff}".into(), ..AuthConfig::default() };
        let json = serde_json::to_vec(&auth).unwrap();
        let standard = base64::engine::general_purpose::STANDARD.encode(&json);
        let url = base64::engine::general_purpose::URL_SAFE.encode(&json);
        assert_ne!(standard, url);
        for form in [&standard, &url] {
            assert_eq!(decode(form).unwrap().unwrap(), auth);
            assert_eq!(decode(form.trim_end_matches('=')).unwrap().unwrap(), auth);
        }
        assert_eq!(encode(&auth), url);
    }

    #[test]
    fn nothing_means_nobody() {
        assert_eq!(decode("").unwrap(), None);
        assert_eq!(decode("e30=").unwrap(), None);
        assert_eq!(decode("bnVsbA==").unwrap(), None);
    }

    #[test]
    fn the_older_form_is_split() {
        let header = STANDARD.encode(r#"{"auth":"dTpwOnc="}"#);
        let auth = decode(&header).unwrap().unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("u", "p:w"));
    }

    #[test]
    fn errors_do_not_repeat_the_secret() {
        assert!(!decode("s3cret!").unwrap_err().contains("s3cret"));
        assert!(!decode(&STANDARD.encode("s3cret")).unwrap_err().contains("s3cret"));
    }
}

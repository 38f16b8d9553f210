//! Tokens, as Docker's registries use them ("Token Authentication Specification", "Token Authentication Implementation"): a
//! JSON Web Token that an issuer has signed says what its bearer may do here.
//! Owns reading and verifying them, and the challenge that sends clients to the issuer. Must not issue any.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::keys::Key;
use super::{Grant, Need};

/// How far the clocks of issuer and registry may be apart, in seconds.
const LEEWAY: f64 = 60.0;
/// The longest token that is looked at, in bytes.
const LONGEST: usize = 64 << 10;

/// Whose tokens are taken.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// Where clients get tokens: an address that they are told.
    pub realm: String,
    /// What this registry is called there; the audience of its tokens.
    pub service: String,
    /// Who signs; the issuer that tokens must name.
    pub issuer: String,
    /// PEM files with the issuer's public keys or certificates.
    pub keys: Vec<PathBuf>,
}

/// The tokens that are taken.
pub struct TokenAuth {
    settings: TokenSettings,
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    crit: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    sub: String,
    #[serde(default)]
    aud: Audience,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    access: Option<Vec<Entry>>,
}

#[derive(Deserialize, Default)]
#[serde(untagged)]
enum Audience {
    #[default]
    Nobody,
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Entry {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    actions: Option<Vec<String>>,
}

impl TokenAuth {
    /// Reads the keys.
    ///
    /// # Errors
    /// Names the file and what is wrong with it, or the setting that is missing.
    pub fn open(settings: TokenSettings) -> Result<TokenAuth, String> {
        let keys = settings.keys.iter().map(|path| Key::read(path)).collect::<Result<Vec<_>, _>>()?.into_iter();
        let is_header = |text: &str| !text.is_empty() && text.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"');
        for (name, value) in [("realm", &settings.realm), ("service", &settings.service), ("issuer", &settings.issuer)]
        {
            if !is_header(value) {
                return Err(format!("tokens need a {name} of plain characters, not {value:?}"));
            }
        }
        Ok(TokenAuth { settings, keys: keys.flatten().collect() })
    }

    /// Where a client may get a token for what it needs, and what was wrong with the one that it has.
    pub(crate) fn challenge(&self, need: &Need, error: Option<&str>) -> String {
        let mut text = format!("Bearer realm=\"{}\",service=\"{}\"", self.settings.realm, self.settings.service);
        if let Some(scope) = need.scope() {
            text.push_str(&format!(",scope=\"{scope}\""));
        }
        if let Some(error) = error {
            text.push_str(&format!(",error=\"{error}\""));
        }
        text
    }

    /// Verifies an `Authorization` header: who its bearer is and what the token allows. The error is for the log.
    pub(crate) fn check(&self, header: &str) -> Result<(String, Vec<Grant>), String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let token = header
            .split_once(' ')
            .and_then(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()))
            .ok_or("it is no bearer token")?;
        self.verify(token, now)
    }

    fn verify(&self, token: &str, now: f64) -> Result<(String, Vec<Grant>), String> {
        if token.len() > LONGEST {
            return Err(format!("it is {} bytes long", token.len()));
        }
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).map_err(|error| error.to_string());
        let (signed, signature) = token.rsplit_once('.').ok_or("it has no signature")?;
        let (header, claims) = signed.split_once('.').ok_or("it has no claims")?;
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|error| error.to_string())?;
        if header.crit.is_some() {
            return Err("it demands extensions that are not known here".into());
        }
        let signature = decode(signature)?;
        // Nothing of the token is believed before this; which key it says it was signed with is not even asked.
        if !self.keys.iter().any(|key| key.verifies(&header.alg, signed.as_bytes(), &signature)) {
            return Err(format!("no key of the issuer's has signed it by {:?}", header.alg));
        }
        let claims: Claims = serde_json::from_slice(&decode(claims)?).map_err(|error| error.to_string())?;
        let is_for_us = match &claims.aud {
            Audience::Nobody => false,
            Audience::One(name) => *name == self.settings.service,
            Audience::Several(names) => names.contains(&self.settings.service),
        };
        if claims.iss != self.settings.issuer {
            return Err(format!("its issuer is {:?}", claims.iss));
        }
        if !is_for_us {
            return Err("it is for another service".into());
        }
        if claims.exp + LEEWAY < now {
            return Err("it has expired".into());
        }
        if claims.nbf.is_some_and(|begin| begin - LEEWAY > now) {
            return Err("it is not valid yet".into());
        }
        let grant =
            |entry: Entry| Grant { kind: entry.kind, name: entry.name, actions: entry.actions.unwrap_or_default() };
        Ok((claims.sub, claims.access.unwrap_or_default().into_iter().map(grant).collect()))
    }
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;

//! Tokens made here and refused for every reason that there is; keys made by openssl in both forms.

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use super::*;

/// A SubjectPublicKeyInfo around a point of P-256.
fn public_key_pem(point: &[u8]) -> String {
    let mut der = vec![0x30, 0x59, 0x30, 0x13, 0x06, 0x07];
    der.extend([0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08]);
    der.extend([0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00]);
    der.extend(point);
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN PUBLIC KEY-----\n{text}\n-----END PUBLIC KEY-----\n")
}

struct Issuer {
    pair: EcdsaKeyPair,
    _dir: tempfile::TempDir,
    auth: TokenAuth,
}

impl Issuer {
    fn new() -> Issuer {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(&path, public_key_pem(pair.public_key().as_ref())).unwrap();
        let settings = TokenSettings {
            realm: "https://auth.example/token".into(),
            service: "registry".into(),
            issuer: "issuer".into(),
            keys: vec![path],
        };
        Issuer { pair, _dir: dir, auth: TokenAuth::open(settings).unwrap() }
    }

    fn token(&self, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn check(&self, claims: &str) -> Result<(String, Vec<Grant>), String> {
        self.auth.verify(&self.token(r#"{"typ":"JWT","alg":"ES256","kid":"whatever"}"#, claims), 1000.0)
    }
}

const GOOD: &str = r#"{"iss":"issuer","sub":"ann","aud":"registry","exp":1100,"nbf":900,
    "access":[{"type":"repository","name":"a","actions":["pull"]},{"type":"x","name":"y","actions":null}]}"#;

#[test]
fn a_good_token_says_what_it_says() {
    let issuer = Issuer::new();
    let (name, grants) = issuer.check(GOOD).unwrap();
    assert_eq!((name.as_str(), grants.len()), ("ann", 2));
    assert_eq!(grants[0].actions, ["pull"]);
    assert!(issuer.check(&GOOD.replace("\"registry\"", "[\"other\",\"registry\"]")).is_ok());
}

#[test]
fn every_other_is_refused() {
    let issuer = Issuer::new();
    let refused = |claims: &str, part: &str| {
        let why = issuer.check(claims).unwrap_err();
        assert!(why.contains(part), "{why:?} does not say {part:?}");
    };
    refused(&GOOD.replace("\"issuer\"", "\"somebody\""), "issuer");
    refused(&GOOD.replace("\"registry\"", "\"other\""), "another service");
    refused(&GOOD.replace("\"aud\":\"registry\",", ""), "another service");
    refused(&GOOD.replace("1100", "900"), "expired");
    refused(&GOOD.replace("900", "1100"), "not valid yet");
    refused(&GOOD.replace("\"exp\":1100,", ""), "exp");
    refused("nonsense", "expected");
    let good = issuer.token(r#"{"alg":"ES256"}"#, GOOD);
    let verify = |token: &str| issuer.auth.verify(token, 1000.0);
    assert!(verify(&good).is_ok());
    assert!(verify(&format!("{good}A")).is_err());
    assert!(verify(&good.replace('.', "")).is_err());
    // The algorithm is the key's, not the token's: neither none nor a key that is a secret.
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"HS256"}"#, r#"{"alg":"RS256"}"#, r#"{"alg":"ES256","crit":["x"]}"#] {
        assert!(verify(&issuer.token(header, GOOD)).is_err(), "{header}");
    }
    let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(GOOD));
    assert!(verify(&unsigned).is_err());
    assert!(Issuer::new().auth.verify(&good, 1000.0).unwrap_err().contains("no key"), "another issuer's key");
    assert!(verify(&"a".repeat(1 << 20)).is_err());
}

#[test]
fn challenges_lead_to_the_issuer() {
    let issuer = Issuer::new();
    let need = Need::Repository("a/b".into(), vec![crate::access::Action::Pull, crate::access::Action::Push]);
    assert_eq!(
        issuer.auth.challenge(&need, Some("invalid_token")),
        "Bearer realm=\"https://auth.example/token\",service=\"registry\",scope=\"repository:a/b:pull,push\",error=\"invalid_token\""
    );
    assert_eq!(
        issuer.auth.challenge(&Need::Login, None),
        "Bearer realm=\"https://auth.example/token\",service=\"registry\""
    );
}

//! Who may do what: passwords, tokens, read-only.

use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};

use base64::Engine as _;
use brig_registry_server::{Access, Htpasswd, Settings, TokenAuth, TokenSettings, Upkeep};
use brig_store::digest;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use crate::rig::{Answer, MANIFEST, Rig, manifest};

#[test]
fn a_password_lets_in() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    std::fs::write(&file, format!("ann:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let access = Access::Password(Htpasswd::open(&file, "images").unwrap());
    let rig = Rig::with(Settings { access, ..Settings::default() });
    let basic = |text: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    for path in ["/v2/", "/v2/a/tags/list", "/v2/_catalog", "/nowhere", "/v2/../../etc/tags/list"] {
        let answer = rig.get(path);
        assert_eq!(answer.refusal(), "401 UNAUTHORIZED", "{path}");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"images\"");
        for wrong in [basic("ann:wrong"), basic("eve:secret"), basic("ann"), "Bearer x".into(), "Basic %".into()] {
            assert_eq!(rig.ask("GET", path, &[("Authorization", &wrong)], b"").status, 401, "{wrong}");
        }
    }
    let right = basic("ann:secret");
    assert_eq!(rig.ask("GET", "/v2/", &[("Authorization", &right)], b"").status, 200);
    assert_eq!(rig.ask("POST", "/v2/a/blobs/uploads/", &[("Authorization", &right)], b"").status, 202);
}

#[test]
fn a_read_only_registry_takes_nothing() {
    let rig = Rig::with(Settings { read_only: true, ..Settings::default() });
    for (method, path) in [
        ("POST", "/v2/a/blobs/uploads/"),
        ("PUT", "/v2/a/manifests/v1"),
        ("DELETE", "/v2/a/manifests/v1"),
        ("DELETE", &format!("/v2/a/blobs/{}", digest::sha256_of(b"x"))),
    ] {
        assert_eq!(rig.ask(method, path, &[], b"").refusal(), "405 UNSUPPORTED", "{method} {path}");
    }
    assert_eq!(rig.get("/v2/").status, 200);
    let rig = Rig::with(Settings { deletion: false, ..Settings::default() });
    rig.push_image("a", "v1", "word");
    assert_eq!(rig.ask("DELETE", "/v2/a/manifests/v1", &[], b"").refusal(), "405 UNSUPPORTED");
}

struct Issuer {
    pair: EcdsaKeyPair,
    rig: Rig,
}

impl Issuer {
    fn new() -> Issuer {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random).unwrap();
        // The head of a SubjectPublicKeyInfo for P-256.
        let mut der = vec![0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08];
        der.extend([0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00]);
        der.extend(pair.public_key().as_ref());
        let pem = base64::engine::general_purpose::STANDARD.encode(der);
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("key.pem");
        std::fs::write(&key, format!("-----BEGIN PUBLIC KEY-----\n{pem}\n-----END PUBLIC KEY-----\n")).unwrap();
        let (realm, service, issuer) = ("https://auth.example/".into(), "registry".into(), "issuer".into());
        let access = Access::Token(TokenAuth::open(TokenSettings { realm, service, issuer, keys: vec![key] }).unwrap());
        Issuer { pair, rig: Rig::with(Settings { access, ..Settings::default() }) }
    }

    /// A token for `grants`, each `name:action,action`.
    fn token(&self, user: &str, grants: &[&str]) -> String {
        let access: Vec<serde_json::Value> = grants
            .iter()
            .map(|grant| grant.split_once(':').unwrap())
            .map(|(name, actions)| {
                let kind = if name == "catalog" { "registry" } else { "repository" };
                serde_json::json!({"type": kind, "name": name, "actions": actions.split(',').collect::<Vec<_>>()})
            })
            .collect();
        let claims = serde_json::json!({
            "iss": "issuer", "aud": "registry", "sub": user, "exp": 32_503_680_000_u64, "access": access
        });
        let encode = |text: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", encode(b"{\"alg\":\"ES256\"}"), encode(claims.to_string().as_bytes()));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("Bearer {signed}.{}", encode(signature.as_ref()))
    }

    fn ask(&self, token: &str, method: &str, path: &str, body: &[u8]) -> Answer {
        self.rig.ask(method, path, &[("Authorization", token), ("Content-Type", MANIFEST)], body)
    }
}

#[test]
fn a_token_lets_in_as_far_as_it_says() {
    let issuer = Issuer::new();
    let challenge = |answer: &Answer| answer.header("www-authenticate").to_owned();
    let answer = issuer.rig.get("/v2/");
    assert_eq!(
        (answer.status, challenge(&answer)),
        (401, "Bearer realm=\"https://auth.example/\",service=\"registry\"".into())
    );
    assert!(challenge(&issuer.rig.get("/v2/a/tags/list")).ends_with(",scope=\"repository:a:pull\""));
    let reader = issuer.token("ann", &["a:pull"]);
    assert_eq!(issuer.ask(&reader, "GET", "/v2/", b"").status, 200);
    assert_eq!(issuer.ask(&reader, "GET", "/v2/a/tags/list", b"").status, 404);
    for (method, path, scope) in [
        ("POST", "/v2/a/blobs/uploads/", "repository:a:pull,push"),
        ("PUT", "/v2/a/manifests/x", "repository:a:pull,push"),
        ("DELETE", "/v2/a/manifests/x", "repository:a:delete"),
        ("GET", "/v2/b/tags/list", "repository:b:pull"),
        ("GET", "/v2/_catalog", "registry:catalog:*"),
    ] {
        let answer = issuer.ask(&reader, method, path, b"");
        assert_eq!(answer.refusal(), "401 UNAUTHORIZED", "{method} {path}");
        let expected = format!(",scope=\"{scope}\",error=\"insufficient_scope\"");
        assert!(challenge(&answer).ends_with(&expected), "{}", challenge(&answer));
    }
    assert_eq!(issuer.ask(&issuer.token("ann", &["catalog:*"]), "GET", "/v2/_catalog", b"").status, 200);
    let broken = format!("{reader}x");
    assert!(challenge(&issuer.ask(&broken, "GET", "/v2/", b"")).ends_with("error=\"invalid_token\""));
}

#[test]
fn a_private_repository_gives_nothing_away() {
    let issuer = Issuer::new();
    let ann = issuer.token("ann", &["private:pull,push"]);
    let eve = issuer.token("eve", &["public:pull,push"]);
    let digest = digest::sha256_of(b"secret");
    let push = format!("/v2/private/blobs/uploads/?digest={digest}");
    assert_eq!(issuer.ask(&ann, "POST", &push, b"secret").status, 201);
    // Mounting is no way in, named or not; the answer is that of a blob that is not there.
    for from in ["&from=private", ""] {
        let answer = issuer.ask(&eve, "POST", &format!("/v2/public/blobs/uploads/?mount={digest}{from}"), b"");
        assert_eq!(answer.status, 202, "{answer:?}");
    }
    assert_eq!(issuer.ask(&eve, "GET", &format!("/v2/public/blobs/{digest}"), b"").status, 404);
    assert_eq!(issuer.ask(&eve, "GET", &format!("/v2/private/blobs/{digest}"), b"").status, 401);
    // Nor is a manifest that names it.
    let text = crate::rig::manifest(digest.as_str(), 6, digest.as_str(), 6, "");
    let answer = issuer.ask(&eve, "PUT", "/v2/public/manifests/x", text.as_bytes());
    assert_eq!(answer.refusal(), "400 MANIFEST_BLOB_UNKNOWN");
    let both = issuer.token("ann", &["private:pull", "other:pull,push"]);
    let answer = issuer.ask(&both, "POST", &format!("/v2/other/blobs/uploads/?mount={digest}"), b"");
    assert_eq!(answer.status, 201, "who may read both may mount");
    // Another's upload is not there, also for who may push to the same repository.
    let begun = issuer.ask(&ann, "POST", "/v2/private/blobs/uploads/", b"");
    let path = begun.header("location").to_owned();
    let bob = issuer.token("bob", &["private:pull,push,delete"]);
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        assert_eq!(issuer.ask(&bob, method, &path, b"x").status, 404, "{method}");
    }
    assert_eq!(issuer.ask(&ann, "GET", &path, b"").status, 204);
}

/// Who may only read can ask as often as they like: what nothing needs goes when it would have gone.
#[test]
fn readers_keep_nothing_alive() {
    let issuer = Issuer::new();
    let writer = issuer.token("ann", &["a:pull,push,delete"]);
    let reader = issuer.token("eve", &["a:pull"]);
    let layer = digest::sha256_of(b"layer").to_string();
    let blob = format!("/v2/a/blobs/{layer}");
    let gone_after = |token: &str| {
        let config = digest::sha256_of(b"{}").to_string();
        for (digest, bytes) in [(&layer, &b"layer"[..]), (&config, b"{}")] {
            let path = format!("/v2/a/blobs/uploads/?digest={digest}");
            assert_eq!(issuer.ask(&writer, "POST", &path, bytes).status, 201);
        }
        let text = manifest(&config, 2, &layer, 5, "");
        let answer = issuer.ask(&writer, "PUT", "/v2/a/manifests/v", text.as_bytes());
        assert_eq!(answer.status, 201, "{answer:?}");
        assert_eq!(issuer.ask(token, "HEAD", &blob, b"").status, 200);
        let path = format!("/v2/a/manifests/{}", answer.header("docker-content-digest"));
        assert_eq!(issuer.ask(&writer, "DELETE", &path, b"").status, 202);
        issuer.rig.registry.tidy(&Upkeep::default()).unwrap();
        issuer.ask(&reader, "GET", &blob, b"").status == 404
    };
    assert!(gone_after(&reader));
    assert!(!gone_after(&writer));
}

/// Passwords take long to be compared, as they are meant to: whoever guesses must not take all the time there is.
#[test]
fn who_guesses_passwords_does_not_hold_up_those_who_know_theirs() {
    const GUESSES: usize = 30;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    std::fs::write(&file, format!("ann:{}\n", bcrypt::hash("secret", 10).unwrap())).unwrap();
    let access = Access::Password(Htpasswd::open(&file, "images").unwrap());
    let settings = Settings { access, ..Settings::default() };
    let rig = Rig::threaded(tempfile::tempdir().unwrap(), settings, 4);
    let basic = |text: &str| format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text));
    let ann = basic("ann:secret");
    let ask = || rig.ask("GET", "/v2/", &[("Authorization", &ann)], b"").status;
    assert_eq!(ask(), 200);
    let (answered, first) = (AtomicUsize::new(0), Barrier::new(2));
    std::thread::scope(|scope| {
        for nth in 0..GUESSES {
            let (rig, basic, answered, first) = (&rig, &basic, &answered, &first);
            scope.spawn(move || {
                let guess = basic(&format!("ann:{nth}"));
                assert_eq!(rig.ask("GET", "/v2/", &[("Authorization", &guess)], b"").status, 401);
                if answered.fetch_add(1, Ordering::SeqCst) == 0 {
                    first.wait();
                }
            });
        }
        // All have asked by then, or nearly so.
        first.wait();
        let before = answered.load(Ordering::SeqCst);
        assert_eq!(ask(), 200);
        let meanwhile = answered.load(Ordering::SeqCst) - before;
        assert!(meanwhile < GUESSES / 4, "{meanwhile} guesses were answered before the one who knows");
    });
}

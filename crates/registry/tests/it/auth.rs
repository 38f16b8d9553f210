//! Credentials: where they go, and above all where they do not.

use brig_registry::{Auth, ErrorKind};

use super::rig::{Image, Registry, Reply, Seen, TestBox};

fn user(password: &str) -> Auth {
    Auth { username: "me".into(), password: password.into(), ..Auth::default() }
}

/// `me:CANARY`
const BASIC: &str = "Basic bWU6Q0FOQVJZ";

fn unauthorized(challenge: String) -> Reply {
    let body = br#"{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}"#.to_vec();
    Reply::With(401, vec![("www-authenticate", challenge)], body)
}

fn needs_basic(seen: &Seen) -> Reply {
    if seen.authorization.as_deref() == Some(BASIC) { Reply::Serve } else { unauthorized("Basic realm=\"x\"".into()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_authentication() {
    let (registry, image) = (Registry::new().await, Image::small());
    registry.push("app", "v1", &image);
    registry.hook(needs_basic);
    let name = registry.name("app:v1");
    let error = TestBox::new().refused(&name).await;
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    assert!(error.message.ends_with("no basic auth credentials"), "{error}");
    let host = TestBox::new();
    let error = host.pull_as(&name, Some(&user("wrong")), None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    assert!(error.message.contains("unauthorized: authentication required"), "{error}");
    registry.clear_log();
    host.pull_as(&name, Some(&user("CANARY")), None).await.unwrap();
    assert_eq!(registry.log().iter().filter(|s| s.authorization.is_none()).count(), 1, "asked once, then known");
    // Another user of the same client does not inherit them.
    registry.clear_log();
    assert!(host.pull_as(&name, None, None).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens() {
    let (registry, image, tokens) = (Registry::new().await, Image::small(), Registry::new().await);
    registry.push("team/app", "v1", &image);
    let realm = format!(
        "Bearer realm=\"http://{}/token\",service=\"reg\",scope=\"repository:evil:push,pull\",error=\"insufficient_scope\"",
        tokens.address
    );
    registry.hook(move |seen| {
        // A token is good for three requests.
        let good = seen.authorization.as_deref().and_then(|a| a.strip_prefix("Bearer t")).is_some();
        if good && (seen.nth > 0 || !seen.path.contains("/blobs/")) {
            Reply::Serve
        } else {
            unauthorized(realm.clone())
        }
    });
    tokens
        .hook(|seen| Reply::With(200, vec![], format!(r#"{{"token":"t{}","expires_in":-5}}"#, seen.nth).into_bytes()));
    let host = TestBox::new();
    host.pull_as(&registry.name("team/app:v1"), Some(&user("CANARY")), None).await.unwrap();
    let asked = tokens.log();
    assert_eq!(asked[0].path, "/token?service=reg&scope=repository%3Ateam%2Fapp%3Apull&account=me&client_id=brig");
    assert!(asked.iter().all(|s| s.authorization.as_deref() == Some(BASIC)));
    assert!(
        registry.log().iter().all(|s| s.authorization.as_deref() != Some(BASIC)),
        "the password went to the registry"
    );

    // A refresh token is exchanged by POST.
    tokens.clear_log();
    let identity = Auth { username: "<token>".into(), identity_token: "refresh".into(), ..Auth::default() };
    let host = TestBox::new();
    host.pull_as(&registry.name("team/app:v1"), Some(&identity), None).await.unwrap();
    let asked = &tokens.log()[0];
    assert_eq!((asked.method.as_str(), asked.path.as_str(), asked.authorization.as_ref()), ("POST", "/token", None));
    assert!(
        asked.body.contains("grant_type=refresh_token") && asked.body.contains("refresh_token=refresh"),
        "{}",
        asked.body
    );

    // Refused by the token server, or refused in spite of its token.
    tokens.hook(|_| Reply::With(401, vec![], vec![]));
    let host = TestBox::new();
    let error = host.pull_as(&registry.name("team/app:v1"), Some(&user("wrong")), None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    assert!(error.message.contains("incorrect username or password"), "{error}");
    tokens.hook(|_| Reply::With(200, vec![], br#"{"access_token":"useless"}"#.to_vec()));
    registry.clear_log();
    let error = host.refused(&registry.name("team/app:v1")).await;
    assert_eq!(error.kind, ErrorKind::Denied);
    assert!(error.message.contains("pull access denied for"), "{error}");
    assert!(registry.log().len() <= 4, "one refresh per request: {:?}", registry.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_do_not_carry_credentials() {
    let (registry, image, storage) = (Registry::new().await, Image::small(), Registry::new().await);
    registry.push("app", "v1", &image);
    storage.push("app", "v1", &image);
    let other = storage.address.port();
    registry.hook(move |seen| match needs_basic(seen) {
        Reply::Serve if seen.path.contains("/blobs/") => Reply::With(
            307,
            vec![("location", format!("http://127.0.0.1:{other}{}?X-Signature=s3cret", seen.path))],
            vec![],
        ),
        reply => reply,
    });
    let host = TestBox::new();
    host.pull_as(&registry.name("app:v1"), Some(&user("CANARY")), None).await.unwrap();
    assert_eq!(storage.count("GET", "/blobs/"), 4);
    assert!(storage.log().iter().all(|s| s.authorization.is_none()), "credentials followed a redirect");
    // And an error text names the place without its signature.
    storage.hook(|_| Reply::With(403, vec![], vec![]));
    let host = TestBox::new();
    let error = host.pull_as(&registry.name("app:v1"), Some(&user("CANARY")), None).await.unwrap_err();
    assert!(!error.message.contains("s3cret") && !error.message.contains("CANARY"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_server_in_a_forbidden_place_gets_nothing() {
    let (registry, image) = (Registry::new().await, Image::small());
    registry.push("app", "v1", &image);
    for (realm, part) in [
        ("http://169.254.169.254/token", "(169.254.169.254): it leads into a network"),
        ("file:///etc/passwd", "refusing the token server"),
        ("http://a@127.0.0.1/", "refusing the token server"),
    ] {
        registry.hook(move |_| unauthorized(format!("Bearer realm=\"{realm}\"")));
        let host = TestBox::new();
        let error = host.pull_as(&registry.name("app:v1"), Some(&user("CANARY")), None).await.unwrap_err();
        assert!(error.message.contains(part), "{realm}: {error}");
        host.assert_clean().await;
    }
    registry.hook(|_| unauthorized("Negotiate".into()));
    let error = TestBox::new().refused(&registry.name("app:v1")).await;
    assert!(error.message.contains("other than Basic and Bearer"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logging_in() {
    let (registry, tokens) = (Registry::new().await, Registry::new().await);
    let host = TestBox::new();
    let address = registry.address.to_string();
    assert_eq!(host.client.check_auth(&address, &user("any")).await, Ok(None), "an open registry takes everyone");
    registry.hook(needs_basic);
    assert_eq!(host.client.check_auth(&format!("http://{address}/v2/"), &user("CANARY")).await, Ok(None));
    let error = host.client.check_auth(&address, &user("wrong")).await.unwrap_err();
    assert_eq!(error.message, format!("Get \"http://{address}/v2/\": unauthorized: incorrect username or password"));
    let realm = format!("Bearer realm=\"http://{}/token\",service=\"reg\"", tokens.address);
    registry.hook(move |seen| {
        if seen.authorization.as_deref() == Some("Bearer good") { Reply::Serve } else { unauthorized(realm.clone()) }
    });
    tokens.hook(|seen| match seen.authorization.as_deref() {
        Some(BASIC) => Reply::With(200, vec![], br#"{"token":"good","refresh_token":"keep"}"#.to_vec()),
        _ => Reply::With(401, vec![], br#"{"details":"incorrect username or password"}"#.to_vec()),
    });
    assert_eq!(host.client.check_auth(&address, &user("CANARY")).await, Ok(Some("keep".into())));
    assert!(tokens.log()[0].path.contains("offline_token=true") && !tokens.log()[0].path.contains("scope="));
    let error = host.client.check_auth(&address, &user("wrong")).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    assert!(error.message.contains("incorrect username or password"), "{error}");
}

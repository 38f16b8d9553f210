//! How registries are reached, through a daemon: settings that change while it runs, authorities of one's own, token
//! servers; and where credentials go, above all where they do not.

use brig_tests::relay::{Asked, Deed};
use brig_tests::{Image, Layer, TestHost, eventually, needs};

fn image() -> Image {
    Image::new(vec![Layer::new().file("x", 0o644, "x").bytes()], serde_json::json!({"Cmd": ["/x"]}))
}

/// Writes the daemon's settings and has it read them; gives what it says of that.
pub(crate) fn settings(host: &TestHost, json: &str) -> String {
    let seen = host.daemon_log().len();
    std::fs::write(host.root.join("daemon.json"), json).unwrap();
    let pid = rustix::process::Pid::from_raw(host.daemon_pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    eventually("the daemon has read its settings", || {
        let said = host.daemon_log()[seen..].to_owned();
        (said.contains("configuration reloaded") || said.contains("configuration not reloaded")).then_some(said)
    })
}

#[test]
fn settings_change_while_it_runs() {
    let host = TestHost::new();
    let _wire = host.neighbour();
    let registry = host.registry_at("10.99.0.1:5000");
    registry.push(&image(), "app", "v1");
    let name = registry.name("app:v1");
    let pull = || host.brig(&["pull", "-q", &name]);
    assert!(pull().fails(1).contains("HTTP response to HTTPS client"));
    let said = settings(&host, r#"{"insecure-registries": ["10.99.0.1:5000"], "labels": ["a=b"]}"#);
    assert!(said.contains("configuration reloaded"), "{said}");
    pull().ok();
    let info = |template: &str| host.brig(&["info", "--format", template]).ok();
    assert!(info("{{json .RegistryConfig.IndexConfigs}}").contains("10.99.0.1:5000"));
    assert_eq!(info("{{json .Labels}}"), r#"["a=b"]"#);
    let events = host.brig(&["events", "--since", "10m", "--until", "0s", "--filter", "type=daemon"]).ok();
    assert!(events.contains("daemon reload") && events.contains("10.99.0.1:5000"), "{events}");
    // What cannot be used changes nothing, and says what it is.
    for (bad, why) in [
        (r#"{"insecure-registries": ["#, "invalid JSON"),
        (r#"{"registry-mirrors": ["ftp://mirror"]}"#, "ftp://mirror"),
        (r#"{"registries": {"x": {"ca": "relative.pem"}}}"#, "relative.pem"),
        (r#"{"colour": "red"}"#, "colour"),
    ] {
        let said = settings(&host, bad);
        assert!(said.contains("configuration not reloaded") && said.contains(why), "{bad}: {said}");
        pull().ok();
    }
    settings(&host, "{}");
    assert!(pull().fails(1).contains("HTTP response to HTTPS client"));
}

/// A certificate for an address, signed by itself, and its key.
fn certificate(host: &TestHost, address: &str) -> (String, String) {
    certificate_of(host, "server", address)
}

/// As [`certificate`], in files called like its owner.
fn certificate_of(host: &TestHost, owner: &str, address: &str) -> (String, String) {
    let path = |ending: &str| host.root.join(format!("{owner}.{ending}")).display().to_string();
    let (certificate, key) = (path("crt"), path("key"));
    let name = format!("subjectAltName=IP:{address}");
    let arguments = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=registry",
        "-addext",
        &name,
        "-addext",
        "basicConstraints=critical,CA:FALSE",
        "-keyout",
        &key,
        "-out",
        &certificate,
    ];
    host.program("openssl", &arguments).output().ok();
    (certificate, key)
}

#[test]
fn an_authority_of_ones_own() {
    needs!("registry_settings::an_authority_of_ones_own", "openssl");
    let host = TestHost::new();
    let _wire = host.neighbour();
    let (certificate, key) = certificate(&host, "10.99.0.1");
    let registry = host.brig_registry("10.99.0.1:5443", &["--tls-cert", &certificate, "--tls-key", &key]);
    let name = registry.name("app:v1");
    host.brig_run(&["load", "-q"]).input(image().docker_archive(&name)).output().ok();
    let push = || host.brig(&["push", &name]);
    assert!(push().fails(1).contains("x509: certificate signed by unknown authority"));
    settings(&host, &format!(r#"{{"registries": {{"10.99.0.1:5443": {{"ca": "{certificate}"}}}}}}"#));
    push().ok();
    host.brig(&["rmi", &name]).ok();
    host.brig(&["pull", "-q", &name]).ok();
    // For that registry only; and what is insecure needs no authority.
    settings(&host, &format!(r#"{{"registries": {{"10.99.0.1:5444": {{"ca": "{certificate}"}}}}}}"#));
    assert!(push().fails(1).contains("unknown authority"));
    settings(&host, r#"{"registries": {"10.99.0.1:5443": {"insecure": true}}}"#);
    push().ok();
    settings(&host, r#"{"registries": {"10.99.0.1:5443": {"ca": "/nonexistent.pem"}}}"#);
    assert!(push().fails(1).contains("/nonexistent.pem"));
}

/// Authorities and client certificates of one registry, in the directory that Docker has for them.
#[test]
fn certificates_where_docker_has_them() {
    needs!("registry_settings::certificates_where_docker_has_them", "openssl");
    let mut host = TestHost::without_daemon(&[]);
    host.own_etc_docker = true;
    let _wire = host.neighbour();
    let (certificate, key) = certificate(&host, "10.99.0.1");
    let (client, client_key) = certificate_of(&host, "client", "10.99.0.2");
    let tls = ["--tls-cert", &certificate, "--tls-key", &key, "--tls-client-ca", &client];
    let registry = host.brig_registry("10.99.0.1:5443", &tls);
    let other = host.brig_registry("10.99.0.1:5444", &tls);
    host.start_daemon();
    let name = registry.name("app:v1");
    host.brig_run(&["load", "-q"]).input(image().docker_archive(&name)).output().ok();
    host.brig(&["tag", &name, &other.name("app:v1")]).ok();
    let push = || host.brig(&["push", &name]);
    let folder = host.root.join("docker/certs.d/10.99.0.1:5443");
    std::fs::create_dir_all(&folder).unwrap();
    let put = |from: &str, to: &str| {
        std::fs::copy(from, folder.join(to)).unwrap();
    };
    let refused = push().fails(1);
    assert!(refused.contains("x509: certificate signed by unknown authority"), "{refused}");
    // Whatever is put there counts at once.
    put(&certificate, "ca.crt");
    let refused = push().fails(1);
    assert!(refused.contains("certificate required"), "{refused}");
    put(&client, "brig.cert");
    let refused = push().fails(1);
    assert!(refused.contains("/etc/docker/certs.d/10.99.0.1:5443/brig.key"), "{refused}");
    put(&client_key, "brig.key");
    push().ok();
    host.brig(&["rmi", &name, &other.name("app:v1")]).ok();
    host.brig(&["pull", "-q", &name]).ok();
    assert_eq!(host.field(&name, "{{.Id}}"), image().id());
    host.brig(&["tag", &name, &other.name("app:v1")]).ok();
    let refused = host.brig(&["push", &other.name("app:v1")]).fails(1);
    assert!(refused.contains("unknown authority"), "another port is another registry: {refused}");
    // A certificate that the registry does not know, and one that is none.
    put(&certificate, "brig.cert");
    put(&key, "brig.key");
    let refused = push().fails(1);
    assert!(refused.contains("10.99.0.1:5443") && refused.contains("remote error: tls: "), "{refused}");
    std::fs::write(folder.join("ca.crt"), "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n").unwrap();
    let refused = push().fails(1);
    assert!(refused.contains("ca.crt: not a PEM certificate"), "{refused}");
}

/// `me:CANARY`
const BASIC: &str = "Basic bWU6Q0FOQVJZ";

#[test]
fn a_password_goes_to_the_token_server_only() {
    let host = TestHost::new();
    let registry = host.registry();
    registry.push(&image(), "team/app", "v1");
    let json = |text: String| Deed::Answer(200, vec![("content-type", "application/json".into())], text.into_bytes());
    let tokens = host.relay("127.0.0.1:5011", "", move |asked| {
        let known = asked.authorization.as_deref() == Some(BASIC);
        if known {
            json(format!(r#"{{"token":"t{}","expires_in":3600}}"#, asked.nth))
        } else {
            Deed::Answer(401, vec![], vec![])
        }
    });
    // Blobs are elsewhere, and every token is good for the first time that something is asked for.
    let storage = host.relay("127.0.0.1:5012", &registry.address, |_| Deed::Pass);
    let front = host.relay("127.0.0.1:5010", &registry.address, |asked: &Asked| {
        let challenge = "Bearer realm=\"http://127.0.0.1:5011/token\",service=\"test\"".to_owned();
        let token = asked.authorization.as_deref().and_then(|text| text.strip_prefix("Bearer t"));
        match token {
            None => Deed::Answer(401, vec![("www-authenticate", challenge)], b"{}".to_vec()),
            Some(_) if asked.path == "/v2/" => Deed::Pass,
            // The first token runs out between the manifest and the blobs.
            Some(_) if asked.path.contains("/blobs/") && asked.nth == 0 => {
                Deed::Answer(401, vec![("www-authenticate", challenge)], b"{}".to_vec())
            }
            Some(_) if asked.path.contains("/blobs/") => {
                Deed::Answer(307, vec![("location", format!("http://127.0.0.1:5012{}", asked.path))], vec![])
            }
            Some(_) => Deed::Pass,
        }
    });
    let name = front.name("team/app:v1");
    let refused = host.brig(&["pull", &name]).fails(1);
    assert!(refused.contains("unauthorized: authentication required"), "{refused}");
    let login = |password: &str| {
        let arguments = ["login", "-u", "me", "--password-stdin", &front.address];
        host.brig_run(&arguments).input(password.as_bytes().to_vec()).output()
    };
    assert!(login("wrong").fails(1).contains("unauthorized"));
    assert!(login("CANARY").ok().contains("Login Succeeded"));
    host.brig(&["pull", &name]).ok();
    assert_eq!(host.field(&name, "{{.Id}}"), image().id());
    let is_password = |asked: &Asked| asked.authorization.as_deref().is_some_and(|text| text.starts_with("Basic"));
    assert!(tokens.log().iter().any(is_password) && !front.log().iter().any(is_password));
    assert!(!storage.log().is_empty() && storage.log().iter().all(|asked| asked.authorization.is_none()));
    // Another port of the same host is another registry: it asks in the same way, and gets nothing.
    let other = host.relay("127.0.0.1:5013", &registry.address, |asked: &Asked| match &asked.authorization {
        Some(_) => Deed::Pass,
        None => Deed::Answer(401, vec![("www-authenticate", "Basic realm=\"x\"".into())], b"{}".to_vec()),
    });
    assert!(host.brig(&["pull", &other.name("team/app:v1")]).fails(1).contains("no basic auth credentials"));
    assert!(!other.log().is_empty() && other.log().iter().all(|asked| asked.authorization.is_none()));
    assert!(!host.daemon_log().contains("CANARY"));
    host.brig(&["logout", &front.address]).ok();
    host.brig(&["rmi", &name]).ok();
    assert!(host.brig(&["pull", &name]).fails(1).contains("unauthorized: authentication required"));
}

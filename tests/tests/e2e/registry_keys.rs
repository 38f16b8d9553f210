//! Keys and certificates as `brig registry serve` meets them: made by openssl, of every kind, and clients that show theirs.

use brig_tests::{TestHost, needs};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const OWN: &str = "127.0.0.1:5001";

/// Runs a script in the host's folder.
fn shell(host: &TestHost, script: &str) -> String {
    let script = format!("cd {} && {{ {script}; }} 2>/dev/null", host.root.display());
    host.program("sh", &["-ec", &script]).output().ok()
}

/// A key of each kind that tokens are signed with: how openssl makes it, what it is called in tokens, the digest, the length
/// of the two numbers of its signature.
const KINDS: [(&str, &str, &str, usize); 3] = [
    ("rsa:2048", "RS256", "sha256", 0),
    ("ec -pkeyopt ec_paramgen_curve:prime256v1", "ES256", "sha256", 32),
    ("ec -pkeyopt ec_paramgen_curve:secp384r1", "ES384", "sha384", 48),
];

/// The two numbers of an ECDSA signature in DER (RFC 3279, section 2.2.3) as tokens have them: side by side.
fn side_by_side(der: &[u8], length: usize) -> Vec<u8> {
    let mut rest = &der[2..];
    let mut fixed = Vec::new();
    for _ in 0..2 {
        let (number, after) = rest[2..].split_at(usize::from(rest[1]));
        let digits = &number[number.len().saturating_sub(length)..];
        fixed.extend(std::iter::repeat_n(0, length - digits.len()));
        fixed.extend(digits);
        rest = after;
    }
    fixed
}

/// A token for one repository, signed by `<name>.key`.
fn token(host: &TestHost, name: &str, kind: (&str, &str, &str, usize)) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = format!(
        r#"{{"iss":"issuer","sub":"ann","aud":"registry","exp":{},"nbf":{},"access":[{{"type":"repository","name":"a","actions":["pull","push"]}}]}}"#,
        now + 600,
        now - 600
    );
    let encode = |bytes: &[u8]| {
        std::fs::write(host.root.join("plain"), bytes).unwrap();
        shell(host, "openssl base64 -A -in plain | tr +/ -_ | tr -d =")
    };
    let signed = format!("{}.{}", encode(format!(r#"{{"alg":"{}"}}"#, kind.1).as_bytes()), encode(claims.as_bytes()));
    std::fs::write(host.root.join("signed"), &signed).unwrap();
    shell(host, &format!("openssl dgst -{} -sign {name}.key -out signature signed", kind.2));
    let mut signature = std::fs::read(host.root.join("signature")).unwrap();
    if kind.3 > 0 {
        signature = side_by_side(&signature, kind.3);
    }
    format!("{signed}.{}", encode(&signature))
}

fn status(host: &TestHost, arguments: &str) -> String {
    shell(host, &format!("curl -s -o answer -w '%{{http_code}}' {arguments} || true"))
}

#[test]
fn tokens_signed_by_keys_of_every_kind() {
    needs!("registry_keys::tokens_signed_by_keys_of_every_kind", "openssl");
    needs!("registry_keys::tokens_signed_by_keys_of_every_kind", "curl");
    let host = TestHost::without_daemon(&[]);
    for (nth, kind) in KINDS.iter().enumerate() {
        for name in [nth.to_string(), format!("other{nth}")] {
            let made =
                format!("openssl req -x509 -nodes -days 2 -subj /CN=issuer -newkey {} -keyout {name}.key", kind.0);
            // As certificates and as bare keys.
            shell(&host, &format!("{made} -out {name}.crt; openssl x509 -in {name}.crt -pubkey -noout > {name}.pub"));
        }
    }
    for form in ["crt", "pub"] {
        let files: Vec<String> =
            (0..KINDS.len()).map(|nth| host.root.join(format!("{nth}.{form}")).display().to_string()).collect();
        let mut arguments = vec!["--token-realm", "https://auth.example/token", "--token-service", "registry"];
        arguments.extend(["--token-issuer", "issuer"]);
        files.iter().for_each(|file| arguments.extend(["--token-key", file]));
        let registry = host.brig_registry(OWN, &arguments);
        let begin = |token: &str| {
            let url = format!("http://{OWN}/v2/a/blobs/uploads/");
            status(&host, &format!("-X POST -H 'Authorization: Bearer {token}' {url}"))
        };
        for (nth, kind) in KINDS.iter().enumerate() {
            let good = token(&host, &nth.to_string(), *kind);
            assert_eq!(begin(&good), "202", "{form} {kind:?}: {}", registry.log());
            assert_eq!(begin(&token(&host, &format!("other{nth}"), *kind)), "401", "{form} {kind:?}");
            // The same key, under the name of another algorithm.
            let lying = (kind.0, KINDS[(nth + 1) % KINDS.len()].1, kind.2, kind.3);
            assert_eq!(begin(&token(&host, &nth.to_string(), lying)), "401", "{form} {kind:?}");
        }
        assert_eq!(begin("nonsense"), "401");
        assert_eq!(registry.stop(), Some(0));
    }
}

#[test]
fn clients_show_a_certificate() {
    needs!("registry_keys::clients_show_a_certificate", "openssl");
    needs!("registry_keys::clients_show_a_certificate", "curl");
    let host = TestHost::without_daemon(&[]);
    let key = "-nodes -newkey ec -pkeyopt ec_paramgen_curve:prime256v1";
    std::fs::write(host.root.join("extensions"), "basicConstraints=CA:FALSE\nextendedKeyUsage=clientAuth\n").unwrap();
    for authority in ["ca", "stranger"] {
        shell(
            &host,
            &format!(
                "openssl req -x509 {key} -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.crt"
            ),
        );
        shell(&host, &format!("openssl req {key} -subj /CN=client -keyout of-{authority}.key -out request"));
        let sign = format!(
            "openssl x509 -req -in request -CA {authority}.crt -CAkey {authority}.key -CAcreateserial -days 2 -extfile extensions"
        );
        shell(&host, &format!("{sign} -out of-{authority}.crt"));
    }
    let own = "-addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    shell(&host, &format!("openssl req -x509 {key} -days 2 -subj /CN=registry {own} -keyout own.key -out own.crt"));
    let path = |name: &str| host.root.join(name).display().to_string();
    let files = [path("own.crt"), path("own.key"), path("ca.crt")];
    assert!(files.iter().all(|file| Path::new(file).exists()));
    let tls = ["--tls-cert", &files[0], "--tls-key", &files[1], "--tls-client-ca", &files[2]];
    let _registry = host.brig_registry(OWN, &tls);
    let url = format!("--cacert own.crt https://{OWN}/v2/");
    assert_eq!(status(&host, &format!("--cert of-ca.crt --key of-ca.key {url}")), "200");
    assert_eq!(status(&host, &format!("--cert of-stranger.crt --key of-stranger.key {url}")), "000");
    assert_eq!(status(&host, &url), "000");
    assert_eq!(status(&host, &format!("http://{OWN}/v2/")), "000");
}

//! Hostile images: archives whose parts do not fit together (A30–A33), manifests, indexes and configurations (M01–M20).
//! Owns the table; each case says what must become of it.

use super::Dress;
use super::ship::{Shipment, descriptor};
use super::tar::{Entry, Tar};
use crate::image::digest;
use serde_json::{Value, json};

/// An archive to be loaded.
#[derive(Clone)]
pub struct Archive {
    /// What it tries.
    pub name: &'static str,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Whether it is an image after all.
    pub accepted: bool,
}

/// What a registry serves under a tag.
pub struct Served {
    /// What it tries.
    pub name: String,
    /// The media type in the answer's head.
    pub kind: String,
    /// The manifest, or whatever it is.
    pub manifest: Vec<u8>,
    /// Blobs under their own digests.
    pub blobs: Vec<Vec<u8>>,
    /// Whether it is an image after all.
    pub accepted: bool,
    /// What becomes of creating a container of it: the status, and words of the answer.
    pub create: Option<(u16, &'static str)>,
}

/// The media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

fn good() -> Shipment {
    Shipment::of(&Tar::new().file("etc/hello", b"hello").finish(), Dress::Plain)
}

/// Archives as `docker save` writes them, nearly; `host` is what must not be reached.
pub fn docker_archives(host: &str) -> Vec<Archive> {
    let parts = good();
    let (config, layer) = (&parts.config, &parts.layer);
    let canary = format!("{host}/canary");
    let list = |layers: &[&str]| json!([{"Config": "config.json", "RepoTags": ["a:b"], "Layers": layers}]).to_string();
    let base = || Tar::new().file("config.json", config);
    let with = |name: &'static str, tar: Tar, manifest: String, accepted: bool| Archive {
        name,
        bytes: tar.file("manifest.json", manifest.as_bytes()).finish(),
        accepted,
    };
    let whole = || base().file("layer.tar", layer);
    let tagged = |tag: &str| json!([{"Config": "config.json", "RepoTags": [tag], "Layers": ["layer.tar"]}]).to_string();
    vec![
        with("A32 as it should be", whole(), list(&["layer.tar"]), true),
        with("A32 layer up and out", whole(), list(&["../../../../../../../../etc/passwd"]), false),
        with("A32 layer absolute", whole(), list(&["/etc/passwd"]), false),
        with("A32 layer is a link to the host", base().symlink("layer.tar", &canary), list(&["layer.tar"]), false),
        with("A32 layer is a hard link to the host", base().link("layer.tar", &canary), list(&["layer.tar"]), false),
        with("A32 layer through a link", base().symlink("l", host), list(&["l/canary"]), false),
        with(
            "A32 layer is a link to a member",
            whole().symlink("x/layer.tar", "../layer.tar"),
            list(&["x/layer.tar"]),
            true,
        ),
        with(
            "A32 links in a circle",
            base().symlink("layer.tar", "b").symlink("b", "layer.tar"),
            list(&["layer.tar"]),
            false,
        ),
        with("A32 layer is a device", base().device("layer.tar", b'3', (1, 5)), list(&["layer.tar"]), false),
        with("A32 layer is missing", base(), list(&["layer.tar"]), false),
        with("A32 layer listed twice", whole(), list(&["layer.tar", "layer.tar"]), false),
        with("A32 no layers", whole(), list(&[]), false),
        with("A32 config is missing", Tar::new().file("layer.tar", layer), list(&["layer.tar"]), false),
        with(
            "A32 config is a link",
            Tar::new().symlink("config.json", &canary).file("layer.tar", layer),
            list(&["layer.tar"]),
            false,
        ),
        with(
            "A32 another layer",
            base().file("layer.tar", &Tar::new().file("x", b"").finish()),
            list(&["layer.tar"]),
            false,
        ),
        with("A32 tag leads out", whole(), tagged("../../x:y"), false),
        with("A32 tag with a control character", whole(), tagged("a\u{1b}[31m:b"), false),
        with("A32 tag of 300", whole(), tagged(&format!("a:{}", "b".repeat(300))), false),
        with("A32 manifest is no list", whole(), "{}".to_owned(), false),
        with("A32 manifest is cut", whole(), "[{\"Config\":".to_owned(), false),
        with("A32 manifest is deep", whole(), "[".repeat(100_000), false),
        Archive {
            name: "A32 config is not what its name says",
            bytes: Tar::new()
                .file(&format!("{}.json", "0".repeat(64)), config)
                .file("layer.tar", layer)
                .file("manifest.json", list(&["layer.tar"]).replace("config", &"0".repeat(64)).as_bytes())
                .finish(),
            accepted: false,
        },
        with(
            "A32 the last of two is meant",
            Tar::new().file("config.json", b"{}").file("config.json", config).file("layer.tar", layer),
            list(&["layer.tar"]),
            true,
        ),
        Archive { name: "A32 only repositories", bytes: whole().file("repositories", b"{}").finish(), accepted: false },
        Archive {
            name: "A32 manifest is a link",
            bytes: whole().symlink("manifest.json", &canary).finish(),
            accepted: false,
        },
        Archive { name: "A32 manifest of 5 GiB", bytes: huge("manifest.json"), accepted: false },
        Archive { name: "A32 nothing", bytes: Tar::new().finish(), accepted: false },
        Archive { name: "A32 no archive", bytes: b"not a tar".repeat(200), accepted: false },
    ]
}

/// A member that says it has 5 GiB, and has not.
fn huge(name: &str) -> Vec<u8> {
    super::tar::header(&Entry { name: name.as_bytes(), ..Entry::default() }, 5 << 30).to_vec()
}

/// OCI layouts as archives, nearly.
pub fn layouts(host: &str) -> Vec<Archive> {
    let parts = good();
    let canary = format!("{host}/canary");
    let version = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let index = |reference: Option<&str>| {
        let mut one = descriptor(MANIFEST, &parts.manifest);
        if let Some(name) = reference {
            one["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        }
        json!({"schemaVersion": 2, "manifests": [one]}).to_string()
    };
    let path = |blob: &[u8]| format!("blobs/sha256/{}", &digest(blob)[7..]);
    let blobs = |tar: Tar| {
        [&parts.config, &parts.layer, &parts.manifest].iter().fold(tar, |tar, blob| tar.file(&path(blob), blob))
    };
    let whole = |reference: Option<&str>| {
        blobs(Tar::new().file("oci-layout", version)).file("index.json", index(reference).as_bytes()).finish()
    };
    let archive = |name, tar: Tar, accepted| Archive {
        name,
        bytes: tar.file("index.json", index(None).as_bytes()).finish(),
        accepted,
    };
    let wrong = |tar: Tar| tar.file(&path(&parts.config), &parts.config).file(&path(&parts.manifest), &parts.manifest);
    let begun = || Tar::new().file("oci-layout", version);
    vec![
        Archive { name: "A33 the same again and again", bytes: amplified(&parts), accepted: true },
        Archive { name: "A33 no name", bytes: whole(None), accepted: true },
        Archive { name: "A33 a name", bytes: whole(Some("corpus:x")), accepted: true },
        Archive {
            name: "A33 deep index",
            bytes: begun().file("index.json", &b"[".repeat(100_000)).finish(),
            accepted: false,
        },
        Archive {
            name: "A33 index of 5 GiB",
            bytes: [begun().open_end(), huge("index.json")].concat(),
            accepted: false,
        },
        archive("A33 wrong version", blobs(Tar::new().file("oci-layout", br#"{"imageLayoutVersion":"9.0.0"}"#)), false),
        archive("A33 no version", blobs(Tar::new()), false),
        Archive { name: "A33 a name that leads out", bytes: whole(Some("../../x:y")), accepted: false },
        Archive { name: "A33 a name with a space", bytes: whole(Some("a b:c")), accepted: false },
        Archive { name: "A33 a name of 300", bytes: whole(Some(&format!("a:{}", "b".repeat(300)))), accepted: false },
        archive("A33 layer is missing", wrong(begun()), false),
        archive("A33 layer is a link to the host", wrong(begun()).symlink(&path(&parts.layer), &canary), false),
        archive("A33 layer has other bytes", wrong(begun()).file(&path(&parts.layer), b"other bytes"), false),
        archive("A33 manifest is missing", begun(), false),
    ]
}

/// A layout whose index lists one index many times, that one another one, and so on: millions of ways to one image.
fn amplified(parts: &Shipment) -> Vec<u8> {
    let version = br#"{"imageLayoutVersion":"1.0.0"}"#;
    let named = |tar: Tar, blob: &[u8]| tar.file(&format!("blobs/sha256/{}", &digest(blob)[7..]), blob);
    let mut tar = Tar::new().file("oci-layout", version);
    for blob in [&parts.config, &parts.layer, &parts.manifest] {
        tar = named(tar, blob);
    }
    let mut below = descriptor(MANIFEST, &parts.manifest);
    for _ in 0..4 {
        let many = vec![below.clone(); 150];
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": many}).to_string().into_bytes();
        below = descriptor(INDEX, &index);
        tar = named(tar, &index);
    }
    tar.file("index.json", json!({"schemaVersion": 2, "manifests": [below]}).to_string().as_bytes()).finish()
}

/// What a registry may serve under a tag.
pub fn served() -> Vec<Served> {
    [manifests(), indexes(), configurations()].into_iter().flatten().collect()
}

fn served_manifest(name: &str, manifest: impl Into<Vec<u8>>, accepted: bool) -> Served {
    let parts = good();
    let (kind, manifest) = (MANIFEST.to_owned(), manifest.into());
    Served { name: name.to_owned(), kind, manifest, blobs: vec![parts.config, parts.layer], accepted, create: None }
}

fn manifests() -> Vec<Served> {
    let parts = good();
    let text = String::from_utf8_lossy(&parts.manifest).into_owned();
    let value: Value = serde_json::from_slice(&parts.manifest).expect("our own manifest");
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut value = value.clone();
        change(&mut value);
        value.to_string()
    };
    let size = value["layers"][0]["size"].as_u64().expect("a size");
    let case = |name: &str, change: &dyn Fn(&mut Value)| served_manifest(name, changed(change), false);
    let nested = "[".repeat(100_000) + &"]".repeat(100_000);
    let mut cases = vec![
        served_manifest("as it should be", parts.manifest.clone(), true),
        case("M01 manifests and layers", &|value| value["manifests"] = json!([])),
        case("M02 body says index", &|value| value["mediaType"] = json!(INDEX)),
        case("M02 body says Docker's", &|value| {
            value["mediaType"] = json!("application/vnd.docker.distribution.manifest.list.v2+json");
        }),
        case("M03 schema 1", &|value| value["schemaVersion"] = json!(1)),
        case("M03 schema in words", &|value| value["schemaVersion"] = json!("2")),
        case("M03 schema 3", &|value| value["schemaVersion"] = json!(3)),
        served_manifest(
            "M03 signed",
            r#"{"schemaVersion":1,"name":"x","tag":"y","fsLayers":[],"history":[],"signatures":[]}"#,
            false,
        ),
        served_manifest("M04 layers twice", text.replacen('{', "{\"layers\":[],", 1), false),
        served_manifest("M04 trailing data", format!("{text} x"), false),
        served_manifest("M04 byte order mark", format!("\u{feff}{text}"), false),
        served_manifest("M04 NaN", text.replacen("\"schemaVersion\":2", "\"schemaVersion\":NaN", 1), false),
        served_manifest("M04 deep", text.replacen('{', &format!("{{\"x\":{nested},"), 1), false),
        served_manifest("M04 5 MiB", text.replacen('{', &format!("{{\"x\":\"{}\",", "y".repeat(5 << 20)), 1), false),
        served_manifest("M04 HTML", "<html><body>hello</body></html>", false),
        served_manifest("M04 empty", "", false),
        case("M05 negative size", &|value| value["layers"][0]["size"] = json!(-1)),
        case("M05 size 0", &|value| value["layers"][0]["size"] = json!(0)),
        case("M05 one too small", &|value| value["layers"][0]["size"] = json!(size - 1)),
        case("M05 one too large", &|value| value["layers"][0]["size"] = json!(size + 1)),
        case("M05 config too large", &|value| value["config"]["size"] = json!(1_u64 << 62)),
        served_manifest(
            "M05 size 2^63",
            text.replacen(&format!("\"size\":{size}"), "\"size\":9223372036854775808", 1),
            false,
        ),
        served_manifest(
            "M05 size 2^64",
            text.replacen(&format!("\"size\":{size}"), "\"size\":18446744073709551616", 1),
            false,
        ),
        case("M09 a layer too few", &|value| value["layers"] = json!([])),
        case("M09 a layer twice", &|value| value["layers"] = json!([value["layers"][0], value["layers"][0]])),
        case("A28 gzip that is none", &|value| {
            value["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd")
        }),
    ];
    for bad in [
        "sha256:../../../../etc/passwd",
        "sha256:ABC",
        "sha256:",
        "",
        "md5:d41d8cd98f00b204e9800998ecf8427e",
        "blake3:00",
        "sha256:e3b0",
    ] {
        cases.push(served_manifest(
            &format!("M06 {bad:?}"),
            changed(&|value| value["layers"][0]["digest"] = json!(bad)),
            false,
        ));
    }
    cases
}

fn indexes() -> Vec<Served> {
    let parts = good();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let one = |architecture: &str, os: &str| {
        let mut one = descriptor(MANIFEST, &parts.manifest);
        one["platform"] = json!({"architecture": architecture, "os": os});
        one
    };
    let index =
        |manifests: Vec<Value>| json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}).to_string();
    let case = |name: &str, manifest: String, accepted| {
        let blobs = vec![parts.config.clone(), parts.layer.clone(), parts.manifest.clone()];
        Served {
            name: name.to_owned(),
            kind: INDEX.to_owned(),
            manifest: manifest.into_bytes(),
            blobs,
            accepted,
            create: None,
        }
    };
    let inner = index(vec![one(architecture, "linux")]);
    let mut nested = case("M08 nested 100 deep", inner.clone(), false);
    for _ in 0..100 {
        let below = nested.manifest.clone();
        let mut one = descriptor(INDEX, &below);
        one["platform"] = json!({"architecture": architecture, "os": "linux"});
        nested.blobs.push(below);
        nested.manifest = index(vec![one]).into_bytes();
    }
    let many: Vec<Value> =
        (0..100_000).map(|_| json!({"mediaType": MANIFEST, "size": 2, "digest": digest(b"{}")})).collect();
    vec![
        case("M08 as it should be", inner, true),
        nested,
        case("M08 100000 entries", index(many), false),
        case("M08 other platforms", index(vec![one("s390x", "linux"), one(architecture, "windows")]), false),
        case("M08 attestations", index(vec![one("unknown", "unknown")]), false),
        case("M08 first of two", index(vec![one(architecture, "linux"), one(architecture, "linux")]), true),
        case("M08 empty", index(Vec::new()), false),
        case("M08 itself", index(vec![json!({"mediaType": INDEX, "size": 1, "digest": digest(b"x")})]), false),
    ]
}

/// Configurations: refused, or taken as data that harms nobody.
fn configurations() -> Vec<Served> {
    let parts = good();
    let value: Value = serde_json::from_slice(&parts.config).expect("our own configuration");
    let case = |name: &str, accepted: bool, change: &dyn Fn(&mut Value)| {
        let mut value = value.clone();
        change(&mut value);
        with_config(name, value.to_string().into_bytes(), accepted)
    };
    const OK: (u16, &str) = (201, "");
    let settings = |name: &str, key: &'static str, setting: Value, create| Served {
        create: Some(create),
        ..case(name, true, &|value| value["config"][key] = setting.clone())
    };
    let many = |count: usize| (0..count).map(|at| format!("K{at}=v")).collect::<Vec<_>>();
    let other = digest(b"another layer");
    vec![
        case("M09 diff ids too many", false, &|value| {
            value["rootfs"]["diff_ids"] = json!([parts.diff_id, parts.diff_id])
        }),
        case("M09 no diff ids", false, &|value| value["rootfs"]["diff_ids"] = json!([])),
        case("A30 other diff id", false, &|value| value["rootfs"]["diff_ids"] = json!([other])),
        case("M09 type", false, &|value| value["rootfs"]["type"] = json!("tarball")),
        case("M09 no rootfs", false, &|value| value["rootfs"] = Value::Null),
        case("M09 null everywhere", true, &|value| value["config"] = Value::Null),
        case("M09 far future", true, &|value| value["created"] = json!("9999-12-31T23:59:59Z")),
        with_config("M09 cut", parts.config[..parts.config.len() / 2].to_vec(), false),
        with_config("M09 deep", "[".repeat(100_000).into_bytes(), false),
        case("M09 long ago", true, &|value| value["created"] = json!("0000-01-01T00:00:00Z")),
        case("M09 no date", true, &|value| value["created"] = json!("yesterday")),
        case("M09 more history than layers", true, &|value| value["history"] = json!([{}, {}, {"empty_layer": false}])),
        settings("M10 odd variables", "Env", json!(["A", "LD_PRELOAD=/x", "P=*", "N=a\nb"]), OK),
        settings("M10 a nameless variable", "Env", json!(["=x"]), (400, "")),
        settings("M10 a NUL", "Env", json!(["A=b\0c"]), (400, "")),
        settings("M10 10000 variables", "Env", json!(many(10_000)), OK),
        settings("M11 no command", "Cmd", Value::Null, (400, "no command specified")),
        settings("M11 an empty command", "Cmd", json!([]), (400, "no command specified")),
        settings("M11 an empty word", "Cmd", json!([""]), (400, "")),
        settings("M11 a NUL", "Cmd", json!(["x", "a\0b"]), (400, "NUL")),
        settings("M11 100000 words", "Cmd", json!(vec!["x"; 100_000]), OK),
        case("M11 in one string", true, &|value| value["config"]["Cmd"] = json!("x y")),
        settings("M12 up and out", "WorkingDir", json!("../../../../proc/self/fd/7"), (400, "absolute path")),
        settings("M12 a NUL", "WorkingDir", json!("/a\0b"), (400, "NUL")),
        settings("M12 5000 bytes", "WorkingDir", json!("/d".repeat(2500)), (400, "")),
        settings("M13 a name", "User", json!("no such user"), OK),
        settings("M13 a NUL", "User", json!("a\0b"), (400, "NUL")),
        settings("M13 4294967295", "User", json!("4294967295"), OK),
        settings("M13 negative", "User", json!("-1"), OK),
        settings("M14 the root", "Volumes", json!({"/": {}}), (400, "")),
        settings("M14 proc", "Volumes", json!({"/proc": {}}), OK),
        settings("M14 relative", "Volumes", json!({"..": {}}), (400, "")),
        settings("M14 up and out", "Volumes", json!({"/a/../../etc": {}}), OK),
        settings("M15 beyond", "ExposedPorts", json!({"99999/tcp": {}}), (400, "")),
        settings("M15 negative", "ExposedPorts", json!({"-1": {}}), (400, "")),
        settings("M15 a protocol", "ExposedPorts", json!({"80/xyz": {}}), (400, "")),
        settings("M15 all", "ExposedPorts", json!({"1-65535/tcp": {}}), (400, "port")),
        settings("M16 no signal", "StopSignal", json!("SIGFOO"), (400, "")),
        settings("M16 999", "StopSignal", json!("999"), (400, "")),
        settings("M16 none", "StopSignal", json!(""), OK),
        settings("M17 one nanosecond", "Healthcheck", json!({"Test": ["CMD", "x"], "Interval": 1}), OK),
        settings("M17 negative", "Healthcheck", json!({"Test": ["CMD", "x"], "Retries": -1}), OK),
        settings("M17 2^63", "Healthcheck", json!({"Test": ["CMD", "x"], "Timeout": i64::MAX}), OK),
        settings("M17 nothing to do", "Healthcheck", json!({"Test": []}), OK),
        settings("M18 labels", "Labels", json!({"brig.internal": "x", "esc": "\u{1b}[31m"}), OK),
        settings("M18 1 MiB of label", "Labels", json!({"x": "y".repeat(1 << 20)}), OK),
        case("M18 a label that is a number", false, &|value| value["config"]["Labels"] = json!({"x": 1})),
        settings("M19 on build", "OnBuild", json!(["FROM x", "ONBUILD RUN y", "COPY --from=z / /"]), OK),
        settings("M20 a shell", "Shell", json!([]), OK),
    ]
}

fn with_config(name: &str, config: Vec<u8>, accepted: bool) -> Served {
    let parts = good();
    let mut manifest: Value = serde_json::from_slice(&parts.manifest).expect("our own manifest");
    manifest["config"] = descriptor(CONFIG, &config);
    let (kind, manifest) = (MANIFEST.to_owned(), manifest.to_string().into_bytes());
    Served { name: name.to_owned(), kind, manifest, blobs: vec![config, parts.layer], accepted, create: None }
}

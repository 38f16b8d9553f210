//! A daemon and a registry with a bad wire, or a bad temper, between them: Debian's registry and brig's own. Each fault ends
//! in an error that says what it was, with nothing left behind, or is overcome; afterwards the same pull succeeds.

use brig_tests::image::{digest, noise};
use brig_tests::relay::{Asked, Deed};
use brig_tests::{Image, Layer, Registry, TestHost};
use std::time::{Duration, Instant};

fn image() -> Image {
    let layer = Layer::new().file("noise", 0o644, noise(300_000)).bytes();
    Image::new(vec![layer], serde_json::json!({"Cmd": ["/noise"]}))
}

/// What has become of a pull.
enum Wanted {
    /// It succeeds in spite of it.
    Overcome,
    /// It fails, and says this.
    Fails(&'static [&'static str]),
}

type Fault = Box<dyn Fn(&Asked) -> Deed + Send>;

fn answer(status: u16, headers: Vec<(&'static str, String)>, code: &str) -> Deed {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"said so \u001b[31m"}}]}}"#);
    Deed::Answer(status, headers, body.into_bytes())
}

/// Faults of the layer, and of everything.
fn faults(layer: &str) -> Vec<(&'static str, Fault, Wanted)> {
    use Wanted::{Fails, Overcome};
    let layer = format!("/blobs/{layer}");
    let on = move |deed: fn(usize) -> Deed| -> Fault {
        let layer = layer.clone();
        Box::new(move |asked| if asked.path.contains(&layer) { deed(asked.nth) } else { Deed::Pass })
    };
    let all = |deed: fn(usize) -> Deed| -> Fault {
        Box::new(move |asked| if asked.path == "/v2/" { Deed::Pass } else { deed(asked.nth) })
    };
    let manifests =
        |deed: fn(usize) -> Deed| -> Fault {
            Box::new(move |asked| {
                if asked.path.contains("/manifests/") && asked.method == "GET" { deed(asked.nth) } else { Deed::Pass }
            })
        };
    vec![
        ("cut at 1 %", on(|nth| if nth == 0 { Deed::Cut(1) } else { Deed::Pass }), Overcome),
        ("cut at 50 %", on(|nth| if nth == 0 { Deed::Cut(50) } else { Deed::Pass }), Overcome),
        ("cut at 99 %", on(|nth| if nth == 0 { Deed::Cut(99) } else { Deed::Pass }), Overcome),
        ("slow", on(|_| Deed::Slow(Duration::from_millis(50))), Overcome),
        ("busy twice", on(|nth| if nth < 2 { answer(503, vec![], "UNAVAILABLE") } else { Deed::Pass }), Overcome),
        (
            "limited for a second",
            on(|nth| match nth {
                0 => answer(429, vec![("retry-after", "1".into())], "TOOMANYREQUESTS"),
                _ => Deed::Pass,
            }),
            Overcome,
        ),
        ("another byte", on(|_| Deed::Wrong), Fails(&["digest mismatch"])),
        ("longer", on(|_| Deed::Longer(100)), Fails(&["wrong size"])),
        ("a gigabyte for a layer", on(|_| Deed::Blank(1 << 30)), Fails(&["wrong size"])),
        (
            "redirected for ever",
            on(|nth| Deed::Answer(307, vec![("location", format!("?again={nth}"))], vec![])),
            Fails(&["redirect"]),
        ),
        (
            "redirected to a file",
            on(|_| Deed::Answer(307, vec![("location", "file:///etc/passwd".into())], vec![])),
            Fails(&["scheme"]),
        ),
        (
            "redirected to the cloud's metadata",
            on(|_| Deed::Answer(307, vec![("location", "http://169.254.169.254/x".into())], vec![])),
            Fails(&["leads into a network"]),
        ),
        ("layer gone", on(|_| answer(404, vec![], "BLOB_UNKNOWN")), Fails(&["not found"])),
        (
            "401",
            all(|_| answer(401, vec![("www-authenticate", "Basic realm=\"x\"".into())], "UNAUTHORIZED")),
            Fails(&["no basic auth credentials"]),
        ),
        ("403", all(|_| answer(403, vec![], "DENIED")), Fails(&["pull access denied", "said so"])),
        ("404", all(|_| answer(404, vec![], "MANIFEST_UNKNOWN")), Fails(&["not found"])),
        ("418", all(|_| answer(418, vec![], "TEAPOT")), Fails(&["418"])),
        (
            "limited for long",
            all(|_| answer(429, vec![("retry-after", "100000".into())], "TOOMANYREQUESTS")),
            Fails(&["toomanyrequests", "100000 seconds"]),
        ),
        ("a manifest of a gigabyte", manifests(|_| Deed::Blank(1 << 30)), Fails(&["larger than 4194304 bytes"])),
        ("another manifest", manifests(|_| Deed::Wrong), Fails(&[""])),
        (
            "an error of a gigabyte",
            manifests(|_| Deed::Answer(404, vec![], vec![b'x'; 64 << 20])),
            Fails(&["not found"]),
        ),
    ]
}

fn through(host: &TestHost, registry: &Registry, at: &str) {
    let image = image();
    registry.push(&image, "team/app", "v1");
    let (_, blobs) = image.distributable();
    let layer = digest(blobs.iter().max_by_key(|blob| blob.len()).unwrap());
    let relay = host.relay(at, &registry.address, |_| Deed::Pass);
    let name = relay.name("team/app:v1");
    let folder = |name: &str| std::fs::read_dir(host.data_root.join("v1").join(name)).map_or(0, Iterator::count);
    let mut wrong = Vec::new();
    for (fault, deed, wanted) in faults(&layer) {
        relay.now(deed);
        let begun = Instant::now();
        let pulled = host.brig(&["pull", &name]);
        let text = format!("{}{}", pulled.stdout, pulled.stderr);
        let as_wanted = match wanted {
            Wanted::Overcome => pulled.code == 0 && host.field(&name, "{{.Id}}") == image.id(),
            Wanted::Fails(words) => {
                pulled.code == 1
                    && words.iter().all(|word| text.contains(word))
                    && !text.contains('\u{1b}')
                    && folder("ingest") + folder("layers") == 0
            }
        };
        if !as_wanted || begun.elapsed() > Duration::from_secs(40) {
            wrong.push(format!("{fault} (after {:?}): {pulled}", begun.elapsed()));
        }
        // What arrived of it does not stand in the way of a good wire.
        relay.now(|_| Deed::Pass);
        host.brig(&["pull", "-q", &name]).ok();
        host.brig(&["rmi", "-f", &name]).ok();
        brig_tests::eventually("the layer is gone", || (folder("layers") == 0).then_some(()));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n---\n"));
}

#[test]
fn before_debians_registry() {
    let host = TestHost::new();
    let registry = host.registry();
    through(&host, &registry, "127.0.0.1:5010");
}

#[test]
fn before_brigs_own_registry() {
    let host = TestHost::new();
    let registry = host.brig_registry("127.0.0.1:5001", &[]);
    through(&host, &registry, "127.0.0.1:5010");
}

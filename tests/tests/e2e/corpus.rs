//! The corpus of hostile archives through every entrance of a running daemon. After each one a canary on the host is
//! untouched, nothing is left of what was refused, and the daemon goes on.
//!
//! Each archive goes through each entrance in one dress, another one at each entrance; with `BRIG_CORPUS=all` in all.

use brig_tests::corpus::ship::Shipment;
use brig_tests::corpus::{self, Canary, Case, Dress, Outcome, images};
use brig_tests::image::digest;
use brig_tests::{Registry, TestHost, eventually, http};
use std::path::Path;

/// A way for an archive to get in: it comes with the archive as an image's layer and gives the daemon's answer.
type Entrance<'a> = &'a dyn Fn(&TestHost, &Case, Dress, &Shipment) -> http::Answer;

const NAME: &str = "corpus:case";

/// Sends every case through an entrance, in the dress that follows from its number and `turn`.
fn through(turn: usize, host: &TestHost, entrance: Entrance<'_>) {
    let canary = Canary::beneath(&host.root);
    let everything = std::env::var_os("BRIG_CORPUS").is_some();
    let mut wrong = Vec::new();
    for (number, case) in corpus::all(canary.host()).iter().enumerate() {
        let one = [Dress::ALL[(number + turn) % Dress::ALL.len()]];
        for &dress in if everything { &Dress::ALL[..] } else { &one } {
            let name = format!("{} ({dress:?})", case.name);
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                let shipment = Shipment::new(case, dress);
                let answer = entrance(host, case, dress, &shipment);
                judge(host, case, &name, &shipment, &answer);
                canary.check(&name);
            }));
            if checked.is_err() {
                wrong.push(name);
            }
        }
    }
    for stream in corpus::streams() {
        let name = format!("{} ({:?})", stream.name, stream.dress);
        let shipment = Shipment::packed(&stream.tar, stream.dress, stream.bytes);
        let case = Case { name: name.clone(), tar: Vec::new(), outcome: stream.outcome, oracle: corpus::Oracle::None };
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let answer = entrance(host, &case, stream.dress, &shipment);
            judge(host, &case, &name, &shipment, &answer);
        }));
        if checked.is_err() {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What was taken back is not there any more either.
    let folder = |name: &str| std::fs::read_dir(host.data_root.join("v1").join(name)).map_or(0, Iterator::count);
    host.brig(&["image", "prune", "-af"]).ok();
    eventually("nothing is left", || (folder("ingest") + folder("layers") + folder("trash") == 0).then_some(()));
}

fn judge(host: &TestHost, case: &Case, name: &str, shipment: &Shipment, answer: &http::Answer) {
    let text = answer.text();
    let failed = answer.status >= 400 || text.contains("\"error\"");
    let layer = host.data_root.join("v1/layers").join(&shipment.diff_id["sha256:".len()..]);
    match &case.outcome {
        Outcome::Layer(expected) => {
            assert!(!failed, "{name}: {text}");
            corpus::check_layer(name, expected, &corpus::listing(&layer.join("diff")));
            remove(host, name);
        }
        Outcome::Refused(words) => {
            assert!(failed, "{name} was taken: {text}");
            assert!(text.contains(words), "{name}: {words:?} is not in {text}");
            assert!(!layer.exists(), "{name}: a layer was made");
            let listed = http::unix(&host.socket(), "GET", "/images/json", &[]).expect("the daemon answers");
            assert_eq!(listed.json(), serde_json::json!([]), "{name}: an image was made");
            let ingest = host.data_root.join("v1/ingest");
            eventually("what was begun is gone", || {
                std::fs::read_dir(&ingest).is_ok_and(|mut left| left.next().is_none()).then_some(())
            });
        }
    }
}

/// Every image, so that the next case finds none.
fn remove(host: &TestHost, name: &str) {
    let listed = http::unix(&host.socket(), "GET", "/images/json", &[]).expect("the daemon answers").json();
    for image in listed.as_array().expect("a list") {
        let path = format!("/images/{}?force=1", image["Id"].as_str().expect("an id"));
        let removed = http::unix(&host.socket(), "DELETE", &path, &[]).expect("the daemon answers");
        assert_eq!(removed.status, 200, "{name}: {}", removed.text());
    }
}

fn post(socket: &Path, path: &str, body: &[u8]) -> http::Answer {
    http::unix(socket, "POST", path, body).expect("the daemon answers")
}

#[test]
fn loaded_as_docker_saves() {
    let host = TestHost::new();
    through(0, &host, &|host, _, _, shipment| post(&host.socket(), "/images/load", &shipment.docker_archive(NAME)));
}

#[test]
fn loaded_as_an_oci_layout() {
    let host = TestHost::new();
    through(1, &host, &|host, _, _, shipment| post(&host.socket(), "/images/load", &shipment.oci_archive(NAME)));
}

#[test]
fn imported() {
    let host = TestHost::new();
    through(2, &host, &|host, _, _, shipment| {
        post(&host.socket(), "/images/create?fromSrc=-&repo=corpus&tag=case", &shipment.layer)
    });
}

#[test]
fn pulled() {
    let host = TestHost::new();
    let registry = host.registry();
    through(0, &host, &|host, _, _, shipment| pull(host, &registry, shipment));
}

fn pull(host: &TestHost, registry: &Registry, shipment: &Shipment) -> http::Answer {
    let blobs = [shipment.layer.clone(), shipment.config.clone()];
    registry.push_parts(&blobs, &shipment.manifest, "corpus", "case");
    post(&host.socket(), &format!("/images/create?fromImage={}&tag=case", registry.name("corpus")), &[])
}

#[test]
fn uploaded_to_brigs_registry_and_pulled() {
    let host = TestHost::new();
    let registry = host.brig_registry("127.0.0.1:5001", &[]);
    through(1, &host, &|host, _, _, shipment| pull(host, &registry, shipment));
}

#[test]
fn uploaded_to_the_engines_registry() {
    let host = TestHost::with(&["--serve-registry", "127.0.0.1:5001"]);
    let registry = host.daemons_registry("127.0.0.1:5001");
    through(2, &host, &|_, _, _, shipment| upload(&registry, shipment));
}

/// What is no image is kept as it came, with a warning that tells why: that is the refusal.
fn upload(registry: &Registry, shipment: &Shipment) -> http::Answer {
    let blobs = [shipment.layer.clone(), shipment.config.clone()];
    let mut answer = registry.try_push(&blobs, &shipment.manifest, "corpus", "case");
    if let Some(warning) = answer.header("warning").map(str::to_owned) {
        let kept = registry.ask("GET", "/v2/corpus/manifests/case", &[]);
        assert!(kept.body == shipment.manifest, "{}", kept.text());
        (answer.status, answer.body) = (400, warning.into_bytes());
    }
    answer
}

/// What becomes of creating a container of an image. It is removed again.
fn created(host: &TestHost, image: &str) -> (u16, String) {
    let body = serde_json::json!({"Image": image}).to_string();
    let answer = post(&host.socket(), "/containers/create", body.as_bytes());
    if let Some(id) = answer.json()["Id"].as_str() {
        let path = format!("/containers/{id}?v=1");
        let removed = http::unix(&host.socket(), "DELETE", &path, &[]).expect("the daemon answers");
        assert_eq!(removed.status, 204, "{}", removed.text());
    }
    (answer.status, answer.text())
}

/// Whether an image came of it; what came is inspected, made a container of if that is to be tried, and removed.
fn came(host: &TestHost, name: &str, answer: &http::Answer, accepted: bool, create: Option<(u16, &str)>) {
    let text = answer.text();
    let failed = answer.status >= 400 || text.contains("\"error\"");
    let short: String = text.chars().take(600).collect();
    let listed = http::unix(&host.socket(), "GET", "/images/json", &[]).expect("the daemon answers").json();
    let ids: Vec<&str> = listed.as_array().into_iter().flatten().filter_map(|image| image["Id"].as_str()).collect();
    let inspect = |id: &&str| http::unix(&host.socket(), "GET", &format!("/images/{id}/json"), &[]);
    let inspected: Vec<_> = ids.iter().map(inspect).collect();
    let created = create.zip(ids.first()).map(|(wanted, id)| (wanted, created(host, id)));
    remove(host, name);
    assert_eq!((!failed, ids.len()), (accepted, usize::from(accepted)), "{name}: {listed} {short}");
    if let Some(((status, words), (found, text))) = created {
        assert!(found == status && text.contains(words), "{name}: creating a container: {found} {text}");
    }
    for answer in inspected {
        let answer = answer.expect("the daemon answers");
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
}

/// Runs all, then tells which were wrong.
fn each<T>(cases: &[T], name: impl Fn(&T) -> &str, check: impl Fn(&T)) {
    let wrong: Vec<&str> = cases
        .iter()
        .filter(|case| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(case))).is_err())
        .map(name)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn archives_whose_parts_do_not_fit() {
    let host = TestHost::new();
    let canary = Canary::beneath(&host.root);
    let cases = [images::docker_archives(canary.host()), images::layouts(canary.host())].concat();
    each(
        &cases,
        |case| case.name,
        |case| {
            came(&host, case.name, &post(&host.socket(), "/images/load", &case.bytes), case.accepted, None);
            canary.check(case.name);
        },
    );
}

#[test]
fn manifests_that_a_registry_serves() {
    let host = TestHost::new();
    let stub = host.stub("127.0.0.1:5002");
    each(
        &images::served(),
        |case| &case.name,
        |case| {
            stub.clear();
            stub.manifest("corpus", "case", &case.kind, &case.manifest);
            for blob in &case.blobs {
                stub.blob("corpus", blob);
                // Manifests that an index leads to are asked for by digest.
                let kind = if blob.windows(11).any(|part| part == b"\"manifests\"") {
                    images::INDEX
                } else {
                    images::MANIFEST
                };
                stub.manifest("corpus", &digest(blob), kind, blob);
            }
            let path = format!("/images/create?fromImage={}/corpus&tag=case", stub.address);
            came(&host, &case.name, &post(&host.socket(), &path, &[]), case.accepted, case.create);
        },
    );
    stub.close(&host);
}

/// What is only known when the container starts (M13, M14): it does not start, and says why.
#[test]
fn what_no_container_starts_with() {
    let host = TestHost::new();
    host.load_busybox();
    let mut wrong = Vec::new();
    for arguments in [
        &["--user", "-1"][..],
        &["--user", "4294967295"],
        &["--user", "0:4294967295"],
        &["--user", "4294967296"],
        &["--user", "no such user"],
        &["-v", "/proc"],
        &["-v", "/sys"],
        &["-v", "/proc/self"],
    ] {
        let all = [&["run", "--rm"], arguments, &["busybox", "true"]].concat();
        let refused = host.brig(&all);
        if refused.code == 0 {
            wrong.push(refused);
        }
    }
    for refused in &wrong {
        eprintln!("{refused}");
    }
    assert!(wrong.is_empty(), "{}", wrong.len());
}

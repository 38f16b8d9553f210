//! The corpus of hostile archives through every entrance of a running daemon. After each one a canary on the host is
//! untouched, nothing is left of what was refused, and the daemon goes on.
//!
//! Each archive goes through each entrance in one dress, another one at each entrance; with `BRIG_CORPUS=all` in all.

use brig_tests::corpus::ship::Shipment;
use brig_tests::corpus::{self, Canary, Case, Dress, Outcome};
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

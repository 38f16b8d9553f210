//! What hostile clients try: wrong digests, nonsense where numbers belong, others' uploads, too much of everything.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use brig_registry_server::{Settings, Upkeep};
use brig_store::{Packed, Repositories, digest};

use crate::rig::{Answer, MANIFEST, Rig};

#[test]
fn content_with_another_digest_is_not_kept() {
    let rig = Rig::new();
    let wrong = digest::sha256_of(b"other");
    let path = rig.begin("a");
    assert_eq!(rig.ask("PUT", &format!("{path}?digest={wrong}"), &[], b"content").refusal(), "400 DIGEST_INVALID");
    assert_eq!(rig.get(&path).status, 404, "that upload is over");
    let answer = rig.ask("POST", &format!("/v2/a/blobs/uploads/?digest={wrong}"), &[], b"content");
    assert_eq!(answer.refusal(), "400 DIGEST_INVALID");
    let path = rig.begin("a");
    rig.ask("PATCH", &path, &[], b"content");
    assert_eq!(rig.ask("PUT", &format!("{path}?digest={wrong}"), &[], b"").status, 400);
    for digest in [&wrong, &digest::sha256_of(b"content")] {
        assert_eq!(rig.get(&format!("/v2/a/blobs/{digest}")).status, 404);
    }
    assert!(rig.store.partials().list().unwrap().is_empty());
    assert_eq!(Repositories::of(&rig.store).uploads().count().unwrap(), 0);
}

#[test]
fn a_digest_is_said_once_and_well() {
    let rig = Rig::new();
    let path = rig.begin("a");
    let right = digest::sha256_of(b"content");
    for query in ["", "?digest=", "?digest=sha256:00", "?digest=md5:00", &format!("?digest={right}&digest={right}")] {
        let answer = rig.ask("PUT", &format!("{path}{query}"), &[], b"content");
        assert_eq!(answer.refusal(), "400 DIGEST_INVALID", "{query}");
    }
    let twice = format!("/v2/a/blobs/uploads/?digest={right}&digest={right}");
    assert_eq!(rig.ask("POST", &twice, &[], b"content").status, 400);
    // Nothing of what was refused was kept.
    assert_eq!(rig.ask("PUT", &format!("{path}?digest={right}"), &[], b"content").status, 201);
}

#[test]
fn pieces_that_say_nonsense_change_nothing() {
    let rig = Rig::new();
    let path = rig.begin("a");
    assert_eq!(rig.ask("PATCH", &path, &[], b"abcd").status, 202);
    for range in ["nonsense", "", "-", "9-4", "4--1", "4-18446744073709551615", "0x4-8", "4-5-6"] {
        let answer = rig.ask("PATCH", &path, &[("Content-Range", range)], b"ef");
        assert_eq!(answer.refusal(), "400 BLOB_UPLOAD_INVALID", "{range}");
    }
    let twice = [("Content-Range", "4-5"), ("Content-Range", "4-5")];
    assert_eq!(rig.ask("PATCH", &path, &twice, b"ef").status, 400);
    assert_eq!(rig.ask("PATCH", &path, &[("Content-Range", "4-9")], b"ef").refusal(), "400 SIZE_INVALID");
    let chunked = |range: &str| {
        let headers = [("Content-Range", range), ("Transfer-Encoding", "chunked")];
        rig.ask("PATCH", &path, &headers, b"2\r\nef\r\n2\r\ngh\r\n0\r\n\r\n").refusal()
    };
    assert_eq!(chunked("4-5"), "400 SIZE_INVALID", "more than was said");
    assert_eq!(chunked("4-9"), "400 SIZE_INVALID", "less than was said");
    assert_eq!(rig.get(&path).header("range"), "0-3", "all of that was taken back");
    // An empty piece is a piece.
    let answer = rig.ask("PATCH", &path, &[], b"");
    assert_eq!((answer.status, answer.header("range")), (202, "0-3"));
    let right = digest::sha256_of(b"abcd");
    assert_eq!(rig.ask("PUT", &format!("{path}?digest={right}"), &[], b"").status, 201);
}

#[test]
fn an_upload_belongs_to_its_repository() {
    let rig = Rig::new();
    let path = rig.begin("mine");
    let other = path.replace("/mine/", "/yours/");
    for method in ["GET", "PATCH", "PUT", "DELETE"] {
        let answer = rig.ask(method, &format!("{other}?digest={}", digest::sha256_of(b"x")), &[], b"x");
        assert_eq!(answer.refusal(), "404 BLOB_UPLOAD_UNKNOWN", "{method}");
    }
    for id in ["0".repeat(32), "../../brig.db".into(), "%2e%2e%2fbrig.db".into(), "x".repeat(2000), "A".repeat(32)] {
        let answer = rig.get(&format!("/v2/mine/blobs/uploads/{id}"));
        assert!(matches!(answer.status, 400 | 404), "{answer:?}");
    }
    assert_eq!(rig.get(&path).status, 204);
    assert_eq!(
        std::fs::read_dir(rig.store.root().join("partial")).unwrap().count(),
        1,
        "of ids that are none nothing is made"
    );
}

#[test]
fn manifests_are_bounded_and_well_formed() {
    let rig = Rig::new();
    let (limit, text) = (4 << 20, rig.image("a", "word", ""));
    let padded = |size: usize| text.clone() + &" ".repeat(size - text.len());
    assert_eq!(rig.put_manifest("a", "v1", MANIFEST, &padded(limit)).status, 201);
    assert_eq!(rig.put_manifest("a", "v1", MANIFEST, &padded(limit + 1)).refusal(), "413 MANIFEST_INVALID");
    let mut stream = rig.connect();
    write!(
        stream,
        "PUT /v2/a/manifests/v1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    .unwrap();
    for _ in 0..6 {
        let piece = vec![b' '; 1 << 20];
        if write!(stream, "{:x}\r\n", piece.len())
            .and_then(|()| stream.write_all(&piece))
            .and_then(|()| stream.write_all(b"\r\n"))
            .is_err()
        {
            break;
        }
    }
    assert_eq!(Answer::read(stream, "PUT").status, 413, "of a length that nobody said");
    let digest = digest::sha256_of(b"x").to_string();
    for (kind, bad) in [
        (MANIFEST, "nonsense".to_owned()),
        (MANIFEST, "{}".into()),
        (MANIFEST, "[".repeat(100_000)),
        (MANIFEST, text.replace("\"layers\"", "\"manifests\":[],\"layers\"")),
        (MANIFEST, text.replace("\"layers\"", "\"layers\":[],\"layers\"")),
        (MANIFEST, text.replace("\"schemaVersion\":2", "\"schemaVersion\":1")),
        (MANIFEST, text.replace("sha256:", "sha256:../../")),
        ("application/vnd.oci.image.index.v1+json", text.clone()),
        ("text/html", text.clone()),
        (MANIFEST, text.replace("\"config\"", &format!("\"subject\":{{\"digest\":\"{digest}\"}},\"config\""))),
    ] {
        assert_eq!(rig.put_manifest("a", "v2", kind, &bad).refusal(), "400 MANIFEST_INVALID", "{kind}: {bad:.200}");
    }
    assert_eq!(rig.put_manifest("a", ".bad", MANIFEST, &text).refusal(), "400 MANIFEST_INVALID");
    assert_eq!(rig.put_manifest("a", &"t".repeat(129), MANIFEST, &text).status, 400);
    assert_eq!(rig.get("/v2/a/manifests/v2").status, 404);
}

#[test]
fn names_are_names() {
    let rig = Rig::new();
    for bad in ["/v2/../../etc/tags/list", "/v2/%2e%2e/%2e%2e/tags/list", "/v2/A/tags/list", "/v2/a//b/tags/list"] {
        assert_eq!(rig.get(bad).refusal(), "400 NAME_INVALID", "{bad}");
    }
    let path = |length: usize| format!("/v2/{}/blobs/uploads/", "a".repeat(length));
    assert_eq!(rig.ask("POST", &path(255), &[], b"").status, 202);
    assert_eq!(rig.ask("POST", &path(256), &[], b"").refusal(), "400 NAME_INVALID");
    for absent in ["/", "/v2/a", "/v2/../", "/v1/x", "/v2/../../", "/%2e%2e/etc/passwd"] {
        assert_eq!(rig.get(absent).status, 404, "{absent}");
    }
    let answer = rig.ask("PUT", "/v2/a/tags/list", &[], b"");
    assert_eq!((answer.refusal(), answer.header("allow")), ("405 UNSUPPORTED".into(), "GET, HEAD"));
    assert_eq!(rig.ask("POST", "/v2/a/manifests/x", &[], b"").status, 405);
    assert!(matches!(rig.get(&format!("/v2/{}", "a/".repeat(40_000))).status, 400 | 404 | 414 | 431));
}

#[test]
fn heads_are_bounded() {
    let rig = Rig::new();
    let mut stream = rig.connect();
    write!(stream, "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Long: {}", "x".repeat(100_000)).ok();
    // What was not read any more may take the answer with it.
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many: Vec<(String, String)> = (0..200).map(|n| (format!("X-{n}"), "y".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (&**name, &**value)).collect();
    assert_eq!(rig.ask("GET", "/v2/", &many, b"").status, 431);
}

#[test]
fn who_says_nothing_is_not_waited_for() {
    let rig = Rig::with(Settings { patience: Duration::from_millis(2000), ..Settings::default() });
    let path = rig.begin("a");
    let mut stream = rig.connect();
    write!(stream, "PATCH {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(rig.get(&path).header("range"), "0-2", "what arrived stays");
    // One that takes nothing.
    let digest = rig.push_blob("a", &vec![1u8; 32 << 20]);
    let mut stream = rig.connect();
    write!(stream, "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    // The file stays open for as long as the connection is served.
    let open = || {
        let names = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
        names.filter(|name| name.to_string_lossy().contains(digest.strip_prefix("sha256:").unwrap())).count()
    };
    let begun = std::time::Instant::now();
    while open() == 0 {
        std::thread::yield_now();
        assert!(begun.elapsed() < Duration::from_secs(20), "the blob is opened");
    }
    while open() > 0 {
        std::thread::yield_now();
        assert!(begun.elapsed() < Duration::from_secs(20), "the blob is closed");
    }
    assert!(begun.elapsed() >= Duration::from_millis(2000), "it has its time");
    drop(stream);
}

#[test]
fn uploads_that_are_begun_cost_no_files() {
    let rig = Rig::new();
    let before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let mut stream = rig.connect();
    let mut taken = [0; 4096];
    for _ in 0..2000 {
        write!(stream, "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let count = stream.read(&mut taken).unwrap();
            assert!(count > 0);
            answer.extend(&taken[..count]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 202"));
    }
    assert_eq!(Repositories::of(&rig.store).uploads().count().unwrap(), 2000);
    assert!(rig.store.partials().list().unwrap().is_empty());
    // Other tests of this process come and go meanwhile.
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() < before + 500);
    rig.collect();
    assert_eq!(Repositories::of(&rig.store).uploads().count().unwrap(), 0);
}

/// A client has so many uploads under way and no more; those that it has go on, and others have theirs.
#[test]
fn uploads_that_are_begun_are_bounded() {
    let rig = Rig::with(Settings { client_connections: 4, ..Settings::default() });
    let digest = digest::sha256_of(b"content");
    let resumed = rig.begin("a");
    assert_eq!(rig.ask("PATCH", &resumed, &[], b"con").status, 202);
    let mut begun: Vec<String> = (1..16).map(|_| rig.begin("a")).collect();
    for path in ["/v2/a/blobs/uploads/".to_owned(), format!("/v2/b/blobs/uploads/?digest={digest}")] {
        let answer = rig.ask("POST", &path, &[], b"content");
        assert_eq!((answer.refusal(), answer.header("retry-after")), ("429 TOOMANYREQUESTS".into(), "60"));
    }
    assert_eq!(Repositories::of(&rig.store).uploads().count().unwrap(), 16);
    // What is under way goes on, and makes room when it ends or is given up.
    assert_eq!(rig.ask("PATCH", &resumed, &[("Content-Range", "3-4")], b"te").status, 202);
    assert_eq!(rig.ask("PUT", &format!("{resumed}?digest={digest}"), &[], b"nt").status, 201);
    begun.push(rig.begin("a"));
    assert_eq!(rig.ask("POST", "/v2/a/blobs/uploads/", &[], b"").status, 429);
    assert_eq!(rig.ask("DELETE", &begun[3], &[], b"").status, 204);
    assert_eq!(rig.ask("POST", &format!("/v2/b/blobs/uploads/?mount={digest}&from=a"), &[], b"").status, 201);
    rig.push_blob("b", b"content");
    rig.push_blob("b", b"more");
}

/// An upload to which nothing was sent goes after an hour; one that was used may be gone on with for longer.
#[test]
fn uploads_that_are_never_used_go_earlier() {
    let rig = Rig::new();
    let (used, unused) = (rig.begin("a"), rig.begin("a"));
    assert_eq!(rig.ask("PATCH", &used, &[], b"con").status, 202);
    rig.registry.tidy(&Upkeep::default()).unwrap();
    assert_eq!((rig.get(&used).status, rig.get(&unused).status), (204, 204));
    let hours_ago = |hours: i64| {
        let sql = "UPDATE repository_uploads SET touched_at = touched_at - ?1 * 3600000000";
        rig.store.database().write(|db| db.execute(sql, [hours]).map(drop)).unwrap();
        rig.registry.tidy(&Upkeep::default()).unwrap();
        (rig.get(&used).status, rig.get(&unused).status)
    };
    assert_eq!(hours_ago(2), (204, 404));
    assert_eq!(rig.get(&used).header("range"), "0-2");
    assert_eq!(hours_ago(23), (404, 404));
}

#[test]
fn one_client_cannot_take_all_connections() {
    let rig = Rig::with(Settings { client_connections: 3, ..Settings::default() });
    let held: Vec<_> = (0..3).map(|_| rig.connect()).collect();
    // They are counted in the order in which they came.
    let mut fourth = rig.connect();
    assert_eq!(fourth.read(&mut [0]).unwrap_or(0), 0, "it is closed");
    drop(held);
    let begun = std::time::Instant::now();
    while std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| rig.get("/v2/"))).is_err() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "there is room again");
    }
}

/// What is made while it is sent holds a thread for as long as its client takes; a client that opens many such answers and reads none
/// must not hold all of them.
#[test]
fn slow_readers_leave_threads_for_others() {
    const SLOW: usize = 40;
    let rig = Rig::threaded(tempfile::tempdir().unwrap(), Settings::default(), 24);
    // A compressed form of a layer, larger than what the kernel buffers for a connection.
    let bytes: Vec<u8> = (0..24u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let digest = digest::sha256_of(&bytes);
    let partial = rig.store.partials().open("form").unwrap();
    partial.append(&bytes).unwrap();
    Packed::of(&rig.store).keep(partial, &digest, &digest::sha256_of(b"layer"), "application/x").unwrap();
    Repositories::of(&rig.store).link_blob("a", &digest, bytes.len() as u64).unwrap();
    let request = format!("GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let ask = || {
        let mut stream = rig.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let mut slow = vec![ask()];
    let mut first = [0; 9];
    slow[0].read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 ");
    slow.extend((1..SLOW).map(|_| ask()));
    for _ in 0..3 {
        assert_eq!(rig.get("/v2/b/tags/list").status, 404);
        assert_eq!(rig.ask("HEAD", &format!("/v2/a/blobs/{digest}"), &[], b"").status, 200);
    }
    // Those who wait get theirs when others have gone.
    let last = slow.pop().unwrap();
    drop(slow);
    let answer = Answer::read(last, "GET");
    assert!(answer.status == 200 && answer.body == bytes, "{} with {} bytes", answer.status, answer.body.len());
}

/// Large manifests are in memory while they arrive: only so many of one client's at once, each for so long.
#[test]
fn large_manifests_that_come_slowly_are_few_and_end() {
    let rig = Rig::with(Settings { patience: Duration::from_secs(2), ..Settings::default() });
    let head = "PUT /v2/a/manifests/v HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\nConnection: close\r\n\r\n";
    let mut slow: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = rig.connect();
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&[b' '; 100_000]).unwrap();
            stream
        })
        .collect();
    // An ordinary one is not held up by them.
    rig.push_image("a", "ordinary", "word");
    // They send a byte now and then, and are cut off all the same.
    let begun = std::time::Instant::now();
    let mut open = slow.len();
    while open > 0 && begun.elapsed() < Duration::from_secs(10) {
        slow.retain_mut(|stream| stream.write_all(b" ").is_ok());
        open = slow.len();
        // So slow is the client that is played here.
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(open, 0, "they go on for ever");
    let large = rig.image("a", "large", &format!("\"annotations\":{{\"x\":\"{}\"}},", "y".repeat(1_000_000)));
    assert_eq!(rig.put_manifest("a", "large", MANIFEST, &large).status, 201);
    assert!(rig.get("/v2/a/manifests/large").text() == large);
}

//! Standing in for another registry: fetched once, kept, given out when that one is away.

use std::io::{Read as _, Write as _};

use brig_registry_server::{Access, Auth, Htpasswd, Proxy, Settings};
use brig_store::digest;

use crate::rig::{MANIFEST, Rig};

fn cache_of(upstream: &Rig) -> Rig {
    let proxy = Proxy::new(&format!("http://{}", upstream.address), None).unwrap();
    Rig::with(Settings { proxy: Some(proxy.into()), ..Settings::default() })
}

#[test]
fn what_was_fetched_once_is_there_when_the_other_is_away() {
    let upstream = Rig::new();
    let cache = cache_of(&upstream);
    let pushed = upstream.push_image("a/b", "v1", "word");
    let layer = digest::sha256_of(b"word");
    let manifest = cache.get("/v2/a/b/manifests/v1");
    assert_eq!((manifest.status, manifest.header("docker-content-digest")), (200, pushed.as_str()));
    assert_eq!(manifest.body, upstream.get("/v2/a/b/manifests/v1").body);
    assert_eq!(manifest.header("content-type"), MANIFEST);
    assert_eq!(cache.get(&format!("/v2/a/b/blobs/{layer}")).text(), "word");
    // A tag that moves is followed.
    let moved = upstream.push_image("a/b", "v1", "other");
    assert_eq!(cache.get("/v2/a/b/manifests/v1").header("docker-content-digest"), moved);
    assert_eq!(cache.get(&format!("/v2/a/b/manifests/{pushed}")).status, 200);
    // What the other does not have is not there.
    assert_eq!(cache.get("/v2/a/b/manifests/v2").status, 404);
    assert_eq!(cache.get(&format!("/v2/a/b/blobs/{}", digest::sha256_of(b"absent"))).status, 404);
    assert_eq!(cache.get(&format!("/v2/else/where/blobs/{}", digest::sha256_of(b"absent"))).status, 404);
    // What was never asked for stays away with it, and says so; the rest is here, also after a collection.
    cache.collect();
    drop(upstream);
    assert_eq!(cache.get("/v2/a/b/manifests/v1").header("docker-content-digest"), moved);
    assert_eq!(cache.get(&format!("/v2/a/b/manifests/{pushed}")).status, 200);
    assert_eq!(cache.get(&format!("/v2/a/b/blobs/{layer}")).text(), "word");
    let never = cache.get(&format!("/v2/a/b/blobs/{}", digest::sha256_of(b"other")));
    assert_eq!(never.status, 502, "{never:?}");
    assert_eq!(cache.get("/v2/a/b/manifests/v3").status, 502);
    // Nothing is pushed to a cache.
    assert_eq!(cache.ask("POST", "/v2/a/b/blobs/uploads/", &[], b"").refusal(), "405 UNSUPPORTED");
}

#[test]
fn many_who_want_the_same_fetch_it_once() {
    let upstream = Rig::new();
    let cache = cache_of(&upstream);
    let bytes = vec![5u8; 4 << 20];
    let digest = upstream.push_blob("a", &bytes);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| assert!(cache.get(&format!("/v2/a/blobs/{digest}")).body == bytes));
        }
    });
    // The last byte goes out once it is verified, a moment before the blob has its place.
    let begun = std::time::Instant::now();
    while !cache.store.partials().list().unwrap().is_empty() {
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "something of the fetch stays");
        std::thread::yield_now();
    }
}

/// A registry that sends the first half of a blob, and the rest when it is told to.
fn slow_registry(blob: &'static [u8], go_on: std::sync::mpsc::Receiver<&'static [u8]>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                // Not TLS, which is tried first.
                if stream.read(&mut byte).unwrap_or(0) == 0 || byte[0] == 0x16 {
                    break;
                }
                head.push(byte[0]);
            }
            if head.is_empty() {
                continue;
            }
            let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length";
            if !String::from_utf8_lossy(&head).contains("/blobs/") {
                write!(stream, "{answer}: 2\r\n\r\n{{}}").ok();
                continue;
            }
            write!(stream, "{answer}: {}\r\n\r\n", blob.len()).unwrap();
            stream.write_all(&blob[..blob.len() / 2]).unwrap();
            let Ok(rest) = go_on.recv() else { return };
            stream.write_all(rest).unwrap();
        }
    });
    address
}

#[test]
fn a_large_blob_is_given_out_while_it_arrives() {
    let blob: &'static [u8] = vec![7u8; 8 << 20].leak();
    let (tell, go_on) = std::sync::mpsc::channel();
    let proxy = Proxy::new(&format!("http://{}", slow_registry(blob, go_on)), None).unwrap();
    let cache = Rig::with(Settings { proxy: Some(proxy.into()), ..Settings::default() });
    let path = format!("/v2/a/blobs/{}", digest::sha256_of(blob));
    let ask = || {
        let mut stream = cache.connect();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut begun = vec![0; 2 << 20];
        stream.read_exact(&mut begun).unwrap();
        (stream, begun)
    };
    // Both have a quarter of it though the other registry has sent but half.
    let (first, second) = (ask(), ask());
    // The end is another one than it should be: nobody is given a whole blob, and nothing is kept.
    tell.send(vec![8u8; 4 << 20].leak()).unwrap();
    for (mut stream, mut got) in [first, second] {
        stream.read_to_end(&mut got).ok();
        assert!(got.len() < blob.len(), "{}", got.len());
    }
    let again = ask();
    tell.send(&blob[4 << 20..]).unwrap();
    let (mut stream, mut got) = again;
    stream.read_to_end(&mut got).unwrap();
    assert!(got.ends_with(blob));
    // Kept: the other one is not asked again.
    assert!(cache.get(&path).body == blob);
}

#[test]
fn a_cache_has_credentials_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("users");
    std::fs::write(&file, format!("cache:{}\n", bcrypt::hash("secret", 4).unwrap())).unwrap();
    let access = Access::Password(Htpasswd::open(&file, "test").unwrap());
    let upstream = Rig::with(Settings { access, ..Settings::default() });
    let login = "Basic Y2FjaGU6c2VjcmV0";
    let headers = [("Authorization", login), ("Content-Type", "application/octet-stream")];
    let blob = digest::sha256_of(b"word");
    let pushed = upstream.ask("POST", &format!("/v2/a/b/blobs/uploads/?digest={blob}"), &headers, b"word");
    assert_eq!(pushed.status, 201, "{pushed:?}");
    let cache = |password: &str| {
        let auth = Auth { username: "cache".into(), password: password.into(), ..Auth::default() };
        let proxy = Proxy::new(&format!("http://{}", upstream.address), Some(auth)).unwrap();
        Rig::with(Settings { proxy: Some(proxy.into()), ..Settings::default() })
    };
    let path = format!("/v2/a/b/blobs/{blob}");
    assert_eq!(cache("secret").get(&path).text(), "word");
    // Who is refused there has nothing here, and is not told the password either.
    let refused = cache("wrong").get(&path);
    assert!(refused.status >= 400 && !refused.text().contains("wrong"), "{refused:?}");
}

#[test]
fn what_is_damaged_there_is_not_given_out() {
    let upstream = Rig::new();
    let cache = cache_of(&upstream);
    let digest = upstream.push_blob("a", b"content");
    let file = upstream.store.root().join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    std::fs::write(&file, b"another").unwrap();
    assert_eq!(cache.get(&format!("/v2/a/blobs/{digest}")).status, 500);
    std::fs::write(&file, b"content").unwrap();
    assert_eq!(cache.get(&format!("/v2/a/blobs/{digest}")).text(), "content");
}

/// Whoever asks for one slow blob under many names has a few places, and leaves the threads to others.
#[test]
fn what_is_fetched_slowly_under_many_names_leaves_threads_for_others() {
    const NAMES: usize = 24;
    let blob: &'static [u8] = vec![7u8; 4 << 20].leak();
    let (tell, go_on) = std::sync::mpsc::channel();
    let proxy = Proxy::new(&format!("http://{}", slow_registry(blob, go_on)), None).unwrap();
    let settings = Settings { proxy: Some(proxy.into()), client_connections: 128, ..Settings::default() };
    let cache = Rig::threaded(tempfile::tempdir().unwrap(), settings, 8);
    let digest = digest::sha256_of(blob);
    let ask = |name: usize| {
        let mut stream = cache.connect();
        write!(stream, "GET /v2/a{name}/blobs/{digest} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        stream
    };
    let mut first = ask(0);
    let mut begun = [0; 1 << 20];
    first.read_exact(&mut begun).unwrap();
    let others: Vec<_> = (1..NAMES).map(ask).collect();
    for _ in 0..3 {
        assert_eq!(cache.get("/v2/a/tags/list").status, 404);
    }
    drop((first, others, tell));
}

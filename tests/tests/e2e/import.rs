//! `import` from a URL, as Docker does it.

use brig_sys::netns;
use brig_tests::image::{Image, Layer};
use brig_tests::{TestHost, http, needs};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

/// What a request's first line and headers are answered with, as it goes over the wire.
type Answers = fn(&str, &[String], &[u8]) -> Vec<u8>;

/// Serves `file` in the host's network by means of `answers` for as long as the test's process lives.
fn serve(host: &TestHost, address: &str, file: Vec<u8>, answers: Answers) {
    let listener = netns::inside(host.netns.as_fd(), || TcpListener::bind(address)).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let Some(Ok(request)) = lines.next() else { continue };
            let headers: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
            // A client that has heard enough goes.
            (&stream).write_all(&answers(&request, &headers, &file)).ok();
        }
    });
}

fn whole(status: &str, more: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{more}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn answers(request: &str, headers: &[String], file: &[u8]) -> Vec<u8> {
    let path = request.split(' ').nth(1).unwrap_or_default();
    // "me:se@cret"
    let known = headers.iter().any(|line| line.eq_ignore_ascii_case("authorization: Basic bWU6c2VAY3JldA=="));
    match path {
        "/root.tar" => whole("200 OK", "", file),
        "/moved" => whole("302 Found", "Location: /root.tar\r\n", b""),
        "/loop" => whole("302 Found", "Location: /loop\r\n", b""),
        "/away" => whole("302 Found", "Location: http://127.0.0.1:8082/mine\r\n", b""),
        "/private" if known => whole("200 OK", "", file),
        "/private" => whole("401 Unauthorized", "", b"who are you?"),
        "/text" => whole("200 OK", "", b"this is no tar"),
        // Cut, and gone then.
        "/cut" if headers.iter().any(|line| line.to_ascii_lowercase().starts_with("range:")) => {
            whole("410 Gone", "", b"")
        }
        "/cut" => {
            let answer = whole("200 OK", "ETag: \"x\"\r\n", file);
            answer[..answer.len() / 2].to_vec()
        }
        // Whole only in two parts.
        "/parts" => match headers.iter().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("range: bytes=")?.strip_suffix('-')?.parse::<usize>().ok()
        }) {
            Some(from) => {
                let range = format!("ETag: \"x\"\r\nContent-Range: bytes {from}-{}/{}\r\n", file.len() - 1, file.len());
                whole("206 Partial Content", &range, &file[from..])
            }
            None => {
                let answer = whole("200 OK", "ETag: \"x\"\r\n", file);
                answer[..answer.len() / 2].to_vec()
            }
        },
        _ => whole("404 Not Found", "", b"no \x1b[31msuch file"),
    }
}

/// Tells credentials that it should never see.
fn elsewhere(_: &str, headers: &[String], file: &[u8]) -> Vec<u8> {
    match headers.iter().any(|line| line.to_ascii_lowercase().starts_with("authorization")) {
        true => whole("400 Bad Request", "", b"these are secrets"),
        false => whole("200 OK", "", file),
    }
}

fn packed(program: &str, tar: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program).arg("-c1").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(move || input.write_all(tar).unwrap());
        child.stdout.take().unwrap().read_to_end(&mut output).unwrap();
    });
    child.wait().unwrap();
    output
}

#[test]
fn from_a_url() {
    needs!("import::from_a_url", "xz");
    let host = TestHost::new();
    let tar = Image::busybox().layers[0].clone();
    serve(&host, "127.0.0.1:8081", packed("xz", &tar), answers);
    serve(&host, "127.0.0.1:8082", tar, elsewhere);
    let import = |from: &str| host.brig(&["import", "-c", "CMD [\"echo\", \"hi\"]", from, "from/url:1"]);
    for url in [
        "http://127.0.0.1:8081/root.tar",
        "http://127.0.0.1:8081/moved",
        "http://127.0.0.1:8081/parts",
        "http://me:se%40cret@127.0.0.1:8081/private",
        "http://me:se%40cret@127.0.0.1:8081/away",
    ] {
        let shown = import(url).ok();
        let lines: Vec<&str> = shown.lines().collect();
        let place = url.replace("me:se%40cret@", "");
        assert_eq!(lines[0], format!("Downloading from {place}"));
        assert!(lines[1].starts_with("sha256:"), "{shown}");
        assert_eq!(host.brig(&["run", "--rm", "from/url:1"]).ok(), "hi");
        assert_eq!(host.field("from/url:1", "{{.Comment}}"), format!("Imported from {place}"));
        host.brig(&["rmi", "from/url:1"]).ok();
    }
    for (url, says) in [
        (
            "http://127.0.0.1:8081/nothing?sig=secret",
            "failed to GET http://127.0.0.1:8081/nothing with status 404 Not Found: no \\u{1b}[31msuch file",
        ),
        ("http://127.0.0.1:8081/private", "401 Unauthorized: who are you?"),
        ("http://127.0.0.1:8081/loop", "stopped after 10 redirects"),
        ("http://127.0.0.1:8081/text", "tar"),
        ("http://127.0.0.1:8081/cut", "127.0.0.1:8081/cut"),
        ("http://127.0.0.1:8083/", "connection refused"),
        ("https://127.0.0.1:8081/root.tar", "https://127.0.0.1:8081/root.tar"),
        ("http://nosuch.invalid/", "nosuch.invalid"),
    ] {
        let error = import(url).fails(1);
        assert!(error.contains(says), "{url}: {error}");
        assert!(!error.contains("secret") && !error.contains('\x1b'), "{error}");
    }
    assert_eq!(host.brig(&["images", "-q"]).ok(), "");
    let path = "/images/create?repo=a&fromSrc=";
    let status = |url: &str| http::unix(&host.socket(), "POST", &format!("{path}{url}"), b"").unwrap().status;
    assert_eq!(status("http://127.0.0.1:8081/nothing"), 404);
    assert_eq!(status("http://127.0.0.1:8081/private"), 401);
    assert_eq!(status("ftp://127.0.0.1/x"), 400);
    // As curl users write it.
    let bare = http::unix(&host.socket(), "POST", &format!("{path}127.0.0.1:8081/root.tar"), b"").unwrap();
    assert_eq!(bare.status, 200, "{}", bare.text());
    assert!(bare.text().contains(r#""status":"Importing","progressDetail":{"current":"#), "{}", bare.text());
}

#[test]
fn archives_packed_in_every_way() {
    for program in ["xz", "bzip2", "zstd"] {
        if brig_tests::skip::program(program).is_none() {
            return brig_tests::skip::skip("import::archives_packed_in_every_way", program);
        }
    }
    let host = TestHost::new();
    let image = Image::busybox().with(Layer::new().file("x", 0o644, [7; 100_000]), &[]);
    for program in ["gzip", "bzip2", "xz", "zstd"] {
        let archive = packed(program, &image.docker_archive("app:1"));
        assert_eq!(host.brig_run(&["load"]).input(archive).output().ok(), "Loaded image: app:1", "{program}");
        assert_eq!(host.brig(&["run", "--rm", "app:1", "wc", "-c", "/x"]).ok(), "100000 /x");
        host.brig(&["rmi", "app:1"]).ok();
        let path = host.root.join("root.tar.packed");
        std::fs::write(&path, packed(program, &image.layers[0])).unwrap();
        host.brig(&["import", &path.display().to_string(), "imported:1"]).ok();
        assert_eq!(host.brig(&["run", "--rm", "imported:1", "echo", program]).ok(), program);
        host.brig(&["rmi", "imported:1"]).ok();
    }
}

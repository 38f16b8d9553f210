//! A registry that serves whatever bytes it is given, as no honest one would.
//! Owns the listening thread; ends when dropped. Faults of the wire are `proxy`'s and the registry crate's tests'.

use crate::host::TestHost;
use crate::image::digest;
use brig_sys::netns;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

type Contents = Arc<Mutex<HashMap<String, (String, Vec<u8>)>>>;

/// A registry of made-up answers.
pub struct Stub {
    /// Where it listens, in the host's network.
    pub address: String,
    contents: Contents,
    stop: Arc<AtomicBool>,
}

impl TestHost {
    /// Starts one at an address of the host's.
    pub fn stub(&self, address: &str) -> Stub {
        let listener =
            netns::inside(self.netns.as_fd(), || TcpListener::bind(address)).expect("the namespace is there");
        let listener = listener.expect("the address is free");
        let (contents, stop) = (Contents::default(), Arc::new(AtomicBool::new(false)));
        let (served, stopped) = (Arc::clone(&contents), Arc::clone(&stop));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    break;
                }
                let served = Arc::clone(&served);
                std::thread::spawn(move || answer(stream, &served));
            }
        });
        Stub { address: address.to_owned(), contents, stop }
    }
}

impl Stub {
    /// What is served as a repository's manifest of a tag (or digest), said to be of a kind.
    pub fn manifest(&self, repository: &str, reference: &str, kind: &str, bytes: &[u8]) {
        self.put(format!("/v2/{repository}/manifests/{reference}"), kind, bytes);
    }

    /// A blob under its digest.
    pub fn blob(&self, repository: &str, bytes: &[u8]) {
        self.put(format!("/v2/{repository}/blobs/{}", digest(bytes)), "application/octet-stream", bytes);
    }

    fn put(&self, path: String, kind: &str, bytes: &[u8]) {
        let mut contents = self.contents.lock().expect("nobody panics with the lock");
        contents.insert(path, (kind.to_owned(), bytes.to_vec()));
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.contents.lock().expect("nobody panics with the lock").clear();
    }

    /// Ends the listening; a last connection wakes it.
    pub fn close(&self, host: &TestHost) {
        self.stop.store(true, Ordering::SeqCst);
        let address = self.address.parse().expect("an address with a port");
        let connect = || TcpStream::connect_timeout(&address, std::time::Duration::from_secs(1));
        netns::inside(host.netns.as_fd(), connect).map(drop).ok();
    }
}

/// One connection: requests one after the other, as long as they come.
fn answer(stream: TcpStream, contents: &Contents) {
    let Ok(mut writer) = stream.try_clone() else { return };
    let mut lines = BufReader::new(stream).lines();
    while let Some(Ok(request)) = lines.next() {
        while let Some(Ok(line)) = lines.next() {
            if line.is_empty() {
                break;
            }
        }
        let mut words = request.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let found = contents.lock().ok().and_then(|contents| contents.get(path).cloned());
        let (status, kind, body) = match found {
            _ if path == "/v2/" => ("200 OK", "application/json".to_owned(), b"{}".to_vec()),
            Some((kind, body)) => ("200 OK", kind, body),
            None => (
                "404 Not Found",
                "application/json".to_owned(),
                br#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#.to_vec(),
            ),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len());
        let sent = writer.write_all(head.as_bytes());
        if sent.is_err() || (method != "HEAD" && writer.write_all(&body).is_err()) {
            return;
        }
    }
}

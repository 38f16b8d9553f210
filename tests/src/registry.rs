//! Registries in a test host, Debian's `docker-registry` and brig's own, and the pushing of images to them.
//! Owns the process and its folder; the files in there may be damaged on purpose by a test.

use crate::command::Run;
use crate::host::{TestHost, binary};
use crate::http;
use crate::image::{Image, digest};
use crate::wait::eventually;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A running registry.
pub struct Registry {
    /// `127.0.0.1:5000`: where it is, in the host's network.
    pub address: String,
    netns: Arc<OwnedFd>,
    folder: PathBuf,
    /// None where a daemon serves it.
    child: Option<Child>,
}

impl TestHost {
    /// Starts a registry on loopback.
    pub fn registry(&self) -> Registry {
        self.registry_at("127.0.0.1:5000")
    }

    /// Starts a registry at an address of the host's.
    pub fn registry_at(&self, address: &str) -> Registry {
        self.registry_with(address, None)
    }

    /// Starts a registry that only lets in who is named in an htpasswd file with this content.
    pub fn registry_for(&self, address: &str, htpasswd: &str) -> Registry {
        self.registry_with(address, Some(htpasswd))
    }

    fn registry_with(&self, address: &str, htpasswd: Option<&str>) -> Registry {
        let folder = self.root.join(format!("registry-{}", address.replace(':', "-")));
        std::fs::create_dir_all(&folder).expect("the registry's folder can be made");
        let file = folder.join("htpasswd");
        let auth = htpasswd.map_or_else(String::new, |content| {
            std::fs::write(&file, content).expect("the registry's users can be written");
            format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", file.display())
        });
        let config = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  delete:\n    enabled: true\n  \
             filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{auth}",
            folder.join("data").display()
        );
        std::fs::write(folder.join("config.yml"), config).expect("the registry's configuration can be written");
        let log = std::fs::File::create(folder.join("log")).expect("the registry's log can be made");
        let run = Run::new("docker-registry", &["serve", &folder.join("config.yml").display().to_string()]);
        let child = run.inside(&self.netns).with(|command| {
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        });
        let registry = Registry {
            address: address.to_owned(),
            netns: Arc::clone(&self.netns),
            folder,
            child: Some(child.spawn()),
        };
        eventually("the registry answers", || {
            http::connect(&registry.netns, address, Duration::from_secs(1)).ok().map(drop)
        });
        registry
    }
}

impl TestHost {
    /// Starts `brig registry serve` at an address of the host's, with further arguments. One that was there before is found
    /// as it was left.
    pub fn brig_registry(&self, address: &str, arguments: &[&str]) -> Registry {
        let folder = self.root.join(format!("brig-registry-{}", address.replace(':', "-")));
        std::fs::create_dir_all(&folder).expect("the registry's folder can be made");
        let log = std::fs::File::options().create(true).append(true).open(folder.join("log"));
        let log = log.expect("the registry's log can be made");
        let root = folder.join("data").display().to_string();
        let mut all = vec!["registry", "serve", "--addr", address, "--root", &root, "--ready-fd", "1"];
        all.extend(arguments);
        let run = Run::new(binary("brig"), &all).inside(&self.netns).with(|command| {
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        });
        let mut child = run.spawn();
        let mut told = String::new();
        let stdout = child.stdout.take().expect("stdout is a pipe");
        BufReader::new(stdout).read_line(&mut told).expect("the registry's output can be read");
        let registry =
            Registry { address: address.to_owned(), netns: Arc::clone(&self.netns), folder, child: Some(child) };
        assert_eq!(told, "\n", "the registry did not start:\n{}", registry.log());
        registry
    }
}

impl TestHost {
    /// The registry that this host's daemon serves at `address`.
    pub fn daemons_registry(&self, address: &str) -> Registry {
        Registry { address: address.to_owned(), netns: Arc::clone(&self.netns), folder: self.root.clone(), child: None }
    }
}

impl Registry {
    /// What it wrote.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// One request.
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> http::Answer {
        let kind = "application/octet-stream";
        http::tcp(&self.netns, &self.address, method, path, kind, body).expect("the registry answers")
    }

    /// A part of a blob: `bytes=0-1`.
    pub fn part(&self, path: &str, range: &str) -> http::Answer {
        http::tcp_part(&self.netns, &self.address, path, range).expect("the registry answers")
    }

    /// Tells it to end, as a service manager would.
    pub fn terminate(&self) {
        let child = self.child.as_ref().expect("a process of its own");
        let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).expect("a pid is not zero");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the registry can be signalled");
    }

    /// Waits for its end; the exit code.
    pub fn ended(mut self) -> Option<i32> {
        let mut child = self.child.take().expect("a process of its own");
        child.wait().expect("the registry can be waited for").code()
    }

    /// Ends it as a service manager would; the exit code.
    pub fn stop(self) -> Option<i32> {
        self.terminate();
        self.ended()
    }

    /// Sends an unfinished request; the stream to go on with.
    pub fn begin(&self, head: &str, body: &[u8]) -> std::net::TcpStream {
        let mut stream =
            http::connect(&self.netns, &self.address, Duration::from_secs(5)).expect("the registry answers");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket has time limits");
        stream.write_all(format!("{head}\r\nHost: {}\r\n\r\n", self.address).as_bytes()).expect("it listens");
        stream.write_all(body).expect("it listens");
        stream
    }

    /// `127.0.0.1:5000/name`
    pub fn name(&self, repository: &str) -> String {
        format!("{}/{repository}", self.address)
    }

    /// Pushes an image; the digest of its manifest.
    pub fn push(&self, image: &Image, repository: &str, tag: &str) -> String {
        let (manifest, blobs) = image.distributable();
        self.push_parts(&blobs, &manifest, repository, tag)
    }

    /// Pushes blobs and the manifest that names them; the manifest's digest.
    pub fn push_parts(&self, blobs: &[Vec<u8>], manifest: &[u8], repository: &str, tag: &str) -> String {
        let answer = self.try_push(blobs, manifest, repository, tag);
        assert_eq!(answer.status, 201, "{}", answer.text());
        digest(manifest)
    }

    /// As [`Registry::push_parts`]; what became of the manifest.
    pub fn try_push(&self, blobs: &[Vec<u8>], manifest: &[u8], repository: &str, tag: &str) -> http::Answer {
        for blob in blobs {
            self.push_blob(repository, blob);
        }
        let path = format!("/v2/{repository}/manifests/{tag}");
        let said: serde_json::Value = serde_json::from_slice(manifest).unwrap_or_default();
        let kind = said["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
        http::tcp(&self.netns, &self.address, "PUT", &path, kind, manifest).expect("the registry answers")
    }

    /// Pushes one blob whole.
    pub fn push_blob(&self, repository: &str, blob: &[u8]) {
        let path = format!("/v2/{repository}/blobs/uploads/");
        let begun = http::tcp(&self.netns, &self.address, "POST", &path, "", &[]).expect("the registry answers");
        assert_eq!(begun.status, 202, "{}", begun.text());
        let location = begun.header("location").expect("an upload has a location");
        let path = location.strip_prefix("http://").map_or(location, |rest| &rest[rest.find('/').unwrap_or(0)..]);
        let path = format!("{path}{}digest={}", if path.contains('?') { '&' } else { '?' }, digest(blob));
        let kind = "application/octet-stream";
        let done = http::tcp(&self.netns, &self.address, "PUT", &path, kind, blob).expect("the registry answers");
        assert_eq!(done.status, 201, "{}", done.text());
    }

    /// A manifest, by tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> serde_json::Value {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let kinds = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
            application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
        let answer = http::tcp_accepting(&self.netns, &self.address, &path, kinds).expect("the registry answers");
        assert_eq!(answer.status, 200, "{}", answer.text());
        serde_json::from_slice(&answer.body).expect("a manifest is JSON")
    }

    /// A manifest's media type and its bytes, by tag or digest.
    pub fn raw_manifest(&self, repository: &str, reference: &str) -> (String, Vec<u8>) {
        let path = format!("/v2/{repository}/manifests/{reference}");
        let kinds = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";
        let answer = http::tcp_accepting(&self.netns, &self.address, &path, kinds).expect("the registry answers");
        assert_eq!(answer.status, 200, "{}", answer.text());
        (answer.header("content-type").unwrap_or_default().to_owned(), answer.body)
    }

    /// Forgets everything that was pushed.
    pub fn empty(&self) {
        let data = self.folder.join("data");
        if data.exists() {
            std::fs::remove_dir_all(data).expect("the registry's data can be removed");
        }
    }

    /// The file in which Debian's registry keeps a blob.
    pub fn blob_file(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").expect("a sha256 digest");
        self.folder.join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

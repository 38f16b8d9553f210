//! Images made on the spot: layers as tars, and the archives and manifests around them.
//! Owns the making; nothing is fetched. Busybox is the machine's own static one.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::Path;
use std::sync::OnceLock;

/// The date of everything in an image, so that the same image has the same digest.
const EPOCH: u64 = 1_700_000_000;

/// `sha256:…` of some bytes.
pub fn digest(bytes: &[u8]) -> String {
    let mut text = "sha256:".to_owned();
    for byte in Sha256::digest(bytes) {
        text.push_str(&format!("{byte:02x}"));
    }
    text
}

/// One layer, being filled.
pub struct Layer(tar::Builder<Vec<u8>>);

impl Default for Layer {
    fn default() -> Layer {
        Layer::new()
    }
}

impl Layer {
    /// An empty layer.
    pub fn new() -> Layer {
        Layer(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(EPOCH);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    /// With a directory.
    pub fn dir(mut self, path: &str, mode: u32) -> Layer {
        let mut header = Layer::header(tar::EntryType::Directory, mode, 0);
        self.0.append_data(&mut header, path, std::io::empty()).expect("a directory fits into a tar");
        self
    }

    /// With a file of root's.
    pub fn file(self, path: &str, mode: u32, content: impl AsRef<[u8]>) -> Layer {
        self.owned(path, mode, (0, 0), content)
    }

    /// With a file of somebody's.
    pub fn owned(mut self, path: &str, mode: u32, owner: (u64, u64), content: impl AsRef<[u8]>) -> Layer {
        let content = content.as_ref();
        let mut header = Layer::header(tar::EntryType::Regular, mode, content.len() as u64);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        self.0.append_data(&mut header, path, content).expect("a file fits into a tar");
        self
    }

    /// With a symbolic link.
    pub fn link(mut self, path: &str, target: &str) -> Layer {
        let mut header = Layer::header(tar::EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, path, target).expect("a link fits into a tar");
        self
    }

    /// With a hard link.
    pub fn hard_link(mut self, path: &str, target: &str) -> Layer {
        let mut header = Layer::header(tar::EntryType::Link, 0o644, 0);
        self.0.append_link(&mut header, path, target).expect("a link fits into a tar");
        self
    }

    /// The tar.
    pub fn bytes(self) -> Vec<u8> {
        self.0.into_inner().expect("a tar in memory can be ended")
    }
}

/// An image: its layers as plain tars, and its configuration.
#[derive(Clone)]
pub struct Image {
    /// Lowest first.
    pub layers: Vec<Vec<u8>>,
    /// The image's JSON.
    pub config: Value,
}

impl Image {
    /// Of some layers, with what `config` says in Docker's words (`Cmd`, `Env`, …).
    pub fn new(layers: Vec<Vec<u8>>, config: Value) -> Image {
        let ids: Vec<String> = layers.iter().map(|layer| digest(layer)).collect();
        let history: Vec<Value> =
            ids.iter().map(|_| json!({"created": "2023-11-14T22:13:20Z", "created_by": "made by a test"})).collect();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
            "os": "linux",
            "created": "2023-11-14T22:13:20Z",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": ids},
            "history": history,
        });
        Image { layers, config }
    }

    /// Busybox, with a shell as its command.
    pub fn busybox() -> Image {
        static TAR: OnceLock<Vec<u8>> = OnceLock::new();
        let layer = TAR.get_or_init(busybox_layer).clone();
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Image::new(vec![layer], json!({"Env": [path], "Cmd": ["sh"]}))
    }

    /// This image with one more layer and some changes to its configuration.
    pub fn with(&self, layer: Layer, changes: &[(&str, Value)]) -> Image {
        let mut layers = self.layers.clone();
        layers.push(layer.bytes());
        let mut config = self.config["config"].clone();
        for (key, value) in changes {
            config[*key] = value.clone();
        }
        Image::new(layers, config)
    }

    /// The configuration as its bytes.
    pub fn config_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.config).expect("JSON can be written")
    }

    /// The image's id.
    pub fn id(&self) -> String {
        digest(&self.config_bytes())
    }

    /// A tar as `docker save` writes it.
    pub fn docker_archive(&self, name: &str) -> Vec<u8> {
        let config = self.config_bytes();
        let config_name = format!("{}.json", &digest(&config)[7..]);
        let mut archive = Layer::new().file(&config_name, 0o644, config);
        let mut names = Vec::new();
        for layer in &self.layers {
            let folder = digest(layer)[7..].to_owned();
            let name = format!("{folder}/layer.tar");
            if !names.contains(&name) {
                archive = archive.file(&name, 0o644, layer);
            }
            names.push(name);
        }
        let tags: Vec<&str> = if name.is_empty() { Vec::new() } else { vec![name] };
        let manifest = json!([{"Config": config_name, "RepoTags": tags, "Layers": names}]);
        archive.file("manifest.json", 0o644, manifest.to_string()).bytes()
    }

    /// A tar of an OCI layout.
    pub fn oci_archive(&self, name: &str) -> Vec<u8> {
        let (manifest, blobs) = self.distributable();
        let blob = |bytes: &[u8]| format!("blobs/sha256/{}", &digest(bytes)[7..]);
        let mut archive = Layer::new().file("oci-layout", 0o644, r#"{"imageLayoutVersion":"1.0.0"}"#);
        for bytes in &blobs {
            archive = archive.file(&blob(bytes), 0o644, bytes);
        }
        archive = archive.file(&blob(&manifest), 0o644, &manifest);
        let index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": digest(&manifest), "size": manifest.len(),
            "annotations": {"io.containerd.image.name": name},
        }]});
        archive.file("index.json", 0o644, index.to_string()).bytes()
    }

    /// The manifest, and the blobs that it names: layers compressed, the configuration last.
    pub fn distributable(&self) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut blobs: Vec<Vec<u8>> = self.layers.iter().map(|layer| gzip(layer)).collect();
        let layers: Vec<Value> = blobs
            .iter()
            .map(|blob| {
                let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
                json!({"mediaType": kind, "digest": digest(blob), "size": blob.len()})
            })
            .collect();
        let config = self.config_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": digest(&config), "size": config.len(),
            },
            "layers": layers,
        });
        blobs.push(config);
        (manifest.to_string().into_bytes(), blobs)
    }
}

/// Compressed, quickly.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory can be compressed into")
}

/// What a program of the machine makes of its standard input.
pub fn piped(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let (piped, name) = (std::process::Stdio::piped, program);
    let mut program = std::process::Command::new(name);
    let child = program.args(arguments).stdin(piped()).stdout(piped()).spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut stdin = child.stdin.take().expect("stdin is a pipe");
    let output = std::thread::scope(|scope| {
        // One that ends early does not read to the end, and says why by its code.
        scope.spawn(move || stdin.write_all(input).ok());
        child.wait_with_output().expect("the program can be waited for")
    });
    assert!(output.status.success(), "{name}: {}", output.status);
    output.stdout
}

/// As the gzip program compresses, at a level.
pub fn gzip_program(bytes: &[u8], level: u32) -> Vec<u8> {
    piped("gzip", &[&format!("-{level}"), "-c"], bytes)
}

/// Bytes that do not compress, the same every time.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The machine's static busybox.
pub fn busybox_program() -> Vec<u8> {
    let path = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    std::fs::read(path.expect("busybox-static is installed")).expect("busybox can be read")
}

fn busybox_layer() -> Vec<u8> {
    let list = std::process::Command::new("busybox").arg("--list").output().expect("busybox runs");
    let mut layer = Layer::new()
        .dir("bin", 0o755)
        .dir("etc", 0o755)
        .dir("dev", 0o755)
        .dir("proc", 0o555)
        .dir("sys", 0o555)
        .dir("home", 0o755)
        .dir("usr", 0o755)
        .dir("usr/bin", 0o755)
        .dir("var", 0o755)
        .dir("root", 0o700)
        .dir("tmp", 0o1777)
        .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nuser:x:1000:1000::/home/user:/bin/sh\n")
        .file("etc/group", 0o644, "root:x:0:\ndaemon:x:1:\ntty:x:5:\nuser:x:1000:\nextra:x:2000:user\n")
        .owned("home/user/hello", 0o644, (1000, 1000), "hello\n")
        .file("bin/probe", 0o755, std::fs::read(crate::host::binary("probe")).expect("the probe is built"))
        .file("bin/busybox", 0o755, busybox_program());
    for name in String::from_utf8_lossy(&list.stdout).lines() {
        if name != "busybox" {
            layer = layer.link(&format!("bin/{name}"), "busybox");
        }
    }
    layer.bytes()
}

//! What is fuzzed: one function per target, which takes any bytes and panics if something that must hold does not.
//! Owns the properties; who makes the bytes (the replay in `tests/`, libFuzzer from `fuzz/`) is not its business.
#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]

mod archive;
mod notes;

pub use archive::archive;
use brig_oci::{Digest, Document, ImageConfig, Reference};
use brig_tests::corpus::{self, Canary, Dress};
pub use notes::notes;
use std::cell::RefCell;
use std::io::{Cursor, Read};
use std::path::Path;

/// A target by name.
pub struct Target {
    /// As in `fuzz/fuzz_targets`.
    pub name: &'static str,
    /// Tries some bytes.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "reference", run: reference },
    Target { name: "manifest", run: manifest },
    Target { name: "tar", run: tar },
    Target { name: "pax", run: pax },
    Target { name: "layer", run: layer },
    Target { name: "load", run: load },
    Target { name: "notes", run: notes },
    Target { name: "header", run: header },
    Target { name: "decompress", run: decompress },
    Target { name: "recipe", run: recipe },
    Target { name: "rebuild", run: rebuild },
];

/// Inputs from which a fuzzer may set out: what the tests try as well.
pub fn seeds(name: &str) -> Vec<Vec<u8>> {
    let archives = || corpus::all("/nowhere").into_iter().map(|case| case.tar).filter(|tar| tar.len() < 16 << 10);
    let dressed = |dress: Dress| archives().step_by(10).map(move |tar| dress.on(&tar));
    match name {
        "reference" => {
            ["debian", "docker.io/library/a_b:v1.0", "localhost:5000/x/y@sha256:", "[::1]:5/a:b", "A/b", "a//b"]
                .map(|text| text.as_bytes().to_vec())
                .into()
        }
        "manifest" => corpus::images::served()
            .into_iter()
            .flat_map(|served| [vec![served.manifest], served.blobs].concat())
            .filter(|bytes| bytes.len() < 16 << 10)
            .collect(),
        "tar" => archives().collect(),
        "pax" => ["11 path=ab\n", "30 mtime=1350244992.023960108\n", "20 SCHILY.xattr.a=b\n", "14 size=12345\n"]
            .map(|text| text.as_bytes().to_vec())
            .into(),
        "load" => documents(),
        "notes" => (0..40).map(|seed| (0..200).map(|at: u32| (at * (2 * seed + 1) % 251) as u8).collect()).collect(),
        "header" => [
            r#"Bearer realm="https://auth.example/token",service="reg, the \"one\"",scope="a,b""#,
            r#"Digest nonce=abc, Bearer service=s,  REALM = "r" , Basic realm="b""#,
            r#"<http://evil/?a>; rel="prev", </v2/x/tags/list?last=b&n=2>; rel="next""#,
            "/v2/x/blobs/uploads/1?state=x",
            "http://169.254.169.254/x",
            "//other:1/x#y",
            "?digest=sha256:00",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into(),
        "decompress" | "recipe" => dressed(Dress::Gzip).chain(dressed(Dress::Zstd)).collect(),
        "rebuild" => dressed(Dress::Gzip).filter_map(|stream| recipe_of(&stream)).collect(),
        _ => Vec::new(),
    }
}

/// The recipe of a stream, and its text, as [`rebuild`] takes them apart.
fn recipe_of(stream: &[u8]) -> Option<Vec<u8>> {
    let (mut recipe, mut text) = (Vec::new(), Vec::new());
    brig_deflate::analyse(stream, &mut recipe, &mut || true).ok()?;
    flate2::read::MultiGzDecoder::new(stream).read_to_end(&mut text).ok()?;
    text.resize(recipe.len(), 0);
    Some([recipe, text].concat())
}

/// The most bytes that any target reads of an unpacked stream.
const ENOUGH: u64 = 32 << 20;

/// References and digests: what is parsed is printed so that it parses to the same.
pub fn reference(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(digest) = Digest::parse(&text) {
        assert_eq!(Digest::parse(digest.as_str()).as_ref(), Ok(&digest));
        assert!(!digest.hex().contains(['/', '.']));
    }
    for parse in [Reference::parse, Reference::parse_bare] {
        let Ok(reference) = parse(&text) else { continue };
        for printed in [reference.canonical(), reference.familiar()] {
            let again = Reference::parse(&printed).unwrap_or_else(|error| panic!("{printed:?}: {error}"));
            assert_eq!(again.canonical(), Reference::parse(&reference.canonical()).unwrap().canonical());
        }
        let parts = [reference.domain(), reference.path(), reference.tag().unwrap_or_default()];
        assert!(!parts.iter().any(|part| part.split('/').any(|part| part == "..")), "{parts:?}");
    }
}

/// Manifests, indexes and configurations: what is parsed is written so that it parses to the same.
pub fn manifest(bytes: &[u8]) {
    match Document::parse(bytes, None) {
        Ok(Document::Manifest(manifest)) => {
            let written = serde_json::to_vec(&manifest).unwrap();
            assert_eq!(brig_oci::Manifest::parse(&written, Some(&manifest.media_type)).unwrap(), manifest);
        }
        Ok(Document::Index(index)) => {
            let written = serde_json::to_vec(&index).unwrap();
            assert_eq!(brig_oci::Index::parse(&written, Some(&index.media_type)).unwrap(), index);
            index.select(&brig_oci::Platform::host());
        }
        Err(_) => {}
    }
    if let Ok(config) = ImageConfig::parse(bytes) {
        let written = serde_json::to_vec(&config).unwrap();
        assert_eq!(ImageConfig::parse(&written).unwrap(), config);
    }
}

/// The reader of archives: ends, keeps its bounds, and gives bodies of the length it said.
pub fn tar(bytes: &[u8]) {
    let mut archive = brig_store::tar::Archive::new(bytes);
    while let Ok(Some(member)) = archive.next_member() {
        assert!(member.mode <= 0o7777 && member.mtime.nanoseconds < 1_000_000_000);
        assert!(member.uid != u32::MAX && member.gid != u32::MAX);
        assert!(!member.name.contains(&0) && !member.link.contains(&0));
        let told = std::io::copy(&mut (&mut archive).take(ENOUGH), &mut std::io::sink());
        let stored = member.segments.as_ref().map(|parts| parts.iter().map(|part| part.length).sum::<u64>());
        if let Ok(read) = told {
            assert!(read == stored.unwrap_or(member.size) || read == ENOUGH, "{read} of {member:?}");
        }
    }
}

/// The bytes as the body of a PAX header.
pub fn pax(bytes: &[u8]) {
    use brig_tests::corpus::tar::Tar;
    tar(&Tar::new().raw(b'x', bytes).file("x", b"body").file("after", b"").finish());
    tar(&Tar::new().raw(b'g', bytes).file("x", b"body").finish());
}

/// A store that serves many runs; making one takes longer than a layer.
struct Scene {
    place: tempfile::TempDir,
    canary: Canary,
    store: brig_store::Store,
    runs: u32,
}

thread_local! {
    static SCENE: RefCell<Option<Scene>> = const { RefCell::new(None) };
}

/// An archive made of the bytes ([`archive`]) as a layer above another one: nothing outside is touched, nothing is left of
/// what is refused, and what is taken is made again byte for byte.
pub fn layer(bytes: &[u8]) {
    let one = archive(bytes);
    let (base, _) = one.split_at(one.len() / 1024 * 512);
    on_a_store(|store| {
        let parent = unpack(store, base, None);
        if let Some(chain) = unpack(store, &one, parent.as_ref()) {
            let mut again = Vec::new();
            store.layer_tar(&chain).unwrap().read_to_end(&mut again).unwrap();
            assert!(again == one, "another archive of {} bytes instead of {}", again.len(), one.len());
        }
    });
}

/// Does something on a store; nothing beside it is touched, and nothing half-made stays in it.
pub(crate) fn on_a_store(work: impl FnOnce(&brig_store::Store)) {
    let scene = SCENE.take().filter(|scene| scene.runs < 500).unwrap_or_else(|| {
        let place = tempfile::tempdir().unwrap();
        let canary = Canary::beneath(place.path());
        let store = brig_store::Store::open(&place.path().join("v1")).unwrap();
        Scene { place, canary, store, runs: 0 }
    });
    work(&scene.store);
    scene.canary.check("fuzz");
    scene.store.wait_for_removals();
    assert_eq!(std::fs::read_dir(scene.place.path().join("v1/ingest")).unwrap().count(), 0);
    assert_eq!(outside(scene.place.path()), ["host", "v1"]);
    SCENE.set(Some(Scene { runs: scene.runs + 1, ..scene }));
}

/// The documents of image archives, each with the number of the member that it is.
fn documents() -> Vec<Vec<u8>> {
    let archives = [corpus::images::docker_archives("/nowhere"), corpus::images::layouts("/nowhere")].concat();
    let mut found = Vec::new();
    for case in archives {
        let mut archive = brig_store::tar::Archive::new(&case.bytes[..]);
        while let Ok(Some(member)) = archive.next_member() {
            let Some(number) = DOCUMENTS.iter().position(|name| name.as_bytes() == member.name) else { continue };
            let mut body = vec![number as u8];
            if (&mut archive).take(16 << 10).read_to_end(&mut body).is_ok() {
                found.push(body);
            }
        }
    }
    found
}

/// What is put in the place of one of the documents of an image archive, which says which by its first byte.
const DOCUMENTS: &[&str] = &["manifest.json", "index.json", "oci-layout", "config.json"];

/// The bytes as a document of an image archive whose other parts are as they should be: it is loaded or refused.
pub fn load(bytes: &[u8]) {
    use brig_tests::corpus::{ship::Shipment, tar::Tar};
    let Some((which, body)) = bytes.split_first() else { return };
    let name = DOCUMENTS[usize::from(*which) % DOCUMENTS.len()];
    let parts = Shipment::of(&Tar::new().file("etc/hello", b"hello").finish(), Dress::Plain);
    let (docker, layout) = (parts.docker_archive("fuzz:docker"), parts.oci_archive("fuzz:layout"));
    let base = if matches!(name, "manifest.json" | "config.json") { docker } else { layout };
    // The last member of a name is the one that counts.
    let whole = [&base[..base.len() - 1024], &Tar::new().file(name, body).finish()].concat();
    on_a_store(|store| {
        drop(brig_store::archive::load(store, &whole[..], &[], &mut |_| {}));
    });
}

/// Reads headers of a registry: what comes out can be asked for.
pub fn header(bytes: &[u8]) {
    use brig_registry::headers;
    let text = String::from_utf8_lossy(bytes);
    headers::token_servers(&text);
    if let Some(query) = headers::next_page(&text) {
        assert!(query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'), "{query:?}");
    }
    if let Some((origin, target)) = headers::location(&text) {
        assert!(origin.starts_with("http://") || origin.starts_with("https://"), "{origin:?}");
        assert!(!origin.contains('@') && target.starts_with('/'), "{origin:?} {target:?}");
        assert!(target.bytes().all(|byte| byte > b' ' && byte != 0x7f), "{target:?}");
    }
}

fn unpack(store: &brig_store::Store, tar: &[u8], parent: Option<&Digest>) -> Option<Digest> {
    let mut ingest = store.begin_layer().unwrap();
    ingest.unpack(tar).ok()?;
    store.commit_layer(ingest, parent).ok().map(|layer| layer.chain_id)
}

fn outside(place: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(place).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// Compressed streams: they end or fail.
pub fn decompress(bytes: &[u8]) {
    for head in [&[][..], &[0x1f, 0x8b, 8], &[0x28, 0xb5, 0x2f, 0xfd]] {
        let stream = [head, bytes].concat();
        if let Ok(reader) = brig_store::decompress(&stream[..]) {
            std::io::copy(&mut reader.take(ENOUGH), &mut std::io::sink()).ok();
        }
    }
}

/// gzip streams that were made from the bytes, and the bytes as one: what has a recipe is made again from it.
pub fn recipe(bytes: &[u8]) {
    use std::io::Write;
    let (level, text) = bytes.split_first().map_or((6, bytes), |(first, rest)| (u32::from(first % 10), rest));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(level));
    encoder.write_all(text).unwrap();
    for stream in [encoder.finish().unwrap(), bytes.to_vec()] {
        let mut recipe = Vec::new();
        if brig_deflate::analyse(&stream[..], &mut recipe, &mut || true).is_err() {
            continue;
        }
        let mut text = Vec::new();
        let mut decoder = flate2::read::MultiGzDecoder::new(&stream[..]);
        if decoder.read_to_end(&mut text).is_err() {
            continue;
        }
        let mut again = Vec::new();
        let rebuilt = brig_deflate::rebuild(&text[..], &recipe[..], 1).map_err(|error| error.to_string());
        let rebuilt =
            rebuilt.and_then(|made| made.take(ENOUGH).read_to_end(&mut again).map_err(|error| error.to_string()));
        assert!(rebuilt.is_ok() && again == stream, "{rebuilt:?}: {} of {} bytes", again.len(), stream.len());
    }
}

/// The bytes as a recipe: it ends or fails.
pub fn rebuild(bytes: &[u8]) {
    let at = bytes.len() / 2;
    for head in [&[][..], b"brigdef1"] {
        let recipe = [head, &bytes[..at]].concat();
        let made = brig_deflate::rebuild(Cursor::new(bytes[at..].to_vec()), Cursor::new(recipe), 1);
        let Ok(made) = made else { continue };
        std::io::copy(&mut made.take(ENOUGH), &mut std::io::sink()).ok();
    }
}

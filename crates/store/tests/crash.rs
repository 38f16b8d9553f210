//! A process is killed at every step of what it does to a store; then the store is whole, and doing it again succeeds.
//! Needs strace. Sampled here; `BRIG_CRASH=all cargo test -p brig-store --test crash` tries every step.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stderr, reason = "tests")]

mod common;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use brig_oci::Digest;
use brig_store::{CheckOptions, Finding, ImageRecord, Lease, Store, UploadLimits, archive};
use common::Tar;

/// As many uploads as anybody may want.
const ANY: UploadLimits = UploadLimits { all: 1000, client: 1000 };

const OLD: &str = "docker.io/library/old:latest";
const NEW: &str = "docker.io/library/new:latest";

/// A name, and what is done with the store in a directory.
type Operation = (&'static str, fn(&Path));

/// What is done. All work on a store that has the image `old` with two layers, a container on it, and unused things.
const OPERATIONS: &[Operation] = &[
    ("load", load),
    ("import", import),
    ("pull", pull),
    ("tag", tag),
    ("rmi", rmi),
    ("prune", prune),
    ("container", container),
    ("repair", repair),
    ("open", open_only),
    ("rescue", rescue),
    ("commit", commit),
    ("pack", pack),
    ("registry", registry),
];

/// The steps at which a process is killed: before the nth call of a kind, counted for each thread.
const STEPS: &[&str] = &[
    "renameat,renameat2,rename",
    "fsync,fdatasync,syncfs",
    "unlinkat,unlink",
    "mkdirat,mkdir",
    "pwrite64,write,ftruncate",
    "openat,openat2",
];

/// Where the killed process works, and on what.
const ROOT: &str = "BRIG_CRASH_ROOT";
const OPERATION: &str = "BRIG_CRASH_OPERATION";

fn old_tars() -> [Vec<u8>; 2] {
    let shared = Tar::new().dir("etc", 0o755).file("etc/shared", &[1; 3000]).symlink("l", "etc").finish();
    [shared, Tar::new().file("etc/old", b"old").finish()]
}

fn new_tars() -> [Vec<u8>; 2] {
    let [shared, _] = old_tars();
    [shared, Tar::new().file("etc/new", b"new").file("etc/.wh.shared", b"").finish()]
}

fn old_image() -> Digest {
    let [a, b] = old_tars();
    brig_store::digest::sha256_of(&common::config(&[&a, &b]))
}

/// The store before anything happens, and beside it an archive of the new image.
fn base() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("v1");
    let make = |root: &Path, tars: [Vec<u8>; 2], name: &str| {
        let store = Store::open(root).unwrap();
        let id = common::image(&store, &[&tars[0], &tars[1]]);
        store.tag(name, &id, None).unwrap();
        (store, id)
    };
    let (other, _) = make(&dir.path().join("other"), new_tars(), NEW);
    let names = vec![brig_oci::Reference::parse(NEW).unwrap()];
    let chosen = archive::Chosen { id: other.resolve(NEW).unwrap().image, names, index: Vec::new(), original: None };
    let mut bytes = Vec::new();
    archive::save(&other, &[chosen]).unwrap().write(&mut bytes).unwrap();
    std::fs::write(dir.path().join("archive"), bytes).unwrap();
    let (store, id) = make(&root, old_tars(), OLD);
    let layers = store.prepare("container", store.image(&id).unwrap().chain_id.as_ref()).unwrap();
    std::fs::write(layers.upper.join("precious"), b"precious").unwrap();
    common::layer(&store, &Tar::new().file("unused", b"unused").finish(), None);
    store.put_blob(b"{\"unused\":true}").unwrap();
    store.upkeep().settle().unwrap();
    drop((store, other));
    std::fs::remove_dir_all(dir.path().join("other")).unwrap();
    (dir, root)
}

fn open(root: &Path) -> Store {
    Store::open(root).unwrap()
}

fn load(root: &Path) {
    let file = std::fs::File::open(root.parent().unwrap().join("archive")).unwrap();
    archive::load(&open(root), file, &[], &mut |_| ()).unwrap();
}

fn import(root: &Path) {
    let config = brig_oci::ImageConfig { architecture: "amd64".into(), os: "linux".into(), ..Default::default() };
    archive::import(&open(root), &new_tars()[0][..], config, Some(NEW)).unwrap();
}

/// As the registry's half does it: what is missing is spooled, unpacked, committed.
fn pull(root: &Path) {
    let store = open(root);
    let _lease = Lease::begin(&store);
    let mut parent: Option<Digest> = None;
    for (n, tar) in new_tars().iter().enumerate() {
        let diff_id = brig_store::digest::sha256_of(tar);
        let chain = brig_store::digest::chain_id(parent.as_ref(), &diff_id);
        if store.layer(&chain).is_none() {
            let spooled = store.partials().open(&format!("layer-{n}")).unwrap();
            let there = usize::try_from(spooled.len()).unwrap();
            spooled.append(&tar[there..]).unwrap();
            common::layer(&store, tar, parent.as_ref());
            spooled.discard().unwrap();
        }
        parent = Some(chain);
    }
    let tars = new_tars();
    let id = store.put_blob(&common::config(&[&tars[0], &tars[1]])).unwrap();
    store.put_image(ImageRecord::new(id.clone(), None)).unwrap();
    store.tag(NEW, &id, None).unwrap();
}

fn tag(root: &Path) {
    let store = open(root);
    let image = store.resolve(OLD).unwrap().image;
    store.tag(NEW, &image, None).unwrap();
    store.untag(NEW).unwrap();
    store.tag(NEW, &image, None).unwrap();
}

fn rmi(root: &Path) {
    let store = open(root);
    store.remove_image(&old_image()).unwrap();
    store.gc(&[]).unwrap();
    store.wait_for_removals();
}

fn prune(root: &Path) {
    let store = open(root);
    store.upkeep().freed_by(|| store.upkeep().prune()).unwrap();
}

fn container(root: &Path) {
    let store = open(root);
    let chain = store.image(&old_image()).unwrap().chain_id;
    store.prepare("second", chain.as_ref()).unwrap();
    store.remove_active("second").unwrap();
    store.prepare("second", chain.as_ref()).unwrap();
}

/// The container's changes become a layer and an image.
fn commit(root: &Path) {
    let store = open(root);
    let _lease = Lease::begin(&store);
    let layer = brig_store::commit_active(&store, "container").unwrap().unwrap();
    let [shared, old] = old_tars();
    let mut diff_ids: Vec<Digest> = [&shared, &old].map(|tar| brig_store::digest::sha256_of(tar)).into();
    diff_ids.push(layer.diff_id);
    let diff_ids: Vec<String> = diff_ids.iter().map(|digest| format!("\"{digest}\"")).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let id = store.put_blob(config.as_bytes()).unwrap();
    store.put_image(ImageRecord::new(id.clone(), None)).unwrap();
    store.tag(NEW, &id, None).unwrap();
}

/// The compressed form in which a layer came: spooled, kept, and made a recipe of.
fn pack(root: &Path) {
    let store = open(root);
    let _lease = Lease::begin(&store);
    let (blob, diff_id) = (packed_blob(root), brig_store::digest::sha256_of(&packed_tar()));
    if store.layer(&diff_id).is_none() {
        common::layer(&store, &packed_tar(), None);
    }
    let digest = brig_store::digest::sha256_of(&blob);
    let packed = brig_store::Packed::of(&store);
    if packed.forms(&diff_id).unwrap().is_empty() {
        let spooled = store.partials().open("form").unwrap();
        let there = usize::try_from(spooled.len()).unwrap();
        spooled.append(&blob[there..]).unwrap();
        packed.keep(spooled, &digest, &diff_id, "application/vnd.oci.image.layer.v1.tar+gzip").unwrap();
    }
    packed.wait();
    assert!(packed.forms(&diff_id).unwrap()[0].has_recipe);
    let mut made = Vec::new();
    std::io::Read::read_to_end(&mut packed.blob(&digest).unwrap(), &mut made).unwrap();
    assert!(made == blob);
}

/// Large enough for a recipe to be worth it.
fn packed_tar() -> Vec<u8> {
    let text: String = (0..20_000).map(|n: u32| format!("{} of {}\n", n.wrapping_mul(2_654_435_761), n % 97)).collect();
    Tar::new().file("text", text.as_bytes()).finish()
}

/// That layer as a program would send it.
fn packed_blob(root: &Path) -> Vec<u8> {
    let path = root.parent().unwrap().join("blob.gz");
    if !path.exists() {
        std::fs::write(path.with_extension(""), packed_tar()).unwrap();
        assert!(Command::new("gzip").args(["-nf6"]).arg(path.with_extension("")).status().unwrap().success());
    }
    std::fs::read(path).unwrap()
}

/// A push to a registry and a delete: an upload, a blob, its link, two manifests, one of which goes again with what it held.
fn registry(root: &Path) {
    let store = open(root);
    let repositories = brig_store::Repositories::of(&store);
    let push = |bytes: &[u8]| {
        let _lease = Lease::begin(&store);
        let digest = brig_store::digest::sha256_of(bytes);
        if repositories.blob_size("team/app", &digest).unwrap().is_some() {
            return digest;
        }
        let id = repositories.uploads().begin("team/app", "", "", ANY).unwrap().unwrap();
        let upload = store.partials().open(&format!("upload-{id}")).unwrap();
        upload.append(bytes).unwrap();
        upload.commit(&digest).unwrap();
        repositories.link_blob("team/app", &digest, bytes.len() as u64).unwrap();
        repositories.uploads().end(&id).unwrap();
        digest
    };
    let manifest = |layer: &Digest, tag: &str| {
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let entry = format!(r#"{{"mediaType":"a/b","digest":"{layer}","size":1}}"#);
        let text = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{entry},"layers":[{entry}]}}"#);
        let digest = brig_store::digest::sha256_of(text.as_bytes());
        let new = brig_store::NewManifest {
            source: brig_store::Source::Push,
            digest: &digest,
            bytes: text.as_bytes(),
            media_type,
            blobs: std::slice::from_ref(layer),
            manifests: &[],
            subject: None,
            artifact_type: None,
            annotations: &std::collections::BTreeMap::new(),
        };
        let put = repositories.put_manifest("team/app", &new, &[tag.to_owned()]).unwrap();
        assert_eq!(put, brig_store::PutManifest::Done);
        digest
    };
    manifest(&push(b"kept layer"), "kept");
    let gone = manifest(&push(b"layer that goes"), "gone");
    repositories.delete_manifest("team/app", &gone).unwrap();
    repositories.tidy(std::time::Duration::ZERO, false, &[]).unwrap();
    for id in repositories.uploads().expire(std::time::Duration::ZERO).unwrap() {
        store.partials().open(&format!("upload-{id}")).unwrap().discard().unwrap();
    }
    store.gc(&[]).unwrap();
}

/// A layer that nothing uses and a file are to be set aside.
fn repair(root: &Path) {
    let store = open(root);
    std::fs::write(root.join("stray"), b"stray").unwrap();
    let unused = brig_store::digest::sha256_of(&Tar::new().file("unused", b"unused").finish());
    std::fs::write(common::diff(&store, &unused).join("unused"), b"changed").ok();
    check(&store, true);
}

fn open_only(root: &Path) {
    open(root).upkeep().settle().unwrap();
}

/// The database is garbage, unless it has been rescued already.
fn rescue(root: &Path) {
    if !root.join("garbled").exists() {
        std::fs::write(root.join("brig.db"), vec![0x5a; 20_000]).unwrap();
        std::fs::remove_file(root.join("brig.db-wal")).ok();
        std::fs::write(root.join("garbled"), b"").unwrap();
    }
    open(root).upkeep().settle().unwrap();
}

fn check(store: &Store, repair: bool) -> Vec<Finding> {
    let mut found = Vec::new();
    store.upkeep().check(CheckOptions { full: true, repair }, &mut |finding| found.push(finding)).unwrap();
    found
}

/// What the tests start to be killed.
#[test]
fn the_killed_process() {
    let (Ok(name), Ok(root)) = (std::env::var(OPERATION), std::env::var(ROOT)) else { return };
    let (_, operation) = OPERATIONS.iter().find(|(known, _)| *known == name).unwrap();
    operation(Path::new(&root));
}

fn child(strace: &[&str], name: &str, root: &Path) -> std::process::ExitStatus {
    Command::new("strace")
        .args(["-f", "-qq"])
        .args(strace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "the_killed_process", "--test-threads=1", "-q"])
        .env(OPERATION, name)
        .env(ROOT, root)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap()
}

fn has_strace() -> bool {
    if Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success()) {
        return true;
    }
    eprintln!("SKIPPED: this needs strace");
    if let Some(path) = std::env::var_os("BRIG_SKIPS") {
        let file = std::fs::File::options().create(true).append(true).open(path).unwrap();
        writeln!(&file, "store crash tests: strace is not there").unwrap();
    }
    false
}

/// Whole, whatever happened; `old` is as it was unless it was to be removed.
fn whole(store: &Store, name: &str, when: &str) {
    let found: Vec<Finding> = check(store, false)
        .into_iter()
        // What the operation itself set out with.
        .filter(|finding| !(name == "repair" && !finding.mended && finding.advice.is_none()))
        .filter(|finding| finding.kind != "database" && !finding.name.ends_with("/garbled"))
        .collect();
    assert_eq!(found, [], "{name}, killed before {when}");
    assert!(store.active("container").is_some(), "{name}, killed before {when}: the container");
    assert_eq!(std::fs::read(store.active("container").unwrap().upper.join("precious")).unwrap(), b"precious");
    if name != "rmi" {
        assert_eq!(store.resolve(OLD).map(|tag| tag.image), Some(old_image()), "{name}, killed before {when}");
    }
    for tag in store.tags() {
        let chain = store.image(&tag.image).unwrap().chain_id.unwrap();
        std::io::copy(&mut store.layer_tar(&chain).unwrap(), &mut std::io::sink()).unwrap();
    }
}

/// One at a time: a process that another test is about to start has this one's locks until it runs its program.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn sweep(name: &str, operation: fn(&Path)) {
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let (base, _) = base();
    let all = std::env::var("BRIG_CRASH").is_ok_and(|value| value == "all");
    for step in if all { STEPS } else { &STEPS[..4] } {
        let (mut n, mut stride) = (1, 1);
        loop {
            let dir = tempfile::tempdir().unwrap();
            let copied =
                Command::new("cp").arg("-a").arg(format!("{}/.", base.path().display())).arg(dir.path()).status();
            assert!(copied.unwrap().success());
            let root = dir.path().join("v1");
            let inject = format!("inject={step}:signal=KILL:when={n}");
            let status = child(&["-o", "/dev/null", "-e", &format!("trace={step}"), "-e", &inject], name, &root);
            let when = format!("{step} {n}");
            let store = open(&root);
            whole(&store, name, &when);
            drop(store);
            operation(&root);
            let store = open(&root);
            whole(&store, name, &format!("{when}, and done again"));
            store.upkeep().prune().unwrap();
            store.wait_for_removals();
            assert_eq!((common::count(&store, "ingest"), common::count(&store, "trash")), (0, 0), "{name}, {when}");
            let layers = if matches!(name, "load" | "pull" | "commit") { 3 } else { 2 };
            assert_eq!(common::count(&store, "layers"), layers, "{name}, killed before {when}: nothing is left over");
            if status.success() {
                break;
            }
            if !all {
                // The first few of a kind are where things begin; later ones repeat.
                stride = if n < 4 { 1 } else { stride * 2 };
            }
            n += stride;
        }
    }
}

macro_rules! swept {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            let name = stringify!($name).strip_prefix("killed_in_").unwrap();
            let (_, operation) = OPERATIONS.iter().find(|(known, _)| *known == name).unwrap();
            if has_strace() {
                sweep(name, *operation);
            }
        })*
    };
}

swept! {
    killed_in_load, killed_in_import, killed_in_pull, killed_in_tag, killed_in_rmi, killed_in_prune, killed_in_container,
    killed_in_repair, killed_in_open, killed_in_rescue, killed_in_commit, killed_in_pack, killed_in_registry
}

/// Nothing is renamed to where it counts before its bytes are on the disk, and the rename itself is on the disk before
/// success is told.
#[test]
fn what_is_published_is_synced_before_and_after() {
    if !has_strace() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (name, _) in OPERATIONS
        .iter()
        .filter(|(name, _)| matches!(*name, "load" | "import" | "pull" | "open" | "rescue" | "commit" | "registry"))
    {
        let (_dir, root) = base();
        let trace = root.with_extension("trace");
        let calls = "trace=renameat,renameat2,rename,fsync,fdatasync,syncfs";
        let status = child(&["-y", "-s", "4096", "-o", trace.to_str().unwrap(), "-e", calls], name, &root);
        assert!(status.success(), "{name}");
        let published = audit(&std::fs::read_to_string(&trace).unwrap(), &root);
        assert!(published > 0, "{name}: nothing was published");
    }
}

/// Reads a trace in which descriptors have their paths; tells how many renames into the store's own directories it has.
fn audit(trace: &str, root: &Path) -> usize {
    let lines: Vec<&str> = trace.lines().filter(|line| !line.contains("ENOENT") && !line.contains("EEXIST")).collect();
    let path_of = |text: &str| {
        let inside = text.split_once('<').unwrap().1;
        inside.split_once('>').unwrap().0.to_owned()
    };
    let name_of = |text: &str| text.split('"').nth(1).unwrap().to_owned();
    let mut published = 0;
    for (at, line) in lines.iter().enumerate() {
        let Some(call) = line.split_once("rename").map(|(_, call)| call) else { continue };
        let arguments = call.split_once('(').unwrap().1;
        let (from, to) = if call.starts_with("at") {
            let parts: Vec<&str> = arguments.splitn(4, ", ").collect();
            let whole = |dir: &str, name: &str| match name.starts_with('/') {
                true => name.to_owned(),
                false => format!("{}/{name}", path_of(dir)),
            };
            (whole(parts[0], &name_of(parts[1])), whole(parts[2], &name_of(parts[3])))
        } else {
            let (from, to) = arguments.split_once(", ").unwrap();
            (name_of(from), name_of(to))
        };
        let Ok(place) = Path::new(&to).strip_prefix(root) else { continue };
        if place.starts_with("trash") || place.starts_with("quarantine") {
            continue;
        }
        published += 1;
        let before = lines[..at].iter().any(|line| {
            line.contains("syncfs(")
                || (line.contains("fsync(") || line.contains("fdatasync(")) && path_of(line) == from
        });
        assert!(before, "{from} was renamed to {to} before it was synced:\n{trace}");
        let directory = Path::new(&to).parent().unwrap().to_str().unwrap();
        let after = lines[at..].iter().any(|line| line.contains("fsync(") && path_of(line) == directory);
        assert!(after, "{directory} was not synced after {to} was renamed into it:\n{trace}");
    }
    published
}

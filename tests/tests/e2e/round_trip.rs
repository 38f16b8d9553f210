//! Images that others pushed, pulled and pushed again to an empty registry: the same manifest, byte for byte, although each
//! layer is kept once. The others are those of Debian: Docker, skopeo, podman; and brig itself.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use brig_tests::registry::Registry;
use brig_tests::{Image, Layer, Run, TestHost, eventually, needs};

/// What layers are made of: programs, text and small files of the machine's own, of several stretches.
fn image() -> Image {
    let layer = |folder: &str, most: usize| {
        let mut layer = Layer::new().dir("data", 0o755);
        let (mut todo, mut total) = (vec![Path::new(folder).to_path_buf()], 0);
        while let Some(path) = todo.pop() {
            let mut entries: Vec<_> = std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            entries.sort();
            for entry in entries.into_iter().filter(|entry| !entry.is_symlink()) {
                if entry.is_dir() {
                    todo.push(entry);
                } else if total < most {
                    let content = std::fs::read(&entry).unwrap();
                    total += content.len();
                    let name =
                        format!("data/{}", entry.display().to_string().trim_start_matches('/').replace('/', "-"));
                    layer = layer.file(&name, 0o644, content);
                }
            }
        }
        layer
    };
    Image::busybox().with(layer("/usr/bin", 6 << 20), &[]).with(layer("/usr/share", 3 << 20), &[])
}

/// Bytes on the disk beneath a folder; files with several names count once.
fn du(path: &Path) -> u64 {
    let sizes = Run::new("du", &["-s", "-B1", &path.display().to_string()]).output().ok();
    sizes.split_whitespace().next().unwrap().parse().unwrap()
}

/// What somebody has pushed as `name` comes and goes again.
fn comes_back(host: &TestHost, registry: &Registry, repository: &str, has_recipe: bool) {
    let (kind, before) = registry.raw_manifest(repository, "1");
    let name = registry.name(&format!("{repository}:1"));
    host.brig(&["pull", &name]).ok();
    let store = host.data_root.join("v1");
    if has_recipe {
        host.wait_for_recipes();
        let unpacked: u64 =
            std::fs::read_dir(store.join("layers")).unwrap().map(|l| du(&l.unwrap().path().join("diff"))).sum();
        let used: u64 = ["layers", "packed", "blobs", "partial"].iter().map(|folder| du(&store.join(folder))).sum();
        assert!(used * 100 <= unpacked * 105, "{used} bytes are used for {unpacked} unpacked");
    }
    registry.empty();
    host.brig(&["push", &name]).ok();
    let after = registry.raw_manifest(repository, "1");
    assert_eq!((kind, String::from_utf8_lossy(&before)), (after.0, String::from_utf8_lossy(&after.1)));
    host.brig(&["rmi", &name]).ok();
    // Waits until the layers are off the disk.
    host.brig(&["image", "prune", "-f"]).ok();
}

fn archive(host: &TestHost, image: &Image) -> String {
    let path = host.root.join("image.tar");
    std::fs::write(&path, image.docker_archive("image:1")).unwrap();
    path.display().to_string()
}

/// Runs commands of Docker's client with an engine of Docker's own beside the host's.
fn with_docker(host: &TestHost, work: impl FnOnce(&dyn Fn(&[&str]) -> brig_tests::Output)) {
    let root = host.root.display().to_string();
    let script = format!(
        "mount -t tmpfs none /run && exec dockerd --config-file {root}/daemon.json --data-root {root}/docker \
         --exec-root {root}/docker-run -p {root}/docker.pid -H unix://{root}/docker.sock --bridge none --iptables=false \
         --ip-forward=false --cgroup-parent /{}",
        host.name
    );
    let log = std::fs::File::create(host.root.join("engine.log")).unwrap();
    let daemon = host.program("unshare", &["-m", "--propagation", "private", "sh", "-c", &script]).with(|command| {
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    });
    let mut daemon = daemon.spawn();
    let docker = |words: &[&str]| {
        host.program("docker", words).env("DOCKER_HOST", format!("unix://{root}/docker.sock")).output()
    };
    eventually("dockerd answers", || (docker(&["version"]).code == 0).then_some(()));
    work(&docker);
    let pid = rustix::process::Pid::from_raw(daemon.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    daemon.wait().unwrap();
}

#[test]
fn what_docker_pushed() {
    needs!("round_trip::what_docker_pushed", "dockerd");
    needs!("round_trip::what_docker_pushed", "containerd");
    needs!("round_trip::what_docker_pushed", "docker");
    let host = TestHost::new();
    let registry = host.registry();
    let name = registry.name("docker:1");
    with_docker(&host, |docker| {
        docker(&["load", "-i", &archive(&host, &image())]).ok();
        docker(&["tag", "image:1", &name]).ok();
        docker(&["push", &name]).ok();
    });
    comes_back(&host, &registry, "docker", true);
}

/// Clients ask for blobs in their own ways before they push a manifest: whoever has come to an end waits for nothing, so that a prune
/// gives back all that was pushed.
#[test]
fn what_clients_pushed_to_the_engines_registry_goes_with_its_image() {
    needs!("round_trip::what_clients_pushed_to_the_engines_registry_goes_with_its_image", "dockerd");
    needs!("round_trip::what_clients_pushed_to_the_engines_registry_goes_with_its_image", "containerd");
    needs!("round_trip::what_clients_pushed_to_the_engines_registry_goes_with_its_image", "docker");
    needs!("round_trip::what_clients_pushed_to_the_engines_registry_goes_with_its_image", "skopeo");
    let host = TestHost::with(&["--serve-registry", "127.0.0.1:5000"]);
    let from = archive(&host, &image());
    let gone = |client: &str, name: &str| {
        host.brig(&["rmi", name]).ok();
        host.brig(&["image", "prune", "-af"]).ok();
        println!("{client}");
        host.nothing_is_left();
    };
    with_docker(&host, |docker| {
        docker(&["load", "-i", &from]).ok();
        docker(&["tag", "image:1", "127.0.0.1:5000/docker:1"]).ok();
        for _ in 0..2 {
            // The second time everything is there.
            docker(&["push", "127.0.0.1:5000/docker:1"]).ok();
        }
    });
    gone("docker", "docker:1");
    let from = format!("docker-archive:{from}");
    for _ in 0..2 {
        let words =
            ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false", &from, "docker://127.0.0.1:5000/copy:1"];
        host.program("skopeo", &words).output().ok();
    }
    gone("skopeo", "copy:1");
    host.brig(&["load", "-i", from.trim_start_matches("docker-archive:")]).ok();
    host.brig(&["tag", "image:1", "127.0.0.1:5000/brig:1"]).ok();
    host.brig(&["push", "127.0.0.1:5000/brig:1"]).ok();
    host.brig(&["rmi", "image:1", "127.0.0.1:5000/brig:1"]).ok();
    gone("brig", "brig:1");
}

#[test]
fn what_skopeo_pushed() {
    needs!("round_trip::what_skopeo_pushed", "skopeo");
    let host = TestHost::new();
    let registry = host.registry();
    let from = format!("docker-archive:{}", archive(&host, &image()));
    let copy = |to: &str, more: &[&str]| {
        let to = format!("docker://{}", registry.name(to));
        let words = ["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"];
        host.program("skopeo", &[&words, more, &[from.as_str(), to.as_str()]].concat()).output().ok();
    };
    copy("gzip:1", &[]);
    comes_back(&host, &registry, "gzip", true);
    copy("best:1", &["--dest-compress-format", "gzip", "--dest-compress-level", "9", "-f", "oci"]);
    comes_back(&host, &registry, "best", true);
    // Its zstd is not made again by anything we have: the compressed layers stay.
    copy("zstd:1", &["--dest-compress-format", "zstd", "-f", "oci"]);
    comes_back(&host, &registry, "zstd", false);
}

#[test]
fn what_podman_pushed() {
    needs!("round_trip::what_podman_pushed", "podman");
    let host = TestHost::new();
    let registry = host.registry();
    let path = |name: &str| host.root.join(name).display().to_string();
    let podman = |words: &[&str]| {
        let (storage, run, tmp) = (path("podman"), path("podman-run"), path("podman-tmp"));
        let own = ["--root", &storage, "--runroot", &run, "--tmpdir", &tmp, "--cgroup-manager", "cgroupfs"];
        host.program("podman", &[&own, words].concat()).output().ok();
    };
    let name = registry.name("podman:1");
    podman(&["load", "-i", &archive(&host, &image())]);
    podman(&["push", "--tls-verify=false", "localhost/image:1", &name]);
    comes_back(&host, &registry, "podman", true);
}

#[test]
fn what_brig_pushed() {
    let host = TestHost::new();
    let registry = host.registry();
    let name = registry.name("brig:1");
    host.brig(&["load", "-i", &archive(&host, &image())]).ok();
    host.brig(&["tag", "image:1", &name]).ok();
    host.brig(&["push", &name]).ok();
    host.brig(&["rmi", "image:1", &name]).ok();
    comes_back(&host, &registry, "brig", true);
}

/// What the store keeps compressed for good is not waited for.
#[test]
fn what_an_unknown_program_packed_is_decided_on() {
    let host = TestHost::new();
    let registry = host.registry();
    registry.push(&Image::busybox(), "app", "1");
    host.brig(&["pull", &registry.name("app:1")]).ok();
    let begun = std::time::Instant::now();
    host.wait_for_recipes();
    assert!(begun.elapsed() < Duration::from_secs(60), "waited {:?}", begun.elapsed());
    let files = std::fs::read_dir(host.data_root.join("v1/packed")).unwrap();
    let kept = files.filter(|file| file.as_ref().unwrap().path().extension().is_some()).count();
    assert_eq!(kept, Image::busybox().layers.len());
}

//! docker-py, the library that most programs in Python use, on all that it knows of images.

use brig_tests::TestHost;

#[test]
fn images() {
    // A Python that has the library, where that is not Debian's own.
    let python = std::env::var("BRIG_DOCKER_PY").unwrap_or_else(|_| "/usr/bin/python3".to_owned());
    let host = TestHost::new();
    if !std::path::Path::new(&python).exists() || host.run(&*python, &["-c", "import docker"]).output().code != 0 {
        return brig_tests::skip::skip("docker_py::images", "docker-py (python3-docker) is not installed");
    }
    let registry = host.registry();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/docker_py/images.py");
    let socket = host.socket().display().to_string();
    let said = host.run(&*python, &[script, &socket, &registry.name("py")]).output();
    assert_eq!(said.ok(), "all as with Docker");
}

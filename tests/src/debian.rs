//! Debians made by `mmdebstrap` from the machine's own package sources and kept under target/: a small one with nginx in
//! it, and others by recipe.
//! Owns the recipe and the cache; one process makes it while others wait.

use crate::command::Run;
use crate::image::{Image, digest};
use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The suite and what is left out; part of the cache's key.
const RECIPE: &[&str] = &[
    "--variant=minbase",
    "--include=nginx-light",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/info/*",
    "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/* $1/var/cache/debconf/*-old",
    "bookworm",
];

/// The image: nginx in the foreground, port 80. None where `mmdebstrap` is not installed.
pub fn nginx() -> Option<Image> {
    let tar = std::fs::read(root("nginx", RECIPE)?).expect("the cached Debian can be read");
    let command = ["nginx", "-g", "daemon off; error_log /dev/stderr;"];
    Some(Image::new(
        vec![tar],
        json!({
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": command,
            "ExposedPorts": {"80/tcp": {}},
            "StopSignal": "SIGQUIT",
        }),
    ))
}

/// The tar of a Debian by a recipe (arguments of `mmdebstrap`), made once. None where `mmdebstrap` is not installed.
pub fn root(name: &str, recipe: &[&str]) -> Option<PathBuf> {
    crate::skip::program("mmdebstrap")?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-images");
    std::fs::create_dir_all(&folder).expect("the cache can be made");
    let key = digest(recipe.join("\n").as_bytes());
    let path = folder.join(format!("debian-{name}-{}.tar", &key[7..19]));
    let lock = std::fs::File::create(folder.join("lock")).expect("the cache's lock can be made");
    flock(&lock, FlockOperation::LockExclusive).expect("the cache can be locked");
    if !path.exists() {
        let part = path.with_extension("part.tar");
        let mut arguments = recipe.to_vec();
        let target = part.display().to_string();
        arguments.push(&target);
        Run::new("mmdebstrap", &arguments)
            .env("SOURCE_DATE_EPOCH", "1700000000")
            .limit(Duration::from_secs(900))
            .output()
            .ok();
        std::fs::rename(part, &path).expect("the image was made");
    }
    Some(path)
}

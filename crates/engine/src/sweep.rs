//! What a killed daemon left half-made: directories that no record owns. Owns removing them at the next start; must not
//! touch anything whose record exists, readable or not, nor delete anything with data in it.

use std::collections::BTreeSet;
use std::path::Path;

use brig_store::Store;

use crate::container::Launcher;

/// Names of the directories directly below `parent`.
pub(crate) fn names(parent: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| e.file_name().into_string().ok())
        .collect()
}

/// Whether this is how brig names a container's directories; anything else below our roots is somebody's own.
pub(crate) fn is_container_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether a directory has anything in it.
fn is_empty(path: &Path) -> bool {
    std::fs::read_dir(path).map_or(true, |mut entries| entries.next().is_none())
}

/// Moves to the quarantine what has data in it: its record was lost, for a removal takes the record last.
fn set_aside(store: &Store, path: &Path, kind: &str) {
    match store.upkeep().set_aside(path, kind) {
        Ok(Some(kept)) => {
            tracing::error!("{} belongs to no container: it is kept as {}", path.display(), kept.display())
        }
        Ok(None) => {}
        Err(e) => tracing::error!("{}: {e}", path.display()),
    }
}

/// Removes writable layers, state directories and empty volume directories that nothing owns. What has data in it goes to
/// the quarantine. Blocking.
pub fn stored(store: &Store, containers: &BTreeSet<String>, volumes: &BTreeSet<String>) {
    for key in store.active_keys().iter().filter(|key| !containers.contains(*key)) {
        let path = store.root().join("active").join(key);
        if !is_empty(&path.join("upper")) {
            set_aside(store, &path, "active");
        }
        report("writable layer", key, store.remove_active(key));
    }
    let states = store.root().join("containers");
    for name in names(&states).iter().filter(|name| is_container_id(name) && !containers.contains(*name)) {
        let (path, log) = (states.join(name), format!("{name}-json.log"));
        if path.join(log).metadata().is_ok_and(|log| log.len() > 0) {
            set_aside(store, &path, "containers");
        } else {
            report("state directory", name, store.discard(&path));
        }
    }
    let directory = store.root().join("volumes");
    for name in names(&directory).iter().filter(|name| !volumes.contains(*name)) {
        let path = directory.join(name);
        if is_empty(&path.join("_data")) {
            report("empty volume directory", name, store.discard(&path));
        } else {
            tracing::warn!("{} has files but no record: it is left alone", path.display());
        }
    }
}

/// Ends and removes runs that no record owns.
pub async fn running(exec_root: &Path, containers: &BTreeSet<String>, launcher: &Launcher) {
    for name in names(exec_root).iter().filter(|name| is_container_id(name) && !containers.contains(*name)) {
        let path = exec_root.join(name);
        launcher.clean_up(&path).await;
        report("run directory", name, std::fs::remove_dir_all(&path));
    }
}

fn report<E: std::fmt::Display>(what: &str, name: &str, result: std::result::Result<(), E>) {
    match result {
        Ok(()) => tracing::info!("removed the {what} {name}, which an earlier daemon left half-made"),
        Err(e) => tracing::warn!("remove the {what} {name}: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owned_or_full_stays() {
        let base = tempfile::tempdir().unwrap();
        let store = Store::open(&base.path().join("v1")).unwrap();
        let (owned, stray) = ("a".repeat(64), "b".repeat(64));
        for id in [&owned, &stray] {
            store.prepare(id, None).unwrap();
            std::fs::create_dir_all(store.root().join("containers").join(id)).unwrap();
        }
        for volume in ["kept", "full", "empty"] {
            std::fs::create_dir_all(store.root().join("volumes").join(volume).join("_data")).unwrap();
        }
        std::fs::write(store.root().join("volumes/full/_data/file"), "precious").unwrap();
        let (written, logged) = ("c".repeat(64), "d".repeat(64));
        let layers = store.prepare(&written, None).unwrap();
        std::fs::write(layers.upper.join("file"), "precious").unwrap();
        let log = store.root().join("containers").join(&logged);
        std::fs::create_dir_all(&log).unwrap();
        std::fs::write(log.join(format!("{logged}-json.log")), "{}").unwrap();
        stored(&store, &BTreeSet::from([owned.clone()]), &BTreeSet::from(["kept".to_owned()]));
        let date = std::fs::read_dir(store.root().join("quarantine")).unwrap().next().unwrap().unwrap().path();
        assert!(date.join("active").join(&written).join("upper/file").exists());
        assert!(date.join("containers").join(&logged).exists());
        assert_eq!(store.active_keys(), std::slice::from_ref(&owned));
        assert_eq!(names(&store.root().join("containers")), [owned]);
        let mut left = names(&store.root().join("volumes"));
        left.sort();
        assert_eq!(left, ["full", "kept"]);
    }
}

//! The rules that look at the workspace: which crate may use which, lints switched on, names that must not appear.
//! Owns the table of arrows; it is the one in ARCHITECTURE.md.

use super::Finding;
use std::path::{Path, PathBuf};

/// Each crate and the crates of ours that it may use, in its product code.
const ARROWS: &[(&str, &[&str])] = &[
    ("sys", &[]),
    ("oci", &[]),
    ("api", &[]),
    ("deflate", &[]),
    ("store", &["deflate", "oci", "sys"]),
    ("registry", &["oci", "store"]),
    ("registry-server", &["oci", "registry", "store"]),
    ("network", &["sys"]),
    ("runtime", &["oci", "sys"]),
    ("shim", &["oci", "runtime", "sys"]),
    ("engine", &["api", "network", "oci", "registry", "shim", "store"]),
    ("daemon", &["api", "engine", "registry-server", "sys"]),
    ("cli", &["api"]),
    ("brig", &["cli", "daemon"]),
];

/// What a path on somebody's own machine looks like. Split, so that this file does not break its own rule.
const PRIVATE: &[&str] = &[
    concat!("/wo", "rk/main"),
    concat!("/wo", "rk/shared"),
    concat!("/wo", "rk/.library"),
    concat!("/tm", "p/plan"),
    concat!("/tm", "p/t/"),
];

/// The only place that dependencies come from.
const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// Checks every crate's manifest.
pub fn check(root: &Path, tracked: &[PathBuf]) -> Result<Vec<Finding>, String> {
    let mut findings = Vec::new();
    for path in tracked {
        if path.file_name().is_none_or(|name| name != "Cargo.toml") || path.parent() == Some(Path::new("")) {
            continue;
        }
        let Ok(text) = std::fs::read_to_string(root.join(path)) else { continue };
        findings.extend(manifest(path, &text));
    }
    findings.extend(
        tracked
            .iter()
            .filter(|path| is_utils(path))
            .map(|path| Finding::new(path, 1, "utils: a name that says what it is for, please")),
    );
    let lock = root.join("Cargo.lock");
    let lock = std::fs::read_to_string(&lock).map_err(|error| format!("{}: {error}", lock.display()))?;
    findings.extend(sources(Path::new("Cargo.lock"), &lock));
    Ok(findings)
}

/// A line of a tracked file that names a private path.
pub fn private_names(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some(name) = PRIVATE.iter().find(|name| line.contains(**name)) {
            findings.push(Finding::new(path, number + 1, format!("private path: {name}")));
        }
    }
    findings
}

fn is_utils(path: &Path) -> bool {
    path.components().any(|part| matches!(part.as_os_str().to_str(), Some("utils" | "util" | "utils.rs" | "util.rs")))
}

fn sources(path: &Path, lock: &str) -> Vec<Finding> {
    let foreign =
        |line: &str| line.strip_prefix("source = \"").is_some_and(|source| source.trim_end_matches('"') != CRATES_IO);
    let lines = lock.lines().enumerate().filter(|(_, line)| foreign(line));
    lines
        .map(|(number, line)| Finding::new(path, number + 1, format!("dependency not from crates.io: {line}")))
        .collect()
}

fn manifest(path: &Path, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let (mut table, mut lints) = ("", false);
    let folder = path.parent().and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or("");
    let in_crates = path.starts_with("crates");
    let arrows = ARROWS.iter().find(|(name, _)| *name == folder).map(|(_, arrows)| *arrows);
    if in_crates && arrows.is_none() {
        findings.push(Finding::new(
            path,
            1,
            format!("arrows: crate {folder} is not in the table (xtask/src/tidy/workspace.rs)"),
        ));
    }
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            table = line;
        }
        lints |= table == "[lints]" && line.replace(' ', "") == "workspace=true";
        let is_product = table.ends_with("dependencies]") && !table.contains("dev-dependencies");
        let dependency = line.strip_prefix("brig-").filter(|_| is_product);
        let dependency = dependency.map(|rest| rest.split(['.', ' ', '=']).next().unwrap_or(rest));
        if let (Some(used), Some(arrows), true) = (dependency, arrows, in_crates)
            && !arrows.contains(&used)
        {
            findings.push(Finding::new(path, number + 1, format!("arrows: {folder} may not use {used}")));
        }
    }
    if !lints {
        findings.push(Finding::new(path, 1, "lints: `[lints] workspace = true` is missing"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(findings: &[Finding]) -> Vec<&str> {
        findings.iter().map(|finding| finding.message.as_str()).collect()
    }

    #[test]
    fn arrows_are_as_in_the_table() {
        let store = Path::new("crates/store/Cargo.toml");
        let text = |dependency: &str| format!("[lints]\nworkspace = true\n[dependencies]\n{dependency}\n");
        assert_eq!(manifest(store, &text("brig-oci.workspace = true\nbrig-sys = { path = \"../sys\" }")), []);
        let found = manifest(store, &text("brig-engine.workspace = true"));
        assert_eq!(messages(&found), ["arrows: store may not use engine"]);
        assert_eq!(found[0].line, 4);
        let dev = "[lints]\nworkspace = true\n[dev-dependencies]\nbrig-runtime.workspace = true\n";
        assert_eq!(manifest(store, dev), []);
        let unknown = manifest(Path::new("crates/novel/Cargo.toml"), &text(""));
        assert!(messages(&unknown)[0].starts_with("arrows: crate novel is not in the table"));
    }

    #[test]
    fn every_crate_has_the_lints() {
        let found = manifest(Path::new("tests/Cargo.toml"), "[package]\nname = \"x\"\n");
        assert_eq!(messages(&found), ["lints: `[lints] workspace = true` is missing"]);
    }

    #[test]
    fn private_paths_are_found() {
        let text = format!("fine\nsee {}/x\n", PRIVATE[0]);
        let found = private_names(Path::new("README.md"), &text);
        assert_eq!((found.len(), found[0].line), (1, 2));
        assert_eq!(private_names(Path::new("README.md"), "a container's /work and /root"), []);
    }

    #[test]
    fn dependencies_come_from_crates_io() {
        let lock = format!("source = \"{CRATES_IO}\"\nsource = \"git+https://example.org/x\"\n");
        let found = sources(Path::new("Cargo.lock"), &lock);
        assert_eq!((found.len(), found[0].line), (1, 2));
    }

    #[test]
    fn nothing_is_called_utils() {
        assert!(is_utils(Path::new("crates/utils/src/lib.rs")) && is_utils(Path::new("crates/a/src/util.rs")));
        assert!(!is_utils(Path::new("crates/a/src/utility_of_water.rs")));
    }
}

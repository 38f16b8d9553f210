//! The house rules, each checked by a program. Owns which files are looked at and how findings are shown.
//! What a rule says is in `rules` (one file at a time), `types` (methods of a type) and `workspace` (the crates).

mod rules;
mod source;
mod types;
mod workspace;

use source::Source;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// Something a rule has to say about a place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Beneath the checkout.
    pub path: PathBuf,
    /// Counted from one.
    pub line: usize,
    /// The rule, and what breaks it.
    pub message: String,
    /// A wish only: shown, but no failure.
    pub wish: bool,
}

impl Finding {
    /// A broken rule.
    pub fn new(path: &Path, line: usize, message: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, message: message.into(), wish: false }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wish = if self.wish { "(wish) " } else { "" };
        write!(f, "{}:{}: {wish}{}", self.path.display(), self.line, self.message)
    }
}

/// A Rust file of the project.
#[derive(Debug)]
pub struct File {
    /// Beneath the checkout.
    pub path: PathBuf,
    /// What is in it.
    pub source: Source,
    /// All of it is for tests.
    pub is_test: bool,
}

/// Checks the checkout at `root`, prints what is wrong and says whether anything is.
pub fn run(root: &Path) -> ExitCode {
    match check(root) {
        Ok(findings) => {
            for finding in &findings {
                println!("{finding}");
            }
            let broken = findings.iter().filter(|finding| !finding.wish).count();
            println!("tidy: {broken} broken, {} wishes", findings.len() - broken);
            if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("xtask tidy: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let tracked = tracked(root)?;
    let mut findings = Vec::new();
    let mut files = Vec::new();
    for path in &tracked {
        let Ok(bytes) = std::fs::read(root.join(path)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        findings.extend(workspace::private_names(path, &text));
        if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(File { path: path.clone(), source: Source::new(&text), is_test: false });
        }
    }
    mark_tests(&mut files);
    for file in &files {
        findings.extend(rules::check(file));
    }
    findings.extend(types::check(&files));
    findings.extend(workspace::check(root, &tracked)?);
    findings.sort();
    findings.dedup();
    Ok(findings)
}

/// The files that git knows or would take, so that a new file is checked before its first commit.
fn tracked(root: &Path) -> Result<Vec<PathBuf>, String> {
    let output = Command::new("git")
        .current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .output()
        .map_err(|error| format!("git ls-files: {error}"))?;
    if !output.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let names: BTreeSet<PathBuf> = text.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    Ok(names.into_iter().collect())
}

/// Files beneath a `tests` folder are tests, and so are modules declared under `#[cfg(test)]`.
fn mark_tests(files: &mut [File]) {
    let mut declared: Vec<PathBuf> = Vec::new();
    for file in files.iter() {
        let folder = module_folder(&file.path);
        for (name, path) in source::test_modules(&file.source) {
            if let Some(path) = path {
                let beside = file.path.parent().map_or_else(PathBuf::new, Path::to_owned);
                declared.push(beside.join(path));
            }
            declared.push(folder.join(format!("{name}.rs")));
            declared.push(folder.join(name));
        }
    }
    for file in files {
        let below_tests = file.path.components().any(|part| part.as_os_str() == "tests");
        file.is_test = below_tests || declared.iter().any(|path| file.path.starts_with(path));
    }
}

/// The folder in which a file's child modules live.
fn module_folder(path: &Path) -> PathBuf {
    let parent = path.parent().map_or_else(PathBuf::new, Path::to_owned);
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("lib" | "main" | "mod") | None => parent,
        Some(stem) => parent.join(stem),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> File {
        File { path: PathBuf::from(path), source: Source::new(text), is_test: false }
    }

    #[test]
    fn test_files_are_known_by_their_declaration() {
        let mut files = vec![
            file("crates/a/src/lib.rs", "#[cfg(test)]\nmod rig;\nmod real;\n"),
            file("crates/a/src/rig.rs", ""),
            file("crates/a/src/rig/deep.rs", ""),
            file("crates/a/src/real.rs", "#[cfg(test)]\nmod checks;\n"),
            file("crates/a/src/real/checks.rs", ""),
            file("crates/a/tests/it.rs", ""),
        ];
        mark_tests(&mut files);
        let tests: Vec<bool> = files.iter().map(|file| file.is_test).collect();
        assert_eq!(tests, [false, true, true, false, true, true]);
    }

    #[test]
    fn the_checkout_itself_can_be_read() {
        let root = crate::workspace_root();
        assert!(tracked(&root).unwrap().contains(&PathBuf::from("xtask/src/tidy/mod.rs")));
    }
}

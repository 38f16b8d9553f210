//! The rule about types: few methods, in few files, so that no type grows into the whole program.
//! Owns the counting; must not read the disk.

use super::{File, Finding};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Methods that a type may have.
const METHODS: usize = 40;
/// Files over which its `impl` blocks may be spread.
const FILES: usize = 3;

#[derive(Default)]
struct Tally {
    methods: usize,
    files: BTreeSet<PathBuf>,
}

/// The types that have too many methods, or in too many files. Types of one name in different modules are told apart
/// by the file that declares them where they have one `impl` each, and counted together where they cannot be.
pub fn check(files: &[File]) -> Vec<Finding> {
    let mut tallies: BTreeMap<(PathBuf, String), Tally> = BTreeMap::new();
    for file in files.iter().filter(|file| !file.is_test) {
        for (name, methods) in impls(file) {
            let tally = tallies.entry((declaring(files, file, &name), name)).or_default();
            tally.methods += methods;
            tally.files.insert(file.path.clone());
        }
    }
    let mut findings = Vec::new();
    for ((_, name), tally) in tallies {
        let first = tally.files.first().cloned().unwrap_or_default();
        if tally.methods > METHODS {
            let message = format!("methods: {name} has {}, at most {METHODS}", tally.methods);
            findings.push(Finding::new(&first, 1, message));
        }
        if tally.files.len() > FILES {
            let message = format!("methods: {name} has them in {} files, at most {FILES}", tally.files.len());
            findings.push(Finding::new(&first, 1, message));
        }
    }
    findings
}

/// Where a type that `file` adds methods to is declared: there, or else the one other file of the crate that has it.
fn declaring(files: &[File], file: &File, name: &str) -> PathBuf {
    if declares(file, name) {
        return file.path.clone();
    }
    let own = crate_folder(&file.path);
    let elsewhere = files.iter().find(|other| crate_folder(&other.path) == own && declares(other, name));
    elsewhere.map_or(own, |other| other.path.clone())
}

fn declares(file: &File, name: &str) -> bool {
    let source = &file.source;
    (0..source.tokens.len())
        .any(|index| ["struct", "enum", "union"].into_iter().any(|keyword| source.reads(index, &[keyword, name])))
}

/// `crates/x` of a path beneath it, or its first folder.
fn crate_folder(path: &Path) -> PathBuf {
    let depth = if path.starts_with("crates") { 2 } else { 1 };
    path.components().take(depth).collect()
}

/// The inherent `impl` blocks of a file beside its tests: the type's name, and how many functions each has.
fn impls(file: &File) -> Vec<(String, usize)> {
    let tokens = &file.source.tokens;
    let mut found = Vec::new();
    for (index, token) in tokens.iter().enumerate() {
        let before = index.checked_sub(1).map_or(";", |at| tokens[at].text.as_str());
        let is_item = matches!(before, "}" | ";" | "]" | "{" | "unsafe");
        if token.text != "impl" || !is_item || file.source.in_tests(token.line) {
            continue;
        }
        let Some(open) = (index..tokens.len()).find(|at| tokens[*at].text == "{") else { continue };
        let Some(close) = file.source.closing(open) else { continue };
        let Some(name) = inherent_type(&tokens[index + 1..open].iter().map(|t| t.text.as_str()).collect::<Vec<_>>())
        else {
            continue;
        };
        found.push((name, methods(file, open, close)));
    }
    found
}

/// The type's name in what stands between `impl` and `{`; none where a trait is implemented.
fn inherent_type(words: &[&str]) -> Option<String> {
    let mut depth = 0_i32;
    let mut name = None;
    for (index, word) in words.iter().enumerate() {
        match *word {
            "<" => depth += 1,
            ">" if index > 0 && words[index - 1] != "-" => depth -= 1,
            "for" if depth == 0 => return None,
            "where" if depth == 0 => break,
            word if depth == 0 && word.starts_with(|c: char| c.is_alphabetic() || c == '_') => name = Some(word),
            _ => {}
        }
    }
    name.map(str::to_owned)
}

/// The functions directly inside the braces.
fn methods(file: &File, open: usize, close: usize) -> usize {
    let tokens = &file.source.tokens;
    let (mut at, mut count) = (open + 1, 0);
    while at < close {
        match tokens[at].text.as_str() {
            "{" => at = file.source.closing(at).unwrap_or(close),
            "fn" if tokens[at + 1].text != "(" => count += 1,
            _ => {}
        }
        at += 1;
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::Source;

    fn file(path: &str, text: &str) -> File {
        File { path: PathBuf::from(path), source: Source::new(text), is_test: false }
    }

    fn methods_of(name: &str, count: usize) -> String {
        let each = (0..count).map(|n| format!("pub fn m{n}(&self, f: fn(u8)) {{ if x {{ }} }}\n")).collect::<String>();
        format!("impl<T: Fn() -> u8> {name}<T> where T: Clone {{\n{each}}}\n")
    }

    #[test]
    fn a_type_has_at_most_forty_methods() {
        let fine = [file("crates/a/src/lib.rs", &format!("struct A;{}", methods_of("A", 40)))];
        assert_eq!(check(&fine), []);
        let many = [
            file("crates/a/src/lib.rs", &format!("struct A;{}", methods_of("A", 21))),
            file("crates/a/src/more.rs", &methods_of("super::A", 20)),
        ];
        let found = check(&many);
        assert!(found.len() == 1 && found[0].message == "methods: A has 41, at most 40", "{found:?}");
    }

    #[test]
    fn a_types_methods_are_in_at_most_three_files() {
        let mut files = vec![file("crates/a/src/lib.rs", "struct A; impl A { fn a() {} }")];
        for name in ["b", "c"] {
            files.push(file(&format!("crates/a/src/{name}.rs"), "impl A { fn a() {} }"));
        }
        assert_eq!(check(&files), []);
        files.push(file("crates/a/src/d.rs", "impl A { fn a() {} }"));
        let found = check(&files);
        assert!(found.len() == 1 && found[0].message.contains("in 4 files"), "{found:?}");
    }

    #[test]
    fn other_types_traits_and_tests_do_not_count() {
        let files = [
            file("crates/a/src/lib.rs", &format!("struct A;{}", methods_of("A", 30))),
            file("crates/a/src/b.rs", &format!("struct A;{}", methods_of("A", 30))),
            file("crates/b/src/lib.rs", &format!("struct A;{}", methods_of("A", 30))),
            file("crates/c/src/lib.rs", &format!("struct A;{}", methods_of("Clone for A", 50))),
            file("crates/d/src/lib.rs", &format!("struct A; #[cfg(test)] mod tests {{ {} }}", methods_of("A", 50))),
            file("crates/e/src/lib.rs", "fn a(x: impl B) -> impl B { }"),
        ];
        assert_eq!(check(&files), []);
    }
}

//! The rules that look at one file: its header, its length, its functions, `unsafe`, and words that must not be there.
//! Owns those rules and their limits; must not read the disk.

use super::{File, Finding};

/// Lines of a file without its tests that nobody may exceed.
const FILE_LINES: usize = 1_000;
/// Lines of a file without its tests that are wished for.
const FILE_LINES_WISHED: usize = 500;
/// Lines of a function, its signature included.
const FUNCTION_LINES: usize = 70;
/// Lines above an `unsafe` in which its note must begin.
const NOTE_REACH: usize = 8;
/// Lines above a sleep in which it is said why there is one.
const REASON_REACH: usize = 4;

/// Everything that is wrong with one file.
pub fn check(file: &File) -> Vec<Finding> {
    let mut findings = Vec::new();
    header(file, &mut findings);
    length(file, &mut findings);
    functions(file, &mut findings);
    unsafe_code(file, &mut findings);
    sleeps(file, &mut findings);
    words(file, &mut findings);
    findings
}

fn header(file: &File, findings: &mut Vec<Finding>) {
    if !file.source.line(1).starts_with("//! ") {
        findings.push(Finding::new(
            &file.path,
            1,
            "header: a file opens with `//!`: what it owns and what it must not do",
        ));
    }
}

fn length(file: &File, findings: &mut Vec<Finding>) {
    if file.is_test {
        return;
    }
    let lines = file.source.lines_without_tests();
    let message = |limit| format!("file length: {lines} lines without tests, {limit}");
    if lines > FILE_LINES {
        findings.push(Finding::new(&file.path, 1, message(format!("at most {FILE_LINES}"))));
    } else if lines > FILE_LINES_WISHED {
        let mut finding = Finding::new(&file.path, 1, message(format!("{FILE_LINES_WISHED} wished")));
        finding.wish = true;
        findings.push(finding);
    }
}

fn functions(file: &File, findings: &mut Vec<Finding>) {
    let tokens = &file.source.tokens;
    for (index, token) in tokens.iter().enumerate() {
        let named = tokens.get(index + 1).is_some_and(|next| next.text != "(");
        if token.text != "fn" || !named || file.is_test || file.source.in_tests(token.line) {
            continue;
        }
        let Some((open, close)) = body(file, index) else { continue };
        let lines = tokens[close].line - token.line + 1;
        if lines > FUNCTION_LINES && !mostly_one_match(file, open, close) {
            let name = &tokens[index + 1].text;
            findings.push(Finding::new(
                &file.path,
                token.line,
                format!("function length: {name} has {lines} lines, at most {FUNCTION_LINES} (unless it is one match)"),
            ));
        }
    }
}

/// The braces of the function whose `fn` is at `index`; none for a declaration.
fn body(file: &File, index: usize) -> Option<(usize, usize)> {
    let tokens = &file.source.tokens;
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate().skip(index) {
        match token.text.as_str() {
            "(" | "[" => depth += 1,
            ")" | "]" => depth -= 1,
            ";" if depth == 0 => return None,
            "{" if depth == 0 => return file.source.closing(at).map(|close| (at, close)),
            _ => {}
        }
    }
    None
}

/// Whether one match makes up most of the body, and no arm of it is itself too long.
fn mostly_one_match(file: &File, open: usize, close: usize) -> bool {
    let tokens = &file.source.tokens;
    let lines = |from: usize, to: usize| tokens[to].line - tokens[from].line + 1;
    let whole = lines(open, close);
    (open..close).any(|index| {
        if tokens[index].text != "match" {
            return false;
        }
        let Some(start) = (index..close).find(|at| tokens[*at].text == "{") else { return false };
        let Some(end) = file.source.closing(start) else { return false };
        let longest = longest_block(file, start, end);
        lines(start, end) * 5 >= whole * 3 && longest <= FUNCTION_LINES
    })
}

/// The lines of the longest block directly inside the braces.
fn longest_block(file: &File, open: usize, close: usize) -> usize {
    let tokens = &file.source.tokens;
    let (mut at, mut longest) = (open + 1, 0);
    while at < close {
        if tokens[at].text == "{" {
            let end = file.source.closing(at).unwrap_or(close);
            longest = longest.max(tokens[end].line - tokens[at].line + 1);
            at = end;
        }
        at += 1;
    }
    longest
}

fn unsafe_code(file: &File, findings: &mut Vec<Finding>) {
    let in_sys = file.path.starts_with("crates/sys");
    for token in file.source.tokens.iter().filter(|token| token.text == "unsafe") {
        if !in_sys {
            findings.push(Finding::new(&file.path, token.line, "unsafe: only crates/sys may"));
            continue;
        }
        let noted = (token.line.saturating_sub(NOTE_REACH)..=token.line).rev().any(|number| {
            let line = file.source.line(number);
            line.contains("SAFETY:") || line.contains("# Safety")
        });
        if !noted {
            findings.push(Finding::new(&file.path, token.line, "unsafe: no `// SAFETY:` note above it"));
        }
    }
}

fn sleeps(file: &File, findings: &mut Vec<Finding>) {
    let source = &file.source;
    for (index, token) in source.tokens.iter().enumerate() {
        let is_call = source.reads(index, &["sleep", "("]) && index > 0 && source.tokens[index - 1].text != "fn";
        let is_near = |number: usize| source.line(number).contains("// ");
        if is_call && !(token.line.saturating_sub(REASON_REACH)..=token.line).any(is_near) {
            findings.push(Finding::new(&file.path, token.line, "sleep: nothing beside it says why no event would do"));
        }
    }
}

fn words(file: &File, findings: &mut Vec<Finding>) {
    let source = &file.source;
    for (index, token) in source.tokens.iter().enumerate() {
        if source.reads(index, &["Other", "(", "String", ")"]) {
            findings.push(Finding::new(&file.path, token.line, "Other(String): name the case"));
        }
        if file.is_test || source.in_tests(token.line) {
            continue;
        }
        let broken = match token.text.as_str() {
            "." if source.reads(index + 1, &["unwrap", "(", ")"]) => Some("unwrap"),
            "." if source.reads(index + 1, &["unwrap_err", "("]) => Some("unwrap_err"),
            "panic" | "todo" | "unimplemented" | "dbg" if source.reads(index + 1, &["!"]) => Some(token.text.as_str()),
            "." if source.reads(index + 1, &["expect", "(", "\""]) && !names_invariant(source, index + 3) => {
                Some("expect without the invariant's name")
            }
            _ => None,
        };
        if let Some(what) = broken {
            findings.push(Finding::new(&file.path, token.line, format!("{what}: not outside tests")));
        }
    }
}

/// Whether the string at `index` says something: at least two words.
fn names_invariant(source: &super::Source, index: usize) -> bool {
    let Some(token) = source.tokens.get(index) else { return false };
    let end = source.tokens.get(index + 1).map_or(source.text.len(), |next| next.start);
    source.text[token.start..end].split_whitespace().count() >= 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source::Source;
    use std::path::PathBuf;

    fn findings(path: &str, text: &str) -> Vec<String> {
        let file = File { path: PathBuf::from(path), source: Source::new(text), is_test: path.contains("/tests/") };
        check(&file).into_iter().map(|finding| finding.to_string()).collect()
    }

    fn assert_only(path: &str, text: &str, expected: &[&str]) {
        let found = findings(path, text);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found} is not {expected}");
        }
    }

    #[test]
    fn a_file_opens_with_its_purpose() {
        assert_only("crates/a/src/a.rs", "//! Owns a.\nfn a() {}\n", &[]);
        assert_only("crates/a/src/a.rs", "fn a() {}\n", &["crates/a/src/a.rs:1: header"]);
        assert_only("crates/a/tests/a.rs", "// Owns a.\n", &["crates/a/tests/a.rs:1: header"]);
    }

    #[test]
    fn a_file_has_at_most_a_thousand_lines_beside_its_tests() {
        let text = |code: usize, tests: usize| {
            format!("//! Owns a.\n{}#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(code), "\n".repeat(tests))
        };
        assert_only("a.rs", &text(499, 2_000), &[]);
        assert_only("a.rs", &text(500, 0), &["a.rs:1: (wish) file length: 501 lines"]);
        assert_only("a.rs", &text(1_000, 0), &["a.rs:1: file length: 1001 lines"]);
        assert_only("a/tests/a.rs", &text(3_000, 0), &[]);
    }

    #[test]
    fn a_function_has_at_most_seventy_lines_unless_it_is_one_match() {
        let function = |inside: &str| format!("//! Owns a.\nfn long(x: [u8; 3]) -> u8 {{\n{inside}}}\n");
        assert_only("a.rs", &function(&"a();\n".repeat(68)), &[]);
        assert_only("a.rs", &function(&"a();\n".repeat(69)), &["a.rs:2: function length: long has 71 lines"]);
        let one_match = format!("match x {{\n{}}}\n", "A => {\na()\n}\n".repeat(40));
        assert_only("a.rs", &function(&one_match), &[]);
        assert_only("a.rs", &function(&format!("{}{one_match}", "a();\n".repeat(90))), &["a.rs:2: function length"]);
        let one_arm = format!("match x {{\nA => {{\n{}}}\n}}\n", "a();\n".repeat(80));
        assert_only("a.rs", &function(&one_arm), &["a.rs:2: function length"]);
    }

    #[test]
    fn unsafe_stays_in_sys_and_is_explained() {
        assert_only(
            "crates/a/src/a.rs",
            "//! Owns a.\nfn a() { unsafe { b() } }\n",
            &["crates/a/src/a.rs:2: unsafe: only"],
        );
        assert_only(
            "crates/sys/src/a.rs",
            "//! Owns a.\n// SAFETY: b has no conditions.\nfn a() { unsafe { b() } }\n",
            &[],
        );
        assert_only(
            "crates/sys/src/a.rs",
            "//! Owns a.\nfn a() { unsafe { b() } }\n",
            &["crates/sys/src/a.rs:2: unsafe: no"],
        );
        assert_only("crates/a/src/a.rs", "//! Says unsafe.\nconst A: &str = \"unsafe\";\n", &[]);
    }

    #[test]
    fn a_sleep_has_its_reason() {
        let slept = ["a.rs:2: sleep"];
        assert_only("a.rs", "//! Owns a.\nfn a() { sleep(SECOND); }\n", &slept);
        assert_only("a.rs", "//! Owns a.\n#[test]\nfn a() { time::sleep(SECOND); }\n", &["a.rs:3: sleep"]);
        assert_only("a.rs", "//! Owns a.\nfn a() {\n    // Nothing tells.\n    sleep(SECOND);\n}\n", &[]);
        assert_only("a.rs", "//! Owns a.\nfn sleep() { asleep(); \"sleep(1)\"; }\n", &[]);
    }

    #[test]
    fn nothing_panics_outside_tests() {
        for (code, what) in [
            ("a.unwrap()", "unwrap"),
            ("a.unwrap_err()", "unwrap_err"),
            ("panic!(\"x\")", "panic"),
            ("todo!()", "todo"),
            ("unimplemented!()", "unimplemented"),
            ("dbg!(a)", "dbg"),
            ("a.expect(\"a\")", "expect without"),
        ] {
            assert_only("a.rs", &format!("//! Owns a.\nfn a() {{ {code}; }}\n"), &[&format!("a.rs:2: {what}")]);
            assert_only("a.rs", &format!("//! Owns a.\n#[cfg(test)]\nmod tests {{ fn a() {{ {code}; }} }}\n"), &[]);
            assert_only("a/tests/a.rs", &format!("//! Owns a.\nfn a() {{ {code}; }}\n"), &[]);
        }
        assert_only("a.rs", "//! Owns a.\nfn a() { a.expect(\"the list is never empty\"); a.unwrap_or(1); }\n", &[]);
    }

    #[test]
    fn no_error_is_merely_other() {
        assert_only("a.rs", "//! Owns a.\nenum E { Other(String) }\n", &["a.rs:2: Other(String)"]);
    }
}

//! Rust text as the rules see it: comments and the insides of strings told apart from code, tests from the rest.
//! Owns the reading of a file; must not judge it. It is no parser: braces, keywords and attributes are all it knows.

use std::ops::Range;

/// One word or sign of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// An identifier, a keyword, a number, or one sign; a string or character literal is `"`.
    pub text: String,
    /// Counted from one.
    pub line: usize,
    /// Where it begins in the file, in bytes.
    pub start: usize,
}

/// A file that has been read.
#[derive(Debug)]
pub struct Source {
    /// The text as it is.
    pub text: String,
    /// Code only.
    pub tokens: Vec<Token>,
    /// Lines that are the business of tests alone, counted from one.
    pub test_lines: Vec<Range<usize>>,
}

impl Source {
    /// Reads a file's text.
    pub fn new(text: &str) -> Source {
        let tokens = tokens(text);
        let test_lines = test_lines(&tokens);
        Source { text: text.to_owned(), tokens, test_lines }
    }

    /// Whether a line belongs to a test module.
    pub fn in_tests(&self, line: usize) -> bool {
        self.test_lines.iter().any(|range| range.contains(&line))
    }

    /// How many lines there are beside the tests.
    pub fn lines_without_tests(&self) -> usize {
        (1..=self.text.lines().count()).filter(|line| !self.in_tests(*line)).count()
    }

    /// A line's text, counted from one.
    pub fn line(&self, number: usize) -> &str {
        self.text.lines().nth(number.saturating_sub(1)).unwrap_or("")
    }

    /// Whether the tokens at `index` read exactly so.
    pub fn reads(&self, index: usize, texts: &[&str]) -> bool {
        texts.iter().enumerate().all(|(offset, text)| self.tokens.get(index + offset).is_some_and(|t| t.text == *text))
    }

    /// The index of the brace that closes the one at `open`.
    pub fn closing(&self, open: usize) -> Option<usize> {
        closing(&self.tokens, open)
    }
}

fn closing(tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

/// Modules that are declared `#[cfg(test)] mod name;`, so that their files are tests: each one's name, and its file's
/// name where a `#[path = "…"]` says so.
pub fn test_modules(source: &Source) -> Vec<(String, Option<String>)> {
    let tokens = &source.tokens;
    let mut found = Vec::new();
    for index in cfg_tests(tokens) {
        let after = skip_attributes(tokens, index);
        let at = (after..after + 6).find(|i| tokens.get(*i).is_some_and(|t| t.text == "mod"));
        if let Some(at) = at
            && tokens.get(at + 2).is_some_and(|t| t.text == ";")
        {
            let attributes = &source.text[tokens[index].start..tokens[at].start];
            let path = attributes.split_once("path = \"").and_then(|(_, rest)| rest.split('"').next());
            found.push((tokens[at + 1].text.clone(), path.map(str::to_owned)));
        }
    }
    found
}

/// Where an attribute `#[cfg(test)]` or `#[cfg(all(test, …))]` begins.
fn cfg_tests(tokens: &[Token]) -> Vec<usize> {
    let read = |index: usize, texts: &[&str]| {
        texts.iter().enumerate().all(|(offset, text)| tokens.get(index + offset).is_some_and(|t| t.text == *text))
    };
    (0..tokens.len())
        .filter(|index| {
            read(*index, &["#", "[", "cfg", "(", "test", ")"])
                || read(*index, &["#", "[", "cfg", "(", "all", "(", "test"])
        })
        .collect()
}

fn skip_attributes(tokens: &[Token], mut index: usize) -> usize {
    while tokens.get(index).is_some_and(|t| t.text == "#") {
        let mut depth = 0;
        index += 1;
        while let Some(token) = tokens.get(index) {
            index += 1;
            match token.text.as_str() {
                "[" => depth += 1,
                "]" => {
                    depth -= 1;
                    if depth == 0 {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    index
}

fn test_lines(tokens: &[Token]) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    for start in cfg_tests(tokens) {
        let first = tokens[start].line;
        let item = skip_attributes(tokens, start);
        let mut index = item;
        while let Some(token) = tokens.get(index) {
            match token.text.as_str() {
                ";" => {
                    ranges.push(first..token.line + 1);
                    break;
                }
                "{" => {
                    let last = closing(tokens, index).map_or(usize::MAX - 1, |close| tokens[close].line);
                    ranges.push(first..last + 1);
                    break;
                }
                _ => index += 1,
            }
        }
    }
    ranges
}

/// Splits text into tokens; comments and the insides of literals are left out.
fn tokens(text: &str) -> Vec<Token> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < bytes.len() {
        let (start, first_line) = (at, line);
        let word = match bytes[at] {
            b'\n' => {
                line += 1;
                at += 1;
                continue;
            }
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                at = bytes[at..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at = block_comment_end(bytes, at);
                line += newlines(&bytes[start..at]);
                continue;
            }
            b'"' => {
                at = string_end(bytes, at);
                "\""
            }
            b'r' | b'b' | b'c' if literal_prefix(bytes, at).is_some() => {
                at = literal_prefix(bytes, at).unwrap_or(at + 1);
                "\""
            }
            b'\'' => {
                let (end, literal) = quote_end(text, at);
                at = end;
                if literal { "\"" } else { "'" }
            }
            b if b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80 => {
                at += bytes[at..]
                    .iter()
                    .position(|b| !(b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80))
                    .unwrap_or(bytes.len() - at);
                &text[start..at]
            }
            _ => {
                at += 1;
                &text[start..at]
            }
        };
        line += newlines(&bytes[start..at]);
        found.push(Token { text: word.to_owned(), line: first_line, start });
    }
    found
}

fn newlines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|b| **b == b'\n').count()
}

fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

/// The end of a `"…"` that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// The end of a raw, byte or C string or byte character that begins at `start`, if one does.
fn literal_prefix(bytes: &[u8], start: usize) -> Option<usize> {
    let letters = bytes[start..].iter().take_while(|b| matches!(b, b'r' | b'b' | b'c')).count();
    if letters > 2 {
        return None;
    }
    let raw = bytes[start..start + letters].contains(&b'r');
    let at = start + letters;
    let hashes = if raw { bytes[at..].iter().take_while(|b| **b == b'#').count() } else { 0 };
    let quote = at + hashes;
    match bytes.get(quote) {
        Some(b'"') if raw => {
            let mut end = b"\"".to_vec();
            end.resize(1 + hashes, b'#');
            let found = bytes[quote + 1..].windows(end.len()).position(|window| window == end);
            Some(found.map_or(bytes.len(), |n| quote + 1 + n + end.len()))
        }
        Some(b'"') => Some(string_end(bytes, quote)),
        Some(b'\'') if !raw && letters == 1 && bytes[start] == b'b' => {
            let escaped = bytes.get(quote + 1) == Some(&b'\\');
            let from = quote + if escaped { 3 } else { 2 };
            bytes.get(from..)?.iter().position(|b| *b == b'\'').map(|n| from + n + 1)
        }
        _ => None,
    }
}

/// The end of what a `'` begins, and whether it is a character rather than a lifetime.
fn quote_end(text: &str, start: usize) -> (usize, bool) {
    let rest = &text[start + 1..];
    if rest.starts_with('\\') {
        let from = start + 3;
        let end = text.get(from..).and_then(|tail| tail.find('\''));
        return (end.map_or(text.len(), |n| from + n + 1), true);
    }
    let mut characters = rest.char_indices();
    if let (Some((_, first)), Some((next, '\''))) = (characters.next(), characters.next())
        && first != '\''
    {
        return (start + 1 + next + 1, true);
    }
    (start + 1, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        tokens(text).into_iter().map(|t| t.text).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn strings_and_comments_are_no_code() {
        assert_eq!(words("a // unsafe\nb /* x /* y */ z */ c"), "a b c");
        assert_eq!(
            words(r##"f("unsafe \" {", r#"}" {"#, b"{", br"\", c"x", '{', b'\'', '\'', 'a')"##),
            "f ( \" , \" , \" , \" , \" , \" , \" , \" , \" )"
        );
        assert_eq!(words("fn f<'a>(x: &'a str) {}"), "fn f < ' a > ( x : & ' a str ) { }");
        assert_eq!(words("r#type + brr"), "r # type + brr");
    }

    #[test]
    fn lines_are_counted_through_strings() {
        let found = tokens("a\n\"x\ny\"\nb /*\n*/ c");
        let lines: Vec<_> = found.iter().map(|t| (t.text.as_str(), t.line)).collect();
        assert_eq!(lines, [("a", 1), ("\"", 2), ("b", 4), ("c", 5)]);
    }

    #[test]
    fn tests_are_found() {
        let source = Source::new("fn a() {}\n#[cfg(test)]\n#[allow(x)]\nmod tests {\n  fn b() {}\n}\nfn c() {}\n");
        assert_eq!(source.test_lines, std::iter::once(2..7).collect::<Vec<_>>());
        assert_eq!(source.lines_without_tests(), 2);
        let source = Source::new(
            "#[cfg(test)]\npub(crate) mod rig;\n#[cfg(test)]\n#[path = \"a_tests.rs\"]\nmod tests;\nmod real;\n",
        );
        assert_eq!(
            test_modules(&source),
            [("rig".to_owned(), None), ("tests".to_owned(), Some("a_tests.rs".to_owned()))]
        );
    }
}

//! `--env`, `--env-file`, `--label`, `--label-file` and other `NAME=value` lists.
//! Reads the files named and this process's environment; nothing else.

use std::collections::BTreeMap;

/// Refuses a variable without a name.
///
/// # Errors
/// Docker's words.
pub fn check(text: &str) -> Result<(), String> {
    if text.is_empty() || text.starts_with('=') { Err(format!("invalid environment variable: {text}")) } else { Ok(()) }
}

/// `--env-file` files first, then `--env`; a name without a value takes this process's, and is dropped if there is none.
///
/// # Errors
/// Unreadable and malformed files.
pub fn variables(files: &[&str], given: &[&str]) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    for file in files {
        all.extend(read_file(file, |name| std::env::var(name).ok())?);
    }
    for variable in given {
        if variable.contains('=') {
            all.push((*variable).to_owned());
        } else if let Ok(value) = std::env::var(variable) {
            all.push(format!("{variable}={value}"));
        } else {
            // Without a value anywhere the bare name asks the engine to drop the image's variable.
            all.push((*variable).to_owned());
        }
    }
    Ok(all)
}

/// Lines of `NAME=value`; a bare name is looked up and left out when unknown.
fn read_file(path: &str, look_up: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    let bytes = std::fs::read(path).map_err(|e| format!("open {path}: {}", words(&e)))?;
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    for (number, line) in text.split(|b| *b == b'\n').enumerate() {
        let line = std::str::from_utf8(line)
            .map_err(|_| format!("env file {path} contains invalid utf8 bytes at line {}: {line:?}", number + 1))?;
        let line = line.strip_suffix('\r').unwrap_or(line).trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').map_or((line, None), |(n, v)| (n, Some(v)));
        if name.is_empty() {
            return Err(format!("no variable name on line '{line}'"));
        }
        if name.contains(char::is_whitespace) {
            return Err(format!("variable '{name}' contains whitespaces"));
        }
        match value {
            Some(value) => lines.push(format!("{name}={value}")),
            None => lines.extend(look_up(name).map(|value| format!("{name}={value}"))),
        }
    }
    Ok(lines)
}

/// `--label-file` files first, then `--label`; the last of a name wins, a bare name has the empty value.
///
/// # Errors
/// Unreadable and malformed files.
pub fn labels(files: &[&str], given: &[&str]) -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    for file in files {
        for line in read_file(file, |_| Some(String::new()))? {
            insert(&mut all, &line);
        }
    }
    for label in given {
        insert(&mut all, label);
    }
    Ok(all)
}

fn insert(map: &mut BTreeMap<String, String>, pair: &str) {
    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
    map.insert(name.to_owned(), value.to_owned());
}

/// A `NAME=value` list as a map.
pub fn map(pairs: &[&str]) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for pair in pairs {
        insert(&mut all, pair);
    }
    all
}

/// The words Go uses for the common failures of opening a file.
pub fn words(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        std::io::ErrorKind::IsADirectory => "is a directory".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn files_then_flags() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "\u{feff}# note\nA=1\r\n\n  B=x y \nPATH\nNOT_SET_ANYWHERE_1\n").unwrap();
        let path = file.path().to_str().unwrap();
        let all = variables(&[path], &["C=3", "PATH", "NOT_SET_ANYWHERE_2"]).unwrap();
        let home = format!("PATH={}", std::env::var("PATH").unwrap());
        assert_eq!(all, ["A=1", "B=x y ", &home, "C=3", &home, "NOT_SET_ANYWHERE_2"]);
        assert_eq!(variables(&["/nope"], &[]).unwrap_err(), "open /nope: no such file or directory");
    }

    #[test]
    fn bad_lines() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        writeln!(file, "a b=1").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(variables(&[path], &[]).unwrap_err(), "variable 'a b' contains whitespaces");
        assert_eq!(check("=x").unwrap_err(), "invalid environment variable: =x");
    }

    #[test]
    fn last_label_wins() {
        let all = labels(&[], &["a=1", "b", "a=2=3"]).unwrap();
        assert_eq!(all, BTreeMap::from([("a".into(), "2=3".into()), ("b".into(), String::new())]));
    }
}

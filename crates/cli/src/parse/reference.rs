//! Image names as people type them: enough to ask the daemon for the right thing and to refuse what cannot be a name.
//! Pure.

/// An image name taken apart. Docker Hub's `docker.io/library/` is implied where nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// Registry, `docker.io` if none was given.
    pub domain: String,
    /// Repository in the registry.
    pub path: String,
    /// Tag, if given.
    pub tag: Option<String>,
    /// Digest, if given.
    pub digest: Option<String>,
}

impl Reference {
    /// Reads a name.
    ///
    /// # Errors
    /// Docker's words.
    pub fn parse(text: &str) -> Result<Reference, String> {
        let bad = || "invalid reference format".to_owned();
        if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase()) {
            return Err(format!("invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        if digest.is_some_and(|d| !valid_digest(d)) {
            return Err(bad());
        }
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|t| !valid_tag(t)) {
            return Err(bad());
        }
        let (domain, path) = split_domain(rest);
        if path.to_lowercase() != path {
            return Err(format!("invalid reference format: repository name ({path}) must be lowercase"));
        }
        if !valid_path(&path) || !valid_domain(&domain) || domain.len() + path.len() + 1 > 255 {
            return Err(bad());
        }
        Ok(Reference { domain, path, tag: tag.map(str::to_owned), digest: digest.map(str::to_owned) })
    }

    /// The repository as Docker shows it.
    pub fn familiar_name(&self) -> String {
        if self.domain != "docker.io" {
            return format!("{}/{}", self.domain, self.path);
        }
        self.path.strip_prefix("library/").filter(|rest| !rest.contains('/')).unwrap_or(&self.path).to_owned()
    }

    /// The whole name as Docker shows it, with `:latest` where neither tag nor digest was given.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        match (&self.tag, &self.digest) {
            (None, None) => text.push_str(":latest"),
            (tag, digest) => {
                text.extend(tag.iter().flat_map(|tag| [":", tag]));
                text.extend(digest.iter().flat_map(|digest| ["@", digest]));
            }
        }
        text
    }
}

fn split_domain(name: &str) -> (String, String) {
    let (domain, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first => {
            (first, rest)
        }
        _ => ("docker.io", name),
    };
    let domain = if domain == "index.docker.io" { "docker.io" } else { domain };
    let official = domain == "docker.io" && !path.contains('/');
    (domain.to_owned(), if official { format!("library/{path}") } else { path.to_owned() })
}

fn valid_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn valid_digest(digest: &str) -> bool {
    digest.split_once(':').is_some_and(|(algorithm, hex)| {
        !algorithm.is_empty()
            && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"+._-".contains(&b))
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
            && (algorithm != "sha256" || hex.len() == 64)
    })
}

fn valid_path(path: &str) -> bool {
    path.split('/').all(|part| {
        let bytes = part.as_bytes();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let ends = bytes.first().copied().is_some_and(plain) && bytes.last().copied().is_some_and(plain);
        ends && part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
    })
}

fn valid_domain(domain: &str) -> bool {
    let (host, port) = match domain.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (domain, None),
    };
    let host_ok = if host.starts_with('[') {
        host.ends_with(']') && host[1..host.len() - 1].bytes().all(|b| b.is_ascii_hexdigit() || b == b':')
    } else {
        host.split('.').all(|label| {
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
    };
    host_ok && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, shown) in [
            ("alpine", "alpine:latest"),
            ("alpine:3", "alpine:3"),
            ("docker.io/library/alpine", "alpine:latest"),
            ("me/app:1", "me/app:1"),
            ("localhost:5000/a/b", "localhost:5000/a/b:latest"),
            ("ghcr.io/x/y_z--w.q:V1", "ghcr.io/x/y_z--w.q:V1"),
        ] {
            assert_eq!(Reference::parse(text).unwrap().familiar(), shown);
        }
        let digest = format!("a@sha256:{}", "0".repeat(64));
        assert_eq!(Reference::parse(&digest).unwrap().familiar(), digest);
    }

    #[test]
    fn refusals() {
        assert_eq!(
            Reference::parse("FOO").unwrap_err(),
            "invalid reference format: repository name (library/FOO) must be lowercase"
        );
        for bad in ["", ":x", "a:", "a b", "-a", "a//b", "a@sha256:12", "a:b c", "a___b", "x.y/"] {
            assert!(Reference::parse(bad).is_err(), "{bad}");
        }
        assert!(Reference::parse(&"a".repeat(64)).unwrap_err().contains("64-byte hexadecimal"));
    }
}

//! Names of images as Docker's users write them, with the grammar of distribution/reference.
//! Only text; whether an image of that name exists is the store's or the registry's business.

use std::fmt;

use crate::digest::Digest;

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const DEFAULT_TAG: &str = "latest";
/// The longest repository path, in bytes, as distribution/reference has it.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A normalised name of an image: domain, path, and a tag, a digest, or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a name was refused; the text is the one that Docker prints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReferenceError(String);

impl fmt::Display for ReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ReferenceError {}

fn refuse<T>(text: impl Into<String>) -> Result<T, ReferenceError> {
    Err(ReferenceError(text.into()))
}

const INVALID: &str = "invalid reference format";

impl Reference {
    /// Parses and normalises a name; one with neither tag nor digest gets `latest`.
    /// A bare image id (64 hex digits) and `sha256:<hex>` are not names.
    pub fn parse(text: &str) -> Result<Reference, ReferenceError> {
        let mut reference = Reference::parse_bare(text)?;
        if reference.tag.is_none() && reference.digest.is_none() {
            reference.tag = Some(DEFAULT_TAG.to_owned());
        }
        Ok(reference)
    }

    /// As [`Reference::parse`], but a name without tag and digest stays so: it means the repository.
    pub fn parse_bare(text: &str) -> Result<Reference, ReferenceError> {
        if is_identifier(text) {
            return refuse(format!("invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"));
        }
        // Docker looks for an image id before it looks for a name, so that such a name could never be reached.
        if text.is_empty() || text.strip_prefix("sha256:").is_some_and(is_identifier) {
            return refuse(INVALID);
        }
        let (domain, remainder) = split_domain(text);
        let (name, digest) = match remainder.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (&*remainder, None),
        };
        let (path, tag) = match name.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (name, None),
        };
        if path.chars().any(char::is_uppercase) {
            return refuse(format!("{INVALID}: repository name ({path}) must be lowercase"));
        }
        let well_formed = is_domain(&domain)
            && path.split('/').all(is_path_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(looks_like_digest);
        if !well_formed {
            return refuse(INVALID);
        }
        if path.len() > MAX_NAME {
            return refuse(format!("repository name must not be more than {MAX_NAME} characters"));
        }
        let digest = match digest.map(Digest::parse) {
            Some(Ok(digest)) => Some(digest),
            Some(Err(error)) => return refuse(error.to_string()),
            None => None,
        };
        let (path, tag) = (path.to_owned(), tag.map(str::to_owned));
        Ok(Reference { domain, path, tag, digest })
    }

    /// The registry, `docker.io` when none was written; with its port if one was.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if any.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if any.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path: `docker.io/library/alpine`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The short form of [`Reference::name`] that Docker shows: `alpine`, `user/app`, `host:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        let official = self.path.strip_prefix(OFFICIAL_PREFIX).filter(|rest| !rest.contains('/'));
        // One that would be read as another name is not short for this one.
        let means_this = |short: &&str| split_domain(short) == (self.domain.clone(), self.path.clone());
        official.into_iter().chain([self.path.as_str()]).find(means_this).map_or_else(|| self.name(), str::to_owned)
    }

    /// The short form with tag and digest: `alpine:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The full form, by which tags are stored: `docker.io/library/alpine:latest`.
    pub fn canonical(&self) -> String {
        self.with_suffix(self.name())
    }

    /// The same repository under another tag and no digest. Fails with Docker's text on a bad tag.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ReferenceError> {
        if !is_tag(tag) {
            return refuse("invalid tag format");
        }
        Ok(Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository by digest, without a tag.
    pub fn with_digest(&self, digest: &Digest) -> Reference {
        Reference { tag: None, digest: Some(digest.clone()), ..self.clone() }
    }

    fn with_suffix(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.canonical())
    }
}

/// Whether `text` is what Docker takes for a full image or container id.
pub fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Cuts the registry off, as Docker's `splitDockerDomain`: the first component is one if it has a dot, a colon
/// or a capital, or is `localhost`.
fn split_domain(text: &str) -> (String, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((LEGACY_DOMAIN, rest)) => (DEFAULT_DOMAIN, rest),
        Some((first, rest))
            if first == "localhost" || first.contains(['.', ':']) || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    // A slash in the tag or digest part makes the name invalid anyway.
    let official = domain == DEFAULT_DOMAIN && !rest.contains('/');
    let prefix = if official { OFFICIAL_PREFIX } else { "" };
    (domain.to_owned(), format!("{prefix}{rest}"))
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let hex = address.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
            if address.is_empty() || !hex {
                return false;
            }
            match port {
                "" => return true,
                _ => match port.strip_prefix(':') {
                    Some(port) => ("ipv6", Some(port)),
                    None => return false,
                },
            }
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.split('.').all(is_label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// `[a-z0-9]+` joined by `.`, `_`, `__` or any number of `-`.
fn is_path_component(text: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    if !is_alphanumeric(first) || !is_alphanumeric(last) {
        return false;
    }
    bytes
        .split(|byte| is_alphanumeric(*byte))
        .all(|between| matches!(between, b"" | b"." | b"_" | b"__") || between.iter().all(|byte| *byte == b'-'))
}

fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

/// The looser digest shape of the grammar: what fits it but is no digest gets the digest's own error.
fn looks_like_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else {
        return false;
    };
    let is_algorithm = algorithm.split(['-', '_', '+', '.']).all(|part| {
        part.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    });
    is_algorithm && hex.len() >= 32 && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
#[path = "reference_tests.rs"]
mod tests;

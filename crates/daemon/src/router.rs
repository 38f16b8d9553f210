//! Which handler a request belongs to: version prefix, method and a pattern whose names may contain slashes.
//! Owns matching; must not know what a handler does.

use hyper::Method;

/// One pattern such as `/images/{name...}/json`: `{x}` takes one segment, `{x...}` takes one or more.
#[derive(Debug)]
pub struct Pattern(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Literal(&'static str),
    One(&'static str),
    Many(&'static str),
}

/// Values taken from the path by the pattern's names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params(Vec<(&'static str, String)>);

impl Params {
    /// The value of a name that the pattern has; empty if it does not have it.
    pub fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value)
    }
}

impl Pattern {
    /// Reads a pattern.
    pub fn new(text: &'static str) -> Self {
        let part = |segment: &'static str| match segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) {
            None => Part::Literal(segment),
            Some(name) => name.strip_suffix("...").map_or(Part::One(name), Part::Many),
        };
        Self(text.strip_prefix('/').unwrap_or(text).split('/').map(part).collect())
    }

    /// Matches a decoded path that was split at its slashes.
    pub fn matches(&self, segments: &[&str]) -> Option<Params> {
        let mut params = Params::default();
        let many = self.0.iter().position(|part| matches!(part, Part::Many(_)));
        let Some(at) = many else {
            return (segments.len() == self.0.len() && all_match(&self.0, segments, &mut params)).then_some(params);
        };
        let (before, rest) = self.0.split_at(at);
        let (name, after) = match rest {
            [Part::Many(name), after @ ..] => (*name, after),
            _ => return None,
        };
        if segments.len() < before.len() + after.len() + 1 {
            return None;
        }
        let (head, tail) = segments.split_at(before.len());
        let (middle, end) = tail.split_at(tail.len() - after.len());
        if !all_match(before, head, &mut params) || !all_match(after, end, &mut params) {
            return None;
        }
        params.0.push((name, middle.join("/")));
        Some(params)
    }
}

fn all_match(parts: &[Part], segments: &[&str], params: &mut Params) -> bool {
    parts.iter().zip(segments).all(|(part, segment)| match part {
        Part::Literal(text) => text == segment,
        Part::One(_) if segment.is_empty() => false,
        Part::One(name) => {
            params.0.push((name, (*segment).to_owned()));
            true
        }
        Part::Many(_) => false,
    })
}

/// An API version such as 1.51.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl Version {
    /// The version `1.minor`.
    pub const fn one(minor: u32) -> Self {
        Self { major: 1, minor }
    }

    /// The newest version spoken.
    pub const MAX: Self = Self::one(51);
    /// The oldest version spoken.
    pub const MIN: Self = Self::one(24);

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self { major: major.parse().ok()?, minor: minor.parse().ok()? })
    }
}

/// A path without its version prefix, and the version that was in it.
#[derive(Debug, PartialEq, Eq)]
pub struct Versioned<'a> {
    /// The version asked for; the newest if the path has none.
    pub version: Version,
    /// The rest of the path, with its leading slash.
    pub path: &'a str,
}

/// Takes the version prefix off a path.
///
/// # Errors
/// Docker's texts for versions that are too old or too new.
pub fn split_version(path: &str) -> Result<Versioned<'_>, String> {
    let unversioned = Versioned { version: Version::MAX, path };
    let Some(rest) = path.strip_prefix("/v") else {
        return Ok(unversioned);
    };
    let Some((text, _)) = rest.split_once('/') else {
        return Ok(unversioned);
    };
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Ok(unversioned);
    }
    let Some(version) = Version::parse(text) else {
        return Err(format!("invalid API version: {text}"));
    };
    if version < Version::MIN {
        return Err(format!(
            "client version {text} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            brig_api::MIN_API_VERSION
        ));
    }
    if version > Version::MAX {
        return Err(format!(
            "client version {text} is too new. Maximum supported API version is {}",
            brig_api::API_VERSION
        ));
    }
    Ok(Versioned { version, path: &rest[text.len()..] })
}

/// A table of routes; the first that matches wins.
#[derive(Debug)]
pub struct Router<H> {
    routes: Vec<(Method, Pattern, H)>,
}

impl<H> Router<H> {
    /// An empty table.
    pub fn new() -> Self {
        Self { routes: Vec::new() }
    }

    /// Adds a route.
    pub fn add(&mut self, method: Method, pattern: &'static str, handler: H) {
        self.routes.push((method, Pattern::new(pattern), handler));
    }

    /// Finds the handler for a decoded path without version.
    pub fn find(&self, method: &Method, path: &str) -> Option<(&H, Params)> {
        let path = path.strip_prefix('/').unwrap_or(path);
        let segments: Vec<&str> = path.split('/').collect();
        self.routes
            .iter()
            .filter(|(wanted, _, _)| wanted == method)
            .find_map(|(_, pattern, handler)| Some((handler, pattern.matches(&segments)?)))
    }
}

/// Decodes `%41` and, where `plus` is set (queries), `+`. What is not valid stays as it is, what is not UTF-8 is replaced.
pub fn percent_decode(text: &str, plus: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = |offset: usize| bytes.get(at + offset).and_then(|b| char::from(*b).to_digit(16));
        match (bytes[at], hex(1), hex(2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high << 4 | low).expect("two hexadecimal digits fit a byte"));
                at += 3;
                continue;
            }
            (b'+', _, _) if plus => out.push(b' '),
            (byte, _, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Router<&'static str> {
        let mut router = Router::new();
        router.add(Method::GET, "/images/json", "list");
        router.add(Method::GET, "/images/{name...}/json", "inspect");
        router.add(Method::GET, "/images/{name...}/get", "save");
        router.add(Method::DELETE, "/images/{name...}", "remove");
        router.add(Method::GET, "/containers/{name}/json", "container");
        router
    }

    fn find(method: Method, path: &str) -> Option<(&'static str, String)> {
        table().find(&method, path).map(|(handler, params)| (*handler, params.get("name").to_owned()))
    }

    #[test]
    fn names_may_have_slashes_in_the_middle() {
        assert_eq!(find(Method::GET, "/images/json"), Some(("list", String::new())));
        assert_eq!(find(Method::GET, "/images/a/json"), Some(("inspect", "a".into())));
        assert_eq!(find(Method::GET, "/images/r.io:5/a/b:t/json"), Some(("inspect", "r.io:5/a/b:t".into())));
        assert_eq!(find(Method::GET, "/images/json/json"), Some(("inspect", "json".into())));
        assert_eq!(find(Method::DELETE, "/images/a/b"), Some(("remove", "a/b".into())));
        assert_eq!(find(Method::GET, "/containers/x/json"), Some(("container", "x".into())));
    }

    #[test]
    fn what_does_not_match_is_not_found() {
        for path in ["/", "", "/images", "/containers//json", "/containers/a/b/json", "/images/a/nope"] {
            assert_eq!(find(Method::GET, path), None, "{path}");
        }
        assert_eq!(find(Method::POST, "/images/json"), None);
    }

    #[test]
    fn versions_are_taken_off_and_checked() {
        let split = |path| split_version(path).map(|v| (v.version, v.path.to_owned()));
        assert_eq!(split("/v1.24/info"), Ok((Version::one(24), "/info".into())));
        assert_eq!(split("/info"), Ok((Version::MAX, "/info".into())));
        assert_eq!(split("/volumes/x"), Ok((Version::MAX, "/volumes/x".into())));
        assert_eq!(split("/v1.41"), Ok((Version::MAX, "/v1.41".into())));
        assert_eq!(
            split("/v1.99/info").unwrap_err(),
            "client version 1.99 is too new. Maximum supported API version is 1.51"
        );
        assert_eq!(
            split("/v1.4/info").unwrap_err(),
            "client version 1.4 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
        assert!(split("/v2.0/info").unwrap_err().contains("too new"));
        assert!(split("/v1/info").is_err());
    }

    #[test]
    fn paths_and_queries_are_decoded() {
        assert_eq!(percent_decode("a%2Fb%3a+c", false), "a/b:+c");
        assert_eq!(percent_decode("a%2Fb+c%", true), "a/b c%");
        assert_eq!(percent_decode("%zz%c3%a9%ff", true), "%zzé\u{fffd}");
    }
}

//! Owns the two address types of the HTTP client: [`Origin`] (what credentials are bound to) and [`Url`]. Data and parsing
//! only: no connections.

use std::fmt;
use std::net::IpAddr;

use hyper::Uri;

/// `http` or `https`; nothing else is ever dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }

    fn default_port(self) -> u16 {
        match self {
            Scheme::Http => 80,
            Scheme::Https => 443,
        }
    }
}

/// Scheme, host and port: the unit of trust. `host` is lower-case, an IPv6 address without brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Origin {
    pub(crate) scheme: Scheme,
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Origin {
    /// The origin for `host[:port]` as written in an image reference.
    pub(crate) fn new(scheme: Scheme, host_port: &str) -> Option<Origin> {
        let (host, port) = split_host_port(host_port)?;
        Some(Origin { scheme, host, port: port.unwrap_or(scheme.default_port()) })
    }

    /// `host` or `host:port`, brackets around IPv6, the port left out where it is the scheme's own: the Host header.
    pub(crate) fn authority(&self) -> String {
        if self.port == self.scheme.default_port() { self.bracketed() } else { self.host_port() }
    }

    /// `host:port`, always with the port.
    pub(crate) fn host_port(&self) -> String {
        format!("{}:{}", self.bracketed(), self.port)
    }

    fn bracketed(&self) -> String {
        if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() }
    }

    /// The address, if the host is written as one.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// Splits `host[:port]`; `None` if it is neither a name nor an address.
pub(crate) fn split_host_port(text: &str) -> Option<(String, Option<u16>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let name = |b: u8| b.is_ascii_alphanumeric() || b".-_".contains(&b);
    let plausible = !host.is_empty() && host.len() <= 253 && (host.contains(':') || host.bytes().all(name));
    let port = match port {
        Some(p) if !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) => {
            Some(p.parse::<u16>().ok().filter(|p| *p > 0)?)
        }
        Some(_) => return None,
        None => None,
    };
    plausible.then(|| (host.to_ascii_lowercase(), port))
}

/// An absolute URL without userinfo or fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(crate) origin: Origin,
    /// Path and query, beginning with `/`.
    pub(crate) target: String,
}

impl Url {
    pub(crate) fn new(origin: &Origin, target: impl Into<String>) -> Url {
        Url { origin: origin.clone(), target: target.into() }
    }

    /// Parses an absolute `http:` or `https:` URL. The error says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Url, String> {
        let text = text.split('#').next().unwrap_or_default();
        match text.split_once(':') {
            Some((scheme, _)) if !["http", "https"].contains(&scheme.to_ascii_lowercase().as_str()) => {
                return Err(format!("scheme {scheme:?} is not allowed"));
            }
            _ => {}
        }
        let uri: Uri = text.parse().map_err(|_| "not a valid URL".to_owned())?;
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err("not an absolute URL".to_owned()),
        };
        let authority = uri.authority().ok_or("no host")?.as_str();
        if authority.contains('@') {
            return Err("user information in a URL is not allowed".to_owned());
        }
        let origin = Origin::new(scheme, authority).ok_or("bad host or port")?;
        let target = uri.path_and_query().map_or("/", |p| p.as_str());
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Url { origin, target })
    }

    /// Resolves a `Location` header against this URL (RFC 3986 section 5, without dot segments).
    pub(crate) fn join(&self, location: &str) -> Result<Url, String> {
        let first = location.split(['/', '?', '#']).next().unwrap_or_default();
        if first.contains(':') {
            return Url::parse(location);
        }
        if location.starts_with("//") {
            return Url::parse(&format!("{}:{location}", self.origin.scheme.as_str()));
        }
        let path = self.target.split('?').next().unwrap_or("/");
        let target = if location.starts_with('/') {
            location.to_owned()
        } else if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            format!("{}/{location}", path.rsplit_once('/').map_or("", |(dir, _)| dir))
        };
        Url::parse(&format!("{}{target}", self.origin))
    }
}

/// Prints without the query, which may be a signature that works as a credential.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.target.split('?').next().unwrap_or("/"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        assert_eq!(split_host_port("Localhost:5000"), Some(("localhost".into(), Some(5000))));
        assert_eq!(split_host_port("[::1]:5000"), Some(("::1".into(), Some(5000))));
        assert_eq!(split_host_port("[::1]"), Some(("::1".into(), None)));
        for bad in ["", ":1", "a:", "a:0", "a:70000", "a:1:2", "a b", "a/b", "[x]:1", "[::1]1", "a:+1"] {
            assert_eq!(split_host_port(bad), None, "{bad}");
        }
        let o = Origin::new(Scheme::Https, "[::1]").unwrap();
        assert_eq!(
            (o.authority(), o.host_port(), o.to_string()),
            ("[::1]".into(), "[::1]:443".into(), "https://[::1]".into())
        );
    }

    #[test]
    fn only_plain_http_urls_parse() {
        let url = Url::parse("https://Example.com:8443/a/b?sig=secret#x").unwrap();
        assert_eq!(url.origin.to_string(), "https://example.com:8443");
        assert_eq!(url.target, "/a/b?sig=secret");
        assert_eq!(url.to_string(), "https://example.com:8443/a/b");
        assert_eq!(Url::parse("http://h").unwrap().target, "/");
        for bad in [
            "file:///etc/passwd",
            "unix:/run/x.sock",
            "/relative",
            "http://user:pw@h/",
            "ftp://h/",
            "http://h:0/",
            "",
            "http:///x",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn locations_resolve_against_the_request() {
        let base = Url::parse("http://h:1/v2/x/blobs/d?q=1").unwrap();
        let join = |l: &str| base.join(l).map(|u| format!("{}{}", u.origin, u.target));
        assert_eq!(join("/abs").unwrap(), "http://h:1/abs");
        assert_eq!(join("rel?z").unwrap(), "http://h:1/v2/x/blobs/rel?z");
        assert_eq!(join("//other/p").unwrap(), "http://other/p");
        assert_eq!(join("https://other:2/p:1").unwrap(), "https://other:2/p:1");
        assert_eq!(join("?n=2").unwrap(), "http://h:1/v2/x/blobs/d?n=2");
        assert!(join("file:/etc/shadow").is_err());
    }
}

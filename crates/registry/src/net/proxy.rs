//! Owns which proxy, if any, a request goes through: the environment variables' meaning, as Go's httpproxy package gives
//! it. Decides only: no connections.

use std::net::IpAddr;

use base64::Engine;

use super::url::{Origin, Scheme};

/// The proxies for outgoing requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http` URLs: `http://[user:password@]host:port`, or empty.
    pub http: String,
    /// For `https` URLs, reached with CONNECT; empty for none.
    pub https: String,
    /// Comma-separated hosts, domains (`.example`), addresses and CIDR ranges that are reached directly; `*` for all.
    pub none_for: String,
}

/// A proxy to dial.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Proxy {
    pub(crate) origin: Origin,
    /// Value of `Proxy-Authorization`, if the URL had user information.
    pub(crate) authorization: Option<String>,
}

impl Proxies {
    /// From `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, upper or lower case.
    pub fn from_env() -> Proxies {
        let var = |upper: &str, lower: &str| {
            [upper, lower]
                .into_iter()
                .filter_map(|name| std::env::var(name).ok())
                .find(|v| !v.is_empty())
                .unwrap_or_default()
        };
        Proxies {
            http: var("HTTP_PROXY", "http_proxy"),
            https: var("HTTPS_PROXY", "https_proxy"),
            none_for: var("NO_PROXY", "no_proxy"),
        }
    }

    /// The proxy for requests to `origin`. Loopback is always reached directly.
    pub(crate) fn for_origin(&self, origin: &Origin) -> Result<Option<Proxy>, String> {
        let setting = match origin.scheme {
            Scheme::Http => &self.http,
            Scheme::Https => &self.https,
        };
        if setting.is_empty() || self.bypasses(origin) {
            return Ok(None);
        }
        parse(setting).map(Some)
    }

    fn bypasses(&self, origin: &Origin) -> bool {
        let ip = origin.ip();
        if origin.host == "localhost" || ip.is_some_and(|ip| ip.is_loopback()) {
            return true;
        }
        self.none_for.split(',').map(str::trim).filter(|e| !e.is_empty()).any(|entry| {
            if entry == "*" {
                return true;
            }
            if let (Some(ip), Some((network, bits))) = (ip, parse_cidr(entry)) {
                return in_network(ip, network, bits);
            }
            let (host, port) = super::url::split_host_port(entry.trim_start_matches('*')).unwrap_or_default();
            let port_fits = port.is_none_or(|p| p == origin.port);
            let domain = host.strip_prefix('.').unwrap_or(&host);
            let is_subdomain = origin.host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
            !domain.is_empty() && port_fits && (is_subdomain || (origin.host == domain && !host.starts_with('.')))
        })
    }
}

fn parse(setting: &str) -> Result<Proxy, String> {
    let bad = |why: &str| Err(format!("proxy setting is not usable: {why} (use http://[user:password@]host:port)"));
    let with_scheme = if setting.contains("://") { setting.to_owned() } else { format!("http://{setting}") };
    let (scheme, rest) = with_scheme.split_once("://").expect("a scheme was put in front");
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => return bad(&format!("scheme {other:?} is not supported")),
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u), h));
    let Some(origin) = Origin::new(scheme, host) else {
        return bad("no valid host");
    };
    let authorization = user.map(|u| {
        let decoded = percent_decode(if u.contains(':') { u.to_owned() } else { format!("{u}:") }.as_bytes());
        format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(decoded))
    });
    Ok(Proxy { origin, authorization })
}

/// With `%41` as what it stands for (RFC 3986 section 2.1).
pub(crate) fn percent_decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let hex = text
            .get(at + 1..at + 3)
            .and_then(|h| std::str::from_utf8(h).ok())
            .and_then(|h| u8::from_str_radix(h, 16).ok());
        match hex {
            Some(value) if byte == b'%' => {
                out.push(value);
                at += 3;
            }
            _ => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Parses `address/bits`, or a bare address as a range of one.
pub(crate) fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(b) => b.parse::<u8>().ok().filter(|b| *b <= most)?,
        None => most,
    };
    Some((address, bits))
}

/// Is `address` within the first `bits` bits of `network`?
pub(crate) fn in_network(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let shared = |a: u128, b: u128, width: u32| bits == 0 || (a ^ b) >> (width - u32::from(bits)) == 0;
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => shared(a.to_bits().into(), n.to_bits().into(), 32),
        (IpAddr::V6(a), IpAddr::V6(n)) => shared(a.to_bits(), n.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        super::super::url::Url::parse(text).unwrap().origin
    }

    #[test]
    fn the_right_requests_go_through() {
        let p = Proxies {
            http: "http://us%40er:pw@proxy:3128".into(),
            https: "proxy:3129".into(),
            none_for: "direct.example, .sub.example,10.0.0.0/8,2001:db8::/32,port.example:8443".into(),
        };
        let via = |url| p.for_origin(&origin(url)).unwrap().map(|p| p.origin.to_string());
        assert_eq!(via("http://x.example").as_deref(), Some("http://proxy:3128"));
        assert_eq!(via("https://x.example").as_deref(), Some("http://proxy:3129"));
        for direct in [
            "https://direct.example",
            "https://a.direct.example",
            "https://a.sub.example",
            "http://10.1.2.3",
            "http://[2001:db8::1]",
            "https://port.example:8443",
            "http://localhost:5000",
            "http://127.0.0.9",
        ] {
            assert_eq!(via(direct), None, "{direct}");
        }
        for proxied in ["https://sub.example", "https://notdirect.example", "http://11.1.2.3", "https://port.example"] {
            assert!(via(proxied).is_some(), "{proxied}");
        }
        let auth = p.for_origin(&origin("http://x.example")).unwrap().unwrap().authorization;
        assert_eq!(auth.as_deref(), Some("Basic dXNAZXI6cHc="));
        let socks = Proxies { http: "socks5://x:1".into(), ..Proxies::default() };
        assert!(socks.for_origin(&origin("http://x.example")).err().unwrap().contains("socks5"));
    }

    #[test]
    fn networks() {
        assert_eq!(parse_cidr("10.0.0.0/33"), None);
        assert!(in_network("10.9.9.9".parse().unwrap(), "0.0.0.0".parse().unwrap(), 0));
        assert!(!in_network("10.9.9.9".parse().unwrap(), "10.9.9.8".parse().unwrap(), 32));
    }
}

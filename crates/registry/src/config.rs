//! Owns what the client is told from outside: settings, credentials, and which hosts an image's domain means. The only
//! place that knows Docker Hub's names. It must not connect.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use brig_store::Compression;

use crate::net::proxy::{Proxies, in_network, parse_cidr};
use crate::net::tls::Trust;
use crate::net::url::{Origin, Scheme, Url, split_host_port};

/// The domain of images named without one, and the host that serves it: a fact of the protocol that every client must know.
const HUB_DOMAIN: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";
/// Where Docker Hub is searched.
const HUB_SEARCH: &str = "index.docker.io";
/// Stands for every registry that has no settings of its own.
const ANY: &str = "*";

/// The client's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Mirrors of Docker Hub, tried in order before it: `https://host[:port]` or `http://…`.
    pub mirrors: Vec<String>,
    /// What is special about single registries, by `host` or `host:port`; `*` is for all that are not named.
    pub registries: BTreeMap<String, RegistrySettings>,
    /// Registries reached without a verified certificate or over plain HTTP: `host`, `host:port` or CIDR ranges.
    /// 127.0.0.0/8, `::1` and `localhost` always are.
    pub insecure: Vec<String>,
    /// Directories holding a `<host:port>/` directory per registry with `*.crt`, `*.cert` and `*.key`.
    pub ca_dirs: Vec<PathBuf>,
    /// Layers fetched at once, over all pulls.
    pub max_concurrent_downloads: usize,
    /// Layers sent at once by one push.
    pub max_concurrent_uploads: usize,
    /// How layers that did not come compressed are when they are pushed.
    pub compression: Compression,
    /// The size in bytes from which on a blob is fetched in several parts at once, where the registry serves ranges.
    pub ranges_above: u64,
    /// The size of such a part in bytes.
    pub range_size: u64,
    /// How many such parts of a blob are fetched at once.
    pub ranges_at_once: usize,
    /// The `User-Agent` header.
    pub user_agent: String,
    /// Proxies for outgoing requests.
    pub proxies: Proxies,
    /// Longest wait for the next byte from a server.
    pub stall_timeout: Duration,
    /// Wait before the first retry; doubles with every further one, up to thirty seconds.
    pub retry_delay: Duration,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            mirrors: Vec::new(),
            registries: BTreeMap::new(),
            insecure: Vec::new(),
            ca_dirs: vec!["/etc/docker/certs.d".into()],
            max_concurrent_downloads: 3,
            max_concurrent_uploads: 5,
            compression: Compression::default(),
            ranges_above: 32 << 20,
            range_size: 8 << 20,
            ranges_at_once: 4,
            user_agent: concat!("brig/", env!("CARGO_PKG_VERSION")).into(),
            proxies: Proxies::from_env(),
            stall_timeout: Duration::from_secs(30),
            retry_delay: Duration::from_secs(1),
        }
    }
}

/// What is special about one registry, or about all of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Places that serve its images, tried in order before it: `https://host[:port][/path]` or `http://…`.
    pub mirrors: Vec<String>,
    /// It is reached without a verified certificate or over plain HTTP.
    pub insecure: bool,
    /// Certificates, PEM, of the authorities that its own may come from, beside the system's.
    pub ca: Option<PathBuf>,
}

impl RegistrySettings {
    /// The settings that texts of the form `HOST=mirror=URL`, `HOST=insecure=true` and `HOST=ca=FILE` add up to. The error
    /// names the text and what may stand there.
    pub fn parse(texts: &[String]) -> Result<BTreeMap<String, RegistrySettings>, String> {
        let mut all: BTreeMap<String, RegistrySettings> = BTreeMap::new();
        for text in texts {
            let wrong = |why: &str| format!("registry setting {text:?}: {why}");
            let parts = text.split_once('=').and_then(|(host, rest)| Some((host, rest.split_once('=')?)));
            let (host, (key, value)) =
                parts.ok_or_else(|| wrong("it must be HOST=mirror=URL, HOST=insecure=true or HOST=ca=FILE"))?;
            if host != ANY && Origin::new(Scheme::Https, host).is_none() {
                return Err(wrong(&format!("{host:?} is not HOST or HOST:PORT, nor \"*\"")));
            }
            let settings = all.entry(host.to_owned()).or_default();
            match (key, value) {
                ("mirror", url) => settings.mirrors.push(url.to_owned()),
                ("insecure", "true" | "false") => settings.insecure = value == "true",
                ("ca", file) if file.starts_with('/') => settings.ca = Some(file.into()),
                ("insecure", _) => return Err(wrong("\"insecure\" is true or false")),
                ("ca", _) => return Err(wrong("\"ca\" is the absolute path of a PEM file")),
                _ => return Err(wrong("only \"mirror\", \"insecure\" and \"ca\" can be set")),
            }
        }
        Ok(all)
    }
}

/// Credentials for one registry, as in Docker's `X-Registry-Auth`; unused fields are empty.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Auth {
    /// User name for Basic authentication and token requests.
    pub username: String,
    /// Password or access token belonging to it.
    pub password: String,
    /// A refresh token, exchanged for access tokens (OAuth2).
    pub identity_token: String,
    /// A ready bearer token, sent as it is.
    pub registry_token: String,
}

/// Secrets stay out of logs.
impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A place that serves an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Ways to reach it, best first.
    pub(crate) origins: Vec<Origin>,
    pub(crate) trust: Trust,
    /// Path before `/v2/`, without a final slash.
    pub(crate) prefix: String,
    /// Whether it only stands in for the registry that the image names, whose credentials are not for it.
    pub(crate) is_mirror: bool,
    /// The registry that a mirror of several stands in for, told with each request (`?ns=`, as containerd does).
    pub(crate) namespace: Option<String>,
}

impl Config {
    /// The places that serve images of `domain`, in the order to be tried: its own mirrors, for Docker Hub `mirrors`, those
    /// of all registries, then the registry itself. The error names the bad setting or domain.
    pub(crate) fn endpoints(&self, domain: &str) -> Result<Vec<Endpoint>, String> {
        let mirrors = |host: &str| self.registries.get(host).map_or(&[][..], |settings| &settings.mirrors[..]);
        let own = mirrors(domain).iter();
        let hub = self.mirrors.iter().filter(|_| domain == HUB_DOMAIN);
        let mut endpoints: Vec<Endpoint> = own.chain(hub).map(|url| self.mirror(url)).collect::<Result<_, _>>()?;
        for url in mirrors(ANY) {
            endpoints.push(Endpoint { namespace: Some(domain.to_owned()), ..self.mirror(url)? });
        }
        endpoints.push(self.registry(domain)?);
        Ok(endpoints)
    }

    /// The place where images of `domain` are searched for.
    pub(crate) fn search_endpoint(&self, domain: &str) -> Result<Endpoint, String> {
        let registry = self.registry(domain)?;
        if !is_hub(domain) {
            return Ok(registry);
        }
        let origin = Origin::new(Scheme::Https, HUB_SEARCH).ok_or("invalid search host")?;
        Ok(Endpoint { origins: vec![origin], ..registry })
    }

    /// The registry itself, without what stands in for it: where images of `domain` are pushed.
    pub(crate) fn registry(&self, domain: &str) -> Result<Endpoint, String> {
        let host = if is_hub(domain) { HUB_HOST } else { domain };
        let trust = self.trust(host);
        let schemes: &[Scheme] = match trust {
            Trust::Verified => &[Scheme::Https],
            Trust::Unverified => &[Scheme::Https, Scheme::Http],
        };
        let origins: Option<Vec<Origin>> = schemes.iter().map(|s| Origin::new(*s, host)).collect();
        let origins = origins.ok_or_else(|| format!("invalid registry host {host:?}"))?;
        Ok(Endpoint { origins, trust, prefix: String::new(), is_mirror: false, namespace: None })
    }

    /// The files with further authorities, by host.
    pub(crate) fn authorities(&self) -> BTreeMap<String, PathBuf> {
        let files = self.registries.iter().filter_map(|(host, settings)| Some((host.clone(), settings.ca.clone()?)));
        files.collect()
    }

    /// Whether every setting can be used.
    pub(crate) fn check(&self) -> Result<(), String> {
        let hosts = self.registries.keys().map(String::as_str).filter(|host| *host != ANY);
        hosts.chain([HUB_DOMAIN]).try_for_each(|host| self.endpoints(host).map(drop))
    }

    fn mirror(&self, mirror: &str) -> Result<Endpoint, String> {
        let url = Url::parse(mirror).map_err(|why| format!("invalid mirror {mirror:?}: {why}"))?;
        let trust = self.trust(&url.origin.authority());
        // Settings name the path up to the registry's root; "/v2" belongs to the protocol.
        let prefix = url.target.trim_end_matches('/').to_owned();
        Ok(Endpoint { origins: vec![url.origin], trust, prefix, is_mirror: true, namespace: None })
    }

    /// Whether connections to `host[:port]` must be verified.
    pub(crate) fn trust(&self, host_port: &str) -> Trust {
        let Some((host, port)) = split_host_port(host_port) else {
            return Trust::Verified;
        };
        let ip: Option<IpAddr> = host.parse().ok();
        let listed = |entry: &String| match (ip, parse_cidr(entry)) {
            (Some(ip), Some((network, bits))) => in_network(ip, network, bits),
            _ => split_host_port(entry).is_some_and(|(h, p)| h == host && (p.is_none() || p == port)),
        };
        let named = [host_port, host.as_str()].iter().find_map(|name| self.registries.get(*name));
        if let Some(settings) = named.or_else(|| self.registries.get(ANY))
            && settings.insecure
        {
            return Trust::Unverified;
        }
        let local = host == "localhost" || ip.is_some_and(|ip| ip.to_canonical().is_loopback());
        if local || self.insecure.iter().any(listed) { Trust::Unverified } else { Trust::Verified }
    }
}

/// Is this one of the names by which Docker Hub goes in references and in `login`?
pub(crate) fn is_hub(domain: &str) -> bool {
    matches!(domain, "" | HUB_DOMAIN | "index.docker.io" | "https://index.docker.io/v1/" | HUB_HOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(config: &Config, domain: &str) -> Vec<String> {
        let endpoints = config.endpoints(domain).unwrap();
        endpoints.iter().flat_map(|e| e.origins.iter().map(move |o| format!("{o}{} {:?}", e.prefix, e.trust))).collect()
    }

    #[test]
    fn where_images_come_from() {
        let config = Config {
            mirrors: vec!["https://mirror.example/hub/".into(), "http://127.0.0.1:5001".into()],
            insecure: vec!["10.0.0.0/8".into(), "old.example:5000".into(), "any.example".into()],
            ..Config::default()
        };
        assert_eq!(
            plan(&config, "docker.io"),
            [
                "https://mirror.example/hub Verified",
                "http://127.0.0.1:5001 Unverified",
                "https://registry-1.docker.io Verified"
            ]
        );
        assert_eq!(plan(&config, "reg.example:8443"), ["https://reg.example:8443 Verified"]);
        assert_eq!(plan(&config, "localhost"), ["https://localhost Unverified", "http://localhost Unverified"]);
        for insecure in ["10.1.2.3:5000", "old.example:5000", "any.example:1", "127.0.0.1:5000", "[::1]:5000"] {
            assert_eq!(config.trust(insecure), Trust::Unverified, "{insecure}");
        }
        for verified in ["11.1.2.3:5000", "old.example:5001", "old.example", "localhost.example"] {
            assert_eq!(config.trust(verified), Trust::Verified, "{verified}");
        }
        assert!(config.endpoints("bad host").is_err());
        assert!(
            Config { mirrors: vec!["mirror".into()], ..config }.endpoints("docker.io").unwrap_err().contains("mirror")
        );
    }

    #[test]
    fn every_registry_can_have_mirrors() {
        let texts = [
            "reg.example:5000=mirror=https://m1.example/a",
            "reg.example:5000=mirror=http://m2.example",
            "*=mirror=https://all.example",
            "m2.example=insecure=true",
            "docker.io=mirror=https://hub.example",
        ];
        let registries = RegistrySettings::parse(&texts.map(str::to_owned)).unwrap();
        let config = Config { registries, mirrors: vec!["https://old.example".into()], ..Config::default() };
        config.check().unwrap();
        assert_eq!(
            plan(&config, "reg.example:5000"),
            [
                "https://m1.example/a Verified",
                "http://m2.example Unverified",
                "https://all.example Verified",
                "https://reg.example:5000 Verified"
            ]
        );
        let hub = plan(&config, "docker.io");
        assert_eq!(hub[..2], ["https://hub.example Verified", "https://old.example Verified"]);
        assert_eq!(plan(&config, "other.example"), ["https://all.example Verified", "https://other.example Verified"]);
        assert_eq!(config.endpoints("o.example").unwrap()[0].namespace.as_deref(), Some("o.example"));
        for bad in ["x", "x=y", "x=colour=red", "x=insecure=maybe", "x=ca=relative.pem", "a b=insecure=true"] {
            assert!(RegistrySettings::parse(&[bad.to_owned()]).unwrap_err().contains(bad), "{bad}");
        }
        let registries = RegistrySettings::parse(&["r.example=mirror=ftp://m".to_owned()]).unwrap();
        assert!(Config { registries, ..Config::default() }.check().unwrap_err().contains("ftp://m"));
    }

    #[test]
    fn credentials_do_not_print() {
        let auth = Auth {
            username: "u".into(),
            password: "CANARY".into(),
            identity_token: "CANARY".into(),
            registry_token: "CANARY".into(),
        };
        assert!(!format!("{auth:?}").contains("CANARY"));
    }
}

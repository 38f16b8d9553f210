//! Which daemon to talk to: flags, environment, the current context of `~/.docker`, else the default socket.
//! Reads those files; connects to nothing.

use crate::failure::{Failure, Result};
use crate::tls;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A host name and a port.
    Tcp(String, u16),
}

/// A daemon to talk to.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its address.
    pub address: Address,
    /// As the user would write it.
    pub shown: String,
    /// Certificates, if the connection is encrypted.
    pub tls: Option<tls::Config>,
    /// Nobody named this address: if nobody answers, a daemon may be started.
    pub may_start: bool,
}

/// What the global flags said.
#[derive(Debug, Default, Clone)]
pub struct Options {
    /// `--host`, every one given.
    pub hosts: Vec<String>,
    /// `--context`.
    pub context: String,
    /// `--config`.
    pub config_dir: Option<PathBuf>,
    /// `--tls` or `--tlsverify`; the second checks who the daemon is.
    pub tls: Option<bool>,
    /// `--tlscacert`, `--tlscert`, `--tlskey`.
    pub certificates: [Option<PathBuf>; 3],
}

/// The socket that a daemon of this machine listens on.
pub fn default_socket() -> PathBuf {
    std::env::var_os("BRIG_SOCKET")
        .filter(|s| !s.is_empty())
        .map_or_else(|| PathBuf::from("/run/brig.sock"), PathBuf::from)
}

/// The directory of Docker's client configuration.
pub fn config_dir(options: &Options) -> PathBuf {
    let environment = || std::env::var_os("DOCKER_CONFIG").filter(|d| !d.is_empty()).map(PathBuf::from);
    let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".docker");
    options.config_dir.clone().or_else(environment).unwrap_or_else(home)
}

/// Finds the daemon to talk to.
///
/// # Errors
/// Conflicting or malformed addresses, unknown contexts, and the transports that are not there.
pub fn find(options: &Options) -> Result<Endpoint> {
    if options.hosts.len() > 1 {
        return Err(Failure::new("specify only one -H"));
    }
    let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let Some(host) = options.hosts.first() {
        if !options.context.is_empty() {
            return Err(Failure::new("conflicting options: either specify --host or --context, not both"));
        }
        return endpoint(host, options);
    }
    if options.context.is_empty()
        && let Some(host) = environment("DOCKER_HOST").or_else(|| environment("BRIG_HOST"))
    {
        return endpoint(&host, options);
    }
    let directory = config_dir(options);
    let name = Some(options.context.clone())
        .filter(|name| !name.is_empty())
        .or_else(|| environment("DOCKER_CONTEXT"))
        .or_else(|| current_context(&directory));
    match name.as_deref() {
        None | Some("default") => {
            let socket = default_socket();
            let shown = format!("unix://{}", socket.display());
            Ok(Endpoint { address: Address::Unix(socket), shown, tls: None, may_start: true })
        }
        Some(name) => context(&directory, name, options),
    }
}

fn current_context(directory: &Path) -> Option<String> {
    let text = std::fs::read(directory.join("config.json")).ok()?;
    let config: Value = serde_json::from_slice(&text).ok()?;
    config.get("currentContext")?.as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

fn context(directory: &Path, name: &str, options: &Options) -> Result<Endpoint> {
    let missing = || {
        Failure::new(format!(
            "context {name:?}: context not found: see the directories in {}",
            directory.join("contexts/meta").display()
        ))
    };
    let entries = std::fs::read_dir(directory.join("contexts/meta")).map_err(|_| missing())?;
    for entry in entries.flatten() {
        let Ok(text) = std::fs::read(entry.path().join("meta.json")) else { continue };
        let Ok(meta) = serde_json::from_slice::<Value>(&text) else { continue };
        if meta.get("Name").and_then(Value::as_str) != Some(name) {
            continue;
        }
        let host = meta.pointer("/Endpoints/docker/Host").and_then(Value::as_str).ok_or_else(missing)?;
        let mut found = endpoint(host, options)?;
        let certificates = directory.join("contexts/tls").join(entry.file_name()).join("docker");
        if certificates.join("ca.pem").exists() && found.tls.is_none() {
            found.tls = Some(tls::Config {
                ca: certificates.join("ca.pem"),
                cert: certificates.join("cert.pem"),
                key: certificates.join("key.pem"),
                verify: meta.pointer("/Endpoints/docker/SkipTLSVerify") != Some(&Value::Bool(true)),
            });
        }
        return Ok(found);
    }
    Err(missing())
}

fn endpoint(host: &str, options: &Options) -> Result<Endpoint> {
    let (scheme, rest) = host.split_once("://").unwrap_or(("tcp", host));
    let address = match scheme {
        "unix" => Address::Unix(if rest.is_empty() { default_socket() } else { PathBuf::from(rest) }),
        "tcp" | "http" | "https" => tcp(host, rest, options)?,
        "ssh" => {
            return Err(Failure::new(format!(
                "brig does not speak ssh yet: {host}\nForward the socket yourself: ssh -L /tmp/remote.sock:/run/brig.sock HOST, then use -H unix:///tmp/remote.sock"
            )));
        }
        "fd" | "npipe" => return Err(Failure::new(format!("protocol not available: {scheme} (in {host})"))),
        _ => return Err(Failure::new(format!("invalid bind address format: {host}"))),
    };
    let tls = matches!(address, Address::Tcp(..)).then(|| certificates(options)).flatten();
    Ok(Endpoint { address, shown: host.to_owned(), tls, may_start: false })
}

fn tcp(host: &str, rest: &str, options: &Options) -> Result<Address> {
    let bad = || Failure::new(format!("invalid bind address format: {host}"));
    let rest = rest.trim_end_matches('/');
    let port = if certificates(options).is_some() { 2376 } else { 2375 };
    let (name, port) = match rest.rsplit_once(':') {
        Some((name, digits)) if !digits.ends_with(']') => (name, digits.parse().map_err(|_| bad())?),
        _ => (rest, port),
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    if name.contains('/') {
        return Err(bad());
    }
    Ok(Address::Tcp(if name.is_empty() { "127.0.0.1" } else { name }.to_owned(), port))
}

fn certificates(options: &Options) -> Option<tls::Config> {
    let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let verify = options.tls.unwrap_or_else(|| set("DOCKER_TLS_VERIFY"));
    if options.tls.is_none() && !verify && !set("DOCKER_TLS") {
        return None;
    }
    let directory = std::env::var_os("DOCKER_CERT_PATH")
        .filter(|d| !d.is_empty())
        .map_or_else(|| config_dir(options), PathBuf::from);
    let file = |at: usize, name: &str| options.certificates[at].clone().unwrap_or_else(|| directory.join(name));
    Some(tls::Config { ca: file(0, "ca.pem"), cert: file(1, "cert.pem"), key: file(2, "key.pem"), verify })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(host: &str) -> Result<Endpoint> {
        find(&Options { hosts: vec![host.to_owned()], ..Options::default() })
    }

    #[test]
    fn addresses() {
        assert_eq!(given("unix:///a/b.sock").unwrap().address, Address::Unix("/a/b.sock".into()));
        assert_eq!(given("tcp://h:1").unwrap().address, Address::Tcp("h".into(), 1));
        assert_eq!(given("tcp://").unwrap().address, Address::Tcp("127.0.0.1".into(), 2375));
        assert_eq!(given("tcp://[::1]:99").unwrap().address, Address::Tcp("::1".into(), 99));
        assert!(given("ssh://me@h").unwrap_err().message.contains("does not speak ssh"));
        assert!(given("foo://x").is_err() && given("tcp://h:x").is_err());
        assert!(!given("unix:///a").unwrap().may_start);
    }

    #[test]
    fn contexts() {
        let dir = tempfile::tempdir().unwrap();
        let meta = dir.path().join("contexts/meta/abc");
        std::fs::create_dir_all(&meta).unwrap();
        std::fs::write(meta.join("meta.json"), r#"{"Name":"far","Endpoints":{"docker":{"Host":"tcp://far:2375"}}}"#)
            .unwrap();
        std::fs::write(dir.path().join("config.json"), r#"{"currentContext":"far"}"#).unwrap();
        assert_eq!(current_context(dir.path()).as_deref(), Some("far"));
        let options = Options::default();
        assert_eq!(context(dir.path(), "far", &options).unwrap().address, Address::Tcp("far".into(), 2375));
        assert!(context(dir.path(), "near", &options).unwrap_err().message.contains("context not found"));
    }
}

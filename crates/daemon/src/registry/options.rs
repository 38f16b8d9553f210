//! What `brig registry serve` can be told. Owns flags, their help and what they become for the registry; must not start
//! anything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use brig_registry_server::{Access, Auth, Htpasswd, Proxy, TokenAuth, TokenSettings, Upkeep};
use clap::{CommandFactory as _, Parser, Subcommand};

/// `brig registry`.
#[derive(Debug, Clone, Parser)]
#[command(name = "brig registry", bin_name = "brig registry", version, about = "Serve images to others.")]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

/// What there is to do.
#[derive(Debug, Clone, Subcommand)]
pub enum Verb {
    /// Serve a registry in the foreground until it is told to stop
    Serve(Box<Options>),
}

/// The flags of `brig registry serve`.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// Address to listen on; without a host all of this machine's
    #[arg(long, value_name = "[HOST]:PORT", default_value = "127.0.0.1:5000")]
    pub addr: String,
    /// Directory of everything that is pushed
    #[arg(long, value_name = "DIR", default_value = "/var/lib/brig-registry")]
    pub root: PathBuf,

    /// Certificate for TLS, with those that lead to its authority
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Demand clients' certificates, from the authority whose certificate this is
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_client_ca: Option<PathBuf>,

    /// Demand a name and password from this file, made by htpasswd -B; it is read again when it changes
    #[arg(long, value_name = "FILE", conflicts_with = "token_realm")]
    pub htpasswd: Option<PathBuf>,
    /// Demand tokens, and send clients to this address for them
    #[arg(long, value_name = "URL", requires_all = ["token_service", "token_issuer", "token_keys"])]
    pub token_realm: Option<String>,
    /// This registry's name to the issuer of tokens
    #[arg(long, value_name = "NAME", requires = "token_realm")]
    pub token_service: Option<String>,
    /// The issuer of tokens, as they name it
    #[arg(long, value_name = "NAME", requires = "token_realm")]
    pub token_issuer: Option<String>,
    /// PEM file with the issuer's public keys or certificates (may be repeated)
    #[arg(long = "token-key", value_name = "FILE", requires = "token_realm")]
    pub token_keys: Vec<PathBuf>,

    /// Be a cache of this registry (https://host[:port], or docker.io): what is not here is fetched there and kept
    #[arg(long, value_name = "URL")]
    pub proxy: Option<String>,
    /// User at that registry
    #[arg(long, value_name = "NAME", requires_all = ["proxy", "proxy_password_file"])]
    pub proxy_user: Option<String>,
    /// File with the user's password or token in it
    #[arg(long, value_name = "FILE", requires = "proxy_user")]
    pub proxy_password_file: Option<PathBuf>,

    /// Take nothing in and delete nothing
    #[arg(long)]
    pub read_only: bool,
    /// Delete nothing
    #[arg(long)]
    pub no_delete: bool,

    /// How many connections one client may have at once
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub client_connections: usize,

    /// Time between collections of what nothing needs, as 30m or 1h; 0 for none
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
    pub gc_interval: Duration,
    /// How long a blob that no manifest names is kept after somebody pushed it or asked for it
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = time)]
    pub gc_grace: Duration,
    /// Collect manifests too that have no tag and that no other manifest names
    #[arg(long)]
    pub gc_untagged: bool,
    /// How long an upload that nobody goes on with is kept
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time)]
    pub upload_expiry: Duration,

    /// How much to write: debug, info (each request), warn, error
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// Write a byte to this descriptor when listening.
    #[arg(long, hide = true, value_name = "FD")]
    pub ready_fd: Option<u32>,
}

/// The options that only a registry of its own has.
const OWN: &[&str] = &["addr", "root", "proxy", "proxy-user", "proxy-password-file", "log-level", "ready-fd"];

/// The options of a registry that a daemon serves on `address` over its own storage: `settings` are `KEY=VALUE`, the keys
/// being the flags of `brig registry serve`.
///
/// # Errors
/// Names the setting that there is not, or what is wrong with its value.
pub fn of_daemon(address: &str, settings: &[String]) -> Result<Options, String> {
    let mut args = vec!["serve".to_owned(), format!("--addr={address}")];
    for setting in settings {
        let (key, value) = setting.split_once('=').unwrap_or((setting, "true"));
        let command = Options::command();
        let known = command.get_arguments().find(|argument| argument.get_long() == Some(key));
        let known = known.filter(|_| !OWN.contains(&key)).ok_or_else(|| {
            format!(
                "--serve-registry-opt {setting}: there is no such setting: they are the flags of brig registry serve"
            )
        })?;
        match (known.get_action().takes_values(), value) {
            (true, _) => args.push(format!("--{key}={value}")),
            (false, "true") => args.push(format!("--{key}")),
            (false, "false") => {}
            (false, _) => return Err(format!("--serve-registry-opt {setting}: must be true or false")),
        }
    }
    Options::try_parse_from(args).map_err(|error| {
        let text = error.to_string();
        let said: Vec<&str> = text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
        format!("--serve-registry-opt: {}", said.join(" ").trim_start_matches("error: "))
    })
}

/// Where the realm of passwords is shown.
const REALM: &str = "brig registry";

impl Options {
    /// Who may use the registry.
    ///
    /// # Errors
    /// Names the file and what is wrong with it.
    pub fn access(&self) -> Result<Access, String> {
        if let Some(path) = &self.htpasswd {
            return Htpasswd::open(path, REALM).map(Access::Password);
        }
        let Some(realm) = self.token_realm.clone() else { return Ok(Access::Open) };
        let settings = TokenSettings {
            realm,
            service: self.token_service.clone().unwrap_or_default(),
            issuer: self.token_issuer.clone().unwrap_or_default(),
            keys: self.token_keys.clone(),
        };
        TokenAuth::open(settings).map(Access::Token)
    }

    /// The registry to be a cache of, if any.
    ///
    /// # Errors
    /// Names what is wrong with its address, or the file that cannot be read.
    pub fn upstream(&self) -> Result<Option<Proxy>, String> {
        let Some(address) = &self.proxy else { return Ok(None) };
        let auth = match (&self.proxy_user, &self.proxy_password_file) {
            (Some(user), Some(file)) => {
                let password = std::fs::read_to_string(file)
                    .map_err(|error| format!("reading the password in {}: {error}", file.display()))?;
                let (username, password) = (user.clone(), password.trim_end_matches(['\r', '\n']).to_owned());
                Some(Auth { username, password, ..Auth::default() })
            }
            _ => None,
        };
        Proxy::new(address, auth).map(Some)
    }

    /// What is cleaned up; nothing if that was switched off.
    pub fn upkeep(&self) -> Option<Upkeep> {
        (!self.gc_interval.is_zero()).then_some(Upkeep {
            interval: self.gc_interval,
            grace: self.gc_grace,
            uploads: self.upload_expiry,
            untagged: self.gc_untagged,
        })
    }

    /// The files for TLS, if it is wanted: certificate, key, authority of clients.
    pub fn tls(&self) -> Option<(&Path, &Path, Option<&Path>)> {
        Some((self.tls_cert.as_deref()?, self.tls_key.as_deref()?, self.tls_client_ca.as_deref()))
    }

    /// The addresses to listen on, each to be tried only where the one before cannot be had.
    ///
    /// # Errors
    /// If the option is none.
    pub fn addresses(&self) -> Result<Vec<String>, String> {
        let (host, port) = self.addr.rsplit_once(':').unwrap_or(("", ""));
        if port.parse::<u16>().is_err() {
            return Err(format!("{:?} is no address: HOST:PORT, or :PORT for all of this machine's", self.addr));
        }
        // The first is for IPv4 as well, where there is IPv6 at all.
        Ok(match host {
            "" => vec![format!("[::]:{port}"), format!("0.0.0.0:{port}")],
            _ => vec![self.addr.clone()],
        })
    }

    /// Whether whoever reaches the address may do everything.
    pub fn is_open(&self) -> bool {
        self.htpasswd.is_none() && self.token_realm.is_none() && self.tls_client_ca.is_none() && !self.read_only
    }
}

/// A time: a number with an optional unit `s`, `m`, `h` or `d`.
fn time(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err("must be a number with an optional unit s, m, h or d".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "must be a number with an optional unit s, m, h or d".to_owned())?;
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(|| "is longer than time".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        let all = ["brig registry", "serve"].into_iter().chain(args.iter().copied());
        Cli::try_parse_from(all).map(|Cli { verb: Verb::Serve(options) }| *options).map_err(|error| error.to_string())
    }

    #[test]
    fn flags() {
        let options = parse(&["--gc-interval", "30m", "--gc-grace", "0", "--upload-expiry", "2d"]).unwrap();
        let upkeep = options.upkeep().unwrap();
        assert_eq!((upkeep.interval.as_secs(), upkeep.grace.as_secs(), upkeep.uploads.as_secs()), (1800, 0, 172_800));
        assert!(parse(&["--gc-interval", "0"]).unwrap().upkeep().is_none());
        let addresses = |text: &str| parse(&["--addr", text]).unwrap().addresses();
        assert_eq!(addresses("[::1]:5000").unwrap(), ["[::1]:5000"]);
        assert_eq!(addresses(":5000").unwrap(), ["[::]:5000", "0.0.0.0:5000"]);
        for bad in ["5000", "host", "host:", "host:http", ":70000", ""] {
            assert!(addresses(bad).unwrap_err().contains("HOST:PORT"), "{bad}");
        }
        assert!(options.is_open() && options.tls().is_none() && matches!(options.access(), Ok(Access::Open)));
        assert!(!parse(&["--read-only"]).unwrap().is_open());
        assert!(parse(&["--proxy", "https://r.example:5000/"]).unwrap().upstream().unwrap().is_some());
        for bad in ["ftp://r.example", "https://r.example/path", "https://", "nohost"] {
            assert!(parse(&["--proxy", bad]).unwrap().upstream().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_daemon_has_the_same_settings() {
        let settings = ["read-only=true", "no-delete=false", "gc-interval=5m"].map(str::to_owned);
        let options = of_daemon("127.0.0.1:1", &settings).unwrap();
        assert!(options.read_only && !options.no_delete);
        assert_eq!((options.addr.as_str(), options.gc_interval.as_secs()), ("127.0.0.1:1", 300));
        for (bad, word) in [
            ("root=/x", "no such setting"),
            ("proxy=docker.io", "no such setting"),
            ("nope=1", "no such setting"),
            ("read-only=maybe", "true or false"),
            ("tls-cert=/c", "--tls-key"),
            ("gc-grace=soon", "soon"),
        ] {
            let error = of_daemon("127.0.0.1:1", &[bad.to_owned()]).unwrap_err();
            assert!(error.contains(word), "{bad}: {error}");
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        for bad in [
            &["--tls-cert", "/c"][..],
            &["--tls-client-ca", "/c"],
            &["--token-realm", "https://x/token"],
            &["--token-key", "/k"],
            &[
                "--htpasswd",
                "/h",
                "--token-realm",
                "u",
                "--token-service",
                "s",
                "--token-issuer",
                "i",
                "--token-key",
                "k",
            ],
            &["--gc-interval", "soon"],
            &["--gc-interval", "-1"],
            &["--proxy-user", "u", "--proxy", "https://r.example"],
            &["extra"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let error = parse(&["--htpasswd", "/nonexistent/users"]).unwrap().access().err().unwrap();
        assert!(error.contains("/nonexistent/users"), "{error}");
    }
}

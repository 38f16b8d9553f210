//! What `brig daemon` can be told, under dockerd's names where it means the same.
//! Owns flags, their help and what they become for the engine; must not read files or start anything.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use brig_engine::{Config, StorageGc};
use clap::{ArgAction, Parser};

use crate::listen::{DEFAULT_HOST, Host};

/// Where the configuration file is when nobody says otherwise.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/brig/daemon.json";

/// The flags of `brig daemon`.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "brig daemon",
    bin_name = "brig daemon",
    args_override_self = true,
    version,
    about = "The container engine's daemon."
)]
pub struct Options {
    /// Address to listen on: unix:///path, tcp://host:port or fd:// (may be repeated) [default: unix:///run/brig.sock]
    #[arg(short = 'H', long = "host", value_name = "ADDRESS")]
    pub hosts: Vec<String>,
    /// Group that may use the unix socket [default: docker, else brig, if there is one]
    #[arg(short = 'G', long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Configuration file in JSON with these options as keys
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG_FILE)]
    pub config_file: PathBuf,
    /// Check the configuration and exit
    #[arg(long)]
    pub validate: bool,
    /// Check the data root, which no daemon may be using, write a line of JSON for each finding and exit
    #[arg(long, conflicts_with = "validate")]
    pub check: bool,
    /// With --check: read every byte
    #[arg(long, requires = "check")]
    pub check_full: bool,
    /// With --check: mend what can be mended
    #[arg(long, requires = "check")]
    pub check_repair: bool,
    /// Directory of images, containers and volumes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/brig")]
    pub data_root: PathBuf,
    /// Directory of the state of running containers
    #[arg(long, value_name = "DIR", default_value = "/run/brig")]
    pub exec_root: PathBuf,
    /// File to write the daemon's process id to
    #[arg(short = 'p', long, value_name = "FILE")]
    pub pidfile: Option<PathBuf>,
    /// The brig-rt program [default: the one beside this program, else the one in PATH]
    #[arg(long, value_name = "FILE")]
    pub shim: Option<PathBuf>,

    /// Write debugging output, and show it in `info`
    #[arg(short = 'D', long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub debug: bool,
    /// How much to write: debug, info, warn, error, fatal
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info")]
    pub log_level: String,

    /// Use TLS on TCP; implied by --tlsverify
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub tls: bool,
    /// Use TLS on TCP and demand clients' certificates
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub tlsverify: bool,
    /// Certificates of the authority that clients' certificates must come from
    #[arg(long, value_name = "FILE", default_value = "/etc/brig/ca.pem")]
    pub tlscacert: PathBuf,
    /// The server's certificate
    #[arg(long, value_name = "FILE", default_value = "/etc/brig/cert.pem")]
    pub tlscert: PathBuf,
    /// The server's private key
    #[arg(long, value_name = "FILE", default_value = "/etc/brig/key.pem")]
    pub tlskey: PathBuf,

    /// Address to serve the engine's images on as a registry, and to take images in that are pushed there; without a host all of
    /// this machine's
    #[arg(long, value_name = "[HOST]:PORT")]
    pub serve_registry: Option<String>,
    /// Setting of that registry: a flag of `brig registry serve` without its dashes, as htpasswd=FILE or read-only=true (may
    /// be repeated)
    #[arg(long = "serve-registry-opt", value_name = "KEY=VALUE")]
    pub serve_registry_opts: Vec<String>,
    /// Mirror to ask before Docker Hub (may be repeated)
    #[arg(long = "registry-mirror", value_name = "URL")]
    pub registry_mirrors: Vec<String>,
    /// Registry (host:port or CIDR) that may be used without verified TLS (may be repeated)
    #[arg(long = "insecure-registry", value_name = "REGISTRY")]
    pub insecure_registries: Vec<String>,
    /// Setting of one registry, or of all ("*"): HOST=mirror=URL, HOST=insecure=true, HOST=ca=FILE (may be repeated)
    #[arg(long = "registry", value_name = "SETTING")]
    pub registries: Vec<String>,
    /// How many layers to fetch at once
    #[arg(long, value_name = "N", default_value_t = 3)]
    pub max_concurrent_downloads: usize,
    /// How many layers to push at once
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub max_concurrent_uploads: usize,
    /// How to compress layers made here when they are pushed: gzip or zstd
    #[arg(long, value_name = "FORMAT", default_value = "gzip")]
    pub layer_compression: String,
    /// Keep the images for all platforms when a pull names none
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub pull_all_platforms: bool,
    /// Save manifests and layers as they came from a registry (slower), unless a client says otherwise
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub save_original: bool,

    /// Name server for containers (may be repeated)
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<IpAddr>,
    /// Resolver option for containers (may be repeated)
    #[arg(long = "dns-opt", value_name = "OPTION")]
    pub dns_options: Vec<String>,
    /// Search domain for containers (may be repeated)
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Address and prefix of the default bridge, as 172.17.0.1/16
    #[arg(long, value_name = "CIDR")]
    pub bip: Option<String>,
    /// MTU of the default bridge in bytes; 0 means the uplink's
    #[arg(long, value_name = "BYTES", default_value_t = 0)]
    pub mtu: u32,
    /// Containers on the default bridge may talk to each other
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub icc: bool,
    /// Host address that published ports bind to unless they name one
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0")]
    pub ip: IpAddr,
    /// Switch on IPv4 forwarding
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub ip_forward: bool,
    /// Masquerade containers' traffic to the outside
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub ip_masq: bool,
    /// Manage the firewall (brig uses a table of its own in nftables; false is refused)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub iptables: bool,
    /// Publish ports to the host's own addresses too (brig needs no proxy for it, so both values do the same)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub userland_proxy: bool,

    /// Log driver of containers that name none: json-file or none
    #[arg(long, value_name = "DRIVER", default_value = "json-file")]
    pub log_driver: String,
    /// Option of that driver, as max-size=10m (may be repeated)
    #[arg(long = "log-opt", value_name = "KEY=VALUE")]
    pub log_opts: Vec<String>,
    /// Resource limit of containers that name none, as nofile=1024:2048 (may be repeated)
    #[arg(long = "default-ulimit", value_name = "NAME=SOFT[:HARD]")]
    pub default_ulimits: Vec<String>,
    /// Size of /dev/shm of containers that name none
    #[arg(long, value_name = "SIZE", default_value = "64M")]
    pub default_shm_size: String,
    /// Cgroup that containers' cgroups are made below
    #[arg(long, value_name = "CGROUP")]
    pub cgroup_parent: Option<String>,
    /// Containers may not gain privileges unless they say otherwise
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub no_new_privileges: bool,
    /// When to make room by itself, as high=95%: high, low (percent of the disk), keep, every (durations), budget (images a
    /// round), tagged (true: images with names may go, too) (may be repeated)
    #[arg(long = "storage-gc", value_name = "KEY=VALUE")]
    pub storage_gc: Vec<String>,
    /// Label of this daemon, as key=value (may be repeated)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,

    /// Keep containers running while the daemon is away (always so; false is refused)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub live_restore: bool,
    /// Seconds to wait for containers when stopping (they are never stopped, so it changes nothing)
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    pub shutdown_timeout: i64,
    /// Storage driver: overlay2 (also called overlay, overlayfs)
    #[arg(short = 's', long, value_name = "DRIVER", default_value = "overlay2")]
    pub storage_driver: String,
    /// Runtime of containers that name none (only brig's own, also called runc)
    #[arg(long, value_name = "NAME", default_value = "runc")]
    pub default_runtime: String,
    /// Further OCI runtime, as name=path (refused: not supported yet)
    #[arg(long = "add-runtime", value_name = "NAME=PATH")]
    pub add_runtimes: Vec<String>,
    /// Option of the runtime (only native.cgroupdriver=cgroupfs)
    #[arg(long = "exec-opt", value_name = "KEY=VALUE")]
    pub exec_opts: Vec<String>,
    /// User namespaces for containers (always so; only `default` is accepted)
    #[arg(long, value_name = "USER", default_value = "default")]
    pub userns_remap: String,
    /// Use the SELinux labels of the host (refused: not supported yet)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub selinux_enabled: bool,
    /// IPv6 on the default bridge (refused: not supported yet)
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub ipv6: bool,

    /// Write a byte to this descriptor when listening.
    #[arg(long, hide = true, value_name = "FD")]
    pub ready_fd: Option<u32>,
    /// Leave when no container has run and no request has come for this long; the last one given counts.
    #[arg(long, hide = true, value_name = "SECONDS", overrides_with = "idle_exit")]
    pub idle_exit: Option<u64>,
}

impl Options {
    /// Refuses what brig cannot do, with the reason.
    ///
    /// # Errors
    /// Names the option.
    pub fn check(&self) -> Result<(), String> {
        let driver = self.storage_driver.as_str();
        let runtime = self.default_runtime.as_str();
        let foreign = self.exec_opts.iter().find(|option| *option != "native.cgroupdriver=cgroupfs");
        let refusals = [
            (!matches!(driver, "overlay2" | "overlay" | "overlayfs"), format!("--storage-driver {driver}: brig stores on overlay2 only")),
            (!matches!(runtime, "runc" | "brig" | "brig-rt"), format!("--default-runtime {runtime}: brig runs containers with its own runtime only")),
            (!self.add_runtimes.is_empty(), "--add-runtime: further runtimes are not supported yet".into()),
            (foreign.is_some(), format!("--exec-opt {}: only native.cgroupdriver=cgroupfs is supported", foreign.map_or("", String::as_str))),
            (!self.live_restore, "--live-restore=false: brig always keeps containers running while the daemon is away".into()),
            (!self.iptables, "--iptables=false: brig publishes ports through a table of its own in nftables and cannot do without; it touches no other table".into()),
            (!matches!(self.userns_remap.as_str(), "" | "default"), format!("--userns-remap {}: brig gives every container ids of its own; only `default` is accepted", self.userns_remap)),
            (self.selinux_enabled, "--selinux-enabled: SELinux labels are not supported yet".into()),
            (self.ipv6, "--ipv6: IPv6 on the default bridge is not supported yet".into()),
            (!matches!(self.log_driver.as_str(), "json-file" | "none"), format!("--log-driver {}: choose json-file or none", self.log_driver)),
            (self.serve_registry.is_none() && !self.serve_registry_opts.is_empty(), "--serve-registry-opt: nothing is served without --serve-registry".into()),
            (self.max_concurrent_downloads == 0, "--max-concurrent-downloads 0: at least 1 is needed".into()),
        ];
        if let Some((_, text)) = refusals.into_iter().find(|(refused, _)| *refused) {
            return Err(text);
        }
        crate::logging::parse_level(&self.log_level)?;
        self.addresses()?;
        self.registry()?;
        self.engine_config().map(|_| ())
    }

    /// What the registry over the engine's storage is told, if there is to be one.
    ///
    /// # Errors
    /// See [`registry::of_daemon`](crate::registry::of_daemon).
    pub fn registry(&self) -> Result<Option<crate::registry::Options>, String> {
        let serve = |address: &String| crate::registry::of_daemon(address, &self.serve_registry_opts);
        self.serve_registry.as_ref().map(serve).transpose()
    }

    /// The addresses to listen on.
    ///
    /// # Errors
    /// See [`Host::parse`].
    pub fn addresses(&self) -> Result<Vec<Host>, String> {
        let tls = self.tls || self.tlsverify;
        if self.hosts.is_empty() {
            return Ok(vec![Host::parse(DEFAULT_HOST, tls)?]);
        }
        self.hosts.iter().map(|host| Host::parse(host, tls)).collect()
    }

    /// What the engine is told.
    ///
    /// # Errors
    /// Names the option whose value cannot be read.
    pub fn engine_config(&self) -> Result<Config, String> {
        Ok(Config {
            data_root: self.data_root.clone(),
            exec_root: self.exec_root.clone(),
            shim_binary: self.shim.clone(),
            confined_unpacking: true,
            registry_mirrors: self.registry_mirrors.clone(),
            insecure_registries: self.insecure_registries.clone(),
            registries: self.registries.clone(),
            max_concurrent_downloads: self.max_concurrent_downloads,
            max_concurrent_uploads: self.max_concurrent_uploads,
            layer_compression: self.layer_compression.clone(),
            pull_all_platforms: self.pull_all_platforms,
            save_original: self.save_original,
            dns: self.dns.clone(),
            dns_search: self.dns_search.clone(),
            dns_options: self.dns_options.clone(),
            bip: self.bip.clone().filter(|bip| !bip.is_empty()),
            mtu: (self.mtu > 0).then_some(self.mtu),
            icc: self.icc,
            default_host_ip: (!self.ip.is_unspecified()).then_some(self.ip),
            ip_forward: self.ip_forward,
            ip_masq: self.ip_masq,
            log_driver: self.log_driver.clone(),
            log_opts: self
                .log_opts
                .iter()
                .map(|text| pair("--log-opt", text))
                .collect::<Result<BTreeMap<_, _>, _>>()?,
            default_ulimits: self.default_ulimits.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
            default_shm_size: size("--default-shm-size", &self.default_shm_size)?,
            cgroup_parent: self.cgroup_parent.clone().filter(|parent| !parent.is_empty()),
            no_new_privileges: self.no_new_privileges,
            storage_gc: storage_gc(&self.storage_gc)?,
            labels: self.labels.clone(),
            debug: self.debug,
        })
    }
}

fn pair(flag: &str, text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{flag} {text}: must be KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The marks and bounds of making room.
fn storage_gc(given: &[String]) -> Result<StorageGc, String> {
    let mut gc = StorageGc::default();
    for text in given {
        let (key, value) = pair("--storage-gc", text)?;
        let wrong = |what: &str| format!("--storage-gc {text}: must be {what}");
        let percent = || {
            let number = value.trim_end_matches('%').parse::<u8>().ok().filter(|number| *number <= 100);
            number.ok_or_else(|| wrong("a percentage, such as 85%"))
        };
        let duration = || {
            let nanoseconds = brig_engine::go_duration(&value).and_then(|n| u64::try_from(n).ok());
            nanoseconds.map(Duration::from_nanos).ok_or_else(|| wrong("a duration, such as 24h"))
        };
        match key.as_str() {
            "high" if value == "off" => gc.high = u8::MAX,
            "high" => gc.high = percent()?,
            "low" => gc.low = percent()?,
            "keep" => gc.keep = duration()?,
            "every" => gc.every = duration()?.max(Duration::from_secs(1)),
            "budget" => gc.budget = value.parse().map_err(|_| wrong("a number of images"))?,
            "tagged" => gc.tagged = value.parse().map_err(|_| wrong("true or false"))?,
            _ => return Err(format!("--storage-gc {text}: known are high, low, keep, every, budget and tagged")),
        }
    }
    if gc.low > gc.high {
        return Err(format!("--storage-gc: low ({}%) must not be above high ({}%)", gc.low, gc.high));
    }
    Ok(gc)
}

fn ulimit(text: &str) -> Result<(String, i64, i64), String> {
    let wrong = || format!("--default-ulimit {text}: must be NAME=SOFT[:HARD] with numbers, -1 for unlimited");
    let (name, limits) = text.split_once('=').ok_or_else(wrong)?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (soft.parse::<i64>().map_err(|_| wrong())?, hard.parse::<i64>().map_err(|_| wrong())?);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("--default-ulimit {text}: the soft limit is above the hard one"));
    }
    Ok((name.to_owned(), soft, hard))
}

/// A size in bytes, with an optional unit `b`, `k`, `m`, `g` (powers of 1024).
fn size(flag: &str, text: &str) -> Result<i64, String> {
    let wrong = || format!("{flag} {text}: must be a number with an optional unit b, k, m or g");
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &lower[digits.len()..] {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        _ => return Err(wrong()),
    };
    let number: i64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(1 << shift).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Options {
        Options::parse_from(std::iter::once("brig daemon").chain(args.iter().copied()))
    }

    #[test]
    fn the_defaults_are_the_engines() {
        let options = parse(&[]);
        options.check().unwrap();
        assert_eq!(options.addresses().unwrap(), [Host::Unix("/run/brig.sock".into())]);
        // Only this program can start itself as the process that unpacks.
        let expected = Config { confined_unpacking: true, ..Config::default() };
        assert_eq!(format!("{:?}", options.engine_config().unwrap()), format!("{expected:?}"));
    }

    #[test]
    fn flags_reach_the_engine() {
        let options = parse(&[
            "-D",
            "--icc=false",
            "--mtu",
            "1400",
            "--dns",
            "10.0.0.1",
            "--log-opt",
            "max-size=1m",
            "--default-ulimit",
            "nofile=1:2",
            "--default-shm-size",
            "1g",
            "--ip",
            "127.0.0.1",
        ]);
        options.check().unwrap();
        let config = options.engine_config().unwrap();
        assert!(config.debug && !config.icc);
        assert_eq!((config.mtu, config.default_shm_size), (Some(1400), 1 << 30));
        assert_eq!(config.default_ulimits, [("nofile".to_owned(), 1, 2)]);
        assert_eq!(config.default_host_ip, Some(IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        for (args, names) in [
            (["--storage-driver", "zfs"], "--storage-driver zfs"),
            (["--add-runtime", "x=/y"], "--add-runtime"),
            (["--exec-opt", "native.cgroupdriver=systemd"], "--exec-opt"),
            (["--live-restore=false", "-D"], "--live-restore"),
            (["--iptables=false", "-D"], "--iptables"),
            (["--default-ulimit", "nofile=3:2"], "nofile=3:2"),
            (["--default-shm-size", "many"], "--default-shm-size many"),
            (["--log-opt", "max-size"], "--log-opt"),
            (["--storage-gc", "high=120%"], "high=120%"),
            (["--storage-gc", "high=50%"], "low (90%) must not be above high (50%)"),
            (["--host", "npipe://x"], "npipe://x"),
            (["--serve-registry-opt", "read-only=true"], "without --serve-registry"),
            (["--log-level", "loud"], "loud"),
        ] {
            let error = parse(&args).check().unwrap_err();
            assert!(error.contains(names), "{args:?}: {error}");
        }
    }
}

//! The configuration file: dockerd's `daemon.json`. Its keys become flags, so that each option is read in one place.
//! Owns the keys and their shapes; must not interpret a value.

use std::ffi::OsString;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use serde_json::{Map, Value};

use crate::options::{DEFAULT_CONFIG_FILE, Options};

#[derive(Clone, Copy)]
enum Shape {
    /// `true` or `false`.
    Flag,
    /// A string.
    Text,
    /// A number.
    Number,
    /// A list of strings.
    List,
    /// An object of strings, each `key=value`.
    Pairs,
    /// `{"nofile":{"Name":"nofile","Soft":1,"Hard":2}}`.
    Ulimits,
    /// `{"name":{"path":"/x"}}`.
    Runtimes,
    /// `{"host":{"mirrors":["https://m"],"insecure":true,"ca":"/file"}}`, each setting `host=key=value`.
    Registries,
    /// `{"buildkit":true}`; features that change nothing here.
    Features,
}

/// Key in the file, name of the flag and of its field, shape of the value.
const KEYS: &[(&str, &str, &str, Shape)] = &[
    ("add-runtime", "add-runtime", "add_runtimes", Shape::List),
    ("bip", "bip", "bip", Shape::Text),
    ("cgroup-parent", "cgroup-parent", "cgroup_parent", Shape::Text),
    ("data-root", "data-root", "data_root", Shape::Text),
    ("debug", "debug", "debug", Shape::Flag),
    ("default-runtime", "default-runtime", "default_runtime", Shape::Text),
    ("default-shm-size", "default-shm-size", "default_shm_size", Shape::Text),
    ("default-ulimits", "default-ulimit", "default_ulimits", Shape::Ulimits),
    ("dns", "dns", "dns", Shape::List),
    ("dns-opts", "dns-opt", "dns_options", Shape::List),
    ("dns-search", "dns-search", "dns_search", Shape::List),
    ("exec-opts", "exec-opt", "exec_opts", Shape::List),
    ("exec-root", "exec-root", "exec_root", Shape::Text),
    ("features", "", "", Shape::Features),
    ("group", "group", "group", Shape::Text),
    ("hosts", "host", "hosts", Shape::List),
    ("icc", "icc", "icc", Shape::Flag),
    ("insecure-registries", "insecure-registry", "insecure_registries", Shape::List),
    ("ip", "ip", "ip", Shape::Text),
    ("ip-forward", "ip-forward", "ip_forward", Shape::Flag),
    ("ip-masq", "ip-masq", "ip_masq", Shape::Flag),
    ("iptables", "iptables", "iptables", Shape::Flag),
    ("ipv6", "ipv6", "ipv6", Shape::Flag),
    ("labels", "label", "labels", Shape::List),
    ("layer-compression", "layer-compression", "layer_compression", Shape::Text),
    ("live-restore", "live-restore", "live_restore", Shape::Flag),
    ("log-driver", "log-driver", "log_driver", Shape::Text),
    ("log-level", "log-level", "log_level", Shape::Text),
    ("log-opts", "log-opt", "log_opts", Shape::Pairs),
    ("max-concurrent-downloads", "max-concurrent-downloads", "max_concurrent_downloads", Shape::Number),
    ("max-concurrent-uploads", "max-concurrent-uploads", "max_concurrent_uploads", Shape::Number),
    ("mtu", "mtu", "mtu", Shape::Number),
    ("no-new-privileges", "no-new-privileges", "no_new_privileges", Shape::Flag),
    ("pidfile", "pidfile", "pidfile", Shape::Text),
    ("pull-all-platforms", "pull-all-platforms", "pull_all_platforms", Shape::Flag),
    ("registries", "registry", "registries", Shape::Registries),
    ("registry-mirrors", "registry-mirror", "registry_mirrors", Shape::List),
    ("runtimes", "add-runtime", "add_runtimes", Shape::Runtimes),
    ("save-original", "save-original", "save_original", Shape::Flag),
    ("selinux-enabled", "selinux-enabled", "selinux_enabled", Shape::Flag),
    ("serve-registry", "serve-registry", "serve_registry", Shape::Text),
    ("serve-registry-opts", "serve-registry-opt", "serve_registry_opts", Shape::Pairs),
    ("shim", "shim", "shim", Shape::Text),
    ("shutdown-timeout", "shutdown-timeout", "shutdown_timeout", Shape::Number),
    ("storage-gc", "storage-gc", "storage_gc", Shape::Pairs),
    ("storage-driver", "storage-driver", "storage_driver", Shape::Text),
    ("tls", "tls", "tls", Shape::Flag),
    ("tlscacert", "tlscacert", "tlscacert", Shape::Text),
    ("tlscert", "tlscert", "tlscert", Shape::Text),
    ("tlskey", "tlskey", "tlskey", Shape::Text),
    ("tlsverify", "tlsverify", "tlsverify", Shape::Flag),
    ("userland-proxy", "userland-proxy", "userland_proxy", Shape::Flag),
    ("userns-remap", "userns-remap", "userns_remap", Shape::Text),
];

/// Why the options could not be had.
pub enum Stop {
    /// The command line itself is wrong, or asks only for help.
    Usage(clap::Error),
    /// The file is wrong, or contradicts the command line.
    File(String),
}

/// Reads the command line, and the file that it names.
///
/// # Errors
/// See [`Stop`].
pub fn load(args: &[OsString]) -> Result<Options, Stop> {
    let matches = Options::command().try_get_matches_from(args).map_err(Stop::Usage)?;
    let given = Options::from_arg_matches(&matches).map_err(Stop::Usage)?;
    let Some(text) = read(&given.config_file).map_err(Stop::File)? else {
        return Ok(given);
    };
    let blame = |error: String| {
        Stop::File(format!("unable to configure the daemon with file {}: {error}", given.config_file.display()))
    };
    let from_file = to_flags(&text, &matches).map_err(blame)?;
    let (program, rest) = args.split_first().map_or((OsString::from("brig daemon"), args), |(p, r)| (p.clone(), r));
    let all = std::iter::once(program).chain(from_file.into_iter().map(OsString::from)).chain(rest.iter().cloned());
    let matches = Options::command().try_get_matches_from(all).map_err(|error| {
        // The command line alone was fine, so this is the file's doing.
        let text = error.to_string();
        blame(text.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned())
    })?;
    Options::from_arg_matches(&matches).map_err(Stop::Usage)
}

fn read(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_CONFIG_FILE) => {
            Ok(None)
        }
        Err(error) => Err(format!("unable to configure the daemon with file {}: {error}", path.display())),
    }
}

fn to_flags(text: &str, matches: &ArgMatches) -> Result<Vec<String>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let entries: Map<String, Value> = serde_json::from_str(text).map_err(|e| format!("invalid JSON: {e}"))?;
    let mut unknown: Vec<&str> =
        entries.keys().map(String::as_str).filter(|key| KEYS.iter().all(|known| known.0 != *key)).collect();
    if !unknown.is_empty() {
        unknown.sort_unstable();
        return Err(format!("the following directives don't match any configuration option: {}", unknown.join(", ")));
    }
    let mut conflicts = Vec::new();
    let mut flags = Vec::new();
    for (key, flag, field, shape) in KEYS {
        let Some(value) = entries.get(*key) else {
            continue;
        };
        if !field.is_empty() && matches.value_source(field) == Some(ValueSource::CommandLine) {
            let raw: Vec<String> = matches
                .get_raw(field)
                .map(|values| values.map(|v| v.to_string_lossy().into_owned()).collect())
                .unwrap_or_default();
            conflicts.push(format!("{key}: (from flag: {}, from file: {value})", raw.join(", ")));
            continue;
        }
        for text in texts(*shape, value).ok_or_else(|| format!("the value of {key:?} has the wrong form: {value}"))? {
            flags.push(format!("--{flag}={text}"));
        }
    }
    if conflicts.is_empty() {
        return Ok(flags);
    }
    Err(format!(
        "the following directives are specified both as a flag and in the configuration file: {}",
        conflicts.join(", ")
    ))
}

/// The values of one key as the flag takes them.
fn texts(shape: Shape, value: &Value) -> Option<Vec<String>> {
    let one = |text: String| Some(vec![text]);
    match shape {
        Shape::Flag => one(value.as_bool()?.to_string()),
        Shape::Text => one(value.as_str()?.to_owned()),
        Shape::Number => one(value.as_i64()?.to_string()),
        Shape::List => value.as_array()?.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
        Shape::Pairs => {
            let object = value.as_object()?;
            object.iter().map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect()
        }
        Shape::Ulimits => {
            let limit = |(name, value): (&String, &Value)| {
                Some(format!("{name}={}:{}", value.get("Soft")?.as_i64()?, value.get("Hard")?.as_i64()?))
            };
            value.as_object()?.iter().map(limit).collect()
        }
        Shape::Runtimes => {
            let runtime = |(name, value): (&String, &Value)| Some(format!("{name}={}", value.get("path")?.as_str()?));
            value.as_object()?.iter().map(runtime).collect()
        }
        Shape::Registries => {
            let mut settings = Vec::new();
            for (host, value) in value.as_object()? {
                for (key, value) in value.as_object()? {
                    match (key.as_str(), value) {
                        ("mirrors", Value::Array(urls)) => {
                            for url in urls {
                                settings.push(format!("{host}=mirror={}", url.as_str()?));
                            }
                        }
                        ("insecure", Value::Bool(insecure)) => settings.push(format!("{host}=insecure={insecure}")),
                        ("ca", Value::String(file)) => settings.push(format!("{host}=ca={file}")),
                        _ => return None,
                    }
                }
            }
            Some(settings)
        }
        Shape::Features => {
            let harmless = |(name, value): (&String, &Value)| (name == "buildkit" && value.is_boolean()).then_some(());
            value.as_object()?.iter().map(harmless).collect::<Option<Vec<()>>>().map(|_| Vec::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_with(file: &str, args: &[&str]) -> Result<Options, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("daemon.json");
        std::fs::write(&path, file).unwrap();
        let mut all: Vec<OsString> = vec!["brig daemon".into(), "--config-file".into(), path.into()];
        all.extend(args.iter().map(OsString::from));
        load(&all).map_err(|stop| match stop {
            Stop::Usage(error) => error.to_string(),
            Stop::File(text) => text,
        })
    }

    #[test]
    fn every_key_names_a_flag() {
        let command = Options::command();
        for (key, flag, field, _) in KEYS {
            let known = command.get_arguments().any(|a| a.get_id() == field && a.get_long() == Some(flag));
            assert!(known || flag.is_empty(), "{key}");
        }
    }

    #[test]
    fn every_switch_can_be_on_and_off_in_the_file() {
        for (key, ..) in KEYS.iter().filter(|(.., shape)| matches!(shape, Shape::Flag)) {
            for on in [true, false] {
                let loaded = load_with(&format!("{{\"{key}\":{on}}}"), &[]);
                assert!(loaded.is_ok(), "{key}: {}", loaded.err().unwrap_or_default());
            }
        }
        assert!(load_with(r#"{"pull-all-platforms":true}"#, &[]).unwrap().pull_all_platforms);
        assert!(load_with("{}", &["--save-original"]).unwrap().save_original);
    }

    #[test]
    fn the_file_and_the_flags_add_up() {
        let file = r#"{"hosts":["unix:///a","tcp://:1"],"debug":true,"log-opts":{"max-size":"1m"},"mtu":1400,
            "default-ulimits":{"nofile":{"Name":"nofile","Hard":2,"Soft":1}},"features":{"buildkit":true}}"#;
        let options = load_with(file, &["--icc=false"]).unwrap();
        assert_eq!(options.hosts, ["unix:///a", "tcp://:1"]);
        assert!(options.debug && !options.icc);
        assert_eq!((options.mtu, options.log_opts), (1400, vec!["max-size=1m".to_owned()]));
        assert_eq!(options.default_ulimits, ["nofile=1:2"]);
    }

    #[test]
    fn registries_have_settings_of_their_own() {
        let file =
            r#"{"registries":{"ghcr.io":{"mirrors":["https://a","https://b"],"ca":"/ca.pem"},"*":{"insecure":true}}}"#;
        let options = load_with(file, &[]).unwrap();
        let expected =
            ["*=insecure=true", "ghcr.io=ca=/ca.pem", "ghcr.io=mirror=https://a", "ghcr.io=mirror=https://b"];
        let mut found = options.registries.clone();
        found.sort();
        assert_eq!(found, expected);
        assert!(load_with(r#"{"registries":{"x":{"colour":"red"}}}"#, &[]).unwrap_err().contains("wrong form"));
    }

    #[test]
    fn contradictions_and_unknown_keys_are_refused_in_dockerds_words() {
        let error = load_with(r#"{"debug":false}"#, &["--debug"]).unwrap_err();
        assert!(error.contains(
            "the following directives are specified both as a flag and in the configuration file: debug: (from flag: true, from file: false)"
        ), "{error}");
        let error = load_with(r#"{"nope":1,"also":2}"#, &[]).unwrap_err();
        assert!(error.contains("the following directives don't match any configuration option: also, nope"), "{error}");
        assert!(load_with(r#"{"debug":"yes"}"#, &[]).unwrap_err().contains("\"debug\" has the wrong form"));
        assert!(load_with("{", &[]).unwrap_err().contains("invalid JSON"));
        assert!(load_with(r#"{"ip":"nowhere"}"#, &[]).unwrap_err().contains("nowhere"));
    }

    #[test]
    fn a_file_that_was_asked_for_must_exist() {
        let args = ["brig daemon", "--config-file", "/nonexistent/x.json"].map(OsString::from);
        assert!(matches!(load(&args), Err(Stop::File(text)) if text.contains("/nonexistent/x.json")));
    }
}

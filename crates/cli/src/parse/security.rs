//! `--security-opt`, `--restart`, `--log-opt`, `--storage-opt` and the host part of `--add-host`.
//! Reads the seccomp profile that an option names; nothing else.

use brig_api::container::RestartPolicy;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The options as the daemon takes them: a seccomp profile's text instead of its path.
/// The second and third value are the masked and read-only paths that `systempaths=unconfined` empties.
///
/// # Errors
/// Unreadable and malformed profiles.
pub fn options(values: &[&str]) -> Result<(Vec<String>, bool), String> {
    let mut all = Vec::new();
    let mut unmasked = false;
    for value in values {
        if *value == "systempaths=unconfined" {
            unmasked = true;
            continue;
        }
        let pair = value.split_once('=').or_else(|| value.split_once(':').filter(|_| !value.contains('=')));
        match pair {
            None if *value != "no-new-privileges" => return Err(format!("invalid --security-opt: {value:?}")),
            Some(("seccomp", profile)) if !matches!(profile, "unconfined" | "builtin") => {
                let text = std::fs::read_to_string(profile).map_err(|e| {
                    format!("opening seccomp profile ({profile}) failed: open {profile}: {}", super::env::words(&e))
                })?;
                let json: serde_json::Value = serde_json::from_str(&text)
                    .map_err(|e| format!("compacting json for seccomp profile ({profile}) failed: {e}"))?;
                all.push(format!("seccomp={json}"));
            }
            _ => all.push((*value).to_owned()),
        }
    }
    Ok((all, unmasked))
}

/// Capabilities to add and to drop as the daemon takes them: `CAP_` names, sorted, each in one list only.
pub fn capabilities(add: &[&str], drop: &[&str]) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let normal = |names: &[&str]| -> BTreeSet<String> {
        let name = |name: &&str| {
            let name = name.trim().to_uppercase();
            if name == "ALL" || name == "RESET" || name.starts_with("CAP_") { name } else { format!("CAP_{name}") }
        };
        let all: BTreeSet<String> = names.iter().map(name).collect();
        if all.contains("RESET") {
            BTreeSet::new()
        } else if all.contains("ALL") {
            BTreeSet::from(["ALL".to_owned()])
        } else {
            all
        }
    };
    let (add, mut drop) = (normal(add), normal(drop));
    drop.retain(|name| !add.contains(name));
    let list = |set: BTreeSet<String>| Some(set.into_iter().collect::<Vec<_>>()).filter(|list| !list.is_empty());
    (list(add), list(drop))
}

/// Refuses a sysctl that is not the container's own.
///
/// # Errors
/// Docker's words.
pub fn check_sysctl(text: &str) -> Result<(), String> {
    const OWN: [&str; 9] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
        "kernel.domainname",
    ];
    let allowed = text.split_once('=').is_some_and(|(name, _)| {
        OWN.contains(&name) || ["net.", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
    });
    if allowed { Ok(()) } else { Err(format!("sysctl '{text}' is not allowed")) }
}

/// Refuses a device rule that is not like `c 13:* rwm`.
///
/// # Errors
/// Docker's words.
pub fn check_device_rule(text: &str) -> Result<(), String> {
    let number = |n: &str| n == "*" || (!n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let good = match text.split(' ').collect::<Vec<_>>()[..] {
        [kind, numbers, access] => {
            matches!(kind, "a" | "b" | "c")
                && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && (1..=3).contains(&access.len())
                && access.bytes().all(|b| b"rwm".contains(&b))
        }
        _ => false,
    };
    if good { Ok(()) } else { Err(format!("invalid device cgroup format '{text}'")) }
}

/// Reads `no`, `always`, `unless-stopped`, `on-failure[:retries]`.
///
/// # Errors
/// Docker's words; unknown names are left to the daemon.
pub fn restart(text: &str) -> Result<RestartPolicy, String> {
    let (name, retries) = match text.split_once(':') {
        Some(("", _)) => return Err("invalid restart policy format: no policy provided before colon".to_owned()),
        Some((_, count)) if count.contains(':') => return Err(format!("invalid restart policy format: {text}")),
        Some((name, count)) => (name, Some(count)),
        None => (text, None),
    };
    let maximum_retry_count = match retries {
        Some(count) => count
            .parse()
            .map_err(|_| "invalid restart policy format: maximum retry count must be an integer".to_owned())?,
        None => 0,
    };
    Ok(RestartPolicy { name: name.to_owned(), maximum_retry_count })
}

/// Refuses an `--add-host` that is not `host:ip` or `host=ip`.
///
/// # Errors
/// Docker's words.
pub fn check_host(text: &str) -> Result<(), String> {
    host(text).map(drop)
}

/// The form the daemon takes: `host:ip`.
///
/// # Errors
/// Docker's words.
pub fn host(text: &str) -> Result<String, String> {
    let (name, ip) = match text.split_once('=').or_else(|| text.split_once(':')) {
        Some((name, ip)) if !name.is_empty() => (name, ip),
        _ => return Err(format!("bad format for add-host: {text:?}")),
    };
    let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if ip != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {ip:?}"));
    }
    Ok(format!("{name}:{bare}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_read_here() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "{ \"defaultAction\":\n \"SCMP_ACT_ALLOW\" }").unwrap();
        let option = format!("seccomp={}", file.path().display());
        let (all, unmasked) =
            options(&[&option, "no-new-privileges", "label=disable", "systempaths=unconfined"]).unwrap();
        assert_eq!(all, ["seccomp={\"defaultAction\":\"SCMP_ACT_ALLOW\"}", "no-new-privileges", "label=disable"]);
        assert!(unmasked);
        assert_eq!(options(&["foo"]).unwrap_err(), "invalid --security-opt: \"foo\"");
        assert!(options(&["seccomp=/nope"]).unwrap_err().contains("no such file or directory"));
    }

    #[test]
    fn restart_policies() {
        let p = restart("on-failure:3").unwrap();
        assert_eq!((p.name.as_str(), p.maximum_retry_count), ("on-failure", 3));
        assert!(restart("on-failure:x").unwrap_err().contains("must be an integer"));
        assert!(restart(":1").is_err() && restart("a:1:2").is_err());
    }

    #[test]
    fn capability_lists() {
        let (add, drop) = capabilities(&["net_admin", "CAP_SYS_TIME"], &["net_admin", "chown"]);
        assert_eq!(add.unwrap(), ["CAP_NET_ADMIN", "CAP_SYS_TIME"]);
        assert_eq!(drop.unwrap(), ["CAP_CHOWN"]);
        assert_eq!(capabilities(&["all", "chown"], &[]), (Some(vec!["ALL".to_owned()]), None));
    }

    #[test]
    fn rules() {
        assert!(check_sysctl("net.ipv4.ip_forward=1").is_ok() && check_sysctl("vm.swappiness=1").is_err());
        assert!(check_device_rule("c 13:* rwm").is_ok());
        assert_eq!(check_device_rule("a").unwrap_err(), "invalid device cgroup format 'a'");
    }

    #[test]
    fn hosts() {
        assert_eq!(host("a=::1").unwrap(), "a:::1");
        assert_eq!(host("a:host-gateway").unwrap(), "a:host-gateway");
        assert_eq!(host("a").unwrap_err(), "bad format for add-host: \"a\"");
        assert_eq!(host("a:b").unwrap_err(), "invalid IP address in add-host: \"b\"");
    }
}

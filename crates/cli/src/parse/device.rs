//! Devices and limits: `--device`, `--device-read-bps` and kin, `--blkio-weight-device`, `--gpus`, `--ulimit`.
//! Pure.

use brig_api::container::{DeviceMapping, DeviceRequest, ThrottleDevice, Ulimit, WeightDevice};

/// Reads `host[:container][:rwm]`.
///
/// # Errors
/// Docker's words.
pub fn mapping(text: &str) -> Result<DeviceMapping, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let mode = |m: &str| !m.is_empty() && m.len() <= 3 && m.bytes().all(|b| b"rwm".contains(&b));
    let (host, container, permissions) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, second] if mode(second) => (host, host, second),
        [host, container] => (host, container, "rwm"),
        [host, container, permissions] => (host, container, permissions),
        _ => return Err(format!("invalid device specification: {text}")),
    };
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: container.to_owned(),
        cgroup_permissions: permissions.to_owned(),
    })
}

/// Refuses what [`mapping`] or a CDI name (`vendor.com/class=device`) is not.
///
/// # Errors
/// Docker's words.
pub fn check(text: &str) -> Result<(), String> {
    let bad_mode = || format!("bad mode specified: {}", text.rsplit(':').next().unwrap_or(text));
    let bad_path = |path: &str| format!("{path} is not an absolute path");
    if is_cdi(text) {
        return Ok(());
    }
    let device = mapping(text).map_err(|_| format!("bad format for path: {text}"))?;
    let mode = &device.cgroup_permissions;
    if mode.is_empty() || !mode.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(bad_mode());
    }
    match [&device.path_on_host, &device.path_in_container].into_iter().find(|path| !path.starts_with('/')) {
        Some(path) => Err(bad_path(path)),
        None => Ok(()),
    }
}

/// Whether the value names a device of the Container Device Interface.
pub fn is_cdi(text: &str) -> bool {
    text.split_once('=').is_some_and(|(kind, name)| {
        !name.is_empty() && kind.split_once('/').is_some_and(|(v, c)| !v.is_empty() && !c.is_empty())
    })
}

/// Reads `/dev/sda:1mb` (bytes per second).
///
/// # Errors
/// Docker's words.
pub fn rate_bytes(text: &str) -> Result<ThrottleDevice, String> {
    let why = || {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb"
        )
    };
    let (path, rate) = device_value(text)?;
    let rate = super::size::bytes(rate).ok().and_then(|r| u64::try_from(r).ok()).ok_or_else(why)?;
    Ok(ThrottleDevice { path: path.to_owned(), rate })
}

/// Reads `/dev/sda:100` (operations per second).
///
/// # Errors
/// Docker's words.
pub fn rate_operations(text: &str) -> Result<ThrottleDevice, String> {
    let (path, rate) = device_value(text)?;
    let rate = rate.parse().map_err(|_| {
        format!("invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive integer")
    })?;
    Ok(ThrottleDevice { path: path.to_owned(), rate })
}

/// Reads `/dev/sda:500`.
///
/// # Errors
/// Docker's words.
pub fn weight(text: &str) -> Result<WeightDevice, String> {
    let (path, weight) = device_value(text)?;
    let weight = weight.parse().ok().filter(|w| *w == 0 || (10..=1000).contains(w));
    let weight = weight.ok_or_else(|| format!("invalid weight for device: {text}"))?;
    Ok(WeightDevice { path: path.to_owned(), weight })
}

fn device_value(text: &str) -> Result<(&str, &str), String> {
    let (path, value) = text.split_once(':').ok_or_else(|| format!("bad format: {text}"))?;
    if path.starts_with("/dev/") { Ok((path, value)) } else { Err(format!("bad format for device path: {text}")) }
}

/// Reads `nofile=1024[:2048]`.
///
/// # Errors
/// Docker's words.
pub fn ulimit(text: &str) -> Result<Ulimit, String> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let bad = || format!("invalid ulimit argument: {text}");
    let (name, values) = text.split_once('=').ok_or_else(bad)?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let mut numbers = values.splitn(2, ':').map(super::number::int);
    let soft = numbers.next().ok_or_else(bad)??;
    let hard = numbers.next().transpose()?.unwrap_or(soft);
    if hard != -1 && (soft == -1 || soft > hard) {
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(Ulimit { name: name.to_owned(), hard, soft })
}

/// Reads `--gpus`: `all`, a count, or `device=0,"capabilities=compute,utility"`.
///
/// # Errors
/// Docker's words.
pub fn gpus(text: &str) -> Result<DeviceRequest, String> {
    let mut request = DeviceRequest::default();
    let mut capabilities = vec!["gpu".to_owned()];
    let mut counted = false;
    for field in super::mount::csv(text)? {
        let (key, value) = match field.split_once('=') {
            Some(pair) => pair,
            None if !counted => ("count", field.as_str()),
            None => return Err(format!("gpu request key '{field}' can be specified only once")),
        };
        let split = |v: &str| v.split(',').map(str::to_owned).collect::<Vec<_>>();
        match key {
            "count" => {
                counted = true;
                request.count = match value {
                    "all" => -1,
                    number => number
                        .parse()
                        .map_err(|_| format!("invalid count ({number}): value must be either \"all\" or an integer"))?,
                };
            }
            "driver" => value.clone_into(&mut request.driver),
            "device" => request.device_ids = Some(split(value)),
            "capabilities" => capabilities.extend(split(value)),
            "options" => request.options = Some(super::env::map(&value.split(',').collect::<Vec<_>>())),
            other => return Err(format!("unexpected key '{other}' in '{field}'")),
        }
    }
    if request.count == 0 && request.device_ids.is_none() {
        request.count = 1;
    }
    request.capabilities = Some(vec![capabilities]);
    request.options.get_or_insert_default();
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        let d = mapping("/dev/a:/dev/b:r").unwrap();
        assert_eq!((d.path_in_container.as_str(), d.cgroup_permissions.as_str()), ("/dev/b", "r"));
        let d = mapping("/dev/a:rw").unwrap();
        assert_eq!((d.path_in_container.as_str(), d.cgroup_permissions.as_str()), ("/dev/a", "rw"));
        assert!(check("vendor.com/gpu=0").is_ok() && check("/dev/a:/dev/b:x").is_err() && check("a").is_err());
        assert_eq!(rate_bytes("/dev/sda:1mb").unwrap().rate, 1 << 20);
        assert_eq!(rate_operations("/dev/sda:10").unwrap().rate, 10);
        assert_eq!(weight("/dev/sda:5").unwrap_err(), "invalid weight for device: /dev/sda:5");
        assert_eq!(rate_bytes("sda:1").unwrap_err(), "bad format for device path: sda:1");
    }

    #[test]
    fn ulimits() {
        assert_eq!(ulimit("nofile=1024:2048").unwrap(), Ulimit { name: "nofile".into(), soft: 1024, hard: 2048 });
        assert_eq!(ulimit("core=-1").unwrap().hard, -1);
        assert_eq!(ulimit("nofile").unwrap_err(), "invalid ulimit argument: nofile");
        assert_eq!(ulimit("foo=1").unwrap_err(), "invalid ulimit type: foo");
        assert!(ulimit("nofile=2:1").unwrap_err().contains("less than or equal"));
    }

    #[test]
    fn gpu_requests() {
        assert_eq!(gpus("all").unwrap().count, -1);
        let r = gpus("device=0,driver=nvidia,\"capabilities=compute,utility\"").unwrap();
        assert_eq!((r.count, r.driver.as_str(), r.capabilities.unwrap()[0].len()), (0, "nvidia", 3));
        assert!(gpus("x").is_err() && gpus("foo=1").is_err());
    }
}

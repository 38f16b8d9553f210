//! `--mount` (a line of CSV), `--volume` and `--tmpfs`.
//! Makes relative host paths absolute against the working directory; touches nothing else.

use brig_api::container::{BindOptions, DriverConfig, ImageOptions, Mount, TmpfsOptions, VolumeOptions};
use std::collections::BTreeMap;
use std::path::Path;

/// Splits one line of CSV; a field may be quoted with `"`, doubled inside.
///
/// # Errors
/// Quotes that do not pair.
pub fn csv(line: &str) -> Result<Vec<String>, String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("a line has a first field");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            '"' => return Err(format!("parse error on line 1, column {}: bare \" in non-quoted-field", line.len())),
            ',' if !quoted => fields.push(String::new()),
            other => field.push(other),
        }
    }
    if quoted { Err("parse error on line 1: extraneous or missing \" in quoted-field".to_owned()) } else { Ok(fields) }
}

/// Whether [`mount`] takes the value.
///
/// # Errors
/// As [`mount`].
pub fn check(text: &str) -> Result<(), String> {
    mount(text).map(drop)
}

/// Reads `type=bind,source=/a,target=/b,readonly`.
///
/// # Errors
/// Docker's words.
pub fn mount(text: &str) -> Result<Mount, String> {
    let fields = csv(text)?;
    let mut mount = Mount { type_: "volume".to_owned(), ..Mount::default() };
    let mut families: Vec<&str> = Vec::new();
    for field in &fields {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key.to_lowercase(), Some(value)),
            None => (field.to_lowercase(), None),
        };
        let flag = matches!(key.as_str(), "readonly" | "ro" | "volume-nocopy" | "bind-nonrecursive");
        let value = match value {
            Some(value) => value,
            None if flag => "true",
            None => return Err(format!("invalid field '{field}' must be a key=value pair")),
        };
        set(&mut mount, &key, value, field)?;
        families.extend(["bind", "volume", "image", "tmpfs"].into_iter().filter(|f| key.starts_with(&format!("{f}-"))));
    }
    if mount.type_.is_empty() {
        return Err("type is required".to_owned());
    }
    if mount.target.is_empty() {
        return Err("target is required".to_owned());
    }
    if let Some(other) = families.iter().find(|family| **family != mount.type_) {
        return Err(format!("cannot mix '{other}-*' options with mount type '{}'", mount.type_));
    }
    if let Some(bind) = &mount.bind_options
        && (bind.read_only_non_recursive || bind.read_only_force_recursive)
        && !mount.read_only
    {
        let name = if bind.read_only_non_recursive { "writable" } else { "readonly" };
        return Err(format!("option 'bind-recursive={name}' requires 'readonly' to be specified in conjunction"));
    }
    Ok(mount)
}

fn set(mount: &mut Mount, key: &str, value: &str, field: &str) -> Result<(), String> {
    let truth = || super::number::boolean(value).map_err(|_| format!("invalid value for {key}: {value}"));
    match key {
        "type" => mount.type_ = value.to_lowercase(),
        "source" | "src" => mount.source = absolute(value),
        "target" | "dst" | "destination" => mount.target = value.to_owned(),
        "readonly" | "ro" => mount.read_only = truth()?,
        "consistency" => mount.consistency = value.to_lowercase(),
        _ if key.starts_with("bind-") => bind(mount.bind_options.get_or_insert_default(), key, value, field)?,
        _ if key.starts_with("volume-") => volume(mount.volume_options.get_or_insert_default(), key, value, field)?,
        "image-subpath" => mount.image_options = Some(ImageOptions { subpath: value.to_owned() }),
        "tmpfs-size" => {
            tmpfs(mount).size_bytes =
                super::size::bytes(value).map_err(|_| format!("invalid value for {key}: {value}"))?;
        }
        "tmpfs-mode" => {
            tmpfs(mount).mode =
                u32::from_str_radix(value, 8).map_err(|_| format!("invalid value for {key}: {value}"))?;
        }
        _ => return Err(unexpected(key, field)),
    }
    Ok(())
}

fn tmpfs(mount: &mut Mount) -> &mut TmpfsOptions {
    mount.tmpfs_options.get_or_insert_default()
}

fn unexpected(key: &str, field: &str) -> String {
    format!("unexpected key '{key}' in '{field}'")
}

fn bind(options: &mut BindOptions, key: &str, value: &str, field: &str) -> Result<(), String> {
    match key {
        "bind-propagation" => options.propagation = value.to_lowercase(),
        "bind-nonrecursive" => {
            options.non_recursive =
                super::number::boolean(value).map_err(|_| format!("invalid value for {key}: {value}"))?;
        }
        "bind-recursive" => match value {
            "enabled" => {}
            "disabled" => options.non_recursive = true,
            "writable" => options.read_only_non_recursive = true,
            "readonly" => options.read_only_force_recursive = true,
            _ => {
                return Err(format!(
                    "invalid value for {key}: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
                ));
            }
        },
        _ => return Err(unexpected(key, field)),
    }
    Ok(())
}

fn volume(options: &mut VolumeOptions, key: &str, value: &str, field: &str) -> Result<(), String> {
    let (name, inner) = value.split_once('=').unwrap_or((value, ""));
    let driver = |o: &mut VolumeOptions| o.driver_config.take().unwrap_or_default();
    match key {
        "volume-nocopy" => {
            options.no_copy =
                super::number::boolean(value).map_err(|_| format!("invalid value for volume-nocopy: {value}"))?;
        }
        "volume-subpath" => options.subpath = value.to_owned(),
        "volume-label" => {
            options.labels.get_or_insert_default().insert(name.to_owned(), inner.to_owned());
        }
        "volume-driver" => {
            let config = driver(options);
            options.driver_config = Some(DriverConfig { name: value.to_owned(), ..config });
        }
        "volume-opt" => {
            let mut config = driver(options);
            config.options.get_or_insert_default().insert(name.to_owned(), inner.to_owned());
            options.driver_config = Some(config);
        }
        _ => return Err(unexpected(key, field)),
    }
    Ok(())
}

/// A path that starts with `.` taken from the working directory; anything else as it is.
fn absolute(path: &str) -> String {
    if path != "." && path != ".." && !path.starts_with("./") && !path.starts_with("../") {
        return path.to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default();
    let mut clean = here.clone();
    for part in Path::new(path).components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            std::path::Component::CurDir => {}
            other => clean.push(other),
        }
    }
    clean.to_string_lossy().into_owned()
}

/// `--volume` values sorted into binds (`source:target[:options]`) and anonymous volumes (`target`).
pub fn volumes(values: &[&str]) -> (Vec<String>, Vec<String>) {
    let (mut binds, mut anonymous) = (Vec::new(), Vec::new());
    for value in values {
        match value.split_once(':') {
            Some((source, rest)) if !source.is_empty() => binds.push(format!("{}:{rest}", absolute(source))),
            _ => anonymous.push((*value).to_owned()),
        }
    }
    (binds, anonymous)
}

/// `--tmpfs` values: mount point to options.
pub fn tmpfs_map(values: &[&str]) -> BTreeMap<String, String> {
    values
        .iter()
        .map(|value| value.split_once(':').unwrap_or((value, "")))
        .map(|(path, options)| (path.to_owned(), options.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bind_mounts() {
        let m = mount("type=bind,\"src=/a,b\",dst=/c,ro,bind-propagation=rslave").unwrap();
        assert_eq!((m.type_.as_str(), m.source.as_str(), m.target.as_str(), m.read_only), ("bind", "/a,b", "/c", true));
        assert_eq!(m.bind_options.unwrap().propagation, "rslave");
        let here = std::env::current_dir().unwrap();
        assert_eq!(mount("type=bind,src=.,dst=/c").unwrap().source, here.to_str().unwrap());
    }

    #[test]
    fn volumes_and_tmpfs() {
        let m =
            mount("source=v,target=/d,volume-nocopy,volume-label=a=b,volume-driver=local,volume-opt=o=x=y").unwrap();
        let options = m.volume_options.unwrap();
        assert!(options.no_copy);
        let driver = options.driver_config.unwrap();
        assert_eq!((driver.name.as_str(), driver.options.unwrap()["o"].as_str()), ("local", "x=y"));
        let m = mount("type=tmpfs,target=/t,tmpfs-size=64m,tmpfs-mode=1770").unwrap();
        let options = m.tmpfs_options.unwrap();
        assert_eq!((options.size_bytes, options.mode), (64 << 20, 0o1770));
        assert_eq!(tmpfs_map(&["/run:size=1m", "/t"])["/run"], "size=1m");
        let (binds, anonymous) = volumes(&["/a:/b:ro", "v:/c", "/d", "./x:/y"]);
        assert_eq!((binds.len(), anonymous), (3, vec!["/d".to_owned()]));
        assert!(binds[2].starts_with('/') && binds[2].ends_with("/x:/y"));
    }

    #[test]
    fn refusals() {
        let says = |text| mount(text).unwrap_err();
        assert_eq!(says("foo"), "invalid field 'foo' must be a key=value pair");
        assert_eq!(says("foo=bar"), "unexpected key 'foo' in 'foo=bar'");
        assert_eq!(says("type=bind,source=/a"), "target is required");
        assert_eq!(says("target=/a,readonly=x"), "invalid value for readonly: x");
        assert_eq!(says("type=tmpfs,target=/a,volume-nocopy"), "cannot mix 'volume-*' options with mount type 'tmpfs'");
        assert!(says("target=/a,\"x").contains("quoted-field"));
    }
}

//! `-v`, `--mount`, `--tmpfs`, `--volumes-from` and an image's `VOLUME`s become one list of resolved mounts. Owns the
//! parsing and Docker's checks; volumes are made by `volumes`, nothing is mounted here.

use std::path::{Component, Path, PathBuf};

use brig_api::container::{Config, HostConfig, Mount as Asked, MountPoint};

use super::record::Mount;
use crate::error::{Error, Result};
use crate::id::{is_valid_name, random_id};

/// Everything a container asks to have mounted, in the order in which later entries win.
pub fn resolve(config: &Config, host: &HostConfig, from_others: Vec<Mount>) -> Result<Vec<Mount>> {
    let mut mounts: Vec<Mount> = from_others;
    let mut own: Vec<Mount> = Vec::new();
    for bind in host.binds.iter().flatten() {
        push_unique(&mut own, parse_bind(bind, &host.volume_driver)?)?;
    }
    for mount in &host.mounts {
        push_unique(&mut own, parse_mount(mount)?)?;
    }
    for (target, options) in host.tmpfs.iter().flatten() {
        push_unique(&mut own, tmpfs(target, options)?)?;
    }
    for mount in own {
        put(&mut mounts, mount);
    }
    for target in config.volumes.iter().flatten().map(|(target, _)| target) {
        let target = destination(target)?;
        if !mounts.iter().any(|mount| mount.point.destination == target) {
            mounts.push(volume(&random_id()?, &target, true, Vec::new(), "", true));
        }
    }
    mounts.sort_by_key(|mount| Path::new(&mount.point.destination).components().count());
    Ok(mounts)
}

fn push_unique(list: &mut Vec<Mount>, mount: Mount) -> Result<()> {
    if list.iter().any(|other| other.point.destination == mount.point.destination) {
        return Err(Error::invalid(format!("Duplicate mount point: {}", mount.point.destination)));
    }
    list.push(mount);
    Ok(())
}

/// Adds or replaces by destination.
pub fn put(list: &mut Vec<Mount>, mount: Mount) {
    list.retain(|other| other.point.destination != mount.point.destination);
    list.push(mount);
}

/// A destination, absolute and without `.` and `..`; `/` is refused.
fn destination(text: &str) -> Result<String> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(Error::invalid(format!(
            "invalid volume specification: '{text}': invalid mount path: '{text}' mount path must be absolute"
        )));
    }
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean == Path::new("/") {
        return Err(Error::invalid(format!(
            "invalid volume specification: '{text}': invalid specification: destination can't be '/'"
        )));
    }
    Ok(clean.to_string_lossy().into_owned())
}

/// `[source:]destination[:options]`.
fn parse_bind(text: &str, driver: &str) -> Result<Mount> {
    let invalid = || Error::invalid(format!("invalid volume specification: '{text}'"));
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts.as_slice() {
        [target] => ("", *target, ""),
        [source, target] => (*source, *target, ""),
        [source, target, options] => (*source, *target, *options),
        _ => return Err(invalid()),
    };
    if target.is_empty() || (parts.len() > 1 && source.is_empty()) {
        return Err(invalid());
    }
    let target = destination(target)?;
    let mode = BindMode::parse(options).ok_or_else(|| Error::invalid(format!("invalid mode: {options}")))?;
    if source.starts_with('/') {
        let propagation = if mode.propagation.is_empty() { "rprivate" } else { mode.propagation };
        return Ok(bind(source, &target, &mode, propagation, true));
    }
    let name = if source.is_empty() { random_id()? } else { source.to_owned() };
    if !is_valid_name(&name) {
        return Err(Error::invalid(format!(
            "create {name}: \"{name}\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
        )));
    }
    check_driver(driver)?;
    let mut mount = volume(&name, &target, !mode.read_only, Vec::new(), "", !mode.no_copy);
    mount.point.mode = if options.is_empty() { "z".into() } else { options.into() };
    Ok(mount)
}

/// The words behind the second colon of `-v`.
#[derive(Default)]
struct BindMode<'a> {
    text: &'a str,
    read_only: bool,
    no_copy: bool,
    propagation: &'a str,
}

impl<'a> BindMode<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let mut mode = BindMode { text, ..BindMode::default() };
        for word in text.split(',').filter(|word| !word.is_empty()) {
            match word {
                "ro" => mode.read_only = true,
                "rw" => mode.read_only = false,
                "nocopy" => mode.no_copy = true,
                // SELinux relabelling and Docker Desktop's consistency words mean nothing here.
                "z" | "Z" | "copy" | "consistent" | "cached" | "delegated" | "default" => {}
                "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate" => mode.propagation = word,
                _ => return None,
            }
        }
        Some(mode)
    }
}

fn bind(source: &str, target: &str, mode: &BindMode<'_>, propagation: &str, create: bool) -> Mount {
    let mut options = vec!["rbind".to_owned(), propagation.to_owned()];
    if mode.read_only {
        options.push("rro".into());
    }
    let point = MountPoint {
        type_: "bind".into(),
        source: clean_source(source),
        destination: target.into(),
        mode: mode.text.into(),
        rw: !mode.read_only,
        propagation: propagation.into(),
        ..MountPoint::default()
    };
    // `-v` makes a missing source, `--mount` does not: remembered as the copy-up flag has no meaning for binds.
    Mount { point, options, data: Vec::new(), copy_up: create, subpath: String::new() }
}

fn clean_source(source: &str) -> String {
    let mut clean = PathBuf::new();
    for component in Path::new(source).components() {
        if component == Component::ParentDir {
            clean.pop();
        } else if component != Component::CurDir {
            clean.push(component);
        }
    }
    clean.to_string_lossy().into_owned()
}

fn volume(name: &str, target: &str, writable: bool, mut options: Vec<String>, subpath: &str, copy_up: bool) -> Mount {
    options.extend(["rbind".into(), "rprivate".into()]);
    if !writable {
        options.push("rro".into());
    }
    let point = MountPoint {
        type_: "volume".into(),
        name: name.into(),
        destination: target.into(),
        driver: "local".into(),
        rw: writable,
        ..MountPoint::default()
    };
    Mount { point, options, data: Vec::new(), copy_up, subpath: subpath.into() }
}

fn check_driver(driver: &str) -> Result<()> {
    match driver {
        "" | "local" => Ok(()),
        other => Err(Error::not_found(format!(
            "error looking up volume plugin {other}: plugin {other:?} not found: brig has the driver 'local' only"
        ))),
    }
}

fn parse_mount(asked: &Asked) -> Result<Mount> {
    let invalid = |why: &str| Error::invalid(format!("invalid mount config for type {:?}: {why}", asked.type_));
    if asked.target.is_empty() {
        return Err(invalid("field Target must not be empty"));
    }
    let target = destination(&asked.target)?;
    match asked.type_.as_str() {
        "bind" => parse_bind_mount(asked, &target),
        "volume" => {
            let options = asked.volume_options.clone().unwrap_or_default();
            if let Some(driver) = &options.driver_config {
                check_driver(&driver.name)?;
            }
            if !asked.source.is_empty() && !is_valid_name(&asked.source) {
                return Err(invalid(&format!("{:?} is not a name for a volume", asked.source)));
            }
            let name = if asked.source.is_empty() { random_id()? } else { asked.source.clone() };
            let mut mount = volume(&name, &target, !asked.read_only, Vec::new(), &options.subpath, !options.no_copy);
            mount.point.mode = "z".into();
            Ok(mount)
        }
        "tmpfs" => {
            if !asked.source.is_empty() {
                return Err(invalid("field Source must not be specified"));
            }
            let mut words = Vec::new();
            let given = asked.tmpfs_options.clone().unwrap_or_default();
            if given.size_bytes > 0 {
                words.push(format!("size={}", given.size_bytes));
            }
            if given.mode != 0 {
                words.push(format!("mode={:o}", given.mode));
            }
            if asked.read_only {
                words.push("ro".into());
            }
            words.extend(given.options.iter().flatten().map(|option| option.join("=")));
            tmpfs(&target, &words.join(","))
        }
        "image" | "npipe" | "cluster" => {
            Err(Error::not_implemented(format!("mounts of type {:?} are not in brig yet", asked.type_)))
        }
        _ => Err(Error::invalid(format!("invalid mount config: mount type unknown: {:?}", asked.type_))),
    }
}

fn parse_bind_mount(asked: &Asked, target: &str) -> Result<Mount> {
    let invalid = |why: &str| Error::invalid(format!("invalid mount config for type \"bind\": {why}"));
    if !asked.source.starts_with('/') {
        return Err(invalid("invalid mount path: mount path must be absolute"));
    }
    let given = asked.bind_options.clone().unwrap_or_default();
    if !Path::new(&asked.source).exists() && !given.create_mountpoint {
        return Err(invalid(&format!("bind source path does not exist: {}", asked.source)));
    }
    let propagation = if given.propagation.is_empty() { "rprivate" } else { &given.propagation };
    if !matches!(propagation, "shared" | "rshared" | "slave" | "rslave" | "private" | "rprivate") {
        return Err(invalid(&format!("invalid propagation mode: {propagation}")));
    }
    let mode = BindMode { read_only: asked.read_only, ..BindMode::default() };
    let mut mount = bind(&asked.source, target, &mode, propagation, given.create_mountpoint);
    if given.non_recursive {
        mount.options[0] = "bind".into();
    }
    if given.read_only_non_recursive && mode.read_only {
        mount.options.retain(|option| option != "rro");
        mount.options.push("ro".into());
    }
    Ok(mount)
}

/// A tmpfs with Docker's defaults, changed by the words given.
fn tmpfs(target: &str, words: &str) -> Result<Mount> {
    let target = destination(target)?;
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
    let mut data = Vec::new();
    let mut writable = true;
    for word in words.split(',').filter(|word| !word.is_empty()) {
        match word {
            "rw" => writable = true,
            "ro" => writable = false,
            "exec" | "suid" | "dev" => options.retain(|option| option.strip_prefix("no") != Some(word)),
            "noexec" | "nosuid" | "nodev" | "sync" | "async" | "dirsync" | "remount" | "mand" | "nomand" | "atime"
            | "noatime" | "diratime" | "nodiratime" | "relatime" | "norelatime" | "strictatime" | "nostrictatime"
            | "private" | "rprivate" | "slave" | "rslave" | "shared" | "rshared" | "unbindable" | "runbindable"
            | "bind" | "rbind" => {
                if !options.iter().any(|option| option == word) {
                    options.push(word.into());
                }
            }
            _ => match word.split_once('=') {
                Some(("size" | "mode" | "uid" | "gid" | "nr_inodes" | "nr_blocks" | "mpol", _)) => {
                    data.push(word.to_owned())
                }
                _ => return Err(Error::invalid(format!("invalid tmpfs option {word:?}"))),
            },
        }
    }
    let point = MountPoint { type_: "tmpfs".into(), destination: target, rw: writable, ..MountPoint::default() };
    if !writable {
        options.push("ro".into());
    }
    Ok(Mount { point, options, data, copy_up: false, subpath: String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binds(specs: &[&str]) -> Result<Vec<Mount>> {
        let host = HostConfig { binds: Some(specs.iter().map(|s| (*s).to_owned()).collect()), ..HostConfig::default() };
        resolve(&Config::default(), &host, Vec::new())
    }

    #[test]
    fn volumes_and_binds_are_told_apart() {
        let mounts = binds(&["/src/../a:/b:ro", "data:/d", "/anonymous"]).unwrap();
        let find = |target: &str| mounts.iter().find(|m| m.point.destination == target).unwrap();
        assert_eq!(find("/b").point.source, "/a");
        assert!(!find("/b").point.rw && find("/b").options.contains(&"rro".to_owned()));
        assert_eq!((find("/d").point.type_.as_str(), find("/d").point.name.as_str()), ("volume", "data"));
        assert_eq!(find("/anonymous").point.name.len(), 64);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["a:b", ":/x", "/a:/", "/a:/b:what", "/a:/b:ro:x", "b@d:/x", "x"] {
            assert!(binds(&[bad]).is_err(), "{bad}");
        }
        assert!(binds(&["/a:/x", "/b:/x"]).unwrap_err().message.contains("Duplicate mount point: /x"));
    }

    #[test]
    fn parents_come_before_children() {
        let mounts = binds(&["/a:/x/y/z", "/a:/x"]).unwrap();
        assert_eq!(mounts[0].point.destination, "/x");
    }

    #[test]
    fn tmpfs_words() {
        let mount = tmpfs("/t", "size=64m,exec,ro").unwrap();
        assert!(mount.options.contains(&"ro".into()) && !mount.options.contains(&"noexec".into()));
        assert_eq!(mount.data, ["size=64m"]);
        assert!(tmpfs("/t", "nonsense").is_err());
    }

    #[test]
    fn a_missing_bind_source_is_named() {
        let asked = Asked { type_: "bind".into(), source: "/no/such".into(), target: "/x".into(), ..Asked::default() };
        assert_eq!(
            parse_mount(&asked).unwrap_err().message,
            "invalid mount config for type \"bind\": bind source path does not exist: /no/such"
        );
    }

    #[test]
    fn an_images_volume_gets_a_name_unless_something_is_there() {
        let config =
            Config { volumes: Some([("/d".to_owned(), None), ("/e".to_owned(), None)].into()), ..Config::default() };
        let host = HostConfig { binds: Some(vec!["/a:/d".into()]), ..HostConfig::default() };
        let mounts = resolve(&config, &host, Vec::new()).unwrap();
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts.iter().filter(|m| m.point.type_ == "volume").count(), 1);
    }
}

//! Kernel parameters under /proc/sys/net. Owns the paths and the error text. Which network namespace is meant
//! is the calling thread's: callers go there first.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Writes `value` to `/proc/sys/net/<name>`. Leaves alone what already reads so.
pub(crate) fn write(name: &str, value: &str) -> Result<()> {
    let path = path(name);
    if read_path(&path).is_some_and(|now| now == value) {
        return Ok(());
    }
    std::fs::write(&path, value)
        .map_err(|error| Error::new(ErrorKind::System, format!("write({:?}, {value:?}): {error}", path.display())))
}

/// As [`write`], but a parameter that this kernel does not have (IPv6 compiled out or switched off) is fine.
pub(crate) fn write_if_present(name: &str, value: &str) -> Result<()> {
    if path(name).exists() { write(name, value) } else { Ok(()) }
}

/// What the parameter reads, without the line's end; `None` if there is no such parameter.
pub(crate) fn read(name: &str) -> Option<String> {
    read_path(&path(name))
}

fn read_path(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim_end().to_owned())
}

fn path(name: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(name)
}

/// Lets IPv4 packets pass through. Returns whether it was off before.
pub(crate) fn forward_v4() -> Result<bool> {
    let was_off = read("ipv4/ip_forward").as_deref() == Some("0");
    write("ipv4/ip_forward", "1")?;
    Ok(was_off)
}

/// Lets IPv6 packets pass through. Forwarding makes the kernel ignore router advertisements, by which the host
/// may have its own address: interfaces that listened to them are told to go on (`accept_ra=2`).
pub(crate) fn forward_v6() -> Result<()> {
    if read("ipv6/conf/all/forwarding").as_deref() == Some("1") {
        return Ok(());
    }
    let interfaces = std::fs::read_dir("/proc/sys/net/ipv6/conf")
        .map_err(|error| Error::new(ErrorKind::Unsupported, format!("IPv6 is not available on this host: {error}")))?;
    for name in interfaces.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let parameter = format!("ipv6/conf/{name}/accept_ra");
        if name != "all" && name != "default" && name != "lo" && read(&parameter).as_deref() == Some("1") {
            write(&parameter, "2")?;
        }
    }
    write("ipv6/conf/all/forwarding", "1")
}

/// Makes an interface deaf to what neighbours may advertise, and without IPv6 unless `ipv6`.
pub(crate) fn quiet_v6(interface: &str, ipv6: bool) -> Result<()> {
    write_if_present(&format!("ipv6/conf/{interface}/disable_ipv6"), if ipv6 { "0" } else { "1" })?;
    if ipv6 {
        for parameter in ["accept_ra", "accept_redirects"] {
            write_if_present(&format!("ipv6/conf/{interface}/{parameter}"), "0")?;
        }
        // MAC addresses on our bridges are ours to give. Looking for duplicates of the link-local addresses that
        // follow from them would keep IPv6 from being forwarded for the first second or two.
        write_if_present(&format!("ipv6/conf/{interface}/accept_dad"), "0")?;
    }
    Ok(())
}

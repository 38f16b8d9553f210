//! `--publish` and `--expose`: `ip:host:container/proto` with ranges, and the `name=value` form.
//! Pure.

use brig_api::container::{PortBinding, PortMap};
use std::net::IpAddr;

/// The bindings of all `--publish` values.
///
/// # Errors
/// Docker's words.
pub fn publish(values: &[&str]) -> Result<PortMap, String> {
    let mut map = PortMap::new();
    for value in values {
        let spec = if value.contains('=') { from_pairs(value)? } else { (*value).to_owned() };
        for (port, binding) in one(&spec)? {
            map.entry(port).or_default().get_or_insert_with(Vec::new).push(binding);
        }
    }
    Ok(map)
}

fn from_pairs(text: &str) -> Result<String, String> {
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for pair in text.split(',') {
        match pair.split_once('=') {
            Some(("published", value)) => published = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => protocol = value,
            Some((name, _)) if !name.is_empty() => {}
            _ => return Err(format!("invalid publish opts format (should be name=value but got '{pair}')")),
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

fn one(spec: &str) -> Result<Vec<(String, PortBinding)>, String> {
    let (front, container) = spec.rsplit_once(':').unwrap_or(("", spec));
    let (ip, host) = front.rsplit_once(':').unwrap_or(("", front));
    let (container, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
    let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {ip}"));
    }
    if container.is_empty() {
        return Err(format!("no port specified: {spec}<empty>"));
    }
    let inside = range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let outside = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    let pick_one = outside.is_some_and(|(first, last)| last - first != inside.1 - inside.0);
    if pick_one && inside.0 != inside.1 {
        return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
    }
    let protocol = protocol.to_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    Ok((inside.0..=inside.1)
        .map(|port| {
            let host_port = match outside {
                None => String::new(),
                Some(_) if pick_one => host.to_owned(),
                Some((first, _)) => (first + (port - inside.0)).to_string(),
            };
            (format!("{port}/{protocol}"), PortBinding { host_ip: ip.to_owned(), host_port })
        })
        .collect())
}

/// `80` or `80-90`, ends included.
fn range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// The ports of all `--expose` values, as `port/proto`.
///
/// # Errors
/// Docker's words.
pub fn expose(values: &[&str]) -> Result<Vec<String>, String> {
    let mut ports = Vec::new();
    for value in values {
        if value.contains(':') {
            return Err(format!("invalid port format for --expose: {value}"));
        }
        let (port, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
        let (first, last) =
            range(port).ok_or_else(|| format!("invalid range format for --expose: {value}, error: invalid port"))?;
        ports.extend((first..=last).map(|port| format!("{port}/{protocol}")));
    }
    Ok(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(spec: &str) -> Vec<String> {
        let list = one(spec).unwrap();
        list.into_iter().map(|(port, b)| format!("{port}={}:{}", b.host_ip, b.host_port)).collect()
    }

    #[test]
    fn forms() {
        assert_eq!(shown("80"), ["80/tcp=:"]);
        assert_eq!(shown("8080:80"), ["80/tcp=:8080"]);
        assert_eq!(shown("127.0.0.1::53/udp"), ["53/udp=127.0.0.1:"]);
        assert_eq!(shown("[::1]:8080:80"), ["80/tcp=::1:8080"]);
        assert_eq!(shown("8000-8001:80-81"), ["80/tcp=:8000", "81/tcp=:8001"]);
        assert_eq!(shown("8000-8010:80/TCP"), ["80/tcp=:8000-8010"]);
        let map = publish(&["target=80,published=8080,protocol=udp", "81:80/udp"]).unwrap();
        assert_eq!(map["80/udp"].as_ref().unwrap().len(), 2);
    }

    #[test]
    fn refusals() {
        let says = |spec| one(spec).unwrap_err();
        assert_eq!(says("99999:1"), "invalid hostPort: 99999");
        assert_eq!(says("x"), "invalid containerPort: x");
        assert_eq!(says("1.2.3:1:1"), "invalid IP address: 1.2.3");
        assert_eq!(says("1:1/foo"), "invalid proto: foo");
        assert_eq!(says("80:"), "no port specified: 80:<empty>");
        assert_eq!(says("1-3:5-6"), "invalid ranges specified for container and host Ports: 5-6 and 1-3");
        assert_eq!(expose(&["80-81", "5/udp"]).unwrap(), ["80/tcp", "81/tcp", "5/udp"]);
        assert_eq!(expose(&["1:2"]).unwrap_err(), "invalid port format for --expose: 1:2");
    }
}

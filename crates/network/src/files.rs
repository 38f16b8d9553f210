//! The text of a container's /etc/hosts and /etc/resolv.conf, as Docker writes them.
//! Pure: text in, text out. Must not read or write files; what ends up in a line is checked here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::error::{Error, ErrorKind, Result};

/// The host's own file.
pub const HOST_RESOLV_CONF: &str = "/etc/resolv.conf";
/// Where systemd-resolved keeps the real servers when [`HOST_RESOLV_CONF`] names only its stub.
pub const RESOLVED_RESOLV_CONF: &str = "/run/systemd/resolve/resolv.conf";
/// Docker's servers of last resort.
pub const FALLBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(8, 8, 8, 8)), IpAddr::V4(Ipv4Addr::new(8, 8, 4, 4))];

const LOCALHOST: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// Where an `--add-host` name points to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostTarget {
    /// This address.
    Address(IpAddr),
    /// `host-gateway`: the address by which the container reaches the host.
    Gateway,
}

/// Reads `name:address` or `name=address`; the address may be `host-gateway`, and an IPv6 one in brackets.
pub fn parse_extra_host(text: &str) -> Result<(String, HostTarget)> {
    let bad = || Error::new(ErrorKind::Invalid, format!("bad format for add-host: \"{text}\""));
    let (name, address) = match text.split_once('=') {
        Some(parts) => parts,
        None => text.split_once(':').ok_or_else(bad)?,
    };
    if name.is_empty() || address.is_empty() {
        return Err(bad());
    }
    check_word(name, "host name in add-host")?;
    if address == "host-gateway" {
        return Ok((name.to_owned(), HostTarget::Gateway));
    }
    let bare = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(address);
    let address = bare
        .parse()
        .map_err(|_| Error::new(ErrorKind::Invalid, format!("invalid IP address in add-host: \"{address}\"")))?;
    Ok((name.to_owned(), HostTarget::Address(address)))
}

/// Renders /etc/hosts. `own`: the container's addresses with its names, the first being the host name
/// (`["web.example", "web"]`); empty for a container without a network of its own.
pub fn hosts(extra: &[(String, IpAddr)], own: &[IpAddr], names: &[String]) -> Result<String> {
    let mut text = String::from(LOCALHOST);
    for (name, address) in extra {
        check_word(name, "host name")?;
        text.push_str(&format!("{address}\t{name}\n"));
    }
    for name in names {
        check_word(name, "host name")?;
    }
    if !names.is_empty() {
        for address in own {
            text.push_str(&format!("{address}\t{}\n", names.join(" ")));
        }
    }
    Ok(text)
}

/// What `--dns`, `--dns-search` and `--dns-option` (or the daemon's defaults) ask for; empty: as the host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers; they are used as given, loopback addresses included.
    pub servers: Vec<IpAddr>,
    /// Search domains; a single `.` means none.
    pub search: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// Whether the host's file names only systemd-resolved's stub: then [`RESOLVED_RESOLV_CONF`] is the one to copy.
pub fn is_resolved_stub(host: &str) -> bool {
    let mut servers = directives(host, "nameserver").peekable();
    servers.peek().is_some() && servers.all(|server| server == "127.0.0.53")
}

/// Renders /etc/resolv.conf from the text of the host's. The host's loopback servers are left out, for they
/// listen elsewhere, and its IPv6 servers unless the container has IPv6; if none is left, `fallback` is used.
pub fn resolv_conf(host: &str, dns: &Dns, fallback: &[IpAddr], ipv6: bool) -> Result<String> {
    let servers: Vec<String> = if dns.servers.is_empty() {
        let kept: Vec<String> =
            directives(host, "nameserver").filter(|server| reachable(server, ipv6)).map(str::to_owned).collect();
        if kept.is_empty() { fallback.iter().map(ToString::to_string).collect() } else { kept }
    } else {
        dns.servers.iter().map(ToString::to_string).collect()
    };
    // As in resolv.conf(5): the last search (or domain) line of a file wins, options lines add up.
    let search = if dns.search.is_empty() {
        let mut lines = host.lines().filter_map(|line| directive(line, "search").or_else(|| directive(line, "domain")));
        lines.next_back().map(|line| line.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
    } else {
        dns.search.clone()
    };
    let search: Vec<String> = search.into_iter().filter(|domain| domain != ".").collect();
    let options: Vec<String> = if dns.options.is_empty() {
        directives(host, "options").flat_map(str::split_whitespace).map(str::to_owned).collect()
    } else {
        dns.options.clone()
    };
    for (words, what) in [(&search, "search domain"), (&options, "resolver option")] {
        words.iter().try_for_each(|word| check_word(word, what))?;
    }
    let mut text = String::from("# Made by brig from the host's file and the container's options.\n\n");
    servers.iter().for_each(|server| text.push_str(&format!("nameserver {server}\n")));
    for (words, name) in [(&search, "search"), (&options, "options")] {
        if !words.is_empty() {
            text.push_str(&format!("{name} {}\n", words.join(" ")));
        }
    }
    Ok(text)
}

fn directive<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let line = line.trim();
    let rest = line.strip_prefix(name)?;
    rest.starts_with(char::is_whitespace).then(|| rest.trim())
}

fn directives<'a>(text: &'a str, name: &'static str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| directive(line, name))
}

fn reachable(server: &str, ipv6: bool) -> bool {
    let (address, zone) = server.split_once('%').map_or((server, false), |(address, _)| (address, true));
    match address.parse() {
        Ok(IpAddr::V4(v4)) => !v4.is_loopback() && !v4.is_unspecified(),
        // A zone names one of the host's interfaces.
        Ok(IpAddr::V6(v6)) => ipv6 && !zone && v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED,
        Err(_) => false,
    }
}

/// One word of a line: anything else could smuggle in another line.
fn check_word(text: &str, what: &str) -> Result<()> {
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) || text.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, format!("invalid {what}: {text:?}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn hosts_as_docker_writes_them() {
        let text = hosts(&[("db".to_owned(), ip("10.0.0.9"))], &[ip("172.17.0.2")], &["web".to_owned()]);
        let expected = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
             ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n\
             10.0.0.9\tdb\n172.17.0.2\tweb\n";
        assert_eq!(text.expect("hosts"), expected);
        hosts(&[("a\n6.6.6.6 bank".to_owned(), ip("10.0.0.9"))], &[], &[]).expect_err("a smuggled line");
    }

    #[test]
    fn extra_hosts() {
        let address = |text| HostTarget::Address(ip(text));
        assert_eq!(parse_extra_host("a:10.0.0.1").expect("v4"), ("a".to_owned(), address("10.0.0.1")));
        assert_eq!(parse_extra_host("a:::1").expect("v6"), ("a".to_owned(), address("::1")));
        assert_eq!(parse_extra_host("a=[fd00::1]").expect("v6"), ("a".to_owned(), address("fd00::1")));
        assert_eq!(parse_extra_host("h:host-gateway").expect("gateway").1, HostTarget::Gateway);
        assert_eq!(
            parse_extra_host("a:10.0.0.x").expect_err("bad").to_string(),
            "invalid IP address in add-host: \"10.0.0.x\""
        );
        for bad in ["", "a", ":1.2.3.4", "a:", "a b:1.2.3.4"] {
            parse_extra_host(bad).expect_err(bad);
        }
    }

    fn body(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    }

    #[test]
    fn the_hosts_servers_without_loopback() {
        let host = "# c\nnameserver 127.0.0.1\nnameserver\t10.0.0.2 \nnameserver ::1\nnameserver fd00::2\n\
                    domain old\nsearch a.example b.example\noptions ndots:2\noptions edns0\n";
        let text = resolv_conf(host, &Dns::default(), &FALLBACK, false).expect("text");
        assert_eq!(body(&text), ["nameserver 10.0.0.2", "search a.example b.example", "options ndots:2 edns0"]);
        let text = resolv_conf(host, &Dns::default(), &FALLBACK, true).expect("text");
        assert_eq!(body(&text)[..2], ["nameserver 10.0.0.2", "nameserver fd00::2"]);
        let text = resolv_conf("nameserver 127.0.0.53\n", &Dns::default(), &FALLBACK, false).expect("text");
        assert_eq!(body(&text), ["nameserver 8.8.8.8", "nameserver 8.8.4.4"]);
        assert_eq!(
            body(&resolv_conf("", &Dns::default(), &[ip("9.9.9.9")], false).expect("text")),
            ["nameserver 9.9.9.9"]
        );
    }

    #[test]
    fn asked_for_servers_win() {
        let dns = Dns {
            servers: vec![ip("127.0.0.1"), ip("::1")],
            search: vec![".".to_owned()],
            options: vec!["timeout:1".to_owned()],
        };
        let host = "nameserver 10.0.0.2\nsearch a.example\noptions x\n";
        let text = resolv_conf(host, &dns, &FALLBACK, false).expect("text");
        assert_eq!(body(&text), ["nameserver 127.0.0.1", "nameserver ::1", "options timeout:1"]);
        let smuggled = Dns { options: vec!["x\nnameserver 6.6.6.6".to_owned()], ..Dns::default() };
        resolv_conf(host, &smuggled, &FALLBACK, false).expect_err("a smuggled line");
    }

    #[test]
    fn knows_the_stub_of_systemd() {
        assert!(is_resolved_stub("nameserver 127.0.0.53\noptions edns0\n"));
        assert!(!is_resolved_stub("nameserver 127.0.0.53\nnameserver 10.0.0.1\n"));
        assert!(!is_resolved_stub(""));
    }
}

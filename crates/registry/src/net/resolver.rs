//! Owns host name lookup: /etc/hosts, /etc/resolv.conf, and queries to the servers named there over UDP and TCP. It exists
//! because getaddrinfo in a static glibc program loads the host's NSS modules. It must not cache beyond one lookup: the
//! system's own resolver does that.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::dial::describe_io;
use super::dns::{self, Answer, RecordType};

/// Files larger than this are not what they claim to be.
const LARGEST_FILE: u64 = 4 << 20;

/// Looks host names up the way the two files say.
#[derive(Debug, Clone)]
pub(crate) struct Resolver {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    /// Where servers listen; 53 except in tests.
    port: u16,
}

/// Why a name has no address; printed after "lookup".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LookupError {
    /// "no such host", with the server that said so, if any did.
    NoSuchHost(Option<String>),
    /// No server answered usefully; may work later.
    Unavailable(String),
}

/// /etc/resolv.conf as far as it matters here (resolv.conf(5)).
#[derive(Debug, PartialEq, Eq)]
struct Settings {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: usize,
}

impl Resolver {
    /// The resolver of this machine.
    pub(crate) fn system() -> Resolver {
        Resolver { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into(), port: 53 }
    }

    /// All addresses of `host`, IPv6 and IPv4 alternating, at least one.
    pub(crate) async fn lookup(&self, host: &str) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        let hosts = read_small(&self.hosts).await;
        let local = from_hosts(&hosts, host);
        if !local.is_empty() {
            return Ok(local);
        }
        // RFC 6761 section 6.3: these names never go to a server.
        if is_localhost(host) {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let settings = Settings::parse(&read_small(&self.resolv_conf).await);
        let mut outcome = Err(LookupError::NoSuchHost(None));
        for name in candidates(host, &settings) {
            outcome = self.query_both(&name, &settings).await;
            if !matches!(outcome, Err(LookupError::NoSuchHost(_))) {
                break;
            }
        }
        outcome
    }

    async fn query_both(&self, name: &str, settings: &Settings) -> Result<Vec<IpAddr>, LookupError> {
        let v4 = self.query(name, RecordType::A, settings);
        let v6 = self.query(name, RecordType::Aaaa, settings);
        let (v4, v6) = tokio::join!(v4, v6);
        match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => {
                // One family failing must not hide the other's addresses, nor be taken for none.
                let failed = v4.as_ref().err().or(v6.as_ref().err()).cloned();
                let addresses = interleave(v6.unwrap_or_default(), v4.unwrap_or_default());
                match addresses.is_empty() {
                    true => Err(failed.unwrap_or(LookupError::NoSuchHost(None))),
                    false => Ok(addresses),
                }
            }
        }
    }

    async fn query(&self, name: &str, record: RecordType, settings: &Settings) -> Result<Vec<IpAddr>, LookupError> {
        let mut last = "no name server".to_owned();
        for _ in 0..settings.attempts {
            for server in &settings.servers {
                let server = SocketAddr::new(*server, self.port);
                match timeout(settings.timeout, ask(server, name, record)).await {
                    Err(_) => last = format!("on {server}: i/o timeout"),
                    Ok(Err(error)) => last = format!("on {server}: {}", describe_io(&error)),
                    Ok(Ok(Answer::Addresses(addresses))) => return Ok(addresses),
                    Ok(Ok(Answer::NoSuchName)) => {
                        return Err(LookupError::NoSuchHost(Some(server.to_string())));
                    }
                    Ok(Ok(Answer::Truncated)) => last = format!("on {server}: truncated answer"),
                    Ok(Ok(Answer::Failed(code))) => last = format!("on {server}: server misbehaving (code {code})"),
                }
            }
        }
        Err(LookupError::Unavailable(last))
    }
}

/// One question to one server: a datagram, then TCP if the answer did not fit.
async fn ask(server: SocketAddr, name: &str, record: RecordType) -> std::io::Result<Answer> {
    let id = random_id();
    let Some(query) = dns::encode_query(id, name, record) else {
        return Ok(Answer::NoSuchName);
    };
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    // A fresh socket per question: the kernel picks a port, which a forger must guess together with the id.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&query).await?;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        match dns::decode_answer(&buffer[..length], id, name, record) {
            Some(Answer::Truncated) => return ask_tcp(server, &query, id, name, record).await,
            Some(answer) => return Ok(answer),
            None => {}
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8], id: u16, name: &str, record: RecordType) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).expect("a query is at most 271 bytes long");
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    dns::decode_answer(&message, id, name, record)
        .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "malformed answer"))
}

/// Unpredictable to others: SipHash under this process's random key.
fn random_id() -> u16 {
    RandomState::new().build_hasher().finish() as u16
}

fn is_localhost(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

fn interleave(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut out = Vec::new();
    loop {
        let pair = (first.next(), second.next());
        if pair == (None, None) {
            return out;
        }
        out.extend(pair.0.into_iter().chain(pair.1));
    }
}

/// The file's text, or nothing if it is absent, unreadable, oversized or not text.
async fn read_small(path: &std::path::Path) -> String {
    let Ok(file) = tokio::fs::File::open(path).await else {
        return String::new();
    };
    let mut text = Vec::new();
    match file.take(LARGEST_FILE).read_to_end(&mut text).await {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}

fn from_hosts(text: &str, host: &str) -> Vec<IpAddr> {
    let host = host.strip_suffix('.').unwrap_or(host);
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().split_whitespace());
    lines
        .filter_map(|mut words| {
            let address = words.next()?.parse().ok()?;
            words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
        })
        .collect()
}

/// The names to ask for, in order: a name with `ndots` dots or more is tried as it is first.
fn candidates(host: &str, settings: &Settings) -> Vec<String> {
    if host.ends_with('.') {
        return vec![host.to_owned()];
    }
    let searched = settings.search.iter().map(|domain| format!("{host}.{domain}"));
    let absolute = std::iter::once(host.to_owned());
    if host.matches('.').count() >= settings.ndots {
        absolute.chain(searched).collect()
    } else {
        searched.chain(absolute).collect()
    }
}

impl Settings {
    fn parse(text: &str) -> Settings {
        let mut s = Settings {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                // A scope id (fe80::1%eth0) is beyond what a stub needs; such a server is skipped.
                Some("nameserver") => s.servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok())),
                Some("search" | "domain") => {
                    s.search = words.take(6).map(|w| w.trim_end_matches('.').to_owned()).collect()
                }
                Some("options") => words.for_each(|option| s.option(option)),
                _ => {}
            }
        }
        s.search.retain(|domain| !domain.is_empty());
        s.servers.truncate(3);
        if s.servers.is_empty() {
            s.servers.push(Ipv4Addr::LOCALHOST.into());
        }
        s
    }

    fn option(&mut self, option: &str) {
        let Some((name, Ok(value))) = option.split_once(':').map(|(n, v)| (n, v.parse::<u8>())) else {
            return;
        };
        match name {
            "ndots" => self.ndots = usize::from(value.min(15)),
            "timeout" => self.timeout = Duration::from_secs(u64::from(value.clamp(1, 30))),
            "attempts" => self.attempts = usize::from(value.clamp(1, 5)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf() {
        let s = Settings::parse(
            "# x\nnameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver ::1\nsearch a.example. b\noptions ndots:3 timeout:1 attempts:9 rotate\n",
        );
        assert_eq!(s.servers, ["192.0.2.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
        assert_eq!((s.ndots, s.timeout, s.attempts), (3, Duration::from_secs(1), 5));
        assert_eq!(candidates("reg", &s), ["reg.a.example", "reg.b", "reg"]);
        assert_eq!(candidates("a.b.c.d", &s), ["a.b.c.d", "a.b.c.d.a.example", "a.b.c.d.b"]);
        assert_eq!(candidates("reg.", &s), ["reg."]);
        assert_eq!(Settings::parse("").servers, ["127.0.0.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn hosts_file() {
        let text =
            "127.0.0.1 localhost\n192.0.2.7 Reg reg.example # no\n2001:db8::7 reg.example\nnonsense reg.example\n";
        assert_eq!(
            from_hosts(text, "reg.EXAMPLE"),
            ["192.0.2.7".parse::<IpAddr>().unwrap(), "2001:db8::7".parse().unwrap()]
        );
        assert!(from_hosts(text, "no").is_empty());
    }

    /// A name server on loopback that answers datagrams as `answer` says and counts them.
    async fn server(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> (Resolver, tempfile::TempDir) {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = socket.local_addr().unwrap().port();
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
                for reply in answer(&buffer[..n]) {
                    socket.send_to(&reply, from).await.unwrap();
                }
            }
        });
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("hosts"), "192.0.2.9 in-hosts\n").unwrap();
        std::fs::write(
            dir.path().join("resolv.conf"),
            "nameserver 127.0.0.1\nsearch box\noptions timeout:1 attempts:1\n",
        )
        .unwrap();
        (Resolver { hosts: dir.path().join("hosts"), resolv_conf: dir.path().join("resolv.conf"), port }, dir)
    }

    /// Answers a query with one record, or with `code` as the response code.
    fn reply(query: &[u8], code: u8) -> Vec<u8> {
        let mut m = query.to_vec();
        m[2] = 0x81;
        m[3] = 0x80 | code;
        if code == 0 {
            let kind = query[query.len() - 3];
            m[7] = 1;
            m.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 9]);
            let data: &[u8] =
                if kind == 1 { &[192, 0, 2, 1] } else { &[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] };
            m.extend([0, data.len() as u8]);
            m.extend(data);
        }
        m
    }

    #[tokio::test]
    async fn asks_a_server_and_ignores_forgeries() {
        let (resolver, _dir) = server(|q| {
            let mut forged = reply(q, 0);
            forged[0] ^= 0xff;
            // Only "reg.box" exists: found through the search list.
            vec![forged, reply(q, if q[12..].starts_with(b"\x03reg\x03box") { 0 } else { 3 })]
        })
        .await;
        let both: Vec<IpAddr> = vec!["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];
        assert_eq!(resolver.lookup("reg").await, Ok(both));
        assert!(matches!(resolver.lookup("nosuch").await, Err(LookupError::NoSuchHost(_))));
        assert_eq!(resolver.lookup("in-hosts").await.unwrap()[0].to_string(), "192.0.2.9");
        assert_eq!(resolver.lookup("x.localhost").await.unwrap()[0].to_string(), "127.0.0.1");
        assert_eq!(resolver.lookup("10.1.2.3").await.unwrap()[0].to_string(), "10.1.2.3");
    }

    /// A name that has no address of one kind, and of whose other kind nobody could tell, may have one in a moment.
    #[tokio::test]
    async fn no_address_of_one_kind_is_not_no_such_host() {
        for failing in [1, 28] {
            let (resolver, _dir) = server(move |q| {
                let mut answer = reply(q, 2);
                if q[q.len() - 3] != failing {
                    // No error, no records.
                    answer[3] = 0x80;
                }
                vec![answer]
            })
            .await;
            let Err(LookupError::Unavailable(text)) = resolver.lookup("reg.example").await else { panic!("{failing}") };
            assert!(text.contains("server misbehaving"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_failing_and_a_silent_server_are_named() {
        let (resolver, _dir) = server(|q| vec![reply(q, 2)]).await;
        let Err(LookupError::Unavailable(text)) = resolver.lookup("reg.example").await else { panic!("no error") };
        assert!(text.contains("server misbehaving"), "{text}");
        let (resolver, _dir) = server(|_| Vec::new()).await;
        let Err(LookupError::Unavailable(text)) = resolver.lookup("reg.example").await else { panic!("no error") };
        assert!(text.contains("i/o timeout"), "{text}");
    }
}

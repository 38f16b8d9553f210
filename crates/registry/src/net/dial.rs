//! Owns making a byte stream to an origin: address choice, the reach policy, proxies and the TLS handshake. It must not
//! speak HTTP beyond a proxy's CONNECT.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::proxy::{Proxies, Proxy};
use super::resolver::{LookupError, Resolver};
use super::tls::{self, Tls, Trust};
use super::url::{Origin, Scheme};
use crate::error::{ErrorKind, Failure};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Head start of one address over the next (RFC 8305 section 5).
const STAGGER: Duration = Duration::from_millis(250);

/// A connected stream of any make.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How far into the network an address leads; the order is "how much harm a request there may do".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// The public internet.
    Public,
    /// Private ranges: RFC 1918, RFC 6598, unique local.
    Private,
    /// This machine.
    Loopback,
    /// 169.254.0.0/16 and fe80::/10, where clouds keep their metadata servers, and addresses that are none.
    LinkLocal,
}

impl Reach {
    /// The class of `address`; one wrapped in IPv6 counts as what it wraps.
    pub(crate) fn of(address: IpAddr) -> Reach {
        match address.to_canonical() {
            IpAddr::V4(a) => {
                let shared = a.octets()[0] == 100 && a.octets()[1] & 0xc0 == 64;
                if a.is_loopback() {
                    Reach::Loopback
                } else if a.is_link_local()
                    || a.is_unspecified()
                    || a.octets()[0] == 0
                    || a.is_multicast()
                    || a.is_broadcast()
                {
                    Reach::LinkLocal
                } else if a.is_private() || shared {
                    Reach::Private
                } else {
                    Reach::Public
                }
            }
            IpAddr::V6(a) => {
                if a.is_loopback() {
                    Reach::Loopback
                } else if a.is_unicast_link_local() || a.is_unspecified() || a.is_multicast() {
                    Reach::LinkLocal
                } else if a.is_unique_local() {
                    Reach::Private
                } else {
                    Reach::Public
                }
            }
        }
    }
}

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Dialer {
    pub(crate) resolver: Resolver,
    pub(crate) tls: Arc<Tls>,
    pub(crate) proxies: Proxies,
}

/// A stream, and how requests on it are written.
pub(crate) struct Dialled {
    pub(crate) stream: Box<dyn Stream>,
    /// A plain-HTTP proxy wants the whole URL in the request line and this authorization, if any.
    pub(crate) via_plain_proxy: Option<Proxy>,
}

impl Dialer {
    /// Connects to `origin`, only to addresses of class `limit` or less if a limit is given.
    pub(crate) async fn dial(&self, origin: &Origin, trust: Trust, limit: Option<Reach>) -> Result<Dialled, Failure> {
        let proxy = self.proxies.for_origin(origin).map_err(|e| Failure::fatal(ErrorKind::Network, e))?;
        let Some(proxy) = proxy else {
            let stream: Box<dyn Stream> = Box::new(self.connect(origin, limit).await?);
            let stream =
                if origin.scheme == Scheme::Https { self.encrypt(stream, origin, trust).await? } else { stream };
            return Ok(Dialled { stream, via_plain_proxy: None });
        };
        // The proxy resolves names, so only an address in the URL itself can be judged here.
        if let (Some(ip), Some(limit)) = (origin.ip(), limit) {
            check_reach(&[ip], limit, origin)?;
        }
        let mut stream: Box<dyn Stream> = Box::new(self.connect(&proxy.origin, None).await?);
        if proxy.origin.scheme == Scheme::Https {
            stream = self.encrypt(stream, &proxy.origin, Trust::Verified).await?;
        }
        if origin.scheme == Scheme::Http {
            return Ok(Dialled { stream, via_plain_proxy: Some(proxy) });
        }
        timeout(CONNECT_TIMEOUT, tunnel(&mut stream, origin, &proxy)).await.map_err(|_| {
            Failure::transient(
                ErrorKind::Timeout,
                format!("proxyconnect tcp: {}: i/o timeout", proxy.origin.host_port()),
            )
        })??;
        Ok(Dialled { stream: self.encrypt(stream, origin, trust).await?, via_plain_proxy: None })
    }

    /// The least reachable class among the addresses of `origin`, the most that it may redirect to.
    pub(crate) async fn reach(&self, origin: &Origin) -> Result<Reach, Failure> {
        if !matches!(self.proxies.for_origin(origin), Ok(None)) && origin.ip().is_none() {
            return Ok(Reach::Public);
        }
        let addresses = self.resolve(origin).await?;
        Ok(addresses.into_iter().map(Reach::of).max().unwrap_or(Reach::Public))
    }

    async fn resolve(&self, origin: &Origin) -> Result<Vec<IpAddr>, Failure> {
        let found = timeout(CONNECT_TIMEOUT, self.resolver.lookup(&origin.host)).await;
        let found = found.unwrap_or_else(|_| Err(LookupError::Unavailable("i/o timeout".into())));
        found.map_err(|error| match error {
            LookupError::NoSuchHost(Some(server)) => Failure::fatal(
                ErrorKind::Network,
                format!("dial tcp: lookup {} on {server}: no such host", origin.host),
            ),
            LookupError::NoSuchHost(None) => {
                Failure::fatal(ErrorKind::Network, format!("dial tcp: lookup {}: no such host", origin.host))
            }
            LookupError::Unavailable(why) => {
                Failure::transient(ErrorKind::Network, format!("dial tcp: lookup {} {why}", origin.host))
            }
        })
    }

    async fn connect(&self, origin: &Origin, limit: Option<Reach>) -> Result<TcpStream, Failure> {
        let addresses = self.resolve(origin).await?;
        if let Some(limit) = limit {
            check_reach(&addresses, limit, origin)?;
        }
        let last = addresses.last().map(|ip| SocketAddr::new(*ip, origin.port).to_string()).unwrap_or_default();
        match timeout(CONNECT_TIMEOUT, race(&addresses, origin.port)).await {
            Ok(result) => result,
            Err(_) => Err(Failure::transient(ErrorKind::Timeout, format!("dial tcp {last}: i/o timeout"))),
        }
    }

    async fn encrypt(
        &self,
        stream: Box<dyn Stream>,
        origin: &Origin,
        trust: Trust,
    ) -> Result<Box<dyn Stream>, Failure> {
        let (tls, of) = (self.tls.clone(), origin.clone());
        // Reads certs.d and, the first time, the system's roots.
        let config = tokio::task::spawn_blocking(move || tls.config(&of, trust)).await;
        let config = config.map_err(|e| Failure::fatal(ErrorKind::Network, format!("tls: {e}")))?;
        let config = config.map_err(|e| Failure::fatal(ErrorKind::Network, e))?;
        let name = ServerName::try_from(origin.host.clone()).map_err(|_| {
            Failure::fatal(ErrorKind::Network, format!("tls: {:?} is not a valid server name", origin.host))
        })?;
        let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Ok(Box::new(stream)),
            Ok(Err(error)) => Err(handshake_failure(&error, origin)),
            Err(_) => Err(Failure::transient(ErrorKind::Timeout, "net/http: TLS handshake timeout")),
        }
    }
}

fn handshake_failure(error: &std::io::Error, origin: &Origin) -> Failure {
    if let Some(why) = tls::refused_certificate(error) {
        return Failure::fatal(ErrorKind::Network, why);
    }
    match error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>()) {
        Some(error) => Failure::fatal(ErrorKind::Network, tls::describe(error, &origin.host)),
        None => Failure::transient(ErrorKind::Network, describe_io(error)),
    }
}

fn check_reach(addresses: &[IpAddr], limit: Reach, origin: &Origin) -> Result<(), Failure> {
    match addresses.iter().find(|ip| Reach::of(**ip) > limit) {
        // All of them must be fit: an attacker's name may have a good and a bad address.
        Some(ip) => Err(Failure::fatal(
            ErrorKind::Invalid,
            format!(
                "refusing to follow the registry to {origin} ({ip}): it leads into a network where the registry itself is not"
            ),
        )),
        None => Ok(()),
    }
}

/// Tries the addresses in order, each with a head start over the next as long as it has not failed; the first connection wins.
async fn race(addresses: &[IpAddr], port: u16) -> Result<TcpStream, Failure> {
    let connect = async |ip: IpAddr| {
        let address = SocketAddr::new(ip, port);
        TcpStream::connect(address).await.map_err(|e| (address, e))
    };
    let mut waiting = addresses.iter().copied();
    let mut attempts = FuturesUnordered::new();
    let mut failure = Failure::fatal(ErrorKind::Network, "dial tcp: no address");
    let mut first_failure = true;
    loop {
        attempts.extend(waiting.next().map(connect));
        let result = tokio::select! {
            result = attempts.next() => result,
            // The head start.
            () = tokio::time::sleep(STAGGER), if waiting.len() > 0 => continue,
        };
        match result {
            None => return Err(failure),
            Some(Ok(stream)) => {
                // Small requests must not wait for an acknowledgement; failing to say so is no reason to fail.
                stream.set_nodelay(true).ok();
                return Ok(stream);
            }
            Some(Err((address, error))) if first_failure => {
                first_failure = false;
                failure = Failure::transient(
                    ErrorKind::Network,
                    format!("dial tcp {address}: connect: {}", describe_io(&error)),
                );
            }
            Some(Err(_)) => {}
        }
    }
}

/// RFC 9110 section 9.3.6.
async fn tunnel(stream: &mut Box<dyn Stream>, origin: &Origin, proxy: &Proxy) -> Result<(), Failure> {
    const LONGEST_ANSWER: usize = 16 << 10;
    let failed = |why: String| {
        Failure::transient(ErrorKind::Network, format!("proxyconnect tcp: {}: {why}", proxy.origin.host_port()))
    };
    let host = origin.host_port();
    let authorization =
        proxy.authorization.as_ref().map(|a| format!("Proxy-Authorization: {a}\r\n")).unwrap_or_default();
    let request = format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| failed(describe_io(&e)))?;
    let mut answer = Vec::new();
    // One byte at a time: what follows the blank line belongs to TLS.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() >= LONGEST_ANSWER {
            return Err(failed("answer too long".into()));
        }
        answer.push(stream.read_u8().await.map_err(|e| failed(describe_io(&e)))?);
    }
    let line = String::from_utf8_lossy(answer.split(|b| *b == b'\r').next().unwrap_or_default()).into_owned();
    let status = line.split(' ').nth(1).unwrap_or_default();
    if status == "200" { Ok(()) } else { Err(failed(crate::error::printable(&line))) }
}

/// An I/O error in the words of Go's net package, which is what people search for.
pub(crate) fn describe_io(error: &std::io::Error) -> String {
    use std::io::ErrorKind as K;
    match error.kind() {
        K::ConnectionRefused => "connection refused".into(),
        K::ConnectionReset => "connection reset by peer".into(),
        K::NetworkUnreachable => "network is unreachable".into(),
        K::HostUnreachable => "no route to host".into(),
        K::TimedOut => "connection timed out".into(),
        K::UnexpectedEof => "unexpected EOF".into(),
        K::BrokenPipe => "broken pipe".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address that refuses has no head start: a host without IPv6 must not wait for each connection.
    #[tokio::test]
    async fn what_is_refused_is_not_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut addresses: Vec<IpAddr> = (0..40).map(|nth| IpAddr::from([127, 9, 0, nth])).collect();
        addresses.push(IpAddr::from([127, 0, 0, 1]));
        let all = STAGGER * 40;
        let stream = timeout(all / 2, race(&addresses, port)).await.expect("it waits for what was refused").unwrap();
        assert_eq!(stream.peer_addr().unwrap().port(), port);
        drop(listener);
        let refused = race(&addresses, port).await.err().unwrap();
        assert!(refused.error.message.contains("127.9.0.0"), "the first counts: {}", refused.error.message);
    }

    #[test]
    fn addresses_have_their_class() {
        for (text, want) in [
            ("8.8.8.8", Reach::Public),
            ("2001:db8::1", Reach::Public),
            ("10.0.0.1", Reach::Private),
            ("100.64.0.1", Reach::Private),
            ("100.128.0.1", Reach::Public),
            ("fd00::1", Reach::Private),
            ("127.8.8.8", Reach::Loopback),
            ("::1", Reach::Loopback),
            ("::ffff:127.0.0.1", Reach::Loopback),
            ("169.254.169.254", Reach::LinkLocal),
            ("::ffff:169.254.169.254", Reach::LinkLocal),
            ("fe80::1", Reach::LinkLocal),
            ("0.0.0.0", Reach::LinkLocal),
        ] {
            assert_eq!(Reach::of(text.parse().unwrap()), want, "{text}");
        }
    }
}

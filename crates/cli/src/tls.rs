//! Encrypted TCP to a daemon (`--tls`, `--tlsverify`): a thread that pumps between the network and a socket pair,
//! so that everything else sees a plain stream it can read and write from two threads.
//! Owns certificates and the pump; knows no HTTP.

use crate::failure::{Failure, Result};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Certificates to use.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Authority that must have signed the daemon's certificate.
    pub ca: PathBuf,
    /// Own certificate; used if the file exists.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Check who the daemon is.
    pub verify: bool,
}

fn read<T: PemObject>(path: &Path) -> Result<Vec<T>> {
    let bytes = std::fs::read(path).map_err(|e| {
        Failure::new(format!("could not read {}: {e}; check --tlscacert, --tlscert and --tlskey", path.display()))
    })?;
    T::pem_slice_iter(&bytes)
        .collect::<std::result::Result<Vec<T>, _>>()
        .map_err(|e| Failure::new(format!("could not read {}: {e}", path.display())))
}

fn client(config: &Config) -> Result<rustls::ClientConfig> {
    let bad = |e: rustls::Error| Failure::new(format!("could not use the TLS certificates: {e}"));
    if !config.verify {
        return Err(Failure::new(
            "TLS without verification of the daemon is not supported: use --tlsverify with --tlscacert",
        ));
    }
    let mut roots = rustls::RootCertStore::empty();
    for certificate in read::<CertificateDer<'static>>(&config.ca)? {
        roots.add(certificate).map_err(bad)?;
    }
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(bad)?
        .with_root_certificates(roots);
    if !config.cert.exists() {
        return Ok(builder.with_no_client_auth());
    }
    let chain = read::<CertificateDer<'static>>(&config.cert)?;
    let key = read::<PrivateKeyDer<'static>>(&config.key)?
        .into_iter()
        .next()
        .ok_or_else(|| Failure::new(format!("{} holds no private key", config.key.display())))?;
    builder.with_client_auth_cert(chain, key).map_err(bad)
}

/// Wraps a connection. `host` is the name that the daemon's certificate must bear.
///
/// # Errors
/// Unusable certificates. A handshake that fails shows as an error of the first read.
pub fn wrap(tcp: TcpStream, host: &str, config: &Config) -> Result<UnixStream> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| Failure::new(format!("{host} is no name that a certificate can bear")))?;
    let mut session = rustls::ClientConnection::new(Arc::new(client(config)?), name)
        .map_err(|e| Failure::new(format!("could not start TLS with {host}: {e}")))?;
    let mut tcp = tcp;
    while session.is_handshaking() {
        session.complete_io(&mut tcp).map_err(|e| Failure::new(format!("could not set up TLS with {host}: {e}")))?;
    }
    tcp.set_nonblocking(true)?;
    let (near, far) = UnixStream::pair()?;
    far.set_nonblocking(true)?;
    std::thread::Builder::new().name("tls".to_owned()).spawn(move || {
        // The end of the pump closes both sides, which is what the reader sees.
        let _ended = pump(&mut session, &tcp, &far);
    })?;
    Ok(near)
}

fn pump(session: &mut rustls::ClientConnection, mut tcp: &TcpStream, mut far: &UnixStream) -> std::io::Result<()> {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut outgoing = vec![0; 16 << 10];
    let mut incoming: Vec<u8> = Vec::new();
    let (mut local_open, mut peer_open) = (true, true);
    while peer_open || !incoming.is_empty() {
        let mut tcp_wants = PollFlags::empty();
        tcp_wants.set(PollFlags::IN, peer_open && incoming.len() < 1 << 20);
        tcp_wants.set(PollFlags::OUT, session.wants_write());
        let mut far_wants = PollFlags::empty();
        far_wants.set(PollFlags::IN, local_open && !session.wants_write());
        far_wants.set(PollFlags::OUT, !incoming.is_empty());
        let mut fds = [PollFd::new(&tcp, tcp_wants), PollFd::new(&far, far_wants)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let (tcp_is, far_is) = (fds[0].revents(), fds[1].revents());
        if tcp_is.intersects(PollFlags::IN | PollFlags::HUP) && peer_open {
            peer_open = receive(session, &mut tcp, &mut incoming)?;
        }
        if far_is.intersects(PollFlags::IN | PollFlags::HUP) && local_open {
            match far.read(&mut outgoing) {
                Ok(0) => {
                    local_open = false;
                    session.send_close_notify();
                }
                Ok(read) => session.writer().write_all(&outgoing[..read])?,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if session.wants_write() {
            retry(session.write_tls(&mut tcp))?;
        }
        if !incoming.is_empty() {
            let written = retry(far.write(&incoming))?;
            incoming.drain(..written);
        }
        if !peer_open && incoming.is_empty() {
            break;
        }
    }
    Ok(())
}

fn receive(
    session: &mut rustls::ClientConnection,
    tcp: &mut &TcpStream,
    incoming: &mut Vec<u8>,
) -> std::io::Result<bool> {
    let open = match session.read_tls(tcp) {
        Ok(read) => read > 0,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => true,
        Err(error) => return Err(error),
    };
    let state = session.process_new_packets().map_err(std::io::Error::other)?;
    let start = incoming.len();
    incoming.resize(start + state.plaintext_bytes_to_read(), 0);
    session.reader().read_exact(&mut incoming[start..])?;
    Ok(open && !state.peer_has_closed())
}

fn retry(result: std::io::Result<usize>) -> std::io::Result<usize> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(0),
        other => other,
    }
}

//! Where the daemon listens: Unix sockets, TCP with or without TLS, and sockets handed over by a service manager.
//! Owns addresses, socket files and their permissions; must not know HTTP.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tokio::net::{TcpListener, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::server::Server;
use crate::socket::Transport;

/// The socket when no `--host` is given.
pub const DEFAULT_HOST: &str = "unix:///run/brig.sock";

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// A Unix socket at a path.
    Unix(PathBuf),
    /// A TCP address, `host:port`.
    Tcp(String),
    /// Every socket that a service manager handed over.
    Activation,
}

impl Host {
    /// Reads a `--host` value; `tls` decides the default port.
    ///
    /// # Errors
    /// Names the value and what is accepted.
    pub fn parse(text: &str, tls: bool) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
        match scheme {
            "unix" if rest.is_empty() => Ok(Self::Unix(PathBuf::from("/run/brig.sock"))),
            "unix" if rest.starts_with('/') => Ok(Self::Unix(PathBuf::from(rest))),
            "unix" => Err(format!("invalid bind address ({text}): the path of a unix socket must be absolute")),
            "tcp" => tcp_address(text, rest, tls).map(Self::Tcp),
            "fd" if rest.is_empty() || rest == "*" => Ok(Self::Activation),
            _ => Err(format!("invalid bind address ({text}): use unix:///path, tcp://host:port or fd://")),
        }
    }
}

fn tcp_address(text: &str, rest: &str, tls: bool) -> Result<String, String> {
    let invalid = |why: &str| format!("invalid bind address ({text}): {why}");
    let rest = rest.trim_end_matches('/');
    if rest.contains('/') {
        return Err(invalid("should not contain a path element"));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
        _ => (rest, ""),
    };
    let host = if host.is_empty() { "localhost" } else { host };
    let port = match port {
        "" if tls => 2376,
        "" => 2375,
        port => port.parse::<u16>().map_err(|_| invalid("the port is not a number from 0 to 65535"))?,
    };
    Ok(format!("{host}:{port}"))
}

/// A socket that is listened on.
pub struct Listener {
    socket: Bound,
    tls: Option<TlsAcceptor>,
    /// The address, for the log.
    pub name: String,
    /// The socket file to remove at the end.
    file: Option<PathBuf>,
}

enum Bound {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens on an address. An activation address may give several listeners.
    ///
    /// # Errors
    /// Names the address and what is in the way.
    pub async fn bind(host: &Host, group: Option<&str>, tls: Option<&TlsAcceptor>) -> Result<Vec<Self>, String> {
        match host {
            Host::Unix(path) => Ok(vec![Self {
                socket: Bound::Unix(bind_unix(path, group)?),
                tls: None,
                name: path.display().to_string(),
                file: Some(path.clone()),
            }]),
            Host::Tcp(address) => {
                let socket =
                    TcpListener::bind(address).await.map_err(|e| format!("listening on tcp://{address}: {e}"))?;
                let name = socket.local_addr().map_or_else(|_| address.clone(), |a| a.to_string());
                Ok(vec![Self { socket: Bound::Tcp(socket), tls: tls.cloned(), name, file: None }])
            }
            Host::Activation => activated()?.into_iter().map(|fd| Self::adopt(fd, tls)).collect(),
        }
    }

    fn adopt(fd: OwnedFd, tls: Option<&TlsAcceptor>) -> Result<Self, String> {
        let failed = |e: io::Error| format!("taking over a socket from the service manager: {e}");
        let again = fd.try_clone().map_err(failed)?;
        let unix = std::os::unix::net::UnixListener::from(fd);
        if let Ok(address) = unix.local_addr() {
            unix.set_nonblocking(true).map_err(failed)?;
            let name = address.as_pathname().map_or_else(|| "fd://".into(), |path| path.display().to_string());
            let socket = Bound::Unix(UnixListener::from_std(unix).map_err(failed)?);
            return Ok(Self { socket, tls: None, name, file: None });
        }
        let tcp = std::net::TcpListener::from(again);
        let name = tcp.local_addr().map_err(failed)?.to_string();
        tcp.set_nonblocking(true).map_err(failed)?;
        let socket = Bound::Tcp(TcpListener::from_std(tcp).map_err(failed)?);
        Ok(Self { socket, tls: tls.cloned(), name, file: None })
    }

    /// Whether commands travel over it unprotected.
    pub fn is_open_to_the_network(&self) -> bool {
        matches!(self.socket, Bound::Tcp(_)) && self.tls.is_none()
    }

    /// Accepts connections for ever.
    pub async fn run(self, server: Arc<Server>) {
        loop {
            let accepted = match &self.socket {
                Bound::Unix(listener) => listener.accept().await.map(|(stream, _)| Transport::Unix(stream)),
                Bound::Tcp(listener) => listener.accept().await.map(|(stream, _)| Transport::Tcp(stream)),
            };
            match accepted {
                Ok(transport) => {
                    let (server, tls) = (server.clone(), self.tls.clone());
                    tokio::spawn(async move {
                        if let Some(transport) = secure(transport, tls).await {
                            server.serve(transport).await;
                        }
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: let some connections end. Nothing tells when a descriptor is free again.
                    tracing::warn!("accepting a connection on {}: {error}", self.name);
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.file
            && let Err(error) = fs::remove_file(path)
        {
            tracing::debug!("removing {}: {error}", path.display());
        }
    }
}

async fn secure(transport: Transport, tls: Option<TlsAcceptor>) -> Option<Transport> {
    let stream = match (transport, tls) {
        (Transport::Tcp(stream), tls) => {
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!("TCP_NODELAY: {error}");
            }
            match tls {
                None => return Some(Transport::Tcp(stream)),
                Some(tls) => tokio::time::timeout(std::time::Duration::from_secs(10), tls.accept(stream)).await,
            }
        }
        (transport, _) => return Some(transport),
    };
    match stream {
        Ok(Ok(stream)) => Some(Transport::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::warn!("http: TLS handshake error: {error}");
            None
        }
        Err(_) => None,
    }
}

fn bind_unix(path: &Path, group: Option<&str>) -> Result<UnixListener, String> {
    let name = path.display();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(|e| format!("creating the directory of the socket {name}: {e}"))?;
    }
    remove_stale(path)?;
    let listener = UnixListener::bind(path).map_err(|e| format!("listening on unix://{name}: {e}"))?;
    // Until here only root can connect: the umask leaves nobody else the write permission that it takes.
    if let Some(id) = socket_group(group)? {
        chown(path, None, Some(id)).map_err(|e| format!("chown({name}, gid {id}): {e}"))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(|e| format!("chmod({name}, 0660): {e}"))?;
    Ok(listener)
}

/// Removes a socket that nobody answers on.
fn remove_stale(path: &Path) -> Result<(), String> {
    let name = path.display();
    let kind = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("stat({name}): {error}")),
        Ok(metadata) => metadata.file_type(),
    };
    if !kind.is_socket() {
        return Err(format!("{name} exists and is not a socket: remove it, or choose another path with --host"));
    }
    match StdUnixStream::connect(path) {
        Ok(_) => {
            Err(format!("a daemon already answers on unix://{name}: stop it, or choose another socket with --host"))
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|e| format!("removing the stale socket {name}: {e}"))
        }
        Err(error) => Err(format!("asking who listens on {name}: {error}")),
    }
}

/// The group that may use the socket: the one asked for, else `docker`, else `brig`, else nobody but root.
fn socket_group(asked: Option<&str>) -> Result<Option<u32>, String> {
    let groups = fs::read_to_string("/etc/group").unwrap_or_default();
    match asked {
        Some("") => Ok(None),
        Some(name) => find_group(&groups, name)
            .or_else(|| name.parse().ok())
            .map(Some)
            .ok_or_else(|| format!("--group {name}: there is no such group")),
        None => Ok(find_group(&groups, "docker").or_else(|| find_group(&groups, "brig"))),
    }
}

fn find_group(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// The sockets handed over by the service manager (sd_listen_fds(3)).
fn activated() -> Result<Vec<OwnedFd>, String> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<i32>().ok());
    let pid = getpid();
    if variable("LISTEN_PID") != Some(pid.as_raw_nonzero().get()) {
        return Err("fd:// needs sockets from a service manager, and LISTEN_PID does not name this process".into());
    }
    let count = variable("LISTEN_FDS").filter(|count| *count > 0).ok_or("LISTEN_FDS names no sockets")?;
    // Descriptors by number can only be had safely by asking the kernel for duplicates of our own.
    let own = pidfd_open(pid, PidfdFlags::empty()).map_err(|e| format!("pidfd_open(own process): {e}"))?;
    (3..3 + count)
        .map(|fd| {
            pidfd_getfd(&own, fd, PidfdGetfdFlags::empty()).map_err(|e| format!("pidfd_getfd(own process, {fd}): {e}"))
        })
        .collect()
}

/// Makes a directory of the daemon's own, with its parents. One that is there already keeps its mode, but must be root's.
///
/// # Errors
/// Names the directory and what is wrong.
pub fn own_directory(path: &Path, mode: u32) -> Result<(), String> {
    let name = path.display();
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Err(format!("{name} is not a directory: choose another one")),
        Ok(metadata) if metadata.uid() != 0 => {
            Err(format!("{name} belongs to user {}, not to root: choose another directory", metadata.uid()))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(path).map_err(|e| format!("creating {name}: {e}"))?;
            fs::set_permissions(path, fs::Permissions::from_mode(mode))
                .map_err(|e| format!("chmod({name}, {mode:04o}): {e}"))
        }
        Err(error) => Err(format!("stat({name}): {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_dockerd_reads_them() {
        let tcp = |text: &str| Ok(Host::Tcp(text.to_owned()));
        assert_eq!(Host::parse("unix:///a/b", false), Ok(Host::Unix("/a/b".into())));
        assert_eq!(Host::parse("unix://", false), Ok(Host::Unix("/run/brig.sock".into())));
        assert_eq!(Host::parse("tcp://", false), tcp("localhost:2375"));
        assert_eq!(Host::parse("tcp://:1", true), tcp("localhost:1"));
        assert_eq!(Host::parse("tcp://0.0.0.0", true), tcp("0.0.0.0:2376"));
        assert_eq!(Host::parse("tcp://[::1]:5", false), tcp("[::1]:5"));
        assert_eq!(Host::parse("tcp://[::1]", false), tcp("[::1]:2375"));
        assert_eq!(Host::parse("127.0.0.1:9", false), tcp("127.0.0.1:9"));
        assert_eq!(Host::parse("fd://", false), Ok(Host::Activation));
        for bad in ["unix://relative", "npipe://x", "tcp://a:b", "tcp://a:1/path"] {
            assert!(Host::parse(bad, false).unwrap_err().contains(bad), "{bad}");
        }
    }

    #[test]
    fn groups_are_found_by_name() {
        let groups = "root:x:0:\ndocker:x:998:me\nbrig:x:997:\n";
        assert_eq!(find_group(groups, "docker"), Some(998));
        assert_eq!(find_group(groups, "dock"), None);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = bind_unix(&path, Some("")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        assert!(bind_unix(&path, Some("")).unwrap_err().contains("already answers"));
        drop(listener);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "").unwrap();
        assert!(bind_unix(&path, Some("")).unwrap_err().contains("is not a socket"));
    }
}

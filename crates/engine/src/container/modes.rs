//! Which namespaces a container has of its own, shares with another container or with the host. Owns the parsing of
//! `--network`, `--pid`, `--ipc`, `--uts`, `--userns`, `--cgroupns` and what follows for the user namespace; pure.

use brig_api::container::HostConfig;

use crate::error::{Error, Result};

/// Where a namespace comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// The container's own.
    Private,
    /// The host's.
    Host,
    /// That of the container with this name or id.
    Container(String),
}

/// How the network is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkMode {
    /// An own namespace with only a loopback interface.
    None,
    /// The host's.
    Host,
    /// Another container's.
    Container(String),
    /// An own namespace with an interface on the named network.
    Named(String),
}

/// All of a container's choices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Modes {
    /// The network.
    pub network: NetworkMode,
    /// Process ids.
    pub pid: Mode,
    /// System V IPC and message queues.
    pub ipc: Mode,
    /// Host name.
    pub uts: Mode,
    /// Cgroup tree as the container sees it.
    pub cgroup: Mode,
    /// Users: `Host` for everything that is given the host.
    pub user: Mode,
}

impl Modes {
    /// Parses and checks the modes of a container to be.
    pub fn of(host: &HostConfig) -> Result<Self> {
        let network = match host.network_mode.as_str() {
            "" | "default" | "bridge" => NetworkMode::Named("bridge".into()),
            "none" => NetworkMode::None,
            "host" => NetworkMode::Host,
            other => match other.strip_prefix("container:") {
                Some("") => return Err(Error::invalid("invalid container format container:<name|id>")),
                Some(container) => NetworkMode::Container(container.into()),
                None => NetworkMode::Named(other.into()),
            },
        };
        let pid = mode("PID", &host.pid_mode, &["private"])?;
        let ipc = match host.ipc_mode.as_str() {
            "shareable" | "none" => Mode::Private,
            other => mode("IPC", other, &["private"])?,
        };
        let uts = without_container("UTS", &host.uts_mode)?;
        let cgroup = without_container("cgroup namespace", &host.cgroupns_mode)?;
        let user = Self::user(host, &network, &pid, &ipc)?;
        Ok(Self { network, pid, ipc, uts, cgroup, user })
    }

    /// The user namespace: whoever is given a namespace of the host, or all of the host, has the host's users.
    /// Whoever joins another container's namespace has that container's.
    fn user(host: &HostConfig, network: &NetworkMode, pid: &Mode, ipc: &Mode) -> Result<Mode> {
        match host.userns_mode.as_str() {
            "" | "private" | "auto" => {}
            "host" => return Ok(Mode::Host),
            other => {
                return Err(Error::invalid(format!(
                    "invalid user namespace mode {other:?}: use 'host', or leave it out for a range of ids of its own"
                )));
            }
        }
        if host.privileged || *network == NetworkMode::Host || *pid == Mode::Host || *ipc == Mode::Host {
            return Ok(Mode::Host);
        }
        let joined = match (network, pid, ipc) {
            (NetworkMode::Container(other), _, _) => Some(other),
            (_, Mode::Container(other), _) | (_, _, Mode::Container(other)) => Some(other),
            _ => None,
        };
        Ok(joined.map_or(Mode::Private, |other| Mode::Container(other.clone())))
    }

    /// The containers whose namespaces are joined, each once.
    pub fn joined(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        let network = match &self.network {
            NetworkMode::Container(name) => Some(name),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Named(_) => None,
        };
        let others = [&self.pid, &self.ipc].into_iter().filter_map(|mode| match mode {
            Mode::Container(name) => Some(name),
            Mode::Private | Mode::Host => None,
        });
        for name in network.into_iter().chain(others) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }
}

fn mode(what: &str, text: &str, private: &[&str]) -> Result<Mode> {
    match text {
        "" => Ok(Mode::Private),
        "host" => Ok(Mode::Host),
        text if private.contains(&text) => Ok(Mode::Private),
        text => match text.strip_prefix("container:") {
            Some(container) if !container.is_empty() => Ok(Mode::Container(container.into())),
            _ => Err(Error::invalid(format!("invalid {what} mode: {text}"))),
        },
    }
}

fn without_container(what: &str, text: &str) -> Result<Mode> {
    match mode(what, text, &["private"])? {
        Mode::Container(_) => Err(Error::invalid(format!("invalid {what} mode: {text}"))),
        mode => Ok(mode),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(change: impl FnOnce(&mut HostConfig)) -> HostConfig {
        let mut host = HostConfig::default();
        change(&mut host);
        host
    }

    #[test]
    fn by_default_everything_is_its_own() {
        let modes = Modes::of(&HostConfig::default()).unwrap();
        assert_eq!(modes.network, NetworkMode::Named("bridge".into()));
        assert_eq!(
            (modes.pid, modes.ipc, modes.uts, modes.user),
            (Mode::Private, Mode::Private, Mode::Private, Mode::Private)
        );
    }

    #[test]
    fn whoever_gets_the_host_gets_its_users() {
        for with_host in [
            host(|h| h.privileged = true),
            host(|h| h.userns_mode = "host".into()),
            host(|h| h.network_mode = "host".into()),
            host(|h| h.pid_mode = "host".into()),
            host(|h| h.ipc_mode = "host".into()),
        ] {
            assert_eq!(Modes::of(&with_host).unwrap().user, Mode::Host, "{with_host:?}");
        }
    }

    #[test]
    fn whoever_joins_shares_the_range() {
        let modes = Modes::of(&host(|h| h.network_mode = "container:web".into())).unwrap();
        assert_eq!(modes.user, Mode::Container("web".into()));
        assert_eq!(modes.joined(), ["web"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            host(|h| h.pid_mode = "container:".into()),
            host(|h| h.uts_mode = "container:x".into()),
            host(|h| h.userns_mode = "remap".into()),
            host(|h| h.ipc_mode = "x".into()),
            host(|h| h.network_mode = "container:".into()),
        ] {
            assert!(Modes::of(&bad).is_err(), "{bad:?}");
        }
    }
}

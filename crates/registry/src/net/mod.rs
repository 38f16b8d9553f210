//! Owns everything between a URL and a verified-peer byte stream: names, addresses, proxies, TLS, connections, timeouts.
//! It must not know repositories, manifests or credentials of registries.

pub(crate) mod dial;
pub(crate) mod dns;
pub(crate) mod proxy;
pub(crate) mod resolver;
mod sent;
pub(crate) mod tls;
pub(crate) mod transport;
pub(crate) mod url;

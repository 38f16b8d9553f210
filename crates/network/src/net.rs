//! Addresses with a prefix length, protocols, and MAC addresses. Pure data.
//! Must not look at the machine.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, ErrorKind, Result};

/// An address and the length of its network's prefix: `172.17.0.2/16`. The host part is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// Joins an address and a prefix length (at most 32 or 128).
    pub fn new(address: IpAddr, prefix: u8) -> Result<IpNet> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix > longest {
            return Err(Error::new(ErrorKind::Invalid, format!("invalid prefix length /{prefix} for {address}")));
        }
        Ok(IpNet { address, prefix })
    }

    /// The address, host part included.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The length of the network part in bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// The network's own address with the same prefix.
    pub fn network(&self) -> IpNet {
        let address = match self.address {
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask32(self.prefix))),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask128(self.prefix))),
        };
        IpNet { address, prefix: self.prefix }
    }

    /// Whether `address` belongs to this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && IpNet { address, prefix: self.prefix }.network() == self.network()
    }

    /// Whether the two networks share an address.
    pub fn overlaps(&self, other: &IpNet) -> bool {
        let (wide, narrow) = if self.prefix <= other.prefix { (self, other) } else { (other, self) };
        wide.contains(narrow.address)
    }

    /// The last address of an IPv4 network (its broadcast address when shorter than /31).
    pub fn last_v4(&self) -> Option<Ipv4Addr> {
        match self.address {
            IpAddr::V4(v4) => Some(Ipv4Addr::from_bits(v4.to_bits() | !mask32(self.prefix))),
            IpAddr::V6(_) => None,
        }
    }
}

fn mask32(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

fn mask128(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for IpNet {
    type Err = Error;

    fn from_str(text: &str) -> Result<IpNet> {
        let invalid = || Error::new(ErrorKind::Invalid, format!("invalid CIDR address: {text}"));
        let (address, prefix) = text.split_once('/').ok_or_else(invalid)?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(invalid());
        }
        IpNet::new(address.parse().map_err(|_| invalid())?, prefix.parse().map_err(|_| invalid())?)
            .map_err(|_| invalid())
    }
}

impl Serialize for IpNet {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IpNet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<IpNet, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A transport protocol that ports can be published for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, number 6.
    Tcp,
    /// UDP, number 17.
    Udp,
    /// SCTP, number 132.
    Sctp,
}

impl Protocol {
    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Protocol::Tcp => 6,
            Protocol::Udp => 17,
            Protocol::Sctp => 132,
        }
    }

    /// As Docker writes it after the slash.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Protocol {
    type Err = Error;

    fn from_str(text: &str) -> Result<Protocol> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Protocol::Tcp),
            "udp" => Ok(Protocol::Udp),
            "sctp" => Ok(Protocol::Sctp),
            _ => Err(Error::new(ErrorKind::Invalid, format!("invalid proto: {text}"))),
        }
    }
}

/// The MAC address that Docker derives from an IPv4 address: `02:42` and its four bytes. A container that gets
/// an address back gets its MAC back too, so neighbours' caches stay right.
pub fn mac_for(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x42, a, b, c, d]
}

/// `02:42:ac:11:00:02`.
pub fn format_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    #[test]
    fn networks_contain_and_overlap() {
        assert_eq!(net("172.17.5.9/16").network(), net("172.17.0.0/16"));
        assert!(net("172.17.0.0/16").contains("172.17.255.255".parse().expect("address")));
        assert!(!net("172.17.0.0/16").contains("172.18.0.0".parse().expect("address")));
        assert!(net("10.0.0.0/8").overlaps(&net("10.1.2.0/24")));
        assert!(net("10.1.2.0/24").overlaps(&net("10.0.0.0/8")));
        assert!(!net("10.0.0.0/24").overlaps(&net("10.0.1.0/24")));
        assert!(net("0.0.0.0/0").overlaps(&net("10.0.1.0/24")));
        assert!(net("fd00::/8").contains("fd12::1".parse().expect("address")));
        assert!(!net("0.0.0.0/0").overlaps(&net("fd00::/8")));
        assert_eq!(net("172.17.0.1/16").last_v4(), Some(Ipv4Addr::new(172, 17, 255, 255)));
    }

    #[test]
    fn refuses_what_is_not_a_network() {
        for text in ["", "10.0.0.1", "10.0.0.1/33", "10.0.0.1/+8", "10.0.0.1/", "fd00::/129", "a/8", "10.0.0.0/ 8"] {
            assert!(text.parse::<IpNet>().is_err(), "{text}");
        }
    }

    #[test]
    fn macs_follow_the_address() {
        assert_eq!(format_mac(mac_for(Ipv4Addr::new(172, 17, 0, 2))), "02:42:ac:11:00:02");
    }
}

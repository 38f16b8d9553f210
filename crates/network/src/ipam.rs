//! Which addresses are whose: pools, and the choice of a subnet that clashes with nothing.
//! Pure data: what the host uses is passed in; the state can be stored and read back.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::net::IpNet;

/// The addresses of one IPv4 subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The whole subnet.
    pub subnet: IpNet,
    /// The part that addresses are handed out from; `None`: all of it.
    pub range: Option<IpNet>,
    /// Addresses that are taken, the gateway's included.
    pub reserved: BTreeSet<Ipv4Addr>,
}

impl Pool {
    /// A pool over `subnet` (its host part is ignored), handing out from `range` if given.
    pub fn new(subnet: IpNet, range: Option<IpNet>) -> Result<Pool> {
        let subnet = subnet.network();
        if subnet.address().is_ipv6() {
            return Err(Error::new(ErrorKind::Unsupported, format!("subnet {subnet}: pools are IPv4 only")));
        }
        let range = range.map(|range| range.network());
        if let Some(range) = range
            && (range.prefix() < subnet.prefix() || !subnet.contains(range.address()))
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("invalid address range {range}: it is not part of subnet {subnet}"),
            ));
        }
        Ok(Pool { subnet, range, reserved: BTreeSet::new() })
    }

    /// Takes the requested address, or the lowest free one.
    pub fn allocate(&mut self, requested: Option<Ipv4Addr>) -> Result<Ipv4Addr> {
        let (first, last) = usable(self.subnet)?;
        if let Some(address) = requested {
            if !(first..=last).contains(&address.to_bits()) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("Requested address {address} is not usable in subnet {}", self.subnet),
                ));
            }
            if !self.reserved.insert(address) {
                return Err(Error::new(ErrorKind::NoAddress, "Address already in use".to_owned())
                    .during(&format!("requested address {address}")));
            }
            return Ok(address);
        }
        let (low, high) = match self.range {
            None => (first, last),
            Some(range) => {
                let (low, high) = bounds(range)?;
                (low.max(first), high.min(last))
            }
        };
        // Taken addresses are sorted: the first gap is the lowest free address.
        let mut candidate = u64::from(low);
        for taken in self.reserved.range(Ipv4Addr::from_bits(low)..).map(|taken| u64::from(taken.to_bits())) {
            if taken > candidate {
                break;
            }
            candidate = taken + 1;
        }
        match u32::try_from(candidate) {
            Ok(free) if free <= high => {
                let address = Ipv4Addr::from_bits(free);
                self.reserved.insert(address);
                Ok(address)
            }
            _ => Err(Error::new(
                ErrorKind::NoAddress,
                format!(
                    "no available IPv4 addresses on this network's address pool: {}: remove a container or use a larger subnet",
                    self.range.unwrap_or(self.subnet)
                ),
            )),
        }
    }

    /// Gives an address back; that it was free already is fine.
    pub fn release(&mut self, address: Ipv4Addr) {
        self.reserved.remove(&address);
    }

    /// An address of the pool with the subnet's prefix length, as an interface carries it.
    pub fn with_prefix(&self, address: Ipv4Addr) -> IpNet {
        IpNet::new(IpAddr::V4(address), self.subnet.prefix()).expect("an IPv4 subnet's prefix suits IPv4 addresses")
    }
}

fn bounds(net: IpNet) -> Result<(u32, u32)> {
    match (net.network().address(), net.last_v4()) {
        (IpAddr::V4(first), Some(last)) => Ok((first.to_bits(), last.to_bits())),
        _ => Err(Error::new(ErrorKind::Unsupported, format!("{net} is not an IPv4 network"))),
    }
}

/// First and last address that a host can have: not the network's own and not the broadcast address.
fn usable(net: IpNet) -> Result<(u32, u32)> {
    let (first, last) = bounds(net)?;
    Ok(if net.prefix() < 31 { (first + 1, last - 1) } else { (first, last) })
}

/// A network that is in use on the host, and by what, for error texts: `route 10.0.0.0/8 dev eth0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    /// The network.
    pub net: IpNet,
    /// What uses it.
    pub by: String,
}

/// Docker's default address pools: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/20 to 192.168.240.0/20.
pub fn default_pools() -> impl Iterator<Item = IpNet> {
    let net = |a, b, c, prefix| {
        IpNet::new(IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), prefix).expect("a constant of at most 32 bits")
    };
    (17..=31).map(move |b| net(172, b, 0, 16)).chain((0..16).map(move |c| net(192, 168, c * 16, 20)))
}

/// Fails if `subnet` overlaps with anything in `used`, naming it.
pub fn check(subnet: IpNet, used: &[Used]) -> Result<()> {
    match used.iter().find(|used| used.net.overlaps(&subnet)) {
        None => Ok(()),
        Some(clash) => Err(Error::new(
            ErrorKind::NoAddress,
            format!("subnet {subnet} overlaps with {}: choose another with --subnet or --bip", clash.by),
        )),
    }
}

/// The first of the default pools that overlaps with nothing in `used`.
pub fn choose(used: &[Used]) -> Result<IpNet> {
    default_pools().find(|pool| check(*pool, used).is_ok()).ok_or_else(|| {
        let clashes: Vec<String> = default_pools()
            .filter_map(|pool| used.iter().find(|used| used.net.overlaps(&pool)))
            .map(|used| used.by.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .take(4)
            .collect();
        Error::new(
            ErrorKind::NoAddress,
            format!(
                "could not find an available, non-overlapping IPv4 address pool among the defaults: they clash with {}: name a subnet",
                clashes.join(", ")
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("a network")
    }

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().expect("an address")
    }

    #[test]
    fn hands_out_the_lowest_free_address() {
        let mut pool = Pool::new(net("172.17.0.5/16"), None).expect("pool");
        assert_eq!(pool.allocate(None).expect("gateway"), ip("172.17.0.1"));
        assert_eq!(pool.allocate(None).expect("free"), ip("172.17.0.2"));
        assert_eq!(pool.allocate(Some(ip("172.17.0.4"))).expect("free"), ip("172.17.0.4"));
        assert_eq!(pool.allocate(None).expect("free"), ip("172.17.0.3"));
        assert_eq!(pool.allocate(None).expect("free"), ip("172.17.0.5"));
        pool.release(ip("172.17.0.3"));
        assert_eq!(pool.allocate(None).expect("free"), ip("172.17.0.3"));
        assert!(pool.allocate(Some(ip("172.17.0.3"))).expect_err("taken").to_string().contains("already in use"));
        for bad in ["172.17.0.0", "172.17.255.255", "172.18.0.1"] {
            pool.allocate(Some(ip(bad))).expect_err(bad);
        }
    }

    #[test]
    fn a_range_is_respected_and_exhausted() {
        let mut pool = Pool::new(net("10.0.0.0/24"), Some(net("10.0.0.128/30"))).expect("pool");
        let all: Vec<_> = (0..4).map(|_| pool.allocate(None).expect("free")).collect();
        assert_eq!(all, [ip("10.0.0.128"), ip("10.0.0.129"), ip("10.0.0.130"), ip("10.0.0.131")]);
        assert!(pool.allocate(None).expect_err("full").to_string().contains("10.0.0.128/30"));
        pool.allocate(Some(ip("10.0.0.9"))).expect("outside the range, inside the subnet");
        Pool::new(net("10.0.0.0/24"), Some(net("10.0.1.0/28"))).expect_err("not part of it");
        let mut edge = Pool::new(net("255.255.255.252/31"), None).expect("pool");
        edge.allocate(None).expect("free");
        edge.allocate(None).expect("free");
        edge.allocate(None).expect_err("full");
    }

    #[test]
    fn state_can_be_stored() {
        let mut pool = Pool::new(net("10.0.0.0/24"), None).expect("pool");
        pool.allocate(None).expect("free");
        let text = serde_json::to_string(&pool).expect("json");
        assert_eq!(text, r#"{"subnet":"10.0.0.0/24","range":null,"reserved":["10.0.0.1"]}"#);
        assert_eq!(serde_json::from_str::<Pool>(&text).expect("read"), pool);
    }

    #[test]
    fn the_choice_avoids_routes_and_names_them() {
        assert_eq!(choose(&[]).expect("free"), net("172.17.0.0/16"));
        let used = |text: &str| Used { net: net(text), by: format!("route {text} dev tun0") };
        assert_eq!(choose(&[used("172.16.0.0/14")]).expect("free"), net("172.20.0.0/16"));
        assert_eq!(choose(&[used("172.16.0.0/12")]).expect("free"), net("192.168.0.0/20"));
        let error = choose(&[used("172.16.0.0/12"), used("192.168.0.0/16")]).expect_err("full").to_string();
        assert!(error.contains("route 172.16.0.0/12 dev tun0, route 192.168.0.0/16 dev tun0"), "{error}");
        let error = check(net("10.1.0.0/16"), &[used("10.0.0.0/8")]).expect_err("clash").to_string();
        assert!(error.contains("10.1.0.0/16 overlaps with route 10.0.0.0/8 dev tun0"), "{error}");
    }
}

//! The one nftables table: which chains, maps and rules there are, and which elements a bridge and an endpoint
//! put into them. Owns the policy of who may reach whom. Never touches another table, must not make links.
//!
//! Rules are fixed; what changes is elements of sets and maps. A packet costs the same for one published port
//! and for ten thousand, and attaching a container is one small transaction.

use std::collections::BTreeMap;
use std::net::IpAddr;

use brig_sys::netlink::Socket;

use crate::error::Result;
use crate::nft::{self, Element, Field, Hook, Meta, Register, Set, Step, Transaction};
use crate::{Bridge, Endpoint, Port};

const IPV4: u8 = 2;
const IPV6: u8 = 10;
/// RTN_LOCAL, in the machine's byte order as `fib` loads it.
const LOCAL: u32 = 2;
/// Conntrack state bits: established 2, related 4.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// IPS_DST_NAT of the conntrack status.
const TRANSLATED: u32 = 1 << 5;

/// All our bridges.
const BRIDGES: Set = Set { name: "bridges", key: &[Field::Interface], data: &[] };
/// Bridges whose containers have no way out and in.
const INTERNAL: Set = Set { name: "internal", key: &[Field::Interface], data: &[] };
/// Bridges whose containers leave under the host's address.
const MASQUERADED: Set = Set { name: "masqueraded", key: &[Field::Interface], data: &[] };
/// (bridge, same bridge) for every bridge: a packet that leaves where it came in.
const TURNED: Set = Set { name: "turned", key: &[Field::Interface, Field::Interface], data: &[] };
/// The part of `turned` whose containers may talk to each other.
const TALKING: Set = Set { name: "talking", key: &[Field::Interface, Field::Interface], data: &[] };
/// (address, same address) of containers with published ports: a packet to oneself.
const SELF4: Set = Set { name: "self4", key: &[Field::Ipv4, Field::Ipv4], data: &[] };
const SELF6: Set = Set { name: "self6", key: &[Field::Ipv6, Field::Ipv6], data: &[] };
/// Ports published on one host address.
const AT4: Set =
    Set { name: "ports4_at", key: &[Field::Protocol, Field::Ipv4, Field::Port], data: &[Field::Ipv4, Field::Port] };
const AT6: Set =
    Set { name: "ports6_at", key: &[Field::Protocol, Field::Ipv6, Field::Port], data: &[Field::Ipv6, Field::Port] };
/// Ports published on every host address.
const ANY4: Set = Set { name: "ports4_any", key: &[Field::Protocol, Field::Port], data: &[Field::Ipv4, Field::Port] };
const ANY6: Set = Set { name: "ports6_any", key: &[Field::Protocol, Field::Port], data: &[Field::Ipv6, Field::Port] };

const SETS: [Set; 11] = [BRIDGES, INTERNAL, MASQUERADED, TURNED, TALKING, SELF4, SELF6, AT4, AT6, ANY4, ANY6];

/// The chain that decides on packets passing through; its policy remembers [`Firewall::guard`].
const FORWARD: &str = "forward";

/// Elements by set name.
type Elements = BTreeMap<&'static str, Vec<Element>>;

/// Everything the table is made from.
#[derive(Debug, Default, Clone)]
pub(crate) struct State {
    /// By name.
    pub(crate) bridges: BTreeMap<String, Bridge>,
    /// By host interface.
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
}

/// The table in the kernel.
#[derive(Debug)]
pub(crate) struct Firewall {
    socket: Socket,
    table: String,
    /// Whether packets between interfaces that are none of ours are dropped.
    guard: bool,
}

impl Firewall {
    /// Opens the socket; looks whether an earlier run left the guard on.
    pub(crate) fn open(table: &str) -> Result<Firewall> {
        let mut socket = nft::open()?;
        let guard = nft::policy_drops(&mut socket, table, FORWARD)?.unwrap_or(false);
        Ok(Firewall { socket, table: table.to_owned(), guard })
    }

    /// By which the kernel names this socket in events.
    pub(crate) fn port(&self) -> u32 {
        self.socket.port()
    }

    /// From the next [`Firewall::write`] on, drops packets that pass between two interfaces none of which is
    /// ours: forwarding was switched on for containers, it shall not make the machine a router.
    pub(crate) fn guard(&mut self) {
        self.guard = true;
    }

    /// Whether [`Firewall::guard`] is on.
    pub(crate) fn is_guarded(&self) -> bool {
        self.guard
    }

    /// Rewrites the whole table to exactly `state`, in one transaction.
    pub(crate) fn write(&mut self, state: &State) -> Result<()> {
        let mut transaction = Transaction::new(&self.table);
        transaction.reset_table();
        for (index, set) in SETS.iter().enumerate() {
            transaction.set(*set, u32::try_from(index + 1).expect("a handful of sets"));
        }
        chains(&mut transaction, self.guard);
        let mut elements = Elements::new();
        state.bridges.values().for_each(|bridge| of_bridge(bridge, &mut elements));
        state.endpoints.values().for_each(|endpoint| of_endpoint(endpoint, &mut elements));
        for (set, elements) in &elements {
            transaction.add(set, elements);
        }
        Ok(transaction.commit(&mut self.socket)?)
    }

    /// Adds an endpoint that `state` already contains. If the table is not as it should be, writes it anew.
    pub(crate) fn add(&mut self, endpoint: &Endpoint, state: &State) -> Result<()> {
        self.change(endpoint, state, |transaction, set, elements| transaction.add(set, elements))
    }

    /// Removes an endpoint that `state` no longer contains. If the table is not as it should be, writes it anew.
    pub(crate) fn remove(&mut self, endpoint: &Endpoint, state: &State) -> Result<()> {
        self.change(endpoint, state, |transaction, set, elements| transaction.remove(set, elements))
    }

    fn change(
        &mut self,
        endpoint: &Endpoint,
        state: &State,
        apply: impl Fn(&mut Transaction<'_>, &str, &[Element]),
    ) -> Result<()> {
        let mut elements = Elements::new();
        of_endpoint(endpoint, &mut elements);
        if elements.is_empty() {
            return Ok(());
        }
        let mut transaction = Transaction::new(&self.table);
        for (set, elements) in &elements {
            apply(&mut transaction, set, elements);
        }
        match transaction.commit(&mut self.socket) {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::warn!(%error, table = self.table, "the firewall table is not as it was left: writing it anew");
                self.write(state)
            }
        }
    }

    /// Removes the table.
    pub(crate) fn delete(&mut self) -> Result<()> {
        let mut transaction = Transaction::new(&self.table);
        // Adding first makes the deletion succeed whether the table is there or not.
        transaction.reset_table();
        transaction.delete_table();
        transaction.commit(&mut self.socket)?;
        self.guard = false;
        Ok(())
    }
}

const R0: Register = Register(0);
const R1: Register = Register(1);
const R4: Register = Register(4);

fn chains(transaction: &mut Transaction<'_>, guard: bool) {
    let filter = |number, priority| Hook { kind: "filter", number, priority, drop: false };
    let nat = |number, priority| Hook { kind: "nat", number, priority, drop: false };
    transaction.chain("early", Some(filter(0, -300)));
    transaction.chain("prerouting", Some(nat(0, -100)));
    transaction.chain("output", Some(nat(3, -100)));
    transaction.chain("published", None);
    transaction.chain("postrouting", Some(nat(4, 100)));
    transaction.chain(FORWARD, Some(Hook { drop: guard, ..filter(2, 0) }));
    early(transaction);
    published(transaction);
    postrouting(transaction);
    forward(transaction, guard);
}

/// Bridges have `route_localnet`, so that the host reaches ports published on 127.0.0.1. Nobody else may use it.
fn early(transaction: &mut Transaction<'_>) {
    for (offset, comment) in [(16, "loopback addresses from outside"), (12, "loopback sources from outside")] {
        transaction.rule(
            "early",
            comment,
            &[
                Step::Meta(Meta::InputName, R0),
                Step::Differ(R0, nft::interface("lo").to_vec()),
                Step::Meta(Meta::Family, R0),
                Step::Equal(R0, vec![IPV4]),
                Step::Network(offset, 1, R0),
                Step::Equal(R0, vec![127]),
                Step::Drop,
            ],
        );
    }
}

fn published(transaction: &mut Transaction<'_>) {
    let local = [Step::DestinationKind(R0), Step::Equal(R0, LOCAL.to_ne_bytes().to_vec()), Step::Jump("published")];
    transaction.rule("prerouting", "to this host", &local);
    transaction.rule("output", "from this host to itself", &local);

    // ::1 can not be routed to a container: such connections stay with the relay's listener.
    let mut one = vec![0; 15];
    one.push(1);
    let not_loopback = [Step::Network(24, 16, R0), Step::Differ(R0, one)];
    for (family, at, any, offset, width) in [(IPV4, AT4, ANY4, 16, 4), (IPV6, AT6, ANY6, 24, 16)] {
        let start = [Step::Meta(Meta::Family, R0), Step::Equal(R0, vec![family])];
        let guard: &[Step] = if family == IPV6 { &not_loopback } else { &[] };
        let after_address = Register(1 + width / 4);
        // The value overwrites the key: the address at register 0, the port right after it.
        let translate = Step::DestinationNat { family, address: R0, port: Register(width / 4) };
        let exact = [
            Step::Meta(Meta::Protocol, R0),
            Step::Network(offset, width, R1),
            Step::Transport(2, 2, after_address),
            Step::Map(at.name, R0),
            translate.clone(),
        ];
        transaction.rule("published", "ports on one address", &[&start, guard, &exact].concat());
        let wildcard = [Step::Meta(Meta::Protocol, R0), Step::Transport(2, 2, R1), Step::Map(any.name, R0), translate];
        transaction.rule("published", "ports on all addresses", &[&start, guard, &wildcard].concat());
    }
}

fn postrouting(transaction: &mut Transaction<'_>) {
    transaction.rule(
        "postrouting",
        "this host by 127.0.0.1",
        &[
            Step::Meta(Meta::OutputName, R0),
            Step::In(BRIDGES.name, R0),
            Step::Meta(Meta::Family, R0),
            Step::Equal(R0, vec![IPV4]),
            Step::Network(12, 1, R0),
            Step::Equal(R0, vec![127]),
            Step::Masquerade,
        ],
    );
    let translated = [Step::ConnectionStatus(R0), Step::AnyBit(R0, TRANSLATED), Step::Masquerade];
    let turned = [Step::Meta(Meta::InputName, R0), Step::Meta(Meta::OutputName, R4), Step::In(TURNED.name, R0)];
    // Without this the answer would go straight to the asking container, which expects the host's address.
    transaction.rule("postrouting", "back to the same bridge", &[&turned[..], &translated].concat());
    // With br_netfilter the incoming interface is not known here, but only answers to oneself need help.
    let myself4 = [
        Step::Meta(Meta::Family, R0),
        Step::Equal(R0, vec![IPV4]),
        Step::Network(12, 4, R0),
        Step::Network(16, 4, R1),
        Step::In(SELF4.name, R0),
    ];
    transaction.rule("postrouting", "to oneself", &[&myself4[..], &translated].concat());
    let myself6 = [
        Step::Meta(Meta::Family, R0),
        Step::Equal(R0, vec![IPV6]),
        Step::Network(8, 16, R0),
        Step::Network(24, 16, R4),
        Step::In(SELF6.name, R0),
    ];
    transaction.rule("postrouting", "to oneself", &[&myself6[..], &translated].concat());
    transaction.rule(
        "postrouting",
        "to the outside",
        &[
            Step::Meta(Meta::InputName, R0),
            Step::In(MASQUERADED.name, R0),
            Step::Meta(Meta::OutputName, R0),
            Step::NotIn(BRIDGES.name, R0),
            Step::Masquerade,
        ],
    );
}

fn forward(transaction: &mut Transaction<'_>, guard: bool) {
    let from = |set: Set| [Step::Meta(Meta::InputName, R0), Step::In(set.name, R0)];
    let to = |set: Set| [Step::Meta(Meta::OutputName, R0), Step::In(set.name, R0)];
    if !guard {
        transaction.rule(
            FORWARD,
            "none of ours",
            &[
                Step::Meta(Meta::InputName, R0),
                Step::NotIn(BRIDGES.name, R0),
                Step::Meta(Meta::OutputName, R0),
                Step::NotIn(BRIDGES.name, R0),
                Step::Accept,
            ],
        );
    }
    transaction.rule(
        FORWARD,
        "connections that were let in",
        &[Step::ConnectionState(R0), Step::AnyBit(R0, ESTABLISHED_OR_RELATED), Step::Accept],
    );
    transaction.rule(
        FORWARD,
        "container to container",
        &[Step::Meta(Meta::InputName, R0), Step::Meta(Meta::OutputName, R4), Step::In(TALKING.name, R0), Step::Accept],
    );
    transaction.rule(FORWARD, "internal networks have no way out", &[&from(INTERNAL)[..], &[Step::Drop]].concat());
    transaction.rule(FORWARD, "internal networks have no way in", &[&to(INTERNAL)[..], &[Step::Drop]].concat());
    let translated = [Step::ConnectionStatus(R0), Step::AnyBit(R0, TRANSLATED), Step::Accept];
    transaction.rule(FORWARD, "published ports", &[&to(BRIDGES)[..], &translated].concat());
    transaction.rule(FORWARD, "everything else to containers", &[&to(BRIDGES)[..], &[Step::Drop]].concat());
    transaction.rule(FORWARD, "containers to the outside", &[&from(BRIDGES)[..], &[Step::Accept]].concat());
}

fn of_bridge(bridge: &Bridge, elements: &mut Elements) {
    let name = nft::interface(&bridge.name).to_vec();
    let twice = [name.clone(), name.clone()].concat();
    let mut put = |set: Set, key: Vec<u8>| {
        elements.entry(set.name).or_default().push(Element { key, data: Vec::new() });
    };
    put(BRIDGES, name.clone());
    put(TURNED, twice.clone());
    if bridge.icc {
        put(TALKING, twice);
    }
    if bridge.internal {
        put(INTERNAL, name.clone());
    }
    if bridge.masquerade && !bridge.internal {
        put(MASQUERADED, name);
    }
}

fn of_endpoint(endpoint: &Endpoint, elements: &mut Elements) {
    for port in &endpoint.ports {
        let Some(address) = endpoint.address_for(port.host_ip) else {
            continue;
        };
        let (set, element) = of_port(port, address);
        elements.entry(set.name).or_default().push(element);
        let myself = if address.is_ipv4() { SELF4 } else { SELF6 };
        let element = Element { key: [octets(address), octets(address)].concat(), data: Vec::new() };
        let selves = elements.entry(myself.name).or_default();
        if !selves.contains(&element) {
            selves.push(element);
        }
    }
}

fn of_port(port: &Port, address: IpAddr) -> (Set, Element) {
    let mut key = Vec::with_capacity(24);
    nft::append(&mut key, &[port.protocol.number()]);
    let (at, any) = if address.is_ipv4() { (AT4, ANY4) } else { (AT6, ANY6) };
    let set = if port.host_ip.is_unspecified() {
        any
    } else {
        nft::append(&mut key, &octets(port.host_ip));
        at
    };
    nft::append(&mut key, &port.host_port.to_be_bytes());
    let mut data = octets(address);
    nft::append(&mut data, &port.container_port.to_be_bytes());
    (set, Element { key, data })
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Protocol;
    use std::net::Ipv4Addr;
    use std::os::fd::AsFd;
    use std::time::Instant;

    fn endpoint(number: u32, ports: u16) -> Endpoint {
        let address = IpAddr::V4(Ipv4Addr::from_bits(0xac11_0000 + number));
        let port = |n: u16| Port {
            host_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            host_port: u16::try_from(number).expect("a small number") * 100 + n,
            container_port: n,
            protocol: Protocol::Tcp,
        };
        Endpoint {
            id: number.to_string(),
            bridge: "br0".to_owned(),
            host_interface: format!("veth{number}"),
            interface: "eth0".to_owned(),
            mac: [2, 0, 0, 0, 0, 0],
            addresses: vec![crate::IpNet::new(address, 16).expect("a prefix")],
            gateways: Vec::new(),
            ports: (1..=ports).map(port).collect(),
        }
    }

    #[test]
    fn ten_thousand_ports_are_one_transaction_and_one_more_costs_the_same() {
        let netns = brig_sys::netns::create().expect("namespace");
        let (empty, whole, one) = brig_sys::netns::inside(netns.as_fd(), || {
            let mut firewall = Firewall::open("brig").expect("socket");
            let mut state = State::default();
            let more = |firewall: &mut Firewall, state: &State| {
                let extra = endpoint(600, 1);
                let start = Instant::now();
                firewall.add(&extra, state).expect("add");
                let time = start.elapsed();
                firewall.remove(&extra, state).expect("remove");
                time
            };
            firewall.write(&state).expect("write");
            let empty = more(&mut firewall, &state);
            for number in 1..=100 {
                state.endpoints.insert(number.to_string(), endpoint(number, 100));
            }
            let start = Instant::now();
            firewall.write(&state).expect("write");
            (empty, start.elapsed(), more(&mut firewall, &state))
        })
        .expect("inside");
        assert!(one.as_millis() < 20, "adding one port to ten thousand took {one:?}");
        println!("10,000 ports written: {whole:?}; one more: {one:?}, with none before: {empty:?}");
    }
}

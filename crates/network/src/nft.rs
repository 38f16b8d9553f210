//! nftables over netlink: tables, chains, sets, maps, their elements, rules, and the transaction around them.
//! Owns the encoding. Must not know which rules this project has: that is `firewall`.
//!
//! Attribute and expression numbers: linux/include/uapi/linux/netfilter/nf_tables.h.

use brig_sys::netlink::{APPEND, Answer, CREATE, Family, Message, Socket};

/// NFNLGRP_NFTABLES: the multicast group that tells of every change.
pub const EVENTS: u32 = 7;

const SUBSYSTEM: u16 = 10 << 8;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const NEWTABLE: u16 = SUBSYSTEM;
const DELTABLE: u16 = SUBSYSTEM | 2;
const NEWCHAIN: u16 = SUBSYSTEM | 3;
const GETCHAIN: u16 = SUBSYSTEM | 4;
const NEWRULE: u16 = SUBSYSTEM | 6;
const NEWSET: u16 = SUBSYSTEM | 9;
const NEWELEMENT: u16 = SUBSYSTEM | 12;
const DELELEMENT: u16 = SUBSYSTEM | 14;
const NEWGENERATION: u16 = SUBSYSTEM | 15;
/// NFPROTO_INET: IPv4 and IPv6 in one table.
const INET: u8 = 1;
/// Bytes of the family header (struct nfgenmsg).
const HEADER: usize = 4;
/// An element takes at most about 140 bytes and a list at most 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 256;

/// The type of one field of a set's key or a map's value: what `nft list` prints it as, and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// An IP protocol number.
    Protocol,
    /// An IPv4 address.
    Ipv4,
    /// An IPv6 address.
    Ipv6,
    /// A port.
    Port,
    /// An interface's name, NUL-padded.
    Interface,
}

impl Field {
    fn number(self) -> u32 {
        match self {
            Field::Ipv4 => 7,
            Field::Ipv6 => 8,
            Field::Protocol => 12,
            Field::Port => 13,
            Field::Interface => 41,
        }
    }

    fn width(self) -> u32 {
        match self {
            Field::Protocol | Field::Port | Field::Ipv4 => 4,
            Field::Ipv6 | Field::Interface => 16,
        }
    }
}

/// A set, or with `data` a map.
#[derive(Debug, Clone, Copy)]
pub struct Set {
    /// Its name in the table.
    pub name: &'static str,
    /// The fields of the key, concatenated.
    pub key: &'static [Field],
    /// The fields of the value, concatenated; none for a plain set.
    pub data: &'static [Field],
}

/// One element: key, and value in a map. Each field is padded to four bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Element {
    /// The concatenated key.
    pub key: Vec<u8>,
    /// The concatenated value; empty in a plain set.
    pub data: Vec<u8>,
}

/// Appends one field to a concatenation: padded to a multiple of four bytes.
pub fn append(bytes: &mut Vec<u8>, field: &[u8]) {
    bytes.extend_from_slice(field);
    while !bytes.len().is_multiple_of(4) {
        bytes.push(0);
    }
}

/// An interface's name as the kernel compares it: sixteen bytes, NUL-padded.
pub fn interface(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    let length = name.len().min(15);
    bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
    bytes
}

/// A register: 0 to 15, each of 32 bits (NFT_REG32_00 and on).
#[derive(Debug, Clone, Copy)]
pub struct Register(pub u32);

impl Register {
    fn number(self) -> u32 {
        8 + self.0
    }
}

/// What `meta` loads.
#[derive(Debug, Clone, Copy)]
pub enum Meta {
    /// Name of the interface it came in by (empty if it was made here).
    InputName = 6,
    /// Name of the interface it leaves by.
    OutputName = 7,
    /// NFPROTO_IPV4 or NFPROTO_IPV6.
    Family = 15,
    /// The transport protocol's number.
    Protocol = 16,
}

/// One step of a rule.
#[derive(Debug, Clone)]
pub enum Step {
    /// Loads packet metadata.
    Meta(Meta, Register),
    /// Loads `length` bytes at `offset` of the network header.
    Network(u32, u32, Register),
    /// Loads `length` bytes at `offset` of the transport header.
    Transport(u32, u32, Register),
    /// Loads the kind of address that the destination is (local, unicast, …).
    DestinationKind(Register),
    /// Loads the conntrack state bits.
    ConnectionState(Register),
    /// Loads the conntrack status bits.
    ConnectionStatus(Register),
    /// Goes on if the register's bytes equal these.
    Equal(Register, Vec<u8>),
    /// Goes on if they differ.
    Differ(Register, Vec<u8>),
    /// Goes on if one of these bits is set in a 32-bit register.
    AnyBit(Register, u32),
    /// Goes on if the register's bytes are in the set.
    In(&'static str, Register),
    /// Goes on if they are not.
    NotIn(&'static str, Register),
    /// Goes on if they are in the map, with its value loaded where the key was.
    Map(&'static str, Register),
    /// Translates the destination to the address and port in these registers. `family`: NFPROTO_IPV4 or 6.
    DestinationNat {
        /// NFPROTO_IPV4 or NFPROTO_IPV6.
        family: u8,
        /// Register of the address.
        address: Register,
        /// Register of the port.
        port: Register,
    },
    /// Translates the source to the address of the outgoing interface.
    Masquerade,
    /// Ends the hook's work in this table: let it pass.
    Accept,
    /// Ends the packet.
    Drop,
    /// Goes on in another chain, then comes back.
    Jump(&'static str),
}

const ACCEPT: u32 = 1;
const DROP: u32 = 0;
const JUMP: i32 = -3;

fn verdict(list: &mut Message, code: u32, chain: Option<&str>) {
    expression(list, "immediate", |data| {
        data.be32(1, 0).nest(2, |value| {
            value.nest(2, |verdict| {
                verdict.be32(1, code);
                if let Some(chain) = chain {
                    verdict.text(2, chain);
                }
            });
        });
    });
}

fn expression(list: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    list.nest(1, |element| {
        element.text(1, name).nest(2, fill);
    });
}

fn compare(list: &mut Message, register: Register, operator: u32, bytes: &[u8]) {
    expression(list, "cmp", |data| {
        data.be32(1, register.number()).be32(2, operator).nest(3, |value| {
            value.attr(1, bytes);
        });
    });
}

fn lookup(list: &mut Message, set: &str, register: Register, into: Option<Register>, inverted: bool) {
    expression(list, "lookup", |data| {
        data.text(1, set).be32(2, register.number());
        if let Some(into) = into {
            data.be32(3, into.number());
        }
        if inverted {
            data.be32(5, 1);
        }
    });
}

fn load(list: &mut Message, name: &str, pairs: &[(u16, u32)]) {
    expression(list, name, |data| {
        for (kind, value) in pairs {
            data.be32(*kind, *value);
        }
    });
}

impl Step {
    fn encode(&self, list: &mut Message) {
        match self {
            Step::Meta(key, to) => load(list, "meta", &[(1, to.number()), (2, *key as u32)]),
            Step::Network(offset, length, to) => {
                load(list, "payload", &[(1, to.number()), (2, 1), (3, *offset), (4, *length)]);
            }
            Step::Transport(offset, length, to) => {
                load(list, "payload", &[(1, to.number()), (2, 2), (3, *offset), (4, *length)]);
            }
            // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_DADDR.
            Step::DestinationKind(to) => load(list, "fib", &[(1, to.number()), (2, 3), (3, 2)]),
            Step::ConnectionState(to) => load(list, "ct", &[(1, to.number()), (2, 0)]),
            Step::ConnectionStatus(to) => load(list, "ct", &[(1, to.number()), (2, 2)]),
            Step::Equal(register, bytes) => compare(list, *register, 0, bytes),
            Step::Differ(register, bytes) => compare(list, *register, 1, bytes),
            Step::AnyBit(register, bits) => {
                expression(list, "bitwise", |data| {
                    data.be32(1, register.number()).be32(2, register.number()).be32(3, 4);
                    data.nest(4, |mask| {
                        mask.attr(1, &bits.to_ne_bytes());
                    });
                    data.nest(5, |xor| {
                        xor.attr(1, &[0; 4]);
                    });
                });
                compare(list, *register, 1, &[0; 4]);
            }
            Step::In(set, register) => lookup(list, set, *register, None, false),
            Step::NotIn(set, register) => lookup(list, set, *register, None, true),
            Step::Map(map, register) => lookup(list, map, *register, Some(*register), false),
            Step::DestinationNat { family, address, port } => {
                let pairs = [(1, 1), (2, u32::from(*family)), (3, address.number()), (5, port.number())];
                load(list, "nat", &pairs);
            }
            Step::Masquerade => expression(list, "masq", |_| {}),
            Step::Accept => verdict(list, ACCEPT, None),
            Step::Drop => verdict(list, DROP, None),
            Step::Jump(chain) => verdict(list, JUMP.cast_unsigned(), Some(chain)),
        }
    }
}

/// Where in the packet's way a base chain stands.
#[derive(Debug, Clone, Copy)]
pub struct Hook {
    /// `filter` or `nat`.
    pub kind: &'static str,
    /// NF_INET_PRE_ROUTING 0, LOCAL_IN 1, FORWARD 2, LOCAL_OUT 3, POST_ROUTING 4.
    pub number: u32,
    /// Lower runs earlier.
    pub priority: i32,
    /// Whether a packet that no rule decided on is dropped.
    pub drop: bool,
}

/// A transaction on one table: everything or nothing.
#[derive(Debug)]
pub struct Transaction<'a> {
    table: &'a str,
    messages: Vec<Message>,
}

impl<'a> Transaction<'a> {
    /// An empty transaction on the inet table `table`.
    pub fn new(table: &'a str) -> Transaction<'a> {
        Transaction { table, messages: Vec::new() }
    }

    fn message(&mut self, kind: u16, flags: u16, what: String) -> &mut Message {
        let mut message = Message::new(kind, flags, what);
        message.raw(&[INET, 0, 0, 0]).text(1, self.table);
        self.messages.push(message);
        self.messages.last_mut().expect("just pushed")
    }

    /// Makes the table empty, whether it exists or not.
    pub fn reset_table(&mut self) {
        for (kind, flags, verb) in [(NEWTABLE, CREATE, "add"), (DELTABLE, 0, "delete"), (NEWTABLE, CREATE, "add")] {
            let what = format!("nftables {verb} table inet {}", self.table);
            let message = self.message(kind, flags, what);
            if kind == NEWTABLE {
                message.be32(2, 0);
            }
        }
    }

    /// Removes the table with all that is in it.
    pub fn delete_table(&mut self) {
        let what = format!("nftables delete table inet {}", self.table);
        self.message(DELTABLE, 0, what);
    }

    /// Adds a chain; with a hook, a base chain.
    pub fn chain(&mut self, name: &str, hook: Option<Hook>) {
        let what = format!("nftables add chain inet {} {name}", self.table);
        let message = self.message(NEWCHAIN, CREATE, what);
        message.text(3, name);
        if let Some(hook) = hook {
            message.nest(4, |nest| {
                nest.be32(1, hook.number).be32(2, hook.priority.cast_unsigned());
            });
            message.be32(5, if hook.drop { DROP } else { ACCEPT }).text(7, hook.kind);
        }
    }

    /// Adds a rule to the end of a chain, with a comment that `nft list` shows.
    pub fn rule(&mut self, chain: &str, comment: &str, steps: &[Step]) {
        let what = format!("nftables add rule inet {} {chain} ({comment})", self.table);
        let message = self.message(NEWRULE, CREATE | APPEND, what);
        message.text(2, chain).nest(4, |list| steps.iter().for_each(|step| step.encode(list)));
        // libnftnl's user data: type 0 (comment), length, NUL-terminated text.
        let mut data = vec![0, u8::try_from(comment.len() + 1).expect("comments are short")];
        data.extend_from_slice(comment.as_bytes());
        data.push(0);
        message.attr(7, &data);
    }

    /// Adds a set or map. `id` must be unique in the transaction.
    pub fn set(&mut self, set: Set, id: u32) {
        const MAP: u32 = 8;
        let kind = |fields: &[Field]| fields.iter().fold(0, |kind, field| kind << 6 | field.number());
        let width = |fields: &[Field]| fields.iter().map(|field| field.width()).sum();
        let what = format!("nftables add set inet {} {}", self.table, set.name);
        let message = self.message(NEWSET, CREATE, what);
        message.text(2, set.name).be32(3, if set.data.is_empty() { 0 } else { MAP });
        message.be32(4, kind(set.key)).be32(5, width(set.key));
        if !set.data.is_empty() {
            message.be32(6, kind(set.data)).be32(7, width(set.data));
        }
        message.be32(10, id);
        if set.key == [Field::Interface] {
            // libnftnl's user data: type 0 (byte order of the key), length 4, host order.
            message.attr(13, &[0, 4, 1, 0, 0, 0]);
        }
    }

    /// Adds elements to a set or map.
    pub fn add(&mut self, set: &str, elements: &[Element]) {
        self.elements(NEWELEMENT, CREATE, "add", set, elements);
    }

    /// Removes elements from a set or map.
    pub fn remove(&mut self, set: &str, elements: &[Element]) {
        self.elements(DELELEMENT, 0, "delete", set, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, verb: &str, set: &str, elements: &[Element]) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let what = format!("nftables {verb} element inet {} {set}", self.table);
            self.message(kind, flags, what).text(2, set).nest(3, |list| {
                for element in chunk {
                    list.nest(1, |item| {
                        item.nest(1, |key| {
                            key.attr(1, &element.key);
                        });
                        if !element.data.is_empty() {
                            item.nest(2, |data| {
                                data.attr(1, &element.data);
                            });
                        }
                    });
                }
            });
        }
    }

    /// Carries it out.
    pub fn commit(self, socket: &mut Socket) -> brig_sys::Result<()> {
        let marker = |kind, what: &str| {
            let mut message = Message::new(kind, 0, what);
            // struct nfgenmsg: family unspecified, version 0, resource id = the subsystem, big endian.
            message.raw(&[0, 0, 0, 10]);
            message
        };
        let end = marker(BATCH_END, "nftables commit");
        socket.execute_batch(marker(BATCH_BEGIN, "nftables begin"), self.messages, end)
    }
}

/// Opens a socket for [`Transaction::commit`] in the calling thread's network namespace.
pub fn open() -> brig_sys::Result<Socket> {
    Socket::open(Family::Netfilter)
}

/// Whether the base chain `chain` of `table` exists, and if so whether its policy is to drop.
pub fn policy_drops(socket: &mut Socket, table: &str, chain: &str) -> brig_sys::Result<Option<bool>> {
    let mut message = Message::new(GETCHAIN, 0, format!("nftables get chain inet {table} {chain}"));
    message.raw(&[INET, 0, 0, 0]).text(1, table).text(3, chain);
    let mut drops = None;
    let found = socket.ask(message, |answer| {
        let policy: Option<[u8; 4]> = answer.attributes(HEADER).find(5).and_then(|bytes| bytes.try_into().ok());
        drops = policy.map(|bytes| u32::from_be_bytes(bytes) == DROP);
    });
    match found {
        Err(error) if error.errno == rustix::io::Errno::NOENT => Ok(None),
        found => found.map(|()| drops),
    }
}

/// What an event means for one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Something in the table changed.
    Changed,
    /// A transaction is complete.
    Committed,
    /// Another table's business.
    Other,
}

/// Reads one message of the [`EVENTS`] group.
pub fn event(answer: &Answer<'_>, table: &str) -> Event {
    if answer.kind == NEWGENERATION {
        Event::Committed
    } else if answer.kind & 0xff00 == SUBSYSTEM
        && answer.body.first() == Some(&INET)
        && answer.attributes(HEADER).text(1) == Some(table)
    {
        // In every nftables message but the generation's, attribute 1 is the table's name.
        Event::Changed
    } else {
        Event::Other
    }
}

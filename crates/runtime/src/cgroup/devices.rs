//! Owns what the ordered device rules of a specification come to: one default and the exceptions to it.
//! It must not write files or load programs.

use std::collections::BTreeMap;

use brig_oci::runtime::DeviceCgroup;

use super::error::{Error, Result};

/// May create a node.
pub(super) const MKNOD: u8 = 1;
/// May read.
pub(super) const READ: u8 = 2;
/// May write.
pub(super) const WRITE: u8 = 4;
const ALL: u8 = MKNOD | READ | WRITE;

/// Which devices an exception is about; `None` is any number. Characters before blocks only by the derived order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Devices {
    pub(super) block: bool,
    pub(super) major: Option<u32>,
    pub(super) minor: Option<u32>,
}

/// What a container may do with devices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Policy {
    /// Everything is allowed but the exceptions; else nothing but them.
    pub(super) allow: bool,
    /// `MKNOD | READ | WRITE` bits that are the other way round.
    pub(super) exceptions: BTreeMap<Devices, u8>,
}

impl Policy {
    /// Applies rules in order; nothing is allowed before the first. At the end come [`runtime_rules`].
    pub(super) fn new(rules: &[DeviceCgroup]) -> Result<Policy> {
        let mut policy = Policy::default();
        for rule in rules.iter().chain(&runtime_rules()) {
            policy.apply(rule)?;
        }
        Ok(policy)
    }

    fn apply(&mut self, rule: &DeviceCgroup) -> Result<()> {
        let access = access(rule)?;
        let (major, minor) = (number(rule.major, rule)?, number(rule.minor, rule)?);
        let blocks: &[bool] = match rule.type_.as_str() {
            "a" | "" if major.is_none() && minor.is_none() && access == ALL => {
                *self = Policy { allow: rule.allow, exceptions: BTreeMap::new() };
                return Ok(());
            }
            "a" | "" => &[false, true],
            "c" | "u" => &[false],
            "b" => &[true],
            other => {
                return Err(Error::invalid(format!("device rule type {other:?}: expected a, c or b")));
            }
        };
        for block in blocks {
            let devices = Devices { block: *block, major, minor };
            if rule.allow == self.allow {
                self.withdraw(devices, access, rule)?;
            } else {
                *self.exceptions.entry(devices).or_default() |= access;
            }
        }
        Ok(())
    }

    /// Takes back earlier exceptions, which must be covered whole: neither kernel interface knows holes in wildcards.
    fn withdraw(&mut self, devices: Devices, access: u8, rule: &DeviceCgroup) -> Result<()> {
        for (known, bits) in &mut self.exceptions {
            let covers =
                known.block == devices.block && wider(devices.major, known.major) && wider(devices.minor, known.minor);
            let partly = known.block == devices.block
                && overlap(devices.major, known.major)
                && overlap(devices.minor, known.minor);
            if covers {
                *bits &= !access;
            } else if partly && *bits & access != 0 {
                return Err(Error::invalid(format!(
                    "device rule {} makes a hole in an earlier, wider rule: write the single devices instead",
                    text(rule)
                )));
            }
        }
        self.exceptions.retain(|_, bits| *bits != 0);
        Ok(())
    }

    /// Whether an access is allowed: the meaning that both kernel interfaces must have.
    #[cfg(test)]
    pub(super) fn allows(&self, block: bool, major: u32, minor: u32, access: u8) -> bool {
        let matching = self.exceptions.iter().filter(|(devices, _)| {
            devices.block == block
                && devices.major.is_none_or(|own| own == major)
                && devices.minor.is_none_or(|own| own == minor)
        });
        if self.allow {
            !matching.into_iter().any(|(_, bits)| bits & access != 0)
        } else {
            matching.into_iter().any(|(_, bits)| access & !bits == 0)
        }
    }
}

fn wider(outer: Option<u32>, inner: Option<u32>) -> bool {
    outer.is_none() || outer == inner
}

fn overlap(one: Option<u32>, other: Option<u32>) -> bool {
    one.is_none() || other.is_none() || one == other
}

fn access(rule: &DeviceCgroup) -> Result<u8> {
    if rule.access.is_empty() {
        return Ok(ALL);
    }
    // Other letters give and take nothing; every runtime passes over them.
    let bits = rule.access.chars().fold(0, |bits, letter| match letter {
        'r' => bits | READ,
        'w' => bits | WRITE,
        'm' => bits | MKNOD,
        _ => bits,
    });
    if bits == 0 {
        return Err(Error::invalid(format!("device access {:?}: none of r, w, m", rule.access)));
    }
    Ok(bits)
}

fn number(value: Option<i64>, rule: &DeviceCgroup) -> Result<Option<u32>> {
    match value {
        None | Some(-1) => Ok(None),
        Some(value) => u32::try_from(value)
            .map(Some)
            .map_err(|_| Error::invalid(format!("device number {value} of rule {} is out of range", text(rule)))),
    }
}

fn text(rule: &DeviceCgroup) -> String {
    let number = |value: Option<i64>| {
        value.filter(|value| *value != -1).map_or_else(|| "*".to_owned(), |value| value.to_string())
    };
    let verb = if rule.allow { "allow" } else { "deny" };
    let type_ = if rule.type_.is_empty() { "a" } else { &rule.type_ };
    format!("{verb} {type_} {}:{} {}", number(rule.major), number(rule.minor), rule.access)
}

/// The form that `devices.allow`, `devices.deny` and `devices.list` use.
pub(super) fn v1_text(devices: Devices, bits: u8) -> String {
    let number = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |value| value.to_string());
    let mut access = String::new();
    for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
        if bits & bit != 0 {
            access.push(letter);
        }
    }
    format!("{} {}:{} {access}", if devices.block { 'b' } else { 'c' }, number(devices.major), number(devices.minor))
}

/// What every container needs for its `/dev`, whatever the specification says (the specification's default devices, the
/// console and pseudo terminals), and making nodes, which by itself gives no access. The list is runc's.
#[must_use]
pub fn runtime_rules() -> Vec<DeviceCgroup> {
    let rule = |type_: &str, major: Option<i64>, minor: Option<i64>, access: &str| DeviceCgroup {
        allow: true,
        type_: type_.to_owned(),
        major,
        minor,
        access: access.to_owned(),
    };
    let mut rules = vec![rule("c", None, None, "m"), rule("b", None, None, "m")];
    // null, zero, full, random, urandom; tty, console, ptmx
    let nodes = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2)];
    rules.extend(nodes.map(|(major, minor)| rule("c", Some(major), Some(minor), "rwm")));
    rules.push(rule("c", Some(136), None, "rwm"));
    rules
}

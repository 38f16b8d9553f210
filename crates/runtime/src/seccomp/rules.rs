//! Owns what a profile means on one architecture: for each call number the conditions and what follows from them.
//! Names, operators and actions are checked here. It must not know BPF.

use std::collections::BTreeMap;

use brig_oci::runtime::{Seccomp, SeccompArg, SeccompRule};

use super::{Arch, Error};

/// The value a filter returns (`SECCOMP_RET_…` with its data).
pub(super) type Verdict = u32;

pub(super) const KILL_PROCESS: Verdict = 0x8000_0000;
const KILL_THREAD: Verdict = 0;
const TRAP: Verdict = 0x0003_0000;
const ERRNO: Verdict = 0x0005_0000;
pub(super) const NOTIFY: Verdict = 0x7fc0_0000;
const TRACE: Verdict = 0x7ff0_0000;
const LOG: Verdict = 0x7ffc_0000;
const ALLOW: Verdict = 0x7fff_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
/// Largest error number that a call can return; the kernel would cut larger ones to it.
const MAX_ERRNO: u32 = 4095;
/// Numbers at and above belong to Arm alone and say nothing about how new a call is.
const PRIVATE_BASE: u32 = 0x000f_0000;
/// Set in the number of every x32 call.
const X32_BIT: u32 = 0x4000_0000;
/// More conditional rules than this cannot fit into a filter.
const MAX_CONDITIONAL: usize = super::MAX_INSTRUCTIONS;

/// How to compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compare {
    Ne,
    Lt,
    Le,
    Eq,
    Ge,
    Gt,
    /// `argument & mask == value`.
    Masked(u64),
}

/// One comparison of one 64-bit argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) index: u32,
    pub(super) compare: Compare,
    pub(super) value: u64,
    /// The argument has a high half that is not known to be zero.
    pub(super) wide: bool,
}

/// What happens to a call: the first check whose conditions all hold decides, else `otherwise`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) checks: Vec<(Vec<Condition>, Verdict)>,
    pub(super) otherwise: Verdict,
}

impl Decision {
    fn always(verdict: Verdict) -> Decision {
        Decision { checks: Vec::new(), otherwise: verdict }
    }
}

/// A checked rule, not yet bound to an architecture.
struct Rule<'a> {
    names: &'a [String],
    verdict: Verdict,
    /// Alternatives, each a list of which all must hold; empty means unconditional.
    alternatives: Vec<Vec<Condition>>,
}

/// A checked profile.
pub(super) struct Policy<'a> {
    default: Verdict,
    rules: Vec<Rule<'a>>,
}

impl<'a> Policy<'a> {
    /// Checks every word of the profile.
    pub(super) fn new(profile: &'a Seccomp) -> Result<Policy<'a>, Error> {
        let default = verdict(&profile.default_action, profile.default_errno_ret, "defaultAction")?;
        if default == NOTIFY {
            return Err(Error::new(
                "SCMP_ACT_NOTIFY cannot be used as default action: the listener could not be handed over",
            ));
        }
        let mut rules = Vec::with_capacity(profile.syscalls.len());
        for (number, rule) in profile.syscalls.iter().enumerate() {
            rules.push(check_rule(rule).map_err(|error| {
                error.within(&format!("rule {number} ({})", rule.names.first().map_or("", String::as_str)))
            })?);
        }
        let policy = Policy { default, rules };
        let unheard = profile.listener_path.as_ref().is_none_or(|path| path.as_os_str().is_empty());
        if policy.notifies() && unheard {
            return Err(Error::new("SCMP_ACT_NOTIFY needs a listenerPath"));
        }
        Ok(policy)
    }

    /// Whether a listener is needed.
    pub(super) fn notifies(&self) -> bool {
        self.rules.iter().any(|rule| rule.verdict == NOTIFY)
    }

    /// The decisions of one architecture: each holds from its number up to the next entry's. The first begins at 0 and
    /// neighbours differ.
    pub(super) fn ranges(&self, arch: Arch) -> Result<Vec<(u32, Decision)>, Error> {
        let calls = self.calls(arch)?;
        let newest = calls.keys().copied().filter(|number| *number < PRIVATE_BASE).max();
        let beyond = self.beyond_known(newest);
        let mut ranges = Ranges::default();
        ranges.add(0, Decision::always(self.default));
        let mut next = 0;
        let mut after = self.default;
        for (number, decision) in calls {
            if number > next {
                ranges.add(next, Decision::always(after));
            }
            ranges.add(number, decision);
            next = number + 1;
            after = if newest.is_some_and(|newest| next > newest) { beyond } else { self.default };
        }
        ranges.add(next, Decision::always(after));
        if arch == Arch::X86_64 {
            // x32 calls have numbers of their own and would slip past rules for the 64-bit ones.
            ranges.add(X32_BIT, Decision::always(ERRNO | ENOSYS));
        }
        Ok(ranges.list)
    }

    /// The verdict on calls newer than any that the profile names. The profile's author cannot have meant to forbid them;
    /// programs try them and fall back on ENOSYS only, not on EPERM (glibc: clone3, statx, faccessat2).
    fn beyond_known(&self, newest: Option<u32>) -> Verdict {
        let permissive = matches!(self.default & 0xffff_0000, ALLOW | LOG | TRACE);
        if permissive || newest.is_none() { self.default } else { ERRNO | ENOSYS }
    }

    fn calls(&self, arch: Arch) -> Result<BTreeMap<u32, Decision>, Error> {
        let mut bound: BTreeMap<u32, Vec<(&[Condition], Verdict)>> = BTreeMap::new();
        let mut conditional = 0;
        for rule in &self.rules {
            // A name that this architecture does not have cannot be called there.
            for number in rule.names.iter().filter_map(|name| arch.number(name)) {
                let entries = bound.entry(number).or_default();
                if rule.alternatives.is_empty() {
                    entries.push((&[], rule.verdict));
                }
                conditional += rule.alternatives.len();
                entries.extend(rule.alternatives.iter().map(|conditions| (conditions.as_slice(), rule.verdict)));
            }
        }
        if conditional > MAX_CONDITIONAL {
            return Err(Error::new(format!(
                "{conditional} rules with arguments are more than a filter can hold ({MAX_CONDITIONAL})"
            )));
        }
        Ok(bound.into_iter().map(|(number, entries)| (number, self.decide(arch, &entries))).collect())
    }

    /// Entries for one call are alternatives. Where they contradict each other, one with conditions beats one without (it
    /// is an exception to it), and among equals the strictest wins, in the order the kernel uses between filters.
    fn decide(&self, arch: Arch, entries: &[(&[Condition], Verdict)]) -> Decision {
        let otherwise = entries
            .iter()
            .filter(|entry| entry.0.is_empty())
            .map(|entry| entry.1)
            .min_by_key(|verdict| strictness(*verdict))
            .unwrap_or(self.default);
        let mut checks: Vec<(Vec<Condition>, Verdict)> = Vec::new();
        let mut sorted: Vec<_> = entries.iter().filter(|entry| !entry.0.is_empty()).collect();
        sorted.sort_by_key(|entry| strictness(entry.1));
        for (conditions, verdict) in sorted {
            let check = (conditions.iter().map(|condition| condition.on(arch)).collect(), *verdict);
            if !checks.contains(&check) {
                checks.push(check);
            }
        }
        while checks.last().is_some_and(|check| check.1 == otherwise) {
            checks.pop();
        }
        Decision { checks, otherwise }
    }
}

/// Smaller is stricter: the kernel's own signed comparison of the action part.
fn strictness(verdict: Verdict) -> i32 {
    (verdict & 0xffff_0000).cast_signed()
}

/// Collects ranges, joining equal neighbours and letting a later one at the same number replace the earlier.
#[derive(Default)]
struct Ranges {
    list: Vec<(u32, Decision)>,
}

impl Ranges {
    fn add(&mut self, start: u32, decision: Decision) {
        if self.list.last().is_some_and(|last| last.0 == start) {
            self.list.pop();
        }
        if self.list.last().is_none_or(|last| last.1 != decision) {
            self.list.push((start, decision));
        }
    }
}

impl Condition {
    /// Arguments of 32-bit programs have 32 bits: equality is about those (so that -1 means -1), order about the number
    /// with zeros in front.
    fn on(self, arch: Arch) -> Condition {
        const LOW: u64 = 0xffff_ffff;
        if !arch.is_32_bit() {
            return self;
        }
        let short = Condition { wide: false, ..self };
        match self.compare {
            Compare::Eq | Compare::Ne => Condition { value: self.value & LOW, ..short },
            Compare::Masked(mask) => {
                Condition { compare: Compare::Masked(mask & LOW), value: self.value & LOW, ..short }
            }
            Compare::Lt | Compare::Le | Compare::Ge | Compare::Gt => short,
        }
    }
}

fn check_rule(rule: &SeccompRule) -> Result<Rule<'_>, Error> {
    if rule.names.is_empty() {
        return Err(Error::new("names is empty: name the system calls"));
    }
    let verdict = verdict(&rule.action, rule.errno_ret, "action")?;
    if verdict == NOTIFY && rule.names.iter().any(|name| name == "write") {
        return Err(Error::new("SCMP_ACT_NOTIFY cannot be used for the write syscall, which hands the listener over"));
    }
    let conditions = rule.args.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
    let repeated =
        conditions.iter().enumerate().any(|(i, one)| conditions[..i].iter().any(|other| other.index == one.index));
    let alternatives = match (conditions.is_empty(), repeated) {
        (true, _) => Vec::new(),
        (false, false) => vec![conditions],
        // Two on one argument are alternatives, each condition by itself: what runc makes of such rules.
        (false, true) => conditions.into_iter().map(|condition| vec![condition]).collect(),
    };
    Ok(Rule { names: &rule.names, verdict, alternatives })
}

fn condition(arg: &SeccompArg) -> Result<Condition, Error> {
    if arg.index > 5 {
        return Err(Error::new(format!("argument index {} is out of range: a call has arguments 0 to 5", arg.index)));
    }
    let compare = match arg.op.as_str() {
        "SCMP_CMP_NE" => Compare::Ne,
        "SCMP_CMP_LT" => Compare::Lt,
        "SCMP_CMP_LE" => Compare::Le,
        "SCMP_CMP_EQ" => Compare::Eq,
        "SCMP_CMP_GE" => Compare::Ge,
        "SCMP_CMP_GT" => Compare::Gt,
        "SCMP_CMP_MASKED_EQ" => Compare::Masked(arg.value),
        other => {
            return Err(Error::new(format!(
                "unknown operator {other:?}: expected SCMP_CMP_NE, LT, LE, EQ, GE, GT or MASKED_EQ"
            )));
        }
    };
    let value = if matches!(compare, Compare::Masked(_)) { arg.value_two } else { arg.value };
    Ok(Condition { index: arg.index, compare, value, wide: true })
}

fn verdict(action: &str, errno: Option<u32>, field: &str) -> Result<Verdict, Error> {
    let data = |limit: u32| match errno.unwrap_or(EPERM) {
        value if value <= limit => Ok(value),
        value => Err(Error::new(format!("errnoRet {value} of {action} is larger than {limit}"))),
    };
    match action {
        "SCMP_ACT_ALLOW" => Ok(ALLOW),
        "SCMP_ACT_ERRNO" => Ok(ERRNO | data(MAX_ERRNO)?),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Ok(KILL_THREAD),
        "SCMP_ACT_KILL_PROCESS" => Ok(KILL_PROCESS),
        "SCMP_ACT_TRAP" => Ok(TRAP),
        "SCMP_ACT_TRACE" => Ok(TRACE | data(0xffff)?),
        "SCMP_ACT_LOG" => Ok(LOG),
        "SCMP_ACT_NOTIFY" => Ok(NOTIFY),
        other => Err(Error::new(format!(
            "unknown {field} {other:?}: expected SCMP_ACT_ALLOW, ERRNO, KILL, KILL_THREAD, KILL_PROCESS, TRAP, TRACE, LOG or NOTIFY"
        ))),
    }
}

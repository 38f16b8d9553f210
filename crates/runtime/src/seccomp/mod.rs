//! Owns turning an OCI seccomp object into the BPF program that the kernel runs at each system call.
//! It must not load it (sys does) and not read Docker's profile format (`brig_oci::seccomp_profile` does).
//!
//! One program serves several architectures: it tells them apart by `seccomp_data.arch`, then finds the call's number by
//! binary search over ranges of calls with the same fate, so that ten rules or four hundred cost the same few steps.
//! An architecture that the profile does not list kills the process; x32 calls never exist (ENOSYS).

mod bpf;
mod names;
mod rules;
mod table;
#[cfg(test)]
mod tests;

use brig_oci::runtime::Seccomp;

pub use bpf::Instruction;
pub use names::Arch;

use bpf::{AND, Backwards, JUMP_EQ, JUMP_GE, JUMP_GT, LOAD, Label};
use rules::{Compare, Condition, Decision, KILL_PROCESS, Policy};

/// `BPF_MAXINSNS`: what the kernel takes.
pub const MAX_INSTRUCTIONS: usize = 4096;

/// Why a profile cannot become a filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    message: String,
}

impl Error {
    fn new(message: impl Into<String>) -> Error {
        Error { message: message.into() }
    }

    fn within(self, place: &str) -> Error {
        Error { message: format!("{place}: {}", self.message) }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seccomp profile: {}", self.message)
    }
}

impl std::error::Error for Error {}

/// A filter ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// In the order in which they run; never empty, at most [`MAX_INSTRUCTIONS`].
    pub instructions: Vec<Instruction>,
    /// `SECCOMP_FILTER_FLAG_…` bits for seccomp(2), `NEW_LISTENER` among them exactly if [`Program::notifies`].
    pub flags: u32,
    /// Some rule asks a listener; loading returns its descriptor, which goes to the profile's `listenerPath`.
    pub notifies: bool,
}

const FLAG_SPEC_ALLOW: u32 = 1 << 2;
const FLAG_NEW_LISTENER: u32 = 1 << 3;
const FLAG_WAIT_KILLABLE_RECV: u32 = 1 << 5;

/// Offsets in `struct seccomp_data`.
const NUMBER_OFFSET: u32 = 0;
const ARCH_OFFSET: u32 = 4;
const ARGS_OFFSET: u32 = 16;

/// Compiles a profile for the machine that this program was built for and the architectures that it lists besides.
///
/// # Errors
/// Every unknown word, impossible combination and too large a result is refused by name; nothing is skipped silently
/// except names of calls that an architecture does not have.
pub fn compile(profile: &Seccomp) -> Result<Program, Error> {
    compile_for(profile, Arch::NATIVE)
}

/// [`compile`] for a machine whose own architecture is `native`.
///
/// # Errors
/// As [`compile`].
pub fn compile_for(profile: &Seccomp, native: Arch) -> Result<Program, Error> {
    let policy = Policy::new(profile)?;
    let notifies = policy.notifies();
    let flags = flags(profile, notifies)?;
    let mut program = Backwards::default();
    let mut entry = program.ret(KILL_PROCESS);
    // Written back to front: the native architecture last, so that it is tested first.
    for arch in architectures(profile, native)?.into_iter().rev() {
        let ranges = policy.ranges(arch)?;
        let tree = tree(&mut program, &ranges)?;
        let body = program.then(LOAD, NUMBER_OFFSET, tree);
        entry = program.branch(JUMP_EQ, arch.audit(), body, entry);
    }
    let entry = program.then(LOAD, ARCH_OFFSET, entry);
    let instructions = program.finish(entry);
    check_size(instructions.len())?;
    Ok(Program { instructions, flags, notifies })
}

fn check_size(instructions: usize) -> Result<(), Error> {
    if instructions > MAX_INSTRUCTIONS {
        return Err(Error::new(format!(
            "compiles to more than the {MAX_INSTRUCTIONS} instructions that the kernel takes: use fewer rules with arguments"
        )));
    }
    Ok(())
}

/// The native one first, then the listed ones that have numbers of their own here.
fn architectures(profile: &Seccomp, native: Arch) -> Result<Vec<Arch>, Error> {
    let mut list = vec![native];
    for name in &profile.architectures {
        match architecture(name)? {
            Some(arch) if !list.contains(&arch) => list.push(arch),
            _ => {}
        }
    }
    Ok(list)
}

/// `None` for those that libseccomp knows but that cannot run on x86 or Arm (and x32, which is always refused).
fn architecture(name: &str) -> Result<Option<Arch>, Error> {
    match name {
        "SCMP_ARCH_X86_64" => Ok(Some(Arch::X86_64)),
        "SCMP_ARCH_X86" => Ok(Some(Arch::X86)),
        "SCMP_ARCH_AARCH64" => Ok(Some(Arch::Aarch64)),
        "SCMP_ARCH_ARM" => Ok(Some(Arch::Arm)),
        "SCMP_ARCH_X32"
        | "SCMP_ARCH_MIPS"
        | "SCMP_ARCH_MIPS64"
        | "SCMP_ARCH_MIPS64N32"
        | "SCMP_ARCH_MIPSEL"
        | "SCMP_ARCH_MIPSEL64"
        | "SCMP_ARCH_MIPSEL64N32"
        | "SCMP_ARCH_PPC"
        | "SCMP_ARCH_PPC64"
        | "SCMP_ARCH_PPC64LE"
        | "SCMP_ARCH_S390"
        | "SCMP_ARCH_S390X"
        | "SCMP_ARCH_PARISC"
        | "SCMP_ARCH_PARISC64"
        | "SCMP_ARCH_RISCV64"
        | "SCMP_ARCH_LOONGARCH64"
        | "SCMP_ARCH_M68K"
        | "SCMP_ARCH_SH"
        | "SCMP_ARCH_SHEB" => Ok(None),
        other => Err(Error::new(format!("unknown architecture {other:?}"))),
    }
}

/// The bits of the flags that a profile lists. If it lists none at all, not even an empty list, it gets what runc gives it.
fn flags(profile: &Seccomp, notifies: bool) -> Result<u32, Error> {
    let Some(flags) = &profile.flags else {
        return Ok(FLAG_SPEC_ALLOW | if notifies { FLAG_NEW_LISTENER } else { 0 });
    };
    let mut bits = 0;
    for flag in flags {
        bits |= match flag.as_str() {
            // The process that loads the filter has one thread: there is no other to bring in line.
            "SECCOMP_FILTER_FLAG_TSYNC" => 0,
            "SECCOMP_FILTER_FLAG_LOG" => 1 << 1,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => FLAG_SPEC_ALLOW,
            // About waiting for the listener; without one the kernel refuses it.
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" if !notifies => 0,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => FLAG_WAIT_KILLABLE_RECV,
            other => return Err(Error::new(format!("unknown flag {other:?}"))),
        };
    }
    Ok(bits | if notifies { FLAG_NEW_LISTENER } else { 0 })
}

/// Binary search over ranges; the accumulator holds the number.
fn tree(program: &mut Backwards, ranges: &[(u32, Decision)]) -> Result<Label, Error> {
    check_size(program.len())?;
    if let [(_, decision)] = ranges {
        return Ok(leaf(program, decision));
    }
    let (low, high) = ranges.split_at(ranges.len() / 2);
    let first = high.first().map_or(0, |range| range.0);
    let high = tree(program, high)?;
    let low = tree(program, low)?;
    Ok(program.branch(JUMP_GE, first, high, low))
}

fn leaf(program: &mut Backwards, decision: &Decision) -> Label {
    let mut next = program.ret(decision.otherwise);
    for (conditions, verdict) in decision.checks.iter().rev() {
        let mut yes = program.ret(*verdict);
        for condition in conditions.iter().rev() {
            yes = test(program, *condition, yes, next);
        }
        next = yes;
    }
    next
}

/// Compares a 64-bit argument by its halves: the machine of classic BPF has 32 bits.
fn test(program: &mut Backwards, condition: Condition, yes: Label, no: Label) -> Label {
    match condition.compare {
        Compare::Eq => equal(program, condition, u64::MAX, yes, no),
        Compare::Ne => equal(program, condition, u64::MAX, no, yes),
        Compare::Masked(mask) => equal(program, condition, mask, yes, no),
        Compare::Gt => greater(program, condition, JUMP_GT, yes, no),
        Compare::Ge => greater(program, condition, JUMP_GE, yes, no),
        Compare::Le => greater(program, condition, JUMP_GT, no, yes),
        Compare::Lt => greater(program, condition, JUMP_GE, no, yes),
    }
}

const fn low(value: u64) -> u32 {
    (value & 0xffff_ffff) as u32
}

const fn high(value: u64) -> u32 {
    (value >> 32) as u32
}

fn equal(program: &mut Backwards, condition: Condition, mask: u64, yes: Label, no: Label) -> Label {
    if condition.value & !mask != 0 {
        return no;
    }
    let offset = ARGS_OFFSET + 8 * condition.index;
    // Little endian on every architecture that has a table: the low half comes first.
    let matched = half(program, offset, low(mask), low(condition.value), yes, no);
    if !condition.wide {
        return matched;
    }
    half(program, offset + 4, high(mask), high(condition.value), matched, no)
}

fn half(program: &mut Backwards, offset: u32, mask: u32, value: u32, yes: Label, no: Label) -> Label {
    if mask == 0 {
        return yes;
    }
    let mut next = program.branch(JUMP_EQ, value, yes, no);
    if mask != u32::MAX {
        next = program.then(AND, mask, next);
    }
    program.then(LOAD, offset, next)
}

/// `argument > value` or, with [`JUMP_GE`], `≥`.
fn greater(program: &mut Backwards, condition: Condition, last: u16, yes: Label, no: Label) -> Label {
    if !condition.wide && high(condition.value) != 0 {
        return no;
    }
    let offset = ARGS_OFFSET + 8 * condition.index;
    let lower = program.branch(last, low(condition.value), yes, no);
    let lower = program.then(LOAD, offset, lower);
    if !condition.wide {
        return lower;
    }
    let same = program.branch(JUMP_EQ, high(condition.value), lower, no);
    let upper = program.branch(JUMP_GT, high(condition.value), yes, same);
    program.then(LOAD, offset + 4, upper)
}

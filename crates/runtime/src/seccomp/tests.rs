//! Tests of the compiler: a BPF interpreter runs the compiled program for every call number of every architecture and is
//! compared with a plain reading of the profile. Owns nothing else.

use std::collections::BTreeSet;

use brig_oci::capabilities;
use brig_oci::runtime::{Seccomp, SeccompArg, SeccompRule};
use brig_oci::seccomp_profile::{KernelVersion, docker_default};

use super::*;

mod random;

const ALLOW: u32 = 0x7fff_0000;
const EPERM: u32 = 0x0005_0001;
const ENOSYS: u32 = 0x0005_0026;

/// One call as a filter sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Call {
    arch: u32,
    number: u32,
    args: [u64; 6],
}

impl Call {
    fn word(&self, offset: u32) -> u32 {
        match offset {
            0 => self.number,
            4 => self.arch,
            // The instruction pointer, which no program of ours reads.
            8 | 12 => 0,
            _ => {
                let at = offset - 16;
                let arg = self.args[(at / 8) as usize];
                if at.is_multiple_of(8) { arg as u32 } else { (arg >> 32) as u32 }
            }
        }
    }
}

/// The kernel's machine: the verdict and how many instructions it took.
fn run(program: &Program, call: Call) -> (u32, usize) {
    let (mut at, mut accumulator, mut steps) = (0, 0u32, 0);
    loop {
        let instruction = program.instructions[at];
        steps += 1;
        let skip = |hit: bool| usize::from(if hit { instruction.jt } else { instruction.jf });
        at += 1;
        match instruction.code {
            LOAD => accumulator = call.word(instruction.k),
            AND => accumulator &= instruction.k,
            bpf::JUMP => at += instruction.k as usize,
            JUMP_EQ => at += skip(accumulator == instruction.k),
            JUMP_GT => at += skip(accumulator > instruction.k),
            JUMP_GE => at += skip(accumulator >= instruction.k),
            bpf::RETURN => return (instruction.k, steps),
            other => panic!("instruction {other:#x}"),
        }
    }
}

fn word(action: &str, errno: Option<u32>) -> u32 {
    match action {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => 0x0005_0000 | errno.unwrap_or(1),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => 0,
        "SCMP_ACT_KILL_PROCESS" => 0x8000_0000,
        "SCMP_ACT_TRAP" => 0x0003_0000,
        "SCMP_ACT_TRACE" => 0x7ff0_0000 | errno.unwrap_or(1),
        "SCMP_ACT_LOG" => 0x7ffc_0000,
        "SCMP_ACT_NOTIFY" => 0x7fc0_0000,
        other => panic!("{other}"),
    }
}

fn holds(arg: &SeccompArg, call: &Call, short: bool) -> bool {
    let actual = call.args[arg.index as usize];
    let cut = |value: u64| if short { value & 0xffff_ffff } else { value };
    match arg.op.as_str() {
        "SCMP_CMP_NE" => actual != cut(arg.value),
        "SCMP_CMP_LT" => actual < arg.value,
        "SCMP_CMP_LE" => actual <= arg.value,
        "SCMP_CMP_EQ" => actual == cut(arg.value),
        "SCMP_CMP_GE" => actual >= arg.value,
        "SCMP_CMP_GT" => actual > arg.value,
        "SCMP_CMP_MASKED_EQ" => actual & cut(arg.value) == cut(arg.value_two),
        other => panic!("{other}"),
    }
}

/// What the profile says, read entry by entry as it is written: slow, and shares nothing with the compiler but the names.
struct Reference<'a> {
    profile: &'a Seccomp,
    listed: &'a [Arch],
    /// For each architecture the numbers of each rule, looked up once.
    numbers: [Vec<Vec<u32>>; 4],
    newest: [Option<u32>; 4],
}

impl<'a> Reference<'a> {
    fn new(profile: &'a Seccomp, listed: &'a [Arch]) -> Reference<'a> {
        let of = |arch: Arch| {
            profile
                .syscalls
                .iter()
                .map(|rule| rule.names.iter().filter_map(|name| arch.number(name)).collect())
                .collect()
        };
        let numbers: [Vec<Vec<u32>>; 4] = Arch::ALL.map(of);
        let newest = Arch::ALL
            .map(|arch| numbers[arch as usize].iter().flatten().copied().filter(|number| *number < 2000).max());
        Reference { profile, listed, numbers, newest }
    }

    /// For each rule about this call, arguments to which all its conditions apply, as far as there are any.
    fn hits(&self, arch: Arch, number: u32, values: &[u64]) -> Vec<[u64; 6]> {
        let rules = self.profile.syscalls.iter().zip(&self.numbers[arch as usize]);
        let named = rules.filter(|(_, numbers)| numbers.contains(&number)).map(|(rule, _)| rule);
        let hit = |rule: &SeccompRule| {
            std::array::from_fn(|index| {
                let about: Vec<&SeccompArg> = rule.args.iter().filter(|arg| arg.index as usize == index).collect();
                let fits = |value: u64| {
                    let call = Call { arch: arch.audit(), number, args: [value; 6] };
                    about.iter().all(|arg| holds(arg, &call, arch.is_32_bit()))
                };
                let cut = if arch.is_32_bit() { 0xffff_ffff } else { u64::MAX };
                values.iter().map(|value| value & cut).find(|value| fits(*value)).unwrap_or(0)
            })
        };
        named.filter(|rule| !rule.args.is_empty()).map(hit).collect()
    }

    fn verdict(&self, call: Call) -> u32 {
        let Some(arch) = self.listed.iter().copied().find(|arch| arch.audit() == call.arch) else {
            return 0x8000_0000;
        };
        if arch == Arch::X86_64 && call.number >= 0x4000_0000 {
            return ENOSYS;
        }
        let rules = self.profile.syscalls.iter().zip(&self.numbers[arch as usize]);
        let named: Vec<&SeccompRule> =
            rules.filter(|(_, numbers)| numbers.contains(&call.number)).map(|(rule, _)| rule).collect();
        let all = |rule: &SeccompRule| {
            let indexes: BTreeSet<u32> = rule.args.iter().map(|arg| arg.index).collect();
            let mut each = rule.args.iter().map(|arg| holds(arg, &call, arch.is_32_bit()));
            if indexes.len() == rule.args.len() { each.all(|hit| hit) } else { each.any(|hit| hit) }
        };
        let matching = |conditional: bool| {
            let rules = named.iter().filter(|rule| rule.args.is_empty() != conditional && all(rule));
            rules.map(|rule| word(&rule.action, rule.errno_ret)).min_by_key(|word| (word & 0xffff_0000) as i32)
        };
        if let Some(verdict) = matching(true).or_else(|| matching(false)) {
            return verdict;
        }
        let permissive =
            ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_TRACE"].contains(&self.profile.default_action.as_str());
        let newer = self.newest[arch as usize].is_some_and(|newest| call.number > newest);
        if newer && !permissive && named.is_empty() {
            ENOSYS
        } else {
            word(&self.profile.default_action, self.profile.default_errno_ret)
        }
    }
}

/// Argument values around every constant that the profile compares with.
fn interesting(profile: &Seccomp) -> Vec<u64> {
    let mut values = BTreeSet::from([0, 1, u64::MAX, 0xffff_ffff, 1 << 32]);
    for arg in profile.syscalls.iter().flat_map(|rule| &rule.args) {
        for value in [arg.value, arg.value_two, arg.value | 1 << 32, arg.value ^ (1 << 40)] {
            values.extend([value.wrapping_sub(1), value, value.wrapping_add(1), !value]);
        }
    }
    values.into_iter().collect()
}

/// Architectures that no filter of ours lists: MIPS, RISC-V, big-endian Arm64, none, all.
const FOREIGN: [u32; 5] = [0x8, 0xc000_00f3, 0x8000_00b7, 0, u32::MAX];

/// Every number that a call may have: far beyond each table, x32's and Arm's private ones, and the edges of the word.
fn numbers() -> impl Iterator<Item = u32> {
    let beyond = [0x3fff_ffff, 0x7fff_ffff, 0x8000_0000, 0xbfff_ffff, 0xc000_0000, u32::MAX - 1, u32::MAX];
    (0..1100).chain(0x4000_0000..0x4000_0000 + 1100).chain(0x000f_0000..0x000f_0010).chain(beyond)
}

/// Every call to be compared, with what the profile says to it. Calls that some rule looks into come with every interesting
/// value in every argument.
fn expected(profile: &Seccomp, listed: &[Arch]) -> Vec<(Call, u32)> {
    let reference = Reference::new(profile, listed);
    let values = interesting(profile);
    let mut calls = Vec::new();
    for arch in Arch::ALL {
        let compared: BTreeSet<u32> = profile
            .syscalls
            .iter()
            .filter(|rule| !rule.args.is_empty())
            .flat_map(|rule| &rule.names)
            .filter_map(|name| arch.number(name))
            .collect();
        for number in numbers() {
            let mut check = |args: [u64; 6]| {
                let args = if arch.is_32_bit() { args.map(|arg| arg & 0xffff_ffff) } else { args };
                let call = Call { arch: arch.audit(), number, args };
                calls.push((call, reference.verdict(call)));
            };
            check([0; 6]);
            let mut random = random::Random(u64::from(number) + 1);
            if compared.contains(&number) {
                for base in reference.hits(arch, number, &values) {
                    for (index, value) in (0..6).flat_map(|index| values.iter().map(move |value| (index, *value))) {
                        let mut args = base;
                        args[index] = value;
                        check(args);
                    }
                }
                for (i, value) in values.iter().enumerate() {
                    check([*value; 6]);
                    for index in 0..6 {
                        let mut args = [values[(i * 7 + 3) % values.len()]; 6];
                        args[index] = *value;
                        check(args);
                    }
                }
                (0..50).for_each(|_| check(random.arguments(&values, arch)));
            }
        }
    }
    for (arch, number) in FOREIGN.into_iter().flat_map(|arch| numbers().map(move |number| (arch, number))) {
        let call = Call { arch, number, args: [0; 6] };
        calls.push((call, reference.verdict(call)));
    }
    calls
}

/// Compares program and profile for all of [`expected`]; returns the deepest run.
fn compare(profile: &Seccomp, native: Arch, listed: &[Arch]) -> usize {
    let program = compile_for(profile, native).unwrap();
    let mut deepest = 0;
    for (call, wanted) in expected(profile, listed) {
        let (verdict, steps) = run(&program, call);
        assert_eq!(verdict, wanted, "{call:x?}");
        deepest = deepest.max(steps);
    }
    deepest
}

/// Names, action, and for each condition the argument, the operator, value and second value.
type Short<'a> = (&'a str, &'a str, &'a [(u32, &'a str, u64, u64)]);

fn profile(default: &str, rules: &[Short]) -> Seccomp {
    let syscalls = rules.iter().map(|(names, action, args)| SeccompRule {
        names: names.split(' ').map(str::to_owned).collect(),
        action: format!("SCMP_ACT_{action}"),
        errno_ret: None,
        args: args
            .iter()
            .map(|(index, op, value, two)| SeccompArg {
                index: *index,
                value: *value,
                value_two: *two,
                op: format!("SCMP_CMP_{op}"),
            })
            .collect(),
    });
    Seccomp {
        default_action: format!("SCMP_ACT_{default}"),
        architectures: ["X86_64", "X86", "X32", "AARCH64", "ARM"].map(|arch| format!("SCMP_ARCH_{arch}")).to_vec(),
        syscalls: syscalls.collect(),
        ..Seccomp::default()
    }
}

#[test]
fn dockers_default_is_compiled_faithfully() {
    for (arch, native, second) in [("amd64", Arch::X86_64, Arch::X86), ("arm64", Arch::Aarch64, Arch::Arm)] {
        for caps in
            [&capabilities::DEFAULT[..], &["CAP_SYS_ADMIN"], &["CAP_SYS_PTRACE", "CAP_SYSLOG"], &[], &capabilities::ALL]
        {
            for kernel in [KernelVersion(4, 7), KernelVersion(6, 18)] {
                let profile = docker_default(caps, arch, kernel);
                let deepest = compare(&profile, native, &[native, second]);
                let start = std::time::Instant::now();
                let program = compile_for(&profile, native).unwrap();
                println!(
                    "{arch} {} capabilities: {} instructions, at most {deepest} run, compiled in {:?}",
                    caps.len(),
                    program.instructions.len(),
                    start.elapsed()
                );
                assert!(program.instructions.len() < 500 && deepest < 40);
            }
        }
    }
}

#[test]
fn every_operator_on_both_halves() {
    let big = 0x1_0000_0005;
    for value in [0, 5, 0xffff_ffff, big, u64::MAX, 1 << 63] {
        for op in ["NE", "LT", "LE", "EQ", "GE", "GT"] {
            let profile = profile("ERRNO", &[("read", "ALLOW", &[(3, op, value, 0)])]);
            compare(&profile, Arch::X86_64, &Arch::ALL);
        }
        for mask in [0, 0xff, 0xff00_0000_0000, big, u64::MAX] {
            let profile = profile(
                "ERRNO",
                &[
                    ("read", "ALLOW", &[(0, "MASKED_EQ", mask, value & mask)]),
                    ("write", "TRAP", &[(5, "MASKED_EQ", mask, value)]),
                ],
            );
            compare(&profile, Arch::X86_64, &Arch::ALL);
        }
    }
}

#[test]
fn several_conditions_and_several_entries() {
    let profile = profile(
        "KILL_PROCESS",
        &[
            ("socket", "ALLOW", &[(0, "LT", 38, 0), (1, "EQ", 1, 0), (2, "NE", 7, 0)]),
            ("socket", "ERRNO", &[(0, "EQ", 16, 0)]),
            ("socket", "ALLOW", &[(0, "EQ", 50, 0)]),
            ("socket", "LOG", &[(0, "GE", 10, 0), (0, "EQ", 3, 0)]),
            ("open openat read nonesuch", "ALLOW", &[]),
            ("read", "TRACE", &[(0, "EQ", 9, 0)]),
            ("getpid", "KILL_THREAD", &[]),
            ("getpid", "ALLOW", &[]),
            ("set_tls", "ALLOW", &[]),
            ("ptrace", "TRAP", &[]),
        ],
    );
    compare(&profile, Arch::X86_64, &Arch::ALL);
    compare(&profile, Arch::Aarch64, &Arch::ALL);
}

/// A denial must hold however broad the permission beside it (podman CVE-2026-123876), in either order.
#[test]
fn an_exception_beats_the_rule() {
    let exception: (&str, &str, &[_]) = ("socket", "ERRNO", &[(0, "EQ", 38, 0)]);
    let rule: (&str, &str, &[_]) = ("socket", "ALLOW", &[]);
    for rules in [[exception, rule], [rule, exception]] {
        let program = compile(&profile("ERRNO", &rules)).unwrap();
        let number = Arch::NATIVE.number("socket").unwrap();
        let call = |family| run(&program, Call { arch: Arch::NATIVE.audit(), number, args: [family, 0, 0, 0, 0, 0] }).0;
        assert_eq!((call(38), call(2)), (EPERM, ALLOW));
    }
}

#[test]
fn default_allow_profiles_cannot_be_bypassed_by_another_abi() {
    let mut profile = profile("ALLOW", &[("mount", "ERRNO", &[])]);
    compare(&profile, Arch::X86_64, &Arch::ALL);
    profile.architectures = vec!["SCMP_ARCH_X86_64".into()];
    compare(&profile, Arch::X86_64, &[Arch::X86_64]);
    let program = compile_for(&profile, Arch::X86_64).unwrap();
    let call = |arch: u32, number| run(&program, Call { arch, number, args: [0; 6] }).0;
    assert_eq!(call(Arch::X86_64.audit(), 165), EPERM);
    assert_eq!(call(Arch::X86_64.audit(), 0x4000_0000 + 165), ENOSYS, "x32");
    assert_eq!(call(Arch::X86.audit(), 21), 0x8000_0000, "i386 is not listed");
    assert_eq!(call(Arch::X86_64.audit(), 5000), ALLOW, "unknown calls of a permissive profile");
}

#[test]
fn new_calls_do_not_exist() {
    let profile = docker_default(&capabilities::DEFAULT, "amd64", KernelVersion(6, 18));
    let program = compile_for(&profile, Arch::X86_64).unwrap();
    let call = |name: &str| {
        run(&program, Call { arch: Arch::X86_64.audit(), number: Arch::X86_64.number(name).unwrap(), args: [0; 6] }).0
    };
    assert_eq!(call("file_getattr"), ENOSYS, "newer than the profile");
    assert_eq!(call("clone3"), ENOSYS, "so that glibc falls back to clone");
    assert_eq!(call("io_uring_setup"), EPERM, "known and not allowed");
    assert_eq!(call("read"), ALLOW);
}

/// Far jumps: hundreds of calls, each with conditions of its own, so that trees and leaves span more than 255 instructions.
#[test]
fn large_profiles_jump_far() {
    let mut names: Vec<&str> = Arch::X86_64.calls().map(|(name, _)| name).collect();
    names.sort_unstable();
    let mut profile = profile("ERRNO", &[]);
    profile.architectures.truncate(1);
    for (i, name) in names.iter().enumerate() {
        let arg = SeccompArg { index: (i % 6) as u32, value: i as u64, value_two: 0, op: "SCMP_CMP_GT".into() };
        profile.syscalls.push(SeccompRule {
            names: vec![(*name).into()],
            action: "SCMP_ACT_ERRNO".into(),
            errno_ret: Some(i as u32),
            args: vec![arg],
        });
    }
    let program = compile_for(&profile, Arch::X86_64).unwrap();
    println!("{} conditional calls: {} instructions", names.len(), program.instructions.len());
    let reference = Reference::new(&profile, &[Arch::X86_64]);
    for (_, number) in Arch::X86_64.calls() {
        for value in [0, 100, 377, 1 << 33] {
            let call = Call { arch: Arch::X86_64.audit(), number, args: [value; 6] };
            assert_eq!(run(&program, call).0, reference.verdict(call), "{call:?}");
        }
    }
}

/// Both targets of one jump at every distance around what a jump reaches.
#[test]
fn jumps_at_the_edge_of_their_reach() {
    for (between, before) in (240..262).flat_map(|between| (0..262).step_by(3).map(move |before| (between, before))) {
        for swapped in [false, true] {
            let mut program = Backwards::default();
            let pad = |program: &mut Backwards, from: Label, count: usize| {
                (0..count).fold(from, |next, _| program.then(LOAD, ARCH_OFFSET, next))
            };
            let end = program.ret(7);
            let far = program.then(LOAD, ARCH_OFFSET, end);
            pad(&mut program, far, between);
            let end = program.ret(9);
            let near = program.then(LOAD, ARCH_OFFSET, end);
            pad(&mut program, near, before);
            let (yes, no) = if swapped { (near, far) } else { (far, near) };
            let entry = program.branch(JUMP_EQ, 1, yes, no);
            let entry = program.then(LOAD, NUMBER_OFFSET, entry);
            let program = Program { instructions: program.finish(entry), flags: 0, notifies: false };
            for number in [0, 1] {
                let wanted = if (number == 1) == swapped { 9 } else { 7 };
                assert_eq!(run(&program, Call { arch: 0, number, args: [0; 6] }).0, wanted, "{between} {before}");
            }
        }
    }
}

#[test]
fn refusals() {
    let refused = |change: &dyn Fn(&mut Seccomp)| {
        let mut profile = profile("ERRNO", &[("read", "ALLOW", &[(0, "EQ", 1, 0)])]);
        change(&mut profile);
        compile(&profile).unwrap_err().to_string()
    };
    assert_eq!(refused(&|p| p.syscalls[0].action = "SCMP_ACT_FOO".into()).split(':').nth(1), Some(" rule 0 (read)"));
    assert!(refused(&|p| p.default_action = String::new()).contains("unknown defaultAction \"\""));
    assert!(refused(&|p| p.syscalls[0].args[0].op = "EQ".into()).contains("unknown operator \"EQ\""));
    assert!(refused(&|p| p.syscalls[0].args[0].index = 6).contains("index 6 is out of range"));
    assert!(refused(&|p| p.syscalls[0].names.clear()).contains("names is empty"));
    assert!(
        refused(&|p| p.architectures.push("SCMP_ARCH_VAX".into())).contains("unknown architecture \"SCMP_ARCH_VAX\"")
    );
    assert!(refused(&|p| p.flags = Some(vec!["SECCOMP_FILTER_FLAG_NEW".into()])).contains("unknown flag"));
    assert!(refused(&|p| p.default_errno_ret = Some(5000)).contains("5000"));
    assert!(
        refused(&|p| p.default_action = "SCMP_ACT_NOTIFY".into())
            .contains("SCMP_ACT_NOTIFY cannot be used as default action")
    );
    assert!(refused(&|p| p.syscalls[0].action = "SCMP_ACT_NOTIFY".into()).contains("listenerPath"));
    let write = refused(&|p| {
        p.listener_path = Some("/s".into());
        p.syscalls[0] =
            SeccompRule { names: vec!["write".into()], action: "SCMP_ACT_NOTIFY".into(), ..SeccompRule::default() };
    });
    assert!(write.contains("SCMP_ACT_NOTIFY cannot be used for the write syscall"));
}

#[test]
fn too_much_is_refused_quickly() {
    let rules = |count: usize| {
        let mut profile = profile("ERRNO", &[]);
        let rule = |i: usize| SeccompRule {
            names: vec!["read".into()],
            action: "SCMP_ACT_ALLOW".into(),
            errno_ret: None,
            args: vec![SeccompArg { index: 0, value: i as u64, value_two: 0, op: "SCMP_CMP_EQ".into() }],
        };
        profile.syscalls = (0..count).map(rule).collect();
        compile(&profile)
    };
    assert!(rules(1500).unwrap_err().to_string().contains("4096 instructions"));
    assert!(rules(1_000_000).unwrap_err().to_string().contains("1000000 rules"));
    assert!(rules(100).is_ok());
}

#[test]
fn listeners_and_flags() {
    let mut notify = profile("ALLOW", &[("mkdir mkdirat", "NOTIFY", &[])]);
    notify.listener_path = Some("/run/agent.sock".into());
    let plain = profile("ALLOW", &[("mkdir mkdirat", "ERRNO", &[])]);
    let (log, allow, listener, killable) = (1 << 1, 1 << 2, 1 << 3, 1 << 5);
    let cases: [(Option<&[&str]>, u32, u32); 6] = [
        // Nothing said is what runc takes it for: mitigations as the kernel has them by itself since 5.16.
        (None, allow, allow),
        (Some(&[]), 0, 0),
        // The process that loads it has one thread.
        (Some(&["TSYNC"]), 0, 0),
        (Some(&["LOG"]), log, log),
        (Some(&["SPEC_ALLOW", "LOG"]), log | allow, log | allow),
        // It says how long a listener is waited for; without one the kernel refuses it.
        (Some(&["TSYNC", "WAIT_KILLABLE_RECV"]), 0, killable),
    ];
    for (flags, without, with) in cases {
        let flags = flags.map(|flags| flags.iter().map(|flag| format!("SECCOMP_FILTER_FLAG_{flag}")).collect());
        let of = |profile: &Seccomp| compile(&Seccomp { flags: flags.clone(), ..profile.clone() }).unwrap();
        assert_eq!((of(&plain).flags, of(&plain).notifies), (without, false), "{flags:?}");
        assert_eq!((of(&notify).flags, of(&notify).notifies), (with | listener, true), "{flags:?}");
    }
}

/// Every name of the specification is known, and those that cannot run here change nothing.
#[test]
fn foreign_architectures_are_accepted() {
    let plain = profile("ERRNO", &[("read", "ALLOW", &[])]);
    let with = |arch: &str| {
        compile_for(&Seccomp { architectures: vec![format!("SCMP_ARCH_{arch}")], ..plain.clone() }, Arch::X86_64)
            .unwrap()
    };
    let native = with("X86_64");
    for arch in [
        "X32",
        "MIPS",
        "MIPS64",
        "MIPS64N32",
        "MIPSEL",
        "MIPSEL64",
        "MIPSEL64N32",
        "PPC",
        "PPC64",
        "PPC64LE",
        "S390",
        "S390X",
        "PARISC",
        "PARISC64",
        "RISCV64",
        "LOONGARCH64",
        "M68K",
        "SH",
        "SHEB",
    ] {
        assert_eq!(with(arch), native, "{arch}");
    }
    for arch in ["X86", "AARCH64", "ARM"] {
        assert!(with(arch).instructions.len() > native.instructions.len(), "{arch}");
    }
}

/// The kernel takes the program and acts on it. Filters belong to a thread, so the test ends with its own.
#[test]
fn the_kernel_agrees() {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};
    let (arch, caps) = (brig_oci::seccomp_profile::NATIVE_ARCH, &capabilities::DEFAULT);
    let program = compile(&docker_default(caps, arch, KernelVersion(6, 18))).unwrap();
    let live = std::thread::spawn(move || {
        brig_sys::process::set_no_new_privileges().unwrap();
        let start = std::time::Instant::now();
        brig_sys::seccomp::load(&program.instructions, program.flags).unwrap();
        println!("loaded in {:?}", start.elapsed());
        let family = |number| socket(AddressFamily::from_raw(number), SocketType::DGRAM, None).map(drop);
        let host = rustix::system::uname().nodename().to_owned();
        let rename = rustix::system::sethostname(host.to_bytes());
        [rename, family(38), family(40), family(2), family(1)]
    });
    assert_eq!(live.join().unwrap(), [Err(Errno::PERM), Err(Errno::PERM), Err(Errno::PERM), Ok(()), Ok(())]);
}

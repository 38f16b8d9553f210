//! Profiles that nobody wrote: random ones from fixed seeds, what they cost, whether the kernel takes them, and whether the
//! comparison would notice a compiler that is wrong. Owns nothing else.

use super::*;

/// xorshift64*: the same numbers everywhere, for ever.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 33) as usize % limit
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    /// Six arguments: the values given, edges, either with a bit turned, and any bits at all.
    pub(super) fn arguments(&mut self, values: &[u64], arch: Arch) -> [u64; 6] {
        let cut = if arch.is_32_bit() { 0xffff_ffff } else { u64::MAX };
        std::array::from_fn(|_| {
            cut & match self.below(8) {
                0 => self.next(),
                1 => self.of(&VALUES),
                2 => self.of(values) ^ 1 << self.below(64),
                _ => self.of(values),
            }
        })
    }
}

const ACTIONS: [&str; 9] = ["ALLOW", "ERRNO", "KILL", "KILL_THREAD", "KILL_PROCESS", "TRAP", "TRACE", "LOG", "NOTIFY"];
const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
/// Edges of both halves.
const VALUES: [u64; 14] = [
    0,
    1,
    7,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x7e02_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX - 1,
    u64::MAX,
];

/// A profile of `count` rules of which `conditional` in a hundred look at arguments.
fn random(seed: u64, count: usize, conditional: usize) -> Seccomp {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut names: Vec<&str> = Arch::ALL.into_iter().flat_map(Arch::calls).map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    let mut syscalls = Vec::new();
    for _ in 0..count {
        let name = if random.below(50) == 0 { "no_such_call" } else { random.of(&names) };
        let action = if name == "write" { "ALLOW" } else { random.of(&ACTIONS) };
        let mut args = Vec::new();
        if random.below(100) < conditional {
            for _ in 0..=random.below(3) {
                args.push(SeccompArg {
                    index: random.below(6) as u32,
                    value: random.of(&VALUES),
                    value_two: random.of(&VALUES),
                    op: format!("SCMP_CMP_{}", random.of(&OPERATORS)),
                });
            }
        }
        syscalls.push(SeccompRule {
            names: vec![name.to_owned()],
            action: format!("SCMP_ACT_{action}"),
            errno_ret: (random.below(2) == 0).then(|| random.below(4096) as u32),
            args,
        });
    }
    let default = random.of(&ACTIONS[..8]);
    Seccomp {
        default_action: format!("SCMP_ACT_{default}"),
        default_errno_ret: (random.below(2) == 0).then(|| random.below(4096) as u32),
        architectures: ["X86_64", "X86", "X32", "AARCH64", "ARM", "MIPS"]
            .iter()
            .filter(|_| random.below(3) > 0)
            .map(|arch| format!("SCMP_ARCH_{arch}"))
            .collect(),
        listener_path: Some("/run/agent.sock".into()),
        syscalls,
        ..Seccomp::default()
    }
}

/// The architectures that a filter for this profile tells apart.
fn listed(profile: &Seccomp) -> Vec<Arch> {
    let word = |arch: Arch| format!("SCMP_ARCH_{}", format!("{arch:?}").to_uppercase());
    Arch::ALL.into_iter().filter(|arch| *arch == Arch::X86_64 || profile.architectures.contains(&word(*arch))).collect()
}

/// `BRIG_SECCOMP_SEEDS` makes it more than the default.
#[test]
fn random_profiles_are_compiled_faithfully() {
    let seeds = std::env::var("BRIG_SECCOMP_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    for seed in 1..=seeds {
        let profile = random(seed, 40 + (seed as usize * 7) % 60, 40);
        compare(&profile, Arch::X86_64, &listed(&profile));
    }
}

#[test]
fn four_hundred_random_rules() {
    let profile = random(20_26, 400, 12);
    compare(&profile, Arch::X86_64, &listed(&profile));
}

/// What a filter costs: its length, and the longest way through it. Four hundred rules cost what ten do but for the depth of a
/// binary search.
#[test]
fn cost_is_logarithmic() {
    let mut names: Vec<&str> = Arch::X86_64.calls().map(|(name, _)| name).collect();
    names.sort_unstable();
    for (rules, limit) in [(1, 7), (10, 10), (100, 14), (names.len(), 16)] {
        // Neighbours differ, so that no two calls share a range.
        let mut profile = profile("KILL_PROCESS", &[]);
        profile.architectures.truncate(1);
        profile.syscalls = (0..rules)
            .map(|i| SeccompRule {
                names: vec![names[i * names.len() / rules].to_owned()],
                action: "SCMP_ACT_ERRNO".into(),
                errno_ret: Some(i as u32),
                args: Vec::new(),
            })
            .collect();
        let deepest = compare(&profile, Arch::X86_64, &[Arch::X86_64]);
        let program = compile_for(&profile, Arch::X86_64).unwrap();
        println!("{rules} rules: {} instructions, at most {deepest} run", program.instructions.len());
        assert!(deepest <= limit, "{rules} rules run {deepest} instructions");
    }
}

/// The kernel checks every instruction of each program. An allowing return in front keeps it from acting on this test.
#[test]
fn the_kernel_takes_random_programs() {
    for seed in 1..=10 {
        let program = compile(&random(seed, if seed == 1 { 400 } else { 80 }, 12)).unwrap();
        let allow = Instruction { code: bpf::RETURN, jt: 0, jf: 0, k: ALLOW };
        let harmless: Vec<Instruction> = [allow].into_iter().chain(program.instructions).collect();
        let loaded = std::thread::spawn(move || {
            brig_sys::process::set_no_new_privileges().unwrap();
            brig_sys::seccomp::load(&harmless, program.flags).map(|listener| listener.is_some())
        });
        assert_eq!(loaded.join().unwrap().unwrap(), program.notifies, "seed {seed}");
    }
}

/// A compiler that gets one instruction wrong is noticed: each instruction is made wrong in several ways, and [`expected`] tells
/// the wrong programs from the right one, except those that do the same as it on far more calls than it looks at (`> 37` for
/// `>= 38`, a check whose outcome another one repeats).
#[test]
fn the_comparison_notices_wrong_programs() {
    let docker = docker_default(&capabilities::DEFAULT, "amd64", KernelVersion(6, 18));
    for (name, profile, listed) in
        [("docker", docker, vec![Arch::X86_64, Arch::X86]), ("random", random(3, 25, 40), listed(&random(3, 25, 40)))]
    {
        let right = compile_for(&profile, Arch::X86_64).unwrap();
        let calls = expected(&profile, &listed);
        let more = more(&profile);
        let (mut made, mut same) = (0, 0);
        for at in 0..right.instructions.len() {
            for wrong in wrong(&right.instructions, at) {
                let mut program = right.clone();
                program.instructions[at] = wrong;
                made += 1;
                if calls.iter().all(|(call, wanted)| run(&program, *call).0 == *wanted) {
                    same += 1;
                    let differs = more.iter().find(|call| run(&program, **call).0 != run(&right, **call).0);
                    assert_eq!(differs, None, "{at}: {:?} -> {wrong:?} was not noticed", right.instructions[at]);
                }
            }
        }
        println!("{name}: {made} wrong programs, {same} of them do the same as the right one");
        assert!(made > 500 && same * 5 < made);
    }
}

/// Calls that look into arguments, with other arguments than [`expected`] has.
fn more(profile: &Seccomp) -> Vec<Call> {
    let mut random = Random(77);
    let values = interesting(profile);
    let mut calls = Vec::new();
    for rule in profile.syscalls.iter().filter(|rule| !rule.args.is_empty()) {
        let numbers = rule.names.iter().flat_map(|name| Arch::ALL.map(|arch| Some((arch, arch.number(name)?))));
        for (arch, number) in numbers.flatten() {
            calls.extend((0..100).map(|_| Call { arch: arch.audit(), number, args: random.arguments(&values, arch) }));
        }
    }
    calls
}

/// The instruction with its test, its constant or its targets changed, as far as that stays a valid program.
fn wrong(program: &[Instruction], at: usize) -> Vec<Instruction> {
    let right = program[at];
    let inside = |skip: u8| at + 1 + usize::from(skip) < program.len();
    let other = match right.code {
        JUMP_EQ => JUMP_GE,
        JUMP_GE => JUMP_GT,
        JUMP_GT => JUMP_GE,
        _ => right.code,
    };
    let mut list = match right.code {
        LOAD => vec![Instruction { k: if right.k == 0 { 4 } else { right.k - 4 }, ..right }],
        bpf::JUMP => vec![Instruction { k: right.k - 1, ..right }],
        AND | bpf::RETURN => vec![Instruction { k: right.k ^ 1, ..right }],
        _ => vec![
            Instruction { k: right.k.wrapping_add(1), ..right },
            Instruction { k: right.k.wrapping_sub(1), ..right },
            Instruction { jt: right.jf, jf: right.jt, ..right },
            Instruction { jt: right.jt + 1, ..right },
            Instruction { jf: right.jf.saturating_add(1), ..right },
            Instruction { code: other, ..right },
        ],
    };
    list.retain(|wrong| *wrong != right && inside(wrong.jt) && inside(wrong.jf));
    list
}

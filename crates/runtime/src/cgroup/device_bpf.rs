//! Owns the eBPF program that enforces a device policy on version 2. It must not load it (sys does).

use super::devices::Policy;

/// `BPF_DEVCG_DEV_BLOCK`, `BPF_DEVCG_DEV_CHAR`.
const BLOCK: i32 = 1;
const CHAR: i32 = 2;

/// Three bits of access; the kernel's are mknod 1, read 2, write 4, and so are ours.
const ALL: u8 = 7;

// Operations; registers: r0 result, r1 context then scratch, r2 type, r3 access, r4 major, r5 minor.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xbf;
const MOVE_CONST: u8 = 0xb7;
const AND_CONST: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_NE_CONST: u8 = 0x55;
const JUMP_NE: u8 = 0x5d;
const JUMP_EQ_CONST: u8 = 0x15;
const EXIT: u8 = 0x95;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, constant: i32) -> u64 {
    let mut bytes = [code, (source << 4) | destination, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..8].copy_from_slice(&constant.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

/// The program, one `struct bpf_insn` per element.
pub(super) fn program(policy: &Policy) -> Vec<u64> {
    let mut code = vec![
        instruction(LOAD_WORD, 2, 1, 0, 0),
        instruction(MOVE, 3, 2, 0, 0),
        instruction(AND_CONST, 2, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT, 3, 0, 0, 16),
        instruction(LOAD_WORD, 4, 1, 4, 0),
        instruction(LOAD_WORD, 5, 1, 8, 0),
    ];
    for (devices, bits) in &policy.exceptions {
        // Each test that fails jumps over what is left of this exception; distances are filled in once it is whole.
        let mut tests = vec![(JUMP_NE_CONST, 2, 0, if devices.block { BLOCK } else { CHAR })];
        let numbers = [(4, devices.major), (5, devices.minor)];
        tests.extend(
            numbers
                .into_iter()
                .filter_map(|(register, number)| Some((JUMP_NE_CONST, register, 0, number?.cast_signed()))),
        );
        let mut body: Vec<u64> = Vec::new();
        let access = if *bits == ALL { 0 } else { 3 };
        let length = tests.len() + access + 2;
        for (code, register, source, constant) in tests {
            let rest = length - body.len() - 1;
            body.push(instruction(code, register, source, jump(rest), constant));
        }
        if access != 0 {
            body.push(instruction(MOVE, 1, 3, 0, 0));
            body.push(instruction(AND_CONST, 1, 0, 0, i32::from(*bits)));
            // An exception that allows must cover all that is asked; one that denies applies if it meets any of it.
            let (code, source) = if policy.allow { (JUMP_EQ_CONST, 0) } else { (JUMP_NE, 3) };
            body.push(instruction(code, 1, source, jump(2), 0));
        }
        body.push(instruction(MOVE_CONST, 0, 0, 0, i32::from(!policy.allow)));
        body.push(instruction(EXIT, 0, 0, 0, 0));
        code.append(&mut body);
    }
    code.push(instruction(MOVE_CONST, 0, 0, 0, i32::from(policy.allow)));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

fn jump(distance: usize) -> i16 {
    i16::try_from(distance).expect("an exception has fewer than ten instructions")
}

#[cfg(test)]
mod tests {
    use brig_oci::runtime::DeviceCgroup;

    use super::super::devices::{MKNOD, READ, WRITE};
    use super::*;

    /// The kernel's machine, as far as these programs use it.
    fn run(code: &[u64], block: bool, major: u32, minor: u32, access: u8) -> bool {
        let context = [u32::from(access) << 16 | if block { 1 } else { 2 }, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        loop {
            let bytes = code[at].to_ne_bytes();
            let (destination, source) = ((bytes[1] & 15) as usize, (bytes[1] >> 4) as usize);
            let offset = i16::from_ne_bytes([bytes[2], bytes[3]]);
            let constant = i64::from(i32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]])).cast_unsigned();
            at += 1;
            let mut skip = |hit: bool| at += if hit { offset.unsigned_abs() as usize } else { 0 };
            match bytes[0] {
                LOAD_WORD => registers[destination] = u64::from(context[offset.unsigned_abs() as usize / 4]),
                MOVE => registers[destination] = registers[source],
                MOVE_CONST => registers[destination] = constant,
                AND_CONST => registers[destination] &= constant,
                SHIFT_RIGHT => registers[destination] >>= constant,
                JUMP_NE_CONST => skip(registers[destination] != constant),
                JUMP_EQ_CONST => skip(registers[destination] == constant),
                JUMP_NE => skip(registers[destination] != registers[source]),
                EXIT => return registers[0] != 0,
                other => panic!("{other:#x}"),
            }
        }
    }

    fn rule(allow: bool, type_: &str, major: i64, minor: i64, access: &str) -> DeviceCgroup {
        DeviceCgroup { allow, type_: type_.into(), major: Some(major), minor: Some(minor), access: access.into() }
    }

    #[test]
    fn the_program_means_what_the_policy_means() {
        let sets: [&[DeviceCgroup]; 5] = [
            &[],
            &[
                rule(false, "a", -1, -1, "rwm"),
                rule(true, "c", 10, 200, "rw"),
                rule(true, "b", 8, -1, "r"),
                rule(true, "b", 8, -1, "m"),
            ],
            &[rule(true, "a", -1, -1, "rwm")],
            &[rule(true, "a", -1, -1, "rwm"), rule(false, "c", 10, 229, "rwm"), rule(false, "b", -1, 3, "w")],
            &[rule(true, "c", 10, 229, "rwm"), rule(false, "c", 10, 229, "w")],
        ];
        for rules in sets {
            let policy = Policy::new(rules).unwrap();
            let code = program(&policy);
            println!("{} rules: {} instructions", rules.len(), code.len());
            for block in [false, true] {
                for (major, minor) in
                    [(1, 3), (1, 1), (5, 2), (136, 7), (10, 200), (10, 229), (8, 0), (8, 3), (7, 3), (0, 0)]
                {
                    for access in 1..8u8 {
                        assert_eq!(
                            run(&code, block, major, minor, access),
                            policy.allows(block, major, minor, access),
                            "{rules:?} {block} {major}:{minor} {access}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn what_the_policies_mean() {
        let policy = |rules: &[DeviceCgroup]| Policy::new(rules).unwrap();
        let plain = policy(&[rule(false, "a", -1, -1, "rwm")]);
        assert!(plain.allows(false, 1, 3, READ | WRITE), "null");
        assert!(!plain.allows(false, 1, 1, READ), "mem");
        assert!(!plain.allows(true, 8, 0, READ) && plain.allows(true, 8, 0, MKNOD));
        let docker = policy(&brig_oci::device_rules::docker_default());
        assert!(docker.allows(false, 1, 9, READ) && !docker.allows(false, 10, 229, READ));
        assert!(policy(&brig_oci::device_rules::privileged()).allows(true, 8, 0, READ));
        let privileged = policy(&[rule(true, "", -1, -1, "rwm")]);
        assert!(privileged.allows(true, 8, 0, READ | WRITE | MKNOD));
        assert!(
            !policy(&[rule(true, "c", 10, 229, "rwm"), rule(false, "c", 10, 229, "rwm")]).allows(false, 10, 229, READ)
        );
        let hole = Policy::new(&[rule(true, "c", 10, -1, "rwm"), rule(false, "c", 10, 229, "rwm")]).unwrap_err();
        assert!(hole.message.contains("deny c 10:229 rwm makes a hole"), "{hole}");
        for bad in [rule(true, "x", 1, 1, "r"), rule(true, "c", 1, 1, "x"), rule(true, "c", -2, 1, "r")] {
            assert!(Policy::new(&[bad]).is_err());
        }
    }
}

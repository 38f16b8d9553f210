//! Seeded noise against everything that takes a specification apart: it may refuse, it must not panic, and what it accepts is
//! within its bounds. `BRIG_FUZZ_ROUNDS` multiplies the work. Owns the noise; makes nothing in the kernel.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Component;

use brig_oci::runtime::{Mount, Spec};

use crate::About;
use crate::plan::Plan;

/// The same sequence every time (xorshift64*).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

fn rounds(count: u32) -> u32 {
    let factor = std::env::var("BRIG_FUZZ_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    count * factor
}

/// What specifications get wrong, and what parsers do.
const WORDS: [&str; 40] = [
    "",
    "/",
    "..",
    "/..",
    "a/../../b",
    "\u{0}",
    "\n",
    "-1",
    "0",
    "1",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "1e400",
    "null",
    "true",
    "[]",
    "{}",
    "\"",
    "\\u0000",
    "\\ud800",
    "/proc/self/fd/3",
    "/proc/sys",
    "/dev/null",
    "/sys/fs/cgroup",
    "ro",
    "rw",
    "rbind",
    "idmap",
    "rprivate",
    "size=",
    "size=-1",
    "mode=99999",
    "uid=4294967296",
    "cgroup2",
    "proc",
    "SCMP_ACT_ERRNO",
    "CAP_SYS_ADMIN",
    "RLIMIT_NOFILE",
    "net.ipv4",
];

const SPEC: &str = r#"{"ociVersion":"1.2.0","process":{"args":["true"],"cwd":"/","user":{"uid":0,"gid":0,"additionalGids":[1]},
"env":["A=b"],"capabilities":{"bounding":["CAP_KILL"],"effective":["CAP_KILL"],"permitted":["CAP_KILL"]},
"rlimits":[{"type":"RLIMIT_NOFILE","soft":1,"hard":2}],"oomScoreAdj":5,"scheduler":{"policy":"SCHED_OTHER","nice":1},
"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":4}},"root":{"path":"rootfs","readonly":true},"hostname":"h","mounts":[
{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","ro"]},{"destination":"/dev","type":"tmpfs","options":["mode=755","size=64k"]},
{"destination":"/a","type":"bind","source":"/tmp","options":["rbind","rro","rslave"]}],"hooks":{"prestart":[{"path":"/bin/true","timeout":1}]},
"linux":{"namespaces":[{"type":"mount"},{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"uts"},{"type":"user"}],
"uidMappings":[{"containerID":0,"hostID":100000,"size":65536}],"gidMappings":[{"containerID":0,"hostID":100000,"size":65536}],
"sysctl":{"net.ipv4.ip_forward":"1"},"devices":[{"type":"c","path":"/dev/x","major":1,"minor":3,"fileMode":438}],
"maskedPaths":["/proc/keys"],"readonlyPaths":["/proc/sys"],"rootfsPropagation":"rslave","personality":{"domain":"LINUX"},
"resources":{"devices":[{"allow":false,"access":"rwm"}],"memory":{"limit":67108864},"cpu":{"shares":100,"cpus":"0-1"},"pids":{"limit":5}},
"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO","errnoRet":1,
"args":[{"index":0,"value":1,"valueTwo":2,"op":"SCMP_CMP_MASKED_EQ"}]}]}}}"#;

/// One to three small damages.
fn damaged(noise: &mut Noise) -> Vec<u8> {
    let mut text = SPEC.as_bytes().to_vec();
    for _ in 0..=noise.below(3) {
        let at = noise.below(text.len());
        match noise.below(5) {
            0 => text[at] ^= 1 << noise.below(8),
            1 => {
                let end = (at + noise.below(20)).min(text.len());
                text.drain(at..end);
            }
            2 => {
                let word = noise.pick(&WORDS).as_bytes().to_vec();
                text.splice(at..at, word);
            }
            // A whole value becomes another, which leaves the rest readable.
            _ => {
                let begin = text[at..].iter().position(|byte| *byte == b':').map_or(at, |colon| at + colon + 1);
                let end =
                    text[begin..].iter().position(|byte| b",}]".contains(byte)).map_or(text.len(), |end| begin + end);
                let word = noise.pick(&WORDS);
                let word = if noise.below(2) == 0 { word.to_owned() } else { format!("\"{}\"", word.escape_default()) };
                text.splice(begin..end, word.into_bytes());
            }
        }
        if text.is_empty() {
            return text;
        }
    }
    text
}

#[test]
fn config_json() {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let (mut read, mut planned) = (0, 0);
    for _ in 0..rounds(4000) {
        let text = damaged(&mut noise);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let Ok(spec) = serde_json::from_slice::<Spec>(&text) else { return (0, 0) };
            let again = serde_json::to_vec(&spec).unwrap();
            assert_eq!(serde_json::from_slice::<Spec>(&again).unwrap(), spec, "written and read again it is another");
            (1, i32::from(Plan::new(&spec, &About::default(), None, false).is_ok()))
        }));
        let (one, two) = outcome.unwrap_or_else(|_| panic!("panic at {}", String::from_utf8_lossy(&text)));
        read += one;
        planned += two;
    }
    // Noise that is never understood tests nothing.
    assert!(read > 200 && planned > 20, "{read} read, {planned} planned");
}

#[test]
fn mount_options() {
    let mut noise = Noise(0x1234_5678_9abc_def1);
    let known: Vec<&str> = crate::MOUNT_OPTIONS.iter().copied().chain(WORDS).collect();
    for _ in 0..rounds(20_000) {
        let options: Vec<String> = (0..noise.below(6)).map(|_| noise.pick(&known).to_owned()).collect();
        let type_ = noise.pick(&["bind", "tmpfs", "proc", "sysfs", "cgroup", "overlay", "none", "", "\u{0}"]);
        let mount = Mount { type_: type_.to_owned(), options, ..Mount::default() };
        let outcome = catch_unwind(AssertUnwindSafe(|| crate::options::parse(&mount).is_ok()));
        assert!(outcome.is_ok(), "{mount:?}");
    }
}

#[test]
fn sysctl_names() {
    let mut noise = Noise(0xdead_beef_cafe_f00d);
    let parts = [
        "net", "kernel", "fs", "mqueue", "ipv4", "conf", "eth0", "msgmax", "..", ".", "/", "", "\u{0}", "user", "sys",
        "100", "ä",
    ];
    let mut accepted = 0;
    for _ in 0..rounds(20_000) {
        let mut name = String::new();
        for _ in 0..=noise.below(6) {
            name.push_str(noise.pick(&parts));
            name.push_str(noise.pick(&[".", "/", ""]));
        }
        let parameters = [(name.clone(), "1".to_owned())].into();
        if let Ok(checked) = crate::sysctl::check(&parameters, u64::MAX) {
            accepted += 1;
            for parameter in &checked {
                let path = parameter.path();
                assert!(
                    path.starts_with("sys/net")
                        || path.starts_with("sys/kernel")
                        || path.starts_with("sys/fs/mqueue")
                        || path.starts_with("sys/user"),
                    "{name}: {path:?}"
                );
                assert!(path.components().all(|part| matches!(part, Component::Normal(_))), "{name}: {path:?}");
            }
        }
    }
    assert!(accepted > 100, "{accepted} accepted");
}

//! The verbs of the OCI command line and their flags, as callers of runc use them.
//!
//! Owns: the table that the parser and the help read. Must not: parse or act.

/// One flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flag {
    /// Its name without dashes.
    pub(crate) long: &'static str,
    /// One letter, or empty.
    pub(crate) short: &'static str,
    /// What its value is called; empty for a flag without.
    pub(crate) value: &'static str,
    /// What it does, for people.
    pub(crate) about: &'static str,
}

/// One verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verb {
    pub(crate) name: &'static str,
    /// What it does, for people.
    pub(crate) about: &'static str,
    /// What stands behind the flags, for people.
    pub(crate) operands: &'static str,
    /// How many operands there must be, and may be.
    pub(crate) bounds: (usize, usize),
    /// What follows the first operand is another program's, flags and all.
    pub(crate) passes_on: bool,
    pub(crate) flags: &'static [Flag],
}

const fn switch(long: &'static str, short: &'static str, about: &'static str) -> Flag {
    Flag { long, short, value: "", about }
}

const fn value(long: &'static str, short: &'static str, value: &'static str, about: &'static str) -> Flag {
    Flag { long, short, value, about }
}

const fn verb(
    name: &'static str,
    operands: &'static str,
    bounds: (usize, usize),
    about: &'static str,
    flags: &'static [Flag],
) -> Verb {
    Verb { name, about, operands, bounds, passes_on: false, flags }
}

const fn passing(verb: Verb) -> Verb {
    Verb { passes_on: true, ..verb }
}

/// Any number of operands.
const ANY: usize = usize::MAX;

const HELP: Flag = switch("help", "h", "show this text");
const BUNDLE: Flag = value("bundle", "b", "DIR", "the bundle: where config.json is (default: the current directory)");
const CONFIG: Flag =
    value("config", "f", "FILE", "take the specification from this file instead of the bundle's config.json");
const CONSOLE: Flag = value("console-socket", "", "SOCKET", "unix socket that is sent the master of the terminal");
const PIDFD: Flag = value("pidfd-socket", "", "SOCKET", "unix socket that is sent a pidfd of the new process");
const PID_FILE: Flag = value("pid-file", "", "FILE", "file that the new process's id is written to");
const PRESERVE: Flag = value("preserve-fds", "", "N", "keep N descriptors open besides the streams and $LISTEN_FDS");
const NO_PIVOT: Flag = switch("no-pivot", "", "enter the root without pivot_root, for a host that runs from its ramfs");
const NO_KEYRING: Flag = switch("no-new-keyring", "", "keep the caller's session keyring");
const DETACH: Flag = switch("detach", "d", "return as soon as the process runs");
const NO_SUBREAPER: Flag = switch("no-subreaper", "", "do not adopt and reap the container's orphans");
const KEEP: Flag = switch("keep", "", "do not delete the container when it has ended");
const FORMAT: Flag = value("format", "f", "table|json", "how to print (default: table)");
const IMAGE_PATH: Flag = value("image-path", "", "DIR", "where CRIU's image files are (default: ./checkpoint)");
const WORK_PATH: Flag = value("work-path", "", "DIR", "where CRIU's work files and logs go");
const TCP: Flag = switch("tcp-established", "", "allow open TCP connections");
const UNIX_SK: Flag = switch("ext-unix-sk", "", "allow unix sockets that lead outside");
const SHELL_JOB: Flag = switch("shell-job", "", "allow a session led from outside");
const LAZY: Flag = switch("lazy-pages", "", "bring memory over as it is used (userfaultfd)");
const FILE_LOCKS: Flag = switch("file-locks", "", "allow file locks");
const CGROUPS_MODE: Flag = value("manage-cgroups-mode", "", "soft|full|strict|ignore", "how CRIU treats cgroups");
const EMPTY_NS: Flag = value("empty-ns", "", "network", "make this namespace, but restore nothing into it");
const AUTO_DEDUP: Flag = switch("auto-dedup", "", "drop pages that a later image has again");

/// Flags before the verb.
pub(crate) const GLOBAL: &[Flag] = &[
    switch("debug", "", "log what is done, step by step"),
    value("log", "", "FILE", "append the log to this file (default: stderr)"),
    value("log-format", "", "text|json", "form of the log (default: text)"),
    value("root", "", "DIR", "where containers are remembered (default: /run/brig-rt, or below $XDG_RUNTIME_DIR)"),
    switch("systemd-cgroup", "", "let systemd make the cgroups; linux.cgroupsPath is slice:prefix:name"),
    value("cgroup-manager", "", "cgroupfs|systemd", "who makes the cgroups, in crun's words (default: cgroupfs)"),
    value("rootless", "", "true|false|auto", "pass over cgroups that may not be written (default: auto)"),
    value("criu", "", "", ""),
    HELP,
    switch("version", "v", "show the version"),
];

/// Every verb.
pub(crate) const VERBS: &[Verb] = &[
    verb(
        "checkpoint",
        "ID",
        (1, 1),
        "save a running container to files with CRIU",
        &[
            IMAGE_PATH,
            WORK_PATH,
            value("parent-path", "", "DIR", "earlier images that this one builds on, relative to the image directory"),
            switch("leave-running", "", "let the container go on"),
            TCP,
            switch("tcp-skip-in-flight", "", "leave out connections that are being made"),
            switch("link-remap", "", "allow files that were deleted but for a link"),
            UNIX_SK,
            SHELL_JOB,
            LAZY,
            value("status-fd", "", "FD", "descriptor that is written to when the lazy-pages server is ready"),
            value("page-server", "", "ADDRESS:PORT", "send memory pages to this server"),
            FILE_LOCKS,
            switch("pre-dump", "", "save memory only, and let the container go on"),
            CGROUPS_MODE,
            EMPTY_NS,
            AUTO_DEDUP,
        ],
    ),
    verb("create", "ID", (1, 1), "make a container from a bundle and stop short of its program", CREATE),
    verb(
        "delete",
        "ID",
        (1, 1),
        "remove what a container that has ended has left",
        &[switch("force", "f", "kill it first if it runs; not being there is no error")],
    ),
    verb(
        "events",
        "ID",
        (1, 1),
        "print usage and out-of-memory events as JSON lines",
        &[
            value("interval", "", "DURATION", "time between two lines (default: 5s)"),
            switch("stats", "", "print the usage once and end"),
        ],
    ),
    passing(verb("exec", "ID [COMMAND [ARGUMENT...]]", (1, ANY), "run another process in a container", EXEC)),
    verb(
        "kill",
        "ID [SIGNAL]",
        (1, 2),
        "send a signal (default: SIGTERM) to a container's first process",
        &[switch("all", "a", "send it to all processes; that none is left is no error")],
    ),
    verb("list", "", (0, 0), "list the containers below --root", &[FORMAT, switch("quiet", "q", "print only ids")]),
    verb("pause", "ID", (1, 1), "stop all processes of a container where they are", &[]),
    passing(verb("ps", "ID [OPTION OF PS...]", (1, ANY), "list the processes of a container", &[FORMAT])),
    verb(
        "restore",
        "ID",
        (1, 1),
        "bring back a container that checkpoint saved",
        &[
            CONSOLE,
            IMAGE_PATH,
            WORK_PATH,
            TCP,
            UNIX_SK,
            SHELL_JOB,
            FILE_LOCKS,
            CGROUPS_MODE,
            BUNDLE,
            DETACH,
            PID_FILE,
            NO_SUBREAPER,
            NO_PIVOT,
            EMPTY_NS,
            AUTO_DEDUP,
            LAZY,
            value("lsm-profile", "", "TYPE:NAME", "security profile to use instead of the saved one"),
            value("lsm-mount-context", "", "CONTEXT", "SELinux context of mounts to use instead of the saved one"),
        ],
    ),
    verb("resume", "ID", (1, 1), "let a paused container go on", &[]),
    verb("run", "ID", (1, 1), "create and start a container, wait for its end and delete it", RUN),
    verb(
        "spec",
        "",
        (0, 0),
        "write a first config.json",
        &[BUNDLE, switch("rootless", "", "for a container that needs no privilege")],
    ),
    verb("start", "ID", (1, 1), "run the program of a created container", &[]),
    verb("state", "ID", (1, 1), "print the state of a container as JSON", &[]),
    verb("update", "ID", (1, 1), "change the limits of a container", UPDATE),
    verb("features", "", (0, 0), "print what this runtime can do as JSON", &[]),
];

const CREATE: &[Flag] = &[BUNDLE, CONFIG, CONSOLE, PIDFD, PID_FILE, NO_PIVOT, NO_KEYRING, PRESERVE];

const RUN: &[Flag] =
    &[BUNDLE, CONFIG, CONSOLE, PIDFD, DETACH, KEEP, PID_FILE, NO_SUBREAPER, NO_PIVOT, NO_KEYRING, PRESERVE];

const EXEC: &[Flag] = &[
    CONSOLE,
    PIDFD,
    value("cwd", "", "DIR", "working directory inside"),
    value("env", "e", "NAME=VALUE", "one more environment variable; may be repeated"),
    switch("tty", "t", "give it a terminal"),
    value("user", "u", "UID[:GID]", "whom to run it as"),
    value("additional-gids", "g", "GID", "one more group; may be repeated"),
    value("process", "p", "FILE", "take the process from this file: JSON, as in config.json"),
    DETACH,
    PID_FILE,
    value("process-label", "", "LABEL", "its SELinux label"),
    value("apparmor", "", "PROFILE", "its AppArmor profile"),
    switch("no-new-privs", "", "never let it gain privileges"),
    value("cap", "c", "CAPABILITY", "one more capability; may be repeated"),
    PRESERVE,
    value("cgroup", "", "[CONTROLLER:]PATH", "run it in this existing cgroup below the container's; may be repeated"),
    switch("ignore-paused", "", "allow it in a paused container"),
];

const UPDATE: &[Flag] = &[
    value("resources", "r", "FILE", "take all limits from this file (- is stdin): JSON, as linux.resources"),
    value("blkio-weight", "", "WEIGHT", "share of block I/O, 10 to 1000"),
    value("cpu-period", "", "MICROSECONDS", "length of the period that the quota is for"),
    value("cpu-quota", "", "MICROSECONDS", "CPU time per period"),
    value("cpu-burst", "", "MICROSECONDS", "unused quota that may be saved up"),
    value("cpu-share", "", "SHARES", "share of CPU time beside others"),
    value("cpu-rt-period", "", "MICROSECONDS", "length of the realtime period"),
    value("cpu-rt-runtime", "", "MICROSECONDS", "realtime CPU time per period"),
    value("cpuset-cpus", "", "CPUS", "CPUs to use"),
    value("cpuset-mems", "", "NODES", "memory nodes to use"),
    value("kernel-memory", "", "BYTES", ""),
    value("kernel-memory-tcp", "", "BYTES", ""),
    value("memory", "", "BYTES", "memory limit; -1 is none"),
    value("cpu-idle", "", "0|1", "run only when nobody else wants the CPU"),
    value("memory-reservation", "", "BYTES", "memory that is left to it when memory is scarce"),
    value("memory-swap", "", "BYTES", "limit of memory and swap together; -1 is none"),
    value("pids-limit", "", "N", "how many processes it may have"),
    value("l3-cache-schema", "", "SCHEMA", "Intel RDT: schema of the L3 cache"),
    value("mem-bw-schema", "", "SCHEMA", "Intel RDT: schema of memory bandwidth"),
];

/// The verb of this name.
pub(crate) fn find(name: &str) -> Option<&'static Verb> {
    VERBS.iter().find(|verb| verb.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_means_two_things() {
        for (verb, flags) in VERBS.iter().map(|verb| (verb.name, verb.flags)).chain([("", GLOBAL)]) {
            let mut names: Vec<&str> =
                flags.iter().flat_map(|flag| [flag.long, flag.short]).filter(|name| !name.is_empty()).collect();
            names.sort_unstable();
            let before = names.len();
            names.dedup();
            assert_eq!(names.len(), before, "{verb}");
        }
        assert!(find("create").is_some() && find("").is_none());
    }
}

//! The OCI runtime's command line, taken apart.
//!
//! Owns: which flags exist, where they may stand and which take a value, as other engines call runc. Must not: act on them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// A command line that makes no sense; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misuse(pub(crate) String);

/// Flags before the verb.
const GLOBAL: &[&str] = &[
    "--root=",
    "--log=",
    "--log-format=",
    "--debug",
    "--systemd-cgroup",
    "--rootless=",
    "--version",
    "-v",
    "--help",
    "-h",
];

/// Flags of each verb; those with `=` take a value.
const VERBS: &[(&str, &[&str])] = &[
    ("create", CREATE),
    ("run", RUN),
    ("start", &[]),
    ("state", &[]),
    ("kill", &["--all", "-a"]),
    ("delete", &["--force", "-f"]),
    ("exec", EXEC),
    ("list", &["--format=", "-f=", "--quiet", "-q"]),
    ("ps", &["--format=", "-f="]),
    ("pause", &[]),
    ("resume", &[]),
    ("spec", &["--bundle=", "-b=", "--rootless"]),
    ("features", &[]),
];

const CREATE: &[&str] = &[
    "--bundle=",
    "-b=",
    "--console-socket=",
    "--pidfd-socket=",
    "--pid-file=",
    "--no-pivot",
    "--no-new-keyring",
    "--preserve-fds=",
];

const RUN: &[&str] = &[
    "--bundle=",
    "-b=",
    "--console-socket=",
    "--pidfd-socket=",
    "--pid-file=",
    "--no-pivot",
    "--no-new-keyring",
    "--preserve-fds=",
    "--detach",
    "-d",
    "--keep",
    "--no-subreaper",
];

const EXEC: &[&str] = &[
    "--process=",
    "-p=",
    "--console-socket=",
    "--pidfd-socket=",
    "--pid-file=",
    "--detach",
    "-d",
    "--cwd=",
    "--env=",
    "-e=",
    "--tty",
    "-t",
    "--user=",
    "-u=",
    "--preserve-fds=",
    "--ignore-paused",
];

/// A command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// What to do; empty when none was given.
    pub(crate) verb: String,
    /// What stands behind the flags: the container's id and more.
    pub(crate) operands: Vec<String>,
    /// Flags by their long name, without dashes; every value that was given, empty for flags without.
    flags: BTreeMap<String, Vec<String>>,
}

impl CommandLine {
    /// Takes arguments apart.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<CommandLine, Misuse> {
        let mut line = CommandLine::default();
        let mut rest = arguments.iter().map(|argument| {
            argument.to_str().ok_or_else(|| Misuse(format!("{}: is not UTF-8", argument.to_string_lossy())))
        });
        let mut known = GLOBAL;
        while let Some(argument) = rest.next().transpose()? {
            if !argument.starts_with('-') || argument == "-" {
                if line.verb.is_empty() {
                    line.verb = argument.to_owned();
                    known = flags_of(argument)?;
                    continue;
                }
                line.operands.push(argument.to_owned());
                // `exec ID program --its-own-flag`: what follows the id belongs to the program.
                if line.verb == "exec" {
                    line.operands
                        .extend(rest.by_ref().map(|more| more.map(str::to_owned)).collect::<Result<Vec<_>, _>>()?);
                }
                continue;
            }
            if argument == "--" {
                line.operands.extend(rest.by_ref().map(|more| more.map(str::to_owned)).collect::<Result<Vec<_>, _>>()?);
                break;
            }
            line.flag(argument, known, &mut rest)?;
        }
        Ok(line)
    }

    fn flag<'a>(
        &mut self,
        argument: &str,
        known: &[&str],
        rest: &mut impl Iterator<Item = Result<&'a str, Misuse>>,
    ) -> Result<(), Misuse> {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument, None),
        };
        // Go's flag package, which callers are written for, takes `-flag` and `--flag` alike.
        let dashed = if name.starts_with("--") || name.len() == 2 { name.to_owned() } else { format!("-{name}") };
        let takes = |flag: &&&str| flag.strip_suffix('=').unwrap_or(flag) == dashed;
        let Some(flag) = known.iter().find(takes) else {
            return Err(Misuse(format!("flag provided but not defined: {name}")));
        };
        let value = match (flag.ends_with('='), inline) {
            (true, Some(value)) => value,
            (true, None) => {
                rest.next().transpose()?.ok_or_else(|| Misuse(format!("flag needs an argument: {name}")))?.to_owned()
            }
            (false, None) => String::new(),
            (false, Some(value)) => match value.as_str() {
                "true" | "1" => String::new(),
                "false" | "0" => return Ok(()),
                _ => return Err(Misuse(format!("invalid boolean value {value:?} for {name}"))),
            },
        };
        self.flags.entry(long_name(&self.verb, &dashed).to_owned()).or_default().push(value);
        Ok(())
    }

    /// Whether a flag was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.flags.contains_key(name)
    }

    /// The last value of a flag.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.flags.get(name).and_then(|values| values.last()).map(String::as_str)
    }

    /// All values of a flag.
    pub(crate) fn values(&self, name: &str) -> &[String] {
        self.flags.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of a flag that is a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// The container's id, which every verb that needs one has first.
    pub(crate) fn id(&self) -> Result<&str, Misuse> {
        let id = self.operands.first().ok_or_else(|| Misuse(format!("{}: requires a container id", self.verb)))?;
        let usable = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte));
        if !usable || id.is_empty() || id.len() > 1024 || id == "." || id == ".." {
            return Err(Misuse(format!("invalid container ID format: {id}")));
        }
        Ok(id)
    }
}

fn flags_of(verb: &str) -> Result<&'static [&'static str], Misuse> {
    let found = VERBS.iter().find(|(name, _)| *name == verb);
    found.map(|(_, flags)| *flags).ok_or_else(|| match verb {
        "checkpoint" | "restore" | "events" | "update" => Misuse(format!("{verb}: not supported by this runtime")),
        _ => Misuse(format!("no such command: {verb}; try brig-rt --help")),
    })
}

/// The long form of a flag, which alone the rest of the program knows.
fn long_name<'a>(verb: &str, dashed: &'a str) -> &'a str {
    match (dashed, verb) {
        ("-a", _) => "all",
        ("-b", _) => "bundle",
        ("-d", _) => "detach",
        ("-e", _) => "env",
        ("-f", "delete") => "force",
        ("-f", _) => "format",
        ("-h", _) => "help",
        ("-p", _) => "process",
        ("-q", _) => "quiet",
        ("-t", _) => "tty",
        ("-u", _) => "user",
        ("-v", _) => "version",
        (long, _) => long.trim_start_matches('-'),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CommandLine, Misuse> {
        let arguments: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
        CommandLine::parse(&arguments)
    }

    #[test]
    fn as_containerd_calls() {
        let line = parse(
            "--root /r --log /b/log.json --log-format json create --bundle /b --pid-file /b/pid --no-new-keyring c1",
        )
        .unwrap();
        assert_eq!((line.verb.as_str(), line.id().unwrap()), ("create", "c1"));
        assert_eq!(
            (line.value("root"), line.value("log-format"), line.value("pid-file")),
            (Some("/r"), Some("json"), Some("/b/pid"))
        );
        assert!(line.has("no-new-keyring") && !line.has("no-pivot"));
        let line = parse("--root=/r delete --force c1").unwrap();
        assert_eq!((line.value("root"), line.has("force")), (Some("/r"), true));
        let line = parse("kill --all c1 9").unwrap();
        assert_eq!(line.operands, ["c1", "9"]);
        assert!(parse("delete -f c1").unwrap().has("force"));
        assert_eq!(parse("list -f json").unwrap().value("format"), Some("json"));
    }

    #[test]
    fn exec_leaves_the_programs_flags_alone() {
        let line = parse("exec -t -e A=1 --env B=2 c1 ls -l --color=no").unwrap();
        assert_eq!(line.operands, ["c1", "ls", "-l", "--color=no"]);
        assert_eq!(line.values("env"), ["A=1", "B=2"]);
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        for (text, want) in [
            ("dance c1", "no such command: dance"),
            ("checkpoint c1", "not supported"),
            ("create --nope c1", "not defined: --nope"),
            ("create --bundle", "needs an argument: --bundle"),
            ("delete --force=maybe c1", "invalid boolean value \"maybe\""),
        ] {
            let Misuse(error) = parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
        for id in ["..", "a/b", "a b"] {
            let line = CommandLine { verb: "state".into(), operands: vec![id.into()], ..CommandLine::default() };
            assert_eq!(line.id().unwrap_err().0, format!("invalid container ID format: {id}"));
        }
        assert!(parse("state").unwrap().id().is_err());
    }
}

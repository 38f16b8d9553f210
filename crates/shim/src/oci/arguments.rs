//! The OCI runtime's command line, taken apart.
//!
//! Owns: where flags may stand, how they are written, and which container ids are usable. Must not: act on them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use crate::oci::verbs::{self, Flag, GLOBAL, Verb};

/// No caller has ids as long as this; a file name could not be longer anyway with what is put behind it.
const MAX_ID: usize = 1024;

/// A command line that makes no sense; the text is for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misuse(pub(crate) String);

/// A command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CommandLine {
    /// What to do; empty when none was given.
    pub(crate) verb: String,
    /// What stands behind the flags: the container's id and more.
    pub(crate) operands: Vec<String>,
    /// Flags by their long name, without dashes; every value that was given, empty for flags without.
    flags: BTreeMap<&'static str, Vec<String>>,
    /// Somebody wants to know about the verb instead.
    pub(crate) help: bool,
}

impl CommandLine {
    /// Takes arguments apart. What was understood before the mistake comes with it: where the log goes.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<CommandLine, (CommandLine, Misuse)> {
        let mut line = CommandLine::default();
        match line.read(arguments) {
            Ok(()) => Ok(line),
            Err(misuse) => Err((line, misuse)),
        }
    }

    fn read(&mut self, arguments: &[OsString]) -> Result<(), Misuse> {
        let mut rest = arguments.iter().map(|argument| {
            argument.to_str().ok_or_else(|| Misuse(format!("{}: is not UTF-8", argument.to_string_lossy())))
        });
        let mut verb: Option<&Verb> = None;
        while let Some(argument) = rest.next().transpose()? {
            if argument == "--" {
                self.take_all(&mut rest)?;
                break;
            }
            if argument.starts_with('-') && argument.len() > 1 {
                let known = verb.map_or(GLOBAL, |verb| verb.flags);
                if self.flag(argument, known, &mut rest)? {
                    continue;
                }
                // `kill ID -9`: once there is an operand, only what is known is a flag.
                if self.operands.is_empty() {
                    let name = argument.split_once('=').map_or(argument, |(name, _)| name);
                    return Err(Misuse(format!("flag provided but not defined: {name}")));
                }
            }
            match verb {
                Some(_) => self.operands.push(argument.to_owned()),
                None if matches!(argument, "help" | "h") => {
                    self.help = true;
                    let about = rest.next().transpose()?.filter(|verb| !verb.starts_with('-'));
                    about.unwrap_or_default().clone_into(&mut self.verb);
                    break;
                }
                None => {
                    argument.clone_into(&mut self.verb);
                    verb = verbs::find(argument);
                    if verb.is_none() {
                        // Nothing is known about its flags; asking about it is another mistake than using it.
                        break;
                    }
                }
            }
            if !self.operands.is_empty() && verb.is_some_and(|verb| verb.passes_on) {
                self.take_all(&mut rest)?;
            }
        }
        if self.help { Ok(()) } else { self.check_operands(verb) }
    }

    fn take_all<'a>(&mut self, rest: &mut impl Iterator<Item = Result<&'a str, Misuse>>) -> Result<(), Misuse> {
        for argument in rest {
            self.operands.push(argument?.to_owned());
        }
        Ok(())
    }

    /// Takes a flag and its value; false if there is none of that name.
    fn flag<'a>(
        &mut self,
        argument: &str,
        known: &'static [Flag],
        rest: &mut impl Iterator<Item = Result<&'a str, Misuse>>,
    ) -> Result<bool, Misuse> {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument, None),
        };
        // Go's flag package, which callers are written for, takes `-flag` and `--flag` alike.
        let bare = name.strip_prefix("--").or_else(|| name.strip_prefix('-')).unwrap_or(name);
        if matches!(bare, "help" | "h") {
            self.help = true;
            return Ok(true);
        }
        let found = known.iter().find(|flag| !bare.is_empty() && (flag.long == bare || flag.short == bare));
        let Some(flag) = found else { return Ok(false) };
        let takes_value = !flag.value.is_empty() || flag.long == "criu";
        let value = match (takes_value, inline) {
            (true, Some(value)) => value,
            (true, None) => {
                rest.next().transpose()?.ok_or_else(|| Misuse(format!("flag needs an argument: {name}")))?.to_owned()
            }
            (false, None) => String::new(),
            (false, Some(value)) => match truth(&value) {
                Some(true) => String::new(),
                Some(false) => {
                    self.flags.remove(flag.long);
                    return Ok(true);
                }
                None => return Err(Misuse(format!("invalid boolean value {value:?} for {name}"))),
            },
        };
        self.flags.entry(flag.long).or_default().push(value);
        Ok(true)
    }

    /// Refuses too many and too few operands in the words that callers know.
    fn check_operands(&self, verb: Option<&Verb>) -> Result<(), Misuse> {
        let Some(Verb { name, bounds: (least, most), .. }) = verb else { return Ok(()) };
        let count = self.operands.len();
        if least == most && count != *least {
            return Err(Misuse(format!("{name:?} requires exactly {least} argument(s)")));
        }
        if count < *least {
            return Err(Misuse(format!("{name:?} requires a minimum of {least} argument(s)")));
        }
        if count > *most {
            return Err(Misuse(format!("{name:?} requires a maximum of {most} argument(s)")));
        }
        Ok(())
    }

    /// Whether a flag was given.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.flags.contains_key(name)
    }

    /// The last value of a flag; an empty one is as good as none.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.flags.get(name)?.last().map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All values of a flag.
    pub(crate) fn values(&self, name: &str) -> &[String] {
        self.flags.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of a flag that is a path.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        self.value(name).map(PathBuf::from)
    }

    /// The value of a flag that is a whole number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Misuse> {
        let parse = |text: &str| text.parse().map_err(|_| Misuse(format!("invalid value {text:?} for flag -{name}")));
        self.value(name).map(parse).transpose()
    }

    /// The value of `--rootless`; `None` leaves it to us.
    pub(crate) fn rootless(&self) -> Result<Option<bool>, Misuse> {
        match self.value("rootless").unwrap_or("auto") {
            text if text.eq_ignore_ascii_case("auto") => Ok(None),
            text => {
                let bad = || Misuse(format!("invalid value {text:?} for --rootless: true, false or auto"));
                truth(text).map(Some).ok_or_else(bad)
            }
        }
    }

    /// Whether systemd is to make the cgroups: `--systemd-cgroup`, or in crun's words `--cgroup-manager=systemd`.
    pub(crate) fn systemd_cgroup(&self) -> Result<bool, Misuse> {
        match self.value("cgroup-manager") {
            None => Ok(self.has("systemd-cgroup")),
            Some("systemd") => Ok(true),
            Some("cgroupfs") => Ok(false),
            Some(other) => Err(Misuse(format!("invalid value {other:?} for --cgroup-manager: cgroupfs or systemd"))),
        }
    }

    /// The container's id, which every verb that needs one has first.
    pub(crate) fn id(&self) -> Result<&str, Misuse> {
        match self.operands.first().map(String::as_str) {
            None | Some("") => Err(Misuse("container id cannot be empty".to_owned())),
            Some(id) if usable(id) => Ok(id),
            // A long or strange id is not repeated at full length, nor with what a terminal would obey.
            Some(id) => {
                let shown: String = id.chars().take(100).collect();
                let why = match id.chars().find(|&letter| !allowed(letter)) {
                    Some(letter) => format!("invalid character {letter:?}"),
                    None => "invalid as the name of a directory".to_owned(),
                };
                Err(Misuse(format!("invalid container ID format: {shown:?}: {why}")))
            }
        }
    }
}

/// Whether an id can be a directory's name and nothing else.
fn usable(id: &str) -> bool {
    id.chars().all(allowed) && id.len() <= MAX_ID && !matches!(id, "" | "." | "..")
}

fn allowed(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "_+-.".contains(letter)
}

/// What Go takes for a truth value.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<CommandLine, Misuse> {
        let arguments: Vec<OsString> = text.split_whitespace().map(OsString::from).collect();
        CommandLine::parse(&arguments).map_err(|(_, misuse)| misuse)
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
        assert_eq!(parse("--rootless=true state c1").unwrap().rootless(), Ok(Some(true)));
        assert_eq!(parse("--cgroup-manager cgroupfs state c1").unwrap().systemd_cgroup(), Ok(false));
        assert_eq!(parse("--cgroup-manager=systemd state c1").unwrap().systemd_cgroup(), Ok(true));
        assert!(parse("--cgroup-manager other state c1").unwrap().systemd_cgroup().is_err());
        assert_eq!(parse("--systemd-cgroup state c1").unwrap().systemd_cgroup(), Ok(true));
        assert_eq!(parse("run -f x.json c1").unwrap().value("config"), Some("x.json"));
        assert_eq!(parse("restore -no-subreaper -d c1").map(|line| line.has("no-subreaper")), Ok(true));
    }

    #[test]
    fn flags_may_follow_operands_unless_they_are_a_programs() {
        let line = parse("delete c1 --force").unwrap();
        assert!(line.has("force"));
        assert_eq!(line.operands, ["c1"]);
        assert_eq!(parse("kill c1 -9").unwrap().operands, ["c1", "-9"]);
        let line = parse("exec -t -e A=1 --env B=2 c1 ls -l --color=no --tty").unwrap();
        assert_eq!(line.operands, ["c1", "ls", "-l", "--color=no", "--tty"]);
        assert_eq!(line.values("env"), ["A=1", "B=2"]);
        assert_eq!(parse("ps c1 -e -x").unwrap().operands, ["c1", "-e", "-x"]);
        assert_eq!(parse("exec c1 -- ls").unwrap().operands, ["c1", "--", "ls"]);
        assert_eq!(parse("exec -- c1 ls").unwrap().operands, ["c1", "ls"]);
    }

    #[test]
    fn refusals_name_what_is_wrong() {
        for (text, says) in [
            ("create --colour c1", "flag provided but not defined: --colour"),
            ("create --colour=x c1", "flag provided but not defined: --colour"),
            ("- c1", ""),
            ("create c1 --bundle", "flag needs an argument: --bundle"),
            ("create --no-pivot=perhaps c1", "invalid boolean value \"perhaps\" for --no-pivot"),
            ("create", "\"create\" requires exactly 1 argument(s)"),
            ("create c1 c2", "\"create\" requires exactly 1 argument(s)"),
            ("exec", "\"exec\" requires a minimum of 1 argument(s)"),
            ("kill c1 9 10", "\"kill\" requires a maximum of 2 argument(s)"),
            ("list c1", "\"list\" requires exactly 0 argument(s)"),
        ] {
            let said = parse(text).err().map_or_else(String::new, |misuse| misuse.0);
            assert_eq!(said, says, "{text}");
        }
        assert!(parse("--rootless maybe state c1").unwrap().rootless().is_err());
        assert!(parse("create --preserve-fds x c1").unwrap().number::<u32>("preserve-fds").is_err());
        assert!(parse("create --preserve-fds -1 c1").unwrap().number::<u32>("preserve-fds").is_err());
    }

    #[test]
    fn a_switch_can_be_taken_back() {
        assert!(!parse("delete --force --force=false c1").unwrap().has("force"));
        assert!(parse("delete --force=false --force=T c1").unwrap().has("force"));
    }

    #[test]
    fn asking_for_help() {
        for text in ["help create", "create -h", "create --help", "h create", "create c1 --help"] {
            let line = parse(text).unwrap();
            assert_eq!((line.help, line.verb.as_str()), (true, "create"), "{text}");
        }
        assert!(!parse("exec c1 ls --help").unwrap().help);
        assert_eq!(parse("nonsense -h").unwrap().verb, "nonsense");
    }

    #[test]
    fn ids_that_are_no_file_names_are_refused() {
        let long = "a".repeat(1025);
        for id in ["", ".", "..", "../x", "a/b", "/", "a\nb", "a\0b", "\u{e9}", "a b", "-\u{1b}[2J", &long] {
            let line = CommandLine { operands: vec![id.to_owned()], ..CommandLine::default() };
            let misuse = line.id().unwrap_err().0;
            assert!(misuse.contains("container ID format") || misuse == "container id cannot be empty", "{misuse}");
            assert!(misuse.len() < 200 && !misuse.contains(['\n', '\u{1b}', '\0']), "{misuse}");
        }
        for id in ["a", "A-1_2.3+4", "...", ".a", &long[1..]] {
            let line = CommandLine { operands: vec![id.to_owned()], ..CommandLine::default() };
            assert_eq!(line.id().unwrap(), id);
        }
    }

    /// Whatever is written on the command line, taking it apart ends, and without a panic.
    #[test]
    fn any_words_in_any_order() {
        const WORDS: [&str; 26] = [
            "create",
            "exec",
            "kill",
            "help",
            "-h",
            "--",
            "-",
            "---",
            "--=",
            "-=",
            "=",
            "--root",
            "--root=",
            "-root=x",
            "--no-pivot",
            "--no-pivot=0",
            "--force=t",
            "-e",
            "-e=",
            "--env",
            "c1",
            "..",
            "",
            "-b",
            "--bundle=a=b",
            "\u{1f980}",
        ];
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for _ in 0..50_000 {
            let count = next() % 7;
            let words: Vec<OsString> =
                (0..count).map(|_| WORDS[(next() % WORDS.len() as u64) as usize].into()).collect();
            if let Ok(line) = CommandLine::parse(&words) {
                line.id().map(str::len).unwrap_or_default();
                line.rootless().unwrap_or_default();
            }
        }
    }
}

//! Flags as data, and the parser that reads an argument list against them the way Docker's does (pflag).
//! Knows no command and no meaning of a value beyond its form; prints nothing.

use crate::parse;

/// The form of a flag's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Present or `=true`/`=false`.
    Bool,
    /// A signed whole number.
    Int,
    /// An unsigned whole number.
    Uint,
    /// An unsigned whole number up to 65,535.
    Uint16,
    /// A size in bytes, as `512m`.
    Bytes,
    /// A size in bytes where -1 means unlimited.
    SwapBytes,
    /// A time as Go writes it, `1m30s`.
    Duration,
    /// A number of CPUs, `1.5`.
    Cpus,
    /// Text; the last one given wins.
    Text,
    /// Text, as often as wanted.
    List,
}

/// A check of a value: Docker's words if it does not pass.
pub type Check = fn(&str) -> Result<(), String>;

/// One flag of a command.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// Name after `--`.
    pub long: &'static str,
    /// Letter after `-`.
    pub short: Option<char>,
    /// Form of the value.
    pub kind: Kind,
    /// What the help calls the value; empty for switches.
    pub value: &'static str,
    /// Value when not given; empty means the zero of its kind.
    pub default: &'static str,
    /// One line for the help; may hold line breaks.
    pub help: &'static str,
    /// Accepted but not shown.
    pub hidden: bool,
    /// Name of the flag that this one is another spelling of.
    pub same_as: Option<&'static str>,
    /// What else a value must pass.
    pub check: Option<Check>,
}

impl Flag {
    /// A flag of a kind, shown with `value` in the help.
    pub const fn new(long: &'static str, kind: Kind, value: &'static str, help: &'static str) -> Flag {
        Flag { long, short: None, kind, value, default: "", help, hidden: false, same_as: None, check: None }
    }
    /// A switch.
    pub const fn switch(long: &'static str, help: &'static str) -> Flag {
        Flag::new(long, Kind::Bool, "", help)
    }
    /// Text, last one wins.
    pub const fn text(long: &'static str, help: &'static str) -> Flag {
        Flag::new(long, Kind::Text, "string", help)
    }
    /// Text, repeatable.
    pub const fn list(long: &'static str, help: &'static str) -> Flag {
        Flag::new(long, Kind::List, "list", help)
    }
    /// With a letter.
    pub const fn short(mut self, letter: char) -> Flag {
        self.short = Some(letter);
        self
    }
    /// With a default value.
    pub const fn default(mut self, value: &'static str) -> Flag {
        self.default = value;
        self
    }
    /// Not shown in the help.
    pub const fn hidden(mut self) -> Flag {
        self.hidden = true;
        self
    }
    /// Another spelling of `long`, not shown in the help.
    pub const fn same_as(mut self, long: &'static str) -> Flag {
        self.hidden = true;
        self.same_as = Some(long);
        self
    }
    /// With a check of each value.
    pub const fn check(mut self, check: Check) -> Flag {
        self.check = Some(check);
        self
    }

    fn display(&self) -> String {
        match self.short {
            Some(letter) => format!("-{letter}, --{}", self.long),
            None => format!("--{}", self.long),
        }
    }

    fn validate(&self, value: &str) -> Result<(), String> {
        let result = match self.kind {
            Kind::Bool => parse::number::boolean(value).map(drop),
            Kind::Int => parse::number::int(value).map(drop),
            Kind::Uint => parse::number::uint(value).map(drop),
            Kind::Uint16 => parse::number::uint16(value).map(drop),
            Kind::Bytes => parse::size::bytes(value).map(drop),
            Kind::SwapBytes => parse::size::swap_bytes(value).map(drop),
            Kind::Duration => parse::duration::nanoseconds(value).map(drop),
            Kind::Cpus => parse::number::nano_cpus(value).map(drop),
            Kind::Text | Kind::List => Ok(()),
        };
        result
            .and_then(|()| self.check.map_or(Ok(()), |check| check(value)))
            .map_err(|why| format!("invalid argument {value:?} for {:?} flag: {why}", self.display()))
    }
}

/// What an argument list held.
#[derive(Debug)]
pub struct Matches {
    tables: Vec<&'static [Flag]>,
    given: Vec<(&'static str, String)>,
    /// Everything that is no flag.
    pub args: Vec<String>,
    /// `--help` was among them.
    pub help: bool,
}

impl Matches {
    /// An empty list over these tables, for callers that fill in flags themselves.
    pub fn over(tables: &[&'static [Flag]]) -> Matches {
        Matches { tables: tables.to_vec(), given: Vec::new(), args: Vec::new(), help: false }
    }
    /// The flag was given at least once.
    pub fn changed(&self, long: &str) -> bool {
        self.given.iter().any(|(name, _)| *name == long)
    }
    /// Value of a text flag or of any other as it was typed; its default if it was not given.
    pub fn text(&self, long: &str) -> &str {
        match self.given.iter().rev().find(|(name, _)| *name == long) {
            Some((_, value)) => value,
            None => self.initial(long),
        }
    }
    /// The text flag if it was given.
    pub fn given(&self, long: &str) -> Option<&str> {
        self.changed(long).then(|| self.text(long))
    }
    /// Whether a switch is on.
    pub fn bool(&self, long: &str) -> bool {
        parse::number::boolean(self.text(long)).unwrap_or_default()
    }
    /// A number; 0 if absent.
    pub fn int(&self, long: &str) -> i64 {
        parse::number::int(self.text(long)).unwrap_or_default()
    }
    /// A size in bytes; 0 if absent.
    pub fn bytes(&self, long: &str) -> i64 {
        parse::size::swap_bytes(self.text(long)).unwrap_or_default()
    }
    /// A time in nanoseconds; 0 if absent.
    pub fn nanoseconds(&self, long: &str) -> i64 {
        parse::duration::nanoseconds(self.text(long)).unwrap_or_default()
    }
    /// Every value of a repeatable flag in the order given.
    pub fn list(&self, long: &str) -> Vec<&str> {
        debug_assert!(self.known(long), "no flag {long} in the table");
        self.given.iter().filter(|(name, _)| *name == long).map(|(_, v)| v.as_str()).collect()
    }
    /// As [`Matches::list`], owned.
    pub fn strings(&self, long: &str) -> Vec<String> {
        self.list(long).into_iter().map(str::to_owned).collect()
    }

    fn known(&self, long: &str) -> bool {
        self.tables.iter().any(|table| table.iter().any(|flag| flag.long == long))
    }
    fn initial(&self, long: &str) -> &'static str {
        debug_assert!(self.known(long), "no flag {long} in the table");
        let flags = self.tables.iter().flat_map(|table| table.iter());
        flags.filter(|flag| flag.long == long).map(|flag| flag.default).next().unwrap_or("")
    }
}

/// Why an argument list could not be read: Docker's words, and the mistyped flag if there is one.
#[derive(Debug, PartialEq, Eq)]
pub struct BadFlag {
    /// What is wrong.
    pub message: String,
    /// A flag that may have been meant, with its dashes.
    pub suggestion: Option<String>,
}

impl From<String> for BadFlag {
    fn from(message: String) -> BadFlag {
        BadFlag { message, suggestion: None }
    }
}

/// Reads `args` (without the verb). With `interspersed` false the first word that is no flag ends the flags.
///
/// # Errors
/// Unknown flags, missing and malformed values.
pub fn parse(tables: &[&'static [Flag]], args: &[String], interspersed: bool) -> Result<Matches, BadFlag> {
    let mut matches = Matches::over(tables);
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        if arg == "--" {
            matches.args.extend(rest.by_ref().cloned());
        } else if let Some(long) = arg.strip_prefix("--") {
            long_flag(&mut matches, long, &mut rest)?;
        } else if arg.len() > 1 && arg.starts_with('-') {
            short_flags(&mut matches, arg, &mut rest)?;
        } else {
            matches.args.push(arg.clone());
            if !interspersed {
                matches.args.extend(rest.by_ref().cloned());
            }
        }
    }
    Ok(matches)
}

fn long_flag<'a>(
    matches: &mut Matches,
    text: &str,
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<(), BadFlag> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    if name.is_empty() || name.starts_with('-') {
        return Err(format!("bad flag syntax: --{text}").into());
    }
    let Some(flag) = find(&matches.tables, |flag| flag.long == name) else {
        if name == "help" {
            matches.help = value.is_none_or(|v| parse::number::boolean(&v).unwrap_or(true));
            return Ok(());
        }
        return Err(BadFlag { message: format!("unknown flag: --{name}"), suggestion: suggest(&matches.tables, name) });
    };
    let value = match value {
        Some(value) => value,
        None if flag.kind == Kind::Bool => "true".to_owned(),
        None => rest.next().cloned().ok_or_else(|| format!("flag needs an argument: --{name}"))?,
    };
    store(matches, flag, value)
}

fn short_flags<'a>(
    matches: &mut Matches,
    arg: &str,
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<(), BadFlag> {
    let letters = &arg[1..];
    for (at, letter) in letters.char_indices() {
        let Some(flag) = find(&matches.tables, |flag| flag.short == Some(letter)) else {
            if letter == 'h' {
                matches.help = true;
                return Ok(());
            }
            return Err(format!("unknown shorthand flag: {letter:?} in {arg}").into());
        };
        let after = &letters[at + letter.len_utf8()..];
        if let Some(value) = after.strip_prefix('=') {
            return store(matches, flag, value.to_owned());
        }
        if flag.kind == Kind::Bool {
            store(matches, flag, "true".to_owned())?;
            continue;
        }
        let value = if after.is_empty() {
            rest.next().cloned().ok_or_else(|| format!("flag needs an argument: {letter:?} in {arg}"))?
        } else {
            after.to_owned()
        };
        return store(matches, flag, value);
    }
    Ok(())
}

fn store(matches: &mut Matches, flag: &'static Flag, value: String) -> Result<(), BadFlag> {
    flag.validate(&value)?;
    matches.given.push((flag.same_as.unwrap_or(flag.long), value));
    Ok(())
}

fn find(tables: &[&'static [Flag]], wanted: impl Fn(&Flag) -> bool) -> Option<&'static Flag> {
    tables.iter().flat_map(|table| table.iter()).find(|flag| wanted(flag))
}

fn suggest(tables: &[&'static [Flag]], name: &str) -> Option<String> {
    let names = tables.iter().flat_map(|t| t.iter()).filter(|f| !f.hidden).map(|f| f.long);
    closest(name, names).map(|found| format!("--{found}"))
}

/// The candidate that `word` was most likely meant to be, if any is close enough.
pub fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let reach = 1 + word.chars().count() / 4;
    candidates
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(far, _)| *far <= reach)
        .min_by_key(|(far, _)| *far)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap neighbours) between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Flag] = &[
        Flag::switch("interactive", "").short('i'),
        Flag::switch("tty", "").short('t'),
        Flag::switch("sig-proxy", "").default("true"),
        Flag::text("name", ""),
        Flag::list("env", "").short('e'),
        Flag::new("memory", Kind::Bytes, "bytes", "").short('m'),
        Flag::text("network", ""),
        Flag::text("net", "").same_as("network"),
    ];

    fn read(line: &str, interspersed: bool) -> Result<Matches, BadFlag> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&[TABLE], &words, interspersed)
    }

    #[test]
    fn bundles_values_and_stops_where_docker_does() {
        let m = read("-it --name=x -e A=1 -eB=2 --sig-proxy=false alpine -x --name y", false).unwrap();
        assert!(m.bool("interactive") && m.bool("tty") && !m.bool("sig-proxy"));
        assert_eq!((m.text("name"), m.list("env")), ("x", vec!["A=1", "B=2"]));
        assert_eq!(m.args, ["alpine", "-x", "--name", "y"]);
        let m = read("a -t b -- -i", true).unwrap();
        assert!(m.bool("tty") && m.bool("sig-proxy") && !m.bool("interactive"));
        assert_eq!(m.args, ["a", "b", "-i"]);
        assert_eq!(read("--net host", true).unwrap().text("network"), "host");
        assert_eq!(read("-m512m -", true).unwrap().bytes("memory"), 512 << 20);
    }

    #[test]
    fn refuses_in_dockers_words() {
        let says = |line| read(line, true).unwrap_err().message;
        assert_eq!(says("--foo"), "unknown flag: --foo");
        assert_eq!(says("-itZ"), "unknown shorthand flag: 'Z' in -itZ");
        assert_eq!(says("--name"), "flag needs an argument: --name");
        assert_eq!(says("-te"), "flag needs an argument: 'e' in -te");
        assert_eq!(says("-m abc"), "invalid argument \"abc\" for \"-m, --memory\" flag: invalid size: 'abc'");
        assert_eq!(
            says("--tty=maybe"),
            "invalid argument \"maybe\" for \"-t, --tty\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax"
        );
        assert_eq!(read("--memroy 1m", true).unwrap_err().suggestion.as_deref(), Some("--memory"));
        assert_eq!(read("--zzz 1m", true).unwrap_err().suggestion, None);
    }
}

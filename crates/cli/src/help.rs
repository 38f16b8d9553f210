//! The help: of the program, of a group, of a command. Text only; knows how to say, not what.

use crate::command::Command;
use crate::commands::{ALL, COMMON, GROUPS};
use crate::flags::{Flag, Kind};
use crate::{program, terminal};

fn wrap(text: &str, width: usize, indent: usize) -> String {
    let mut out = String::new();
    for (number, line) in text.lines().enumerate() {
        let mut column = 0;
        if number > 0 {
            out.push('\n');
            out.push_str(&" ".repeat(indent));
        }
        let lead = line.len() - line.trim_start().len();
        out.push_str(&line[..lead]);
        for word in line.trim_start().split_inclusive(' ') {
            let length = word.trim_end().chars().count();
            if column > 0 && column + length > width {
                while out.ends_with(' ') {
                    out.pop();
                }
                out.push('\n');
                out.push_str(&" ".repeat(indent));
                column = 0;
            }
            out.push_str(word);
            column += word.chars().count();
        }
    }
    out
}

/// The table of flags.
pub fn flag_table(tables: &[&'static [Flag]]) -> String {
    let mut flags: Vec<&Flag> = tables.iter().flat_map(|table| table.iter()).filter(|flag| !flag.hidden).collect();
    flags.sort_by_key(|flag| flag.long);
    let left = |flag: &Flag| {
        let short = flag.short.map_or("      ".to_owned(), |letter| format!("  -{letter}, "));
        format!("{short}--{} {}", flag.long, flag.value).trim_end().to_owned()
    };
    let column = flags.iter().map(|flag| left(flag).len()).max().unwrap_or(0) + 3;
    let width = usize::from(terminal::size().map_or(80, |(_, width)| width)).saturating_sub(column).max(24);
    let mut out = String::new();
    for flag in flags {
        let default = match flag.kind {
            _ if flag.default.is_empty() || flag.default == "false" => String::new(),
            Kind::Text => format!(" (default {:?})", flag.default),
            _ => format!(" (default {})", flag.default),
        };
        let text = wrap(&format!("{}{default}", flag.help), width, column);
        out.push_str(&format!("{:column$}{text}\n", left(flag)));
    }
    out
}

/// The help of a command that was said as `said`.
pub fn command(command: &Command, said: &str) -> String {
    let name = program();
    let mut out = format!("Usage:  {name} {said} {}", command.usage).trim_end().to_owned();
    out.push_str(&format!("\n\n{}\n", command.about));
    if command.names.len() > 1 {
        let mut names: Vec<String> = command.names.iter().map(|n| format!("{name} {n}")).collect();
        names.sort();
        out.push_str(&format!("\nAliases:\n  {}\n", names.join(", ")));
    }
    if !command.example.is_empty() {
        let lines: Vec<String> = command.example.lines().map(|line| format!("  {name} {line}")).collect();
        out.push_str(&format!("\nExample:\n{}\n", lines.join("\n")));
    }
    let table = flag_table(command.flags);
    if !table.is_empty() {
        out.push_str(&format!("\nOptions:\n{table}"));
    }
    out
}

fn listing(entries: &[(&str, &str)]) -> String {
    let column = entries.iter().map(|(name, _)| name.len()).max().unwrap_or(0).max(9) + 3;
    entries.iter().map(|(name, about)| format!("  {name:column$}{about}\n")).collect()
}

/// The help of a management group.
pub fn group(group: &str) -> String {
    let name = program();
    let about = GROUPS.iter().find(|(n, _)| *n == group).map_or("", |(_, about)| about);
    let mut entries: Vec<(&str, &str)> = ALL
        .iter()
        .filter_map(|command| {
            let full =
                command.names.iter().find(|n| n.strip_prefix(group).is_some_and(|rest| rest.starts_with(' ')))?;
            Some((&full[group.len() + 1..], command.about))
        })
        .collect();
    entries.sort_unstable();
    format!(
        "Usage:  {name} {group} COMMAND\n\n{about}\n\nCommands:\n{}\nRun '{name} {group} COMMAND --help' for more information on a command.\n",
        listing(&entries)
    )
}

/// The help of the program.
pub fn top() -> String {
    let name = program();
    let about = |wanted: &str| ALL.iter().find(|c| c.names.contains(&wanted)).map_or("", |c| c.about);
    let common: Vec<(&str, &str)> = COMMON.iter().map(|n| (*n, about(n))).collect();
    let mut rest: Vec<(&str, &str)> = ALL
        .iter()
        .flat_map(|command| command.names.iter().filter(|n| !n.contains(' ')).map(|n| (*n, command.about)))
        .filter(|(n, _)| !COMMON.contains(n) && !n.starts_with('_'))
        .collect();
    rest.push(("daemon", "Run the daemon in the foreground"));
    rest.push(("registry serve", "Serve a registry in the foreground"));
    rest.sort_unstable();
    format!(
        "Usage:  {name} [OPTIONS] COMMAND\n\nRuns containers: a container engine that speaks Docker's language\n\n\
         Common Commands:\n{}\nManagement Commands:\n{}\nCommands:\n{}\nGlobal Options:\n{}\n\
         Try it without any image:  {name} run -it --rm --rootfs / sh\n\n\
         Run '{name} COMMAND --help' for more information on a command.\n",
        listing(&common),
        listing(GROUPS),
        listing(&rest),
        flag_table(&[crate::GLOBAL]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_lined_up_and_wrapped() {
        const FLAGS: &[Flag] = &[
            Flag::switch("all", "Show all").short('a'),
            Flag::text("pull", "Pull image").default("missing"),
            Flag::switch("gone", "").hidden(),
        ];
        assert_eq!(
            flag_table(&[FLAGS]),
            "  -a, --all           Show all\n      --pull string   Pull image (default \"missing\")\n"
        );
        assert_eq!(wrap("one two three four", 9, 2), "one two\n  three\n  four");
    }

    #[test]
    fn every_command_teaches() {
        for c in ALL.iter().filter(|c| !c.names[0].starts_with('_')) {
            assert!(!c.about.is_empty() && !c.example.is_empty(), "{} lacks words", c.names[0]);
            let text = command(c, c.names[0]);
            assert!(text.starts_with("Usage:  ") && text.contains("\nExample:\n"), "{text}");
        }
        assert!(top().contains("\n  run         Create and run"), "{}", top());
        assert!(group("volume").contains("\n  prune       Remove"), "{}", group("volume"));
    }
}

//! Words for the shell to complete with: verbs, flags, names that the daemon knows. And the scripts that ask for them.
//! Never starts a daemon and never complains: a shell has no place for it.

use crate::client::Path;
use crate::command::{Command, Complete, Context};
use crate::commands::{ALL, GROUPS};
use crate::failure::{Failure, Result};
use crate::flags::Kind;
use crate::{GLOBAL, host, program, terminal};
use serde_json::Value;

/// Prints what the last of `words` may become, a line each.
///
/// # Errors
/// Standard output cannot be written.
pub fn answer(context: &Context, words: &[String]) -> Result<u8> {
    let mut found = candidates(context, words);
    let last = words.last().map_or("", String::as_str);
    found.retain(|word| word.starts_with(last));
    found.sort();
    found.dedup();
    terminal::print(&found.iter().map(|word| format!("{word}\n")).collect::<String>()).map(|()| 0)
}

fn candidates(context: &Context, words: &[String]) -> Vec<String> {
    let Some((last, before)) = words.split_last() else { return Vec::new() };
    let command = (1..=2).rev().filter_map(|n| before.get(..n)).find_map(|head| {
        let said = head.join(" ");
        ALL.iter().find(|command| command.names.contains(&said.as_str())).map(|command| (*command, head.len()))
    });
    let Some((command, length)) = command else { return verbs(before, last) };
    if last.starts_with('-') {
        let flags = command.flags.iter().flat_map(|table| table.iter()).filter(|flag| !flag.hidden);
        return flags.map(|flag| format!("--{}", flag.long)).chain(["--help".to_owned()]).collect();
    }
    let rest = &before[length..];
    if takes_value(command, rest.last()) || (command.stops && rest.iter().any(|word| !word.starts_with('-'))) {
        return Vec::new();
    }
    names(context, command.complete)
}

fn verbs(before: &[String], last: &str) -> Vec<String> {
    let all = || ALL.iter().flat_map(|command| command.names.iter());
    match before {
        [] if last.starts_with('-') => GLOBAL.iter().map(|flag| format!("--{}", flag.long)).collect(),
        [] => {
            let top = all().filter(|name| !name.contains(' ') && !name.starts_with('_')).map(ToString::to_string);
            top.chain(GROUPS.iter().map(|(name, _)| (*name).to_owned()))
                .chain(["daemon".to_owned(), "registry".to_owned()])
                .collect()
        }
        [group] if group == "registry" => vec!["serve".to_owned()],
        [group] => all().filter_map(|name| name.strip_prefix(&format!("{group} "))).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

fn takes_value(command: &Command, word: Option<&String>) -> bool {
    let Some(word) = word.filter(|word| word.starts_with('-') && !word.contains('=')) else { return false };
    command.flags.iter().flat_map(|table| table.iter()).any(|flag| {
        flag.kind != Kind::Bool
            && (word.strip_prefix("--") == Some(flag.long)
                || (!word.starts_with("--") && flag.short == word.chars().last()))
    })
}

fn names(context: &Context, what: Complete) -> Vec<String> {
    let (path, pointer) = match what {
        Complete::Nothing => return Vec::new(),
        Complete::Containers => (Path::new("/containers/json", &[]).query("all", "1"), "Names"),
        Complete::Running => (Path::new("/containers/json", &[]), "Names"),
        Complete::Images => (Path::new("/images/json", &[]), "RepoTags"),
        Complete::Networks => (Path::new("/networks", &[]), "Name"),
        Complete::Volumes => (Path::new("/volumes", &[]), "Name"),
    };
    let ask = || -> Result<Value> {
        let mut endpoint = host::find(&context.options)?;
        endpoint.may_start = false;
        crate::client::Client::new(endpoint).get(&path)
    };
    let Ok(answer) = ask() else { return Vec::new() };
    let list = answer.get("Volumes").unwrap_or(&answer).as_array().cloned().unwrap_or_default();
    let texts = list.iter().flat_map(|item| match &item[pointer] {
        Value::Array(all) => all.clone(),
        other => vec![other.clone()],
    });
    texts.filter_map(|text| text.as_str().map(|t| t.trim_start_matches('/').to_owned())).collect()
}

/// The script that makes a shell ask `__complete`.
///
/// # Errors
/// An unknown shell.
pub fn script(shell: &str) -> Result<String> {
    let text = match shell {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        "powershell" => POWERSHELL,
        other => {
            return Err(Failure::new(format!("no completion for {other:?}: name one of bash, zsh, fish, powershell")));
        }
    };
    Ok(text.replace("NAME", program()))
}

const BASH: &str = r#"_NAME() {
    local IFS=$'\n'
    COMPREPLY=($("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _NAME NAME
"#;

const ZSH: &str = r#"#compdef NAME
_NAME() {
    local -a found
    found=("${(@f)$(${words[1]} __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if (( ${#found} )) && [[ -n ${found[1]} ]]; then compadd -- $found; else _files; fi
}
compdef _NAME NAME
"#;

const FISH: &str = r#"function __NAME_complete
    set -l words (commandline -opc) (commandline -ct)
    NAME __complete $words[2..-1] 2>/dev/null
end
complete -c NAME -a '(__NAME_complete)'
"#;

const POWERSHELL: &str = r#"Register-ArgumentCompleter -Native -CommandName NAME -ScriptBlock {
    param($word, $ast, $cursor)
    $words = @($ast.CommandElements | Select-Object -Skip 1 | ForEach-Object { $_.ToString() })
    if ($word -eq '') { $words += '' }
    & NAME __complete @words 2>$null | ForEach-Object { [System.Management.Automation.CompletionResult]::new($_) }
}
"#;

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let options = host::Options { hosts: vec!["unix:///nowhere".into()], ..host::Options::default() };
        candidates(&Context::new(options), &words)
    }

    #[test]
    fn verbs_groups_and_flags() {
        assert!(asked("").contains(&"run".to_owned()) && asked("").contains(&"volume".to_owned()));
        assert!(asked("container ").contains(&"ls".to_owned()));
        assert!(asked("run --").contains(&"--publish".to_owned()));
        assert!(asked("rm ").is_empty() && asked("run alpine ").is_empty());
    }

    #[test]
    fn scripts() {
        for shell in ["bash", "zsh", "fish", "powershell"] {
            assert!(script(shell).unwrap().contains("__complete"));
        }
        assert!(script("tcsh").is_err());
    }
}

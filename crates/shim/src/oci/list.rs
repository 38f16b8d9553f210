//! `list` and `ps`: tables for people, JSON for programs.
//!
//! Owns: their columns. Must not: change anything.

use std::process::Command;

use serde_json::{Value, json};

use crate::oci::Fault;
use crate::oci::arguments::CommandLine;
use crate::oci::control::cgroup;
use crate::oci::describe::{print, state_of};
use crate::oci::record::Records;

/// The least width of a column, and what is kept free behind its widest word.
const WIDTH: usize = 12;
const GAP: usize = 3;

/// `list`.
pub(crate) fn list(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    // One that is being made or removed at this moment is not there.
    let found = records.ids().into_iter().filter_map(|id| records.load(&id).ok());
    let states: Vec<Value> = found.filter_map(|record| state_of(&record, records).ok()).collect();
    let word = |state: &Value, name: &str| state[name].as_str().unwrap_or_default().to_owned();
    if line.has("quiet") {
        return print(&states.iter().map(|state| format!("{}\n", word(state, "id"))).collect::<String>());
    }
    match line.value("format").unwrap_or("table") {
        "json" if states.is_empty() => print("null\n"),
        "json" => print(&format!("{}\n", Value::Array(states))),
        "table" => {
            let title = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
            let rows = states.iter().map(|state| {
                [
                    word(state, "id"),
                    state["pid"].to_string(),
                    word(state, "status"),
                    word(state, "bundle"),
                    word(state, "created"),
                    word(state, "owner"),
                ]
            });
            print(&table(&[title].into_iter().chain(rows).collect::<Vec<_>>()))
        }
        _ => Err(Fault::new("invalid format option")),
    }
}

fn table(rows: &[[String; 6]]) -> String {
    let width = |column: usize| {
        let widest = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        (widest + GAP).max(WIDTH)
    };
    let mut text = String::new();
    for row in rows {
        for (column, word) in row.iter().enumerate() {
            if column + 1 == row.len() {
                text.push_str(word);
            } else {
                text.push_str(&format!("{word:<width$}", width = width(column)));
            }
        }
        text.push('\n');
    }
    text
}

/// `ps`.
pub(crate) fn ps(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let record = records.load(line.id()?)?;
    let mut pids = cgroup(&record)?.processes()?;
    pids.sort_unstable();
    match line.value("format").unwrap_or("table") {
        "json" => print(&format!("{}\n", json!(pids))),
        "table" => print(&processes(&pids, &line.operands[1..])?),
        _ => Err(Fault::new("invalid format option")),
    }
}

/// The lines of the host's `ps` that are about these processes. Without options a table of our own does where there is none.
fn processes(pids: &[i32], options: &[String]) -> Result<String, Fault> {
    let default = ["-ef".to_owned()];
    let output = Command::new("ps").args(if options.is_empty() { &default } else { options }).output();
    match output {
        Ok(output) if output.status.success() => choose(&String::from_utf8_lossy(&output.stdout), pids)
            .ok_or_else(|| Fault::new("couldn't find PID field in ps output")),
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            Err(Fault::new(format!("ps: {}: {}", output.status, String::from_utf8_lossy(&said).trim_end())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && options.is_empty() => Ok(own_table(pids)),
        Err(error) => Err(Fault::new(format!("running ps: {error}"))),
    }
}

/// The title and the lines whose PID column has one of `pids`.
fn choose(table: &str, pids: &[i32]) -> Option<String> {
    let mut lines = table.lines();
    let title = lines.next()?;
    let column = title.split_whitespace().position(|name| name == "PID")?;
    let about = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|word| word.parse().ok());
        pid.is_some_and(|pid: i32| pids.contains(&pid))
    };
    Some([title].into_iter().chain(lines.filter(about)).flat_map(|line| [line, "\n"]).collect())
}

fn own_table(pids: &[i32]) -> String {
    let mut text = format!("{:>8} CMD\n", "PID");
    for pid in pids {
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        text.push_str(&format!("{pid:>8} {}\n", command.trim_end()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_they_must() {
        let row = |words: [&str; 6]| words.map(str::to_owned);
        let text = table(&[
            row(["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]),
            row(["a-long-name-1", "7", "running", "/b", "T", "root"]),
        ]);
        assert_eq!(
            text,
            "ID              PID         STATUS      BUNDLE      CREATED     OWNER\n\
             a-long-name-1   7           running     /b          T           root\n"
        );
    }

    #[test]
    fn lines_of_the_containers_processes() {
        let table = "UID   PID PPID CMD\nroot   12    1 sh 13\nroot  13 1 sleep 12\n";
        assert_eq!(choose(table, &[12]).unwrap(), "UID   PID PPID CMD\nroot   12    1 sh 13\n");
        assert_eq!(choose(table, &[]).unwrap(), "UID   PID PPID CMD\n");
        assert_eq!(choose("USER COMMAND\n", &[1]), None);
    }
}

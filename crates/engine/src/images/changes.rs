//! `--change`: the Dockerfile instructions that `import` (and later `commit`) may apply to a configuration. Pure.

use brig_oci::{ContainerConfig, Empty};

use crate::error::{Error, Result};

/// Applies the instructions in order.
pub fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<()> {
    for change in changes {
        let change = change.trim();
        let (word, rest) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
        let rest = rest.trim();
        let bad = |why: &str| Error::invalid(format!("invalid --change {change:?}: {why}"));
        if rest.is_empty() {
            return Err(bad("it needs an argument"));
        }
        match word.to_ascii_uppercase().as_str() {
            "CMD" => config.cmd = Some(command(rest).map_err(|e| bad(&e))?),
            "ENTRYPOINT" => config.entrypoint = Some(command(rest).map_err(|e| bad(&e))?),
            "ENV" => {
                let (name, value) = pair(rest).ok_or_else(|| bad("expected NAME=value"))?;
                config.env.retain(|entry| entry.split('=').next() != Some(name.as_str()));
                config.env.push(format!("{name}={value}"));
            }
            "EXPOSE" => {
                for port in rest.split_whitespace() {
                    let port = if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") };
                    config.exposed_ports.insert(port, Empty {});
                }
            }
            "LABEL" => {
                let (name, value) = pair(rest).ok_or_else(|| bad("expected name=value"))?;
                config.labels.insert(name, value);
            }
            "USER" => config.user = rest.into(),
            "WORKDIR" => config.working_dir = rest.into(),
            "STOPSIGNAL" => config.stop_signal = rest.into(),
            "VOLUME" => {
                let list = match rest.starts_with('[') {
                    true => serde_json::from_str(rest).map_err(|e| bad(&e.to_string()))?,
                    false => rest.split_whitespace().map(str::to_owned).collect::<Vec<String>>(),
                };
                config.volumes.extend(list.into_iter().map(|path| (path, Empty {})));
            }
            "HEALTHCHECK" | "ONBUILD" => {
                return Err(Error::not_implemented(format!("--change {word} is not in brig yet")));
            }
            _ => return Err(bad(&format!("{word} is not a valid change command"))),
        }
    }
    Ok(())
}

/// The JSON form as it is, anything else by a shell.
fn command(text: &str) -> std::result::Result<Vec<String>, String> {
    if text.starts_with('[')
        && let Ok(list) = serde_json::from_str::<Vec<String>>(text)
    {
        return Ok(list);
    }
    Ok(vec!["/bin/sh".into(), "-c".into(), text.into()])
}

/// `name=value` or the old `name value`; quotes around the value are taken off.
fn pair(text: &str) -> Option<(String, String)> {
    let (name, value) = text.split_once('=').or_else(|| text.split_once(char::is_whitespace))?;
    let value = value.trim();
    let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value);
    (!name.is_empty()).then(|| (name.trim().trim_matches('"').to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions() {
        let mut config = ContainerConfig::default();
        let changes = [
            "CMD [\"a\",\"b\"]",
            "ENTRYPOINT run it",
            "env A=\"1 2\"",
            "EXPOSE 80 53/udp",
            "LABEL x=y",
            "VOLUME /a /b",
        ];
        apply(&mut config, &changes.map(str::to_owned)).unwrap();
        assert_eq!(config.cmd.unwrap(), ["a", "b"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "run it"]);
        assert_eq!(config.env, ["A=1 2"]);
        assert_eq!(config.exposed_ports.len(), 2);
        assert_eq!(config.volumes.len(), 2);
        for bad in ["CMD", "RUN x", "ENV =x", "ONBUILD x y"] {
            assert!(apply(&mut ContainerConfig::default(), &[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}

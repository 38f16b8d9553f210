//! `--change`: the Dockerfile instructions that `import` and `commit` may apply to a configuration. Pure.

use brig_oci::{ContainerConfig, Empty, Healthcheck};

use super::words;
use crate::error::{Error, Result};

/// Applies the instructions in order to `config`; variables and relative directories mean what `config`, and behind it
/// `base`, says. Each change may hold several lines.
pub fn apply(config: &mut ContainerConfig, base: &ContainerConfig, changes: &[String]) -> Result<()> {
    let mut sets_command = false;
    for line in lines(changes) {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
        let (word, rest) = (word.to_ascii_uppercase(), rest.trim());
        let bad = |why: String| Error::invalid(format!("invalid --change {line:?}: {why}"));
        if rest.is_empty() {
            return Err(bad(format!("{word} requires at least one argument")));
        }
        let mut change = Change { config, base };
        match word.as_str() {
            "CMD" => {
                sets_command = true;
                let command = change.command(rest);
                config.cmd = Some(command);
                Ok(())
            }
            "ENTRYPOINT" => {
                let command = change.command(rest);
                config.entrypoint = Some(command);
                if !sets_command {
                    // Its arguments were another program's.
                    config.cmd = None;
                }
                Ok(())
            }
            "ENV" => change.env(rest),
            "EXPOSE" => change.expose(rest),
            "LABEL" => change.label(rest),
            "USER" => change.expand(rest).map(|user| config.user = user),
            "WORKDIR" => change.working_directory(rest),
            "STOPSIGNAL" => change.expand(rest).map(|signal| config.stop_signal = signal),
            "VOLUME" => change.volume(rest),
            "HEALTHCHECK" => healthcheck(rest).map(|check| config.healthcheck = Some(check)),
            "ONBUILD" => on_build(rest).map(|instruction| config.on_build.push(instruction)),
            "SHELL" => list(rest)
                .filter(|words| !words.is_empty())
                .map(|words| config.shell = Some(words))
                .ok_or_else(|| "SHELL requires the arguments to be in JSON form".to_owned()),
            _ => Err(format!("{word} is not a valid change command")),
        }
        .map_err(bad)?;
    }
    Ok(())
}

/// The instructions: lines that are not empty or a comment, those that end in a backslash with the next.
fn lines(changes: &[String]) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = String::new();
    for line in changes.iter().flat_map(|change| change.lines()) {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(start) => open.push_str(start),
            None => lines.push(std::mem::take(&mut open) + line),
        }
    }
    lines.push(open);
    lines.retain(|line| !line.is_empty());
    lines
}

/// One change being made.
struct Change<'a> {
    config: &'a mut ContainerConfig,
    base: &'a ContainerConfig,
}

type Outcome<T> = std::result::Result<T, String>;

impl Change<'_> {
    fn expand(&self, text: &str) -> Outcome<String> {
        let value = |name: &str| {
            let mut known = self.config.env.iter().chain(&self.base.env).filter_map(|entry| entry.split_once('='));
            known.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        words::expand(text, &value)
    }

    /// `name=value` as often as wanted, or the old `name value`.
    fn pairs(&self, text: &str) -> Outcome<Vec<(String, String)>> {
        let all = words::split(text)?;
        let first = all.first().ok_or("it needs an argument")?;
        let named = |name: &str, value: &str| {
            let name = self.expand(name)?;
            if name.is_empty() { Err("a name cannot be blank".to_owned()) } else { Ok((name, self.expand(value)?)) }
        };
        if !first.contains('=') {
            let value = text.trim_start().strip_prefix(first.as_str()).unwrap_or_default().trim();
            return match value {
                "" => Err(format!("{first:?} has no value: write {first}=value")),
                value => Ok(vec![named(first, value)?]),
            };
        }
        all.iter()
            .map(|word| {
                let (name, value) = word.split_once('=').ok_or(format!("{word:?}: write name=value"))?;
                named(name, value)
            })
            .collect()
    }

    fn env(&mut self, text: &str) -> Outcome<()> {
        for (name, value) in self.pairs(text)? {
            let is_same = |entry: &String| entry.split('=').next() == Some(name.as_str());
            let entry = format!("{name}={value}");
            match self.config.env.iter().position(is_same) {
                Some(at) => self.config.env[at] = entry,
                None => self.config.env.push(entry),
            }
        }
        Ok(())
    }

    fn label(&mut self, text: &str) -> Outcome<()> {
        let pairs = self.pairs(text)?;
        self.config.labels.extend(pairs);
        Ok(())
    }

    /// `port`, `first-last`, each with `/protocol` if it is not TCP.
    fn expose(&mut self, text: &str) -> Outcome<()> {
        for word in words::split(text)? {
            let word = self.expand(&word)?;
            let (ports, protocol) = word.split_once('/').unwrap_or((&word, "tcp"));
            let protocol = protocol.to_ascii_lowercase();
            let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
            let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
            let range = port(first).zip(port(last)).filter(|(first, last)| first <= last);
            let (Some((first, last)), "tcp" | "udp" | "sctp") = (range, protocol.as_str()) else {
                return Err(format!("invalid containerPort: {word}"));
            };
            for port in first..=last {
                self.config.exposed_ports.insert(format!("{port}/{protocol}"), Empty {});
            }
        }
        Ok(())
    }

    fn volume(&mut self, text: &str) -> Outcome<()> {
        let paths = match list(text) {
            Some(paths) => paths,
            None => words::split(text)?.iter().map(|word| self.expand(word)).collect::<Outcome<_>>()?,
        };
        for path in paths {
            if path.trim().is_empty() {
                return Err("VOLUME specified can not be an empty string".into());
            }
            self.config.volumes.insert(path, Empty {});
        }
        Ok(())
    }

    fn working_directory(&mut self, text: &str) -> Outcome<()> {
        let given = self.expand(text)?;
        let mut clean = std::path::PathBuf::from("/");
        let before = [&self.config.working_dir, &self.base.working_dir].into_iter().find(|path| !path.is_empty());
        for part in before.map(std::path::Path::new).into_iter().chain([std::path::Path::new(&given)]) {
            if part.is_absolute() {
                clean = "/".into();
            }
            for component in part.components() {
                match component {
                    std::path::Component::Normal(name) => clean.push(name),
                    std::path::Component::ParentDir => drop(clean.pop()),
                    _ => {}
                }
            }
        }
        self.config.working_dir = clean.to_string_lossy().into_owned();
        Ok(())
    }

    /// The JSON form as it is, anything else by a shell.
    fn command(&self, text: &str) -> Vec<String> {
        list(text).unwrap_or_else(|| {
            let shell = self.config.shell.as_ref().or(self.base.shell.as_ref());
            let mut words = shell.cloned().unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
            words.push(text.into());
            words
        })
    }
}

/// A JSON list of texts.
fn list(text: &str) -> Option<Vec<String>> {
    text.starts_with('[').then(|| serde_json::from_str(text).ok()).flatten()
}

fn on_build(text: &str) -> Outcome<String> {
    let word = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    match word.as_str() {
        "ONBUILD" => Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into()),
        "MAINTAINER" | "FROM" => Err(format!("{word} isn't allowed as an ONBUILD trigger")),
        _ => Ok(text.to_owned()),
    }
}

/// `NONE`, or options and `CMD` with a command.
fn healthcheck(text: &str) -> Outcome<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option.split_once('=').ok_or(format!("--{option} needs a value: --{option}=…"))?;
        let time = || crate::go_duration(value).ok_or(format!("--{name}: {value:?} is no duration, such as 1m30s"));
        match name {
            "interval" => check.interval = time()?,
            "timeout" => check.timeout = time()?,
            "start-period" => check.start_period = time()?,
            "start-interval" => check.start_interval = time()?,
            "retries" => check.retries = value.parse().map_err(|_| format!("--retries: {value:?} is no number"))?,
            _ => return Err(format!("unknown flag: {name}")),
        }
        rest = after.trim_start();
    }
    let (word, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let command = command.trim();
    check.test = match word.to_ascii_uppercase().as_str() {
        "NONE" if command.is_empty() && check == Healthcheck::default() => vec!["NONE".into()],
        "NONE" => return Err("HEALTHCHECK NONE takes no arguments".into()),
        "CMD" if command.is_empty() => return Err("Missing command after HEALTHCHECK CMD".into()),
        "CMD" => match list(command) {
            Some(words) => [vec!["CMD".to_owned()], words].concat(),
            None => vec!["CMD-SHELL".into(), command.into()],
        },
        other => return Err(format!("Unknown type {other:?} in HEALTHCHECK (try CMD)")),
    };
    Ok(check)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(base: &ContainerConfig, changes: &[&str]) -> Result<ContainerConfig> {
        let mut config = ContainerConfig::default();
        let changes: Vec<String> = changes.iter().map(|&change| change.to_owned()).collect();
        apply(&mut config, base, &changes).map(|()| config)
    }

    #[test]
    fn instructions() {
        let changes = [
            "CMD [\"a\",\"b\"]",
            "env A=\"1 2\" B=3\nENV C old form",
            "EXPOSE 80 53/udp 8000-8002",
            "LABEL x=y \"long name\"='z z'",
            "VOLUME /a \"/b c\"",
            "VOLUME [\"/d\"]",
            "STOPSIGNAL SIGUSR1",
            "USER $B:$B",
            "SHELL [\"/bin/bash\",\"-ec\"]",
            "ENTRYPOINT run it",
            "ONBUILD RUN \\\n  make",
            "HEALTHCHECK --interval=1m30s --retries=2 CMD curl -f localhost",
            "# nothing",
        ];
        let base = ContainerConfig { cmd: Some(vec!["base".into()]), ..ContainerConfig::default() };
        let config = changed(&base, &changes).unwrap();
        assert_eq!(config.cmd.unwrap(), ["a", "b"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/bash", "-ec", "run it"]);
        assert_eq!(config.env, ["A=1 2", "B=3", "C=old form"]);
        let ports: Vec<_> = config.exposed_ports.into_keys().collect();
        assert_eq!(ports, ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
        assert_eq!(config.labels["long name"], "z z");
        assert_eq!(config.volumes.into_keys().collect::<Vec<_>>(), ["/a", "/b c", "/d"]);
        assert_eq!((config.user.as_str(), config.stop_signal.as_str()), ("3:3", "SIGUSR1"));
        assert_eq!(config.on_build, ["RUN make"]);
        let check = config.healthcheck.unwrap();
        assert_eq!((check.interval, check.retries), (90_000_000_000, 2));
        assert_eq!(check.test, ["CMD-SHELL", "curl -f localhost"]);
    }

    #[test]
    fn what_was_there_before_counts() {
        let base =
            ContainerConfig { env: vec!["PATH=/bin".into()], working_dir: "/srv".into(), ..ContainerConfig::default() };
        let config = changed(&base, &["ENV PATH=$PATH:/x", "WORKDIR a", "WORKDIR ../b", "ENTRYPOINT [\"x\"]"]).unwrap();
        assert_eq!(config.env, ["PATH=/bin:/x"]);
        assert_eq!(config.working_dir, "/srv/b");
        assert_eq!(changed(&base, &["WORKDIR /"]).unwrap().working_dir, "/");
        assert_eq!(changed(&base, &["HEALTHCHECK NONE"]).unwrap().healthcheck.unwrap().test, ["NONE"]);
    }

    #[test]
    fn refused() {
        for bad in [
            "CMD",
            "RUN x",
            "ENV =x",
            "ENV x",
            "ONBUILD ONBUILD RUN x",
            "ONBUILD FROM x",
            "SHELL /bin/sh",
            "EXPOSE 0",
            "EXPOSE 9-8",
            "EXPOSE 1/icmp",
            "LABEL a=\"b",
            "HEALTHCHECK --interval=x CMD y",
            "HEALTHCHECK curl",
            "HEALTHCHECK NONE x",
            "VOLUME [\"\"]",
        ] {
            let error = changed(&ContainerConfig::default(), &[bad]).unwrap_err();
            assert!(error.message.starts_with("invalid --change"), "{bad}: {error}");
        }
    }
}

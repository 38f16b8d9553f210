//! `ps`: the pictures of all containers, filtered and shown as Docker lists them. Reads pictures only.

use std::collections::BTreeMap;
use std::sync::Arc;

use brig_api::container::{Port, Summary, SummaryHostConfig, SummaryNetworkSettings};
use brig_api::filters::Filters;
use jiff::Timestamp;

use super::inspect;
use super::policy::Status;
use super::view::View;
use crate::error::{Error, Result};
use crate::id::parse_time;

/// What `GET /containers/json` takes.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Stopped ones too.
    pub all: bool,
    /// Only this many, newest first, stopped ones too.
    pub limit: Option<usize>,
    /// With sizes.
    pub size: bool,
    /// The filters.
    pub filters: Filters,
}

const FILTERS: [&str; 17] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "label!",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
    "until",
];

/// Selects from `views`, newest first. `image_of` resolves an `ancestor` to the ids of that image and its children.
pub fn select(
    mut views: Vec<Arc<View>>,
    options: &ListOptions,
    ancestor_matches: impl Fn(&View, &str) -> bool,
) -> Result<Vec<Arc<View>>> {
    let filters = &options.filters;
    filters.check(&FILTERS).map_err(Error::invalid)?;
    views.sort_by(|a, b| b.record.created.cmp(&a.record.created));
    let before = border(&views, filters, "before")?;
    let since = border(&views, filters, "since")?;
    let exited: Vec<i64> = filters
        .get("exited")
        .map(|code| code.parse().map_err(|_| Error::invalid(format!("invalid filter 'exited={code}'"))))
        .collect::<Result<_>>()?;
    for status in filters.get("status") {
        if !["created", "running", "paused", "restarting", "removing", "exited", "dead"].contains(&status) {
            return Err(Error::invalid(format!("invalid filter 'status={status}'")));
        }
    }
    check_values(filters)?;
    let everything = options.all
        || options.limit.is_some()
        || filters.contains("status")
        || filters.contains("exited")
        || before.is_some()
        || since.is_some();
    let mut selected: Vec<Arc<View>> = views
        .into_iter()
        .filter(|view| {
            let record = &view.record;
            (everything || view.status.is_alive() || view.status == Status::Restarting)
                && before.as_ref().is_none_or(|limit| record.created < *limit)
                && since.as_ref().is_none_or(|limit| record.created > *limit)
                && (exited.is_empty() || (view.status == Status::Exited && exited.contains(&view.exit_code)))
                && filters.matches("status", view.status.as_str())
                && matches_names(view, filters)
                && filters.matches_labels("label", &labels(view))
                && !filters.matches_any_label("label!", &labels(view))
                && (!filters.contains("ancestor") || filters.get("ancestor").any(|image| ancestor_matches(view, image)))
                && matches_things(view, filters)
        })
        .collect();
    if let Some(limit) = options.limit {
        selected.truncate(limit);
    }
    Ok(selected)
}

/// Refuses values that no container could have.
fn check_values(filters: &Filters) -> Result<()> {
    if let Some(health) = filters.get("health").find(|h| !["none", "starting", "healthy", "unhealthy"].contains(h)) {
        return Err(Error::invalid(format!("unrecognized filter value for health: {health}")));
    }
    filters.boolean("is-task", false).map_err(Error::invalid)?;
    for key in ["publish", "expose"] {
        for wanted in filters.get(key) {
            let (numbers, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
            let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
            let valid = match (first.parse::<u16>(), last.parse::<u16>()) {
                (Ok(first), Ok(last)) => first <= last,
                _ => false,
            };
            if !valid || !["tcp", "udp", "sctp"].contains(&protocol) {
                return Err(Error::invalid(format!(
                    "error while looking up for {key} {wanted}: not a port or a range of ports"
                )));
            }
        }
    }
    Ok(())
}

fn labels(view: &View) -> BTreeMap<String, String> {
    view.record.config.labels.clone().unwrap_or_default()
}

fn border(views: &[Arc<View>], filters: &Filters, key: &str) -> Result<Option<String>> {
    let Some(wanted) = filters.get(key).next() else { return Ok(None) };
    let found = views.iter().find(|view| view.record.name == wanted || view.record.id.starts_with(wanted));
    found
        .map(|view| Some(view.record.created.clone()))
        .ok_or_else(|| Error::not_found(format!("No such container: {wanted}")))
}

fn matches_names(view: &View, filters: &Filters) -> bool {
    let name = &view.record.name;
    // Docker matches with and without the slash before the name, and takes what is no expression for the name itself.
    let by_name = !filters.contains("name")
        || filters.get("name").any(|pattern| match regex_lite::Regex::new(pattern) {
            Ok(expression) => expression.is_match(name) || expression.is_match(&format!("/{name}")),
            Err(_) => name == pattern.trim_start_matches('/'),
        });
    by_name && (!filters.contains("id") || filters.get("id").any(|id| view.record.id.starts_with(id)))
}

fn matches_things(view: &View, filters: &Filters) -> bool {
    let record = &view.record;
    let network = !filters.contains("network")
        || inspect::endpoints(view).iter().flatten().any(|(name, endpoint)| {
            let id = endpoint.as_ref().map(|e| e.network_id.as_str()).unwrap_or_default();
            filters.get("network").any(|wanted| wanted == name || (!id.is_empty() && id.starts_with(wanted)))
        });
    let volume = !filters.contains("volume")
        || record.mounts.iter().any(|mount| {
            filters.get("volume").any(|wanted| mount.point.name == wanted || mount.point.destination == wanted)
        });
    let ports = ports(view);
    let on = |port: u16, type_: &str, wanted: &str| {
        let (number, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
        let in_range = match number.split_once('-') {
            Some((a, b)) => a.parse().is_ok_and(|a: u16| port >= a) && b.parse().is_ok_and(|b: u16| port <= b),
            None => number.parse() == Ok(port),
        };
        in_range && type_ == protocol
    };
    let publish = !filters.contains("publish")
        || ports.iter().any(|p| p.public_port != 0 && filters.get("publish").any(|w| on(p.public_port, &p.type_, w)));
    let expose = !filters.contains("expose")
        || ports.iter().any(|p| filters.get("expose").any(|w| on(p.private_port, &p.type_, w)));
    let health = !filters.contains("health") || filters.matches("health", "none");
    network && volume && publish && expose && health && !filters.get("is-task").any(|v| v == "true")
}

/// The ports as `ps` shows them: published ones with their address, exposed ones without.
fn ports(view: &View) -> Vec<Port> {
    let mut list = Vec::new();
    for (port, bindings) in inspect::ports(view).unwrap_or_default() {
        let (number, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
        let private_port = number.parse().unwrap_or_default();
        let shown =
            |ip: &str, public_port: u16| Port { ip: ip.into(), private_port, public_port, type_: protocol.into() };
        match bindings {
            Some(bindings) if !bindings.is_empty() => {
                list.extend(bindings.iter().map(|b| shown(&b.host_ip, b.host_port.parse().unwrap_or_default())));
            }
            _ => list.push(shown("", 0)),
        }
    }
    list
}

/// One line of the list.
pub fn summary(view: &View, sizes: Option<(i64, i64)>) -> Summary {
    let record = &view.record;
    let (size_rw, size_root_fs) = sizes.unwrap_or_default();
    let mut command = vec![record.path.clone()];
    command.extend(record.args.iter().map(|arg| if arg.contains(' ') { format!("'{arg}'") } else { arg.clone() }));
    Summary {
        id: record.id.clone(),
        names: vec![format!("/{}", record.name)],
        image: if record.image.is_empty() { record.host_config.brig_rootfs.clone() } else { record.image.clone() },
        image_id: record.image_id.clone(),
        command: command.join(" "),
        created: parse_time(&record.created).map_or(0, Timestamp::as_second),
        ports: if view.status.is_alive() { ports(view) } else { Vec::new() },
        size_rw,
        size_root_fs,
        labels: labels(view),
        state: view.status.as_str().into(),
        status: status_text(view),
        host_config: SummaryHostConfig {
            network_mode: inspect::network_mode(record),
            annotations: record.host_config.annotations.clone(),
        },
        network_settings: Some(SummaryNetworkSettings { networks: inspect::endpoints(view) }),
        mounts: record.mounts.iter().map(|mount| mount.point.clone()).filter(|p| p.type_ != "tmpfs").collect(),
        ..Summary::default()
    }
}

/// `Up 3 minutes`, `Exited (0) 2 hours ago`, `Created`.
fn status_text(view: &View) -> String {
    let since = |text: &str| {
        let then = parse_time(text).unwrap_or_else(Timestamp::now);
        human_duration(Timestamp::now().duration_since(then).as_secs())
    };
    match view.status {
        Status::Running => format!("Up {}", since(&view.started_at)),
        Status::Paused => format!("Up {} (Paused)", since(&view.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", view.exit_code, since(&view.finished_at)),
        Status::Removing => "Removal In Progress".into(),
        Status::Dead => "Dead".into(),
        Status::Created => "Created".into(),
        Status::Exited => format!("Exited ({}) {} ago", view.exit_code, since(&view.finished_at)),
    }
}

/// Docker's rounding of a duration, in words.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".into(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::{Filters, check_values, human_duration};

    #[test]
    fn filters_that_can_match_nothing_are_refused() {
        let check = |key: &str, value: &str| {
            let mut filters = Filters::default();
            filters.add(key, value);
            check_values(&filters)
        };
        for (key, value) in
            [("health", "none"), ("is-task", "true"), ("publish", "80"), ("publish", "80-90/udp"), ("expose", "53/udp")]
        {
            assert!(check(key, value).is_ok(), "{key}={value}");
        }
        for (key, value) in
            [("health", "x"), ("is-task", "x"), ("publish", "x"), ("publish", "90-80"), ("expose", "80/x")]
        {
            assert!(check(key, value).is_err(), "{key}={value}");
        }
    }

    #[test]
    fn durations_read_as_dockers() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (150, "2 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (86_400 * 3, "3 days"),
            (86_400 * 20, "2 weeks"),
            (86_400 * 400, "13 months"),
            (86_400 * 800, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }
}

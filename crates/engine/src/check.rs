//! `system check`: the store's own check, and whether containers' and volumes' records and files belong together.
//! Owns what is done about those; runs beside a daemon at work, or on a data root without one. Must not delete anything.

use std::path::Path;

use brig_api::system::{CheckLine, CheckSummary};
use brig_store::{CheckOptions, Finding, Store};
use tokio::sync::mpsc;

use crate::container::Records;
use crate::error::{Error, Result, from_store};
use crate::sweep::{is_container_id, names};
use crate::system::System;

/// How many findings may wait for a slow client before the check waits too.
const LINES: usize = 64;

impl System<'_> {
    /// Looks through everything that is kept: quickly, or (`full`) every byte; and mends what can be mended (`repair`). The
    /// last line is the summary or the error.
    pub fn check(&self, full: bool, repair: bool) -> mpsc::Receiver<CheckLine> {
        let (sender, lines) = mpsc::channel(LINES);
        let store = self.engine.store.clone();
        tokio::task::spawn_blocking(move || {
            // A client that has gone away does not keep a repair from its end.
            run(&store, CheckOptions { full, repair }, &mut |line| drop(sender.blocking_send(line)));
        });
        lines
    }
}

/// The same on a data root that no daemon uses.
///
/// # Errors
/// It cannot be opened; a daemon that runs on it is named.
pub fn check_data_root(data_root: &Path, full: bool, repair: bool, show: &mut dyn FnMut(CheckLine)) -> Result<()> {
    let root = data_root.join("v1");
    if !root.is_dir() {
        return Err(Error::not_found(format!("{} is not a data root of brig: it has no v1", data_root.display())));
    }
    let store = Store::open(&root).map_err(from_store)?;
    run(&store, CheckOptions { full, repair }, show);
    Ok(())
}

fn run(store: &Store, options: CheckOptions, show: &mut dyn FnMut(CheckLine)) {
    let mut summary = CheckSummary::default();
    let mut report = |finding: Finding| {
        summary.found += 1;
        *(if finding.mended { &mut summary.mended } else { &mut summary.left }) += 1;
        show(line(finding));
    };
    let checked = store
        .upkeep()
        .check(options, &mut report)
        .map_err(from_store)
        .and_then(|()| containers(store, options.repair, &mut report))
        .map(|()| volumes(store, &mut report));
    show(match checked {
        Ok(()) => CheckLine { summary: Some(summary), ..CheckLine::default() },
        Err(e) => CheckLine { error: e.message, ..CheckLine::default() },
    });
}

fn line(finding: Finding) -> CheckLine {
    CheckLine {
        kind: finding.kind.into(),
        name: finding.name,
        problem: finding.problem,
        done: finding.done.unwrap_or_default(),
        mended: finding.mended,
        advice: finding.advice.unwrap_or_default(),
        ..CheckLine::default()
    }
}

/// Records that cannot be read, and files that belong to no record.
fn containers(store: &Store, repair: bool, report: &mut dyn FnMut(Finding)) -> Result<()> {
    let records = Records::open(store)?;
    for (id, text) in records.unreadable()? {
        let finding = Finding::new("container", &id, "its record cannot be read");
        if !repair {
            report(finding.advice("brig system check --repair"));
            continue;
        }
        let upkeep = store.upkeep();
        let kept = upkeep.set_record_aside("container", &format!("{id}.json"), text.as_bytes()).map_err(from_store)?;
        for part in ["active", "containers"] {
            upkeep.set_aside(&store.root().join(part).join(&id), part).map_err(from_store)?;
        }
        store.remove_active(&id).map_err(from_store)?;
        records.forget(&id)?;
        let aside = kept.parent().and_then(Path::parent).unwrap_or(&kept).display().to_string();
        report(finding.mended(format!("its record, its files and its log were moved to {aside}")));
    }
    let known = records.ids()?;
    let states = store.root().join("containers");
    for id in names(&states).iter().filter(|name| is_container_id(name) && !known.contains(*name)) {
        // One that is being created or removed just now has its directories without a record.
        report(
            Finding::new("container", id, "it has files, but no record")
                .advice("restart the daemon: it sets them aside"),
        );
    }
    for id in &known {
        if store.active(id).is_none() {
            let finding = Finding::new("container", id, "its writable layer is gone");
            report(finding.advice(format!("brig rm {}", id.chars().take(12).collect::<String>())));
        }
    }
    Ok(())
}

/// Directories of volumes that no record knows, and the reverse.
fn volumes(store: &Store, report: &mut dyn FnMut(Finding)) {
    let directory = store.root().join("volumes");
    let known: std::collections::BTreeSet<String> = store
        .database()
        .read(|db| {
            let mut query = db.prepare("SELECT CAST(name AS TEXT) FROM volumes")?;
            Ok(query.query_map([], |row| row.get(0))?.filter_map(rusqlite::Result::ok).collect())
        })
        // Without a daemon that ever ran there is no such table.
        .unwrap_or_default();
    for name in names(&directory).iter().filter(|name| !known.contains(*name)) {
        if crate::id::is_valid_name(name) {
            let finding = Finding::new("volume", name, "it has files, but no record");
            report(finding.advice(format!("brig volume create {name}")));
        } else {
            report(Finding::new("file", directory.join(name).display(), "it is not a volume of brig"));
        }
    }
    for name in known.iter().filter(|name| !directory.join(name).join("_data").is_dir()) {
        let finding = Finding::new("volume", name, "its directory is gone; an empty one is made when it is next used");
        report(finding.advice(format!("brig volume rm {name}")));
    }
}

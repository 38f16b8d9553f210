//! `restore`.
//!
//! Owns: from images and a bundle to a running container with a record, and in the foreground its end. Must not: leave anything
//! of a container that could not be restored, nor take anything but streams from the images.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use brig_oci::runtime::LinuxNamespace;
use brig_runtime::checkpoint::{Options, RestoreRequest};
use brig_runtime::{Container, Note};

use crate::oci::arguments::CommandLine;
use crate::oci::checkpoint::options;
use crate::oci::create::{Order, after_delete, connect, keep_note, undo};
use crate::oci::foreground::Foreground;
use crate::oci::record::{Records, start_time};
use crate::oci::relay::{Host, Relay};
use crate::oci::{Fault, log};

/// `restore`: as `run`, from images.
pub(crate) fn restore(line: &CommandLine, records: &Records) -> Result<u8, Fault> {
    let detached = line.has("detach");
    // Their paths are the caller's; then the bundle's directory becomes the current one.
    let options = options(line)?;
    let mut order = Order::read(line, detached)?;
    let directory = records.claim(order.id)?;
    let ran = if detached {
        run_detached(&mut order, &options, records, &directory).map_err(|fault| (fault, false))
    } else {
        run_attached(&mut order, &options, records, &directory)
    };
    if detached && ran.is_ok() {
        return Ok(0);
    }
    records.forget(order.id)?;
    // The hooks of one that could not be restored have run.
    let existed = match &ran {
        Ok(_) => true,
        Err((_, existed)) => *existed,
    };
    if existed {
        after_delete(&order.spec, &order.about());
    }
    ran.map_err(|(fault, _)| fault)
}

fn run_detached(order: &mut Order<'_>, options: &Options, records: &Records, directory: &Path) -> Result<u8, Fault> {
    let _lock = records.lock(order.id)?;
    make(order, options, records, directory).map(|_| 0)
}

/// The fault comes with whether there was a container.
fn run_attached(
    order: &mut Order<'_>,
    options: &Options,
    records: &Records,
    directory: &Path,
) -> Result<u8, (Fault, bool)> {
    let before = |fault| (fault, false);
    let host = if order.terminal() { Some(Host::find().map_err(before)?) } else { None };
    let foreground = Foreground::prepare(!order.line.has("no-subreaper")).map_err(before)?;
    let (container, master) = make(order, options, records, directory).map_err(before)?;
    let relay = host.zip(master).map(|(host, master)| Relay::new(host, master)).transpose();
    let waited = relay.and_then(|relay| foreground.wait(container.pid(), container.pidfd(), relay, None));
    match waited {
        Ok(code) => container.delete().map(|()| code).map_err(|error| (error.into(), true)),
        Err(fault) => Err((undo(container, fault), true)),
    }
}

/// Restores the container, remembers it and tells whoever wants to know.
fn make(
    order: &mut Order<'_>,
    options: &Options,
    records: &Records,
    directory: &Path,
) -> Result<(Container, Option<OwnedFd>), Fault> {
    order.prepare(directory)?;
    // Before anything is made: a console that nobody listens at is no reason to clean up.
    let console = order.console.as_deref().map(connect).transpose()?;
    let mut master = None;
    let restored = {
        let mut console = |fd: OwnedFd| match &console {
            Some(console) => Ok(console.send(b"/dev/ptmx", &[fd.as_fd()])?),
            None => {
                master = Some(fd);
                Ok(())
            }
        };
        let keep = keep_note(order.id, records);
        let create = order.request(Vec::new(), None, Note(&keep))?;
        brig_runtime::checkpoint::restore(RestoreRequest { create, options, console: &mut console })?
    };
    if let Some(linux) = order.spec.linux.as_mut().filter(|_| restored.time_namespace) {
        // So that an exec joins it.
        linux.namespaces.push(LinuxNamespace { type_: "time".to_owned(), path: None });
    }
    let container = restored.container;
    container.warnings().iter().for_each(|warning| log::warn(warning));
    // It may have ended already; no process was started at the machine's own start.
    let started = start_time(container.pid()).unwrap_or(0);
    let announced = order.remember(&container, started, records).and_then(|()| order.write_pid(container.pid()));
    match announced {
        Ok(()) => Ok((container, master)),
        Err(fault) => Err(undo(container, fault)),
    }
}

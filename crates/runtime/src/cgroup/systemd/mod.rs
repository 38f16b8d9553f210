//! systemd as the one who looks after a container's cgroup: a transient scope, delegated to the container.
//! Owns: starting, changing and stopping it, and waiting until systemd has done so. Must not: write cgroup files (the rest of
//! this module does, as it does without systemd).

mod bus;
mod properties;
mod text;
mod value;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use brig_oci::runtime::Resources;
use brig_sys::clone::{self, Spawned};
use brig_sys::fdpass::{self, Channel};
use brig_sys::pidfd;

use self::bus::{Bus, Method, Refused};
pub use self::properties::rounded_quota;
pub use self::value::Value;
use super::devices::Policy;
use super::error::{Error, ErrorKind, Result};
use super::place::Unit;

/// How long systemd may take to start or stop a unit.
const JOB: Duration = Duration::from_secs(30);

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// Annotations whose name begins so are properties of the unit.
const ANNOTATION: &str = "org.systemd.property.";

/// A property of a unit.
pub type Property = (String, Value);

/// Reads the properties that annotations ask for.
///
/// # Errors
/// Names or values that make no sense, by the annotation's name.
pub fn annotated(annotations: &BTreeMap<String, String>) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(ANNOTATION) else { continue };
        let bad = |why: &str| Error::invalid(format!("annotations: {key}: {why}"));
        if name.len() < 3 || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(bad("a property's name has at least three letters, and nothing else"));
        }
        let value = text::parse(text).map_err(|why| bad(&format!("{text:?}: value parse error: {why}")))?;
        // Documented in seconds, but taken in microseconds.
        match name.strip_suffix("Sec").filter(|stem| stem.ends_with(|c: char| c.is_ascii_lowercase())) {
            Some(stem) => {
                let micros = micros(&value).ok_or_else(|| bad(&format!("{text:?}: not a number")))?;
                properties.push((format!("{stem}USec"), Value::U64(micros)));
            }
            None => properties.push((name.to_owned(), value)),
        }
    }
    Ok(properties)
}

fn micros(seconds: &Value) -> Option<u64> {
    const MICROS: u64 = 1_000_000;
    let whole = match *seconds {
        Value::F64(value) => return Some((value * 1e6) as u64),
        Value::Byte(value) => u64::from(value),
        Value::U16(value) => u64::from(value),
        Value::U32(value) => u64::from(value),
        Value::U64(value) => value,
        Value::I16(value) => u64::try_from(value).ok()?,
        Value::I32(value) => u64::try_from(value).ok()?,
        Value::I64(value) => u64::try_from(value).ok()?,
        _ => return None,
    };
    whole.checked_mul(MICROS)
}

/// A systemd that can be talked to: the system's, or the user's own.
#[derive(Debug)]
pub struct Manager {
    bus: Bus,
    user: bool,
    version: Option<u32>,
}

impl Manager {
    /// Connects to the system's systemd, or to that of the calling user.
    ///
    /// # Errors
    /// There is none, in runc's words.
    pub fn connect(user: bool) -> Result<Manager> {
        if !Path::new("/run/systemd/system").is_dir() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "systemd not running on this host, cannot use systemd cgroups manager",
            ));
        }
        let bus = if user { user_bus() } else { system_bus() };
        let hint = if user { " (rootless containers need a user session: package dbus-user-session)" } else { "" };
        let bus = bus
            .map_err(|error| Error { message: format!("unable to reach systemd{hint}: {}", error.message), ..error })?;
        let mut manager = Manager { bus, user, version: None };
        manager.subscribe()?;
        Ok(manager)
    }

    /// Asks for the signals about jobs. systemd itself sends them to whoever is connected without the bus.
    fn subscribe(&mut self) -> Result<()> {
        let rule =
            format!("type='signal',sender='{SERVICE}',interface='{MANAGER}',member='JobRemoved',path='{OBJECT}'");
        match self.bus.call(bus::daemon("AddMatch"), &[Value::Str(rule)]) {
            Ok(_) => {}
            // Without a bus in between there is nobody to add it.
            Err(Refused::Named { .. }) => return Ok(()),
            Err(Refused::Failed(error)) => return Err(error),
        }
        self.call("Subscribe", &[])?;
        Ok(())
    }

    fn call(&mut self, member: &str, arguments: &[Value]) -> std::result::Result<Vec<Value>, Refused> {
        self.bus.call(Method { destination: SERVICE, path: OBJECT, interface: MANAGER, member }, arguments)
    }

    fn property(&mut self, name: &str) -> Result<String> {
        let method =
            Method { destination: SERVICE, path: OBJECT, interface: "org.freedesktop.DBus.Properties", member: "Get" };
        let answer = self.bus.call(method, &[Value::Str(MANAGER.to_owned()), Value::Str(name.to_owned())])?;
        Ok(answer.first().and_then(Value::text).unwrap_or_default().to_owned())
    }

    /// systemd's version; 0 if it does not say one that can be read.
    fn version(&mut self) -> Result<u32> {
        if let Some(version) = self.version {
            return Ok(version);
        }
        let version = major(&self.property("Version")?);
        self.version = Some(version);
        Ok(version)
    }

    /// The cgroup that this systemd has below the root, without a leading slash: nothing for the system's.
    ///
    /// # Errors
    /// It does not answer.
    pub fn cgroup(&mut self) -> Result<PathBuf> {
        let path = if self.user { self.property("ControlGroup")? } else { String::new() };
        Ok(PathBuf::from(path.trim_start_matches('/')))
    }

    /// Starts a scope that `pid` is moved into. One of that name that failed earlier is forgotten first.
    ///
    /// # Errors
    /// systemd refuses, or does not come to an end.
    pub fn start(&mut self, unit: &Unit, pid: i32, limits: Vec<Property>) -> Result<()> {
        let property = |name: &str, value: Value| (name.to_owned(), value);
        let mut all = vec![
            property("Description", Value::Str(format!("brig container {}", unit.name.trim_end_matches(".scope")))),
            property("Slice", Value::Str(unit.slice.clone())),
            property("Delegate", Value::Bool(true)),
            property("PIDs", Value::Array("u".to_owned(), vec![Value::U32(pid.cast_unsigned())])),
            property("MemoryAccounting", Value::Bool(true)),
            property("CPUAccounting", Value::Bool(true)),
            property("IOAccounting", Value::Bool(true)),
            property("TasksAccounting", Value::Bool(true)),
            property("DefaultDependencies", Value::Bool(false)),
        ];
        all.extend(limits);
        all.extend(unit.properties.iter().cloned());
        let arguments = [
            Value::Str(unit.name.clone()),
            Value::Str("replace".to_owned()),
            list(all),
            Value::Array("(sa(sv))".to_owned(), Vec::new()),
        ];
        let failed = |error: Error| Error {
            message: format!("unable to start unit {:?}: {}", unit.name, error.message),
            ..error
        };
        let mut answer = self.call("StartTransientUnit", &arguments);
        if let Err(Refused::Named { name, .. }) = &answer
            && name == "org.freedesktop.systemd1.UnitExists"
        {
            self.reset_failed(unit);
            answer = self.call("StartTransientUnit", &arguments);
        }
        match self.job(answer.map_err(|refused| failed(refused.into()))?).map_err(failed)?.as_str() {
            "done" => Ok(()),
            other => {
                self.reset_failed(unit);
                let message = format!("error creating systemd unit `{}`: got `{other}`", unit.name);
                Err(Error::new(ErrorKind::System, message))
            }
        }
    }

    /// Stops a scope, which ends what is left in it. Not being there is as good.
    ///
    /// # Errors
    /// systemd does not come to an end.
    pub fn stop(&mut self, unit: &Unit) -> Result<()> {
        let arguments = [Value::Str(unit.name.clone()), Value::Str("replace".to_owned())];
        let stopped = match self.call("StopUnit", &arguments) {
            Ok(answer) => self.job(answer).map(drop),
            Err(Refused::Named { name, .. }) if name == "org.freedesktop.systemd1.NoSuchUnit" => return Ok(()),
            Err(refused) => Err(refused.into()),
        };
        // A failed one would stay listed for ever.
        self.reset_failed(unit);
        stopped.map_err(|error| Error {
            message: format!("unable to stop unit {:?}: {}", unit.name, error.message),
            ..error
        })
    }

    /// Changes properties of a running scope.
    ///
    /// # Errors
    /// systemd refuses a value.
    pub fn set(&mut self, unit: &Unit, limits: Vec<Property>) -> Result<()> {
        if limits.is_empty() {
            return Ok(());
        }
        let arguments = [Value::Str(unit.name.clone()), Value::Bool(true), list(limits)];
        match self.call("SetUnitProperties", &arguments) {
            Ok(_) => Ok(()),
            Err(refused) => {
                let error = Error::from(refused);
                let message = format!("unable to set unit properties of {:?}: {}", unit.name, error.message);
                Err(Error { message, ..error })
            }
        }
    }

    /// Moves a process into a scope.
    ///
    /// # Errors
    /// systemd refuses.
    pub fn attach(&mut self, unit: &Unit, pid: i32) -> Result<()> {
        let pids = Value::Array("u".to_owned(), vec![Value::U32(pid.cast_unsigned())]);
        let arguments = [Value::Str(unit.name.clone()), Value::Str("/".to_owned()), pids];
        self.call("AttachProcessesToUnit", &arguments)?;
        Ok(())
    }

    fn reset_failed(&mut self, unit: &Unit) {
        // Not failed, or not there: nothing to forget.
        self.call("ResetFailedUnit", &[Value::Str(unit.name.clone())]).ok();
    }

    /// Waits for the end of the job that a call has answered with, and says how it ended.
    fn job(&mut self, answer: Vec<Value>) -> Result<String> {
        let job = answer.first().and_then(Value::text).unwrap_or_default().to_owned();
        // (number, job, unit, result)
        self.bus.signal(Instant::now() + JOB, |message| {
            let ours = message.member == "JobRemoved" && message.body.get(1).and_then(Value::text) == Some(&job);
            ours.then(|| message.body.get(3).and_then(Value::text).unwrap_or_default().to_owned())
        })
    }

    /// What `resources` come to as properties of a unit on version 1 or 2, with the device rules if there are any to set.
    ///
    /// # Errors
    /// Values that have no such form.
    pub fn limits(&mut self, resources: &Resources, policy: Option<&Policy>, version_2: bool) -> Result<Vec<Property>> {
        let version = self.version()?;
        let mut limits = policy.map(properties::devices).unwrap_or_default();
        limits.extend(if version_2 {
            properties::version_2(resources, version)?
        } else {
            properties::version_1(resources, version)?
        });
        Ok(limits)
    }
}

fn list(properties: Vec<Property>) -> Value {
    let pair = |(name, value): Property| Value::Struct(vec![Value::Str(name), value.variant()]);
    Value::Array("(sv)".to_owned(), properties.into_iter().map(pair).collect())
}

/// `252.30-1~deb12u2`, `v245.4-1.fc32` → 252, 245.
fn major(version: &str) -> u32 {
    let digits = version.trim_start_matches(['"', 'v']);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    digits[..end].parse().unwrap_or(0)
}

/// systemd's own socket saves the way through the bus, and is there before and without it.
fn system_bus() -> Result<Bus> {
    Bus::connect(Path::new("/run/systemd/private"), false).or_else(|_| {
        let address = std::env::var("DBUS_SYSTEM_BUS_ADDRESS");
        Bus::at_address(address.as_deref().unwrap_or("unix:path=/run/dbus/system_bus_socket"))
    })
}

fn user_bus() -> Result<Bus> {
    if let Some(runtime) = std::env::var_os("XDG_RUNTIME_DIR").filter(|path| !path.is_empty()) {
        let private = Path::new(&runtime).join("systemd/private");
        if let Ok(bus) = Bus::connect(&private, false) {
            return Ok(bus);
        }
        if std::env::var_os("DBUS_SESSION_BUS_ADDRESS").is_none() {
            return Bus::connect(&Path::new(&runtime).join("bus"), true);
        }
    }
    let address = std::env::var("DBUS_SESSION_BUS_ADDRESS").map_err(|_| {
        Error::new(
            ErrorKind::Unsupported,
            "could not detect DBUS_SESSION_BUS_ADDRESS from the environment, nor XDG_RUNTIME_DIR",
        )
    })?;
    Bus::at_address(&address)
}

/// A process that is in a scope before the container is: systemd starts none without one, and stops it with its last.
#[derive(Debug)]
pub struct Placeholder {
    process: Spawned,
    /// Closed, it ends: also if whoever holds it dies.
    _life: Channel,
}

impl Placeholder {
    /// Makes one. Only for processes with one thread.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new() -> Result<Placeholder> {
        let failed = |error: brig_sys::Error| Error::new(ErrorKind::System, format!("a process for systemd: {error}"));
        let (ours, theirs) = fdpass::pair().map_err(failed)?;
        let process = clone::spawn(0, None, || {
            brig_sys::signal::reset().ok();
            if brig_sys::process::close_all_but(&[theirs.as_fd()]).is_ok() {
                theirs.receive().ok();
            }
            0
        })
        .map_err(failed)?;
        Ok(Placeholder { process, _life: ours })
    }

    /// It, as this process sees it.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }
}

impl Placeholder {
    /// Ends it; may be called again.
    pub fn end(&self) {
        // Both fail only if it has ended already.
        pidfd::send_signal(self.process.pidfd.as_fd(), crate::container::SIGKILL).ok();
        pidfd::reap(self.process.pidfd.as_fd()).ok();
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::bus::tests::{Reply, connected};
    use super::*;

    fn manager(answer: impl FnMut(&str, Vec<Value>) -> Vec<Reply> + Send + 'static) -> Manager {
        Manager { bus: connected(answer), user: false, version: Some(252) }
    }

    fn unit() -> Unit {
        Unit { name: "p-c.scope".into(), slice: "a.slice".into(), ..Unit::default() }
    }

    fn job(result: &str) -> Vec<Reply> {
        let removed = |path: &str, result: &str| {
            let text = |text: &str| Value::Str(text.to_owned());
            let body = vec![Value::U32(1), Value::Path(path.to_owned()), text("p-c.scope"), text(result)];
            Reply::Signal("JobRemoved", body)
        };
        // It may be over before the answer arrives, and others' jobs end, too.
        vec![removed("/job/8", "failed"), removed("/job/7", result), Reply::Return(vec![Value::Path("/job/7".into())])]
    }

    #[test]
    fn a_scope_is_started_and_stopped() {
        let mut manager = manager(|member, body| {
            if member == "StartTransientUnit" {
                let Value::Array(_, properties) = &body[2] else { panic!() };
                let has = |name: &str, value: Value| {
                    properties.contains(&Value::Struct(vec![Value::Str(name.into()), value.variant()]))
                };
                assert!(has("Slice", Value::Str("a.slice".into())) && has("Delegate", Value::Bool(true)));
                assert!(has("PIDs", Value::Array("u".into(), vec![Value::U32(5)])) && has("TasksMax", Value::U64(9)));
            }
            if member == "ResetFailedUnit" { vec![Reply::Return(vec![])] } else { job("done") }
        });
        manager.start(&unit(), 5, vec![("TasksMax".into(), Value::U64(9))]).unwrap();
        manager.stop(&unit()).unwrap();
    }

    #[test]
    fn a_failed_one_of_that_name_is_forgotten_first() {
        let mut starts = 0;
        let mut manager = manager(move |member, _| match member {
            "StartTransientUnit" => {
                starts += 1;
                if starts == 1 {
                    vec![Reply::Error("org.freedesktop.systemd1.UnitExists", "it exists")]
                } else {
                    job("done")
                }
            }
            _ => vec![Reply::Return(vec![])],
        });
        manager.start(&unit(), 5, Vec::new()).unwrap();
    }

    #[test]
    fn refusals() {
        let mut no = manager(|member, _| match member {
            "StartTransientUnit" => vec![Reply::Error("org.freedesktop.systemd1.UnitExists", "Unit p-c.scope exists")],
            "StopUnit" => vec![Reply::Error("org.freedesktop.systemd1.NoSuchUnit", "none")],
            _ => vec![Reply::Error("org.freedesktop.DBus.Error.InvalidArgs", "bad value")],
        });
        let error = no.start(&unit(), 5, Vec::new()).unwrap_err();
        assert_eq!(
            error.message,
            "unable to start unit \"p-c.scope\": Unit p-c.scope exists (org.freedesktop.systemd1.UnitExists)"
        );
        no.stop(&unit()).unwrap();
        let error = no.set(&unit(), vec![("TasksMax".into(), Value::Bool(true))]).unwrap_err();
        assert!(error.message.contains("bad value"), "{error}");
        let mut failing = manager(|_, _| job("failed"));
        let error = failing.start(&unit(), 5, Vec::new()).unwrap_err();
        assert_eq!(error.message, "error creating systemd unit `p-c.scope`: got `failed`");
    }

    #[test]
    fn annotations() {
        let read = |pairs: &[(&str, &str)]| {
            annotated(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
        };
        assert_eq!(
            read(&[
                ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
                ("org.systemd.property.RuntimeMaxSec", "2"),
                ("org.systemd.property.TimeoutStopUSec", "uint64 5"),
                ("other", "x"),
            ])
            .unwrap(),
            [
                ("CollectMode".to_owned(), Value::Str("inactive-or-failed".into())),
                ("RuntimeMaxUSec".to_owned(), Value::U64(2_000_000)),
                ("TimeoutStopUSec".to_owned(), Value::U64(5)),
            ]
        );
        for (key, value) in [
            ("org.systemd.property.", "1"),
            ("org.systemd.property.Ab", "1"),
            ("org.systemd.property.A-b", "1"),
            ("org.systemd.property.RuntimeMaxSec", "'x'"),
            ("org.systemd.property.Abc", "fish"),
        ] {
            let error = read(&[(key, value)]).unwrap_err();
            assert!(error.message.starts_with(&format!("annotations: {key}: ")), "{error}");
        }
    }

    #[test]
    fn versions() {
        let table = [("252.30-1~deb12u2", 252), ("v245.4-1.fc32", 245), ("\"v257\"", 257), ("", 0), ("x", 0)];
        for (text, want) in table {
            assert_eq!(major(text), want, "{text}");
        }
    }
}

//! The messages of CRIU's service (`images/rpc.proto` of CRIU 4) as far as this runtime sends and reads them.
//! Owns field numbers. Must not talk to anybody.

use super::protobuf::{Fields, Message};
use crate::error::Result;

/// `criu_req_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
}

impl Kind {
    fn of(number: u64) -> Option<Kind> {
        [Kind::Dump, Kind::Restore, Kind::PreDump, Kind::Notify, Kind::FeatureCheck]
            .into_iter()
            .find(|kind| *kind as u64 == number)
    }

    /// CRIU's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Dump => "DUMP",
            Kind::Restore => "RESTORE",
            Kind::PreDump => "PRE_DUMP",
            Kind::Notify => "NOTIFY",
            Kind::FeatureCheck => "FEATURE_CHECK",
        }
    }
}

/// How CRIU treats cgroups (`criu_cg_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CgroupsMode {
    /// Leaves them alone.
    Ignore = 0,
    /// Restores properties of cgroups that it makes itself.
    Soft = 3,
    /// Restores all properties.
    Full = 4,
    /// Requires that there are none yet.
    Strict = 5,
    /// CRIU's own choice.
    #[default]
    Default = 6,
}

/// `criu_opts`: field numbers by their names there.
#[derive(Debug, Default)]
pub(super) struct Opts(Message);

/// Fields of `criu_opts` that are a bool.
#[derive(Debug, Clone, Copy)]
pub(super) enum Switch {
    LeaveRunning = 3,
    ExtUnixSk = 4,
    TcpEstablished = 5,
    EvasiveDevices = 6,
    ShellJob = 7,
    FileLocks = 8,
    NotifyScripts = 12,
    TrackMem = 15,
    AutoDedup = 16,
    LinkRemap = 18,
    ManageCgroups = 24,
    RstSibling = 26,
    TcpSkipInFlight = 46,
    LazyPages = 48,
    OrphanPtsMaster = 50,
}

/// Fields of `criu_opts` that are a string.
#[derive(Debug, Clone, Copy)]
pub(super) enum Text {
    LogFile = 10,
    Root = 13,
    ParentImg = 14,
    External = 37,
    FreezeCgroup = 44,
    ConfigFile = 51,
    LsmProfile = 53,
    LsmMountContext = 63,
}

/// Fields of `criu_opts` that are a number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    ImagesDirFd = 1,
    Pid = 2,
    LogLevel = 9,
    WorkDirFd = 17,
    ManageCgroupsMode = 34,
    EmptyNs = 38,
}

impl Opts {
    pub fn set(&mut self, field: Switch, value: bool) -> &mut Opts {
        self.0.flag(field as u32, value);
        self
    }

    pub fn text(&mut self, field: Text, value: &str) -> &mut Opts {
        self.0.data(field as u32, value);
        self
    }

    pub fn number(&mut self, field: Number, value: i64) -> &mut Opts {
        self.0.number(field as u32, value);
        self
    }

    fn pair(&mut self, field: u32, fill: impl FnOnce(&mut Message)) -> &mut Opts {
        let mut inner = Message::default();
        fill(&mut inner);
        self.0.data(field, inner.bytes());
        self
    }

    /// `ext_mnt`: at a dump from mount point to name, at a restore from name to path.
    pub fn external_mount(&mut self, key: &str, value: &str) -> &mut Opts {
        self.pair(23, |inner| {
            inner.data(1, key).data(2, value);
        })
    }

    /// `cg_root`.
    pub fn cgroup_root(&mut self, controllers: &str, path: &str) -> &mut Opts {
        self.pair(25, |inner| {
            inner.data(1, controllers).data(2, path);
        })
    }

    /// `inherit_fd`.
    pub fn inherit(&mut self, key: &str, fd: i32) -> &mut Opts {
        self.pair(27, |inner| {
            inner.data(1, key).number(2, fd.into());
        })
    }

    /// `join_ns`.
    pub fn join(&mut self, kind: &str, file: &str) -> &mut Opts {
        self.pair(39, |inner| {
            inner.data(1, kind).data(2, file);
        })
    }

    /// `ps`.
    pub fn page_server(&mut self, address: &str, port: u16) -> &mut Opts {
        self.pair(11, |inner| {
            inner.data(1, address).number(2, port.into());
        })
    }
}

/// A request with options.
pub(super) fn request(kind: Kind, opts: &Opts) -> Vec<u8> {
    Message::default().number(1, kind as i64).data(2, opts.0.bytes()).bytes().to_vec()
}

/// The answer to a notification.
pub(super) fn notified(success: bool) -> Vec<u8> {
    Message::default().number(1, Kind::Notify as i64).number(3, success.into()).bytes().to_vec()
}

/// Asks whether memory tracking and lazy pages work here; CRIU then waits for another request.
pub(super) fn features(memory_tracking: bool, lazy_pages: bool) -> Vec<u8> {
    let mut wanted = Message::default();
    wanted.flag(1, memory_tracking).flag(2, lazy_pages);
    let mut request = Message::default();
    request.number(1, Kind::FeatureCheck as i64).flag(4, true).data(5, wanted.bytes());
    request.bytes().to_vec()
}

/// `criu_resp`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Response {
    pub kind: Option<Kind>,
    pub success: bool,
    /// A notification's name.
    pub script: String,
    /// Of a notification, or of what was restored.
    pub pid: Option<i32>,
    pub errno: i32,
    /// CRIU's first error.
    pub message: String,
    /// `mem_track` and `lazy_pages` of a feature check.
    pub memory_tracking: bool,
    pub lazy_pages: bool,
}

impl Response {
    pub fn parse(bytes: &[u8]) -> Result<Response> {
        let mut response = Response::default();
        for field in Fields::of(bytes) {
            match field? {
                (1, kind) => response.kind = Kind::of(kind.number()),
                (2, success) => response.success = success.number() != 0,
                (4, restored) => response.pid = pid(restored.data(), 1)?,
                (5, notify) => {
                    response.pid = pid(notify.data(), 2)?;
                    for field in Fields::of(notify.data()) {
                        if let (1, script) = field? {
                            response.script = script.text();
                        }
                    }
                }
                (7, errno) => response.errno = errno.number() as i32,
                (8, features) => {
                    for field in Fields::of(features.data()) {
                        match field? {
                            (1, value) => response.memory_tracking = value.number() != 0,
                            (2, value) => response.lazy_pages = value.number() != 0,
                            _ => {}
                        }
                    }
                }
                (9, message) => response.message = message.text(),
                _ => {}
            }
        }
        Ok(response)
    }
}

fn pid(message: &[u8], wanted: u32) -> Result<Option<i32>> {
    for field in Fields::of(message) {
        match field? {
            (number, value) if number == wanted => return Ok(i32::try_from(value.number()).ok()),
            _ => {}
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses() {
        // type NOTIFY, success, notify { script "post-restore", pid 300 }
        let mut notify = Message::default();
        notify.data(1, "post-restore").number(2, 300);
        let mut message = Message::default();
        message.number(1, 6).number(2, 1).data(5, notify.bytes());
        let response = Response::parse(message.bytes()).unwrap();
        assert_eq!((response.kind, response.success, response.pid), (Some(Kind::Notify), true, Some(300)));
        assert_eq!(response.script, "post-restore");
        // A failure, with a message and fields that are not known here.
        let mut message = Message::default();
        message.number(1, 2).number(2, 0).number(7, 17).data(9, "it broke").data(99, "?");
        let response = Response::parse(message.bytes()).unwrap();
        assert_eq!((response.kind, response.success, response.errno), (Some(Kind::Restore), false, 17));
        assert_eq!((response.message.as_str(), response.pid), ("it broke", None));
        assert!(Response::parse(&[0x0a, 9]).is_err());
    }

    #[test]
    fn requests() {
        let mut opts = Opts::default();
        opts.number(Number::ImagesDirFd, 5).set(Switch::ShellJob, false).set(Switch::RstSibling, true);
        opts.inherit("pipe:[1]", 0);
        let bytes = request(Kind::Restore, &opts);
        let want = [8, 2, 0x12, 20, 8, 5, 0xd0, 1, 1, 0xda, 1, 12, 0x0a, 8];
        assert_eq!(&bytes[..want.len()], want);
        assert_eq!(notified(false), [8, 6, 0x18, 0]);
    }
}

//! The daemon as a process: checks, start in order, signals, end. Owns that order; must not know HTTP or containers.

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use brig_engine::Engine;
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;

use crate::config_file::{self, Stop};
use crate::listen::{Listener, own_directory};
use crate::logging::{self, SetLevel};
use clap::Parser as _;

use crate::options::Options;
use crate::registry::Served;
use crate::server::Server;
use crate::tls;

/// How long requests may go on after the daemon was told to stop.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long requests to its registry may.
const LAST_TRANSFERS: Duration = Duration::from_secs(5);

/// How long a listener may take to end that has nothing to do but that.
const LISTENERS_GONE: Duration = Duration::from_secs(5);

/// Runs the daemon with a command line, its program name first, until it is told to stop.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    brig_sys::memory::keep_little();
    let args: Vec<OsString> = args.into_iter().collect();
    let loaded = match args.iter().any(|argument| argument == "--check") {
        // A check is of what the command line names, whatever the file says.
        true => Options::try_parse_from(&args).map_err(Stop::Usage),
        false => config_file::load(&args),
    };
    let options = match loaded.and_then(|o| o.check().map(|()| o).map_err(Stop::File)) {
        Ok(options) => options,
        Err(Stop::Usage(error)) => {
            let code = u8::try_from(error.exit_code()).unwrap_or(1);
            // Nothing more can be done if even the message cannot be written.
            error.print().ok();
            return ExitCode::from(code);
        }
        Err(Stop::File(text)) => return fail(&text),
    };
    if options.validate {
        // As dockerd: said on stderr, where scripts that check it look.
        writeln!(std::io::stderr(), "configuration OK").ok();
        return ExitCode::SUCCESS;
    }
    if options.check {
        return check(&options);
    }
    let set_level = logging::start(level(&options));
    match run(&options, args, set_level) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => fail(&text),
    }
}

/// `--check`: 0 when all is well or mended, 3 when something is left, 1 when the check could not come to its end.
fn check(options: &Options) -> ExitCode {
    let mut outcome = ExitCode::FAILURE;
    let mut out = std::io::stdout().lock();
    let checked =
        brig_engine::check_data_root(&options.data_root, options.check_full, options.check_repair, &mut |line| {
            if let Some(summary) = line.summary {
                outcome = ExitCode::from(if summary.left > 0 { 3 } else { 0 });
            }
            // Whoever does not read any more still gets the repair that was asked for.
            serde_json::to_writer(&mut out, &line)
                .map_err(std::io::Error::from)
                .and_then(|()| out.write_all(b"\n"))
                .ok();
        });
    match checked {
        Ok(()) => outcome,
        Err(e) => {
            writeln!(std::io::stderr(), "brig daemon --check: {}", e.message).ok();
            ExitCode::FAILURE
        }
    }
}

fn fail(text: &str) -> ExitCode {
    writeln!(std::io::stderr(), "failed to start daemon: {text}").ok();
    ExitCode::FAILURE
}

fn level(options: &Options) -> LevelFilter {
    let named = logging::parse_level(&options.log_level).unwrap_or(LevelFilter::INFO);
    if options.debug { named.max(LevelFilter::DEBUG) } else { named }
}

fn run(options: &Options, args: Vec<OsString>, set_level: SetLevel) -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("the daemon needs root: run it with sudo".into());
    }
    allow_many_files();
    own_directory(&options.data_root, 0o711)?;
    own_directory(&options.exec_root, 0o700)?;
    let _pidfile = options.pidfile.as_deref().map(PidFile::write).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()
        .map_err(|e| format!("starting the asynchronous runtime: {e}"))?;
    let outcome = runtime.block_on(serve(options, args, set_level));
    runtime.shutdown_timeout(LAST_ANSWERS);
    outcome
}

/// Each client, container and published port holds a descriptor; the usual soft limit of 1,024 is soon reached. The hard
/// limit stays as it is, and containers inherit both unless `--default-ulimit` or `--ulimit` says otherwise.
pub(crate) fn allow_many_files() {
    /// What Docker's service file asked for, and programs that close every descriptor below the limit can bear.
    const ENOUGH: u64 = 1 << 20;
    let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let wanted = now.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if now.current.is_some_and(|current| current < wanted) {
        let limit = rustix::process::Rlimit { current: Some(wanted), maximum: now.maximum };
        if let Err(e) = rustix::process::setrlimit(rustix::process::Resource::Nofile, limit) {
            tracing::warn!("raising the number of open files to {wanted}: {e}");
        }
    }
}

async fn serve(options: &Options, args: Vec<OsString>, set_level: SetLevel) -> Result<(), String> {
    tracing::info!("Starting up");
    let mut signals = Signals::new()?;
    let engine = Engine::open(options.engine_config()?).await.map_err(|e| e.message)?;
    let server = Arc::new(Server::new(Arc::new(engine)));
    let registry = match options.registry()? {
        Some(of_registry) => Some(Served::begin(&of_registry, server.engine()).await?),
        None => None,
    };
    let tasks = listen(options, &server).await?;
    ready(options.ready_fd)?;
    tracing::info!("Daemon has completed initialization");
    loop {
        tokio::select! {
            told = signals.next() => match told {
                Told::Stop(name) => {
                    tracing::info!("Processing signal '{name}': containers keep running");
                    break;
                }
                Told::Reload => match reload(&args, server.engine(), &set_level) {
                    Ok(()) => tracing::info!(
                        "configuration reloaded: what concerns registries, labels and the log level is in force, other changes need a restart"
                    ),
                    Err(why) => tracing::error!("configuration not reloaded, nothing has changed: {why}"),
                },
            },
            // Others rely on the registry: it is never idle.
            () = idle(&server, options.idle_exit.filter(|_| registry.is_none())) => {
                tracing::info!("no container runs and no request came: leaving");
                break;
            }
        }
    }
    notify("STOPPING=1");
    // Dropping the listeners removes the sockets, which is waited for: where threads are busy the process would end before it.
    tasks.iter().for_each(tokio::task::JoinHandle::abort);
    for task in tasks {
        if tokio::time::timeout(LISTENERS_GONE, task).await.is_err() {
            tracing::warn!("a listener did not end in time: its socket may be left");
        }
    }
    // Requests that are under way have a moment to end.
    if let Some(registry) = registry {
        registry.end(LAST_TRANSFERS).await;
    }
    if tokio::time::timeout(LAST_ANSWERS, server.at_rest()).await.is_err() {
        tracing::warn!("requests that are still under way are broken off");
    }
    Ok(())
}

async fn listen(options: &Options, server: &Arc<Server>) -> Result<Vec<tokio::task::JoinHandle<()>>, String> {
    let acceptor = if options.tls || options.tlsverify {
        let authority = options.tlsverify.then_some(options.tlscacert.as_path());
        let flags = ["--tlscert", "--tlskey", "--tlscacert"];
        Some(tls::acceptor(&options.tlscert, &options.tlskey, authority, flags)?)
    } else {
        None
    };
    let mut listeners = Vec::new();
    for host in options.addresses()? {
        listeners.extend(Listener::bind(&host, options.group.as_deref(), acceptor.as_ref()).await?);
    }
    let mut tasks = Vec::new();
    for listener in listeners {
        if listener.is_open_to_the_network() {
            tracing::warn!(
                "the API on {} is neither encrypted nor authenticated: whoever reaches it is root on this host; use --tlsverify",
                listener.name
            );
        }
        tracing::info!("API listen on {}", listener.name);
        tasks.push(tokio::spawn(listener.run(server.clone())));
    }
    Ok(tasks)
}

/// Tells whoever waits that requests are answered now.
pub(crate) fn ready(fd: Option<u32>) -> Result<(), String> {
    if let Some(fd) = fd {
        // Opened by name, since a descriptor by number has no owner that could be trusted.
        fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{fd}"))
            .and_then(|mut file| file.write_all(b"\n"))
            .map_err(|e| format!("--ready-fd {fd}: {e}"))?;
    }
    notify("READY=1");
    Ok(())
}

/// sd_notify(3).
pub(crate) fn notify(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let address = match name.as_encoded_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&name),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!("telling the service manager {state}: {error}");
    }
}

/// Ends when nothing has been going on for as long as was asked for.
async fn idle(server: &Server, limit: Option<u64>) {
    let Some(limit) = limit.map(Duration::from_secs) else {
        return std::future::pending().await;
    };
    loop {
        server.at_rest().await;
        server.engine().containers.at_rest().await;
        let left = limit.saturating_sub(server.idle());
        if left.is_zero() && server.engine().containers.are_at_rest() {
            return;
        }
        // The time itself is what is waited for: whoever comes meanwhile begins it anew.
        tokio::time::sleep(left).await;
    }
}

/// Reads the configuration again, for what can change while the daemon runs.
fn reload(args: &[OsString], engine: &Engine, set_level: &SetLevel) -> Result<(), String> {
    let options = match config_file::load(args) {
        Ok(options) => options,
        Err(Stop::Usage(error)) => return Err(error.to_string()),
        Err(Stop::File(text)) => return Err(text),
    };
    options.check()?;
    engine.reload(&options.engine_config()?).map_err(|error| error.message)?;
    set_level(level(&options));
    Ok(())
}

/// The signals that mean something to the daemon.
pub(crate) struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    pub(crate) fn new() -> Result<Self, String> {
        let take = |kind| signal(kind).map_err(|e| format!("handling signals: {e}"));
        Ok(Self {
            interrupt: take(SignalKind::interrupt())?,
            terminate: take(SignalKind::terminate())?,
            hangup: take(SignalKind::hangup())?,
        })
    }

    pub(crate) async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.interrupt.recv() => Told::Stop("interrupt"),
            _ = self.terminate.recv() => Told::Stop("terminated"),
            _ = self.hangup.recv() => Told::Reload,
        }
    }
}

/// What a signal asks for.
pub(crate) enum Told {
    Stop(&'static str),
    Reload,
}

/// The file with the daemon's process id.
struct PidFile(PathBuf);

impl PidFile {
    fn write(path: &Path) -> Result<Self, String> {
        let name = path.display();
        if let Ok(text) = fs::read_to_string(path)
            && let Ok(pid) = text.trim().parse::<u32>()
            && pid != std::process::id()
            && Path::new(&format!("/proc/{pid}")).exists()
        {
            return Err(format!("process with PID {pid} is still running, as {name} says: stop it or remove the file"));
        }
        fs::write(path, std::process::id().to_string()).map_err(|e| format!("writing the pid file {name}: {e}"))?;
        Ok(Self(path.to_owned()))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            tracing::debug!("removing {}: {error}", self.0.display());
        }
    }
}

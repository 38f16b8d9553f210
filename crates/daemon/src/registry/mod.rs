//! Registries: `brig registry serve`, a process that serves one from a root of its own until it is told to stop; and the one
//! of a daemon, over its engine's storage. Owns the order of start and end. What a registry is, is `brig_registry_server`'s.

mod engine;
mod options;

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use brig_registry_server::{Acceptor, Registry, Settings, Store};
use clap::Parser as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

pub(crate) use self::engine::Served;
use self::options::{Cli, Verb};
pub(crate) use self::options::{Options, of_daemon};
use crate::process::{Signals, Told, allow_many_files, notify, ready};
use crate::{logging, tls};

/// Runs `brig registry` with a command line, its program name first.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    brig_sys::memory::keep_little();
    let Cli { verb: Verb::Serve(options) } = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing more can be done if even the message cannot be written.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1));
        }
    };
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            writeln!(std::io::stderr(), "the registry cannot be served: {text}").ok();
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    drop(logging::start(logging::parse_level(&options.log_level)?));
    allow_many_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()
        .map_err(|e| format!("starting the asynchronous runtime: {e}"))?;
    let outcome = runtime.block_on(serve(options));
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(options: &Options) -> Result<(), String> {
    let mut signals = Signals::new()?;
    let (settings, tls) = (settings(options)?, acceptor(options)?);
    let root = options.root.join("v1");
    if root.join("containers").exists() {
        let text = "is an engine's: its daemon serves it, with --serve-registry";
        return Err(format!("{} {text}", options.root.display()));
    }
    let store = Store::open(&root).map_err(|error| error.to_string())?;
    settle(&store);
    let registry = Registry::new(store, settings);
    let listener = listen(options, tls.is_some()).await?;
    let (stop, stopped) = watch::channel(false);
    let upkeep = keep_tidy(&registry, options);
    ready(options.ready_fd)?;
    let mut serving = tokio::spawn(async move { registry.serve(Acceptor { listener, tls }, stopped).await });
    loop {
        match signals.next().await {
            Told::Stop(name) => {
                tracing::info!("Processing signal '{name}': requests that are under way are finished");
                break;
            }
            Told::Reload => tracing::info!("nothing to read again: a file of passwords is when it changes"),
        }
    }
    notify("STOPPING=1");
    stop.send_replace(true);
    // Who says it twice means at once.
    tokio::select! {
        _ = &mut serving => {}
        _ = signals.next() => serving.abort(),
    }
    if let Some(upkeep) = upkeep {
        upkeep.abort();
    }
    Ok(())
}

/// All tables are there: the copy that a rescue would start from follows the database from now on.
fn settle(store: &Store) {
    let store = store.clone();
    // Nobody waits for it; where it fails the copy is older.
    drop(tokio::task::spawn_blocking(move || {
        if let Err(error) = store.upkeep().settle() {
            tracing::warn!("the copy of the database: {error}");
        }
    }));
}

fn settings(options: &Options) -> Result<Settings, String> {
    Ok(Settings {
        access: options.access()?,
        read_only: options.read_only,
        deletion: !options.no_delete,
        proxy: options.upstream()?.map(Arc::new),
        client_connections: options.client_connections,
        ..Settings::default()
    })
}

fn acceptor(options: &Options) -> Result<Option<TlsAcceptor>, String> {
    let flags = ["--tls-cert", "--tls-key", "--tls-client-ca"];
    options.tls().map(|(cert, key, ca)| tls::acceptor(cert, key, ca, flags)).transpose()
}

async fn bind(options: &Options) -> Result<(TcpListener, SocketAddr), String> {
    let mut failure = None;
    for address in options.addresses()? {
        let bound = TcpListener::bind(&address).await.and_then(|listener| Ok((listener.local_addr()?, listener)));
        match bound {
            Ok((local, listener)) => return Ok((listener, local)),
            // Where another program listens the next address would be half of what is asked for.
            Err(error) if error.kind() == ErrorKind::AddrInUse => {
                return Err(format!("listening on {address}: another program listens there"));
            }
            Err(error) => failure = Some(format!("listening on {address}: {error}")),
        }
    }
    Err(failure.unwrap_or_default())
}

/// The socket, and warnings about what it is open to.
async fn listen(options: &Options, has_tls: bool) -> Result<TcpListener, String> {
    let (listener, local) = bind(options).await?;
    if options.is_open() && !local.ip().is_loopback() {
        tracing::warn!("whoever reaches {local} may push and delete: use --htpasswd, --token-realm or --tls-client-ca");
    }
    if !has_tls && !local.ip().is_loopback() {
        tracing::warn!("passwords and tokens travel to {local} unprotected: use --tls-cert and --tls-key");
    }
    tracing::info!("Registry listens on {local}");
    Ok(listener)
}

/// Collects in the background, if that is wanted.
fn keep_tidy(registry: &Registry, options: &Options) -> Option<JoinHandle<()>> {
    let upkeep = options.upkeep().filter(|_| !options.read_only)?;
    Some(tokio::spawn(registry.clone().keep_tidy(upkeep)))
}

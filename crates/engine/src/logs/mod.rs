//! `logs`: selects records of a container's log and turns them into what the client reads. Owns filtering, framing
//! and following; must not know how the log came to be (`file` reads, the shim writes).

mod file;

use std::collections::BTreeMap;
use std::path::PathBuf;

use brig_api::frame;
use bytes::Bytes;
use jiff::Timestamp;
use rustix::fs::inotify;
use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use crate::container::View;
use crate::error::{Error, Result};
use file::LogFile;
use std::sync::Arc;

/// What a client wants of a log.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Go on until the container ends.
    pub follow: bool,
    /// Nothing before this instant.
    pub since: Option<Timestamp>,
    /// Nothing after this instant.
    pub until: Option<Timestamp>,
    /// Put each record's instant in front.
    pub timestamps: bool,
    /// Only this many records from the end to begin with.
    pub tail: Option<u64>,
    /// Put the record's extra attributes in front.
    pub details: bool,
}

/// A log being read: chunks of Docker's frames, or of raw bytes where the container has a terminal.
pub struct LogStream {
    /// Whether the container has a terminal, that is, whether the chunks are raw.
    pub tty: bool,
    /// The chunks; closed at the end.
    pub chunks: mpsc::Receiver<Result<Bytes>>,
}

/// One line of the log file, as the shim writes it.
#[derive(Debug, Deserialize)]
struct Record {
    #[serde(default)]
    log: String,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    time: String,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// Starts reading the log at `path` of the container that `views` shows.
pub fn read(path: PathBuf, tty: bool, options: LogOptions, views: watch::Receiver<Arc<View>>) -> LogStream {
    let (sender, chunks) = mpsc::channel(16);
    tokio::spawn(async move {
        if let Err(e) = pump(path, tty, options, views, &sender).await {
            // The reader may have gone away meanwhile; then nobody wants to know.
            sender.send(Err(e)).await.ok();
        }
    });
    LogStream { tty, chunks }
}

async fn pump(
    path: PathBuf,
    tty: bool,
    options: LogOptions,
    mut views: watch::Receiver<Arc<View>>,
    sender: &mpsc::Sender<Result<Bytes>>,
) -> Result<()> {
    let shown = path.display().to_string();
    let failed = move |e: std::io::Error| Error::system(format!("read log {shown}: {e}"));
    // Watched before the first read, so that nothing written in between is missed.
    let changes = if options.follow { Some(watch_directory(&path).map_err(&failed)?) } else { None };
    let mut log = LogFile::open(&path, options.tail).map_err(&failed)?;
    loop {
        // Looked at before draining: what is in the file when the container is already over is all there will be.
        let over = !views.borrow_and_update().goes_on();
        let mut chunk = Vec::new();
        while let Some(line) = log.next_record().map_err(&failed)? {
            match render(&line, tty, &options) {
                Rendered::Skip => {}
                Rendered::Bytes(bytes) => chunk.extend_from_slice(&bytes),
                Rendered::PastEnd => {
                    flush(&mut chunk, sender).await;
                    return Ok(());
                }
            }
            if chunk.len() >= 32 << 10 && !flush(&mut chunk, sender).await {
                return Ok(());
            }
        }
        if !flush(&mut chunk, sender).await || over {
            return Ok(());
        }
        let Some(changes) = &changes else { return Ok(()) };
        tokio::select! {
            () = next_change(changes) => {}
            changed = views.changed() => if changed.is_err() { return Ok(()) },
            () = sender.closed() => return Ok(()),
            () = until_deadline(options.until) => return Ok(()),
        }
    }
}

async fn flush(chunk: &mut Vec<u8>, sender: &mpsc::Sender<Result<Bytes>>) -> bool {
    chunk.is_empty() || sender.send(Ok(Bytes::from(std::mem::take(chunk)))).await.is_ok()
}

async fn until_deadline(until: Option<Timestamp>) {
    match until {
        Some(until) => {
            // The client has named the time.
            let left = until.duration_since(Timestamp::now());
            tokio::time::sleep(std::time::Duration::try_from(left).unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

enum Rendered {
    Skip,
    Bytes(Vec<u8>),
    PastEnd,
}

fn render(line: &[u8], tty: bool, options: &LogOptions) -> Rendered {
    // A torn or damaged record (power cut, full disk) costs itself, not the rest of the log.
    let Ok(record) = serde_json::from_slice::<Record>(line) else { return Rendered::Skip };
    let stream = if record.stream == "stderr" { 2u8 } else { 1u8 };
    if (stream == 1 && !options.stdout) || (stream == 2 && !options.stderr) {
        return Rendered::Skip;
    }
    let at: Option<Timestamp> = record.time.parse().ok();
    if let Some(at) = at {
        if options.since.is_some_and(|since| at < since) {
            return Rendered::Skip;
        }
        if options.until.is_some_and(|until| at > until) {
            return Rendered::PastEnd;
        }
    }
    let mut text = Vec::with_capacity(record.log.len() + 48);
    if options.timestamps {
        text.extend_from_slice(at.map_or_else(|| record.time.clone(), fixed_nanoseconds).as_bytes());
        text.push(b' ');
    }
    if options.details {
        let details: Vec<String> = record.attrs.iter().map(|(key, value)| format!("{key}={value}")).collect();
        text.extend_from_slice(details.join(",").as_bytes());
        text.push(b' ');
    }
    text.extend_from_slice(record.log.as_bytes());
    Rendered::Bytes(if tty { text } else { framed(stream, &text) })
}

fn framed(stream: u8, text: &[u8]) -> Vec<u8> {
    let stream = if stream == 2 { frame::Stream::Stderr } else { frame::Stream::Stdout };
    let mut out = Vec::with_capacity(text.len() + frame::HEADER);
    frame::encode(stream, text, &mut out);
    out
}

/// RFC 3339 with always nine digits of fraction, so that columns line up.
fn fixed_nanoseconds(at: Timestamp) -> String {
    let text = at.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    format!("{text}.{:09}Z", at.subsec_nanosecond())
}

fn watch_directory(log: &std::path::Path) -> std::io::Result<AsyncFd<std::os::fd::OwnedFd>> {
    let watcher = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let directory = log.parent().unwrap_or(std::path::Path::new("/"));
    let wanted = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
    inotify::add_watch(&watcher, directory, wanted)?;
    // Deprecated for descriptors that someone else may close; this one is owned by what is made here.
    #[expect(deprecated, reason = "the replacement is unsafe, and an owned descriptor outlives its registration")]
    AsyncFd::new(watcher)
}

/// Waits for any change beside the log and eats what is queued of them.
async fn next_change(changes: &AsyncFd<std::os::fd::OwnedFd>) {
    let Ok(mut guard) = changes.readable().await else { return };
    let mut buffer = [0u8; 4096];
    while let Ok(read) = rustix::io::read(changes.get_ref(), &mut buffer) {
        if read == 0 {
            break;
        }
    }
    guard.clear_ready();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> LogOptions {
        LogOptions { stdout: true, stderr: true, ..LogOptions::default() }
    }

    fn text(line: &str, options: &LogOptions) -> Option<String> {
        match render(line.as_bytes(), true, options) {
            Rendered::Bytes(bytes) => Some(String::from_utf8(bytes).unwrap()),
            Rendered::Skip | Rendered::PastEnd => None,
        }
    }

    const LINE: &str = r#"{"log":"hi\n","stream":"stderr","time":"2026-01-02T03:04:05.5Z","attrs":{"a":"b"}}"#;

    #[test]
    fn selects_by_stream_and_time() {
        assert_eq!(text(LINE, &options()).as_deref(), Some("hi\n"));
        assert_eq!(text(LINE, &LogOptions { stderr: false, ..options() }), None);
        let later = "2026-01-02T03:04:06Z".parse().ok();
        assert_eq!(text(LINE, &LogOptions { since: later, ..options() }), None);
        let earlier = "2026-01-02T03:04:05Z".parse().ok();
        assert!(matches!(
            render(LINE.as_bytes(), true, &LogOptions { until: earlier, ..options() }),
            Rendered::PastEnd
        ));
        assert_eq!(text("{\"log\":\"torn", &options()), None);
    }

    #[test]
    fn timestamps_have_nine_digits_and_details_come_after_them() {
        let all = LogOptions { timestamps: true, details: true, ..options() };
        assert_eq!(text(LINE, &all).as_deref(), Some("2026-01-02T03:04:05.500000000Z a=b hi\n"));
    }

    #[test]
    fn frames_without_a_terminal() {
        let Rendered::Bytes(bytes) = render(LINE.as_bytes(), false, &options()) else { panic!("skipped") };
        assert_eq!(bytes, b"\x02\0\0\0\0\0\0\x03hi\n");
    }
}

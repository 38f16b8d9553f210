//! A daemon that answers as a test tells it to, on a socket of its own, and notes what it was asked.
//! Also runs the command under test.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

/// One request as it arrived.
pub struct Asked {
    /// `POST /v1.51/containers/create?name=x`.
    pub line: String,
    /// The body.
    pub body: String,
    /// The connection, for answers.
    pub stream: UnixStream,
    /// What arrived behind the request already is read through this.
    pub reader: BufReader<UnixStream>,
}

impl Asked {
    /// Answers with a status and JSON.
    pub fn json(&mut self, status: u16, body: &str) {
        write!(
            self.stream,
            "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
    }
    /// Answers with a status and nothing.
    pub fn empty(&mut self, status: u16) {
        write!(self.stream, "HTTP/1.1 {status} X\r\n\r\n").unwrap();
    }
    /// Turns the connection into a raw stream.
    pub fn upgrade(&mut self) {
        write!(self.stream, "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n").unwrap();
    }
    /// Sends one frame of output.
    pub fn frame(&mut self, stream: u8, text: &str) {
        let mut bytes = vec![stream, 0, 0, 0];
        bytes.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
        bytes.extend(text.as_bytes());
        self.stream.write_all(&bytes).unwrap();
    }
    /// Everything the client sends from here on.
    pub fn rest(&mut self) -> String {
        let mut text = String::new();
        self.reader.read_to_string(&mut text).unwrap();
        text
    }
    /// The request is for this.
    pub fn is(&self, part: &str) -> bool {
        self.line.contains(part)
    }
}

/// The daemon.
pub struct Daemon {
    directory: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Daemon {
    /// Answers every request by `answer`, each connection on a thread of its own.
    pub fn new(answer: impl Fn(&mut Asked) + Send + Sync + 'static) -> Daemon {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("d.sock")).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (noted, answer) = (Arc::clone(&asked), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, noted, answer) = (stream.unwrap(), Arc::clone(&noted), Arc::clone(&answer));
                std::thread::spawn(move || serve(stream, &noted, &*answer));
            }
        });
        Daemon { directory, asked }
    }

    /// The requests so far, without the version: `POST /containers/create`.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// The command with these words, talking to this daemon.
    pub fn command(&self, words: &str) -> Command {
        let mut command = Command::new(program());
        command.arg("-H").arg(format!("unix://{}", self.directory.path().join("d.sock").display()));
        command.args(words.split_whitespace()).env("DOCKER_CONFIG", self.directory.path()).stdin(Stdio::null());
        command
    }

    /// Runs it: exit code, standard output, standard error.
    pub fn run(&self, words: &str) -> (i32, String, String) {
        finish(self.command(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }
}

/// Waits for a child whose output is piped.
pub fn finish(child: std::process::Child) -> (i32, String, String) {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn serve(stream: UnixStream, noted: &Mutex<Vec<String>>, answer: &dyn Fn(&mut Asked)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        let mut length = 0;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).unwrap();
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let line = line.trim().trim_end_matches(" HTTP/1.1").to_owned();
        let (method, path) = line.split_once(' ').unwrap();
        let bare = path.splitn(3, '/').nth(2).unwrap_or("");
        noted.lock().unwrap().push(format!("{method} /{bare}"));
        let body = String::from_utf8(body).unwrap();
        let mut asked = Asked { line, body, stream: stream.try_clone().unwrap(), reader };
        answer(&mut asked);
        reader = asked.reader;
    }
}

/// The program under test, built beside the tests.
pub fn program() -> PathBuf {
    const HOW: &str = "build it with the tests: cargo test -p brig-cli";
    let own = std::env::current_exe().unwrap();
    let path = own.parent().unwrap().parent().unwrap().join("examples/brig");
    assert!(path.exists(), "{} is missing; {HOW}", path.display());
    // '--test run' alone builds the tests but not the program: a stale one would prove nothing.
    let changed = |path: &std::path::Path| path.metadata().unwrap().modified().unwrap();
    let sources = [env!("CARGO_MANIFEST_DIR"), "src"].iter().collect::<PathBuf>();
    let newest = newest(&sources);
    assert!(changed(&path) >= newest, "{} is older than its sources; {HOW}", path.display());
    path
}

fn newest(directory: &std::path::Path) -> std::time::SystemTime {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let times = entries.map(|p| if p.is_dir() { newest(&p) } else { p.metadata().unwrap().modified().unwrap() });
    times.max().unwrap_or(std::time::SystemTime::UNIX_EPOCH)
}

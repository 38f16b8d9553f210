//! Requests to the daemon: connections kept for the next request, the API version, errors as Docker words them.
//! Knows paths and JSON, not what they mean; prints nothing.

use crate::failure::{Failure, Result};
use crate::host::{Address, Endpoint};
use crate::http::{Body, Connection, Request, Response, Stream, escape};
use crate::{autostart, tls};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Write as _;
use std::io::{BufReader, Read};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::sync::Mutex;

/// A path with its query, encoded piece by piece.
#[derive(Debug, Clone)]
pub struct Path(String, char);

impl Path {
    /// `/containers/{}/start` with each `{}` filled by an encoded argument.
    pub fn new(pattern: &str, arguments: &[&str]) -> Path {
        let mut pieces = pattern.split("{}");
        let mut text = pieces.next().unwrap_or("").to_owned();
        for (piece, argument) in pieces.zip(arguments) {
            text.push_str(&escape(argument));
            text.push_str(piece);
        }
        Path(text, '?')
    }
    /// With one more parameter.
    pub fn query(mut self, name: &str, value: &str) -> Path {
        self.0.push(self.1);
        self.1 = '&';
        write!(self.0, "{name}={}", escape(value)).expect("writing to a String does not fail");
        self
    }
    /// With a parameter if the text is not empty.
    pub fn query_text(self, name: &str, value: &str) -> Path {
        if value.is_empty() { self } else { self.query(name, value) }
    }
    /// With `name=1` if it is true.
    pub fn query_flag(self, name: &str, value: bool) -> Path {
        if value { self.query(name, "1") } else { self }
    }
}

/// A request under way whose answer is read later.
#[derive(Debug)]
pub struct Pending(Connection);

impl Pending {
    /// Waits for the head of the answer.
    ///
    /// # Errors
    /// The daemon's refusal or a broken connection.
    pub fn answer(self) -> Result<Response> {
        refuse_errors(self.0.receive().map_err(|e| broken(&e))?)
    }
}

/// A client of one daemon.
#[derive(Debug)]
pub struct Client {
    endpoint: Endpoint,
    idle: Mutex<Vec<Connection>>,
    version: Mutex<String>,
}

impl Client {
    /// For a daemon; connects when the first request is made.
    pub fn new(endpoint: Endpoint) -> Client {
        let version = std::env::var("DOCKER_API_VERSION").ok().filter(|v| !v.is_empty());
        let version =
            version.map_or_else(|| brig_api::API_VERSION.to_owned(), |v| v.trim_start_matches('v').to_owned());
        Client { endpoint, idle: Mutex::new(Vec::new()), version: Mutex::new(version) }
    }

    /// The API version in use.
    pub fn version(&self) -> String {
        self.version.lock().expect("no thread panics while it holds the version").clone()
    }

    /// The socket, if it is one of this machine.
    pub fn socket(&self) -> Option<&std::path::Path> {
        match &self.endpoint.address {
            Address::Unix(path) => Some(path),
            Address::Tcp(..) => None,
        }
    }

    fn connect(&self) -> Result<Connection> {
        let unreachable = |why: &dyn std::fmt::Display| {
            Failure::new(format!(
                "Cannot connect to the {} daemon at {}. Is the daemon running? ({why})",
                crate::program(),
                self.endpoint.shown
            ))
        };
        let stream = match &self.endpoint.address {
            Address::Unix(path) => match UnixStream::connect(path) {
                Ok(stream) => Stream::Unix(stream),
                Err(error) if self.endpoint.may_start && nobody_listens(&error) => {
                    Stream::Unix(autostart::connect(path)?)
                }
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    return Err(Failure::new(format!(
                        "permission denied while trying to connect to the daemon at {}: run it as root or as a member of the socket's group",
                        self.endpoint.shown
                    )));
                }
                Err(error) => return Err(unreachable(&error)),
            },
            Address::Tcp(host, port) => {
                let tcp = TcpStream::connect((host.as_str(), *port)).map_err(|e| unreachable(&e))?;
                tcp.set_nodelay(true)?;
                match &self.endpoint.tls {
                    Some(config) => Stream::Unix(tls::wrap(tcp, host, config)?),
                    None => Stream::Tcp(tcp),
                }
            }
        };
        Ok(Connection::new(stream))
    }

    fn host(&self) -> String {
        match &self.endpoint.address {
            Address::Unix(_) => "brig".to_owned(),
            Address::Tcp(host, port) => format!("{host}:{port}"),
        }
    }

    fn idle(&self) -> Option<Connection> {
        self.idle.lock().expect("no thread panics while it holds the list").pop()
    }

    /// Sends a request on a new connection and does not wait for the answer.
    ///
    /// # Errors
    /// No connection.
    pub fn begin(&self, method: &str, path: &Path, upgrade: bool) -> Result<Pending> {
        let mut connection = self.connect()?;
        let path = format!("/v{}{}", self.version(), path.0);
        let mut request = Request { method, path, headers: Vec::new(), body: Body::Empty, upgrade };
        connection.send(&mut request, &self.host()).map_err(|e| broken(&e))?;
        Ok(Pending(connection))
    }

    /// Makes a request. On a daemon of an older API the version is lowered once and the request repeated.
    ///
    /// # Errors
    /// No connection, a broken one, or the daemon's refusal.
    pub fn request(
        &self,
        method: &str,
        path: &Path,
        headers: &[(&'static str, String)],
        body: Option<&[u8]>,
    ) -> Result<Response> {
        self.exchange(method, path, headers, body, false)
    }

    fn exchange(
        &self,
        method: &str,
        path: &Path,
        headers: &[(&'static str, String)],
        body: Option<&[u8]>,
        upgrade: bool,
    ) -> Result<Response> {
        let mut fresh = false;
        loop {
            let kept = if fresh { None } else { self.idle() };
            fresh = kept.is_none();
            let mut connection = match kept {
                Some(connection) => connection,
                None => self.connect()?,
            };
            let mut request = Request {
                method,
                path: format!("/v{}{}", self.version(), path.0),
                headers: headers.to_vec(),
                body: body.map_or(Body::Empty, |json| Body::Json(json.to_vec())),
                upgrade,
            };
            let answer = connection.send(&mut request, &self.host()).and_then(|()| connection.receive());
            let response = match answer {
                Ok(response) => response,
                // A kept connection may have been closed meanwhile; nothing of this request was done then.
                Err(_) if !fresh => {
                    fresh = true;
                    continue;
                }
                Err(error) => return Err(broken(&error)),
            };
            match refuse_errors(response) {
                Err(failure) if failure.status == Some(400) && self.lower_version(&failure.message) => {}
                other => return other,
            }
        }
    }

    /// Takes the newest version that the daemon says it knows. False if the message says nothing of the kind.
    fn lower_version(&self, message: &str) -> bool {
        let Some((_, rest)) = message.split_once("is too new. Maximum supported API version is ") else { return false };
        let newest: String = rest.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
        let mut version = self.version.lock().expect("no thread panics while it holds the version");
        let changed = *version != newest;
        *version = newest;
        changed
    }

    /// Reads the whole body and keeps the connection for the next request.
    ///
    /// # Errors
    /// A broken connection.
    pub fn finish(&self, mut response: Response) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        response.read_to_end(&mut bytes).map_err(|e| broken(&e))?;
        if let Some(connection) = response.into_connection() {
            self.idle.lock().expect("no thread panics while it holds the list").push(connection);
        }
        Ok(bytes)
    }

    /// `GET` of JSON, as it came.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn get_raw(&self, path: &Path) -> Result<Vec<u8>> {
        self.finish(self.request("GET", path, &[], None)?)
    }

    /// `GET` of JSON.
    ///
    /// # Errors
    /// As [`Client::request`], and answers of another shape.
    pub fn get<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        decode(&self.get_raw(path)?)
    }

    /// `POST` without body or answer.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn post(&self, path: &Path) -> Result<()> {
        let answer = self.request("POST", path, &[], None)?;
        self.finish(answer).map(drop)
    }

    /// `POST` without body, answered by JSON.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post_get<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        decode(&self.finish(self.request("POST", path, &[], None)?)?)
    }

    /// `POST` of JSON, answered by JSON (an empty answer reads as `null`).
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn post_json<B: Serialize, T: DeserializeOwned>(&self, path: &Path, body: &B) -> Result<T> {
        decode(&self.finish(self.request("POST", path, &[], Some(&encode(body)))?)?)
    }

    /// `DELETE`, answered by JSON (an empty answer reads as `null`).
    ///
    /// # Errors
    /// As [`Client::get`].
    pub fn delete<T: DeserializeOwned>(&self, path: &Path) -> Result<T> {
        decode(&self.finish(self.request("DELETE", path, &[], None)?)?)
    }

    /// `POST` of a stream of bytes.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn post_stream(&self, path: &Path, source: &mut dyn Read, content_type: &'static str) -> Result<Response> {
        // The stream cannot be sent twice, so the version is settled before.
        let answer = self.request("GET", &Path::new("/version", &[]), &[], None)?;
        self.finish(answer)?;
        let mut connection = self.connect()?;
        let mut request = Request {
            method: "POST",
            path: format!("/v{}{}", self.version(), path.0),
            headers: Vec::new(),
            body: Body::Stream(source, content_type),
            upgrade: false,
        };
        let sent = connection.send(&mut request, &self.host());
        // A daemon that refuses half way has said why before it hung up.
        match (connection.receive(), sent) {
            (Ok(response), _) => refuse_errors(response),
            (Err(_), Err(error)) | (Err(error), Ok(())) => Err(broken(&error)),
        }
    }

    /// `POST` that turns the connection into a raw stream.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn hijack<B: Serialize>(&self, path: &Path, body: &B) -> Result<BufReader<Stream>> {
        let response = self.exchange("POST", path, &[], Some(&encode(body)), true)?;
        Ok(response.into_stream().0)
    }
}

fn nobody_listens(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused)
}

fn broken(error: &std::io::Error) -> Failure {
    Failure::new(format!("error during connect: {error}"))
}

/// JSON of a request.
pub fn encode<B: Serialize>(body: &B) -> Vec<u8> {
    serde_json::to_vec(body).expect("requests hold nothing that JSON cannot")
}

/// JSON of an answer.
///
/// # Errors
/// Another shape than expected.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let text = if bytes.is_empty() { b"null" } else { bytes };
    serde_json::from_slice(text).map_err(|e| Failure::new(format!("the daemon's answer could not be read: {e}")))
}

fn refuse_errors(mut response: Response) -> Result<Response> {
    if response.status < 400 {
        return Ok(response);
    }
    let status = response.status;
    let mut text = String::new();
    // A body that breaks off still says more than none.
    let _partial = response.by_ref().take(1 << 20).read_to_string(&mut text);
    let message = match serde_json::from_str::<brig_api::system::ErrorResponse>(&text) {
        Ok(error) if !error.message.is_empty() => error.message,
        _ if text.trim().is_empty() => {
            format!("request returned status {status}; check if the server supports the requested API version")
        }
        _ => text.trim().to_owned(),
    };
    Err(Failure::daemon(status, message.trim()))
}

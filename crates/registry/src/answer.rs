//! Owns turning a registry's refusals into errors: the protocol's JSON error bodies, status codes without one, and
//! `Retry-After`. It must not retry anything itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brig_oci::Reference;
use hyper::StatusCode;
use hyper::header::{HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use serde::Deserialize;

use crate::error::{Error, ErrorKind, Failure, Retry, printable};
use crate::net::transport::Response;

/// What the registry grants a client, as Docker Hub tells it.
const RATELIMIT_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
/// Longest error body read; the rest could only be noise.
const LARGEST_BODY: usize = 64 << 10;
/// Longest wait that a server may ask for before the caller hears of it instead.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What was being asked for, because Docker's words depend on it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asked<'a> {
    /// The manifest an image name stands for.
    Manifest(&'a Reference),
    /// Some content of an image, named for people.
    Content(&'a Reference, &'a str),
    /// A list that belongs to no image.
    List,
    /// Whether credentials are good.
    Login,
    /// Taking something in.
    Push,
}

#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    errors: Vec<Item>,
}

/// distribution-spec, "Error Codes".
#[derive(Deserialize, Default)]
struct Item {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// Reads the rest of an unsuccessful response and says what it means.
pub(crate) async fn refusal(mut response: Response<'_>, asked: Asked<'_>) -> Failure {
    let quota = response.header(&RATELIMIT_LIMIT).and_then(quota);
    let wait = wait_asked(&response);
    let retry = retry_advice(response.status, wait);
    let context = response.context().to_owned();
    // RFC 6750 section 3.1: a token was understood and does not suffice.
    let scope_missing = response.header(&WWW_AUTHENTICATE).is_some_and(|v| v.contains("error=\"insufficient_scope\""));
    let status = response.status;
    // An unreadable body is no news: the status alone must do then.
    let body = response.collect(LARGEST_BODY).await.unwrap_or_default();
    let mut item =
        serde_json::from_slice::<Body>(&body).ok().and_then(|b| b.errors.into_iter().next()).unwrap_or_default();
    if scope_missing {
        item = Item { code: "DENIED".into(), message: "requested access to the resource is denied".into() };
    }
    let mut error = classify(status, &item, asked, &context);
    if let (ErrorKind::RateLimited, Some(quota)) = (error.kind, quota) {
        error.message.push_str(&quota);
    }
    if let (ErrorKind::RateLimited, Some(wait)) = (error.kind, wait) {
        error.message.push_str(&format!(" (the registry asks to wait {} seconds)", wait.as_secs()));
    }
    Failure { error, retry }
}

/// `100;w=21600` in words: so many requests in so many seconds.
fn quota(value: &str) -> Option<String> {
    let (limit, window) = value.split_once(";w=")?;
    let (limit, window) = (limit.trim().parse::<u64>().ok()?, window.trim().parse::<u64>().ok()?);
    Some(match window {
        3600.. if window % 3600 == 0 => format!(" (its limit is {limit} pulls in {} hours)", window / 3600),
        _ => format!(" (its limit is {limit} pulls in {window} seconds)"),
    })
}

/// The code and message as Go's errcode package prints them.
fn text(item: &Item, code: &str, message: &str) -> String {
    let code = if item.code.is_empty() { code.to_owned() } else { item.code.to_lowercase().replace('_', " ") };
    let message = if item.message.is_empty() { message } else { &item.message };
    printable(&format!("{code}: {message}"))
}

fn classify(status: StatusCode, item: &Item, asked: Asked<'_>, context: &str) -> Error {
    let denied = |name: &str| {
        let why = text(item, "denied", "requested access to the resource is denied");
        let hint = "repository does not exist or may require 'docker login'";
        Error::new(ErrorKind::Denied, format!("pull access denied for {name}, {hint}: {why}"))
    };
    match (status.as_u16(), asked) {
        (429, _) => {
            Error::new(ErrorKind::RateLimited, text(item, "toomanyrequests", "too many requests, try again later"))
        }
        (403, Asked::Push) => {
            let why = text(item, "denied", "requested access to the resource is denied");
            Error::new(ErrorKind::Denied, why)
        }
        (401, Asked::Push) => {
            Error::new(ErrorKind::Unauthorized, text(item, "unauthorized", "authentication required"))
        }
        (403, Asked::Manifest(image) | Asked::Content(image, _)) => denied(&image.familiar_name()),
        (401, Asked::Manifest(image) | Asked::Content(image, _)) if item.code == "DENIED" => {
            denied(&image.familiar_name())
        }
        (401 | 403, _) => {
            let why = text(item, "unauthorized", "authentication required");
            Error::new(ErrorKind::Unauthorized, format!("{context}: {why}"))
        }
        (404, Asked::Manifest(image)) if item.code == "NAME_UNKNOWN" => {
            let why = text(item, "", "");
            Error::new(ErrorKind::NotFound, format!("repository {} not found: {why}", image.familiar_name()))
        }
        (404, Asked::Manifest(image)) => {
            let why = text(item, "manifest unknown", "manifest unknown");
            Error::new(ErrorKind::NotFound, format!("manifest for {} not found: {why}", image.familiar()))
        }
        (404, Asked::Content(image, what)) => {
            let why = text(item, "blob unknown", "blob unknown to registry");
            Error::new(ErrorKind::NotFound, format!("{what} of {} not found: {why}", image.familiar()))
        }
        (code, _) => {
            let kind = match code {
                404 => ErrorKind::NotFound,
                500.. => ErrorKind::Network,
                _ => ErrorKind::Invalid,
            };
            let detail = if item.code.is_empty() && item.message.is_empty() {
                String::new()
            } else {
                format!(": {}", text(item, "unknown", ""))
            };
            Error::new(kind, format!("{context}: unexpected status: {status}{detail}"))
        }
    }
}

pub(crate) fn retry_advice(status: StatusCode, wait: Option<Duration>) -> Retry {
    let transient = matches!(status.as_u16(), 408 | 425 | 429)
        || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED);
    match wait {
        _ if !transient => Retry::Never,
        Some(wait) if wait > LONGEST_WAIT => Retry::Never,
        Some(wait) => Retry::After(wait),
        None => Retry::Soon,
    }
}

/// How long a response asks to wait, if it does.
pub(crate) fn wait_asked(response: &Response<'_>) -> Option<Duration> {
    response.header(&RETRY_AFTER).and_then(|text| retry_after(text.trim(), SystemTime::now()))
}

/// Seconds or an HTTP date (RFC 9110 section 10.2.3); nonsense counts as absent.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = UNIX_EPOCH + Duration::from_secs(http_date(value)?);
    Some(at.duration_since(now).unwrap_or_default())
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` as seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split([' ', ':']);
    let day: u64 = words.next()?.parse().ok().filter(|d| (1..=31).contains(d))?;
    let name = words.next()?;
    let month = MONTHS.iter().zip(1u64..).find(|(m, _)| **m == name)?.1;
    let mut number = |most: u64| words.next()?.parse::<u64>().ok().filter(|n| *n <= most);
    let (year, hour, minute, second) = (number(9999)?, number(23)?, number(59)?, number(60)?);
    if year < 1970 || words.next() != Some("GMT") {
        return None;
    }
    // Days from the civil calendar, with years that begin in March.
    let y = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * y + y / 4 - y / 100 + y / 400 + day_of_year - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_times() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("3", now), Some(Duration::from_secs(3)));
        assert_eq!(retry_after("1000000000", now), Some(Duration::from_secs(1_000_000_000)));
        for nonsense in ["-1", "", "soon", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994"] {
            assert_eq!(retry_after(nonsense, now), None, "{nonsense}");
        }
    }

    #[test]
    fn dockers_words() {
        let image = Reference::parse("localhost:5000/x:y").unwrap();
        let say = |status: u16, code: &str, message: &str| {
            let item = Item { code: code.into(), message: message.into() };
            let error = classify(StatusCode::from_u16(status).unwrap(), &item, Asked::Manifest(&image), "Get \"u\"");
            (error.kind, error.message)
        };
        assert_eq!(
            say(404, "MANIFEST_UNKNOWN", "manifest unknown"),
            (
                ErrorKind::NotFound,
                "manifest for localhost:5000/x:y not found: manifest unknown: manifest unknown".into()
            )
        );
        assert_eq!(say(404, "", ""), say(404, "MANIFEST_UNKNOWN", "manifest unknown"));
        assert_eq!(
            say(404, "NAME_UNKNOWN", "repository name not known to registry"),
            (
                ErrorKind::NotFound,
                "repository localhost:5000/x not found: name unknown: repository name not known to registry".into()
            )
        );
        assert_eq!(
            say(403, "DENIED", "requested access to the resource is denied"),
            (
                ErrorKind::Denied,
                "pull access denied for localhost:5000/x, repository does not exist or may require 'docker login': denied: requested access to the resource is denied".into()
            )
        );
        assert_eq!(
            say(401, "UNAUTHORIZED", "authentication required"),
            (ErrorKind::Unauthorized, "Get \"u\": unauthorized: authentication required".into())
        );
        assert_eq!(
            say(429, "TOOMANYREQUESTS", "slow down"),
            (ErrorKind::RateLimited, "toomanyrequests: slow down".into())
        );
        assert_eq!(say(502, "", "").1, "Get \"u\": unexpected status: 502 Bad Gateway");
    }
}

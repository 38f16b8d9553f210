//! Pages of lists: the `n` and `last` parameters and the `Link` to the next page (RFC 5988).
//! Must not know what is listed.

use hyper::StatusCode;

use crate::query::Query;
use crate::refusal::Refusal;

/// Which page is asked for.
pub(crate) struct Page {
    /// Everything up to this was seen already.
    pub(crate) last: String,
    /// At most so many.
    pub(crate) count: usize,
}

impl Page {
    /// The most entries of one answer.
    const MOST: usize = 10_000;

    /// Reads `n` and `last`.
    pub(crate) fn of(query: &Query) -> Result<Page, Refusal> {
        let count = match query.one("n")? {
            None | Some("") => Page::MOST,
            Some(text) => match text.parse::<u64>() {
                Ok(count) => usize::try_from(count).unwrap_or(Page::MOST).min(Page::MOST),
                Err(_) => {
                    let text = "invalid number of results requested: n is a number of entries";
                    return Err(Refusal::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", text));
                }
            },
        };
        Ok(Page { last: query.one("last")?.unwrap_or_default().to_owned(), count })
    }
}

/// The value of the `Link` header that leads to the next page; parameters are encoded here.
pub(crate) fn next(path: &str, parameters: &[(&str, &str)]) -> String {
    let encoded: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
    format!("<{path}?{}>; rel=\"next\"", encoded.join("&"))
}

/// Percent-encodes everything but what is unreserved (RFC 3986, section 2.3).
pub(crate) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

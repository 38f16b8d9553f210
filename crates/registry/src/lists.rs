//! Owns what a registry can be asked to list: a repository's tags, and what a search finds. Everything is bounded; what
//! comes back is text of strangers. It must not fetch images.

use std::collections::BTreeSet;
use std::sync::Arc;

use brig_oci::Reference;
use hyper::header::LINK;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::answer::{Asked, refusal};
use crate::auth::Grant;
use crate::backoff::{Backoff, retried};
use crate::client::Inner;
use crate::config::{Auth, Endpoint};
use crate::error::{Error, ErrorKind, Failure, Result, printable};
use crate::net::transport::{Outgoing, Response};
use crate::net::url::Url;
use crate::session::{Session, sessions};

/// Longest page of a list.
const LARGEST_PAGE: usize = 4 << 20;
/// Pages read of one list, and how many names are asked for on each.
const MOST_PAGES: usize = 100;
const PAGE: usize = 1000;
/// Names kept of one list.
const MOST_NAMES: usize = 100_000;

/// One repository that a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Its name, without the registry's.
    pub name: String,
    /// What its owners say about it.
    #[serde(deserialize_with = "null")]
    pub description: String,
    /// How many like it.
    pub star_count: i64,
    /// The registry's own.
    pub is_official: bool,
    /// Built by the registry; not in use any more.
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct SearchPage {
    #[serde(default)]
    results: Vec<Found>,
}

#[derive(Deserialize)]
struct TagPage {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct CatalogPage {
    #[serde(default)]
    repositories: Option<Vec<String>>,
}

fn null<'de, D: serde::Deserializer<'de>>(deserializer: D) -> std::result::Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.unwrap_or_default())
}

/// See [`crate::Client::tags`].
pub(crate) async fn tags(inner: &Arc<Inner>, reference: &Reference, auth: Option<&Auth>) -> Result<Vec<String>> {
    let mut first = None;
    for session in sessions(inner, reference, auth)?.into_iter().rev() {
        match tags_of(&session).await {
            Ok(tags) => return Ok(tags),
            Err(failure) if matches!(failure.error.kind, ErrorKind::Network | ErrorKind::Timeout) => {
                first.get_or_insert(failure);
            }
            Err(failure) => return Err(failure.error),
        }
    }
    Err(first.expect("the registry itself is always among the endpoints").error)
}

/// See [`crate::Client::search`].
pub(crate) async fn search(
    inner: &Inner,
    domain: &str,
    term: &str,
    limit: usize,
    auth: Option<&Auth>,
) -> Result<Vec<Found>> {
    let endpoint = inner.config.search_endpoint(domain).map_err(Error::invalid)?;
    let target = format!("{}/v1/search?q={}&n={limit}", endpoint.prefix, escape(term));
    let searched = list::<SearchPage>(inner, &endpoint, auth, "", target).await;
    let (mut found, without_search) = match searched {
        Ok((page, _)) => (page.results, None),
        Err(failure) if lacks_it(&failure) => (Vec::new(), Some(failure)),
        Err(failure) => return Err(failure.error),
    };
    if without_search.is_some() {
        found = search_catalog(inner, &endpoint, auth, domain, term, limit).await?;
    }
    found.truncate(limit);
    for result in &mut found {
        result.name = printable(&result.name);
        result.description = printable(&result.description);
    }
    Ok(found)
}

async fn search_catalog(
    inner: &Inner,
    endpoint: &Endpoint,
    auth: Option<&Auth>,
    domain: &str,
    term: &str,
    limit: usize,
) -> Result<Vec<Found>> {
    let wanted = term.to_lowercase();
    let mut found = Vec::new();
    let mut query = format!("n={PAGE}");
    for _ in 0..MOST_PAGES {
        let target = format!("{}/v2/_catalog?{query}", endpoint.prefix);
        let page = list::<CatalogPage>(inner, endpoint, auth, "registry:catalog:*", target).await;
        let (page, next) = page.map_err(|failure| match failure.error.kind {
            ErrorKind::NotFound | ErrorKind::Invalid | ErrorKind::Denied => {
                let text = format!(
                    "registry {domain} cannot be searched: it has neither Docker's search nor a catalog of its \
                     repositories that may be seen; look at its website"
                );
                Error::new(ErrorKind::NotFound, text)
            }
            _ => failure.error,
        })?;
        let names = page.repositories.unwrap_or_default();
        let matching = names.into_iter().filter(|name| name.to_lowercase().contains(&wanted));
        found.extend(matching.map(|name| Found { name, ..Found::default() }));
        match next {
            Some(next) if found.len() < limit => query = next,
            _ => break,
        }
    }
    Ok(found)
}

/// One page of a list that belongs to no repository, and the query of the next.
async fn list<T: DeserializeOwned>(
    inner: &Inner,
    endpoint: &Endpoint,
    auth: Option<&Auth>,
    scope: &str,
    target: String,
) -> Result<(T, Option<String>), Failure> {
    let origin = inner.choose_origin(endpoint).await?;
    let auth = auth.filter(|auth| **auth != Auth::default()).cloned();
    let grant = Grant { origin: origin.clone(), auth, scope: scope.to_owned() };
    let request = Outgoing::new(Method::GET, Url::new(&origin, target));
    let (response, _) = inner.send_authorized(&grant, endpoint.trust, request).await?;
    page(response, Asked::List).await
}

/// Whether a registry does not know what it was asked, in one of the ways in which registries say so.
fn lacks_it(failure: &Failure) -> bool {
    !matches!(
        failure.error.kind,
        ErrorKind::Network | ErrorKind::Timeout | ErrorKind::RateLimited | ErrorKind::Unauthorized
    )
}

async fn tags_of(session: &Session) -> Result<Vec<String>, Failure> {
    let (mut tags, mut seen) = (Vec::new(), BTreeSet::new());
    let mut query = format!("n={PAGE}");
    for _ in 0..MOST_PAGES {
        let (page, next) = tag_page(session, &query).await?;
        for tag in page.tags.unwrap_or_default() {
            // What is no tag cannot be pulled by it either.
            if session.reference.with_tag(&tag).is_ok() && seen.insert(tag.clone()) {
                tags.push(tag);
            }
        }
        match next {
            Some(next) if tags.len() < MOST_NAMES => query = next,
            _ => return Ok(tags),
        }
    }
    let text = format!("{}: its list of tags does not end", session.reference.familiar_name());
    Err(Failure::fatal(ErrorKind::Invalid, text))
}

async fn tag_page(session: &Session, query: &str) -> Result<(TagPage, Option<String>), Failure> {
    let mut backoff = Backoff::at_beginning(session.inner.config.retry_delay);
    retried(&mut backoff, drop, || async {
        let request = Outgoing::new(Method::GET, session.url(&format!("tags/list?{query}")).await?);
        page(session.send(request).await?, Asked::Content(&session.reference, "list of tags")).await
    })
    .await
}

/// A page, and the query of the next one: only the query is believed of what the registry says about where that is.
async fn page<T: DeserializeOwned>(
    mut response: Response<'_>,
    asked: Asked<'_>,
) -> Result<(T, Option<String>), Failure> {
    if response.status != StatusCode::OK {
        return Err(refusal(response, asked).await);
    }
    let next = response.header(&LINK).and_then(next_query);
    let context = response.context().to_owned();
    let body = response.collect(LARGEST_PAGE).await?;
    let parsed = serde_json::from_slice(&body).map_err(|error| {
        Failure::fatal(ErrorKind::Invalid, format!("{context}: the answer is not the list that was asked for: {error}"))
    })?;
    Ok((parsed, next))
}

/// The query of `<…?query>; rel="next"` (RFC 8288).
pub(crate) fn next_query(header: &str) -> Option<String> {
    header.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|p| matches!(p.trim(), "rel=\"next\"" | "rel=next"));
        let query = target.split_once('?')?.1;
        let plain = query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        (is_next && plain && !query.is_empty()).then(|| query.to_owned())
    })
}

/// Text as part of a query.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_escapes() {
        let next = |text: &str| next_query(text);
        assert_eq!(next(r#"</v2/x/tags/list?last=b&n=2>; rel="next""#).as_deref(), Some("last=b&n=2"));
        assert_eq!(next(r#"<http://evil/?a>; rel="prev", <?c=d>; rel="next""#).as_deref(), Some("c=d"));
        for nothing in ["", "<x>; rel=\"next\"", "</v2?>; rel=\"next\"", "<?a#b>; rel=\"next\"", "<?a>", "?a"] {
            assert_eq!(next(nothing), None, "{nothing}");
        }
        assert_eq!(escape("a b&c=ä"), "a%20b%26c%3D%C3%A4");
    }
}

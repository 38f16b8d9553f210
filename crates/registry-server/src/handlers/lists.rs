//! What there is: the base of the protocol, repositories, tags, and what refers to a manifest. Must not change anything.

use std::collections::{BTreeMap, BTreeSet};

use brig_oci::media_type;
use brig_store::Referrer;
use hyper::Response;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LINK};
use serde::Serialize;
use serde_json::json;

use super::{Ask, set};
use crate::body::{Answer, Body};
use crate::link::{self, Page};
use crate::refusal::Refusal;
use crate::registry::Inner;
use crate::route;

const JSON: &str = "application/json";

/// The most of a list of referrers in one answer, in bytes: a manifest, which it is, may be no larger than four times that.
const REFERRERS: usize = 1 << 20;

fn list(ask: &Ask, kind: &str, text: String, link: Option<String>) -> Result<Answer, Refusal> {
    let length = text.len().to_string();
    let mut answer = Response::new(if ask.is_head() { Body::empty() } else { Body::whole(text) });
    set(&mut answer, &[(CONTENT_LENGTH, &length), (CONTENT_TYPE, kind)])?;
    if let Some(link) = link {
        set(&mut answer, &[(LINK, &link)])?;
    }
    Ok(answer)
}

pub(super) fn base(ask: &Ask) -> Result<Answer, Refusal> {
    list(ask, JSON, "{}".to_owned(), None)
}

pub(super) async fn catalog(ask: Ask) -> Result<Answer, Refusal> {
    let Page { last, count } = Page::of(&ask.query)?;
    // One more than asked for tells whether there is a next page.
    let more = count.saturating_add(1);
    let find = move |inner: &Inner| {
        let names = inner.repositories.catalog(&last, more)?;
        Ok(merged(names, inner.shelved_repositories(), &last, more))
    };
    let mut names = ask.registry.blocking(find).await?;
    let link = cut(&mut names, count).map(|last| next("/v2/_catalog", &last, count));
    list(&ask, JSON, json!({ "repositories": names }).to_string(), link)
}

pub(super) async fn tags(ask: Ask, name: String) -> Result<Answer, Refusal> {
    let Page { last, count } = Page::of(&ask.query)?;
    let (of, more) = (name.clone(), count.saturating_add(1));
    let find = move |inner: &Inner| {
        let pushed = inner.repositories.tags(&of, &last, more)?;
        let shelved = inner.shelf().map(|shelf| shelf.tags(&of)).unwrap_or_default();
        let is_known = pushed.is_some() || !shelved.is_empty();
        Ok(is_known.then(|| merged(pushed.unwrap_or_default(), shelved, &last, more)))
    };
    let found = ask.registry.blocking(find).await?;
    let mut tags = found.ok_or_else(|| Refusal::name_unknown(&name))?;
    let link = cut(&mut tags, count).map(|last| next(&format!("/v2/{name}/tags/list"), &last, count));
    list(&ask, JSON, json!({ "name": name, "tags": tags }).to_string(), link)
}

/// Both lists as one: at most `count` entries after `last`. The first one is such a list already.
fn merged(pushed: Vec<String>, mut shelved: BTreeSet<String>, last: &str, count: usize) -> Vec<String> {
    // The order of the specification ("Listing Tags"), as the store has it; names of repositories have no capital letters.
    let place = |name: &str| (name.to_ascii_lowercase(), name.to_owned());
    let after = place(last);
    shelved.retain(|name| place(name) > after);
    shelved.extend(pushed);
    let mut names: Vec<String> = shelved.into_iter().collect();
    names.sort_by_cached_key(|name| place(name));
    names.truncate(count);
    names
}

/// Keeps `count` entries; the last of them if there were more.
fn cut(entries: &mut Vec<String>, count: usize) -> Option<String> {
    let more = entries.len() > count;
    entries.truncate(count);
    entries.last().filter(|_| more).cloned()
}

fn next(path: &str, last: &str, count: usize) -> String {
    link::next(path, &[("last", last), ("n", &count.to_string())])
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
}

impl From<Referrer> for Entry {
    fn from(referrer: Referrer) -> Entry {
        let Referrer { digest, media_type, size, artifact_type, annotations } = referrer;
        Entry { media_type, digest, size, annotations, artifact_type }
    }
}

pub(super) async fn referrers(ask: Ask, name: String, digest: String) -> Result<Answer, Refusal> {
    let subject = route::digest(&digest)?;
    let kind = ask.query.one("artifactType")?.filter(|kind| !kind.is_empty()).map(str::to_owned);
    let last = ask.query.one("last")?.unwrap_or_default().to_owned();
    let (of, wanted) = (name.clone(), kind.clone());
    let page = ask
        .registry
        .blocking(move |inner| Ok(inner.repositories.referrers(&of, &subject, wanted.as_deref(), &last, REFERRERS)?))
        .await?;
    let link = page.entries.last().filter(|_| page.more).map(|last| {
        let mut parameters = vec![("last", last.digest.as_str())];
        parameters.extend(kind.as_deref().map(|kind| ("artifactType", kind)));
        link::next(&format!("/v2/{name}/referrers/{digest}"), &parameters)
    });
    let manifests: Vec<Entry> = page.entries.into_iter().map(Entry::from).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests });
    let mut answer = list(&ask, media_type::OCI_INDEX, index.to_string(), link)?;
    if kind.is_some() {
        set(&mut answer, &[(HeaderName::from_static("oci-filters-applied"), "artifactType")])?;
    }
    Ok(answer)
}

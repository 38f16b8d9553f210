//! What there is: the base of the protocol, repositories, tags, and what refers to a manifest. Must not change anything.

use std::collections::{BTreeMap, BTreeSet};

use brig_oci::media_type;
use brig_store::Referrer;
use hyper::Response;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, LINK};
use serde::Serialize;
use serde_json::json;

use super::{Ask, set};
use crate::body::{Answer, Body, SMALL};
use crate::link::{self, Page};
use crate::refusal::Refusal;
use crate::registry::Inner;
use crate::route;
use crate::turns::Turn;

const JSON: &str = "application/json";

/// The most of a list of referrers in one answer, in bytes: a manifest, which it is, may be no larger than four times that.
const REFERRERS: usize = 1 << 20;

/// So many names are few: at most what is in memory beside any others.
const FEW: usize = SMALL / 256;

/// An answer with a list. What is large has a turn.
fn list(ask: &Ask, kind: &str, text: String, link: Option<String>, turn: Option<Turn>) -> Result<Answer, Refusal> {
    let length = text.len().to_string();
    let mut answer = Response::new(match turn {
        _ if ask.is_head() => Body::empty(),
        Some(turn) => Body::held(text, turn),
        None => Body::whole(text),
    });
    set(&mut answer, &[(CONTENT_LENGTH, &length), (CONTENT_TYPE, kind)])?;
    if let Some(link) = link {
        set(&mut answer, &[(LINK, &link)])?;
    }
    Ok(answer)
}

/// A turn for something large, which stays with it until it is sent.
async fn turn(ask: &Ask) -> Result<Option<Turn>, Refusal> {
    let inner = &ask.registry.inner;
    inner.listing.take(ask.peer, inner.settings.patience).await.map(Some)
}

pub(super) fn base(ask: &Ask) -> Result<Answer, Refusal> {
    list(ask, JSON, "{}".to_owned(), None, None)
}

/// A page of names.
struct Names {
    names: Vec<String>,
    /// The last of them, if more come after it.
    last: Option<String>,
    turn: Option<Turn>,
}

/// At most `count` names of those of which `find` tells so many as it is asked for; `None` if it knows none at all.
async fn names(
    ask: &Ask,
    count: usize,
    find: impl Fn(&Inner, usize) -> Result<Option<Vec<String>>, Refusal> + Clone + Send + 'static,
) -> Result<Option<Names>, Refusal> {
    let found = async |count: usize| {
        let find = find.clone();
        // One more than asked for tells whether there is a next page.
        let found = ask.registry.blocking(move |inner| find(inner, count.saturating_add(1))).await?;
        Ok::<_, Refusal>(found.map(|mut names| (cut(&mut names, count), names)))
    };
    let few = found(count.min(FEW)).await?;
    let is_enough = few.as_ref().is_none_or(|(last, _)| last.is_none()) || count <= FEW;
    let (found, turn) = if is_enough {
        (few, None)
    } else {
        drop(few);
        let turn = turn(ask).await?;
        (found(count).await?, turn)
    };
    Ok(found.map(|(last, names)| Names { names, last, turn }))
}

pub(super) async fn catalog(ask: Ask) -> Result<Answer, Refusal> {
    let Page { last, count } = Page::of(&ask.query)?;
    let find = move |inner: &Inner, count: usize| {
        let names = inner.repositories.catalog(&last, count)?;
        Ok(Some(merged(names, inner.shelved_repositories(), &last, count)))
    };
    let found = names(&ask, count, find).await?;
    let Names { names, last, turn } = found.ok_or_else(Refusal::not_found)?;
    let link = last.map(|last| next("/v2/_catalog", &last, count));
    list(&ask, JSON, json!({ "repositories": names }).to_string(), link, turn)
}

pub(super) async fn tags(ask: Ask, name: String) -> Result<Answer, Refusal> {
    let Page { last, count } = Page::of(&ask.query)?;
    let of = name.clone();
    let find = move |inner: &Inner, count: usize| {
        let pushed = inner.repositories.tags(&of, &last, count)?;
        let shelved = inner.shelf().map(|shelf| shelf.tags(&of)).unwrap_or_default();
        let is_known = pushed.is_some() || !shelved.is_empty();
        Ok(is_known.then(|| merged(pushed.unwrap_or_default(), shelved, &last, count)))
    };
    let found = names(&ask, count, find).await?;
    let Names { names: tags, last, turn } = found.ok_or_else(|| Refusal::name_unknown(&name))?;
    let link = last.map(|last| next(&format!("/v2/{name}/tags/list"), &last, count));
    list(&ask, JSON, json!({ "name": name, "tags": tags }).to_string(), link, turn)
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
    let found = async |bytes: usize| {
        let (of, subject, wanted, last) = (name.clone(), subject.clone(), kind.clone(), last.clone());
        let find =
            move |inner: &Inner| Ok(inner.repositories.referrers(&of, &subject, wanted.as_deref(), &last, bytes)?);
        ask.registry.blocking(find).await
    };
    let few = found(SMALL).await?;
    let (page, turn) = if few.more || few.is_longer_than(SMALL) {
        drop(few);
        let turn = turn(&ask).await?;
        (found(REFERRERS).await?, turn)
    } else {
        (few, None)
    };
    let link = page.entries.last().filter(|_| page.more).map(|last| {
        let mut parameters = vec![("last", last.digest.as_str())];
        parameters.extend(kind.as_deref().map(|kind| ("artifactType", kind)));
        link::next(&format!("/v2/{name}/referrers/{digest}"), &parameters)
    });
    let manifests: Vec<Entry> = page.entries.into_iter().map(Entry::from).collect();
    let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": manifests });
    let mut answer = list(&ask, media_type::OCI_INDEX, index.to_string(), link, turn)?;
    if kind.is_some() {
        set(&mut answer, &[(HeaderName::from_static("oci-filters-applied"), "artifactType")])?;
    }
    Ok(answer)
}

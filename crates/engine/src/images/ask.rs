//! What a registry is asked without pulling anything: searching, and what a name means there. Owns Docker's parameters.

use brig_api::filters::Filters;
use brig_api::image::{Descriptor, DistributionInspect, Platform, SearchResult};
use brig_api::system::AuthConfig;
use brig_oci::Reference;
use brig_registry::Found;

use super::Images;
use super::transfer::{from_registry, to_auth};
use crate::error::{Error, Result};

/// How many results are shown if nobody says, and how many there may be.
const RESULTS: i64 = 25;
const MOST_RESULTS: i64 = 100;

/// `GET /images/search`: repositories that have to do with `term`, which may begin with a registry's name.
pub(super) async fn search(
    images: &Images,
    term: &str,
    limit: Option<i64>,
    filters: &Filters,
    auth: Option<AuthConfig>,
) -> Result<Vec<SearchResult>> {
    filters.check(&["is-automated", "is-official", "stars"]).map_err(Error::invalid)?;
    let limit = match limit.filter(|limit| *limit != 0).unwrap_or(RESULTS) {
        limit @ 1..=MOST_RESULTS => usize::try_from(limit).unwrap_or_default(),
        other => return Err(Error::invalid(format!("limit {other} is outside the range of [1, {MOST_RESULTS}]"))),
    };
    if term.is_empty() {
        return Err(Error::invalid("no search term was given"));
    }
    if term.contains("://") {
        return Err(Error::invalid(format!(
            "invalid repository name: repository name ({term}) should not have a scheme"
        )));
    }
    let official = given(filters, "is-official")?;
    let automated = given(filters, "is-automated")?;
    let stars = filters
        .get("stars")
        .map(|text| text.parse::<i64>().map_err(|_| Error::invalid(format!("invalid filter 'stars={text}'"))));
    let stars = stars.collect::<Result<Vec<i64>>>()?.into_iter().max().unwrap_or(0);
    let (domain, rest) = split(term);
    let auth = auth.map(to_auth);
    let found = images.client.search(domain, rest, limit, auth.as_ref()).await.map_err(from_registry)?;
    let wanted = |found: &Found| {
        official.is_none_or(|official| official == found.is_official)
            && automated.is_none_or(|automated| automated == found.is_automated)
            && found.star_count >= stars
    };
    let prefix = if domain == "docker.io" { String::new() } else { format!("{domain}/") };
    let results = found.into_iter().filter(wanted).map(|found| SearchResult {
        name: format!("{prefix}{}", found.name),
        description: found.description,
        is_official: found.is_official,
        is_automated: found.is_automated,
        star_count: found.star_count,
    });
    Ok(results.collect())
}

/// `GET /distribution/{name}/json`: what a name means at its registry.
pub(super) async fn distribution(images: &Images, name: &str, auth: Option<AuthConfig>) -> Result<DistributionInspect> {
    let reference = Reference::parse(name).map_err(|error| Error::invalid(error.to_string()))?;
    let auth = auth.map(to_auth);
    let described = images.client.describe(&reference, auth.as_ref()).await.map_err(from_registry)?;
    let descriptor = Descriptor {
        media_type: described.descriptor.media_type,
        digest: described.descriptor.digest.to_string(),
        size: i64::try_from(described.descriptor.size).unwrap_or(i64::MAX),
        ..Descriptor::default()
    };
    let platforms = described.platforms.into_iter().map(|platform| Platform {
        architecture: platform.architecture,
        os: platform.os,
        variant: platform.variant,
        ..Platform::default()
    });
    Ok(DistributionInspect { descriptor, platforms: Some(platforms.collect()) })
}

/// A filter that is true or false, if it was given.
fn given(filters: &Filters, key: &str) -> Result<Option<bool>> {
    filters.contains(key).then(|| filters.boolean(key, false).map_err(Error::invalid)).transpose()
}

/// The registry that a term names, and the rest.
fn split(term: &str) -> (&str, &str) {
    match term.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => match first {
            "index.docker.io" | "docker.io" => ("docker.io", rest),
            other => (other, rest),
        },
        _ => ("docker.io", term),
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn terms_may_name_a_registry() {
        assert_eq!(split("nginx"), ("docker.io", "nginx"));
        assert_eq!(split("team/nginx"), ("docker.io", "team/nginx"));
        assert_eq!(split("index.docker.io/nginx"), ("docker.io", "nginx"));
        assert_eq!(split("localhost:5000/a/b"), ("localhost:5000", "a/b"));
        assert_eq!(split("localhost/"), ("localhost", ""));
    }
}

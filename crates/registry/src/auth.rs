//! Owns credentials at work: answering challenges, fetching and remembering tokens. It alone makes `Authorization` values,
//! always for one origin (rule R11), and it decides where a password may go.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use base64::Engine;
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::answer::{Asked, refusal};
use crate::challenge::{self, Challenge};
use crate::config::{Auth, Config};
use crate::error::{ErrorKind, Failure, Retry, printable};
use crate::net::transport::{Outgoing, Response, Transport};
use crate::net::url::{Origin, Scheme, Url};

/// Largest token answer read.
const LARGEST_TOKEN: usize = 64 << 10;
/// A token without a lifetime is good for this long (distribution's token specification).
const DEFAULT_LIFETIME: u64 = 60;
/// Whatever a server says, a token is asked for anew after this long.
const LONGEST_LIFETIME: u64 = 3600;
/// Tokens remembered at once.
const MOST_TOKENS: usize = 256;
/// What token servers know this program as.
const CLIENT_ID: &str = "brig";

/// What an `Authorization` value is good for, and whose it is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Grant {
    pub(crate) origin: Origin,
    pub(crate) auth: Option<Auth>,
    /// `repository:library/alpine:pull`, several with a space between; empty for a login.
    pub(crate) scope: String,
}

/// `Authorization` values by what they are good for, with their end.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<Grant, (HeaderValue, Instant)>>);

/// The token server's answer.
#[derive(Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    refresh_token: String,
    /// Seconds. Servers have sent strings and negative numbers here.
    #[serde(default)]
    expires_in: serde_json::Value,
}

/// A fresh `Authorization` value, and the refresh token that came with it if one was asked for.
pub(crate) struct Fresh {
    pub(crate) value: HeaderValue,
    pub(crate) identity_token: Option<String>,
}

impl Tokens {
    /// The remembered value for `grant`, if it is still good.
    pub(crate) fn get(&self, grant: &Grant) -> Option<HeaderValue> {
        if let Some(auth) = grant.auth.as_ref().filter(|a| !a.registry_token.is_empty()) {
            return bearer(&auth.registry_token).ok();
        }
        let tokens = self.0.lock().unwrap_or_else(|e| e.into_inner());
        tokens.get(grant).filter(|(_, end)| *end > Instant::now()).map(|(value, _)| value.clone())
    }

    /// Drops the value for `grant`: it was refused.
    pub(crate) fn forget(&self, grant: &Grant) {
        self.0.lock().unwrap_or_else(|e| e.into_inner()).remove(grant);
    }

    fn remember(&self, grant: Grant, value: HeaderValue, lifetime: Duration) {
        let mut tokens = self.0.lock().unwrap_or_else(|e| e.into_inner());
        let now = Instant::now();
        tokens.retain(|_, (_, end)| *end > now);
        if tokens.len() < MOST_TOKENS {
            tokens.insert(grant, (value, now + lifetime));
        }
    }

    /// Answers the challenges of a 401 response. `Err` if they cannot be answered, with the reason.
    pub(crate) async fn answer(
        &self,
        transport: &Transport,
        config: &Config,
        grant: &Grant,
        response: &Response<'_>,
    ) -> Result<Fresh, Failure> {
        let headers = response.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
        let challenges: Vec<Challenge> = headers.flat_map(challenge::parse).collect();
        let context = response.context();
        let unauthorized = |why: &str| Failure::fatal(ErrorKind::Unauthorized, format!("{context}: {why}"));
        if let Some(Challenge::Bearer { realm, service }) =
            challenges.iter().find(|c| matches!(c, Challenge::Bearer { .. }))
        {
            let realm = check_realm(realm, &grant.origin).map_err(|why| unauthorized(&why))?;
            return self.fetch(transport, config, grant, &realm, service).await;
        }
        if challenges.contains(&Challenge::Basic) {
            let value = grant.auth.as_ref().and_then(basic).ok_or_else(|| unauthorized("no basic auth credentials"))?;
            self.remember(grant.clone(), value.clone(), Duration::from_secs(LONGEST_LIFETIME));
            return Ok(Fresh { value, identity_token: None });
        }
        Err(unauthorized("unauthorized: the registry asks for an authentication scheme other than Basic and Bearer"))
    }

    async fn fetch(
        &self,
        transport: &Transport,
        config: &Config,
        grant: &Grant,
        realm: &Url,
        service: &str,
    ) -> Result<Fresh, Failure> {
        let request = token_request(grant, realm, service);
        let mut response = if realm.origin == grant.origin {
            let trust = config.trust(&realm.origin.authority());
            transport.send(&request, trust).await?
        } else {
            let trust = config.trust(&realm.origin.authority());
            transport.send_elsewhere(&request, trust, &grant.origin).await?
        };
        if response.status != StatusCode::OK {
            let wrong_password = response.status == StatusCode::UNAUTHORIZED && grant.auth.is_some();
            let mut failure = refusal(response, Asked::Login).await;
            if wrong_password && failure.retry == Retry::Never {
                failure.error.message =
                    failure.error.message.replace("authentication required", "incorrect username or password");
            }
            return Err(failure);
        }
        let context = response.context().to_owned();
        let body = response.collect(LARGEST_TOKEN).await?;
        let bad = |why: &str| Failure::fatal(ErrorKind::Unauthorized, format!("{context}: {why}"));
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| bad("the answer is not a token"))?;
        let token = if answer.token.is_empty() { &answer.access_token } else { &answer.token };
        if token.is_empty() {
            return Err(bad("authorization server did not include a token in the response"));
        }
        let value = bearer(token).map_err(|()| bad("the token is not a header value"))?;
        let lifetime = answer.expires_in.as_u64().unwrap_or(DEFAULT_LIFETIME).clamp(DEFAULT_LIFETIME, LONGEST_LIFETIME);
        // A tenth earlier, so that a token does not end between being chosen and being read.
        self.remember(grant.clone(), value.clone(), Duration::from_secs(lifetime * 9 / 10));
        Ok(Fresh { value, identity_token: Some(answer.refresh_token).filter(|t| !t.is_empty()) })
    }
}

/// A token server is chosen by whoever answers as the registry: it gets a password only over a connection no worse than
/// the registry's own. (Which networks it may be in is the transport's check.)
fn check_realm(realm: &str, registry: &Origin) -> Result<Url, String> {
    let url = Url::parse(realm).map_err(|why| format!("refusing the token server {:?}: {why}", printable(realm)))?;
    if registry.scheme == Scheme::Https && url.origin.scheme == Scheme::Http {
        return Err(format!("refusing the token server {url}: it is not encrypted, the registry is"));
    }
    Ok(url)
}

/// distribution, docs/spec/auth: GET with Basic credentials or none; POST where a refresh token stands for them.
fn token_request(grant: &Grant, realm: &Url, service: &str) -> Outgoing {
    let auth = grant.auth.as_ref();
    let mut query = vec![("service", service)];
    if let Some(auth) = auth.filter(|a| !a.identity_token.is_empty()) {
        // RFC 6749 section 3.3: one parameter.
        query.extend(Some(("scope", grant.scope.as_str())).filter(|(_, scope)| !scope.is_empty()));
        query.extend([
            ("grant_type", "refresh_token"),
            ("client_id", CLIENT_ID),
            ("refresh_token", &auth.identity_token),
        ]);
        let mut request = Outgoing::new(Method::POST, realm.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        request.body = Bytes::from(form(&query));
        return request;
    }
    // distribution, docs/spec/auth/token: one parameter for each.
    query.extend(grant.scope.split(' ').filter(|scope| !scope.is_empty()).map(|scope| ("scope", scope)));
    if let Some(auth) = auth.filter(|a| !a.username.is_empty()) {
        query.extend([("account", auth.username.as_str()), ("client_id", CLIENT_ID)]);
        if grant.scope.is_empty() {
            // Only a login wants a refresh token to keep.
            query.push(("offline_token", "true"));
        }
    }
    let separator = if realm.target.contains('?') { '&' } else { '?' };
    let url = Url::new(&realm.origin, format!("{}{separator}{}", realm.target, form(&query)));
    let request = Outgoing::new(Method::GET, url);
    match auth.and_then(basic) {
        Some(value) => request.header(AUTHORIZATION, value),
        None => request,
    }
}

fn form(pairs: &[(&str, &str)]) -> String {
    let encoded = pairs.iter().map(|(name, value)| format!("{name}={}", percent_encode(value)));
    encoded.collect::<Vec<_>>().join("&")
}

fn percent_encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn basic(auth: &Auth) -> Option<HeaderValue> {
    if auth.username.is_empty() {
        return None;
    }
    let pair = format!("{}:{}", auth.username, auth.password);
    secret(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))).ok()
}

fn bearer(token: &str) -> Result<HeaderValue, ()> {
    secret(format!("Bearer {token}"))
}

fn secret(text: String) -> Result<HeaderValue, ()> {
    let mut value = HeaderValue::try_from(text).map_err(|_| ())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(auth: Auth) -> Grant {
        Grant {
            origin: Origin::new(Scheme::Https, "reg.example").unwrap(),
            auth: Some(auth),
            scope: "repository:a/b:pull".into(),
        }
    }

    #[test]
    fn token_servers_must_be_as_safe_as_the_registry() {
        let https = Origin::new(Scheme::Https, "reg.example").unwrap();
        let http = Origin::new(Scheme::Http, "reg.example").unwrap();
        assert!(check_realm("https://auth.example/token", &https).is_ok());
        assert!(check_realm("http://auth.example/token", &http).is_ok());
        for bad in [
            "http://auth.example/token",
            "http://reg.example/token",
            "file:///x",
            "unix:/run/x",
            "https://u:p@h/",
            "x\ny",
            "",
        ] {
            assert!(check_realm(bad, &https).is_err(), "{bad}");
        }
    }

    #[test]
    fn requests_for_tokens() {
        let realm = Url::parse("https://auth.example/token?x=1").unwrap();
        let user = Auth { username: "me".into(), password: "pw".into(), ..Auth::default() };
        let request = token_request(&grant(user), &realm, "the reg");
        assert_eq!(request.method, Method::GET);
        assert_eq!(
            request.url.target,
            "/token?x=1&service=the%20reg&scope=repository%3Aa%2Fb%3Apull&account=me&client_id=brig"
        );
        assert_eq!(request.headers[AUTHORIZATION], "Basic bWU6cHc=");
        let identity = Auth { username: "<token>".into(), identity_token: "secret/1".into(), ..Auth::default() };
        let request = token_request(&grant(identity), &realm, "s");
        assert_eq!((request.method, request.url.target.as_str()), (Method::POST, "/token?x=1"));
        assert!(!request.headers.contains_key(AUTHORIZATION));
        assert_eq!(
            request.body,
            "service=s&scope=repository%3Aa%2Fb%3Apull&grant_type=refresh_token&client_id=brig&refresh_token=secret%2F1"
        );
    }

    #[test]
    fn tokens_belong_to_one_user_and_end() {
        let tokens = Tokens::default();
        let (a, b) = (
            grant(Auth { username: "a".into(), ..Auth::default() }),
            grant(Auth { username: "b".into(), ..Auth::default() }),
        );
        tokens.remember(a.clone(), bearer("t").unwrap(), Duration::from_secs(60));
        assert!(tokens.get(&a).is_some() && tokens.get(&b).is_none());
        tokens.remember(a.clone(), bearer("t").unwrap(), Duration::ZERO);
        assert!(tokens.get(&a).is_none());
        let ready = grant(Auth { registry_token: "r".into(), ..Auth::default() });
        assert_eq!(tokens.get(&ready).unwrap(), "Bearer r");
    }
}

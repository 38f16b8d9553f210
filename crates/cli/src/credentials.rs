//! Credentials for registries: `config.json` of `~/.docker` and the helper programs it names.
//! Owns reading and writing them; sends nothing.

use crate::command::Context;
use crate::failure::{Failure, Result};
use crate::host;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use brig_api::system::AuthConfig;
use serde_json::{Map, Value, json};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// Docker Hub's key in the file.
pub const HUB: &str = "https://index.docker.io/v1/";

/// The key that a registry's credentials are kept under: its host and port, whatever else of its URL was given.
pub fn key(server: &str) -> String {
    match bare(server) {
        "docker.io" | "index.docker.io" => HUB.to_owned(),
        host => host.to_owned(),
    }
}

/// A URL's host and port.
fn bare(url: &str) -> &str {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://")).unwrap_or(url);
    rest.split('/').next().unwrap_or_default()
}

fn file(context: &Context) -> PathBuf {
    host::config_dir(&context.options).join("config.json")
}

fn load(context: &Context) -> Value {
    std::fs::read(file(context)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_else(|| json!({}))
}

fn helper(config: &Value, key: &str) -> Option<String> {
    let of = |value: Option<&Value>| value.and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
    of(config.get("credHelpers").and_then(|helpers| helpers.get(key))).or_else(|| of(config.get("credsStore")))
}

fn ask_helper(name: &str, verb: &str, input: &str) -> Option<Vec<u8>> {
    let mut child = Command::new(format!("docker-credential-{name}"))
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(input.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    output.status.success().then_some(output.stdout)
}

/// The credentials for a registry, if there are any.
pub fn find(context: &Context, domain: &str) -> Option<AuthConfig> {
    let (config, key) = (load(context), key(domain));
    if let Some(helper) = helper(&config, &key)
        && let Some(answer) = ask_helper(&helper, "get", &key)
    {
        let answer: Value = serde_json::from_slice(&answer).ok()?;
        let text = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
        let mut auth = AuthConfig { serveraddress: key, ..AuthConfig::default() };
        if text("Username") == "<token>" {
            auth.identitytoken = text("Secret");
        } else {
            (auth.username, auth.password) = (text("Username"), text("Secret"));
        }
        return Some(auth);
    }
    let entry = config.get("auths")?.as_object()?.iter().find(|(name, _)| same(name, &key))?.1;
    let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or("").to_owned();
    let mut auth = AuthConfig {
        username: text("username"),
        password: text("password"),
        identitytoken: text("identitytoken"),
        registrytoken: text("registrytoken"),
        serveraddress: key,
        ..AuthConfig::default()
    };
    if let Some((user, password)) = STANDARD
        .decode(text("auth"))
        .ok()
        .and_then(|b| String::from_utf8(b).ok())
        .as_deref()
        .and_then(|t| t.split_once(':'))
    {
        (auth.username, auth.password) = (user.to_owned(), password.trim_end_matches('\0').to_owned());
    }
    Some(auth)
}

/// Old files have keys with a scheme and a path.
fn same(name: &str, key: &str) -> bool {
    name == key || bare(name) == bare(key)
}

/// The header that carries the credentials for a registry; none without credentials.
pub fn header(context: &Context, domain: &str) -> Vec<(&'static str, String)> {
    find(context, domain).map(|auth| ("X-Registry-Auth", brig_api::auth::encode(&auth))).into_iter().collect()
}

/// Keeps credentials. True if they went into the file rather than to a helper.
///
/// # Errors
/// The file cannot be written, or the helper refuses.
pub fn store(context: &Context, auth: &AuthConfig) -> Result<bool> {
    let (mut config, key) = (load(context), auth.serveraddress.clone());
    if let Some(helper) = helper(&config, &key) {
        let (user, secret) = match auth.identitytoken.as_str() {
            "" => (auth.username.as_str(), auth.password.as_str()),
            token => ("<token>", token),
        };
        let input = json!({ "ServerURL": key, "Username": user, "Secret": secret }).to_string();
        return match ask_helper(&helper, "store", &input) {
            Some(_) => Ok(false),
            None => Err(Failure::new(format!("error saving credentials: docker-credential-{helper} store failed"))),
        };
    }
    let mut entry = Map::new();
    if auth.identitytoken.is_empty() {
        entry.insert("auth".to_owned(), STANDARD.encode(format!("{}:{}", auth.username, auth.password)).into());
    } else {
        entry.insert("auth".to_owned(), STANDARD.encode(format!("{}:", auth.username)).into());
        entry.insert("identitytoken".to_owned(), auth.identitytoken.clone().into());
    }
    config["auths"][key] = Value::Object(entry);
    save(context, &config).map(|()| true)
}

/// Forgets the credentials for a registry. True if there were any in the file.
///
/// # Errors
/// The file cannot be written.
pub fn erase(context: &Context, key: &str) -> Result<bool> {
    let mut config = load(context);
    if let Some(helper) = helper(&config, key) {
        // A helper that knows nothing of the registry says so by failing.
        let _unknown = ask_helper(&helper, "erase", key);
    }
    let Some(auths) = config.get_mut("auths").and_then(Value::as_object_mut) else { return Ok(false) };
    let names: Vec<String> = auths.keys().filter(|name| same(name, key)).cloned().collect();
    for name in &names {
        auths.shift_remove(name);
    }
    if !names.is_empty() {
        save(context, &config)?;
    }
    Ok(!names.is_empty())
}

fn save(context: &Context, config: &Value) -> Result<()> {
    let path = file(context);
    let write = || -> std::io::Result<()> {
        if let Some(directory) = path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let beside = path.with_extension(format!("json.{}", std::process::id()));
        let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        out.write_all(serde_json::to_string_pretty(config)?.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(beside, &path)
    };
    write().map_err(|e| Failure::new(format!("error saving credentials: write {}: {e}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_found_and_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let context = Context::new(host::Options { config_dir: Some(dir.path().into()), ..host::Options::default() });
        assert!(find(&context, "docker.io").is_none() && header(&context, "x.y").is_empty());
        let auth = AuthConfig {
            username: "me".into(),
            password: "p:q".into(),
            serveraddress: key("docker.io"),
            ..AuthConfig::default()
        };
        assert!(store(&context, &auth).unwrap());
        let found = find(&context, "docker.io").unwrap();
        assert_eq!((found.username.as_str(), found.password.as_str()), ("me", "p:q"));
        assert_eq!(header(&context, "docker.io")[0].0, "X-Registry-Auth");
        assert!(erase(&context, HUB).unwrap() && find(&context, "docker.io").is_none());
        assert!(same("https://r.example/v2/", "r.example") && !same("a", "b"));
        for (server, kept) in [
            ("https://r.example:5000/v2/", "r.example:5000"),
            ("http://127.0.0.1:5000", "127.0.0.1:5000"),
            ("r.example", "r.example"),
            ("https://index.docker.io/v1/", HUB),
            ("docker.io", HUB),
        ] {
            assert_eq!(key(server), kept, "{server}");
        }
    }
}

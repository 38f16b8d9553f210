//! Passwords in a file of Apache's `htpasswd -B`: a name, a colon and a bcrypt hash on each line.
//! Owns the file, which is read again when it changes, and what was found right lately. Must not know who may do what.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use base64::Engine as _;
use sha2::{Digest as _, Sha256};

/// A hash of some password, to be compared with where there is no such user: an answer takes as long either way.
const NOBODY: &str = "$2y$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy";

/// The most passwords that are remembered as right.
const REMEMBERED: usize = 10_000;

/// The users that may come in.
pub struct Htpasswd {
    path: PathBuf,
    realm: String,
    state: Mutex<State>,
    /// Makes what is remembered useless to anybody else.
    salt: [u8; 32],
}

struct State {
    modified: Option<SystemTime>,
    users: HashMap<String, String>,
    right: HashMap<[u8; 32], ()>,
}

impl Htpasswd {
    /// Reads a file. `realm` is what a browser would show.
    ///
    /// # Errors
    /// Names the file, and the line that is no user with a bcrypt hash.
    pub fn open(path: &Path, realm: &str) -> Result<Htpasswd, String> {
        let (modified, users) = read(path)?;
        let mut salt = [0; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut salt)
            .map_err(|_| "the kernel gives no random numbers".to_owned())?;
        let state = Mutex::new(State { modified, users, right: HashMap::new() });
        Ok(Htpasswd { path: path.to_owned(), realm: realm.to_owned(), state, salt })
    }

    pub(crate) fn challenge(&self) -> String {
        format!("Basic realm=\"{}\"", self.realm.replace(['"', '\\'], ""))
    }

    /// Whether this is the user's password and was found right before.
    pub(crate) fn knows(&self, user: &str, password: &str) -> bool {
        self.refresh();
        let hash = self.state().users.get(user).cloned();
        hash.is_some() && self.state().right.contains_key(&self.key(user, password, hash.as_deref()))
    }

    /// By what a password is remembered that is right while a user has this hash.
    fn key(&self, user: &str, password: &str, hash: Option<&str>) -> [u8; 32] {
        let mut hasher = Sha256::new();
        for part in [user, password, hash.unwrap_or_default()] {
            hasher.update(self.salt);
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }

    /// Whether this is the user's password. Slow the first time, as bcrypt is meant to be.
    pub(crate) fn check(&self, user: &str, password: &str) -> bool {
        self.refresh();
        let hash = self.state().users.get(user).cloned();
        let key = self.key(user, password, hash.as_deref());
        if hash.is_some() && self.state().right.contains_key(&key) {
            return true;
        }
        let matches = bcrypt::verify(password, hash.as_deref().unwrap_or(NOBODY)).unwrap_or(false);
        let is_right = matches && hash.is_some();
        if is_right {
            let mut state = self.state();
            if state.right.len() >= REMEMBERED {
                state.right.clear();
            }
            state.right.insert(key, ());
        }
        is_right
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the file again if it is another one; one that cannot be read leaves everything as it was.
    fn refresh(&self) {
        let modified = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()).ok();
        if modified.is_none() || modified == self.state().modified {
            return;
        }
        match read(&self.path) {
            Ok((modified, users)) => *self.state() = State { modified, users, right: HashMap::new() },
            Err(why) => {
                tracing::error!("the passwords stay as they were: {why}");
                self.state().modified = modified;
            }
        }
    }
}

fn read(path: &Path) -> Result<(Option<SystemTime>, HashMap<String, String>), String> {
    let failed = |error: std::io::Error| format!("reading the passwords in {}: {error}", path.display());
    // Before the content: a change in between is then seen the next time.
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).map_err(failed)?;
    let text = std::fs::read_to_string(path).map_err(failed)?;
    let mut users = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = |what: &str| format!("{}, line {}: {what}", path.display(), number + 1);
        let (user, hash) = line.split_once(':').ok_or_else(|| wrong("no user with a password (name:hash)"))?;
        if user.is_empty() || !["$2y$", "$2b$", "$2a$"].iter().any(|kind| hash.starts_with(kind)) || hash.len() != 60 {
            return Err(wrong("only bcrypt hashes are accepted: make the line with htpasswd -B"));
        }
        users.insert(user.to_owned(), hash.to_owned());
    }
    Ok((Some(modified), users))
}

/// The user and password of an `Authorization` header.
pub(crate) fn parse_basic(header: &str) -> Option<(String, String)> {
    let (scheme, text) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(text.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    // bcrypt takes no more, and would take the rest for right whatever it is.
    (password.len() <= 72 && !password.contains('\0')).then(|| (user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(password: &str) -> String {
        bcrypt::hash(password, 4).unwrap()
    }

    #[test]
    fn users_come_in_with_their_password_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users");
        std::fs::write(&path, format!("# people\n\nann:{}\nbob:{}\n", hash("a"), hash("b"))).unwrap();
        let passwords = Htpasswd::open(&path, "r").unwrap();
        for _ in 0..2 {
            assert!(passwords.check("ann", "a") && passwords.check("bob", "b"));
            assert!(!passwords.check("ann", "b") && !passwords.check("ann", "") && !passwords.check("eve", "a"));
        }
        // Another password for the same name: what was right is not any more.
        std::fs::write(&path, format!("ann:{}\n", hash("new"))).unwrap();
        let later = SystemTime::now() + std::time::Duration::from_secs(5);
        std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
        assert!(passwords.check("ann", "new") && !passwords.check("ann", "a") && !passwords.check("bob", "b"));
        std::fs::write(&path, "nonsense").unwrap();
        assert!(passwords.check("ann", "new"), "a damaged file changes nothing");
        assert!(Htpasswd::open(&path, "r").err().unwrap().contains("line 1"));
    }

    #[test]
    fn headers() {
        assert_eq!(parse_basic("basic dTpwOng="), Some(("u".into(), "p:x".into())));
        assert_eq!(parse_basic("Bearer dTpw"), None);
        assert_eq!(parse_basic("Basic %%%"), None);
    }
}

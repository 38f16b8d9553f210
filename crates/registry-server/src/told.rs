//! Who was told a moment ago that a blob they sent or mounted is there. Docker's client asks for it at once: that question is no other
//! push's, which would have to be waited for. Owns that memory, which is small and short. Must not decide what is kept for whom.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use brig_oci::Digest;
use hyper::header::HeaderValue;

/// A question after that is another push's.
const MOMENT: Duration = Duration::from_secs(10);
/// The most that are remembered; of further ones the question counts as another push's.
const MOST: usize = 1024;

/// By what somebody can be known again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Client {
    pub(crate) user: String,
    pub(crate) address: IpAddr,
    pub(crate) agent: HeaderValue,
}

/// The blobs of repositories that clients have just sent or mounted.
#[derive(Default)]
pub(crate) struct Told(Mutex<HashMap<(String, Digest, Client), Instant>>);

impl Told {
    /// Somebody has sent or mounted a blob.
    pub(crate) fn note(&self, repository: &str, digest: &Digest, client: Option<Client>) {
        let Some(client) = client else { return };
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= MOST {
            told.retain(|_, at| at.elapsed() < MOMENT);
        }
        if told.len() < MOST {
            told.insert((repository.to_owned(), digest.clone(), client), Instant::now());
        }
    }

    /// Whether somebody asks for a blob that they have just sent or mounted, for the first time.
    pub(crate) fn take(&self, repository: &str, digest: &Digest, client: Option<Client>) -> bool {
        let Some(client) = client else { return false };
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.remove(&(repository.to_owned(), digest.clone(), client)).is_some_and(|at| at.elapsed() < MOMENT)
    }

    /// A manifest that names these has come.
    pub(crate) fn over(&self, repository: &str, blobs: &[Digest]) {
        let blobs: HashSet<&Digest> = blobs.iter().collect();
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|(name, digest, _), _| name != repository || !blobs.contains(digest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_question_of_the_same_client_counts_and_only_so_many_are_remembered() {
        let client = |agent: &'static str| {
            Some(Client { user: "ann".into(), address: [127, 0, 0, 1].into(), agent: HeaderValue::from_static(agent) })
        };
        let blob = brig_store::digest::sha256_of(b"blob");
        let told = Told::default();
        told.note("a", &blob, client("docker"));
        assert!(!told.take("a", &blob, client("podman")) && !told.take("b", &blob, client("docker")));
        assert!(told.take("a", &blob, client("docker")) && !told.take("a", &blob, client("docker")));
        told.note("a", &blob, client("docker"));
        told.over("a", std::slice::from_ref(&blob));
        assert!(!told.take("a", &blob, client("docker")));
        for nth in 0..2 * MOST {
            told.note(&format!("r{nth}"), &blob, client("docker"));
        }
        assert_eq!(told.0.lock().unwrap().len(), MOST);
    }
}

//! Who may do what. Owns the question and its three ways of being answered; the ways themselves are [`htpasswd`] and
//! [`token`]. Must not know HTTP beyond the headers that carry names and refusals.

mod htpasswd;
mod keys;
mod token;

use hyper::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use hyper::{Method, StatusCode};

use crate::refusal::Refusal;
use crate::route::Route;
pub use htpasswd::Htpasswd;
pub use token::{TokenAuth, TokenSettings};

/// How a registry decides who may use it.
pub enum Access {
    /// Everybody may do everything.
    Open,
    /// Whoever has a password may do everything.
    Password(Htpasswd),
    /// A token says what its bearer may do.
    Token(TokenAuth),
}

/// What can be done to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Pull => "pull",
            Action::Push => "push",
            Action::Delete => "delete",
        }
    }
}

/// What a request needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Need {
    /// To be known.
    Login,
    /// To see the list of repositories.
    Catalog,
    /// To do these things to a repository.
    Repository(String, Vec<Action>),
}

impl Need {
    /// What a request to `route` needs.
    pub(crate) fn of(route: &Route, method: &Method) -> Need {
        let Some(name) = route.repository() else {
            return if *route == Route::Catalog { Need::Catalog } else { Need::Login };
        };
        let is_upload = matches!(route, Route::Uploads(_) | Route::Upload(..));
        let actions = match *method {
            // An upload is only its pusher's, also to be looked at or given up.
            _ if is_upload => vec![Action::Pull, Action::Push],
            Method::GET | Method::HEAD => vec![Action::Pull],
            Method::DELETE => vec![Action::Delete],
            _ => vec![Action::Pull, Action::Push],
        };
        Need::Repository(name.to_owned(), actions)
    }

    /// As in the protocol of registry tokens: `repository:name:pull,push`.
    pub(crate) fn scope(&self) -> Option<String> {
        match self {
            Need::Login => None,
            Need::Catalog => Some("registry:catalog:*".to_owned()),
            Need::Repository(name, actions) => {
                let actions: Vec<&str> = actions.iter().map(|action| action.name()).collect();
                Some(format!("repository:{name}:{}", actions.join(",")))
            }
        }
    }
}

/// Somebody who was let in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Visitor {
    /// As the log shows it; empty where nobody is asked.
    pub(crate) name: String,
    /// What the visitor may do; everything if there is no list.
    grants: Option<Vec<Grant>>,
}

/// What a token allows its bearer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) actions: Vec<String>,
}

impl Visitor {
    fn free(name: impl Into<String>) -> Visitor {
        Visitor { name: name.into(), grants: None }
    }

    /// Whether the visitor may.
    pub(crate) fn may(&self, need: &Need) -> bool {
        let Some(grants) = &self.grants else { return true };
        let has = |kind: &str, name: &str, action: &str| {
            let allows = |other: &String| other == action || other == "*";
            grants.iter().any(|grant| grant.kind == kind && grant.name == name && grant.actions.iter().any(allows))
        };
        match need {
            Need::Login => true,
            Need::Catalog => has("registry", "catalog", "*"),
            Need::Repository(name, actions) => actions.iter().all(|action| has("repository", name, action.name())),
        }
    }

    /// Whether the visitor may read a repository.
    pub(crate) fn may_read(&self, repository: &str) -> bool {
        self.may(&Need::Repository(repository.to_owned(), vec![Action::Pull]))
    }
}

impl Access {
    /// As [`Access::admit`], where that can be said without comparing a password for the first time; `None` otherwise.
    pub(crate) fn admit_known(&self, headers: &HeaderMap, need: &Need) -> Option<Result<Visitor, Refusal>> {
        let Access::Password(passwords) = self else { return Some(self.admit(headers, need)) };
        match headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(htpasswd::parse_basic) {
            None => Some(Err(unauthorized(&passwords.challenge()))),
            Some((user, password)) => passwords.knows(&user, &password).then(|| Ok(Visitor::free(user))),
        }
    }

    /// Lets a request in or refuses it. May take as long as a password's check does (a tenth of a second): not for an
    /// asynchronous thread.
    pub(crate) fn admit(&self, headers: &HeaderMap, need: &Need) -> Result<Visitor, Refusal> {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        match self {
            Access::Open => Ok(Visitor::default()),
            Access::Password(passwords) => given
                .and_then(htpasswd::parse_basic)
                .and_then(|(user, password)| passwords.check(&user, &password).then(|| Visitor::free(user)))
                .ok_or_else(|| unauthorized(&passwords.challenge())),
            Access::Token(tokens) => {
                let visitor = match given.map(|given| tokens.check(given)) {
                    None => return Err(unauthorized(&tokens.challenge(need, None))),
                    Some(Err(why)) => {
                        tracing::info!("a token was refused: {why}");
                        return Err(unauthorized(&tokens.challenge(need, Some("invalid_token"))));
                    }
                    Some(Ok((name, grants))) => Visitor { name, grants: Some(grants) },
                };
                if visitor.may(need) {
                    return Ok(visitor);
                }
                Err(unauthorized(&tokens.challenge(need, Some("insufficient_scope"))))
            }
        }
    }
}

fn unauthorized(challenge: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "authentication required")
        .header(WWW_AUTHENTICATE, challenge)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_need_what_they_do() {
        let scope = |path: &str, method: Method| Need::of(&Route::parse(path).unwrap(), &method).scope();
        assert_eq!(scope("/v2/", Method::GET), None);
        assert_eq!(scope("/v2/_catalog", Method::GET).unwrap(), "registry:catalog:*");
        assert_eq!(scope("/v2/a/b/manifests/x", Method::HEAD).unwrap(), "repository:a/b:pull");
        assert_eq!(scope("/v2/a/manifests/x", Method::PUT).unwrap(), "repository:a:pull,push");
        assert_eq!(scope("/v2/a/manifests/x", Method::DELETE).unwrap(), "repository:a:delete");
        assert_eq!(scope("/v2/a/blobs/uploads/1", Method::DELETE).unwrap(), "repository:a:pull,push");
        assert_eq!(scope("/v2/a/blobs/uploads/1", Method::GET).unwrap(), "repository:a:pull,push");
    }

    #[test]
    fn grants_are_for_one_name_and_one_kind() {
        let grant = |kind: &str, name: &str, actions: &[&str]| Grant {
            kind: kind.into(),
            name: name.into(),
            actions: actions.iter().map(|a| (*a).to_owned()).collect(),
        };
        let visitor = Visitor {
            name: "u".into(),
            grants: Some(vec![grant("repository", "a", &["pull"]), grant("repository", "b", &["*"])]),
        };
        let may = |name: &str, actions: &[Action]| visitor.may(&Need::Repository(name.into(), actions.to_vec()));
        assert!(may("a", &[Action::Pull]) && may("b", &[Action::Pull, Action::Push, Action::Delete]));
        assert!(
            !may("a", &[Action::Pull, Action::Push]) && !may("aa", &[Action::Pull]) && !may("a/b", &[Action::Pull])
        );
        assert!(!visitor.may(&Need::Catalog) && visitor.may(&Need::Login));
        let imposter = Visitor { name: String::new(), grants: Some(vec![grant("plugin", "a", &["pull"])]) };
        assert!(!imposter.may_read("a") && Visitor::default().may_read("a"));
    }
}

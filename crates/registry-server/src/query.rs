//! The query of a request's address. Must not accept a parameter twice where one is meant: two readers could choose
//! differently.

use hyper::StatusCode;

use crate::refusal::Refusal;
use crate::route::percent_decode;

/// The parameters in their order.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads what stands behind the question mark.
    pub(crate) fn parse(text: &str) -> Query {
        let decode = |part: &str| percent_decode(&part.replace('+', " "));
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Query(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// The value of a parameter that may be there once.
    pub(crate) fn one(&self, name: &str) -> Result<Option<&str>, Refusal> {
        let mut values = self.all(name);
        let first = values.next();
        if values.next().is_some() {
            let text = format!("the parameter {name:?} is there more than once");
            return Err(match name {
                "digest" | "mount" => Refusal::digest_invalid(text),
                "from" => Refusal::upload_invalid(text),
                _ => Refusal::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", text),
            });
        }
        Ok(first)
    }

    /// All values of a parameter.
    pub(crate) fn all<'q, 'n>(&'q self, name: &'n str) -> impl Iterator<Item = &'q str> + use<'q, 'n> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_counted() {
        let query = Query::parse("digest=sha256%3Aab&tag=a&tag=b+c&&flag");
        assert_eq!(query.one("digest").unwrap(), Some("sha256:ab"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b c"]);
        assert_eq!((query.one("flag").unwrap(), query.one("absent").unwrap()), (Some(""), None));
        assert!(Query::parse("digest=a&digest=a").one("digest").is_err());
    }
}

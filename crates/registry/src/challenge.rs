//! Owns reading `WWW-Authenticate` (RFC 9110 section 11.6.1). Parsing only: no requests, no policy.

/// How a server wants to be convinced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from the server at `realm`, for `service`.
    Bearer { realm: String, service: String },
}

/// The challenges of one header value that this client can answer, in their order. Parameters of other schemes are skipped.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut rest = header.trim();
    while !rest.is_empty() {
        let (scheme, after) = split_token(rest);
        if scheme.is_empty() {
            break;
        }
        let (parameters, after) = parameters(after);
        let get = |name: &str| parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.clone());
        if scheme.eq_ignore_ascii_case("basic") {
            found.push(Challenge::Basic);
        } else if scheme.eq_ignore_ascii_case("bearer")
            && let Some(realm) = get("realm")
        {
            found.push(Challenge::Bearer { realm, service: get("service").unwrap_or_default() });
        }
        rest = after;
    }
    found
}

/// Reads `name=value, …` until the next scheme, which is a token not followed by `=`.
fn parameters(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut found = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (name, after) = split_token(rest);
        let Some(value) = after.trim_start().strip_prefix('=') else {
            return (found, rest);
        };
        if name.is_empty() {
            return (found, "");
        }
        let value = value.trim_start();
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (token, after) = split_token(value);
                (token.to_owned(), after)
            }
        };
        found.push((name.to_owned(), value));
        rest = after;
    }
}

fn split_token(text: &str) -> (&str, &str) {
    let end = text.find([' ', '\t', ',', '=', '"']).unwrap_or(text.len());
    text.split_at(end)
}

fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let bearer = |realm: &str, service: &str| Challenge::Bearer { realm: realm.into(), service: service.into() };
        assert_eq!(
            parse(r#"Bearer realm="https://auth.example/token",service="reg, the \"one\"",scope="a,b""#),
            [bearer("https://auth.example/token", "reg, the \"one\"")]
        );
        assert_eq!(parse(r#"basic realm="x""#), [Challenge::Basic]);
        assert_eq!(parse("Basic"), [Challenge::Basic]);
        assert_eq!(
            parse(r#"Digest nonce=abc, Bearer service=s,  REALM = "r" , Basic realm="b""#),
            [bearer("r", "s"), Challenge::Basic]
        );
        for nothing in ["", "Bearer service=x", "=", "\"", ", ,", "Negotiate abc"] {
            assert_eq!(parse(nothing), [], "{nothing}");
        }
    }
}

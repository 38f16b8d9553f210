//! The words of a Dockerfile instruction: quotes, escapes and variables, as the reference of the format has them.
//! Pure; must not know an instruction.

/// Splits at blanks that are not quoted, and leaves quotes and escapes in: `a="b c" d` is two words.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', None | Some('"')) => {
                word.push(character);
                word.extend(characters.next());
                continue;
            }
            ('\'' | '"', None) => quote = Some(character),
            (_, Some(open)) if character == open => quote = None,
            (_, None) if character.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            _ => {}
        }
        word.push(character);
    }
    if let Some(quote) = quote {
        return Err(format!("a {quote} is not closed"));
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// Takes quotes and escapes away and puts values in for `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+other}`.
pub fn expand(text: &str, value: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut rest: Vec<char> = text.chars().rev().collect();
    let mut out = String::new();
    let mut in_double = false;
    while let Some(character) = rest.pop() {
        match character {
            '\'' if !in_double => loop {
                match rest.pop() {
                    Some('\'') => break,
                    Some(other) => out.push(other),
                    None => return Err("a ' is not closed".into()),
                }
            },
            '"' => in_double = !in_double,
            '\\' => match rest.pop() {
                // In double quotes only what means something there is escaped.
                Some(next @ ('"' | '$' | '\\')) => out.push(next),
                Some(next) if in_double => out.extend(['\\', next]),
                Some(next) => out.push(next),
                None => out.push('\\'),
            },
            '$' => out.push_str(&variable(&mut rest, value)?),
            other => out.push(other),
        }
    }
    if in_double { Err("a \" is not closed".into()) } else { Ok(out) }
}

/// What stands behind a dollar sign.
fn variable(rest: &mut Vec<char>, value: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let is_part = |character: &char| character.is_ascii_alphanumeric() || *character == '_';
    let name = |rest: &mut Vec<char>| {
        let mut name = String::new();
        while rest.last().is_some_and(is_part) {
            name.extend(rest.pop());
        }
        name
    };
    if rest.last() != Some(&'{') {
        let name = name(rest);
        return Ok(if name.is_empty() { "$".to_owned() } else { value(&name).unwrap_or_default() });
    }
    rest.pop();
    let name = name(rest);
    let known = value(&name);
    let mut body = String::new();
    let mut depth = 1;
    loop {
        match rest.pop() {
            Some('}') if depth == 1 => break,
            Some(character) => {
                depth += match character {
                    '{' => 1,
                    '}' => -1,
                    _ => 0,
                };
                body.push(character);
            }
            None => return Err("a ${ is not closed".into()),
        }
    }
    if name.is_empty() {
        return Err("${} names no variable".into());
    }
    let set = known.clone().filter(|text| !text.is_empty());
    match body.get(..2) {
        None if body.is_empty() => Ok(known.unwrap_or_default()),
        Some(":-") => set.map_or_else(|| expand(&body[2..], value), Ok),
        Some(":+") => set.map_or_else(|| Ok(String::new()), |_| expand(&body[2..], value)),
        _ => Err(format!("${{{name}{body}}}: only :- and :+ are known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_quotes() {
        assert_eq!(split(r#"a="b c"  d\ e 'f g'"#).unwrap(), [r#"a="b c""#, r"d\ e", "'f g'"]);
        assert!(split("'a").is_err() && split("\"a").is_err());
    }

    #[test]
    fn variables() {
        let value = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (text, expected) in [
            ("$A", "1"),
            ("${A}x", "1x"),
            ("$Ax", ""),
            (r"\$A", "$A"),
            ("'$A'", "$A"),
            ("\"$A b\"", "1 b"),
            (r#""\"\n""#, r#""\n"#),
            ("${B:-d}", "d"),
            ("${EMPTY:-${A}}", "1"),
            ("${A:+y}${B:+n}", "y"),
            ("$", "$"),
            ("5$.", "5$."),
        ] {
            assert_eq!(expand(text, &value).unwrap(), expected, "{text}");
        }
        for bad in ["${A", "${}", "${A?x}", "\"", "'"] {
            assert!(expand(bad, &value).is_err(), "{bad}");
        }
    }
}

//! The `filters` parameter: `{"label":{"a=b":true}}`, or the older `{"label":["a=b"]}`.
//! Owns parsing and the generic ways of matching; must not know which filters an object has.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// Filters by key; every key has a set of values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Filters(BTreeMap<String, BTreeMap<String, bool>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum Values {
    Set(BTreeMap<String, bool>),
    List(Vec<String>),
}

impl Filters {
    /// No filters.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the query parameter; empty means no filters.
    ///
    /// # Errors
    /// Docker's `invalid filter` when it is neither of the two forms.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() || text.trim() == "null" {
            return Ok(Self::default());
        }
        let raw: BTreeMap<String, Option<Values>> =
            serde_json::from_str(text).map_err(|_| format!("invalid filter: {text}"))?;
        let mut filters = Self::default();
        for (key, values) in raw {
            let set = filters.0.entry(key).or_default();
            match values {
                None => {}
                Some(Values::Set(map)) => set.extend(map),
                Some(Values::List(list)) => set.extend(list.into_iter().map(|value| (value, true))),
            }
        }
        Ok(filters)
    }

    /// The form that is sent.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a map of maps of booleans is always JSON")
    }

    /// Adds one value.
    pub fn add(&mut self, key: impl Into<String>, value: impl Into<String>) {
        self.0.entry(key.into()).or_default().insert(value.into(), true);
    }

    /// Whether there is no filter at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.values().all(BTreeMap::is_empty)
    }

    /// Whether any value was given for `key`.
    #[must_use]
    pub fn contains(&self, key: &str) -> bool {
        self.0.get(key).is_some_and(|values| !values.is_empty())
    }

    /// The values given for `key`, sorted.
    pub fn get<'a>(&'a self, key: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.0.get(key).into_iter().flatten().map(|(value, _)| value.as_str())
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Refuses keys that the object does not have.
    ///
    /// # Errors
    /// Docker's `invalid filter 'x'`.
    pub fn check(&self, allowed: &[&str]) -> Result<(), String> {
        match self.keys().find(|key| !allowed.contains(key)) {
            None => Ok(()),
            Some(key) => Err(format!("invalid filter '{key}'")),
        }
    }

    /// Whether `key` was not asked for, or `value` is one of the values asked for.
    #[must_use]
    pub fn matches(&self, key: &str, value: &str) -> bool {
        !self.contains(key) || self.get(key).any(|wanted| wanted == value)
    }

    /// Whether `key` was not asked for, or one of its values is a part of `value`.
    #[must_use]
    pub fn matches_part(&self, key: &str, value: &str) -> bool {
        !self.contains(key) || self.get(key).any(|wanted| value.contains(wanted))
    }

    /// Whether the labels have every one asked for under `key`, each `name` or `name=value`.
    #[must_use]
    pub fn matches_labels(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.get(key).all(|wanted| has_label(labels, wanted))
    }

    /// Whether the labels have any one asked for under `key` (for `label!`, whose matches are left out).
    #[must_use]
    pub fn matches_any_label(&self, key: &str, labels: &BTreeMap<String, String>) -> bool {
        self.get(key).any(|wanted| has_label(labels, wanted))
    }

    /// The one boolean given for `key`, or `default`.
    ///
    /// # Errors
    /// Docker's text when it is no boolean, or both are given.
    pub fn boolean(&self, key: &str, default: bool) -> Result<bool, String> {
        let values: BTreeSet<&str> = self.get(key).collect();
        let parsed: Option<BTreeSet<bool>> = values
            .iter()
            .map(|value| match *value {
                "1" | "true" | "True" | "TRUE" | "t" | "T" => Some(true),
                "0" | "false" | "False" | "FALSE" | "f" | "F" => Some(false),
                _ => None,
            })
            .collect();
        match parsed {
            Some(set) if set.is_empty() => Ok(default),
            Some(set) if set.len() == 1 => Ok(set.contains(&true)),
            _ => Err(format!("invalid filter '{key}={}'", values.into_iter().collect::<Vec<_>>().join(","))),
        }
    }
}

fn has_label(labels: &BTreeMap<String, String>, wanted: &str) -> bool {
    match wanted.split_once('=') {
        Some((name, value)) => labels.get(name).is_some_and(|is| is == value),
        None => labels.contains_key(wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read() {
        let map = Filters::parse(r#"{"label":{"a=b":true,"c":true},"status":{"running":true}}"#).unwrap();
        let list = Filters::parse(r#"{"label":["a=b","c"],"status":["running"]}"#).unwrap();
        assert_eq!(map, list);
        assert_eq!(map.get("label").collect::<Vec<_>>(), ["a=b", "c"]);
        assert_eq!(Filters::parse(&map.to_json()).unwrap(), map);
        assert!(Filters::parse("").unwrap().is_empty());
        assert!(Filters::parse("{}").unwrap().is_empty());
    }

    #[test]
    fn other_forms_are_refused() {
        for text in ["[]", "x", r#"{"label":"a"}"#, r#"{"label":{"a":1}}"#] {
            assert!(Filters::parse(text).unwrap_err().starts_with("invalid filter"), "{text}");
        }
        let filters = Filters::parse(r#"{"nope":["x"]}"#).unwrap();
        assert_eq!(filters.check(&["label"]).unwrap_err(), "invalid filter 'nope'");
    }

    #[test]
    fn labels_match_by_name_or_value_and_all_must() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())]);
        let asks = |text: &str| Filters::parse(text).unwrap().matches_labels("label", &labels);
        assert!(asks(r#"{"label":["a"]}"#));
        assert!(asks(r#"{"label":["a=b","c="]}"#));
        assert!(!asks(r#"{"label":["a=b","c=d"]}"#));
        assert!(asks("{}"));
    }

    #[test]
    fn booleans() {
        let ask = |text: &str| Filters::parse(text).unwrap().boolean("dangling", true);
        assert_eq!(ask("{}"), Ok(true));
        assert_eq!(ask(r#"{"dangling":["false"]}"#), Ok(false));
        assert_eq!(ask(r#"{"dangling":{"1":true}}"#), Ok(true));
        assert_eq!(ask(r#"{"dangling":["maybe"]}"#), Err("invalid filter 'dangling=maybe'".into()));
        assert!(ask(r#"{"dangling":["0","1"]}"#).is_err());
    }
}

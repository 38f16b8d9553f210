//! Tests of the reference grammar: Docker's own cases, and properties over generated and random names.

use super::*;
use proptest::prelude::*;

#[track_caller]
fn is(text: &str, canonical: &str, familiar: &str) {
    let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(reference.canonical(), canonical, "{text:?}");
    assert_eq!(reference.familiar(), familiar, "{text:?}");
}

#[test]
fn normalises_as_docker() {
    is("alpine", "docker.io/library/alpine:latest", "alpine:latest");
    is("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20");
    is("user/app", "docker.io/user/app:latest", "user/app:latest");
    is("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest");
    is("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest");
    is("docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest");
    is("localhost/app", "localhost/app:latest", "localhost/app:latest");
    is("localhost:5000/a/b:t", "localhost:5000/a/b:t", "localhost:5000/a/b:t");
    is("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest");
    is("127.0.0.1:5000/app", "127.0.0.1:5000/app:latest", "127.0.0.1:5000/app:latest");
    is("Uppercase/app", "Uppercase/app:latest", "Uppercase/app:latest");
    is("a__b--d---e/f.g", "docker.io/a__b--d---e/f.g:latest", "a__b--d---e/f.g:latest");
    is("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest");
    let digest = format!("sha256:{}", "0".repeat(64));
    is(&format!("alpine@{digest}"), &format!("docker.io/library/alpine@{digest}"), &format!("alpine@{digest}"));
    is(&format!("h.io/x:1@{digest}"), &format!("h.io/x:1@{digest}"), &format!("h.io/x:1@{digest}"));
    // Short hex and 63 digits are names; only a full id is not.
    is("deadbeef", "docker.io/library/deadbeef:latest", "deadbeef:latest");
}

#[track_caller]
fn refused(text: &str, why: &str) {
    assert_eq!(Reference::parse(text).unwrap_err().to_string(), why, "{text:?}");
}

#[test]
fn refuses_with_dockers_words() {
    let id = "a".repeat(64);
    refused(&id, &format!("invalid repository name ({id}), cannot specify 64-byte hexadecimal strings"));
    refused("FOO", "invalid reference format: repository name (library/FOO) must be lowercase");
    refused("user/FOO:x", "invalid reference format: repository name (user/FOO) must be lowercase");
    for text in [
        "",
        ":",
        "a:",
        ":tag",
        "a//b",
        "/a",
        "a/",
        "-a",
        "a-",
        "a..b",
        "a___b",
        "a._b",
        "a b",
        "a\n",
        "a:t\n",
        "../a",
        "a/../b",
        "a/.",
        "a@",
        "a@sha256:00",
        "a:-t",
        "a:.t",
        "h:x/a",
        "-h.io/a",
        "h-.io/a",
        "h..io/a",
        "[::1/a",
        "[]/a",
        "[x]:1/a",
        "ä",
        "a:ä",
        "h.io:/a",
        "a:b:c",
        "a/b:c/d",
        "a?b",
    ] {
        refused(text, "invalid reference format");
    }
    refused(&format!("sha256:{id}@x"), "invalid reference format");
    refused(&format!("sha256:{id}"), "invalid reference format");
    refused(&format!("a:{}", "t".repeat(129)), "invalid reference format");
    assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
    refused(&format!("h.io/{}", "a".repeat(256)), "repository name must not be more than 255 characters");
    assert!(Reference::parse(&format!("h.io/{}", "a".repeat(255))).is_ok());
    refused(&format!("a@blake3:{id}"), "unsupported digest algorithm");
    refused(&format!("a@sha256:{}", "a".repeat(32)), "invalid checksum digest length");
}

#[test]
fn the_short_form_is_never_another_name() {
    for name in ["docker.io/libr.0ary/a_b:v1.0", "docker.io/localhost/x:v1", "docker.io/docker.io/x:v1"] {
        let reference = Reference::parse(name).unwrap();
        assert_eq!(reference.familiar(), name);
        assert_eq!(Reference::parse(&reference.familiar()).unwrap(), reference);
    }
}

#[test]
fn tag_and_digest_replace_each_other() {
    let reference = Reference::parse("h.io/a:1").unwrap();
    assert_eq!(reference.with_tag("2").unwrap().canonical(), "h.io/a:2");
    assert_eq!(reference.with_tag("a b").unwrap_err().to_string(), "invalid tag format");
    let digest = Digest::from_sha256([1; 32]);
    assert_eq!(reference.with_digest(&digest).canonical(), format!("h.io/a@{digest}"));
    assert_eq!(Reference::parse_bare("a").unwrap().tag(), None);
}

proptest! {
    #[test]
    fn canonical_and_familiar_parse_back(
        text in "((localhost|[a-z]{1,5}\\.[a-z]{2,3})(:[0-9]{1,5})?/)?[a-z0-9]{1,6}([._-][a-z0-9]{1,4})?(/[a-z0-9]{1,5}){0,3}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,20})?"
    ) {
        let reference = Reference::parse(&text).unwrap();
        prop_assert_eq!(&Reference::parse(&reference.canonical()).unwrap(), &reference);
        prop_assert_eq!(&Reference::parse(&reference.familiar()).unwrap(), &reference);
    }

    #[test]
    fn anything_parses_or_is_refused_and_never_leaves_its_alphabet(text in "[a-zA-Z0-9:/@._\\[\\]\\-\\n %]{0,80}") {
        if let Ok(reference) = Reference::parse(&text) {
            let canonical = reference.canonical();
            prop_assert!(!canonical.contains("..") || reference.tag().is_some_and(|tag| tag.contains("..")));
            prop_assert!(!canonical.contains([' ', '\n', '%']));
            prop_assert_eq!(Reference::parse(&canonical).unwrap(), reference);
        }
    }
}

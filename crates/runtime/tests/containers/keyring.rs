//! The session keyring: whose it is inside, and that execs share it.

use brig_runtime::{CreateRequest, ExecRequest};
use std::os::fd::AsFd as _;

use crate::harness::*;

pub const TESTS: &[(&str, fn())] =
    &[("session_keyring_is_the_containers", session_keyring_is_the_containers), ("no_new_keyring", no_new_keyring)];

/// The keyring of that container, if the reader may see it: its serial number, permissions and name.
fn show(place: &Place) -> String {
    format!("grep ' _ses.{}' /proc/keys || echo none", place.id)
}

fn ring(text: &str) -> (String, String, String) {
    let words: Vec<&str> = text.split_whitespace().collect();
    let name = words.iter().find(|word| word.starts_with("_ses")).unwrap_or_else(|| panic!("{text:?}"));
    (words[0].to_owned(), words[4].to_owned(), name.trim_end_matches(':').to_owned())
}

fn session_keyring_is_the_containers() {
    for own_users in [true, false] {
        let place = Place::new(if own_users { "keys" } else { "hostkeys" });
        let mut spec = spec(&["sh", "-c", &format!("{}; exec sleep 1000", show(&place))]);
        linux(&mut spec).masked_paths.clear();
        if !own_users {
            linux(&mut spec).namespaces.retain(|namespace| namespace.type_ != "user");
            linux(&mut spec).uid_mappings.clear();
            linux(&mut spec).gid_mappings.clear();
        }
        let (stdio, output) = pipes();
        let mut container = brig_runtime::create(request(&place, &spec, place.overlay(), stdio)).unwrap();
        container.start().unwrap();
        let (serial, permissions, name) = ring(&output.line());
        assert_eq!(name, format!("_ses.{}", place.id));
        assert_eq!(permissions, if own_users { "3f1b0008" } else { "3f1b0000" });
        let ran = exec(&container, &spec, |process| process.args = vec!["sh".into(), "-c".into(), show(&place)]);
        assert_eq!(ring(&ran.unwrap().stdout).0, serial, "an exec has the container's");
        container.delete().unwrap();
    }
}

fn no_new_keyring() {
    let place = Place::new("nokeys");
    let mut spec = spec(&["sh", "-c", &format!("{}; exec sleep 1000", show(&place))]);
    linux(&mut spec).masked_paths.clear();
    let (stdio, output) = pipes();
    let asked = CreateRequest { session_keyring: false, ..request(&place, &spec, place.overlay(), stdio) };
    let mut container = brig_runtime::create(asked).unwrap();
    container.start().unwrap();
    assert_eq!(output.line(), "none");
    let mut process = spec.process.clone().unwrap();
    process.args = vec!["sh".into(), "-c".into(), show(&place)];
    let (stdio, output) = pipes();
    let asked = ExecRequest { session_keyring: false, ..ExecRequest::new(&process, spec.linux.as_ref(), stdio) };
    let done = container.exec(asked).unwrap();
    assert_eq!(output.collect(done.pidfd.as_fd()).stdout, "none\n");
    container.delete().unwrap();
}

//! Labels of security modules. AppArmor is tried where the kernel has it, with a profile of the test's own.

use std::fs;
use std::io::Write as _;

use brig_runtime::{CreateRequest, ErrorKind};
use brig_sys::mount::{Attr, Context};
use rustix::fs::{Mode, OFlags};

use crate::harness::*;

pub const TESTS: &[(&str, fn())] =
    &[("apparmor_confines", apparmor_confines), ("modules_that_are_absent", modules_that_are_absent)];

/// A profile that allows everything but writing to `/tmp/forbidden`; its source is beside it.
const PROFILE: &[u8] = include_bytes!("apparmor/profile.bin");

fn apparmor() -> bool {
    fs::read("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.first() == Some(&b'Y'))
}

/// Loads the profile through a securityfs of the test's own.
fn load() {
    let place = Context::open("securityfs").unwrap().mount(Attr::empty()).unwrap();
    let file =
        rustix::fs::openat(&place, "apparmor/.replace", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    fs::File::from(file).write_all(PROFILE).unwrap();
}

/// As many lines whether it is confined or not.
const TRY: &str = "cat /proc/self/attr/apparmor/current; touch /tmp/fine; touch /tmp/forbidden 2>/dev/null; echo $?";
const CONFINED: &str = "brig-test (enforce)\n1\n";

fn apparmor_confines() {
    if !apparmor() {
        return skip("apparmor_confines", "AppArmor is not in force");
    }
    load();
    for own_users in [true, false] {
        for no_new_privileges in [false, true] {
            for init in [false, true] {
                let place = Place::new("aa");
                let mut spec = spec(&["sh", "-c", &format!("{TRY}; exec sleep 1000")]);
                if !own_users {
                    linux(&mut spec).namespaces.retain(|namespace| namespace.type_ != "user");
                    linux(&mut spec).uid_mappings.clear();
                    linux(&mut spec).gid_mappings.clear();
                }
                process(&mut spec).apparmor_profile = "brig-test".into();
                process(&mut spec).no_new_privileges = no_new_privileges;
                let (stdio, output) = pipes();
                let asked = CreateRequest { init, ..request(&place, &spec, place.overlay(), stdio) };
                let mut container = brig_runtime::create(asked).unwrap();
                container.start().unwrap();
                let lines: String = (0..2).map(|_| output.line() + "\n").collect();
                assert_eq!(lines, CONFINED);
                let script = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
                let ran = exec(&container, &spec, |process| process.args = script(TRY)).unwrap();
                assert_eq!(ran.stdout, CONFINED);
                let ran = exec(&container, &spec, |process| {
                    process.args = script("cat /proc/self/attr/apparmor/current");
                    process.apparmor_profile = "unconfined".into();
                });
                assert_eq!(ran.unwrap().stdout, "unconfined\n");
                let error = exec(&container, &spec, |process| process.apparmor_profile = "no-such".into()).unwrap_err();
                assert!(error.message.contains("no such profile is loaded"), "{error}");
                container.delete().unwrap();
            }
        }
    }
    let place = Place::new("aanone");
    let mut spec = spec(&["true"]);
    process(&mut spec).apparmor_profile = "no-such".into();
    let error = run(&place, &spec).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.starts_with("process.apparmorProfile: \"no-such\": no such profile is loaded"), "{error}");
}

fn modules_that_are_absent() {
    let place = Place::new("nolsm");
    type Change = fn(&mut brig_oci::runtime::Spec);
    let cases: [(&str, bool, Change); 3] = [
        ("process.apparmorProfile", apparmor(), |spec| process(spec).apparmor_profile = "brig-test".into()),
        ("process.selinuxLabel", false, |spec| process(spec).selinux_label = "u:r:t:s0".into()),
        ("linux.mountLabel", false, |spec| linux(spec).mount_label = "u:r:t:s0".into()),
    ];
    for (field, present, change) in cases {
        if present {
            skip("modules_that_are_absent", &format!("{field}: its module is here"));
            continue;
        }
        let mut spec = spec(&["true"]);
        change(&mut spec);
        let error = run(&place, &spec).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Unsupported, "{error}");
        assert!(error.message.starts_with(field) && error.message.contains("not in force"), "{error}");
    }
    // No confinement is what a machine without the module has.
    let mut spec = spec(&["true"]);
    process(&mut spec).apparmor_profile = "unconfined".into();
    run(&place, &spec).unwrap();
}

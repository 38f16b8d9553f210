//! How the programs are linked: the build script of each. Must not: generate code.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=../link.rs");
    // A position-independent program relocates itself at each start, reading the whole table: as RELR that is a hundredth.
    if libc_knows_relr() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The C library that is linked in does the relocating: glibc from 2.36 on (its NEWS) can.
fn libc_knows_relr() -> bool {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output();
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = told.trim().strip_prefix("glibc 2.").and_then(|minor| minor.parse::<u32>().ok());
    version.is_some_and(|minor| minor >= 36) && std::env::var("HOST") == std::env::var("TARGET")
}

//! How `brig` is linked. Must not: generate code.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A position-independent program relocates itself at each start, reading the whole table: as RELR it is a hundredth of the size.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}

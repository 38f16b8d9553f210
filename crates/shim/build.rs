//! How `brig-rt` is linked. Must not: generate code.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A position-independent program relocates itself at each start, reading the whole table: as RELR it is 2 KiB, else 150.
    println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
}

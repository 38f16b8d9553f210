//! The images that are measured. Owns what is in them; they are made of Debian's packages, once, and kept under target/.

use brig_tests::image::noise;
use brig_tests::{Image, Layer, debian};
use serde_json::json;
use std::io::Read;

/// A Debian that compiles C and C++ and runs Python.
const RECIPE: &[&str] = &[
    "--variant=minbase",
    "--include=gcc,g++,make,python3,ca-certificates",
    "--customize-hook=rm -rf $1/var/lib/apt/lists/* $1/var/cache/apt/* $1/var/cache/debconf/*-old",
    "bookworm",
];

/// Beginnings of the names that go into the second and further layers; all else is in the first.
const LAYERS: [&[&str]; 4] = [
    &["usr/share/"],
    &["usr/include/", "usr/lib/x86_64-linux-gnu/", "usr/lib/aarch64-linux-gnu/"],
    &["usr/lib/python3", "usr/bin/python3"],
    &["usr/lib/gcc/", "usr/libexec/gcc/"],
];

/// An image to measure.
pub struct Subject {
    /// One word.
    pub name: &'static str,
    /// What it is, for the table.
    pub note: String,
    /// It.
    pub image: Image,
}

/// Five layers, about 400 MB; none where mmdebstrap is not installed.
pub fn large() -> Option<Subject> {
    let path = debian::root("gcc-python", RECIPE)?;
    let file = std::fs::File::open(path).expect("the cached Debian can be read");
    let layers = split(tar::Archive::new(std::io::BufReader::new(file)));
    Some(subject("large", layers))
}

/// Forty layers of about a megabyte.
pub fn small() -> Option<Subject> {
    let content = noise(48 * 1024);
    let text = b"forty small layers, each with a few dozen files of a few kilobytes\n".repeat(256);
    let layer = |number: usize| {
        let mut layer = Layer::new().dir(&format!("layer{number}"), 0o755);
        for file in 0..40 {
            let body = [number.to_string().as_bytes(), &content[file * 256..][..16 * 1024], &text].concat();
            layer = layer.file(&format!("layer{number}/{file}"), 0o644, body);
        }
        layer.bytes()
    };
    Some(subject("small", (0..40).map(layer).collect()))
}

fn subject(name: &'static str, layers: Vec<Vec<u8>>) -> Subject {
    let sizes: Vec<String> = layers.iter().map(|layer| format!("{}", layer.len() / 1_000_000)).collect();
    let total: usize = layers.iter().map(Vec::len).sum();
    let shown = if layers.len() < 10 { format!(" ({})", sizes.join(", ")) } else { String::new() };
    let note = format!("{} layers, {} MB of tar{shown}", layers.len(), total / 1_000_000);
    Subject { name, note, image: Image::new(layers, json!({"Cmd": ["sh"]})) }
}

/// One tar as several, by the members' names. A link goes where its target goes.
fn split<R: Read>(mut archive: tar::Archive<R>) -> Vec<Vec<u8>> {
    let mut layers: Vec<_> = (0..=LAYERS.len()).map(|_| tar::Builder::new(Vec::new())).collect();
    for entry in archive.entries().expect("the cached Debian is a tar") {
        let mut entry = entry.expect("the cached Debian is whole");
        let name = entry.path().expect("a path").to_path_buf();
        let target = entry.link_name().expect("a link's target").map(std::borrow::Cow::into_owned);
        let kind = entry.header().entry_type();
        let decides = target.as_ref().filter(|_| kind.is_hard_link()).unwrap_or(&name).display().to_string();
        let decides = decides.trim_start_matches("./").to_owned();
        let inside = |starts: &&[&str]| starts.iter().any(|start| decides.starts_with(start) && decides != *start);
        let layer = &mut layers[LAYERS.iter().position(inside).map_or(0, |at| at + 1)];
        let mut header = entry.header().clone();
        match target {
            Some(target) => layer.append_link(&mut header, &name, target).expect("memory can be written"),
            None => layer.append_data(&mut header, &name, &mut entry).expect("memory can be written"),
        }
    }
    layers.into_iter().map(|layer| layer.into_inner().expect("a tar in memory can be ended")).collect()
}

//! Cases about how a layer is packed (A27): members and frames, their sums and lengths, what claims to need too much.
//! Owns these cases only; what is in the layer is always the same.

use super::tar::{Entry, Tar, header};
use super::{Dress, Outcome};
use std::io::Write;

/// A packed layer.
pub struct Stream {
    /// What it tries.
    pub name: &'static str,
    /// What it would be unpacked, whose digest the image promises.
    pub tar: Vec<u8>,
    /// How it is packed, as its media type says.
    pub dress: Dress,
    /// As it travels.
    pub bytes: Vec<u8>,
    /// What is right.
    pub outcome: Outcome,
}

/// The cases.
pub fn streams() -> Vec<Stream> {
    let mut cases = Vec::new();
    for (dress, all) in [(Dress::Gzip, gzip()), (Dress::Zstd, zstd())] {
        for (name, bytes, refused) in all {
            let outcome = match refused {
                Some(words) => Outcome::Refused(words),
                None => Outcome::Layer(vec![("x", "file 1000 "), ("y", "file 1 ")]),
            };
            cases.push(Stream { name, tar: content(), dress, bytes, outcome });
        }
    }
    // A thousand times as long as what travels; what follows the archive's end is hashed, and kept nowhere.
    let mut long = content();
    long.resize(96 << 20, 0);
    for dress in [Dress::Gzip, Dress::Zstd] {
        let outcome = Outcome::Layer(vec![("x", "file 1000 ")]);
        cases.push(Stream { name: "A27 zeros without end", bytes: dress.on(&long), tar: long.clone(), dress, outcome });
        let size = (2u64 << 40).to_string();
        let huge = Tar::new().pax(&[(b"size", size.as_bytes())]);
        let huge = huge.bytes(&header(&Entry { name: b"x", ..Entry::default() }, 0)).body(&[0; 4096]).open_end();
        let outcome = Outcome::Refused("at most");
        cases.push(Stream { name: "A27 a file of 2 TiB", bytes: dress.on(&huge), tar: huge, dress, outcome });
    }
    cases
}

fn content() -> Vec<u8> {
    Tar::new().file("x", &[b'x'; 1000]).file("y", b"y").finish()
}

/// Name, bytes, and what is said of it if it is refused.
type Row = (&'static str, Vec<u8>, Option<&'static str>);

fn gzip() -> Vec<Row> {
    let (tar, on) = (content(), |bytes: &[u8]| Dress::Gzip.on(bytes));
    let whole = on(&tar);
    let (first, second) = tar.split_at(600);
    let changed = |at: usize, change: &dyn Fn(u8) -> u8| {
        let mut bytes = whole.clone();
        let at = if at > 100 { bytes.len() + at - 1000 } else { at };
        bytes[at] = change(bytes[at]);
        bytes
    };
    let flip = |byte: u8| byte ^ 1;
    let named = |length: usize| {
        let mut bytes = whole.clone();
        bytes[3] |= 8;
        let name = [&vec![b'n'; length][..], b"\0"].concat();
        bytes.splice(10..10, name);
        bytes
    };
    vec![
        ("A27 two members", [on(first), on(second)].concat(), None),
        ("A27 a thousand empty members", [on(b"").repeat(1000), whole.clone()].concat(), None),
        ("A27 zeros after the last member", [&whole[..], &[0; 1000]].concat(), None),
        ("A27 garbage after the last member", [&whole[..], b"garbage"].concat(), Some("gzip")),
        ("A27 a file's name before", named(20), None),
        ("A27 a file's name of 4 MiB", named(4 << 20), Some("gzip")),
        // Positions from the end are written as a thousand less.
        ("A27 wrong sum", changed(1000 - 5, &flip), Some("gzip")),
        ("A27 wrong length", changed(1000 - 1, &flip), Some("gzip")),
        ("A27 reserved flags", changed(3, &|_| 0xe0), Some("gzip")),
        ("A27 unknown method", changed(2, &|_| 7), Some("gzip")),
        ("A27 gzip in gzip", on(&whole), Some("")),
        ("A27 cut in the sum", whole[..whole.len() - 6].to_vec(), Some("cut off")),
        ("A27 only a head", whole[..10].to_vec(), Some("cut off")),
        ("A27 a reserved block", [&whole[..10], &[0xff; 100]].concat(), Some("gzip")),
    ]
}

fn zstd() -> Vec<Row> {
    let (tar, on) = (content(), |bytes: &[u8]| Dress::Zstd.on(bytes));
    let whole = on(&tar);
    let (first, second) = tar.split_at(600);
    let with = |set: &dyn Fn(&mut zstd::stream::write::Encoder<'static, Vec<u8>>)| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("an encoder can be made");
        set(&mut encoder);
        encoder.write_all(&tar).and_then(|()| encoder.finish()).expect("memory can be compressed into")
    };
    let window = |log: u32| with(&|encoder| encoder.window_log(log).expect("a window's size"));
    let summed = with(&|encoder| encoder.include_checksum(true).expect("a sum can be had"));
    let mut wrong = summed.clone();
    *wrong.last_mut().expect("it is not empty") ^= 1;
    let magic = &whole[..4];
    let skippable = |length: u32| [&[0x50, 0x2a, 0x4d, 0x18][..], &length.to_le_bytes()].concat();
    // A frame of one raw block whose window is 2^(10 + 21).
    let enormous = [magic, &[0, 21 << 3], &[1, 0, 0]].concat();
    let dictionary = [magic, &[0x23, 1, 2, 3, 4, 0], &[1, 0, 0]].concat();
    vec![
        ("A27 two frames", [on(first), on(second)].concat(), None),
        ("A27 a thousand empty frames", [on(b"").repeat(1000), whole.clone()].concat(), None),
        ("A27 something to skip", [skippable(3), b"abc".to_vec(), whole.clone()].concat(), None),
        ("A27 4 GiB to skip", [skippable(u32::MAX), whole.clone()].concat(), Some("zstd")),
        ("A27 a sum", summed, None),
        ("A27 wrong sum", wrong, Some("zstd")),
        ("A27 a window of 128 MiB", window(27), None),
        ("A27 a window of 256 MiB", window(28), Some("zstd")),
        ("A27 a window of 2 GiB", enormous, Some("zstd")),
        ("A27 a dictionary", dictionary, Some("zstd")),
        ("A27 garbage after the last frame", [&whole[..], b"garbage"].concat(), Some("zstd")),
        ("A27 cut", whole[..whole.len() - 1].to_vec(), Some("cut off")),
        ("A27 only a head", whole[..6].to_vec(), Some("cut off")),
        ("A27 a reserved block", [&whole[..6], &[0xff; 100]].concat(), Some("zstd")),
    ]
}

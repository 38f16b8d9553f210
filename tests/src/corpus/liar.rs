//! What a process that unpacks layers, taken over by a hostile one, may say and leave behind: the words of its last message
//! and recipes that make a tar which the files are not. Owns their formats, as the store reads them.

use crate::image;

/// One step of a recipe.
pub enum Step<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Parts are of this file from here on, below the layer's directory.
    File(&'a str),
    /// So many bytes from an offset of it.
    Part(u64, u64),
}

/// "I unpacked this tar": the numbers of a layer of so many bytes of content, which hides what is below or does not.
pub fn summary(claim: &[u8], content_bytes: u64, opaque: bool) -> Vec<u8> {
    let mut out = image::digest(claim).trim_start_matches("sha256:").as_bytes().to_vec();
    let length = claim.len() as u64;
    for number in [length, length, 1, content_bytes, 0, 0, u64::from(opaque)] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out
}

/// A recipe of these steps for a tar of this length.
pub fn recipe(length: u64, steps: &[Step<'_>]) -> Vec<u8> {
    let mut records = Vec::new();
    for step in steps {
        match step {
            Step::Bytes(bytes) => {
                for piece in bytes.chunks(64 * 1024) {
                    records.push(1);
                    records.extend_from_slice(&u32::try_from(piece.len()).unwrap_or_default().to_le_bytes());
                    records.extend_from_slice(piece);
                }
            }
            Step::File(path) => {
                records.push(2);
                records.extend_from_slice(&u16::try_from(path.len()).unwrap_or_default().to_le_bytes());
                records.extend_from_slice(path.as_bytes());
            }
            Step::Part(offset, length) => {
                records.push(3);
                records.extend_from_slice(&offset.to_le_bytes());
                records.extend_from_slice(&length.to_le_bytes());
            }
        }
    }
    let packed = zstd::encode_all(&records[..], 1).expect("memory can be compressed into");
    [&b"brigtar1"[..], &length.to_le_bytes(), &packed].concat()
}

/// A recipe that has all of a tar itself and needs no file.
pub fn verbatim(tar: &[u8]) -> Vec<u8> {
    recipe(tar.len() as u64, &[Step::Bytes(tar)])
}

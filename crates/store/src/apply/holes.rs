//! Zeros that take no room: writing a new file so that whole blocks of zeros are holes, and copying one with its holes.
//! Must only be used on files that were empty before.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{SeekFrom, seek};

/// What file systems give out, in bytes; zeros in smaller pieces would save nothing.
const BLOCK: u64 = 4096;
/// How much is copied at a time, in bytes.
const PIECE: u64 = 256 * 1024;

/// Writes `piece` where it belongs, but for the blocks in it that are all zeros. Tells where the last byte that was written
/// ends, if any was: the file must be given its length if nothing that comes later reaches it.
pub(crate) fn write(file: &File, piece: &[u8], at: u64) -> io::Result<Option<u64>> {
    let mut written = None;
    let (mut begun, mut here) = (0, 0);
    let mut flush = |from: usize, to: usize| -> io::Result<()> {
        if from < to {
            file.write_all_at(&piece[from..to], at + from as u64)?;
            written = Some(at + to as u64);
        }
        Ok(())
    };
    while here < piece.len() {
        let in_block = (BLOCK - (at + here as u64) % BLOCK) as usize;
        let end = piece.len().min(here + in_block);
        // Only whole blocks: what is left of one is written by whoever has the rest.
        if end - here == BLOCK as usize && is_zero(&piece[here..end]) {
            flush(begun, here)?;
            begun = end;
        }
        here = end;
    }
    flush(begun, here)?;
    Ok(written)
}

fn is_zero(block: &[u8]) -> bool {
    // Nearly all blocks of files tell at their first bytes.
    block[..16] == [0; 16] && block.iter().all(|byte| *byte == 0)
}

/// Copies the first `size` bytes of a file to an empty one. Holes stay holes.
pub(crate) fn copy(from: &File, to: &File, size: u64) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(PIECE.min(size)).unwrap_or_default()];
    let mut at = 0;
    while at < size {
        at = match seek(from, SeekFrom::Data(at)) {
            Ok(data) => data.max(at),
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that cannot tell has no holes.
            Err(_) => at,
        };
        let ends = seek(from, SeekFrom::Hole(at)).unwrap_or(size).min(size).max(at + 1);
        while at < ends {
            let want = usize::try_from((ends - at).min(PIECE)).unwrap_or_default();
            match from.read_at(&mut buffer[..want], at) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => {
                    write(to, &buffer[..length], at)?;
                    at += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    to.set_len(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// Bytes in pieces as they come, and how many blocks they may take.
    fn check(content: &[u8], piece: usize, blocks: u64) {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let open =
            |name: &str| File::options().read(true).write(true).create_new(true).open(dir.path().join(name)).unwrap();
        let (file, copied) = (open("a"), open("b"));
        let (mut at, mut end) = (0, 0);
        for part in content.chunks(piece) {
            end = write(&file, part, at).unwrap().unwrap_or(end);
            at += part.len() as u64;
        }
        assert!(end <= at);
        file.set_len(at).unwrap();
        copy(&file, &copied, at).unwrap();
        for (file, name) in [(file, "a"), (copied, "b")] {
            assert!(std::fs::read(dir.path().join(name)).unwrap() == content, "{name}");
            assert!(
                file.metadata().unwrap().blocks() / 8 <= blocks,
                "{name} in pieces of {piece}: {}",
                file.metadata().unwrap().blocks()
            );
        }
    }

    #[test]
    fn blocks_of_zeros_are_holes() {
        let zeros = |blocks: usize| vec![0; blocks * 4096];
        check(&zeros(100), 256 * 1024, 0);
        check(&[zeros(10), b"x".to_vec()].concat(), 256 * 1024, 1);
        check(&[b"x".to_vec(), zeros(10)].concat(), 256 * 1024, 2);
        check(&[zeros(50), vec![7; 5000], zeros(50)].concat(), 64 * 1024, 3);
        // Pieces that end anywhere.
        check(&[zeros(64), vec![7; 5000], zeros(64)].concat(), 100_000, 8);
        check(&[vec![1; 10_000], zeros(1), vec![1; 10_000]].concat(), 777, 6);
        check(b"", 1, 0);
        check(&[0; 100], 100, 1);
    }
}

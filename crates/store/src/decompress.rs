//! Finding out how a stream is packed, from its first bytes, and unpacking it in-process.
//! Owns the decoders' bounds. Must not run programs or look at names.

use std::fmt;
use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use crate::error::{Error, Result};

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const XZ_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];
const BZIP2_MAGIC: [u8; 3] = *b"BZh";
/// What follows the magic and the level: the start of a block, or of the end where there is no block.
const BZIP2_NEXT: [[u8; 4]; 2] = [[0x31, 0x41, 0x59, 0x26], [0x17, 0x72, 0x45, 0x38]];
/// zstd frames that need a larger window than 2^27 = 128 MiB are refused.
pub(crate) const ZSTD_WINDOW_LOG: u32 = 27;
/// The window that all but the highest levels make do with: 2^23 = 8 MiB.
pub(crate) const ZSTD_USUAL_LOG: u32 = 23;
/// What unpacking xz may take, in KiB: the dictionary of its highest level, 64 MiB, and little beside it.
const XZ_MEMORY_KIB: u32 = 65 * 1024;
const BUFFER: usize = 128 * 1024;

/// How a stream is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not at all, as far as its first bytes tell.
    Plain,
    /// gzip, possibly several members in a row.
    Gzip,
    /// Zstandard, possibly several frames in a row.
    Zstd,
    /// xz, possibly several streams in a row; never said by an image's media type.
    Xz,
    /// bzip2, possibly several streams in a row; never said by an image's media type.
    Bzip2,
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Packing::Plain => "not packed",
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            Packing::Xz => "xz",
            Packing::Bzip2 => "bzip2",
        })
    }
}

/// Unpacks gzip, zstd, xz and bzip2, and passes anything else through.
/// Errors while reading name what is wrong with the stream.
pub fn decompress<'a, R: Read + 'a>(reader: R) -> Result<Box<dyn Read + 'a>> {
    decompress_sniffed(reader).map(|(_, reader)| reader)
}

/// As [`decompress`], for a stream that was said to be packed like that. One that is said to be plain is not looked at.
pub(crate) fn decompress_as<'a, R: Read + 'a>(reader: R, packing: Option<Packing>) -> Result<Box<dyn Read + 'a>> {
    decompress_within(reader, packing, ZSTD_WINDOW_LOG)
}

/// As [`decompress_as`], with zstd windows of at most 2^`window_log` bytes.
pub(crate) fn decompress_within<'a, R: Read + 'a>(
    reader: R,
    packing: Option<Packing>,
    window_log: u32,
) -> Result<Box<dyn Read + 'a>> {
    if packing == Some(Packing::Plain) {
        return Ok(Box::new(reader));
    }
    let (found, plain) = sniff(reader, window_log)?;
    match packing {
        Some(said) if said != found => Err(Error::invalid(format!("said to be packed as {said}, but it is {found}"))),
        _ => Ok(plain),
    }
}

/// As [`decompress`], telling also what was found, for callers who were told a media type.
pub fn decompress_sniffed<'a, R: Read + 'a>(reader: R) -> Result<(Packing, Box<dyn Read + 'a>)> {
    sniff(reader, ZSTD_WINDOW_LOG)
}

fn sniff<'a, R: Read + 'a>(reader: R, window_log: u32) -> Result<(Packing, Box<dyn Read + 'a>)> {
    let (head, reader) = peek(reader)?;
    let packing = packing_of(&head);
    let reader: Box<dyn Read + 'a> = match packing {
        Packing::Plain => Box::new(reader),
        Packing::Gzip => Box::new(Gzip::new(BufReader::with_capacity(BUFFER, reader))),
        Packing::Zstd => {
            let failed = |error| Error::io("start the zstd decoder", error);
            let input = BufReader::with_capacity(BUFFER, reader);
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(failed)?;
            decoder.window_log_max(window_log).map_err(failed)?;
            Box::new(Zstd { decoder, window_log })
        }
        Packing::Xz => {
            let input = BufReader::with_capacity(BUFFER, reader);
            Box::new(Xz(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB)))
        }
        Packing::Bzip2 => {
            let input = BufReader::with_capacity(BUFFER, reader);
            Box::new(Bzip2(bzip2::bufread::MultiBzDecoder::new(input)))
        }
    };
    Ok((packing, reader))
}

/// How many bytes of a stream's start [`needs_large_window`] looks at.
pub(crate) const ZSTD_HEAD: usize = 18;

/// Whether a stream that starts like this is zstd that takes a larger window than 2^[`ZSTD_USUAL_LOG`] bytes to decode, or
/// does not say (RFC 8878, 3.1.1.1).
pub(crate) fn needs_large_window(head: &[u8]) -> bool {
    if !is_zstd(head) {
        return false;
    }
    let Some((descriptor, rest)) = head.strip_prefix(&ZSTD_MAGIC).and_then(<[u8]>::split_first) else { return true };
    let window = match descriptor & 0x20 {
        0 => rest.first().map(|byte| {
            let base = 1u64 << (10 + (byte >> 3));
            base + base / 8 * u64::from(byte & 7)
        }),
        _ => {
            let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
            let length = 1 << (descriptor >> 6);
            let mut size = [0; 8];
            rest.get(dictionary..dictionary + length).map(|bytes| {
                size[..length].copy_from_slice(bytes);
                u64::from_le_bytes(size)
            })
        }
    };
    window.is_none_or(|window| window > 1 << ZSTD_USUAL_LOG)
}

/// How many bytes of a stream's start tell how it is packed.
pub(crate) const PACKING_HEAD: usize = 8;

/// How a stream that starts like this is packed.
pub(crate) fn packing_of(head: &[u8]) -> Packing {
    let is_bzip2 =
        |rest: &[u8]| matches!(rest, [b'1'..=b'9', ..]) && BZIP2_NEXT.iter().any(|next| rest[1..].starts_with(next));
    if head.starts_with(&GZIP_MAGIC) {
        Packing::Gzip
    } else if is_zstd(head) {
        Packing::Zstd
    } else if head.starts_with(&XZ_MAGIC) {
        Packing::Xz
    } else if head.strip_prefix(&BZIP2_MAGIC).is_some_and(is_bzip2) {
        Packing::Bzip2
    } else {
        Packing::Plain
    }
}

/// A zstd frame, or one of the skippable frames that may come first.
fn is_zstd(head: &[u8]) -> bool {
    let skippable = matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..]);
    head.starts_with(&ZSTD_MAGIC) || skippable
}

/// A stream whose first bytes were put back.
pub(crate) type Rewound<R> = Chain<Cursor<Vec<u8>>, R>;

/// Reads the first bytes and puts them back in front.
pub(crate) fn peek<R: Read>(mut reader: R) -> Result<(Vec<u8>, Rewound<R>)> {
    let mut head = Vec::with_capacity(PACKING_HEAD);
    (&mut reader)
        .take(PACKING_HEAD as u64)
        .read_to_end(&mut head)
        .map_err(|error| Error::input("read the start of the archive", &error))?;
    Ok((head.clone(), Cursor::new(head).chain(reader)))
}

/// gzip members in a row. Unlike flate2's own, zero padding after the last member is accepted, as by gzip(1),
/// anything else after it is refused, and a stream that is cut is told apart from one that ended.
struct Gzip<R: BufRead> {
    member: Option<flate2::bufread::GzDecoder<R>>,
}

impl<R: BufRead> Gzip<R> {
    fn new(input: R) -> Gzip<R> {
        Gzip { member: Some(flate2::bufread::GzDecoder::new(input)) }
    }

    /// After a member ended: goes on with the next, or ends.
    fn next_member(&mut self) -> io::Result<()> {
        let Some(member) = self.member.take() else {
            return Ok(());
        };
        let mut input = member.into_inner();
        let mut padded = false;
        loop {
            let rest = input.fill_buf()?;
            let Some(first) = rest.first() else {
                return Ok(());
            };
            match first {
                0 => {
                    padded = true;
                    let zeros = rest.iter().take_while(|byte| **byte == 0).count();
                    input.consume(zeros);
                }
                0x1f if !padded => break,
                _ => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "gzip: garbage after the end"));
                }
            }
        }
        self.member = Some(flate2::bufread::GzDecoder::new(input));
        Ok(())
    }
}

impl<R: BufRead> Read for Gzip<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            match member.read(buffer) {
                Ok(0) if !buffer.is_empty() => self.next_member()?,
                Ok(length) => return Ok(length),
                Err(error) => return Err(named("gzip", error)),
            }
        }
        Ok(0)
    }
}

struct Zstd<'a, R: BufRead> {
    decoder: zstd::stream::read::Decoder<'a, R>,
    window_log: u32,
}

impl<R: BufRead> Read for Zstd<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer).map_err(|error| match error.kind() {
            // The decoder reports what libzstd says as "other".
            io::ErrorKind::Other if error.to_string().contains("too much memory") => {
                let most = (1u64 << self.window_log) >> 20;
                let text =
                    format!("zstd: {error}: it has a window of more than {most} MiB, pack it again with a smaller one");
                io::Error::new(io::ErrorKind::InvalidData, text)
            }
            io::ErrorKind::Other => io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {error}")),
            _ => named("zstd", error),
        })
    }
}

struct Xz<R: Read>(lzma_rust2::XzReader<R>);

impl<R: Read> Read for Xz<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::OutOfMemory => {
                let text = "xz: it has a dictionary of more than 64 MiB, pack it again with a smaller one";
                io::Error::new(io::ErrorKind::InvalidData, text)
            }
            // Filters that it does not have.
            io::ErrorKind::Unsupported => io::Error::new(io::ErrorKind::InvalidData, format!("xz: {error}")),
            _ => named("xz", error),
        })
    }
}

struct Bzip2<R: BufRead>(bzip2::bufread::MultiBzDecoder<R>);

impl<R: BufRead> Read for Bzip2<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(|error| named("bzip2", error))
    }
}

/// Names the format in errors that the decoder itself made; those of the stream beneath keep their own text.
fn named(format: &str, error: io::Error) -> io::Error {
    match error.kind() {
        kind @ (io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput) => {
            io::Error::new(kind, format!("{format}: {error}"))
        }
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), format!("{format}: the stream is cut off")),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use brig_tests::image::piped;
    use std::io::Write;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn unpack(data: &[u8]) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        let mut reader = decompress(data)?;
        reader.read_to_end(&mut all).map_err(|error| Error::input("unpack", &error))?;
        Ok(all)
    }

    #[test]
    fn each_packing_is_recognised() {
        let zstd = zstd::encode_all(&b"hello"[..], 1).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9], &zstd[..]].concat();
        for packed in [b"hello".to_vec(), gzip(b"hello"), zstd, skippable] {
            assert_eq!(unpack(&packed).unwrap(), b"hello");
        }
        assert_eq!(unpack(b"").unwrap(), b"");
        assert_eq!(unpack(b"x").unwrap(), b"x");
        assert!(unpack(b"\xfd7zXZ\0...").is_err());
        assert_eq!(unpack(b"BZh9 is the name of a file").unwrap(), b"BZh9 is the name of a file");
    }

    #[test]
    fn large_windows_are_seen_beforehand() {
        let packed = |log: u32, pledged: Option<u64>, length: usize| {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(log).unwrap();
            encoder.set_pledged_src_size(pledged).unwrap();
            encoder.write_all(&vec![7; length]).unwrap();
            encoder.finish().unwrap()
        };
        for (log, pledged, length, large) in [
            (23, None, 1000, false),
            (24, None, 1000, true),
            (27, None, 1000, true),
            (27, Some(1000), 1000, false),
            (27, Some(20 << 20), 20 << 20, true),
            (10, None, 1000, false),
        ] {
            let packed = packed(log, pledged, length);
            assert_eq!(needs_large_window(&packed[..ZSTD_HEAD.min(packed.len())]), large, "{log} {pledged:?}");
            let mut all = Vec::new();
            let usual = decompress_within(&packed[..], None, ZSTD_USUAL_LOG).unwrap().read_to_end(&mut all);
            assert_eq!(usual.is_err(), large, "the decoder agrees: {log} {pledged:?}");
        }
        assert!(!needs_large_window(&gzip(b"x")) && !needs_large_window(b"") && needs_large_window(&ZSTD_MAGIC));
    }

    #[test]
    fn members_and_frames_follow_each_other() {
        let members = [gzip(b"a"), gzip(b""), gzip(b"b")].concat();
        assert_eq!(unpack(&members).unwrap(), b"ab");
        assert_eq!(unpack(&[gzip(b"a"), vec![0; 1000]].concat()).unwrap(), b"a");
        let frames = [zstd::encode_all(&b"a"[..], 1).unwrap(), zstd::encode_all(&b"b"[..], 1).unwrap()].concat();
        assert_eq!(unpack(&frames).unwrap(), b"ab");
        let many = gzip(b"").repeat(20_000);
        assert_eq!(unpack(&many).unwrap(), b"");
    }

    #[test]
    fn damage_is_invalid() {
        let whole = gzip(&vec![7; 100_000]);
        for cut in 9..whole.len() {
            assert_eq!(unpack(&whole[..cut]).unwrap_err().kind, crate::ErrorKind::Invalid, "cut at {cut}");
        }
        let mut wrong_sum = whole.clone();
        let at = wrong_sum.len() - 5;
        wrong_sum[at] ^= 1;
        assert_eq!(unpack(&wrong_sum).unwrap_err().kind, crate::ErrorKind::Invalid);
        let garbage = [&whole[..], b"garbage"].concat();
        assert_eq!(unpack(&garbage).unwrap_err().kind, crate::ErrorKind::Invalid);
        let whole = zstd::encode_all(&vec![7; 100_000][..], 1).unwrap();
        for cut in 5..whole.len() {
            assert_eq!(unpack(&whole[..cut]).unwrap_err().kind, crate::ErrorKind::Invalid, "cut at {cut}");
        }
        for whole in [piped("xz", &["-c"], &vec![7; 100_000]), bzip2(&vec![7; 100_000])] {
            for cut in PACKING_HEAD..whole.len() {
                assert_eq!(unpack(&whole[..cut]).unwrap_err().kind, crate::ErrorKind::Invalid, "cut at {cut}");
            }
            let garbage = [&whole[..], b"garbage"].concat();
            assert_eq!(unpack(&garbage).unwrap_err().kind, crate::ErrorKind::Invalid);
        }
    }

    fn bzip2(data: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn xz_and_bzip2_as_their_own_programs_write_them() {
        // What a fresh start of a sequence is to a decoder: neither all the same nor noise.
        let data: Vec<u8> = (0..400_000u32).flat_map(|n| (n / 7).wrapping_mul(n).to_le_bytes()).collect();
        let xz = |arguments: &[&str], data: &[u8]| piped("xz", &[&["-c", "-T1"], arguments].concat(), data);
        for packed in [
            xz(&["-1"], &data),
            xz(&["-9e", "--check=sha256"], &data),
            xz(&["-6", "--check=crc32", "--block-size=100000"], &data),
            xz(&["--x86", "--lzma2=preset=1"], &data),
            [xz(&[], &data[..1000]), vec![0; 8], xz(&[], &data[1000..])].concat(),
            bzip2(&data),
            [bzip2(&data[..1000]), bzip2(&data[1000..])].concat(),
        ] {
            assert!(unpack(&packed).unwrap() == data);
        }
        assert_eq!(unpack(&xz(&[], b"")).unwrap(), b"");
        assert_eq!(unpack(&bzip2(b"")).unwrap(), b"");
    }

    #[test]
    fn what_takes_too_much_memory_is_refused_with_advice() {
        let xz = piped("xz", &["-c", "--lzma2=dict=128MiB"], b"small");
        let error = unpack(&xz).unwrap_err();
        assert_eq!(error.kind, crate::ErrorKind::Invalid);
        assert!(error.message.contains("more than 64 MiB, pack it again"), "{error}");
        assert_eq!(unpack(&piped("xz", &["-c", "--lzma2=dict=64MiB"], b"small")).unwrap(), b"small");
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(24).unwrap();
        encoder.write_all(&vec![7; 1000]).unwrap();
        let zstd = encoder.finish().unwrap();
        let mut all = Vec::new();
        let error = decompress_within(&zstd[..], None, 23).unwrap().read_to_end(&mut all).unwrap_err();
        assert!(error.to_string().contains("more than 8 MiB, pack it again"), "{error}");
    }
}

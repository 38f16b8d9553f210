//! The 8-byte frames that carry stdout and stderr over one connection: `{stream, 0, 0, 0, length big endian}`.
//! Owns encoding and incremental decoding; must not read or write anything itself.

/// Which stream a frame belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard input; only ever echoed.
    Stdin,
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// An error of the daemon, sent instead of a status that can no longer be sent.
    SystemError,
}

impl Stream {
    fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Stdin),
            1 => Some(Self::Stdout),
            2 => Some(Self::Stderr),
            3 => Some(Self::SystemError),
            _ => None,
        }
    }
}

/// Length of a frame's header in bytes.
pub const HEADER: usize = 8;

/// The largest payload that [`Decoder`] accepts, in bytes.
pub const MAX_PAYLOAD: usize = 16 << 20;

/// The header of a frame with `length` bytes of payload.
#[must_use]
pub fn header(stream: Stream, length: u32) -> [u8; HEADER] {
    let [a, b, c, d] = length.to_be_bytes();
    [stream as u8, 0, 0, 0, a, b, c, d]
}

/// Appends one whole frame to `out`; a payload beyond 4 GiB is split.
pub fn encode(stream: Stream, payload: &[u8], out: &mut Vec<u8>) {
    for chunk in payload.chunks(u32::MAX as usize) {
        let length = u32::try_from(chunk.len()).expect("chunks are at most u32::MAX long");
        out.extend_from_slice(&header(stream, length));
        out.extend_from_slice(chunk);
    }
}

/// Takes bytes as they arrive and gives whole pieces of payload.
#[derive(Debug, Default)]
pub struct Decoder {
    header: Vec<u8>,
    current: Option<(Stream, usize)>,
}

impl Decoder {
    /// A decoder at the start of a frame.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Decodes `bytes`, handing each piece of payload to `sink` without copying it. Pieces may be parts of a frame.
    ///
    /// # Errors
    /// A header that names an unknown stream or more than [`MAX_PAYLOAD`] bytes.
    pub fn feed(&mut self, mut bytes: &[u8], mut sink: impl FnMut(Stream, &[u8])) -> Result<(), String> {
        while !bytes.is_empty() {
            if let Some((stream, left)) = self.current {
                let take = left.min(bytes.len());
                sink(stream, &bytes[..take]);
                bytes = &bytes[take..];
                self.current = (left > take).then_some((stream, left - take));
                continue;
            }
            let take = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..take]);
            bytes = &bytes[take..];
            if self.header.len() == HEADER {
                self.current = parse_header(&self.header)?;
                self.header.clear();
            }
        }
        Ok(())
    }

    /// Whether the bytes so far end at the end of a frame.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.header.is_empty() && self.current.is_none()
    }
}

fn parse_header(header: &[u8]) -> Result<Option<(Stream, usize)>, String> {
    let stream = Stream::from_byte(header[0]).ok_or_else(|| format!("Unrecognized input header: {}", header[0]))?;
    let length = header[4..8].iter().fold(0usize, |sum, byte| sum << 8 | usize::from(*byte));
    if length > MAX_PAYLOAD {
        return Err(format!("frame of {length} bytes is larger than the {MAX_PAYLOAD} that are accepted"));
    }
    Ok((length > 0).then_some((stream, length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[&[u8]]) -> Result<Vec<(Stream, Vec<u8>)>, String> {
        let mut decoder = Decoder::new();
        let mut pieces: Vec<(Stream, Vec<u8>)> = Vec::new();
        for chunk in chunks {
            decoder.feed(chunk, |stream, bytes| match pieces.last_mut() {
                Some((last, data)) if *last == stream => data.extend_from_slice(bytes),
                _ => pieces.push((stream, bytes.to_vec())),
            })?;
        }
        assert!(decoder.is_complete());
        Ok(pieces)
    }

    #[test]
    fn what_is_encoded_is_decoded_at_any_split() {
        let mut wire = Vec::new();
        encode(Stream::Stdout, b"hello", &mut wire);
        encode(Stream::Stderr, b"", &mut wire);
        encode(Stream::Stderr, b"world", &mut wire);
        assert_eq!(&wire[..8], &[1, 0, 0, 0, 0, 0, 0, 5]);
        for split in 0..wire.len() {
            let (a, b) = wire.split_at(split);
            let pieces = decode(&[a, b]).unwrap();
            assert_eq!(pieces, vec![(Stream::Stdout, b"hello".to_vec()), (Stream::Stderr, b"world".to_vec())]);
        }
    }

    #[test]
    fn garbage_is_refused() {
        assert_eq!(decode(&[b"hello world"]).unwrap_err(), "Unrecognized input header: 104");
        assert!(decode(&[&[1, 0, 0, 0, 0xff, 0, 0, 0]]).is_err());
    }
}

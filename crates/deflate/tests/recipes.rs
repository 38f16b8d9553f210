//! Streams of all kinds, made again from their recipes; and recipes and streams that are none.

#![allow(clippy::unwrap_used, reason = "tests end at the first surprise")]

use std::io::{Read, Write};

use brig_deflate::{Analysed, Error, Form, analyse, compress, rebuild};
use brig_tests::image::{self, gzip_program};
use flate2::write::GzEncoder;
use flate2::{Compress, Compression, FlushCompress, GzBuilder};
use proptest::prelude::*;

/// Text with repetitions near and far, such as archives have.
fn text(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    };
    let mut text = Vec::with_capacity(length);
    while text.len() < length {
        let kind = next() % 10;
        let count = 1 + next() as usize % 300;
        match kind {
            0 => text.resize(text.len() + count * 4, 0),
            1..=4 => text.extend((0..count).map(|_| b"etaoin shrdlu\n"[next() as usize % 14])),
            5 => text.extend((0..count).map(|_| next() as u8)),
            _ if text.len() > 10 => {
                let from = next() as usize % text.len();
                let end = text.len().min(from + count);
                text.extend_from_within(from..end);
            }
            _ => text.push(kind as u8),
        }
    }
    text.truncate(length);
    text
}

fn gzip(text: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

/// A bare deflate stream in gzip's clothes, its checksum wrong: nobody here looks at it.
fn dressed(deflated: &[u8]) -> Vec<u8> {
    [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255][..], deflated, &[1, 2, 3, 4, 5, 6, 7, 8]].concat()
}

fn recipe(stream: &[u8]) -> Result<(Analysed, Vec<u8>), Error> {
    let mut recipe = Vec::new();
    let done = analyse(stream, &mut recipe, &mut || true)?;
    assert_eq!(done.recipe_bytes, recipe.len() as u64);
    Ok((done, recipe))
}

/// The stream is made again on one thread and on several; how long the recipe is.
fn check(stream: &[u8], text: &[u8]) -> usize {
    let (done, recipe) = recipe(stream).unwrap();
    assert_eq!((done.stream_bytes, done.text_bytes), (stream.len() as u64, text.len() as u64));
    for threads in [1, 3] {
        let mut made = Vec::new();
        rebuild(text, &recipe[..], threads).unwrap().read_to_end(&mut made).unwrap();
        assert!(made == stream, "{threads} threads: {} bytes in place of {}", made.len(), stream.len());
    }
    recipe.len()
}

#[test]
fn every_level_of_an_encoder() {
    let text = text(1, 1_500_000);
    for level in 0..=9 {
        check(&gzip(&text, level), &text);
    }
}

#[test]
fn nothing_and_little() {
    for length in [0, 1, 2, 3, 4, 5, 12, 13, 14, 100, 258, 65_535, 65_536] {
        let text = text(7, length);
        check(&gzip(&text, 6), &text);
        check(&gzip(&text, 0), &text);
    }
    let zeros = vec![0; 9 << 20];
    check(&gzip(&zeros, 6), &zeros);
    let noise: Vec<u8> = {
        let mut state = 88_172_645_463_325_252u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..3_000_000).map(|_| next()).collect()
    };
    check(&gzip(&noise, 6), &noise);
}

/// A recipe of the time before rows of literals were told.
#[test]
fn recipes_of_the_first_kind() {
    const RECIPE: &str = "62726967646566311000789b000000000000000000004900000000236378b0818000007dff915b53fffffffeb39f61d7b5\
        ff2777f685aaeeffc655f0cb401be54b80c09dd5fbfb6c212691b58f30431c02ffaf2b083cba9b44cb65dbc8a1f17a67a38000";
    let bytes = RECIPE.as_bytes().chunks(2);
    let old: Vec<u8> = bytes.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect();
    let (noise, row) = (image::noise(20_000), b"a row of words, again and again; ".repeat(300));
    let text = [&noise[..9000], &row, &noise[9000..], &row].concat();
    let stream = [&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3][..], &gzip_program(&text, 6)[10..]].concat();
    let mut made = Vec::new();
    rebuild(&text[..], &old[..], 1).unwrap().read_to_end(&mut made).unwrap();
    assert!(made == stream);
    // What has no matches for long is no work, and no longer a recipe.
    let (_, new) = recipe(&stream).unwrap();
    assert!(new.len() <= old.len() + 10 && new != old, "{}", new.len());
    check(&stream, &text);
}

#[test]
fn what_a_header_may_have_and_what_may_follow() {
    let text = text(3, 50_000);
    let full =
        GzBuilder::new().mtime(12_345).operating_system(3).filename("layer.tar").comment("a comment").extra("extra");
    let mut encoder = full.write(Vec::new(), Compression::best());
    encoder.write_all(&text).unwrap();
    let member = encoder.finish().unwrap();
    check(&member, &text);
    check(&[&member[..], &[0; 10_000]].concat(), &text);
    check(&[&member[..], &[0; 3], b"garbage"].concat(), &text);
    let many = [gzip(b"", 6), member, gzip(&text, 1)].concat();
    check(&many, &[&text[..], &text].concat());
    check(&gzip(&text[..300], 6).repeat(5000), &text[..300].repeat(5000));
}

#[test]
fn flushed_streams_and_fixed_codes() {
    let text = text(5, 400_000);
    for flush in [FlushCompress::Sync, FlushCompress::Full, FlushCompress::Partial] {
        let mut encoder = Compress::new(Compression::default(), false);
        let mut stream = Vec::with_capacity(1 << 20);
        for piece in text.chunks(997) {
            let before = encoder.total_in() as usize;
            encoder.compress_vec(piece, &mut stream, flush).unwrap();
            assert_eq!(encoder.total_in() as usize - before, piece.len());
        }
        encoder.compress_vec(&[], &mut stream, FlushCompress::Finish).unwrap();
        check(&dressed(&stream), &text);
    }
}

#[test]
fn known_encoders_cost_next_to_nothing() {
    let text = text(9, 3_000_000);
    for level in [1, 6, 9] {
        let stream = gzip_program(&text, level);
        let length = check(&stream, &text);
        assert!(length * 200 < stream.len(), "level {level}: {length} of {}", stream.len());
    }
}

fn compressed(text: &[u8], form: Form, threads: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    compress(text, form, threads).read_to_end(&mut bytes).unwrap();
    bytes
}

#[test]
fn our_own_streams_are_the_same_on_any_number_of_threads() {
    for length in [0, 1, 100, 65_535, 1 << 20, (1 << 20) + 5, 4 << 20, 9_000_000] {
        let text = text(11, length);
        for form in [Form::Gzip, Form::Zstd] {
            let stream = compressed(&text, form, 1);
            assert!(stream == compressed(&text, form, 4), "{form:?} of {length} bytes");
            let mut plain = Vec::new();
            match form {
                Form::Gzip => flate2::read::GzDecoder::new(&stream[..]).read_to_end(&mut plain).unwrap(),
                Form::Zstd => zstd::stream::read::Decoder::new(&stream[..]).unwrap().read_to_end(&mut plain).unwrap(),
            };
            assert!(plain == text, "{form:?} of {length} bytes");
            let mut made = Vec::new();
            rebuild(&text[..], &form.recipe()[..], 2).unwrap().read_to_end(&mut made).unwrap();
            assert!(made == stream);
            // Whoever pulls it elsewhere finds out by itself.
            if form == Form::Gzip && length > 100_000 {
                let recipe = check(&stream, &text);
                assert!(recipe * 200 < stream.len(), "{recipe} of {} for {length}", stream.len());
            }
        }
    }
}

/// Digests depend on these bytes: where an encoder has to change, the old one stays for the recipes that name it.
#[test]
fn our_own_streams_never_change() {
    let text = text(11, 5_000_000);
    for (form, length, sum) in [(Form::Gzip, 1_968_367, 3_913_237_612), (Form::Zstd, 1_591_880, 3_710_949_415)] {
        let stream = compressed(&text, form, 2);
        let mut crc = flate2::Crc::new();
        crc.update(&stream);
        assert_eq!((stream.len(), crc.sum()), (length, sum), "{form:?}");
    }
}

#[test]
fn what_is_no_stream_is_refused() {
    let whole = gzip(&text(2, 20_000), 6);
    for cut in [0, 1, 5, 10, 11, 50, whole.len() - 9, whole.len() - 1] {
        assert!(matches!(recipe(&whole[..cut]), Err(Error::Unsupported(_))), "cut at {cut}");
    }
    assert!(recipe(b"BZh9").is_err());
    let mut asked = 0;
    let stopped = analyse(&whole[..], Vec::new(), &mut || {
        asked += 1;
        false
    });
    assert!(matches!(stopped, Err(Error::Stopped)) && asked == 1);
}

#[test]
fn another_text_is_noticed() {
    let text = text(4, 100_000);
    let (_, recipe) = recipe(&gzip(&text, 6)).unwrap();
    let mut longer = text.clone();
    longer.push(0);
    for other in [&text[..99_999], &longer] {
        assert!(rebuild(other, &recipe[..], 1).unwrap().read_to_end(&mut Vec::new()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Damaged streams are described exactly or refused.
    #[test]
    fn damaged_streams(seed: u32, level in 0u32..10, places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let mut stream = gzip(&text(seed, 30_000), level);
        for (place, value) in places {
            let at = place.index(stream.len());
            stream[at] = value;
        }
        if let Ok((_, recipe)) = recipe(&stream) {
            // What was read must come out; the text is found by whatever inflates it.
            let mut text = Vec::new();
            flate2::bufread::MultiGzDecoder::new(&stream[..]).read_to_end(&mut text).ok();
            let mut made = Vec::new();
            if rebuild(&text[..], &recipe[..], 1).unwrap().read_to_end(&mut made).is_ok() {
                prop_assert!(made == stream);
            }
        }
    }

    /// Damaged recipes give wrong bytes or errors, within bounds.
    #[test]
    fn damaged_recipes(seed: u32, level in 1u32..10, places in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5)) {
        let text = text(seed, 20_000);
        let (_, mut recipe) = recipe(&gzip(&text, level)).unwrap();
        for (place, value) in places {
            let at = place.index(recipe.len());
            recipe[at] = value;
        }
        let mut made = Vec::new();
        if let Ok(rebuilt) = rebuild(&text[..], &recipe[..], 1) {
            rebuilt.take(64 << 20).read_to_end(&mut made).ok();
        }
    }

    /// Bits that nobody made on purpose.
    #[test]
    fn noise(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        recipe(&dressed(&bytes)).ok();
        recipe(&bytes).ok();
    }
}

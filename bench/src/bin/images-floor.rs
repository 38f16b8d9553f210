//! What a pull cannot do without, each alone: hashing the compressed layers and the tars in them, inflating the layers,
//! and writing the files; and then all of it for one layer after the other. Layers are worked on by as many threads as there are
//! processors. Prints five numbers of milliseconds: hashing, inflating, writing, flushing to the disk what was written, and all of
//! it together, flushing included. Must not do anything beside.

use flate2::read::MultiGzDecoder;
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [folder, blobs @ ..] = &arguments[..] else {
        eprintln!("usage: images-floor FOLDER GZIPPED-LAYER...");
        return ExitCode::from(2);
    };
    match measure(folder, blobs) {
        Ok(times) => {
            println!("{}", times.map(|time| format!("{time:.3}")).join(" "));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("images-floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(folder: &Path, blobs: &[PathBuf]) -> Result<[f64; 5], Failure> {
    let blobs: Vec<Vec<u8>> = blobs.iter().map(std::fs::read).collect::<Result<_, _>>()?;
    let (tars, _) = parallel(&blobs, |_, blob| inflate(blob))?;
    // The second time the memory is there: what counts is the inflating, into a buffer that stays.
    let ((), inflating) = parallel(&blobs, |_, blob| drain(blob)).map(|(_, time)| ((), time))?;
    let streams: Vec<&[u8]> = blobs.iter().chain(&tars).map(Vec::as_slice).collect();
    let (_, hashing) = parallel(&streams, |_, stream| Ok(Sha256::digest(stream)))?;
    std::fs::create_dir_all(folder)?;
    let (_, writing) = parallel(&tars, |at, tar| unpack(&folder.join(at.to_string()), tar))?;
    let flushing = flush(folder)?;
    let again = folder.join("together");
    std::fs::create_dir(&again)?;
    let all = |at: usize, tar: &Vec<u8>| {
        drain(&blobs[at])?;
        std::hint::black_box((Sha256::digest(&blobs[at]), Sha256::digest(tar)));
        unpack(&again.join(at.to_string()), tar)
    };
    let (_, together) = parallel(&tars, all)?;
    let together = together + flush(&again)?;
    // What it takes of the disk is counted once.
    std::fs::remove_dir_all(&again)?;
    Ok([hashing, inflating, writing, flushing, together])
}

/// Milliseconds until all that was written is on the disk.
fn flush(folder: &Path) -> Result<f64, Failure> {
    let begun = Instant::now();
    rustix::fs::syncfs(std::fs::File::open(folder)?)?;
    Ok(begun.elapsed().as_secs_f64() * 1_000.0)
}

/// Does it for each input, the largest first; the results in the inputs' order, and the milliseconds.
fn parallel<I, O>(inputs: &[I], work: impl Fn(usize, &I) -> Result<O, Failure> + Sync) -> Result<(Vec<O>, f64), Failure>
where
    I: AsRef<[u8]> + Sync,
    O: Send,
{
    let mut order: Vec<usize> = (0..inputs.len()).collect();
    order.sort_by_key(|at| inputs[*at].as_ref().len());
    let (left, done) = (Mutex::new(order), Mutex::new(Vec::new()));
    let begun = Instant::now();
    let worker = || {
        while let Some(at) = left.lock().ok().and_then(|mut left| left.pop()) {
            let result = work(at, &inputs[at]);
            if let Ok(mut done) = done.lock() {
                done.push((at, result));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(worker);
        }
    });
    let time = begun.elapsed().as_secs_f64() * 1_000.0;
    let mut done = done.into_inner().map_err(|_| "a worker panicked")?;
    done.sort_by_key(|(at, _)| *at);
    let results = done.into_iter().map(|(_, result)| result).collect::<Result<_, _>>()?;
    Ok((results, time))
}

fn inflate(blob: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut tar = Vec::new();
    MultiGzDecoder::new(blob).read_to_end(&mut tar)?;
    Ok(tar)
}

fn drain(blob: &[u8]) -> Result<(), Failure> {
    let (mut buffer, mut decoder) = (vec![0; 256 * 1024], MultiGzDecoder::new(blob));
    while decoder.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Directories, files, links, with modes and times, and nothing checked: the tar is our own.
fn unpack(root: &Path, tar: &[u8]) -> Result<(), Failure> {
    std::fs::create_dir_all(root)?;
    for entry in tar::Archive::new(tar).entries()? {
        let mut entry = entry?;
        let path = root.join(std::ffi::OsStr::from_bytes(&entry.path_bytes()));
        let target = entry.link_name()?.map(std::borrow::Cow::into_owned);
        match (entry.header().entry_type(), target) {
            (tar::EntryType::Directory, _) => std::fs::create_dir_all(&path)?,
            (tar::EntryType::Symlink, Some(target)) => std::os::unix::fs::symlink(target, parent(&path)?)?,
            (tar::EntryType::Link, Some(target)) => std::fs::hard_link(root.join(target), parent(&path)?)?,
            (tar::EntryType::Regular, _) => file(parent(&path)?, &mut entry, tar)?,
            _ => {}
        }
    }
    Ok(())
}

fn file(path: &Path, entry: &mut tar::Entry<'_, &[u8]>, tar: &[u8]) -> Result<(), Failure> {
    let at = usize::try_from(entry.raw_file_position())?;
    let size = usize::try_from(entry.size())?;
    let mut file = std::fs::File::create(path)?;
    file.write_all(tar.get(at..at + size).ok_or("a file ends outside of its tar")?)?;
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(entry.header().mode()?))?;
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(entry.header().mtime()?);
    file.set_times(std::fs::FileTimes::new().set_modified(time))?;
    Ok(())
}

/// The same path, once the directory that it is in is there.
fn parent(path: &Path) -> Result<&Path, Failure> {
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        std::fs::create_dir_all(parent)?;
    }
    Ok(path)
}

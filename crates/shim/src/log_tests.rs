//! The log on a real file system. Owns: expected files. Must not: start anything.

use super::*;

fn config(path: &Path) -> LogConfig {
    LogConfig { driver: LogDriver::JsonFile, path: path.to_owned(), max_files: 1, ..LogConfig::default() }
}

fn entries(path: &Path) -> Vec<(String, String)> {
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            (value["log"].as_str().unwrap().to_owned(), value["time"].as_str().unwrap().to_owned())
        })
        .collect()
}

fn texts(path: &Path) -> Vec<String> {
    entries(path).into_iter().map(|(text, _)| text).collect()
}

#[test]
fn lines_are_joined_over_reads_and_channels_do_not_mix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&config(&path)).unwrap();
    log.write(Channel::Stdout, b"one\ntw");
    log.write(Channel::Stderr, b"err\n\n");
    log.write(Channel::Stdout, b"o\nthree");
    assert_eq!(texts(&path), ["one\n", "err\n", "\n", "two\n"]);
    log.finish(Channel::Stdout);
    log.finish(Channel::Stderr);
    assert_eq!(texts(&path).last().unwrap(), "three");
}

#[test]
fn long_lines_become_pieces_of_16_kib_with_one_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&config(&path)).unwrap();
    let mut line = vec![b'x'; 2 * PIECE];
    line.push(b'\n');
    for part in line.chunks(5000) {
        log.write(Channel::Stdout, part);
    }
    let entries = entries(&path);
    let lengths: Vec<_> = entries.iter().map(|(text, _)| text.len()).collect();
    assert_eq!(lengths, [PIECE, PIECE, 1]);
    assert_eq!(entries[0].1, entries[2].1);
    log.write(Channel::Stdout, b"next\n");
    assert_ne!(self::entries(&path)[3].1, entries[0].1);
}

#[test]
fn pieces_do_not_cut_characters() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&config(&path)).unwrap();
    let line = format!("x{}\n", "😀".repeat(PIECE / 2));
    log.write(Channel::Stdout, line.as_bytes());
    assert_eq!(texts(&path).concat(), line);
    assert_eq!(whole_characters(b"\x80\x80\x80\x80"), 4);
    assert_eq!(whole_characters("aé".as_bytes()), 3);
    assert_eq!(whole_characters(b"ab\xf0\x9f\x98"), 2);
}

#[test]
fn rotation_keeps_the_newest_files_below_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&LogConfig { max_size_bytes: Some(1000), max_files: 3, ..config(&path) }).unwrap();
    let mut all = Vec::new();
    for number in 0..100 {
        all.push(format!("line {number}\n"));
    }
    log.write(Channel::Stdout, all.concat().as_bytes());
    let mut kept = Vec::new();
    for name in ["log.2", "log.1", "log"] {
        let file = dir.path().join(name);
        let size = std::fs::metadata(&file).unwrap().len();
        assert!(size <= 1000 && (name == "log" || size > 900), "{name}: {size}");
        kept.extend(texts(&file));
    }
    assert!(kept.len() > 20);
    assert_eq!(kept, all[all.len() - kept.len()..]);
    assert!(!dir.path().join("log.3").exists());
}

#[test]
fn one_file_is_emptied_and_an_oversized_line_still_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&LogConfig { max_size_bytes: Some(100), max_files: 0, ..config(&path) }).unwrap();
    let long = format!("{}\n", "y".repeat(500));
    log.write(Channel::Stdout, format!("a\n{long}b\n{long}").as_bytes());
    assert_eq!(texts(&path), [long]);
}

#[test]
fn a_torn_line_is_removed_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    Log::open(&config(&path)).unwrap().write(Channel::Stdout, b"whole\n");
    let mut torn = std::fs::read(&path).unwrap();
    torn.extend_from_slice(format!("{{\"log\":\"{}", "t".repeat(9000)).as_bytes());
    std::fs::write(&path, torn).unwrap();
    Log::open(&config(&path)).unwrap().write(Channel::Stdout, b"more\n");
    assert_eq!(texts(&path), ["whole\n", "more\n"]);
}

#[test]
fn a_full_disk_loses_whole_lines_and_counts_them() {
    let dir = tempfile::tempdir().unwrap();
    rustix::mount::mount("brig-log-test", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=16k"))
        .unwrap();
    let path = dir.path().join("log");
    let mut log = Log::open(&config(&path)).unwrap();
    let line = format!("{}\n", "z".repeat(100));
    log.write(Channel::Stdout, line.repeat(300).as_bytes());
    let kept = texts(&path).len() as u64;
    let lost = log.lost();
    std::fs::write(&path, "").unwrap();
    log.file.as_mut().unwrap().size = 0;
    log.write(Channel::Stdout, b"room again\n");
    let after = texts(&path);
    drop(log);
    // A child that a test beside this one is just starting may have the log open for another moment.
    rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    assert!(kept > 50 && lost > 50, "{kept} kept, {lost} lost");
    assert_eq!(kept + lost, 300);
    assert_eq!(after, ["room again\n"]);
}

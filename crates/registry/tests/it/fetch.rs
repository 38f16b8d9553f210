//! Files from a URL, by servers that break off: what comes is the file, or an error.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};

use brig_registry::{Client, Error, ErrorKind};

use crate::rig::quick;

/// What was asked: the first byte of the range and the validator that it depends on.
type Asked = (Option<usize>, Option<String>);

/// A server of one file.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// How the requests are answered.
#[derive(Clone)]
struct Manner {
    /// What is served from each request on, and its headers. The last one stays.
    files: Vec<(Vec<u8>, &'static str)>,
    ranges: bool,
    /// How many bytes of each body go out before the connection ends. The last one stays.
    cuts: Vec<usize>,
    /// Statuses in front, one for each of the first requests.
    refusals: Vec<&'static str>,
}

const MORE: usize = usize::MAX;

impl Server {
    fn new(manner: Manner) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/root.tar", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let log = asked.clone();
        std::thread::spawn(move || {
            for (nth, stream) in listener.incoming().flatten().enumerate() {
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines.map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                let field = |name: &str| {
                    let mut fields = head.iter().filter_map(|line| line.split_once(": "));
                    fields.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
                };
                let from =
                    field("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
                log.lock().unwrap().push((from, field("if-range")));
                // A client that has heard enough goes.
                (&stream).write_all(&manner.answer(nth, from, field("if-range").as_deref())).ok();
            }
        });
        Server { url, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn at<T: Clone>(list: &[T], nth: usize) -> T {
    list[nth.min(list.len() - 1)].clone()
}

impl Manner {
    fn answer(&self, nth: usize, from: Option<usize>, if_range: Option<&str>) -> Vec<u8> {
        if let Some(status) = self.refusals.get(nth) {
            return format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").into_bytes();
        }
        let nth = nth - self.refusals.len();
        let (file, headers) = at(&self.files, nth);
        let same = if_range.is_none_or(|validator| headers.contains(validator));
        let (status, body) = match from.filter(|_| self.ranges && same) {
            Some(from) => {
                let range = format!("Content-Range: bytes {from}-{}/{}\r\n", file.len() - 1, file.len());
                (format!("206 Partial Content\r\n{range}"), &file[from..])
            }
            None => ("200 OK\r\n".to_owned(), &file[..]),
        };
        let head = format!("HTTP/1.1 {status}Content-Length: {}\r\nConnection: close\r\n{headers}\r\n", body.len());
        [head.as_bytes(), &body[..body.len().min(at(&self.cuts, nth))]].concat()
    }
}

fn file(seed: u8) -> Vec<u8> {
    (0..300_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect()
}

async fn fetched(url: &str) -> Result<Vec<u8>, Error> {
    let client = Client::new(quick()).unwrap().settled();
    let mut fetch = client.fetch(url).await?;
    let mut all = Vec::new();
    while let Some(piece) = fetch.chunk().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

const TAG: &str = "ETag: \"one\"\r\n";
const DATED: &str = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nDate: Mon, 07 Nov 1994 08:49:37 GMT\r\n";

#[tokio::test]
async fn goes_on_where_it_was_cut() {
    for (headers, validator) in [(TAG, "\"one\""), (DATED, "Sun, 06 Nov 1994 08:49:37 GMT")] {
        let cuts = vec![100_000, 50_000, 0, 7, MORE];
        let files = vec![(file(1), headers)];
        let server = Server::new(Manner { files, ranges: true, cuts, refusals: Vec::new() });
        assert!(fetched(&server.url).await.unwrap() == file(1));
        let again = |from| (Some(from), Some(validator.to_owned()));
        assert_eq!(server.asked(), [(None, None), again(100_000), again(150_000), again(150_000), again(150_007)]);
    }
}

/// Without a validator, with one that proves nothing, or without ranges what came before is compared.
#[tokio::test]
async fn without_ranges_it_is_fetched_again_and_compared() {
    let just_now = "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
    for (headers, ranges) in [("", true), ("ETag: W/\"weak\"\r\n", true), (just_now, true), (TAG, false)] {
        let files = vec![(file(1), headers)];
        let cuts = vec![100_000, 99_000, 250_000, MORE];
        let server = Server::new(Manner { files, ranges, cuts, refusals: Vec::new() });
        assert!(fetched(&server.url).await.unwrap() == file(1), "{headers}");
        assert_eq!(server.asked().len(), 4);
        assert!(ranges || server.asked()[1].0 == Some(100_000));
    }
}

#[tokio::test]
async fn another_file_is_not_joined_to_it() {
    for other in [(file(2), "ETag: \"two\"\r\n"), (file(2), TAG), (file(1)[..200_000].to_vec(), "ETag: \"two\"\r\n")] {
        let files = vec![(file(1), TAG), other];
        let server = Server::new(Manner { files, ranges: false, cuts: vec![100_000, MORE], refusals: Vec::new() });
        let error = fetched(&server.url).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Mismatch, "{error}");
        assert!(error.message.contains("became another one"), "{error}");
    }
    // A server that sends a part of another file although the range was asked for of this one.
    let files = vec![(file(1), TAG), (file(2), "ETag: \"one\"; \"two\"\r\n")];
    let server = Server::new(Manner { files, ranges: true, cuts: vec![100_000, MORE], refusals: Vec::new() });
    assert_eq!(fetched(&server.url).await.unwrap_err().kind, ErrorKind::Mismatch);
}

#[tokio::test]
async fn refusals_that_pass_are_waited_for() {
    let files = vec![(file(1), TAG)];
    let refusals = vec!["503 Service Unavailable", "429 Too Many Requests\r\nRetry-After: 0"];
    let server = Server::new(Manner { files, ranges: true, cuts: vec![MORE], refusals });
    assert!(fetched(&server.url).await.unwrap() == file(1));
    assert_eq!(server.asked().len(), 3);
}

#[tokio::test]
async fn it_gives_up_in_the_end() {
    let files = vec![(file(1), TAG)];
    let server = Server::new(Manner { files, ranges: true, cuts: vec![100_000, 0], refusals: Vec::new() });
    let error = fetched(&server.url).await.unwrap_err();
    assert!(error.kind == ErrorKind::Network && error.message.contains("/root.tar"), "{error}");
    // Five fruitless tries after the one that brought something.
    assert_eq!(server.asked().len(), 6);
    // What will not pass is not tried again.
    let files = vec![(file(1), TAG)];
    let refusals = vec!["404 Not Found"];
    let server = Server::new(Manner { files, ranges: true, cuts: vec![MORE], refusals });
    assert_eq!(fetched(&server.url).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(server.asked().len(), 1);
}

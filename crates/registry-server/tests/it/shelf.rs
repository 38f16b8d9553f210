//! A registry over images that were not pushed to it: what two pushes at once do to each other's blobs.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use brig_registry_server::{Digest, Settings, Shelf, ShelfError, Taken};

use crate::rig::{MANIFEST, Rig, manifest};

/// How long a push that must not go on is given to go on all the same.
const PATIENCE: Duration = Duration::from_millis(500);

/// Images of which the tests say when they are looked at and when they are made.
struct Images {
    /// What the images' names lead to.
    tops: Arc<Mutex<Vec<Digest>>>,
    /// Told when an image is about to be made under the tag `slow`, which then waits for a word.
    making: Mutex<Sender<()>>,
    go_on: Mutex<Receiver<()>>,
    /// Done once, when somebody looks at what there is.
    look: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Shelf for Images {
    fn repositories(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }

    fn tags(&self, _: &str) -> BTreeSet<String> {
        BTreeSet::new()
    }

    fn tops(&self, _: &str) -> Vec<Digest> {
        let look = self.look.lock().unwrap().take();
        look.into_iter().for_each(|look| look());
        self.tops.lock().unwrap().clone()
    }

    fn meaning(&self, _: &str, _: &str) -> Option<Digest> {
        None
    }

    fn manifest(&self, _: &str, _: &str) -> Result<Option<Digest>, ShelfError> {
        Ok(None)
    }

    fn take(&self, _: &str, _: &Digest, tags: &[String]) -> Result<Taken, ShelfError> {
        if tags.iter().any(|tag| tag == "slow") {
            self.making.lock().unwrap().send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
        Ok(Taken::Image)
    }

    fn untag(&self, _: &str, _: &str) -> Result<bool, ShelfError> {
        Ok(false)
    }

    fn forget(&self, _: &Digest) -> Result<(), ShelfError> {
        Ok(())
    }
}

/// One push has become an image and lets go of the rows of its blobs, while another one has just found one of these rows and is
/// about to rely on it.
#[test]
fn a_push_that_ends_leaves_another_its_blobs() {
    let (making, is_making) = channel();
    let (go_on, may_go_on) = channel();
    let (answered, has_answered) = channel();
    let tops = Arc::new(Mutex::new(Vec::new()));
    let look = move || {
        go_on.send(()).unwrap();
        // Until the first push is through, which it must not be before the second has what it needs.
        has_answered.recv_timeout(PATIENCE).ok();
    };
    let images = Images {
        tops: tops.clone(),
        making: Mutex::new(making),
        go_on: Mutex::new(may_go_on),
        look: Mutex::new(Some(Box::new(look))),
    };
    let rig = Rig::with(Settings { shelf: Some(Box::new(images)), ..Settings::default() });
    let config = |word: &str| rig.push_blob("a", format!("{{\"of\":\"{word}\"}}").as_bytes());
    let shared = rig.push_blob("a", b"shared");
    // Shown by an image that is here, and by nothing else.
    let shown = rig.store.put_blob(b"shown").unwrap().to_string();
    let top = rig.store.put_blob(manifest(&shared, 6, &shown, 5, "").as_bytes()).unwrap();
    tops.lock().unwrap().push(top);
    let slow = manifest(&config("slow"), 13, &shared, 6, "");
    let quick = {
        let one = manifest(&config("quick"), 14, &shared, 6, "");
        let second = format!(
            ",{{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar\",\"digest\":\"{shown}\",\"size\":5}}]}}"
        );
        format!("{}{second}", one.strip_suffix("]}").unwrap())
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let answer = rig.put_manifest("a", "slow", MANIFEST, &slow);
            assert_eq!(answer.status, 201, "{answer:?}");
            answered.send(()).ok();
        });
        is_making.recv().unwrap();
        let answer = rig.put_manifest("a", "quick", MANIFEST, &quick);
        assert_eq!(answer.status, 201, "{answer:?}");
    });
}

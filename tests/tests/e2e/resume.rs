//! Pulls that are cut and whose daemon is killed go on where they were: the wire is the witness.

use brig_tests::image::noise;
use brig_tests::{Image, Layer, TestHost, eventually};
use std::os::unix::fs::MetadataExt;

/// How many bytes of unfinished blobs are on the disk.
fn spooled(host: &TestHost) -> u64 {
    let Ok(entries) = std::fs::read_dir(host.data_root.join("v1/partial")) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
}

#[test]
fn a_pull_goes_on_after_the_daemon_was_killed() {
    let mut host = TestHost::new();
    let registry = host.registry();
    // Large enough to come in several parts at once.
    let layer = Layer::new().file("big", 0o600, noise(40 << 20)).bytes();
    let image = Image::new(vec![layer], serde_json::json!({"Cmd": ["/big"]}));
    registry.push(&image, "app", "v1");
    let (manifest, blobs) = image.distributable();
    let total = (manifest.len() + blobs.iter().map(Vec::len).sum::<usize>()) as u64;
    let large = blobs.iter().map(Vec::len).max().unwrap() as u64;
    for percent in [1, 50, 99] {
        let cut = total * percent / 100;
        let address = format!("127.0.0.1:{}", 5000 + percent);
        let proxy = host.proxy(&address, &registry.address, cut.cast_signed(), false);
        let name = format!("{address}/app:v1");
        let mut pull = host.brig_run(&["pull", &name]).spawn();
        // All that went through of the layer: the rest and the heads of answers are no more than this.
        let expected = cut.saturating_sub(total - large + (32 << 10));
        eventually("what came through is on the disk", || {
            (proxy.cuts() > 0 && spooled(&host) >= expected).then_some(())
        });
        host.kill_daemon();
        pull.wait().unwrap();
        proxy.heal();
        host.start_daemon();
        host.brig(&["pull", &name]).ok();
        let again = proxy.passed().saturating_sub(total);
        assert!(again * 1000 < total * 11, "{again} of {total} bytes came twice after a cut at {percent} %");
        assert_eq!(host.field(&name, "{{.Id}}"), image.id());
        assert_eq!(spooled(&host), 0);
        let peak = host.daemon_memory("VmHWM");
        assert!(peak < 100 << 10, "{peak} KiB");
        host.brig(&["rmi", &name]).ok();
    }
}

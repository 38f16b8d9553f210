//! The whole path once, as a person would walk it: a Debian with nginx, a real registry, two clients, a crash, an end.

use brig_tests::{TestHost, debian, eventually, http, skip};
use std::time::Duration;

const NAME: &str = "scenario::a_web_server_from_registry_to_removal";

#[test]
fn a_web_server_from_registry_to_removal() {
    for program in ["mmdebstrap", "docker-registry", "docker"] {
        if skip::program(program).is_none() {
            return skip::skip(NAME, &format!("{program} is not installed"));
        }
    }
    let image = debian::nginx().expect("mmdebstrap is installed");
    let mut host = TestHost::new();
    let neighbour = host.neighbour();
    let registry = host.registry();
    registry.push(&image, "web", "1");
    drop(image);
    let name = registry.name("web:1");

    for (client, number) in [("brig", 0), ("docker", 1)] {
        let command = |arguments: &[&str]| {
            let run = if client == "brig" { host.brig_run(arguments) } else { host.docker_run(arguments) };
            run.limit(Duration::from_secs(180)).output()
        };
        let pulled = command(&["pull", &name]).ok();
        // The second client finds what the first one brought.
        let status = if number == 0 { "Status: Downloaded newer image for" } else { "Status: Image is up to date for" };
        assert!(pulled.contains(status), "{client}: {pulled}");
        let site = host.root.join(format!("site{number}"));
        std::fs::create_dir(&site).unwrap();
        std::fs::write(site.join("index.html"), format!("site of {client}\n")).unwrap();
        let bind = format!("{}:/var/www/html:ro", site.display());
        let port = format!("{}:80", 8080 + number);
        let web = format!("web{number}");
        let run = ["run", "-d", "--name", &web, "-p", &port, "-v", &bind, "-m", "128m", "-e", "SHIP=brig", &name];
        assert_eq!(command(&run).ok().len(), 64);
        let address = format!("10.99.0.1:{}", 8080 + number);
        let get = || http::tcp(&neighbour.netns, &address, "GET", "/index.html", "", &[]).ok();
        let answer = eventually("nginx answers a neighbour", get);
        assert_eq!((answer.status, answer.text()), (200, format!("site of {client}\n")));
        assert!(answer.header("server").unwrap().starts_with("nginx/"), "{}", answer.head);
    }
    look_around(&host);

    let before: Vec<u32> = ["web0", "web1"].iter().map(|name| host.pid(name)).collect();
    host.crash_daemon();
    let after: Vec<u32> = ["web0", "web1"].iter().map(|name| host.pid(name)).collect();
    assert_eq!(before, after, "nothing was restarted");
    for (port, site) in [(8080, "site of brig\n"), (8081, "site of docker\n")] {
        let answer = http::tcp(&neighbour.netns, &format!("10.99.0.1:{port}"), "GET", "/", "", &[]).unwrap();
        assert_eq!(answer.text(), site);
    }
    look_around(&host);

    host.brig(&["stop", "web0"]).ok();
    assert_eq!(host.field("web0", "{{.State.ExitCode}}"), "0", "nginx ends in order");
    host.docker(&["stop", "web1"]).ok();
    assert!(http::tcp(&neighbour.netns, "10.99.0.1:8080", "GET", "/", "", &[]).is_err());
    host.brig(&["rm", "web0"]).ok();
    host.docker(&["rm", "web1"]).ok();
    host.brig(&["rmi", &name]).ok();
    assert_eq!(host.brig(&["images", "-q"]).ok(), "");
    // What else must not be left over, the host looks for when it is dropped.
}

fn look_around(host: &TestHost) {
    for name in ["web0", "web1"] {
        assert_eq!(host.brig(&["exec", name, "printenv", "SHIP"]).ok(), "brig");
        assert_eq!(host.docker(&["exec", name, "cat", "/etc/debian_version"]).ok().split('.').next(), Some("12"));
        assert_eq!(host.field(name, "{{.HostConfig.Memory}}"), (128 << 20).to_string());
        let log = host.brig(&["exec", name, "cat", "/var/log/nginx/access.log"]).ok();
        assert!(log.contains("GET /") && log.contains("10.99.0.2"), "the neighbour's own address is seen: {log}");
        let logs = host.brig(&["logs", name]);
        assert_eq!(logs.code, 0, "{logs}");
    }
    let mut terminal = host.brig_terminal(&["exec", "-it", "web0", "bash", "--norc"]);
    terminal.expect("# ");
    terminal.type_in("ps -o comm= 1 || cat /proc/1/comm; tty\n");
    terminal.expect("nginx");
    terminal.expect("/dev/pts/");
    terminal.type_in("exit 5\n");
    assert_eq!(terminal.finish(), 5);
}

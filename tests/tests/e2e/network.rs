//! Containers on the network: addresses, names, published ports, the outside, each other.

use brig_tests::{TestHost, eventually, host, http};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

const WEB: &str = "echo web > /index.html; exec httpd -f -p 80 -h /";

fn get(netns: &std::os::fd::OwnedFd, address: &str) -> Option<String> {
    http::tcp(netns, address, "GET", "/index.html", "", &[]).ok().map(|answer| answer.text().trim_end().to_owned())
}

#[test]
fn a_published_port_is_reachable_from_everywhere() {
    let host = TestHost::new();
    host.load_busybox();
    let neighbour = host.neighbour();
    let id = host.brig(&["run", "-d", "--name", "web", "-p", "8080:80", "busybox", "sh", "-c", WEB]).ok();
    eventually("the server answers", || get(&host.netns, "127.0.0.1:8080"));
    assert_eq!(get(&neighbour.netns, "10.99.0.1:8080").as_deref(), Some("web"), "from a neighbour");
    assert_eq!(get(&host.netns, "10.99.0.1:8080").as_deref(), Some("web"), "from the host by its address");
    let own = host.field("web", "{{.NetworkSettings.IPAddress}}");
    assert_eq!(get(&host.netns, &format!("{own}:80")).as_deref(), Some("web"), "from the host, unpublished");
    let fetch = |url: &str| host.brig(&["run", "--rm", "busybox", "wget", "-qO-", url]).ok();
    assert_eq!(fetch(&format!("http://{own}/index.html")), "web", "from another container");
    assert_eq!(fetch("http://10.99.0.1:8080/index.html"), "web", "from another container by the host's address");
    let hairpin = host.brig(&["exec", "web", "wget", "-qO-", "http://10.99.0.1:8080/index.html"]);
    assert_eq!(hairpin.ok(), "web", "from itself by the host's address");
    assert_eq!(host.brig(&["port", "web"]).ok().lines().next(), Some("80/tcp -> 0.0.0.0:8080"));
    assert!(host.brig(&["ps", "--format", "{{.Ports}}"]).ok().contains("0.0.0.0:8080->80/tcp"));
    host.brig(&["stop", "-t", "0", "web"]).ok();
    assert_eq!(get(&neighbour.netns, "10.99.0.1:8080"), None, "a stopped container's port is closed");
    host.brig(&["start", "web"]).ok();
    eventually("the server answers again", || get(&neighbour.netns, "10.99.0.1:8080"));
    assert_eq!(host.brig(&["ps", "-q", "--no-trunc"]).ok(), id);
}

#[test]
fn a_port_on_loopback_is_the_hosts_alone() {
    let host = TestHost::new();
    host.load_busybox();
    let neighbour = host.neighbour();
    host.brig(&["run", "-d", "--name", "web", "-p", "127.0.0.1:8080:80", "busybox", "sh", "-c", WEB]).ok();
    eventually("the server answers", || get(&host.netns, "127.0.0.1:8080"));
    assert_eq!(get(&neighbour.netns, "10.99.0.1:8080"), None);
    // Nor by a route that a neighbour sets to the host's own loopback, or to the container.
    let ip = |line: &str| neighbour.program("ip", &line.split(' ').collect::<Vec<_>>()).output();
    ip("route add 172.17.0.0/16 via 10.99.0.1").ok();
    let own = host.field("web", "{{.NetworkSettings.IPAddress}}");
    assert_eq!(
        get(&neighbour.netns, &format!("{own}:80")),
        None,
        "an unpublished address is not a neighbour's business"
    );
}

#[test]
fn udp_and_chosen_ports() {
    let host = TestHost::new();
    host.load_busybox();
    let neighbour = host.neighbour();
    let serve = "exec probe udp 0.0.0.0:53";
    host.brig(&[
        "run",
        "-d",
        "--name",
        "dns",
        "-p",
        "5353:53/udp",
        "-p",
        "9000-9001:80-81",
        "-p",
        "70",
        "busybox",
        "sh",
        "-c",
        serve,
    ])
    .ok();
    let answer = eventually("the datagram is answered", || {
        neighbour.inside(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            socket.send_to(b"word\n", (host::HOST, 5353)).unwrap();
            let mut buffer = [0; 64];
            let (count, from) = socket.recv_from(&mut buffer).ok()?;
            Some((String::from_utf8_lossy(&buffer[..count]).into_owned(), from.to_string()))
        })
    });
    assert_eq!(answer, ("got word\n".to_owned(), "10.99.0.1:5353".to_owned()));
    let ports = host.brig(&["port", "dns"]).ok();
    assert!(ports.contains("80/tcp -> 0.0.0.0:9000") && ports.contains("81/tcp -> 0.0.0.0:9001"), "{ports}");
    let chosen = host.brig(&["port", "dns", "70"]).ok();
    let chosen: u16 = chosen.lines().next().unwrap().rsplit(':').next().unwrap().parse().unwrap();
    assert!(chosen >= 32768, "{chosen}");
}

#[test]
fn publish_all() {
    let host = TestHost::new();
    let image = brig_tests::Image::busybox();
    let image = image.with(brig_tests::Layer::new(), &[("ExposedPorts", serde_json::json!({"80/tcp": {}}))]);
    let path = host.root.join("image.tar");
    std::fs::write(&path, image.docker_archive("web:latest")).unwrap();
    host.brig(&["load", "-i", &path.display().to_string()]).ok();
    host.brig(&["run", "-d", "-P", "--name", "web", "web", "sh", "-c", WEB]).ok();
    let address = host.brig(&["port", "web", "80/tcp"]).ok().lines().next().unwrap().replace("0.0.0.0", "127.0.0.1");
    eventually("the server answers", || get(&host.netns, &address));
}

#[test]
fn to_the_outside_under_the_hosts_address() {
    let host = TestHost::new();
    host.load_busybox();
    let neighbour = host.neighbour();
    let listener = neighbour.inside(|| TcpListener::bind("0.0.0.0:7000").unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0; 5];
        stream.read_exact(&mut buffer).unwrap();
        stream.write_all(b"hello\n").unwrap();
        (peer.ip().to_string(), String::from_utf8_lossy(&buffer).into_owned())
    });
    let said =
        host.brig_run(&["run", "--rm", "-i", "busybox", "nc", "-w", "5", "10.99.0.2", "7000"]).input("knock").output();
    assert_eq!(said.ok(), "hello");
    assert_eq!(server.join().unwrap(), ("10.99.0.1".to_owned(), "knock".to_owned()));
    assert_eq!(host.brig(&["run", "--rm", "busybox", "ping", "-c", "1", "-W", "5", "10.99.0.2"]).code, 0);
    assert_eq!(host.brig(&["run", "--rm", "-u", "user", "busybox", "true"]).code, 0);
}

#[test]
fn what_a_container_sees() {
    let host = TestHost::new();
    host.load_busybox();
    let script = "ip -o -4 addr show eth0; ip route; cat /etc/hosts /etc/resolv.conf";
    let seen = host
        .brig(&[
            "run",
            "--rm",
            "-h",
            "ship",
            "--add-host",
            "db:10.1.2.3",
            "--add-host",
            "me:host-gateway",
            "--dns",
            "10.9.9.9",
            "--dns-search",
            "example.org",
            "--dns-option",
            "ndots:3",
            "busybox",
            "sh",
            "-c",
            script,
        ])
        .ok();
    assert!(seen.contains("inet 172.17.0.") && seen.contains("/16"), "{seen}");
    assert!(seen.contains("default via 172.17.0.1 dev eth0"), "{seen}");
    for line in [
        "10.1.2.3\tdb",
        "172.17.0.1\tme",
        "127.0.0.1\tlocalhost",
        "nameserver 10.9.9.9",
        "search example.org",
        "options ndots:3",
    ] {
        assert!(seen.contains(line), "{line}:\n{seen}");
    }
    assert!(seen.lines().any(|line| line.starts_with("172.17.0.") && line.ends_with("\tship")), "{seen}");
    let none = host
        .brig(&[
            "run",
            "--rm",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "ip -o link; ping -c 1 127.0.0.1 >/dev/null && echo up",
        ])
        .ok();
    assert_eq!(none.lines().count(), 2, "{none}");
    assert!(none.contains(": lo:") && none.ends_with("up"), "{none}");
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let of_host = host.brig(&["run", "--rm", "--network", "host", "busybox", "readlink", "/proc/self/ns/net"]).ok();
    let of_daemon = std::fs::read_link(format!("/proc/{}/ns/net", host.daemon_pid())).unwrap();
    assert_eq!(of_host, of_daemon.display().to_string());
    assert_ne!(of_daemon, own, "the test host is sealed");
}

#[test]
fn addresses_are_given_back() {
    let host = TestHost::new();
    host.load_busybox();
    let run = || host.brig(&["run", "--rm", "busybox", "hostname", "-i"]).ok();
    let first = run();
    for _ in 0..5 {
        assert!(run().starts_with("172.17.0."));
    }
    assert!(first.starts_with("172.17.0."));
    let networks = host.brig(&["network", "ls", "--format", "{{.Name}} {{.Driver}}"]).ok();
    let mut lines: Vec<_> = networks.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["bridge bridge", "host host", "none null"]);
    let gateway = host.brig(&["network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}"]).ok();
    assert_eq!(gateway, "172.17.0.1");
}

#[test]
fn a_taken_port_is_refused_and_nothing_is_left() {
    let host = TestHost::new();
    host.load_busybox();
    host.brig(&["run", "-d", "--name", "first", "-p", "8080:80", "busybox", "sleep", "1000"]).ok();
    let refused = host.brig(&["run", "-d", "--name", "second", "-p", "8080:80", "busybox", "true"]).fails(125);
    assert!(refused.contains("8080") && refused.contains("port is already allocated"), "{refused}");
    assert_eq!(host.field("second", "{{.State.Status}}"), "created");
    // Somebody else's socket counts as well.
    let listener = brig_sys_inside(&host, || TcpListener::bind("0.0.0.0:9090").unwrap());
    let refused = host.brig(&["run", "-d", "--name", "third", "-p", "9090:80", "busybox", "true"]).fails(125);
    assert!(refused.contains("9090") && refused.contains("address already in use"), "{refused}");
    drop(listener);
    host.brig(&["start", "-a", "third"]).ok();
    let links = host.program("ip", &["-o", "link", "show", "type", "veth"]).output().ok();
    assert!(links.lines().count() <= 2, "{links}");
}

fn brig_sys_inside<T: Send>(host: &TestHost, work: impl FnOnce() -> T + Send) -> T {
    use std::os::fd::AsFd;
    brig_sys::netns::inside(host.netns.as_fd(), work).unwrap()
}

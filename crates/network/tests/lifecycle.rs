//! Making, failing, removing, restoring, healing: what is left in the kernel after each.

mod bed;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use bed::{Bed, ask, bridge, eventually, ip, net, publish, run, wish};
use brig_network::Protocol::{Sctp, Tcp, Udp};
use brig_network::{Config, ErrorKind, Network, ipam, ports::Publish};
use brig_sys::netns;

fn veths(bed: &Bed) -> usize {
    run(&bed.host, "ip -o link show type veth").lines().filter(|line| !line.contains("lan0")).count()
}

fn ruleset(bed: &Bed) -> String {
    run(&bed.host, "nft list ruleset")
}

/// The table without generated handles, as `nft` understands it.
fn table_json(bed: &Bed) -> serde_json::Value {
    serde_json::from_str(&run(&bed.host, "nft -j list table inet brig")).expect("json")
}

#[test]
fn the_table_reads_as_meant() {
    let bed = Bed::new();
    let _web = bed.container(
        "172.17.0.2/16",
        &[publish("0.0.0.0", 8080, 80, Tcp), publish("127.0.0.1", 5353, 53, Udp), publish("10.99.0.1", 9, 10, Sctp)],
    );
    let text = ruleset(&bed);
    for expected in [
        "table inet brig",
        "elements = { tcp . 8080 : 172.17.0.2 . 80 }",
        "udp . 127.0.0.1 . 5353 : 172.17.0.2 . 53",
        "sctp . 10.99.0.1 . 9 : 172.17.0.2 . 10",
        "elements = { \"br0\" }",
        "elements = { \"br0\" . \"br0\" }",
        "type nat hook prerouting priority dstnat",
        "type filter hook forward priority filter; policy drop;",
        "fib daddr type local jump published",
        "dnat ip to meta l4proto . ip daddr . th dport map @ports4_at",
        "iifname != \"lo\" ip daddr 127.0.0.0/8 drop",
        "iifname . oifname @turned ct status dnat masquerade",
        "ct state established,related accept",
    ] {
        assert!(text.contains(expected), "no {expected:?} in\n{text}");
    }
    let json = table_json(&bed);
    let kinds =
        |kind: &str| json["nftables"].as_array().expect("list").iter().filter(|one| one.get(kind).is_some()).count();
    assert_eq!((kinds("chain"), kinds("set"), kinds("map")), (6, 7, 4));
}

#[test]
fn the_namespace_is_set_up_as_asked() {
    let bed = Bed::new();
    let web = bed.container("172.17.0.2/16", &[]);
    let link: serde_json::Value = serde_json::from_str(&run(&web.netns, "ip -j addr show eth0")).expect("json");
    assert_eq!(link[0]["address"], "02:42:ac:11:00:02");
    assert_eq!(link[0]["operstate"], "UP");
    assert_eq!(link[0]["addr_info"].as_array().map(Vec::len), Some(1), "{link}");
    assert_eq!(link[0]["addr_info"][0]["local"], "172.17.0.2");
    assert_eq!(link[0]["addr_info"][0]["broadcast"], "172.17.255.255");
    assert_eq!(run(&web.netns, "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6").trim(), "1");
    assert_eq!(run(&bed.host, "cat /proc/sys/net/ipv6/conf/br0/disable_ipv6").trim(), "1");
    assert!(run(&web.netns, "ip route").contains("default via 172.17.0.1 dev eth0"));
    assert!(run(&web.netns, "ip addr show lo").contains("127.0.0.1/8"));
    let seen = brig_network::interface_addresses(web.netns.as_fd()).expect("addresses");
    let eth0 = seen.iter().find(|(name, _)| name == "eth0").expect("eth0");
    assert_eq!(eth0.1, [net("172.17.0.2/16")]);
    let none = netns::create().expect("namespace");
    bed.network.loopback(none.as_fd()).expect("loopback");
    assert!(run(&none, "ip addr show lo").contains("127.0.0.1/8"));
}

/// As containers are by default: the namespace belongs to a user namespace in which nobody is root on the host.
#[test]
fn a_namespace_of_another_user_is_set_up_as_well() {
    let bed = Bed::new();
    let mut child = std::process::Command::new("setpriv")
        .args(["--reuid=100000", "--regid=100000", "--clear-groups"])
        .args(["unshare", "--user", "--net", "--map-root-user"])
        .args(["sh", "-c", "echo ready; exec sleep 60"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut ready = [0; 6];
    let mut stdout = child.stdout.take().expect("piped");
    std::io::Read::read_exact(&mut stdout, &mut ready).expect("the child has its namespaces");
    let path = format!("/proc/{}/ns/net", child.id());
    let netns = std::os::fd::OwnedFd::from(std::fs::File::open(path).expect("namespace"));
    let endpoint = bed.endpoint("br0", "172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
    bed.network.attach(netns.as_fd(), &endpoint).expect("attach");
    bed.serve(&netns, "0.0.0.0:80");
    ask(&bed.neighbour, "10.99.0.1:8080").expect("published");
    assert_eq!(run(&netns, "cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6").trim(), "1");
    child.kill().expect("kill");
    child.wait().expect("wait");
}

#[test]
fn a_failed_attach_leaves_nothing() {
    let bed = Bed::new();
    let before = ruleset(&bed);
    let netns = netns::create().expect("namespace");
    let good = bed.endpoint("br0", "172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);

    // An interface of that name is there already.
    run(&netns, "ip link add eth0 type bridge");
    let error = bed.network.attach(netns.as_fd(), &good).expect_err("eth0 exists");
    assert!(error.to_string().contains("attaching eth0 to br0: RTM_NEWLINK"), "{error}");
    run(&netns, "ip link del eth0");
    // The last step in the namespace fails: the gateway is out of reach.
    let mut bad = good.clone();
    bad.gateways = vec![ip("10.1.1.1")];
    let error = bed.network.attach(netns.as_fd(), &bad).expect_err("no such gateway");
    assert!(error.to_string().contains("RTM_NEWROUTE(default via 10.1.1.1)"), "{error}");
    assert!(error.to_string().contains("gateway"), "the kernel's explanation: {error}");
    // A port that somebody else has, after one that is free.
    let foreign = netns::inside(bed.host.as_fd(), || std::net::TcpListener::bind("0.0.0.0:8081").expect("bind"));
    let mut taken = good.clone();
    taken.ports.push(publish("0.0.0.0", 8081, 81, Tcp));
    let error = bed.network.attach(netns.as_fd(), &taken).expect_err("8081 is taken");
    assert_eq!(error.kind, ErrorKind::PortInUse);
    assert_eq!(error.to_string(), "failed to bind host port 0.0.0.0:8081/tcp: address already in use");
    // A bridge that is not there, names that can't be.
    let mut lost = good.clone();
    lost.bridge = "br9".to_owned();
    assert_eq!(bed.network.attach(netns.as_fd(), &lost).expect_err("no bridge").kind, ErrorKind::NotFound);
    for name in ["", "eth%d", "a/b", "sixteen-letters-", ".."] {
        let mut named = good.clone();
        named.interface = name.to_owned();
        assert_eq!(bed.network.attach(netns.as_fd(), &named).expect_err(name).kind, ErrorKind::Invalid);
    }

    assert_eq!(veths(&bed), 0);
    assert_eq!(ruleset(&bed), before);
    assert!(!run(&netns, "ip -o link").contains("eth0"));
    bed.network.attach(netns.as_fd(), &good).expect("nothing is in the way, 8080 included");
    drop(foreign);
}

#[test]
fn detach_works_twice_and_leaves_nothing() {
    let bed = Bed::new();
    let before = ruleset(&bed);
    let web = bed.container("172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
    bed.serve(&web.netns, "0.0.0.0:80");
    ask(&bed.host, "127.0.0.1:8080").expect("published");
    bed.network.detach(&web.endpoint).expect("detach");
    bed.network.detach(&web.endpoint).expect("again");
    assert_eq!(ruleset(&bed), before);
    let error = ask(&bed.host, "127.0.0.1:8080").expect_err("no longer published");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    eventually("the veth pair is gone though the namespace lives", || veths(&bed) == 0);
    // Back at once, under the same names, before and after the old pair is gone.
    bed.network.attach(web.netns.as_fd(), &web.endpoint).expect("again");
    ask(&bed.host, "127.0.0.1:8080").expect("published again");
    bed.network.detach(&web.endpoint).expect("detach");
    bed.network.attach(web.netns.as_fd(), &web.endpoint).expect("at once");
    ask(&bed.host, "127.0.0.1:8080").expect("published again");
    // What is deleted after it is gone: deletions come in turn.
    let later = bed.container("172.17.0.3/16", &[]);
    bed.network.detach(&later.endpoint).expect("detach");
    eventually("the later pair is gone", || veths(&bed) == 1);
    ask(&bed.host, "127.0.0.1:8080").expect("the late deletion hits the old pair only");
    let error = bed.network.attach(web.netns.as_fd(), &web.endpoint).expect_err("twice");
    assert!(error.to_string().contains("is attached already"), "{error}");
}

#[test]
fn a_namespace_that_dies_takes_its_veth_along() {
    let bed = Bed::new();
    let web = bed.container("172.17.0.2/16", &[]);
    assert_eq!(veths(&bed), 1);
    bed.network.detach(&web.endpoint).expect("detach");
    drop(web.netns);
    eventually("the veth pair is gone", || veths(&bed) == 0);
}

#[test]
fn two_hundred_ports_in_one_go() {
    let bed = Bed::new();
    let wishes: Vec<Publish> = (0..200).map(|n| wish(20_000 + n)).collect();
    let mut ports = bed.network.reserve_ports("many", &wishes).expect("reserve");
    (0u16..).zip(&mut ports).for_each(|(n, port)| port.container_port = 1000 + n);
    let netns = netns::create().expect("namespace");
    let mut endpoint = bed.endpoint("br0", "172.17.0.2/16", &ports);
    endpoint.id = "many".to_owned();
    let start = Instant::now();
    bed.network.attach(netns.as_fd(), &endpoint).expect("attach");
    println!("attach with 200 ports: {:?}", start.elapsed());
    bed.serve(&netns, "0.0.0.0:1000");
    bed.serve(&netns, "0.0.0.0:1199");
    ask(&bed.neighbour, "10.99.0.1:20000").expect("first");
    ask(&bed.neighbour, "10.99.0.1:20199").expect("last");
    assert_eq!(run(&bed.host, "nft list map inet brig ports4_any").matches("172.17.0.2").count(), 200);
    let error = bed.network.reserve_ports("other", &[wish(20_100)]).expect_err("taken");
    assert_eq!(error.to_string(), "Bind for 0.0.0.0:20100 failed: port is already allocated");
    bed.network.detach(&endpoint).expect("detach");
    bed.network.reserve_ports("other", &[wish(20_100)]).expect("free again");
    bed.network.release_ports("other");
    bed.network.reserve_ports("third", &[wish(20_100)]).expect("free again");
}

#[test]
fn ephemeral_ports_do_not_collide_when_many_ask_at_once() {
    let bed = Bed::new();
    let any = Publish { host_ip: None, host_ports: None, container_port: 80, protocol: Tcp };
    let ports: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..16)
            .map(|n| {
                let (network, any) = (&bed.network, &any);
                scope.spawn(move || {
                    let wishes = vec![any.clone(); 10];
                    network.reserve_ports(&format!("owner{n}"), &wishes).expect("ports")
                })
            })
            .collect();
        asking.into_iter().flat_map(|one| one.join().expect("thread")).map(|port| port.host_port).collect()
    });
    let distinct: std::collections::BTreeSet<u16> = ports.iter().copied().collect();
    assert_eq!((ports.len(), distinct.len()), (160, 160));
}

#[test]
fn many_attach_at_once() {
    let bed = Bed::new();
    std::thread::scope(|scope| {
        for n in 2..18 {
            let bed = &bed;
            scope.spawn(move || {
                let port = publish("0.0.0.0", 9000 + n, 80, Tcp);
                let container = bed.container(&format!("172.17.0.{n}/16"), &[port]);
                bed.serve(&container.netns, "0.0.0.0:80");
                ask(&bed.host, &format!("127.0.0.1:{}", 9000 + n)).expect("published");
                if n % 2 == 0 {
                    bed.network.detach(&container.endpoint).expect("detach");
                } else {
                    std::mem::forget(container.netns);
                }
            });
        }
    });
    assert_eq!(run(&bed.host, "nft list map inet brig ports4_any").matches("172.17.0.").count(), 8);
    eventually("the others are gone", || veths(&bed) == 8);
}

#[test]
fn a_restart_keeps_what_runs_and_removes_what_does_not() {
    let mut bed = Bed::new();
    let web = bed.container("172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
    let gone = bed.container("172.17.0.3/16", &[publish("0.0.0.0", 8081, 80, Tcp)]);
    bed.serve(&web.netns, "0.0.0.0:80");
    // Somebody else's veth pair in our bridge, and somebody else's table, stay.
    run(&bed.host, "ip link add vethforeign type veth peer name other && ip link set vethforeign master br0");
    run(&bed.host, "nft add table inet theirs && nft add chain inet theirs c");
    bed.reopen();
    ask(&bed.host, "127.0.0.1:8080").expect("while nothing was restored yet");
    bed.network.restore(&[bridge("br0", "172.17.0.1/16")], std::slice::from_ref(&web.endpoint)).expect("restore");
    ask(&bed.host, "127.0.0.1:8080").expect("still published");
    ask(&bed.neighbour, "10.99.0.1:8080").expect("still published");
    let text = ruleset(&bed);
    assert!(!text.contains("172.17.0.3"), "{text}");
    assert!(text.contains("table inet theirs"), "{text}");
    assert!(text.contains("policy drop"), "the guard is remembered: {text}");
    let error = bed.network.reserve_ports("new", &[wish(8080)]).expect_err("claimed again");
    assert_eq!(error.to_string(), "Bind for 0.0.0.0:8080 failed: port is already allocated");
    bed.network.reserve_ports("new", &[wish(8081)]).expect("no longer claimed");
    eventually("the stray pair is gone", || !run(&bed.host, "ip -o link").contains(&gone.endpoint.host_interface));
    assert!(run(&bed.host, "ip -o link").contains("vethforeign"));
    assert!(run(&bed.host, "ip -o link").contains(&web.endpoint.host_interface));
    // And what was restored can be taken down.
    let error = bed.network.remove_bridge("br0").expect_err("in use");
    assert!(error.to_string().contains("active endpoints"), "{error}");
    bed.network.detach(&web.endpoint).expect("detach");
    bed.network.remove_bridge("br0").expect("remove");
    bed.network.remove_bridge("br0").expect("again");
    assert!(!run(&bed.host, "ip -o link").contains("br0:"));
    assert!(ruleset(&bed).contains("policy drop"), "forwarding is still on, so the guard stays");
    bed.network.remove_table().expect("remove");
    assert!(!ruleset(&bed).contains("inet brig"));
    let forwarding = run(&bed.host, "cat /proc/sys/net/ipv4/ip_forward");
    assert_eq!(forwarding.trim(), "0", "as it was before");
}

#[test]
fn a_restart_with_nothing_alive_leaves_nothing_published() {
    let mut bed = Bed::new();
    let dead = bed.container("172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
    bed.reopen();
    bed.network.restore(&[], &[]).expect("restore");
    assert!(!ruleset(&bed).contains("172.17.0.2"));
    eventually("the stray pair is gone", || veths(&bed) == 0);
    // Somebody else's server on that port is reachable now.
    bed.serve(&bed.host, "0.0.0.0:8080");
    ask(&bed.neighbour, "10.99.0.1:8080").expect("the host's own");
    drop(dead);
}

#[test]
fn the_table_heals_and_connections_survive() {
    let bed = Bed::new();
    let web = bed.container("172.17.0.2/16", &[publish("127.0.0.1", 9090, 80, Tcp), publish("0.0.0.0", 8080, 80, Tcp)]);
    bed.serve(&web.netns, "0.0.0.0:80");
    let before = table_json(&bed).to_string();
    for command in [
        "nft flush ruleset",
        "nft delete table inet brig",
        "nft flush chain inet brig forward",
        "nft delete element inet brig ports4_any '{ tcp . 8080 }'",
        "nft insert rule inet brig forward accept",
        "nft flush ruleset",
    ] {
        run(&bed.host, command);
        eventually(command, || {
            let text = ruleset(&bed);
            text.contains("policy drop")
                && text.contains("everything else to containers")
                && text.contains("tcp . 8080 : 172.17.0.2 . 80")
                && text.matches("accept").count() == before.matches("\"accept\"").count()
        });
        ask(&bed.neighbour, "10.99.0.1:8080").expect("published");
        ask(&bed.neighbour, "10.99.0.1:9090").expect_err("published on 127.0.0.1 only");
        ask(&bed.neighbour, "172.17.0.2:80").expect_err("not directly");
    }
    // Other tables are nobody's business: nothing of ours is written again.
    let handles = run(&bed.host, "nft -a list table inet brig");
    run(&bed.host, "nft add table inet theirs && nft add chain inet theirs c && nft delete table inet theirs");
    // Time in which it is healed in other cases; that nothing happens has no event.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(run(&bed.host, "nft -a list table inet brig"), handles);
}

#[test]
fn attach_repairs_a_table_that_was_lost_unseen() {
    let bed = Bed::new();
    // Faster than the watch: the flush and the attach race, whoever wins the table is whole.
    for n in 2..12u16 {
        run(&bed.host, "nft flush ruleset");
        let container = bed.container(&format!("172.17.0.{n}/16"), &[publish("0.0.0.0", 9000 + n, 80, Tcp)]);
        bed.serve(&container.netns, "0.0.0.0:80");
        ask(&bed.host, &format!("127.0.0.1:{}", 9000 + n)).expect("published");
        std::mem::forget(container.netns);
    }
    assert_eq!(run(&bed.host, "nft list map inet brig ports4_any").matches("172.17.0.").count(), 10);
}

#[test]
fn bridges_are_made_equal_to_what_is_asked() {
    let bed = Bed::bare();
    let mut asked = bridge("br0", "172.17.0.1/16");
    asked.mtu = Some(1400);
    bed.network.ensure_bridge(&asked).expect("make");
    bed.network.ensure_bridge(&asked).expect("again");
    let text = run(&bed.host, "ip addr show br0");
    assert!(text.contains("mtu 1400") && text.contains("inet 172.17.0.1/16 brd 172.17.255.255"), "{text}");
    assert!(text.contains("02:42:ac:11:00:01"), "{text}");
    assert_eq!(run(&bed.host, "cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    asked.gateways = vec![net("172.19.0.1/16")];
    asked.mtu = Some(1300);
    bed.network.ensure_bridge(&asked).expect("change");
    let text = run(&bed.host, "ip addr show br0");
    assert!(text.contains("mtu 1300") && text.contains("172.19.0.1/16") && !text.contains("172.17.0.1"), "{text}");
    let web = bed.container_on("br0", "172.19.0.2/16", &[]);
    assert!(run(&web.netns, "ip link show eth0").contains("mtu 1300"));
    let error = bed.network.ensure_bridge(&bridge("lan0", "172.20.0.1/16")).expect_err("not a bridge");
    assert_eq!(error.to_string(), "interface lan0 exists and is a veth, not a bridge: choose another name");
    assert!(!ruleset(&bed).contains("lan0"));
}

#[test]
fn subnets_avoid_the_hosts_networks() {
    let bed = Bed::bare();
    run(&bed.host, "ip link add tun0 type bridge && ip link set tun0 up && ip route add 172.16.0.0/13 dev tun0");
    let used = bed.network.used_networks(&[]).expect("used");
    assert_eq!(ipam::choose(&used).expect("free"), net("172.24.0.0/16"));
    let error = ipam::check(net("172.17.0.0/16"), &used).expect_err("clash").to_string();
    assert!(error.contains("overlaps with route 172.16.0.0/13 dev tun0"), "{error}");
    let error = ipam::check(net("10.0.0.0/8"), &used).expect_err("clash").to_string();
    assert!(error.contains("10.99.0.") && error.contains("dev lan0"), "{error}");
    ipam::check(net("10.0.0.0/8"), &bed.network.used_networks(&["lan0"]).expect("used")).expect("left out");
}

#[test]
fn two_networks_with_two_tables_share_a_host() {
    let bed = Bed::new();
    let config = Config { table: "brig-two".to_owned(), ..Config::default() };
    let second = netns::inside(bed.host.as_fd(), || Network::new(config).expect("network")).expect("inside");
    second.ensure_bridge(&bridge("br1", "172.18.0.1/16")).expect("bridge");
    let web = bed.container("172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
    bed.serve(&web.netns, "0.0.0.0:80");
    let text = ruleset(&bed);
    assert!(text.contains("table inet brig {") && text.contains("table inet brig-two {"), "{text}");
    second.remove_table().expect("remove");
    assert!(!ruleset(&bed).contains("brig-two"));
    ask(&bed.host, "127.0.0.1:8080").expect("the other is untouched");
    let bad = Config { table: "a b".to_owned(), ..Config::default() };
    assert_eq!(Network::new(bad).expect_err("name").kind, ErrorKind::Invalid);
}

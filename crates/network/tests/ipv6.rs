//! Networks with IPv6 beside IPv4, and nothing of IPv6 where it was not asked for.

mod bed;

use std::os::fd::AsFd;

use bed::{Bed, ask, bridge, eventually, ip, net, publish, run};
use brig_network::Protocol::Tcp;
use brig_sys::netns;

/// The host is fd00:99::1 on the LAN, the neighbour fd00:99::2; br6 is 172.18.0.1/16 and fd00:18::1/64.
fn dual() -> (Bed, bed::Container) {
    let bed = Bed::new();
    run(&bed.host, "ip addr add fd00:99::1/64 dev lan0 nodad");
    run(&bed.neighbour, "ip addr add fd00:99::2/64 dev eth0 nodad && ip route add fd00:18::/64 via fd00:99::1");
    let mut dual = bridge("br6", "172.18.0.1/16");
    dual.gateways.push(net("fd00:18::1/64"));
    bed.network.ensure_bridge(&dual).expect("bridge");
    let ports = [publish("::", 8080, 80, Tcp), publish("fd00:99::1", 7070, 80, Tcp)];
    let mut endpoint = bed.endpoint("br6", "172.18.0.2/16", &ports);
    endpoint.addresses.push(net("fd00:18::2/64"));
    endpoint.gateways.push(ip("fd00:18::1"));
    let netns = netns::create().expect("namespace");
    bed.network.attach(netns.as_fd(), &endpoint).expect("attach");
    (bed, bed::Container { netns, endpoint })
}

#[test]
fn published_and_masqueraded_over_ipv6() {
    let (bed, web) = dual();
    bed.serve(&web.netns, "[::]:80");
    bed.serve(&web.netns, "[::]:81");
    bed.serve(&bed.neighbour, "[::]:5000");
    // The kernel gives a new bridge its link-local address in its own time, without which it can't ask for
    // neighbours; the first connection may need a second attempt.
    eventually("the first connection", || ask(&bed.neighbour, "[fd00:99::1]:8080").is_ok());
    assert_eq!(ask(&bed.neighbour, "[fd00:99::1]:8080").expect("published"), "fd00:99::2");
    ask(&bed.neighbour, "[fd00:99::1]:7070").expect("published on that address");
    ask(&bed.host, "[fd00:99::1]:8080").expect("from the host");
    ask(&web.netns, "[fd00:18::1]:8080").expect("a container its own port");
    ask(&bed.neighbour, "[fd00:18::2]:81").expect_err("unpublished");
    ask(&bed.neighbour, "[fd00:18::2]:80").expect_err("past the published address");
    assert_eq!(ask(&web.netns, "[fd00:99::2]:5000").expect("outside"), "fd00:99::1");
    ask(&bed.neighbour, "10.99.0.1:8080").expect_err("published for IPv6 only");
    for parameter in ["accept_ra", "accept_redirects"] {
        let read = |fd, name: &str| run(fd, &format!("cat /proc/sys/net/ipv6/conf/{name}/{parameter}"));
        assert_eq!(read(&web.netns, "eth0").trim(), "0");
        assert_eq!(read(&bed.host, "br6").trim(), "0");
    }
}

#[test]
fn the_hosts_own_router_advertisements_keep_working() {
    let (bed, _web) = dual();
    assert_eq!(run(&bed.host, "cat /proc/sys/net/ipv6/conf/all/forwarding").trim(), "1");
    assert_eq!(run(&bed.host, "cat /proc/sys/net/ipv6/conf/lan0/accept_ra").trim(), "2");
}

#[test]
fn an_ipv4_network_carries_no_ipv6() {
    let bed = Bed::new();
    let one = bed.container("172.17.0.2/16", &[]);
    let host_end = &one.endpoint.host_interface;
    assert_eq!(run(&one.netns, "ip -6 -o addr show dev eth0").trim(), "");
    assert_eq!(run(&bed.host, "ip -6 -o addr show dev br0").trim(), "");
    assert_eq!(run(&bed.host, &format!("ip -6 -o addr show dev {host_end}")).trim(), "");
    assert_eq!(run(&bed.host, "cat /proc/sys/net/ipv6/conf/all/forwarding").trim(), "0");
}

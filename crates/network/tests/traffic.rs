//! Who reaches whom, with real packets between namespaces.

mod bed;

use std::os::fd::{AsRawFd, OwnedFd};

use bed::{Bed, HOST, NEIGHBOUR, ask, ask_udp, bridge, publish, udp};
use brig_network::Protocol::{Tcp, Udp};

#[test]
fn from_outside_to_a_published_port_with_the_clients_address() {
    Bed::each(|bed| {
        let web = bed.container("172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
        bed.serve(&web.netns, "0.0.0.0:80");
        assert_eq!(ask(&bed.neighbour, "10.99.0.1:8080").expect("published"), NEIGHBOUR);
    });
}

#[test]
fn the_host_reaches_published_ports_by_every_address() {
    Bed::each(|bed| {
        let web = bed.container(
            "172.17.0.2/16",
            &[publish("0.0.0.0", 8080, 80, Tcp), publish("127.0.0.1", 9090, 80, Tcp), publish(HOST, 7070, 80, Tcp)],
        );
        bed.serve(&web.netns, "0.0.0.0:80");
        for address in ["127.0.0.1:8080", "127.0.0.5:8080", "10.99.0.1:8080", "172.17.0.1:8080", "127.0.0.1:9090"] {
            ask(&bed.host, address).unwrap_or_else(|error| panic!("{address}: {error}"));
        }
        ask(&bed.host, "172.17.0.2:80").expect("directly");
        ask(&bed.host, "10.99.0.1:7070").expect("by its address");
        ask(&bed.host, "127.0.0.1:7070").expect_err("published on another address only");
        ask(&bed.host, "10.99.0.1:9090").expect_err("published on 127.0.0.1 only");
    });
}

#[test]
fn a_port_on_loopback_is_closed_to_neighbours_whatever_they_try() {
    Bed::each(|bed| {
        let web = bed.container("172.17.0.2/16", &[publish("127.0.0.1", 9090, 80, Tcp)]);
        bed.serve(&web.netns, "0.0.0.0:80");
        bed.serve(&bed.host, "127.0.0.1:7777");
        ask(&bed.host, "127.0.0.1:9090").expect("from the host");
        ask(&bed.neighbour, "10.99.0.1:9090").expect_err("by the host's address");
        ask(&bed.neighbour, "172.17.0.2:80").expect_err("by the container's address");
        // A neighbour that routes 127.0.0.1 to us, as in CVE-2020-8558.
        bed::run(
            &bed.neighbour,
            "ip addr del 127.0.0.1/8 dev lo; ip route del local 127.0.0.0/8 table local 2>/dev/null; \
             ip route del local 127.0.0.1 table local 2>/dev/null; ip route add 127.0.0.1/32 via 10.99.0.1 && \
             echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet",
        );
        ask(&bed.neighbour, "127.0.0.1:9090").expect_err("by a route to 127.0.0.1");
        ask(&bed.neighbour, "127.0.0.1:7777").expect_err("the host's own loopback");
        let evil = bed.container("172.17.0.3/16", &[]);
        bed::run(
            &evil.netns,
            "ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1/32 via 172.17.0.1 && \
             echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet",
        );
        ask(&evil.netns, "127.0.0.1:7777").expect_err("a container and the host's own loopback");
        ask(&evil.netns, "127.0.0.1:9090").expect_err("a container and a port on the host's loopback");
        ask(&evil.netns, "172.17.0.1:9090").expect_err("by the gateway");
    });
}

#[test]
fn neighbours_do_not_reach_unpublished_ports() {
    Bed::each(|bed| {
        let web = bed.container("172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
        bed.serve(&web.netns, "0.0.0.0:80");
        bed.serve(&web.netns, "0.0.0.0:81");
        ask(&bed.neighbour, "10.99.0.1:8080").expect("published");
        ask(&bed.neighbour, "172.17.0.2:81").expect_err("routed to an unpublished port");
        ask(&bed.neighbour, "172.17.0.2:80").expect_err("routed past the published address");
    });
}

#[test]
fn containers_leave_under_the_hosts_address() {
    Bed::each(|bed| {
        let client = bed.container("172.17.0.2/16", &[]);
        bed.serve(&bed.neighbour, "0.0.0.0:5000");
        assert_eq!(ask(&client.netns, "10.99.0.2:5000").expect("outside"), HOST);
        bed.serve_udp(&bed.neighbour, "0.0.0.0:5001", "");
        let socket = udp(&client.netns, "0.0.0.0:0");
        assert_eq!(ask_udp(&socket, "10.99.0.2:5001").expect("outside"), HOST);
    });
}

#[test]
fn containers_reach_each_other_directly_and_by_published_ports() {
    Bed::each(|bed| {
        let web = bed.container("172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
        let other = bed.container("172.17.0.3/16", &[]);
        bed.serve(&web.netns, "0.0.0.0:80");
        assert_eq!(ask(&other.netns, "172.17.0.2:80").expect("directly"), "172.17.0.3");
        ask(&other.netns, "10.99.0.1:8080").expect("by the host's address");
        ask(&other.netns, "172.17.0.1:8080").expect("by the gateway");
        ask(&web.netns, "10.99.0.1:8080").expect("a container its own port");
        ask(&web.netns, "172.17.0.1:8080").expect("a container its own port by the gateway");
    });
}

#[test]
fn without_icc_only_published_ports_are_reachable() {
    Bed::each(|bed| {
        let mut quiet = bridge("br1", "172.18.0.1/16");
        quiet.icc = false;
        bed.network.ensure_bridge(&quiet).expect("bridge");
        let web = bed.container_on("br1", "172.18.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
        let other = bed.container_on("br1", "172.18.0.3/16", &[]);
        bed.serve(&web.netns, "0.0.0.0:80");
        bed.serve(&bed.neighbour, "0.0.0.0:5000");
        ask(&other.netns, "172.18.0.2:80").expect_err("directly");
        // Around the bridge: a route that sends the packet to the host first.
        bed::run(&other.netns, "ip route add 172.18.0.2/32 via 172.18.0.1");
        ask(&other.netns, "172.18.0.2:80").expect_err("by the host");
        ask(&other.netns, "10.99.0.2:5000").expect("the outside");
        let seen = bed::run(&bed.host, "cat /proc/sys/net/bridge/bridge-nf-call-iptables 2>/dev/null || echo 0");
        if seen.trim() == "0" {
            ask(&other.netns, "10.99.0.1:8080").expect("published");
        }
        assert_eq!(ask(&bed.neighbour, "10.99.0.1:8080").expect("published"), NEIGHBOUR);
    });
}

#[test]
fn bridges_are_isolated_except_for_published_ports() {
    Bed::each(|bed| {
        bed.network.ensure_bridge(&bridge("br1", "172.18.0.1/16")).expect("bridge");
        let web = bed.container("172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
        let other = bed.container_on("br1", "172.18.0.2/16", &[]);
        bed.serve(&web.netns, "0.0.0.0:80");
        bed.serve(&other.netns, "0.0.0.0:80");
        ask(&other.netns, "172.17.0.2:80").expect_err("another bridge's container");
        ask(&web.netns, "172.18.0.2:80").expect_err("another bridge's container");
        assert_eq!(ask(&other.netns, "10.99.0.1:8080").expect("published"), "172.18.0.2");
    });
}

#[test]
fn an_internal_network_has_no_way_out_and_in() {
    Bed::each(|bed| {
        let mut internal = bridge("br1", "172.18.0.1/16");
        internal.internal = true;
        bed.network.ensure_bridge(&internal).expect("bridge");
        let mut endpoint = bed.endpoint("br1", "172.18.0.2/16", &[]);
        endpoint.gateways.clear();
        let inner = brig_sys::netns::create().expect("namespace");
        bed.network.attach(std::os::fd::AsFd::as_fd(&inner), &endpoint).expect("attach");
        let peer = bed.container_on("br1", "172.18.0.3/16", &[publish("0.0.0.0", 8082, 80, Tcp)]);
        let web = bed.container("172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
        bed.serve(&web.netns, "0.0.0.0:80");
        bed.serve(&peer.netns, "0.0.0.0:80");
        bed.serve(&bed.neighbour, "0.0.0.0:5000");
        ask(&inner, "172.18.0.3:80").expect("its own network");
        ask(&inner, "10.99.0.2:5000").expect_err("no route");
        bed::run(&inner, "ip route add default via 172.18.0.1");
        ask(&inner, "10.99.0.2:5000").expect_err("the outside");
        ask(&inner, "172.17.0.2:80").expect_err("another bridge");
        ask(&inner, "172.18.0.1:8080").expect_err("another bridge's published port");
        ask(&bed.neighbour, "172.18.0.3:80").expect_err("from outside");
        ask(&bed.neighbour, "10.99.0.1:8082").expect_err("from outside, even to a published port");
    });
}

#[test]
fn udp_ports_work_and_follow_a_change_of_container() {
    Bed::each(|bed| {
        let client = udp(&bed.neighbour, "10.99.0.2:40000");
        // Before anything is published the flow is remembered as the host's own.
        ask_udp(&client, "10.99.0.1:5353").expect_err("nobody there");
        let ports = [publish("0.0.0.0", 5353, 53, Udp), publish("127.0.0.1", 5354, 53, Udp)];
        let first = bed.container("172.17.0.2/16", &ports);
        bed.serve_udp(&first.netns, "0.0.0.0:53", "first ");
        bed::eventually("the first answers", || {
            ask_udp(&client, "10.99.0.1:5353").is_ok_and(|text| text == "first 10.99.0.2")
        });
        let local = udp(&bed.host, "127.0.0.1:0");
        ask_udp(&local, "127.0.0.1:5353").expect("from the host");
        ask_udp(&local, "127.0.0.1:5354").expect("from the host");
        ask_udp(&client, "10.99.0.1:5354").expect_err("published on 127.0.0.1 only");
        bed.network.detach(&first.endpoint).expect("detach");
        let second = bed.container("172.17.0.3/16", &[publish("0.0.0.0", 5353, 53, Udp)]);
        bed.serve_udp(&second.netns, "0.0.0.0:53", "second ");
        bed::eventually("the second answers", || {
            ask_udp(&client, "10.99.0.1:5353").is_ok_and(|text| text == "second 10.99.0.2")
        });
    });
}

/// A second LAN with one machine, which is returned: 10.98.0.1 is the host, 10.98.0.2 the machine.
fn far_network(bed: &Bed) -> OwnedFd {
    let far = brig_sys::netns::create().expect("namespace");
    let peer = format!("/proc/{}/fd/{}", std::process::id(), far.as_raw_fd());
    bed::run(
        &bed.host,
        &format!(
            "ip link add lan1 type veth peer name eth0 netns {peer} && ip addr add 10.98.0.1/24 dev lan1 && \
             ip link set lan1 up"
        ),
    );
    bed::run(&far, "ip addr add 10.98.0.2/24 dev eth0 && ip link set eth0 up && ip route add default via 10.98.0.1");
    bed::run(&bed.neighbour, "ip route add 10.98.0.0/24 via 10.99.0.1");
    bed.serve(&far, "0.0.0.0:80");
    far
}

#[test]
fn forwarding_for_containers_does_not_make_the_host_a_router() {
    let bed = Bed::new();
    let _far = far_network(&bed);
    ask(&bed.neighbour, "10.98.0.2:80").expect_err("not through us");
    let web = bed.container("172.17.0.2/16", &[]);
    assert_eq!(ask(&web.netns, "10.98.0.2:80").expect("containers may"), "10.98.0.1");
}

#[test]
fn a_host_that_is_a_router_stays_one_and_guards_its_containers() {
    let bed = Bed::bare();
    bed::run(&bed.host, "echo 1 > /proc/sys/net/ipv4/ip_forward");
    bed.network.ensure_bridge(&bridge("br0", "172.17.0.1/16")).expect("bridge");
    let _far = far_network(&bed);
    assert_eq!(ask(&bed.neighbour, "10.98.0.2:80").expect("through us, as before"), NEIGHBOUR);
    let web = bed.container("172.17.0.2/16", &[publish("0.0.0.0", 8080, 80, Tcp)]);
    bed.serve(&web.netns, "0.0.0.0:80");
    ask(&bed.neighbour, "172.17.0.2:80").expect_err("not directly");
    assert_eq!(ask(&bed.neighbour, "10.99.0.1:8080").expect("published"), NEIGHBOUR);
}

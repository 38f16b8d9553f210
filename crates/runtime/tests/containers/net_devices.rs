//! Devices that move into a container, in a network namespace of the test's own: the machine's are never touched.

use std::os::fd::AsFd as _;

use brig_oci::runtime::NetDevice;
use brig_sys::clone::flags;
use brig_sys::netlink::{ACK, CREATE, EXCL, Family, Message, Socket};

use crate::harness::*;

pub const TESTS: &[(&str, fn())] =
    &[("net_devices_move_in", net_devices_move_in), ("net_devices_come_back", net_devices_come_back)];

/// Runs a test in a process with a network namespace of its own.
fn alone(test: fn()) {
    let child = brig_sys::clone::spawn(0, None, || {
        brig_sys::namespace::unshare(flags::NEWNET).unwrap();
        test();
        0
    })
    .unwrap();
    assert_eq!(brig_sys::pidfd::reap(child.pidfd.as_fd()).unwrap(), brig_sys::pidfd::Exit::Code(0));
}

fn header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// A veth pair of which only this end is looked at, with an address, switched on.
fn device(name: &str, address: [u8; 4], up: bool) {
    let mut socket = Socket::open(Family::Route).unwrap();
    let mut make = Message::new(16, CREATE | EXCL | ACK, "RTM_NEWLINK(veth)");
    make.raw(&header(0, u32::from(up))).text(3, name).nest(18, |info| {
        info.text(1, "veth");
    });
    socket.execute(&mut [make]).unwrap();
    let index = index(name).unwrap();
    let mut add = Message::new(20, CREATE | EXCL, "RTM_NEWADDR");
    let [a, b, c, d] = index.to_ne_bytes();
    add.raw(&[2, 24, 0, 0, a, b, c, d]).attr(2, &address).attr(1, &address);
    // One that ends by itself stays behind.
    let mut passing = Message::new(20, CREATE | EXCL, "RTM_NEWADDR(passing)");
    let other = [address[0], address[1], address[2], address[3] + 1];
    let lifetimes: Vec<u8> = [600u32, 600, 0, 0].iter().flat_map(|number| number.to_ne_bytes()).collect();
    passing.raw(&[2, 24, 0, 0, a, b, c, d]).attr(2, &other).attr(1, &other).attr(6, &lifetimes);
    socket.execute(&mut [add]).unwrap();
    socket.execute(&mut [passing]).unwrap();
}

fn index(name: &str) -> Option<u32> {
    let mut ask = Message::new(18, 0, "RTM_GETLINK");
    ask.raw(&header(0, 0)).text(3, name);
    let mut found = None;
    let index = |body: &[u8]| u32::from_ne_bytes(body[4..8].try_into().unwrap());
    let asked = Socket::open(Family::Route).unwrap().ask(ask, |answer| found = Some(index(answer.body)));
    asked.ok().and(found)
}

fn wish(spec: &mut brig_oci::runtime::Spec, devices: &[(&str, &str)]) {
    linux(spec).net_devices =
        devices.iter().map(|(host, name)| ((*host).to_owned(), NetDevice { name: (*name).to_owned() })).collect();
}

const SHOW: &str = "busybox ip -o addr show | busybox awk '$3 == \"inet\" {print $2, $4}'; busybox ip -o link show | \
                    busybox awk -F'[:<> ,]+' '{print $2, /[<,]UP[,>]/ ? \"up\" : \"down\"}'";

fn net_devices_move_in() {
    alone(|| {
        for own_users in [true, false] {
            let place = Place::new("netdev");
            device("moved0", [10, 1, 2, 3], true);
            device("kept0", [10, 3, 2, 3], false);
            let mut spec = spec(&["sh", "-c", SHOW]);
            if !own_users {
                linux(&mut spec).namespaces.retain(|namespace| namespace.type_ != "user");
                linux(&mut spec).uid_mappings.clear();
                linux(&mut spec).gid_mappings.clear();
            }
            wish(&mut spec, &[("moved0", "eth7"), ("kept0", "")]);
            let ran = run(&place, &spec).unwrap();
            // The other end of a veth pair is elsewhere.
            let without_peer = |line: &str| match line.split_once('@') {
                Some((name, rest)) => format!("{name} {}", rest.split(' ').next_back().unwrap_or_default()),
                None => line.to_owned(),
            };
            let mut lines: Vec<String> = ran.stdout.lines().map(without_peer).collect();
            lines.sort_unstable();
            assert_eq!(lines, ["eth7 10.1.2.3/24", "eth7 up", "kept0 10.3.2.3/24", "kept0 up", "lo down"], "{ran:?}");
            assert_eq!((index("moved0"), index("kept0")), (None, None));
        }
    });
}

/// A container that cannot be created takes nothing along, whatever step fails.
fn net_devices_come_back() {
    alone(|| {
        device("first0", [10, 1, 2, 3], true);
        device("second0", [10, 2, 2, 3], true);
        let place = Place::new("netback");
        type Change = fn(&mut brig_oci::runtime::Spec);
        let cases: [(&str, Change); 6] = [
            ("there is no network device \"zabsent0\"", |spec| wish(spec, &[("first0", ""), ("zabsent0", "")])),
            // The name is taken inside.
            ("linux.netDevices: the container has a device \"lo\" already", |spec| {
                wish(spec, &[("first0", "x0"), ("second0", "lo")])
            }),
            ("executable file not found", |spec| process(spec).args = vec!["absent".into()]),
            ("mounts: ", |spec| spec.mounts.push(mount("/x", "bogusfs", "x", &[]))),
            ("process.cwd", |spec| process(spec).cwd = "/etc/passwd".into()),
            ("linux.netDevices: network devices cannot be moved", |spec| {
                linux(spec).sysctl.clear();
                linux(spec).namespaces.retain(|namespace| namespace.type_ != "network");
            }),
        ];
        for (why, change) in cases {
            let mut spec = spec(&["true"]);
            wish(&mut spec, &[("first0", "a0"), ("second0", "b0")]);
            change(&mut spec);
            let error = run(&place, &spec).unwrap_err();
            assert!(error.message.contains(why), "{why}: {error}");
            assert!(index("first0").is_some() && index("second0").is_some(), "{why}");
        }
        // And they are as they were.
        let mut spec = spec(&["sh", "-c", SHOW]);
        wish(&mut spec, &[("first0", ""), ("second0", "")]);
        let text = run(&place, &spec).unwrap().stdout;
        assert!(text.contains("first0 10.1.2.3/24") && text.contains("second0 10.2.2.3/24"), "{text}");
    });
}

//! A sealed box for network tests: a host namespace with a neighbour on its LAN, and containers. Nothing here
//! may touch the machine's own interfaces or tables.
#![allow(dead_code, clippy::panic)]

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use brig_network::ports::Publish;
use brig_network::{Bridge, Config, Endpoint, IpNet, Network, Port, Protocol, mac_for};
use brig_sys::netns;

/// The host's address on the LAN.
pub const HOST: &str = "10.99.0.1";
/// The neighbour's.
pub const NEIGHBOUR: &str = "10.99.0.2";
/// Short enough for tests that expect silence, long enough for a loaded machine.
pub const PATIENCE: Duration = Duration::from_millis(700);

pub struct Bed {
    pub network: Network,
    pub host: OwnedFd,
    pub neighbour: OwnedFd,
    /// What is listened on, to be shut down in the end.
    sockets: Mutex<Vec<OwnedFd>>,
}

pub struct Container {
    pub netns: OwnedFd,
    pub endpoint: Endpoint,
}

impl Container {
    pub fn ip(&self) -> IpAddr {
        self.endpoint.addresses[0].address()
    }
}

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub fn net(text: &str) -> IpNet {
    text.parse().expect("a network")
}

/// Two beds at once are fine; making namespaces is not what the machine's own must notice.
fn assert_sealed(fd: &OwnedFd) {
    let own = netns::identity(netns::current().expect("own").as_fd()).expect("identity");
    assert_ne!(netns::identity(fd.as_fd()).expect("identity"), own, "not in a namespace of its own");
}

pub fn bridge(name: &str, gateway: &str) -> Bridge {
    Bridge {
        name: name.to_owned(),
        gateways: vec![net(gateway)],
        mtu: None,
        icc: true,
        masquerade: true,
        internal: false,
    }
}

pub fn publish(host_ip: &str, host_port: u16, container_port: u16, protocol: Protocol) -> Port {
    Port { host_ip: ip(host_ip), host_port, container_port, protocol }
}

pub fn wish(port: u16) -> Publish {
    let host_ports = Some(port.to_string().parse().expect("a port"));
    Publish { host_ip: None, host_ports, container_port: 80, protocol: Protocol::Tcp }
}

/// Runs a program in the namespace and returns what it printed.
pub fn run(fd: &OwnedFd, command: &str) -> String {
    let output = netns::inside(fd.as_fd(), || Command::new("sh").args(["-c", command]).output().expect("sh"))
        .expect("namespace");
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Bed {
    /// A host with a LAN and a bridge `br0`, 172.17.0.1/16.
    pub fn new() -> Bed {
        let bed = Bed::bare();
        bed.network.ensure_bridge(&bridge("br0", "172.17.0.1/16")).expect("bridge");
        bed
    }

    /// A host with a LAN and no bridge.
    pub fn bare() -> Bed {
        let host = netns::create().expect("namespace");
        let neighbour = netns::create().expect("namespace");
        assert_sealed(&host);
        assert_sealed(&neighbour);
        let peer = format!("/proc/{}/fd/{}", std::process::id(), neighbour.as_raw_fd());
        run(
            &host,
            &format!(
                "ip link set lo up && ip link add lan0 type veth peer name eth0 netns {peer} && \
                 ip addr add {HOST}/24 dev lan0 && ip link set lan0 up"
            ),
        );
        run(
            &neighbour,
            &format!(
                "ip link set lo up && ip addr add {NEIGHBOUR}/24 dev eth0 && ip link set eth0 up && \
                 ip route add 172.16.0.0/12 via {HOST}"
            ),
        );
        // Asking makes the kernel finish the links; without it the first packets may be lost.
        run(&host, "ip link show lan0");
        run(&neighbour, "ip link show eth0");
        let network = netns::inside(host.as_fd(), || Network::new(Config::default()).expect("network"));
        Bed { network: network.expect("inside"), host, neighbour, sockets: Mutex::default() }
    }

    /// Another opener of the same host, as a restarted daemon.
    pub fn reopen(&mut self) {
        let network = netns::inside(self.host.as_fd(), || Network::new(Config::default()).expect("network"));
        self.network = network.expect("inside");
    }

    /// Runs `test` on beds with br_netfilter passing bridged packets to the table and not.
    pub fn each(test: impl Fn(&Bed)) {
        for value in ["0", "1"] {
            let bed = Bed::new();
            let knob = "/proc/sys/net/bridge/bridge-nf-call-iptables";
            let set = netns::inside(bed.host.as_fd(), || std::fs::write(knob, value)).expect("inside");
            println!("bridge-nf-call-iptables={value}: {set:?}");
            test(&bed);
        }
    }

    pub fn endpoint(&self, bridge: &str, address: &str, ports: &[Port]) -> Endpoint {
        let address = net(address);
        let IpAddr::V4(v4) = address.address() else { panic!("an IPv4 address") };
        let gateway = IpAddr::from(std::net::Ipv4Addr::from_bits(
            match address.network().address() {
                IpAddr::V4(v4) => v4.to_bits(),
                IpAddr::V6(_) => unreachable!("an IPv4 address"),
            } + 1,
        ));
        let id = format!("{:064x}", v4.to_bits());
        Endpoint {
            host_interface: Endpoint::host_interface_name(&id, bridge),
            id,
            bridge: bridge.to_owned(),
            interface: "eth0".to_owned(),
            mac: mac_for(v4),
            addresses: vec![address],
            gateways: vec![gateway],
            ports: ports.to_vec(),
        }
    }

    pub fn container(&self, address: &str, ports: &[Port]) -> Container {
        self.container_on("br0", address, ports)
    }

    pub fn container_on(&self, bridge: &str, address: &str, ports: &[Port]) -> Container {
        let netns = netns::create().expect("namespace");
        assert_sealed(&netns);
        let endpoint = self.endpoint(bridge, address, ports);
        self.network.attach(netns.as_fd(), &endpoint).expect("attach");
        Container { netns, endpoint }
    }

    /// Serves TCP at `address` in the namespace: every client is told the address it is seen under.
    pub fn serve(&self, fd: &OwnedFd, address: &str) {
        let listener = netns::inside(fd.as_fd(), || TcpListener::bind(address).expect("bind")).expect("inside");
        self.listens(listener.as_fd());
        std::thread::spawn(move || {
            // Until it is shut down with the bed.
            while let Ok((mut stream, peer)) = listener.accept() {
                drop(stream.write_all(peer.ip().to_string().as_bytes()));
            }
        });
    }

    /// Serves UDP likewise, with `greeting` before the address.
    pub fn serve_udp(&self, fd: &OwnedFd, address: &str, greeting: &str) {
        let socket = netns::inside(fd.as_fd(), || UdpSocket::bind(address).expect("bind")).expect("inside");
        self.listens(socket.as_fd());
        let greeting = greeting.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            // Until it is shut down with the bed.
            while let Ok((1.., peer)) = socket.recv_from(&mut buffer) {
                drop(socket.send_to(format!("{greeting}{}", peer.ip()).as_bytes(), peer));
            }
        });
    }

    fn listens(&self, socket: BorrowedFd<'_>) {
        self.sockets.lock().expect("nobody panics with the list").push(socket.try_clone_to_owned().expect("copy"));
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        for socket in self.sockets.lock().expect("nobody panics with the list").iter() {
            // It says that a UDP socket is not connected, and wakes its reader all the same.
            rustix::net::shutdown(socket, rustix::net::Shutdown::Read).ok();
        }
    }
}

/// Connects from the namespace; what the server says, or why not.
pub fn ask(fd: &OwnedFd, address: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().expect("an address with a port");
    netns::inside(fd.as_fd(), || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    })
    .expect("inside")
}

/// A UDP socket in the namespace.
pub fn udp(fd: &OwnedFd, address: &str) -> UdpSocket {
    let socket = netns::inside(fd.as_fd(), || UdpSocket::bind(address).expect("bind")).expect("inside");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    socket
}

/// Sends one datagram and waits for the answer from there; late answers to earlier questions are not it.
pub fn ask_udp(socket: &UdpSocket, address: &str) -> std::io::Result<String> {
    let address: SocketAddr = address.parse().expect("an address with a port");
    socket.send_to(b"?", address)?;
    let mut buffer = [0; 64];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        if from == address {
            return Ok(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
    }
}

/// Waits until `done`, at most twenty seconds: a loaded machine may take that long for what takes milliseconds on an idle one.
pub fn eventually(what: &str, done: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        // What is asked about comes from the kernel, other threads or nft, which have no event in common.
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: still not after twenty seconds");
}

//! The kernel's floor: what it costs to start and end a program in namespaces of its own, and nothing else.
//! Clones into all namespaces with an id map, mounts an overlay, proc, sysfs and a tmpfs for /dev, joins the new network to
//! a bridge by a veth pair, pivots, executes, waits. Prints the microseconds of each round. Must not do what no engine needs.

use brig_sys::clone::{self, flags};
use brig_sys::idmap::{self, Kind, Range};
use brig_sys::mount::{self, Attr, Context};
use brig_sys::netlink::{CREATE, EXCL, Family, Message, Socket};
use brig_sys::process::{StringArray, execute, set_parent_death_signal};
use brig_sys::{Error, Result, pidfd};
use rustix::fs::{Mode, OFlags};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_PID: u16 = 19;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFF_UP: u32 = 1;
/// A range of ids that no test host uses.
const FIRST_ID: u32 = 1_900_000_000;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [lower, scratch, rounds, program @ ..] = &arguments[..] else {
        eprintln!("usage: floor ROOTFS SCRATCH ROUNDS PROGRAM [ARGUMENT...]");
        return ExitCode::from(2);
    };
    let rounds: u32 = rounds.parse().unwrap_or(1);
    match run(lower, scratch, rounds, program) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(lower: &str, scratch: &str, rounds: u32, program: &[String]) -> Result<()> {
    let mut route = Socket::open(Family::Route)?;
    // The bridge is there before: an engine makes it once as well.
    let bridge = bridge(&mut route)?;
    for round in 0..rounds {
        let folder = format!("{scratch}/{round}");
        for name in ["upper", "work", "root"] {
            let path = format!("{folder}/{name}");
            std::fs::create_dir_all(&path).map_err(|error| failed(&format!("mkdir({path:?})"), &error))?;
        }
        let begun = Instant::now();
        once(&mut route, bridge, lower, &folder, round, program)?;
        println!("{}", begun.elapsed().as_micros());
    }
    Ok(())
}

fn once(route: &mut Socket, bridge: u32, lower: &str, folder: &str, round: u32, program: &[String]) -> Result<()> {
    let overlay = Context::open("overlay")?;
    overlay.set("lowerdir", lower)?;
    overlay.set("upperdir", format!("{folder}/upper").as_str())?;
    overlay.set("workdir", format!("{folder}/work").as_str())?;
    overlay.set_flag("volatile")?;
    let root = overlay.mount(Attr::empty())?;
    let (gate, opener) = pipe()?;
    let all = flags::NEWUSER
        | flags::NEWNS
        | flags::NEWPID
        | flags::NEWNET
        | flags::NEWIPC
        | flags::NEWUTS
        | flags::NEWCGROUP;
    let target = format!("{folder}/root");
    let child = clone::spawn(all, None, || match inside(&root, &gate, &target, program) {
        Ok(error) | Err(error) => {
            eprintln!("floor: inside: {error}");
            1
        }
    })?;
    let map = [Range { inside: 0, outside: FIRST_ID, count: 65_536 }];
    idmap::write(child.pid, Kind::Group, &map)?;
    idmap::write(child.pid, Kind::User, &map)?;
    // The child mounts while its network is made.
    let open = || rustix::io::write(&opener, b"x").map_err(|errno| Error::new("write(gate)", errno));
    open()?;
    veth(route, bridge, child.pid, round)?;
    open()?;
    let exit = pidfd::reap(child.pidfd.as_fd())?;
    if exit.shell_code() == 0 {
        Ok(())
    } else {
        Err(Error::new(format!("the program: {exit:?}"), rustix::io::Errno::CHILD))
    }
}

/// The child: mounts, network, pivot, execve. Returns only an error.
fn inside(root: &OwnedFd, gate: &OwnedFd, target: &str, program: &[String]) -> Result<Error> {
    let wait = || rustix::io::read(gate, &mut [0_u8]).map_err(|errno| Error::new("read(gate)", errno));
    // Were the parent gone, nobody would open the gate.
    set_parent_death_signal(9)?;
    wait()?;
    let place = open(target)?;
    mount::attach(root.as_fd(), place.as_fd())?;
    idmap::become_user(0, 0, Some(&[]))?;
    mount::mount_classic("proc", &format!("{target}/proc"), c"")?;
    mount::mount_classic("tmpfs", &format!("{target}/dev"), c"mode=755")?;
    mount::mount_classic("sysfs", &format!("{target}/sys"), c"")?;
    wait()?;
    network()?;
    mount::pivot_into(open(target)?.as_fd())?;
    let strings = program.iter().map(|word| CString::new(word.as_str()).unwrap_or_default()).collect::<Vec<_>>();
    let path = strings.first().cloned().unwrap_or_default();
    let error = execute(&path, &StringArray::new(strings), &StringArray::new(Vec::new()));
    Ok(error)
}

/// The container's end: addresses and both links up.
fn network() -> Result<()> {
    let mut route = Socket::open(Family::Route)?;
    let mut address = Message::new(RTM_NEWADDR, CREATE | EXCL, "RTM_NEWADDR(eth0)");
    // struct ifaddrmsg: family, prefix length, flags, scope, index. The peer is the second link of its namespace.
    let index = link_index("eth0")?;
    let mut header = [2, 16, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&index.to_ne_bytes());
    address.raw(&header).attr(IFA_LOCAL, &[172, 31, 0, 2]);
    let mut up = Message::new(RTM_NEWLINK, 0, "RTM_NEWLINK(eth0, up)");
    up.raw(&link_header(index, IFF_UP));
    let mut lo = Message::new(RTM_NEWLINK, 0, "RTM_NEWLINK(lo, up)");
    lo.raw(&link_header(1, IFF_UP));
    route.execute(&mut [lo, address, up])
}

fn veth(route: &mut Socket, bridge: u32, pid: i32, round: u32) -> Result<()> {
    let mut pair = Message::new(RTM_NEWLINK, CREATE | EXCL, "RTM_NEWLINK(veth)");
    pair.raw(&link_header(0, IFF_UP))
        .text(IFLA_IFNAME, &format!("fl{}x{round}", std::process::id()))
        .u32(IFLA_MASTER, bridge);
    pair.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "veth").nest(IFLA_INFO_DATA, |data| {
            data.nest(VETH_INFO_PEER, |peer| {
                peer.raw(&link_header(0, 0)).text(IFLA_IFNAME, "eth0").u32(IFLA_NET_NS_PID, pid.cast_unsigned());
            });
        });
    });
    route.execute(&mut [pair])
}

fn bridge(route: &mut Socket) -> Result<u32> {
    const NAME: &str = "floorbr";
    if let Ok(index) = link_index(NAME) {
        return Ok(index);
    }
    let mut message = Message::new(RTM_NEWLINK, CREATE | EXCL, "RTM_NEWLINK(floorbr, bridge)");
    message.raw(&link_header(0, IFF_UP)).text(IFLA_IFNAME, NAME);
    message.nest(IFLA_LINKINFO, |info| {
        info.text(IFLA_INFO_KIND, "bridge");
    });
    route.execute(&mut [message])?;
    link_index(NAME)
}

fn link_index(name: &str) -> Result<u32> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None);
    let socket = socket.map_err(|errno| Error::new("socket(AF_INET, SOCK_DGRAM)", errno))?;
    rustix::net::netdevice::name_to_index(socket, name)
        .map_err(|errno| Error::new(format!("ioctl(SIOCGIFINDEX, {name:?})"), errno))
}

fn link_header(index: u32, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn open(path: &str) -> Result<OwnedFd> {
    rustix::fs::open(Path::new(path), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::new(format!("open({path:?})"), errno))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| Error::new("pipe2(O_CLOEXEC)", errno))
}

fn failed(call: &str, error: &std::io::Error) -> Error {
    Error::new(call, rustix::io::Errno::from_io_error(error).unwrap_or(rustix::io::Errno::IO))
}

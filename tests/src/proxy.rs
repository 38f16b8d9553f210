//! A wire with a cutter: TCP passed on to another address, cut after so many bytes of answers.
//! Owns the listening thread; ends when dropped.

use crate::host::TestHost;
use brig_sys::netns;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A proxy in a host's network.
pub struct Proxy {
    /// Where it listens.
    pub address: String,
    shared: Arc<Shared>,
    listener: TcpListener,
}

struct Shared {
    /// Bytes of answers that may still pass before all connections are cut.
    left: AtomicI64,
    passed: AtomicU64,
    /// Whether new connections are taken after the cut.
    heal: AtomicBool,
    cuts: AtomicU32,
}

impl TestHost {
    /// Passes connections to `address` on to `target`, and cuts them once `bytes` of answers went through. Afterwards
    /// nothing passes, unless `heal`: then the next connections live.
    pub fn proxy(&self, address: &str, target: &str, bytes: i64, heal: bool) -> Proxy {
        let listener = netns::inside(self.netns.as_fd(), || TcpListener::bind(address).expect("the address is free"));
        let listener = listener.expect("the namespace can be entered");
        let shared = Arc::new(Shared {
            left: AtomicI64::new(bytes),
            passed: AtomicU64::new(0),
            heal: AtomicBool::new(heal),
            cuts: AtomicU32::new(0),
        });
        let (netns, target, state) = (Arc::clone(&self.netns), target.to_owned(), Arc::clone(&shared));
        let end = listener.try_clone().expect("a socket can be copied");
        std::thread::spawn(move || serve(&listener, &netns, &target, &state));
        Proxy { address: address.to_owned(), shared, listener: end }
    }
}

impl Proxy {
    /// How many connections were cut.
    pub fn cuts(&self) -> u32 {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    /// How many bytes of answers went through.
    pub fn passed(&self) -> u64 {
        self.shared.passed.load(Ordering::SeqCst)
    }

    /// Lets everything pass from now on.
    pub fn heal(&self) {
        self.shared.left.store(i64::MAX, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Whoever accepts there gets an error from now on.
        rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Read).ok();
    }
}

fn serve(listener: &TcpListener, netns: &OwnedFd, target: &str, shared: &Arc<Shared>) {
    while let Ok((client, _)) = listener.accept() {
        let Ok(server) = crate::http::connect(netns, target, Duration::from_secs(5)) else { continue };
        let (mut client_in, mut server_out) = (client.try_clone().expect("copy"), server.try_clone().expect("copy"));
        std::thread::spawn(move || {
            std::io::copy(&mut client_in, &mut server_out).ok();
            server_out.shutdown(Shutdown::Write).ok();
        });
        let shared = Arc::clone(shared);
        std::thread::spawn(move || pass(server, client, &shared));
    }
}

fn pass(mut server: TcpStream, mut client: TcpStream, shared: &Shared) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = server.read(&mut buffer) {
        let left = shared.left.load(Ordering::SeqCst);
        let passed = usize::try_from(left.max(0)).unwrap_or(usize::MAX).min(count);
        shared.left.fetch_sub(i64::try_from(passed).unwrap_or(0), Ordering::SeqCst);
        if client.write_all(&buffer[..passed]).is_err() {
            break;
        }
        shared.passed.fetch_add(passed as u64, Ordering::SeqCst);
        if passed < count {
            shared.cuts.fetch_add(1, Ordering::SeqCst);
            if shared.heal.load(Ordering::SeqCst) {
                shared.left.store(i64::MAX, Ordering::SeqCst);
            }
            break;
        }
    }
    client.shutdown(Shutdown::Both).ok();
    server.shutdown(Shutdown::Both).ok();
}

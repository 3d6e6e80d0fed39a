//! What sockets can do: a ping-pong over a Unix socket, a plain request/response and iperf3 over TCP.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};

use clap::Args;
use serde_json::Value;

use crate::watch::{Watch, Window};
use crate::{Failed, Outcome, why};

/// A child process that answers each `there` bytes with `back` bytes over a Unix socket: as far away as a node is. Both ends block, none spins.
/// It stays for the whole bench and is asked in bursts between ours, so both sides meet the machine in the same mood.
pub(crate) struct PingPong {
    near: UnixStream,
    child: Child,
    there: usize,
    back: usize,
}

/// What the child is told.
#[derive(Args)]
pub(crate) struct EchoArgs {
    there: usize,
    back: usize,
}

impl PingPong {
    pub(crate) fn start(there: usize, back: usize) -> Outcome<PingPong> {
        let (near, far) = UnixStream::pair().map_err(why("making a socket pair"))?;
        let own = std::env::current_exe().map_err(why("finding this program"))?;
        let mut command = Command::new(own);
        command.arg("echo").arg(there.to_string()).arg(back.to_string());
        command.stdin(Stdio::from(OwnedFd::from(far))).stdout(Stdio::null());
        let child = command.spawn().map_err(why("starting the echo"))?;
        Ok(PingPong { near, child, there, back })
    }

    /// The microseconds of each round.
    pub(crate) fn burst(&mut self, rounds: usize) -> Outcome<Vec<f64>> {
        let (request, mut answer) = (vec![2u8; self.there], vec![0u8; self.back]);
        let mut samples = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let watch = Watch::start();
            self.near.write_all(&request).map_err(why("ping"))?;
            self.near.read_exact(&mut answer).map_err(why("pong"))?;
            samples.push(watch.us());
        }
        Ok(samples)
    }
}

impl Drop for PingPong {
    fn drop(&mut self) {
        // The child ends by itself when its socket does.
        let _ = self.near.shutdown(std::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// The child's side: its stdin is the socket.
pub(crate) fn echo(args: &EchoArgs) -> Outcome<()> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(why("the socket on stdin"))?;
    let mut far = UnixStream::from(socket);
    let (mut request, answer) = (vec![0u8; args.there], vec![1u8; args.back]);
    while far.read_exact(&mut request).is_ok() && far.write_all(&answer).is_ok() {}
    Ok(())
}

/// Bytes of a block that the plain request/response sends.
const BLOCK: usize = 1 << 20;
/// Congestion control of the limits: what Forebay's connections inside a machine have, and faster there than those that pace.
const CONGESTION: &str = "reno";

/// What a plain request/response sends, and where it lands.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload {
    /// The same block into the same place again and again: neither leaves the core's cache.
    Cached,
    /// This many blocks in turn, into as many places as are in flight, as a store sends and lands them: bytes come from memory.
    FromMemory(usize),
}

/// Plain request/response over TCP loopback: 64 bytes there, 1 MiB back, `depth` requests in flight; GB/s, and the microseconds of each.
pub(crate) fn request_response(seconds: f64, depth: usize, payload: Payload) -> Outcome<(f64, Vec<f64>)> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(why("listening"))?;
    let address = listener.local_addr().map_err(why("listening"))?;
    let (blocks, places) = match payload {
        Payload::Cached => (1, 1),
        Payload::FromMemory(blocks) => (blocks, depth),
    };
    // Written, or all of it would be the kernel's one page of zeros.
    let answers = vec![3u8; blocks * BLOCK];
    std::thread::scope(|scope| {
        let answers = &answers;
        let server = scope.spawn(move || -> std::io::Result<()> {
            let (mut socket, _) = listener.accept()?;
            tune(&socket)?;
            let mut request = [0u8; 64];
            for answer in answers.chunks(BLOCK).cycle() {
                if socket.read_exact(&mut request).is_err() {
                    break;
                }
                socket.write_all(answer)?;
            }
            Ok(())
        });
        let mut socket = TcpStream::connect(address).map_err(why("connecting"))?;
        tune(&socket).map_err(why("connecting"))?;
        let (request, mut place) = ([1u8; 64], vec![7u8; places * BLOCK]);
        for _ in 0..depth {
            socket.write_all(&request).map_err(why("asking"))?;
        }
        let watch = Watch::start();
        let mut window = Window::start(depth);
        let mut came = 0;
        while watch.s() < seconds {
            let at = came % places * BLOCK;
            socket.read_exact(&mut place[at..at + BLOCK]).map_err(why("reading"))?;
            came += 1;
            window.came();
            socket.write_all(&request).map_err(why("asking"))?;
        }
        let us = window.us();
        let gb_s = us.len() as f64 * BLOCK as f64 / watch.s() / 1e9;
        drop(socket);
        let _ = server.join();
        Ok((gb_s, us))
    })
}

fn tune(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    // A kernel that forbids the name leaves the limit with what it has.
    let _ = rustix::net::sockopt::set_tcp_congestion(socket, CONGESTION);
    Ok(())
}

/// One stream of iperf3 over loopback, in GB/s.
pub(crate) fn iperf3_gb_s(seconds: u32) -> Outcome<f64> {
    struct Server(Child);
    impl Drop for Server {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .map_err(why("finding a free port"))?
        .port()
        .to_string();
    let mut server = Command::new("iperf3");
    server
        .args(["-s", "-1", "-B", "127.0.0.1", "-p", &port])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _server = Server(server.spawn().map_err(why("starting iperf3"))?);
    let mut last = String::new();
    let watch = Watch::start();
    while watch.s() < 5.0 {
        let output = Command::new("iperf3")
            .args(["-c", "127.0.0.1", "-p", &port, "-t", &seconds.to_string(), "-C", CONGESTION, "-J"])
            .output()
            .map_err(why("running iperf3"))?;
        let json: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if let Some(bits) = json["end"]["sum_received"]["bits_per_second"].as_f64() {
            return Ok(bits / 8e9);
        }
        last = json["error"].as_str().unwrap_or("no answer").to_owned();
    }
    Err(Failed(format!("iperf3 gave no number: {last}")))
}

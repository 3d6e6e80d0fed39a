//! The limits: fio and iperf3 where they are installed, else raw loops of our own, named as such.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use forebay_types::{Clock, SystemClock};
use serde_json::Value;

use crate::report::{percentile, say};
use crate::{Failed, Outcome, why};

/// What measures this machine.
pub(crate) struct Tools {
    pub(crate) fio: bool,
    pub(crate) iperf3: bool,
}

/// Finds fio and iperf3, installing them with apt-get where this user may; says aloud what is missing.
pub(crate) fn tools() -> Tools {
    let has = |name: &str| {
        Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    if (!has("fio") || !has("iperf3")) && rustix::process::geteuid().is_root() {
        say("installing fio and iperf3 (the limits) with apt-get");
        let quiet = |args: &[&str]| {
            Command::new("apt-get").args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()
        };
        let _ = quiet(&["update", "-qq"]);
        let _ = quiet(&["install", "-y", "-qq", "fio", "iperf3"]);
    }
    let tools = Tools { fio: has("fio"), iperf3: has("iperf3") };
    if !tools.fio {
        say(
            "fio is not installed: rows against the drive use our own raw loops (pread/pwrite with O_DIRECT), named as such",
        );
    }
    if !tools.iperf3 {
        say("iperf3 is not installed: the TCP row uses our own request/response loop alone");
    }
    tools
}

/// A drive job.
pub(crate) struct Job<'a> {
    pub(crate) file: &'a Path,
    pub(crate) size_mib: u64,
    pub(crate) write: bool,
    pub(crate) random: bool,
    pub(crate) block_kib: u64,
    pub(crate) depth: u32,
    pub(crate) seconds: u32,
    /// fdatasync after this many writes; 0 never.
    pub(crate) sync_every: u32,
}

/// What a drive job gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JobResult {
    pub(crate) gb_s: f64,
    pub(crate) p50_us: f64,
}

/// Runs a job with fio: io_uring, registered buffers, direct.
pub(crate) fn fio(job: &Job<'_>) -> Outcome<JobResult> {
    let mode = match (job.write, job.random) {
        (true, true) => "randwrite",
        (true, false) => "write",
        (false, true) => "randread",
        (false, false) => "read",
    };
    let mut command = Command::new("fio");
    command.args([
        "--name=limit",
        "--ioengine=io_uring",
        "--fixedbufs=1",
        "--direct=1",
        "--time_based=1",
        "--output-format=json",
        "--norandommap=1",
        "--overwrite=1",
    ]);
    command
        .arg(format!("--filename={}", job.file.display()))
        .arg(format!("--size={}M", job.size_mib))
        .arg(format!("--rw={mode}"));
    command
        .arg(format!("--bs={}k", job.block_kib))
        .arg(format!("--iodepth={}", job.depth))
        .arg(format!("--runtime={}", job.seconds));
    if job.sync_every > 0 {
        command.arg(format!("--fdatasync={}", job.sync_every));
    }
    let output = command.stdin(Stdio::null()).output().map_err(why("running fio"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let json: Value = text.find('{').and_then(|at| serde_json::from_str(&text[at..]).ok()).ok_or_else(|| {
        Failed(format!(
            "fio gave no JSON: {}",
            String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("nothing")
        ))
    })?;
    let side = &json["jobs"][0][if job.write { "write" } else { "read" }];
    let bytes_s = side["bw_bytes"].as_f64().filter(|x| *x > 0.0).ok_or_else(|| Failed("fio moved no bytes".into()))?;
    let p50_us = side["clat_ns"]["percentile"]["50.000000"].as_f64().unwrap_or(f64::NAN) / 1000.0;
    Ok(JobResult { gb_s: bytes_s / 1e9, p50_us })
}

/// A file of `mib` MiB, every byte written once, so that no extent is unwritten.
pub(crate) fn written_file(path: &Path, mib: u64) -> Outcome<()> {
    let mut file = std::fs::File::create(path).map_err(why("making the raw file"))?;
    let chunk = vec![0x5au8; 1 << 20];
    for _ in 0..mib {
        file.write_all(&chunk).map_err(why("writing the raw file"))?;
    }
    file.sync_all().map_err(why("flushing the raw file"))
}

/// Our own loop, where fio is missing: `depth` threads of pread or pwrite with O_DIRECT.
pub(crate) fn own_drive_loop(job: &Job<'_>) -> Outcome<JobResult> {
    use std::os::unix::fs::{FileExt, OpenOptionsExt};
    const O_DIRECT: i32 = 0o40000;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(job.write)
        .custom_flags(O_DIRECT)
        .open(job.file)
        .map_err(why("opening the raw file"))?;
    let block = (job.block_kib * 1024) as usize;
    let blocks = job.size_mib * 1024 / job.block_kib;
    let clock = SystemClock::new();
    let stop_us = u64::from(job.seconds) * 1_000_000;
    let results: Vec<std::io::Result<Vec<f64>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..u64::from(job.depth))
            .map(|worker| {
                let (file, clock) = (&file, &clock);
                scope.spawn(move || {
                    let mut memory = vec![0u8; block + 4096];
                    let skip = memory.as_ptr().align_offset(4096);
                    let buffer = &mut memory[skip..skip + block];
                    let (mut state, mut latencies) = (worker + 1, Vec::new());
                    while clock.now_us() < stop_us {
                        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                        let at = ((state >> 33) % blocks) * block as u64;
                        let start = clock.now_us();
                        if job.write {
                            file.write_all_at(buffer, at)?
                        } else {
                            file.read_exact_at(buffer, at)?
                        }
                        if job.sync_every > 0 && latencies.len() % job.sync_every as usize == 0 {
                            file.sync_data()?;
                        }
                        latencies.push((clock.now_us() - start) as f64);
                    }
                    Ok(latencies)
                })
            })
            .collect();
        workers
            .into_iter()
            .map(|w| w.join().unwrap_or_else(|_| Err(std::io::Error::other("a worker panicked"))))
            .collect()
    });
    let seconds = clock.now_us() as f64 / 1e6;
    let mut all = Vec::new();
    for result in results {
        all.extend(result.map_err(why("the raw loop"))?);
    }
    Ok(JobResult { gb_s: all.len() as f64 * block as f64 / seconds / 1e9, p50_us: percentile(&all, 0.5) })
}

/// One core's memcpy of 1 MiB blocks between two spans of 256 MiB, in GB/s.
pub(crate) fn memcpy_gb_s() -> f64 {
    const SPAN: usize = 256 << 20;
    const BLOCK: usize = 1 << 20;
    let from = vec![7u8; SPAN];
    let mut to = vec![1u8; SPAN];
    let clock = SystemClock::new();
    for round in 0..4 {
        for i in 0..SPAN / BLOCK {
            let (a, b) = (i * BLOCK, (i * 97 + round) % (SPAN / BLOCK) * BLOCK);
            to[a..a + BLOCK].copy_from_slice(&from[b..b + BLOCK]);
        }
    }
    let gb_s = 4.0 * SPAN as f64 / (clock.now_us() as f64 * 1e-6) / 1e9;
    std::hint::black_box(&to);
    gb_s
}

/// p50 in microseconds of `size` bytes there and one small answer back over a Unix socket, blocking, two threads.
pub(crate) fn ping_pong_us(there: usize, back: usize, rounds: usize) -> Outcome<f64> {
    let (mut near, mut far) = UnixStream::pair().map_err(why("making a socket pair"))?;
    let clock = SystemClock::new();
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || {
            let (mut request, answer) = (vec![0u8; there], vec![1u8; back]);
            while far.read_exact(&mut request).is_ok() && far.write_all(&answer).is_ok() {}
        });
        let (request, mut answer) = (vec![2u8; there], vec![0u8; back]);
        let mut samples = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            let start = clock.now_us();
            near.write_all(&request).map_err(why("ping"))?;
            near.read_exact(&mut answer).map_err(why("pong"))?;
            samples.push((clock.now_us() - start) as f64);
        }
        drop(near);
        let _ = echo.join();
        // Microseconds are coarse against a ping-pong of a few: the mean of the middle half has the resolution the clock lacks.
        samples.sort_by(f64::total_cmp);
        let middle = &samples[rounds / 4..rounds * 3 / 4];
        Ok(middle.iter().sum::<f64>() / middle.len() as f64)
    })
}

/// Plain request/response over TCP loopback: 64 bytes there, 1 MiB back, `depth` requests in flight, in GB/s.
pub(crate) fn tcp_request_response_gb_s(seconds: f64, depth: usize) -> Outcome<f64> {
    const BLOCK: usize = 1 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").map_err(why("listening"))?;
    let address = listener.local_addr().map_err(why("listening"))?;
    std::thread::scope(|scope| {
        let server = scope.spawn(move || -> std::io::Result<()> {
            let (mut socket, _) = listener.accept()?;
            socket.set_nodelay(true)?;
            let (mut request, answer) = ([0u8; 64], vec![3u8; BLOCK]);
            while socket.read_exact(&mut request).is_ok() {
                socket.write_all(&answer)?;
            }
            Ok(())
        });
        let mut socket = TcpStream::connect(address).map_err(why("connecting"))?;
        socket.set_nodelay(true).map_err(why("connecting"))?;
        let (request, mut answer) = ([1u8; 64], vec![0u8; BLOCK]);
        for _ in 0..depth {
            socket.write_all(&request).map_err(why("asking"))?;
        }
        let clock = SystemClock::new();
        let mut blocks = 0u64;
        while (clock.now_us() as f64) < seconds * 1e6 {
            socket.read_exact(&mut answer).map_err(why("reading"))?;
            socket.write_all(&request).map_err(why("asking"))?;
            blocks += 1;
        }
        let gb_s = blocks as f64 * BLOCK as f64 / clock.now_us() as f64 / 1e3;
        drop(socket);
        let _ = server.join();
        Ok(gb_s)
    })
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
    let clock = SystemClock::new();
    while clock.now_us() < 5_000_000 {
        let output = Command::new("iperf3")
            .args(["-c", "127.0.0.1", "-p", &port, "-t", &seconds.to_string(), "-J"])
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

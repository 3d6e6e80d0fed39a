//! The drive's own speed: fio with io_uring and registered buffers, or threads of pread and pwrite where there is no fio.

use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::FallocateFlags;
use serde_json::Value;

use super::Tools;
use crate::report::percentile;
use crate::watch::Watch;
use crate::{Failed, Outcome, why};

/// A drive job: part of a file, read or written once.
#[derive(Debug, Clone)]
pub(crate) struct Job<'a> {
    pub(crate) file: &'a Path,
    /// Where its part begins, and how long it is.
    pub(crate) from_mib: u64,
    pub(crate) size_mib: u64,
    pub(crate) write: bool,
    /// In an order of chance that meets every block once.
    pub(crate) random: bool,
    pub(crate) block_kib: u64,
    pub(crate) depth: u32,
    /// For this long, round and round; `None`: the part once.
    pub(crate) seconds: Option<u32>,
    /// fdatasync after this many writes; 0 never.
    pub(crate) sync_every: u32,
}

/// What a drive job gave.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct JobResult {
    pub(crate) gb_s: f64,
    /// From submission to completion.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// None from our own loop.
    pub(crate) cpu_s_per_gb: Option<f64>,
}

/// Runs a job with what is there.
pub(crate) fn run(tools: &Tools, job: &Job<'_>) -> Outcome<JobResult> {
    if tools.fio.is_some() { Fio::start(job)?.finish() } else { own_loop(job) }
}

/// What ran it, for the row.
pub(crate) fn name(tools: &Tools, what: &str) -> String {
    let by = if tools.fio.is_some() { "fio, io_uring, registered buffers" } else { "own O_DIRECT loop" };
    format!("{by}, {what}")
}

/// fio at work. Dropping it before `finish` ends it.
pub(crate) struct Fio {
    child: Option<std::process::Child>,
    write: bool,
}

impl Fio {
    pub(crate) fn start(job: &Job<'_>) -> Outcome<Fio> {
        Fio::start_with(job, &[])
    }

    /// The same with further flags.
    pub(crate) fn start_with(job: &Job<'_>, flags: &[String]) -> Outcome<Fio> {
        let mode = match (job.write, job.random) {
            (true, true) => "randwrite",
            (true, false) => "write",
            (false, true) => "randread",
            (false, false) => "read",
        };
        let mut command = Command::new("fio");
        // Not refilled: the drive sees the same buffers again, as it does from our pattern.
        command.args(["--name=limit", "--ioengine=io_uring", "--fixedbufs=1", "--direct=1", "--output-format=json"]);
        // From submission to completion: where a read ends inside the call that submits it, fio's default leaves all of it out.
        command.args(["--lat_percentiles=1", "--clat_percentiles=0"]);
        command.args(["--overwrite=1", "--percentile_list=50:99:99.9", "--randseed=1"]);
        command
            .arg(format!("--filename={}", job.file.display()))
            .arg(format!("--offset={}M", job.from_mib))
            .arg(format!("--size={}M", job.size_mib))
            .arg(format!("--rw={mode}"))
            .arg(format!("--bs={}k", job.block_kib))
            .arg(format!("--iodepth={}", job.depth));
        if let Some(seconds) = job.seconds {
            command.args(["--time_based=1", "--norandommap=1"]).arg(format!("--runtime={seconds}"));
        }
        if job.sync_every > 0 {
            command.arg(format!("--fdatasync={}", job.sync_every));
        }
        command.args(flags).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Fio { child: Some(command.spawn().map_err(why("starting fio"))?), write: job.write })
    }

    pub(crate) fn finish(mut self) -> Outcome<JobResult> {
        let Some(child) = self.child.take() else { return Err(Failed("fio is gone".into())) };
        let output = child.wait_with_output().map_err(why("running fio"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let json: Value = text.find('{').and_then(|at| serde_json::from_str(&text[at..]).ok()).ok_or_else(|| {
            let said = String::from_utf8_lossy(&output.stderr);
            Failed(format!("fio gave no JSON: {}", said.lines().next().unwrap_or("nothing")))
        })?;
        result(&json["jobs"][0], self.write)
    }
}

impl Drop for Fio {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn result(job: &Value, write: bool) -> Outcome<JobResult> {
    let side = &job[if write { "write" } else { "read" }];
    let number = |value: &Value| value.as_f64().filter(|x| *x > 0.0);
    let bytes_s = number(&side["bw_bytes"]).ok_or_else(|| Failed("fio moved no bytes".into()))?;
    let at = |share: &str| side["lat_ns"]["percentile"][share].as_f64().unwrap_or(f64::NAN) / 1e3;
    // usr_cpu and sys_cpu are percent of the job's run time.
    let cpu_s = (job["usr_cpu"].as_f64().unwrap_or(f64::NAN) + job["sys_cpu"].as_f64().unwrap_or(f64::NAN)) / 100.0
        * job["job_runtime"].as_f64().unwrap_or(f64::NAN)
        / 1e3;
    let gb = number(&side["io_bytes"]).unwrap_or(f64::NAN) / 1e9;
    Ok(JobResult {
        gb_s: bytes_s / 1e9,
        p50_us: at("50.000000"),
        p99_us: at("99.000000"),
        p999_us: at("99.900000"),
        cpu_s_per_gb: Some(cpu_s / gb).filter(|x| x.is_finite()),
    })
}

/// A file of `mib` MiB laid out as a drive with `--prewrite` is: its room taken at once, then every byte written, so that no extent is
/// unwritten.
pub(crate) fn written_file(path: &Path, mib: u64) -> Outcome<()> {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).map_err(why("making the raw file"))?;
    if rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, mib << 20).is_err() {
        file.set_len(mib << 20).map_err(why("making the raw file"))?;
    }
    let chunk = crate::work::pattern(1 << 20);
    for i in 0..mib {
        file.write_all_at(&chunk, i << 20).map_err(why("writing the raw file"))?;
        if i % 256 == 255 {
            file.sync_data().map_err(why("flushing the raw file"))?;
        }
    }
    file.sync_all().map_err(why("flushing the raw file"))
}

/// Our own loop, where fio is missing: `depth` threads of pread or pwrite with O_DIRECT.
fn own_loop(job: &Job<'_>) -> Outcome<JobResult> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(job.write)
        .custom_flags(rustix::fs::OFlags::DIRECT.bits() as i32)
        .open(job.file)
        .map_err(why("opening the raw file"))?;
    let watch = Watch::start();
    let results: Vec<std::io::Result<Vec<f64>>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..u64::from(job.depth))
            .map(|worker| {
                let file = &file;
                scope.spawn(move || own_worker(job, file, worker))
            })
            .collect();
        workers
            .into_iter()
            .map(|w| w.join().unwrap_or_else(|_| Err(std::io::Error::other("a worker panicked"))))
            .collect()
    });
    let seconds = watch.s();
    let mut all = Vec::new();
    for result in results {
        all.extend(result.map_err(why("the raw loop"))?);
    }
    let [p50_us, p99_us, p999_us] = [0.5, 0.99, 0.999].map(|share| percentile(&all, share));
    Ok(JobResult {
        gb_s: all.len() as f64 * (job.block_kib * 1024) as f64 / seconds / 1e9,
        p50_us,
        p99_us,
        p999_us,
        cpu_s_per_gb: None,
    })
}

/// One thread's share of the blocks: every `depth`th, in an order of its own if the job is random.
fn own_worker(job: &Job<'_>, file: &std::fs::File, worker: u64) -> std::io::Result<Vec<f64>> {
    use std::os::unix::fs::FileExt;
    let block = job.block_kib as usize * 1024;
    let mut order: Vec<u64> =
        (0..job.size_mib * 1024 / job.block_kib).skip(worker as usize).step_by(job.depth as usize).collect();
    if job.random {
        order.sort_by_key(|i| (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23));
    }
    let mut memory = vec![0u8; block + 4096];
    let skip = memory.as_ptr().align_offset(4096);
    let buffer = &mut memory[skip..skip + block];
    let (watch, mut latencies) = (Watch::start(), Vec::new());
    loop {
        for i in &order {
            if job.seconds.is_some_and(|s| watch.s() >= f64::from(s)) {
                return Ok(latencies);
            }
            let at = (job.from_mib << 20) + i * block as u64;
            let one = Watch::start();
            match job.write {
                true => file.write_all_at(buffer, at)?,
                false => file.read_exact_at(buffer, at)?,
            }
            latencies.push(one.us());
            if job.sync_every > 0 && latencies.len() % job.sync_every as usize == 0 {
                file.sync_data()?;
            }
        }
        if job.seconds.is_none() || order.is_empty() {
            return Ok(latencies);
        }
    }
}

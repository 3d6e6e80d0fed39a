//! Every speed row of the design, each beside its limit in the same run.

use std::path::PathBuf;

use clap::Args;
use forebay_client::{Client, NamespaceHandle};
use forebay_types::{Class, Clock, Fingerprint, Key, SystemClock};
use serde_json::{Value, json};

use crate::node::{Node, Setup, cpu_s};
use crate::raw::{self, Job, JobResult, Tools};
use crate::report::{Row, Samples, Target, percentile, print, say, table};
use crate::{Common, Failed, Outcome, why};

const MIB: usize = 1 << 20;

#[derive(Args)]
pub(crate) struct LimitsArgs {
    #[command(flatten)]
    common: Common,
    /// Interleaved pairs of limit and ours a row.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=50))]
    pairs: u16,
    /// Only rows whose path contains this.
    #[arg(long)]
    only: Option<String>,
    /// Blocks in the index for the rows of 1,000,000 blocks; fewer are named in the row.
    #[arg(long, default_value_t = 1_000_000)]
    blocks: u64,
}

struct Bench<'a> {
    args: &'a LimitsArgs,
    tools: Tools,
    dir: PathBuf,
    rows: Vec<Row>,
}

pub(crate) fn run(args: &LimitsArgs) -> Outcome<()> {
    let base = if args.common.dir.is_absolute() {
        args.common.dir.clone()
    } else {
        std::env::current_dir().map_err(why("the current folder"))?.join(&args.common.dir)
    };
    let dir = base.join(format!("limits-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(why("making the bench folder"))?;
    let mut bench = Bench { args, tools: raw::tools(), dir: dir.clone(), rows: Vec::new() };
    let done = bench.all();
    let _ = std::fs::remove_dir_all(&dir);
    done?;
    let met = bench.rows.iter().filter(|row| row.met()).count();
    say(&table(&bench.rows));
    say(&format!(
        "{met} of {} rows reach their target; medians of {} interleaved pairs; spread = (max - min) / median, ours / limit",
        bench.rows.len(),
        args.pairs
    ));
    if args.common.json {
        print(&json!({ "rows": bench.rows.iter().map(Row::json).collect::<Vec<Value>>() }).to_string());
    }
    Ok(())
}

/// Measures work between its creation and `per_gb`.
struct Meter {
    clock: SystemClock,
    cpu: f64,
    pid: u32,
}

impl Meter {
    fn start(node: &Node) -> Meter {
        Meter { clock: SystemClock::new(), cpu: cpu_s(Some(node.pid())), pid: node.pid() }
    }

    /// GB/s and CPU seconds per GB of both processes.
    fn stop(&self, bytes: u64) -> (f64, f64) {
        let gb = bytes as f64 / 1e9;
        (gb / (self.clock.now_us() as f64 / 1e6), (cpu_s(Some(self.pid)) - self.cpu) / gb)
    }
}

impl Bench<'_> {
    fn all(&mut self) -> Outcome<()> {
        let wants =
            |paths: &[&str]| self.args.only.as_deref().is_none_or(|only| paths.iter().any(|p| p.contains(only)));
        let drive = wants(&["nvme_1m_qd16", "nvme_64k_qd1_p50_us"]);
        let dram = wants(&["dram_1m", "dram_16k_p50_us", "tcp_1m"]);
        let durable = wants(&["put_durable_1m"]);
        let million = wants(&["match_1024_us", "recover_1m_blocks_s", "index_bytes_per_block"]);
        if drive {
            self.drive_rows()?;
        }
        if dram {
            self.dram_rows()?;
        }
        if durable {
            self.durable_row()?;
        }
        if million {
            self.million_rows()?;
        }
        Ok(())
    }

    fn setup(&self, capacity: &str, memory: &str, tcp: bool, extra: &[&str]) -> Setup {
        let extra = extra.iter().map(|x| (*x).to_owned()).collect();
        Setup { dir: self.dir.join("n"), capacity: capacity.into(), memory: memory.into(), tcp, extra }
    }

    fn drive_job(&self, job: &Job<'_>) -> Outcome<JobResult> {
        if self.tools.fio { raw::fio(job) } else { raw::own_drive_loop(job) }
    }

    fn drive_limit_name(&self, what: &str) -> String {
        if self.tools.fio {
            format!("fio io_uring fixed buffers, {what}")
        } else {
            format!("own O_DIRECT loop, {what}")
        }
    }

    /// Blocks from the drive: each is asked for once, so none comes from DRAM.
    fn drive_rows(&mut self) -> Outcome<()> {
        const PER_PAIR: usize = 768;
        const SMALL_PER_PAIR: usize = 1500;
        let pairs = usize::from(self.args.pairs);
        say("drive rows: filling");
        let raw_file = self.dir.join("raw");
        raw::written_file(&raw_file, 2048)?;
        let node = Node::start(
            &self.args.common,
            self.setup(&format!("{}MiB", pairs * 1200 + 2048), "320MiB", false, &["--prewrite"]),
        )?;
        let client = node.unix()?;
        let space = attach(&client)?;
        let large = fill(&space, "large", PER_PAIR * pairs, MIB)?;
        let small = fill(&space, "small", SMALL_PER_PAIR * pairs, 64 << 10)?;
        // What the fill left in DRAM is pushed out by blocks nobody asks for.
        fill(&space, "filler", 400, MIB)?;
        let (mut large_ours, mut large_limit, mut cpu) = (Samples::default(), Samples::default(), Samples::default());
        let (mut small_ours, mut small_limit) = (Samples::default(), Samples::default());
        for pair in 0..pairs {
            say(&format!("drive rows: pair {} of {pairs}", pair + 1));
            let job = |block_kib, depth| Job {
                file: &raw_file,
                size_mib: 2048,
                write: false,
                random: true,
                block_kib,
                depth,
                seconds: 2,
                sync_every: 0,
            };
            large_limit.0.push(self.drive_job(&job(1024, 16))?.gb_s);
            let keys = &shuffled(&large)[pair * PER_PAIR..(pair + 1) * PER_PAIR];
            let meter = Meter::start(&node);
            expect_all(&space, keys, MIB, 16)?;
            let (gb_s, cpu_s_per_gb) = meter.stop((PER_PAIR * MIB) as u64);
            large_ours.0.push(gb_s);
            cpu.0.push(cpu_s_per_gb);
            let ping = raw::ping_pong_us(64, 64, 4000)?;
            small_limit.0.push(self.drive_job(&job(64, 1))?.p50_us + ping);
            small_ours.0.push(one_by_one(
                &space,
                &shuffled(&small)[pair * SMALL_PER_PAIR..(pair + 1) * SMALL_PER_PAIR],
                64 << 10,
            )?);
        }
        self.rows.push(Row {
            path: "nvme_1m_qd16",
            unit: "GB/s",
            ours: large_ours,
            limit: large_limit,
            limit_is: self.drive_limit_name("1 MiB, depth 16"),
            cpu_s_per_gb: Some(cpu.median()),
            target: Target::RatioAtLeast(0.90),
        });
        self.rows.push(Row {
            path: "nvme_64k_qd1_p50_us",
            unit: "us",
            ours: small_ours,
            limit: small_limit,
            limit_is: format!("{} + Unix ping-pong", self.drive_limit_name("64 KiB, depth 1, p50")),
            cpu_s_per_gb: None,
            target: Target::RatioAtMost(1.2),
        });
        let _ = std::fs::remove_file(&raw_file);
        Ok(())
    }

    /// Blocks from DRAM, over a region and over TCP.
    fn dram_rows(&mut self) -> Outcome<()> {
        const BLOCKS: usize = 512;
        let node = Node::start(&self.args.common, self.setup("2GiB", "1536MiB", true, &[]))?;
        let (unix, tcp) = (node.unix()?, node.tcp()?);
        let (local, remote) = (attach(&unix)?, attach(&tcp)?);
        let large = fill(&local, "large", BLOCKS, MIB)?;
        let small = fill(&local, "small", 4096, 16 << 10)?;
        // One tenant, one namespace: what the Unix side puts, the TCP side gets. The second reading of a block keeps it in DRAM.
        for warm in [&large, &small] {
            for chunk in warm.chunks(256) {
                local.get_each(chunk, |_, _| ());
            }
        }
        let mut samples: [Samples; 8] = std::array::from_fn(|_| Samples::default());
        for pair in 0..self.args.pairs {
            say(&format!("DRAM rows: pair {} of {}", pair + 1, self.args.pairs));
            samples[0].0.push(raw::memcpy_gb_s());
            let meter = Meter::start(&node);
            for _ in 0..4 {
                expect_all(&local, &large, MIB, 8)?;
            }
            let (gb_s, cpu) = meter.stop((4 * BLOCKS * MIB) as u64);
            samples[1].0.push(gb_s);
            samples[2].0.push(cpu);
            samples[3].0.push(raw::ping_pong_us(64, 64, 8000)?);
            samples[4].0.push(one_by_one(&local, &small, 16 << 10)?);
            let plain = raw::tcp_request_response_gb_s(1.5, 8)?;
            let iperf = if self.tools.iperf3 { raw::iperf3_gb_s(2)? } else { 0.0 };
            samples[5].0.push(plain.max(iperf));
            let meter = Meter::start(&node);
            for _ in 0..4 {
                expect_all(&remote, &large, MIB, 8)?;
            }
            let (gb_s, cpu) = meter.stop((4 * BLOCKS * MIB) as u64);
            samples[6].0.push(gb_s);
            samples[7].0.push(cpu);
        }
        let [memcpy, dram, dram_cpu, ping, small_ours, tcp_limit, tcp_ours, tcp_cpu] = samples;
        self.rows.push(Row {
            path: "dram_1m",
            unit: "GB/s",
            ours: dram,
            limit: memcpy,
            limit_is: "one core's memcpy, 1 MiB blocks".into(),
            cpu_s_per_gb: Some(dram_cpu.median()),
            target: Target::RatioAtLeast(0.75),
        });
        self.rows.push(Row {
            path: "dram_16k_p50_us",
            unit: "us",
            ours: small_ours,
            limit: ping,
            limit_is: "Unix-socket ping-pong, 64 B".into(),
            cpu_s_per_gb: None,
            target: Target::RatioAtMost(1.2),
        });
        self.rows.push(Row {
            path: "tcp_1m",
            unit: "GB/s",
            ours: tcp_ours,
            limit: tcp_limit,
            limit_is: if self.tools.iperf3 {
                "faster of iperf3 and request/response".into()
            } else {
                "own request/response".into()
            },
            cpu_s_per_gb: Some(tcp_cpu.median()),
            target: Target::RatioAtLeast(0.75),
        });
        Ok(())
    }

    fn durable_row(&mut self) -> Outcome<()> {
        const BLOCKS: usize = 512;
        let raw_file = self.dir.join("raw");
        raw::written_file(&raw_file, 1024)?;
        let capacity = format!("{}MiB", usize::from(self.args.pairs) * 700 + 1024);
        let node = Node::start(&self.args.common, self.setup(&capacity, "512MiB", false, &["--prewrite"]))?;
        let client = node.unix()?;
        client
            .create_namespace("bench-durable", Class::Durable, None, &Fingerprint::default())
            .map_err(why("making a durable namespace"))?;
        let space = client.namespace("bench-durable").map_err(why("opening the durable namespace"))?;
        let (mut ours, mut limit, mut cpu) = (Samples::default(), Samples::default(), Samples::default());
        for pair in 0..self.args.pairs {
            say(&format!("durable row: pair {} of {}", pair + 1, self.args.pairs));
            let job = Job {
                file: &raw_file,
                size_mib: 1024,
                write: true,
                random: false,
                block_kib: 1024,
                depth: 8,
                seconds: 2,
                sync_every: 8,
            };
            limit.0.push(self.drive_job(&job)?.gb_s);
            let meter = Meter::start(&node);
            fill_with(&space, &format!("durable{pair}"), BLOCKS, MIB, 8)?;
            let (gb_s, cpu_s_per_gb) = meter.stop((BLOCKS * MIB) as u64);
            ours.0.push(gb_s);
            cpu.0.push(cpu_s_per_gb);
        }
        self.rows.push(Row {
            path: "put_durable_1m",
            unit: "GB/s",
            ours,
            limit,
            limit_is: self.drive_limit_name("1 MiB writes on written extents, depth 8, one fdatasync per 8"),
            cpu_s_per_gb: Some(cpu.median()),
            target: Target::RatioAtLeast(0.85),
        });
        let _ = std::fs::remove_file(&raw_file);
        Ok(())
    }

    /// Rows on an index of a million blocks of 4 KiB.
    fn million_rows(&mut self) -> Outcome<()> {
        let blocks = usize::try_from(self.args.blocks).map_err(why("--blocks"))?;
        let mut node =
            Node::start(&self.args.common, self.setup(&format!("{}MiB", blocks / 96 + 512), "1GiB", false, &[]))?;
        let mut worst_bytes_per_block: f64 = 0.0;
        let keys = {
            let client = node.unix()?;
            let space = attach(&client)?;
            let mut keys = Vec::with_capacity(blocks);
            let steps = 32;
            for step in 0..steps {
                keys.extend(fill(&space, &format!("m{step}"), blocks / steps, 4096)?);
                worst_bytes_per_block = worst_bytes_per_block.max(index_bytes_per_block(&client)?);
                if step % 8 == 7 {
                    say(&format!("rows of a million blocks: {} put", keys.len()));
                }
            }
            keys
        };
        let (mut match_ours, mut match_limit) = (Samples::default(), Samples::default());
        let (mut start_ours, mut start_limit) = (Samples::default(), Samples::default());
        for pair in 0..usize::from(self.args.pairs) {
            say(&format!("rows of a million blocks: pair {} of {}", pair + 1, self.args.pairs));
            {
                let client = node.unix()?;
                let space = attach(&client)?;
                match_limit.0.push(raw::ping_pong_us(16 << 10, 64, 4000)?);
                let clock = SystemClock::new();
                let mut samples = Vec::new();
                for i in 0..400usize {
                    let at = (pair * 400 + i) * 1021 % (keys.len() - 1024);
                    let start = clock.now_us();
                    let matched = space.match_prefix(&keys[at..at + 1024], None);
                    samples.push((clock.now_us() - start) as f64);
                    if matched.n != 1024 {
                        return Err(Failed(format!("a match of 1,024 keys that were put found {}", matched.n)));
                    }
                }
                match_ours.0.push(percentile(&samples, 0.5));
            }
            start_limit.0.push(self.read_footers_s(keys.len())?);
            node.kill_and_restart()?;
            start_ours.0.push(node.ready_s);
            let client = node.unix()?;
            let space = attach(&client)?;
            let sample: Vec<Key> = keys.iter().step_by(997).copied().collect();
            let found = count_hits(&space, &sample, 4096)?;
            if found * 100 < sample.len() * 99 {
                return Err(Failed(format!("after SIGKILL only {found} of {} sampled blocks came back", sample.len())));
            }
        }
        let n = if blocks == 1_000_000 { String::new() } else { format!(" ({blocks} blocks)") };
        self.rows.push(Row {
            path: "match_1024_us",
            unit: "us",
            ours: match_ours,
            limit: match_limit,
            limit_is: format!("16 KiB ping-pong{n}"),
            cpu_s_per_gb: None,
            target: Target::Above(300.0),
        });
        self.rows.push(Row {
            path: "recover_1m_blocks_s",
            unit: "s",
            ours: start_ours,
            limit: start_limit,
            limit_is: format!("reading the footers once{n}"),
            cpu_s_per_gb: None,
            target: Target::AtMost(1.0),
        });
        self.rows.push(Row {
            path: "index_bytes_per_block",
            unit: "B",
            ours: Samples(vec![worst_bytes_per_block]),
            limit: Samples::default(),
            limit_is: format!("worst of 32 moments while filling{n}"),
            cpu_s_per_gb: None,
            target: Target::AtMost(64.0),
        });
        Ok(())
    }

    /// Seconds to read as many bytes as the footers of that many blocks take (64 B each), by direct I/O.
    fn read_footers_s(&self, blocks: usize) -> Outcome<f64> {
        let path = self.dir.join("footers");
        let mib = (blocks * 64).div_ceil(MIB).max(1) as u64;
        if !path.exists() {
            raw::written_file(&path, mib)?;
        }
        let gb_s = self
            .drive_job(&Job {
                file: &path,
                size_mib: mib,
                write: false,
                random: false,
                block_kib: 256,
                depth: 16,
                seconds: 1,
                sync_every: 0,
            })?
            .gb_s;
        Ok((blocks * 64) as f64 / 1e9 / gb_s)
    }
}

fn attach(client: &Client) -> Outcome<NamespaceHandle> {
    client.namespace("default").map_err(why("opening the namespace"))
}

/// Puts `count` blocks of `bytes` whose content follows from their number, and returns their keys.
fn fill(space: &NamespaceHandle, name: &str, count: usize, bytes: usize) -> Outcome<Vec<Key>> {
    fill_with(space, name, count, bytes, (8 * MIB / bytes).clamp(8, 1024))
}

pub(crate) fn fill_with(
    space: &NamespaceHandle,
    name: &str,
    count: usize,
    bytes: usize,
    batch: usize,
) -> Outcome<Vec<Key>> {
    let mut block: Vec<Vec<u8>> = (0..batch).map(|_| vec![0u8; bytes]).collect();
    let mut keys = Vec::with_capacity(count);
    for start in (0..count).step_by(batch) {
        let n = batch.min(count - start);
        let batch_keys: Vec<Key> =
            (start..start + n).map(|i| space.derive_key(format!("{name}/{i}").as_bytes())).collect();
        for (key, block) in batch_keys.iter().zip(&mut block) {
            stamp(block, key);
        }
        let items: Vec<(Key, &[u8])> = batch_keys.iter().copied().zip(block.iter().map(Vec::as_slice)).collect();
        for (key, outcome) in batch_keys.iter().zip(space.put(&items)) {
            if !outcome.is_kept() {
                return Err(Failed(format!("a put of {key} answered {outcome}")));
            }
        }
        keys.extend(batch_keys);
    }
    Ok(keys)
}

/// Marks the first and last bytes of a block with its key: found by the bench, beside what the client verifies.
fn stamp(block: &mut [u8], key: &Key) {
    let n = block.len();
    block[..16].copy_from_slice(&key.0);
    block[n - 16..].copy_from_slice(&key.0);
}

fn is_stamped(block: &[u8], key: &Key, bytes: usize) -> bool {
    block.len() == bytes && block[..16] == key.0 && block[bytes - 16..] == key.0
}

fn count_hits(space: &NamespaceHandle, keys: &[Key], bytes: usize) -> Outcome<usize> {
    let (mut hits, mut wrong) = (0, 0);
    space.get_each(keys, |i, result| {
        if let Ok(block) = result {
            hits += 1;
            wrong += usize::from(!is_stamped(&block, &keys[i], bytes));
        }
    });
    if wrong > 0 { Err(Failed(format!("{wrong} blocks came back wrong"))) } else { Ok(hits) }
}

/// Gets all keys, `depth` in flight, and fails unless every one is a hit with the right bytes.
fn expect_all(space: &NamespaceHandle, keys: &[Key], bytes: usize, depth: usize) -> Outcome<()> {
    let hits = count_hits(&space.with_in_flight(depth), keys, bytes)?;
    if hits < keys.len() {
        Err(Failed(format!("{} of {} blocks that were put are missing", keys.len() - hits, keys.len())))
    } else {
        Ok(())
    }
}

/// Gets keys one at a time; the p50 in microseconds.
pub(crate) fn one_by_one(space: &NamespaceHandle, keys: &[Key], bytes: usize) -> Outcome<f64> {
    let clock = SystemClock::new();
    let mut samples = Vec::with_capacity(keys.len());
    for key in keys {
        let start = clock.now_us();
        let hits = count_hits(space, std::slice::from_ref(key), bytes)?;
        samples.push((clock.now_us() - start) as f64);
        if hits != 1 {
            return Err(Failed(format!("block {key} that was put is missing")));
        }
    }
    Ok(percentile(&samples, 0.5))
}

/// The same keys in an order of their own, the same at every call.
fn shuffled(keys: &[Key]) -> Vec<Key> {
    let mut keys = keys.to_vec();
    keys.sort_by_key(|key| key.halves().1);
    keys
}

fn index_bytes_per_block(client: &Client) -> Outcome<f64> {
    let text = client.node_stats().map_err(why("asking for statistics"))?;
    let stats: Value = serde_json::from_str(&text).map_err(why("reading statistics"))?;
    let shards = stats["shards"].as_array().cloned().unwrap_or_default();
    let sum = |field: &str| shards.iter().filter_map(|shard| shard[field].as_f64()).sum::<f64>();
    let blocks = sum("blocks");
    if blocks == 0.0 { Err(Failed("the statistics count no blocks".into())) } else { Ok(sum("index_bytes") / blocks) }
}

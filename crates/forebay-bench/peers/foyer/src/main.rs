//! foyer's hybrid cache, asked the same as Forebay: a line of JSON in, a line of JSON out. It knows nothing of Forebay.
//!
//! foyer lives in the process of whoever uses it. What is timed ends, as for every peer, with the bytes in a buffer of the caller: gets copy the
//! value out. Puts are timed until foyer says that its writes are done.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    PsyncIoEngineConfig,
};
use serde_json::{Value, json};

type Cache = HybridCache<u64, Vec<u8>>;
type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const MEMORY_BYTES: usize = 1 << 30;
const DRIVE_BYTES: usize = 3 << 30;

fn main() -> Outcome<()> {
    let dir = std::env::args().nth(1).ok_or("usage: forebay-bench-foyer DIR")?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let cache = runtime.block_on(open(Path::new(&dir)))?;
    answer(&json!({"ready": true}))?;
    for line in std::io::stdin().lock().lines() {
        let ask: Value = serde_json::from_str(&line?)?;
        answer(&match runtime.block_on(run(&cache, &ask)) {
            Ok(seconds) => json!({ "seconds": seconds }),
            Err(e) => json!({ "error": e.to_string() }),
        })?;
    }
    Ok(())
}

fn answer(value: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{value}")?;
    out.flush()
}

async fn open(dir: &Path) -> Outcome<Cache> {
    let device = FsDeviceBuilder::new(dir).with_capacity(DRIVE_BYTES).with_direct(true).build()?;
    let engine = BlockEngineConfig::new(device)
        .with_block_size(64 << 20)
        .with_flushers(2)
        .with_buffer_pool_size(1 << 30)
        .with_submit_queue_size_threshold(1 << 30);
    let cache = HybridCacheBuilder::new()
        .with_policy(HybridCachePolicy::WriteOnInsertion)
        .memory(MEMORY_BYTES)
        .with_weighter(|_, value: &Vec<u8>| value.len())
        .storage()
        .with_io_engine_config(PsyncIoEngineConfig::new())
        .with_engine_config(engine)
        .build()
        .await?;
    Ok(cache)
}

async fn run(cache: &Cache, ask: &Value) -> Outcome<f64> {
    let number = |name: &str| ask[name].as_u64().ok_or(format!("the line lacks {name}"));
    let (bytes, count, set) = (number("bytes")? as usize, number("count")?, number("set")?);
    let in_flight = number("in_flight")? as usize;
    let keys: Vec<u64> = (0..count).map(|i| set << 32 | i).collect();
    match ask["op"].as_str() {
        Some("put") => put(cache, &keys, bytes).await,
        Some("cold") => {
            cache.memory().clear();
            get(cache, &keys, bytes, in_flight).await
        }
        Some("warm") => get(cache, &keys, bytes, in_flight).await,
        Some("forget") => {
            keys.iter().for_each(|key| cache.remove(key));
            Ok(0.0)
        }
        other => Err(format!("no such op: {other:?}").into()),
    }
}

async fn put(cache: &Cache, keys: &[u64], bytes: usize) -> Outcome<f64> {
    let blocks: Vec<Vec<u8>> = keys.iter().map(|key| block(*key, bytes)).collect();
    let start = Instant::now();
    for (key, block) in keys.iter().zip(blocks) {
        cache.insert(*key, block);
    }
    cache.storage().wait().await;
    Ok(start.elapsed().as_secs_f64())
}

async fn get(cache: &Cache, keys: &[u64], bytes: usize, in_flight: usize) -> Outcome<f64> {
    let keys: Arc<[u64]> = keys.into();
    let start = Instant::now();
    let workers: Vec<_> = (0..in_flight)
        .map(|worker| {
            let (cache, keys) = (cache.clone(), keys.clone());
            tokio::spawn(async move {
                let mut buffer = vec![0u8; bytes];
                for key in keys.iter().skip(worker).step_by(in_flight) {
                    let entry = cache.get(key).await?.ok_or(format!("block {key:x} that was put is missing"))?;
                    if entry.value().len() != bytes {
                        return Err(format!("block {key:x} has {} bytes", entry.value().len()).into());
                    }
                    buffer.copy_from_slice(entry.value());
                    if buffer[..8] != key.to_le_bytes() || buffer[bytes - 8..] != key.to_le_bytes() {
                        return Err(format!("block {key:x} came back wrong").into());
                    }
                }
                Outcome::Ok(())
            })
        })
        .collect();
    for worker in workers {
        worker.await??;
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Bytes that cannot be made smaller, marked at both ends.
fn block(key: u64, bytes: usize) -> Vec<u8> {
    let mut state = key | 1;
    let mut block = vec![0u8; bytes];
    for chunk in block.chunks_mut(8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        chunk.copy_from_slice(&state.to_le_bytes()[..chunk.len()]);
    }
    block[..8].copy_from_slice(&key.to_le_bytes());
    block[bytes - 8..].copy_from_slice(&key.to_le_bytes());
    block
}

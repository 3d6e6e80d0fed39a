//! Loads: which lines they take, when they would be there, and whether computing is sooner.

use super::super::fleet::Store;
use super::Run;
use crate::cost::CostCurve;

/// When each line is free again.
pub(super) struct Lines {
    pub(super) drives_s: f64,
    pub(super) memory_s: f64,
    pub(super) links_s: Vec<f64>,
    pub(super) hosts_s: Vec<f64>,
}

/// A load by tier, in chunks, and when it would be there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fetch {
    pub(super) host: u32,
    pub(super) memory: u32,
    pub(super) drive: u32,
}

impl Fetch {
    pub(super) fn chunks(self) -> u32 {
        self.host + self.memory + self.drive
    }
}

/// When each line would be through with a load.
#[derive(Debug, Clone, Copy)]
struct There {
    host_s: Option<f64>,
    drives_s: Option<f64>,
    memory_s: Option<f64>,
    link_s: Option<f64>,
    first_byte_s: f64,
}

/// What brings a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Host,
    Drives,
    Memory,
    Link,
}

impl There {
    /// The line that is through last.
    fn last(&self) -> Option<Line> {
        let lines = [
            (Line::Host, self.host_s),
            (Line::Drives, self.drives_s),
            (Line::Memory, self.memory_s),
            (Line::Link, self.link_s),
        ];
        let used = lines.into_iter().filter_map(|(line, at_s)| Some((line, at_s?)));
        used.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(line, _)| line)
    }

    fn all_s(&self) -> f64 {
        [self.host_s, self.drives_s, self.memory_s, self.link_s].into_iter().flatten().fold(0.0, f64::max)
            + self.first_byte_s
    }

    fn take(self, lines: &mut Lines, engine: u32, per_server: u32) {
        let set = |line: &mut f64, at_s: Option<f64>| *line = at_s.unwrap_or(*line);
        set(&mut lines.hosts_s[engine as usize], self.host_s);
        set(&mut lines.drives_s, self.drives_s);
        set(&mut lines.memory_s, self.memory_s);
        set(&mut lines.links_s[(engine / per_server) as usize], self.link_s);
    }
}

impl Run<'_> {
    /// Loads what is there sooner than it could be computed; else what the host tier has of it, else nothing.
    pub(super) fn choose(&mut self, engine: u32, fetch: Fetch, from: u64) -> (Fetch, f64) {
        let chunk = self.chunk_tokens();
        let curve = CostCurve { c0_s: 0.0, ..self.engine().curve };
        for fetch in [fetch, Fetch { memory: 0, drive: 0, ..fetch }] {
            if fetch.chunks() == 0 {
                continue;
            }
            let there = self.there_s(engine, fetch);
            let compute_s = curve.prefill_s(from, from + u64::from(fetch.chunks()) * chunk);
            if there.all_s() - self.now <= compute_s {
                let at_s = there.all_s();
                there.take(&mut self.lines, engine, self.fleet.engines_per_server);
                return (fetch, at_s);
            }
            if self.measured(self.now) {
                let tokens = u64::from(fetch.memory + fetch.drive) * chunk;
                self.out.recomputed_tokens += tokens;
                match there.last() {
                    Some(Line::Drives) => self.out.late_drive_tokens += tokens,
                    Some(Line::Link) => self.out.late_link_tokens += tokens,
                    _ => {}
                }
            }
        }
        (Fetch::default(), self.now)
    }

    /// When each line would be through with it.
    fn there_s(&self, engine: u32, fetch: Fetch) -> There {
        let bytes = |chunks: u32| {
            f64::from(chunks) * self.chunk_tokens() as f64 * self.engine().model.kv_bytes_per_token() as f64
        };
        let queue =
            |free_s: f64, bytes: f64, bandwidth: f64| (bytes > 0.0).then(|| free_s.max(self.now) + bytes / bandwidth);
        let store = self.fleet.store.unwrap_or(Store {
            memory_tokens: 0,
            drive_tokens: 0,
            drive_bandwidth: 1.0,
            memory_bandwidth: 1.0,
            link_bandwidth: 1.0,
            first_byte_s: 0.0,
        });
        let server = (engine / self.fleet.engines_per_server) as usize;
        // States and windows travel once a load.
        let fixed = self.engine().model.kv_bytes_fixed() as f64;
        let far = fetch.memory + fetch.drive;
        let over_link = if far > 0 { bytes(far) + fixed } else { 0.0 };
        There {
            host_s: queue(
                self.lines.hosts_s[engine as usize],
                bytes(fetch.chunks()) + fixed,
                self.engine().host_bandwidth,
            ),
            drives_s: queue(self.lines.drives_s, bytes(fetch.drive), store.drive_bandwidth),
            memory_s: queue(self.lines.memory_s, bytes(fetch.memory), store.memory_bandwidth),
            link_s: queue(self.lines.links_s[server], over_link, store.link_bandwidth),
            first_byte_s: if far > 0 { store.first_byte_s } else { 0.0 },
        }
    }

    pub(super) fn count_load(&mut self, engine: u32, fetch: Fetch, from: u64, there_s: f64) {
        let Some(store) = self.fleet.store.filter(|_| fetch.memory + fetch.drive > 0) else { return };
        let (chunk, e) = (self.chunk_tokens(), self.engine());
        let curve = CostCurve { c0_s: 0.0, ..e.curve };
        let behind = from + u64::from(fetch.host) * chunk;
        let tokens = u64::from(fetch.memory + fetch.drive) * chunk;
        let bytes = tokens as f64 * e.model.kv_bytes_per_token() as f64;
        let gpus = f64::from(e.gpus);
        self.out.saved_gpu_s += curve.prefill_s(behind, behind + tokens) * gpus;
        self.out.copied_gpu_s += bytes / e.memory_bandwidth * gpus;
        self.out.loading_gpu_s += tokens as f64 / e.kv_tokens as f64 * (there_s - self.now) * gpus;
        self.out.load_s.push(there_s - self.now);
        self.out.drives_busy_s +=
            f64::from(fetch.drive) * chunk as f64 * e.model.kv_bytes_per_token() as f64 / store.drive_bandwidth;
        self.linked_s[(engine / self.fleet.engines_per_server) as usize] += bytes / store.link_bandwidth;
    }
}

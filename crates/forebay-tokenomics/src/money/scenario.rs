//! All that an answer rests on, as one value: the rows of the books, the efficiencies, the load and the promise.

use crate::book::{Book, Drive, Gpu, Model, PriceList, Server, Storage};
use crate::chain::{Engine, Fleet, LoadParams, Store, Workload};
use crate::cost::Shape;

/// Hours of a year.
const YEAR_HOURS: f64 = 365.0 * 24.0;
/// Share of a GPU's memory that an engine takes, as vLLM does unless told otherwise.
const MEMORY_SHARE: f64 = 0.9;
/// Requests an engine runs at once, at most.
const RUNNING_MAX: u32 = 256;

/// What is promised to users.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Targets {
    /// First token within, in seconds.
    pub ttft_s: f64,
    /// Each further token within, on average over an answer, in seconds.
    pub itl_s: f64,
    /// For this share of requests.
    pub share: f64,
}

/// Rows of a book by their names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice<'a> {
    /// Of `models`.
    pub model: &'a str,
    /// Of `gpus`.
    pub gpu: &'a str,
    /// Of `servers`.
    pub server: &'a str,
    /// Of `drives`.
    pub drive: &'a str,
    /// Of `storage`.
    pub storage: &'a str,
    /// Of `prices`.
    pub prices: &'a str,
}

/// All that an answer rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    /// The model.
    pub model: Model,
    /// The GPU.
    pub gpu: Gpu,
    /// The server around it.
    pub server: Server,
    /// The drive.
    pub drive: Drive,
    /// What storage is beside its drives.
    pub storage: Storage,
    /// What tokens are sold at.
    pub prices: PriceList,
    /// GPUs that hold one copy of the model.
    pub gpus_per_engine: u32,
    /// Share of the peak that matrices reach in prefill.
    pub linear_efficiency: f64,
    /// Share of the peak that attention reaches in prefill.
    pub attention_efficiency: f64,
    /// Share of the memory bandwidth that decoding reaches.
    pub decode_efficiency: f64,
    /// Fixed seconds of a step.
    pub step_s: f64,
    /// Tokens of a step.
    pub step_tokens: u64,
    /// The load.
    pub load: LoadParams,
    /// Share of the load's time that only fills caches and is not counted.
    pub warm_share: f64,
    /// What is promised.
    pub targets: Targets,
}

/// What Forebay's storage costs, in dollars an hour.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StorageCost {
    /// Of the drives: the larger of what time and what writing wear off, never both.
    pub drives: f64,
    /// What writing wears off; no more than `drives`.
    pub wear: f64,
    /// DRAM, slots and enclosures over the drives' life.
    pub around: f64,
    /// Electricity.
    pub power: f64,
    /// What is written a day of what the drives may be written.
    pub written_share: f64,
}

impl StorageCost {
    /// In all.
    pub fn total(&self) -> f64 {
        self.drives + self.around + self.power
    }
}

fn row<'a, T>(rows: &'a std::collections::BTreeMap<String, T>, what: &str, name: &str) -> Result<&'a T, String> {
    let known = || rows.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    rows.get(name).ok_or_else(|| format!("no book has {what} {name:?}; they have {}", known()))
}

impl Scenario {
    /// From rows of a book.
    ///
    /// # Errors
    /// One sentence that names the row, or says why the model does not fit.
    pub fn new(book: &Book, choice: &Choice<'_>, load: LoadParams, targets: Targets) -> Result<Self, String> {
        let model = book.model(choice.model).ok_or_else(|| {
            let known: Vec<&str> = book.models.iter().map(|model| model.name.as_str()).collect();
            format!("no book has the model {:?}; they have {}", choice.model, known.join(", "))
        })?;
        Ok(Scenario {
            model: model.clone(),
            gpu: *row(&book.gpus, "the GPU", choice.gpu)?,
            server: *row(&book.servers, "the server", choice.server)?,
            drive: *row(&book.drives, "the drive", choice.drive)?,
            storage: *row(&book.storage, "the storage", choice.storage)?,
            prices: row(&book.prices, "the price list", choice.prices)?.clone(),
            gpus_per_engine: 0,
            linear_efficiency: 0.5,
            attention_efficiency: 0.5,
            decode_efficiency: 0.8,
            step_s: 0.005,
            step_tokens: 8192,
            load,
            warm_share: 0.5,
            targets,
        })
    }

    /// Chooses the smallest power of two of GPUs that holds the model and one longest request beside it, or takes `wanted`.
    ///
    /// # Errors
    /// One sentence when nothing inside one server does.
    pub fn fit(&mut self, work: &Workload, wanted: Option<u32>) -> Result<(), String> {
        let sizes = (0..).map(|i| 1u32 << i).take_while(|n| *n <= self.server.gpus);
        let fits = |gpus: u32| {
            let mut tried = self.clone();
            tried.gpus_per_engine = gpus;
            tried.kv_tokens() >= work.longest_tokens + tried.model.kv_tokens_fixed()
        };
        self.gpus_per_engine = match wanted {
            Some(gpus) if gpus > 0 && gpus <= self.server.gpus && self.server.gpus.is_multiple_of(gpus) => gpus,
            Some(gpus) => {
                return Err(format!("{gpus} GPUs for an engine do not divide a server of {}", self.server.gpus));
            }
            // Where even a whole server is too small for the longest request, that one is refused and counted.
            None => sizes.clone().find(|gpus| fits(*gpus)).unwrap_or(self.server.gpus),
        };
        if self.kv_tokens() == 0 {
            return Err(format!(
                "{} needs {:.0} GB for its weights, and {} GPUs of {:.0} GB leave nothing for KV; take another GPU, more of them for an engine, or weights of fewer bits in a book of your own",
                self.model.name,
                self.model.weights_bytes() / 1e9,
                self.gpus_per_engine,
                self.gpu.memory_bytes / 1e9
            ));
        }
        Ok(())
    }

    /// How prefill runs on one engine.
    pub fn shape(&self) -> Shape {
        Shape {
            gpus: self.gpus_per_engine,
            peak_flops: self.gpu.peak_flops,
            linear_efficiency: self.linear_efficiency,
            attention_efficiency: self.attention_efficiency,
            step_s: self.step_s,
            step_tokens: self.step_tokens,
        }
    }

    /// Tokens of KV that an engine's GPU memory holds beside the weights.
    pub fn kv_tokens(&self) -> u64 {
        let memory = self.gpu.memory_bytes * f64::from(self.gpus_per_engine) * MEMORY_SHARE;
        let free = memory - self.model.weights_bytes();
        (free / self.model.kv_bytes_per_token().max(1) as f64).max(0.0) as u64
    }

    /// Engines of a server.
    pub fn engines_per_server(&self) -> u32 {
        (self.server.gpus / self.gpus_per_engine).max(1)
    }

    /// Tokens that Forebay's drives hold.
    pub fn drive_tokens(&self, servers: u32) -> u64 {
        let bytes = self.drive.capacity_bytes * f64::from(self.storage.drives_per_server * servers);
        (bytes * self.storage.fill / self.storage.copies / self.model.kv_bytes_per_token().max(1) as f64) as u64
    }

    /// A fleet of that many servers, with Forebay or without.
    pub fn fleet(&self, servers: u32, forebay: bool) -> Fleet {
        let kv_bytes = self.model.kv_bytes_per_token().max(1) as f64;
        let engines = self.engines_per_server();
        let work = self.model.work();
        let matrices = self.gpu.peak_flops * f64::from(self.gpus_per_engine) * self.linear_efficiency;
        let drives = f64::from(self.storage.drives_per_server * servers);
        Fleet {
            engine: Engine {
                gpus: self.gpus_per_engine,
                curve: self.shape().curve(&work),
                output_s: work.output_flops / matrices,
                memory_bandwidth: self.gpu.bandwidth * f64::from(self.gpus_per_engine) * self.decode_efficiency,
                kv_tokens: self.kv_tokens(),
                running_max: RUNNING_MAX,
                host_tokens: (self.server.host_memory_bytes / f64::from(engines) / kv_bytes) as u64,
                host_bandwidth: self.server.host_bandwidth,
                model: self.model.clone(),
            },
            engines: servers * engines,
            engines_per_server: engines,
            store: forebay.then(|| Store {
                memory_tokens: (self.storage.memory_bytes_per_server * f64::from(servers) / kv_bytes) as u64,
                drive_tokens: self.drive_tokens(servers),
                drive_bandwidth: drives * self.drive.read_bandwidth * self.storage.load_efficiency,
                link_bandwidth: self.server.link_bandwidth,
                memory_bandwidth: drives * self.storage.memory_bandwidth_per_drive,
                first_byte_s: self.storage.first_byte_ms / 1000.0,
            }),
        }
    }

    /// Dollars an hour of the GPUs of that many servers.
    pub fn gpu_dollars_per_hour(&self, servers: u32) -> f64 {
        f64::from(servers * self.server.gpus) * self.gpu.dollars_per_hour
    }

    /// Dollars an hour of the host memory that caches KV in that many servers, at the price of DRAM over the drives' life. It is part of the GPUs' rent.
    pub fn host_dollars_per_hour(&self, servers: u32) -> f64 {
        let host_tb = self.server.host_memory_bytes * f64::from(servers) / 1e12;
        host_tb * self.storage.memory_dollars_per_tb / (self.drive.life_years * YEAR_HOURS)
    }

    /// What storage of that many servers costs when so many bytes are put an hour.
    pub fn storage_cost(&self, servers: u32, put_bytes_per_hour: f64) -> StorageCost {
        let drives = f64::from(self.storage.drives_per_server * servers);
        let written = put_bytes_per_hour * self.storage.write_amplification * self.storage.copies;
        let time = drives * self.drive.time_dollars_per_hour();
        let wear = written * self.drive.wear_dollars_per_byte();
        let memory_tb = self.storage.memory_bytes_per_server * f64::from(servers) / 1e12;
        let around = memory_tb * self.storage.memory_dollars_per_tb + drives * self.storage.enclosure_dollars_per_drive;
        let allowed = drives * self.drive.capacity_bytes * self.drive.writes_per_day / 24.0;
        StorageCost {
            drives: time.max(wear),
            wear,
            around: around / (self.drive.life_years * YEAR_HOURS),
            power: drives * self.drive.power_w / 1000.0 * self.storage.electricity_dollars_per_kwh,
            written_share: written / allowed.max(f64::MIN_POSITIVE),
        }
    }
}

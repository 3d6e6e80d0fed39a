//! `forebay serve`: from settings to a node, the line `ready`, and a graceful end on SIGTERM or SIGINT.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use forebay_node::{
    DataConfig, EndSignals, EngineKind, Landings, Node, NodeConfig, NodeHandle, Progress as Step, Severity,
    is_block_device,
};
use forebay_tokenomics::Reckoning;
use forebay_tokenomics::book::Book;
use forebay_types::{Address, format_size};

use crate::book_file::read_book;
use crate::log::{Form, Log};
use crate::progress::Progress;
use crate::settings::Settings;
use crate::stop::Stop;
use crate::{connect, notify, places, say};

/// Slices of one drive: each has a thread of its own, and no machine has more cores than this.
const SHARDS_MAX: u32 = 256;
const GIB: u64 = 1 << 30;
/// How long requests that were begun may take to end.
const END_WITHIN: Duration = Duration::from_secs(5);

/// Runs it until a signal says to end. What is on `format_devices` may be overwritten.
pub(crate) fn run(settings: &Settings, format_devices: Vec<PathBuf>) -> Result<(), Stop> {
    // First of all: threads that are started later inherit the mask.
    let signals = EndSignals::block().map_err(|e| Stop::Failed(format!("SIGTERM cannot be waited for: {e}")))?;
    let serves = Arc::new(AtomicBool::new(false));
    let asked_to_end = watch(signals, serves.clone())?;
    let mut config = config(settings).map_err(Stop::Misused)?;
    config.format_devices = format_devices;
    let (form, most) = log_settings(settings).map_err(Stop::Misused)?;
    let failed = |e| Stop::Failed(format!("a thread cannot be started: {e}; see `ulimit -u`"));
    let (log, ended) = Log::start(form, most).map_err(failed)?;
    let heard = log.clone();
    config.events = Some(Box::new(move |event| heard.tell(&event)));
    let done = serve(config, &log, &serves, asked_to_end);
    drop(log);
    ended.wait();
    done
}

fn serve(config: NodeConfig, log: &Log, serves: &AtomicBool, asked_to_end: Receiver<()>) -> Result<(), Stop> {
    let memory = config.memory_bytes;
    let node = match Node::start(config) {
        Ok(node) => node,
        // For programs a line like all others; for people the sentence that every verb ends with.
        Err(error) if log.form() == Form::Json => {
            log.error("start_failed", error.to_string());
            return Err(Stop::Told);
        }
        Err(error) => return Err(Stop::Failed(error.to_string())),
    };
    serves.store(true, Ordering::Relaxed);
    tell(&node, memory, log);
    // A node whose stdout nobody reads serves all the same.
    let _ = say::line("ready").and_then(|()| say::flush());
    notify::ready();
    let _ = asked_to_end.recv();
    // From here on a signal finds nobody to ask.
    drop(asked_to_end);
    log.note("stopping", "ending: finishing what was asked, sealing what is open; a second signal ends at once");
    notify::stopping();
    node.shutdown(END_WITHIN);
    log.note("stopped", "ended: drives are sealed and flushed");
    Ok(())
}

fn log_settings(settings: &Settings) -> Result<(Form, Severity), String> {
    let wrong = |key, text, choices| Err(format!("{}: {text:?} is none of {choices}", settings.origin(key)));
    let form = match settings.text("log") {
        None | Some("text") => Form::Text,
        Some("json") => Form::Json,
        Some(other) => return wrong("log", other, "text, json"),
    };
    let most = match settings.text("log_level") {
        None | Some("info") => Severity::Info,
        Some("warn") => Severity::Warn,
        Some("error") => Severity::Error,
        Some(other) => return wrong("log_level", other, "error, warn, info"),
    };
    Ok((form, most))
}

/// Waits for signals on a thread of its own. The first one asks a node that serves to end; before that, when a drive is written from front to
/// back, say, it ends the process, and so does a second one: both are as a crash, which loses nothing that was acknowledged durable.
fn watch(signals: EndSignals, serves: Arc<AtomicBool>) -> Result<Receiver<()>, Stop> {
    let (ask, asked) = sync_channel(1);
    let wait = move || {
        loop {
            match signals.wait(Duration::from_secs(3600)) {
                Ok(false) => continue,
                Ok(true) if serves.load(Ordering::Relaxed) && ask.try_send(()).is_ok() => continue,
                Ok(true) | Err(_) => break,
            }
        }
        say::note(if serves.load(Ordering::Relaxed) { "ended at once" } else { "ended before it served" });
        std::process::exit(1);
    };
    let started = std::thread::Builder::new().name("signals".into()).spawn(wait);
    started.map(|_| asked).map_err(|e| Stop::Failed(format!("a thread cannot be started: {e}; see `ulimit -u`")))
}

fn tell(node: &NodeHandle, memory: u64, log: &Log) {
    for report in node.reports() {
        let shard = report.shard.to_string();
        let found = if report.formatted { "new".to_owned() } else { format!("{} blocks", report.recovery.blocks) };
        log.note(
            "shard",
            format!(
                "shard {} on {}: {found}, blocks of up to {}, I/O by {}",
                &shard[..8],
                report.path.display(),
                format_size(report.block_bytes_max),
                report.engine
            ),
        );
        for without in &report.without {
            log.note("without", format!("shard {}: does without {without}", &shard[..8]));
        }
    }
    for lacks in node.notes() {
        log.note("without", lacks);
    }
    let addresses: Vec<String> = node.addresses().iter().map(Address::to_string).collect();
    log.note("serving", format!("serving on {} with {} of memory", addresses.join(" and "), format_size(memory)));
    if let Some(address) = node.metrics_address() {
        log.note("metrics", format!("metrics at http://{address}/metrics"));
    }
}

fn config(settings: &Settings) -> Result<NodeConfig, String> {
    let data = data(settings)?;
    let socket = socket(settings)?;
    let memory = memory(settings)?;
    let Some(first) = data.first().cloned() else {
        return Err("a node needs at least one drive; name one with --data".to_owned());
    };
    let mut config = NodeConfig::new(first, memory, socket);
    config.data = data;
    config.shards_per_drive = settings.number("shards", 1..=SHARDS_MAX)?.unwrap_or(1);
    config.segment_bytes = settings.size("segment")?;
    config.prewrite = settings.flag("prewrite")?;
    config.catalogue = settings.path("catalog");
    config.io = engine(settings)?;
    config.landings = landings(settings)?;
    config.policy = settings.text("policy").unwrap_or(&config.policy).to_owned();
    config.reckoning = reckoning(settings)?;
    config.scrub_period_s = scrub(settings)?.unwrap_or(config.scrub_period_s);
    config.endurance = endurance(settings)?;
    config.listen = settings.text("listen").map(str::to_owned);
    config.insecure_network = settings.flag("insecure_network")?;
    config.token = settings.path("token_file").map(|path| connect::token(&path)).transpose()?;
    if config.listen.is_some() && config.token.is_none() {
        return Err("--listen needs --token-file: anybody on this machine can reach a TCP port, so clients must show a token; make one with \
                    `(umask 077; head -c 32 /dev/urandom | base64 > token)`"
            .to_owned());
    }
    config.metrics = settings.text("metrics").map(|text| resolve(settings.origin("metrics"), text)).transpose()?;
    config.progress = Some(progress());
    Ok(config)
}

/// The book that money is reckoned by: the default one, with those of one's own over it.
fn reckoning(settings: &Settings) -> Result<Reckoning, String> {
    let texts = settings.paths("book").iter().map(|path| read_book(path)).collect::<Result<Vec<_>, _>>()?;
    if texts.is_empty() {
        return Ok(Reckoning::default());
    }
    let files: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Book::with(&files).map(Reckoning::by).map_err(|e| e.to_string())
}

/// Memory for the node. More than the machine has is refused here: where locked memory has no limit, registering it would take the machine down.
fn memory(settings: &Settings) -> Result<u64, String> {
    let machine = machine_memory();
    match settings.size("memory")? {
        Some(bytes) if bytes >= machine => Err(format!(
            "{}: {} are more than this machine's {} of memory leave; give less",
            settings.origin("memory"),
            format_size(bytes),
            format_size(machine)
        )),
        Some(bytes) => Ok(bytes),
        None => Ok(memory_default()),
    }
}

/// What a node takes unless told otherwise.
pub(crate) fn memory_default() -> u64 {
    (machine_memory() / 10).clamp(256 << 20, 4 * GIB)
}

fn data(settings: &Settings) -> Result<Vec<DataConfig>, String> {
    let capacity = settings.size("capacity")?;
    let mut paths = settings.paths("data");
    if paths.is_empty() {
        let dir = places::data_dir()?;
        places::make_private(&dir)?;
        paths.push(dir.join("drive"));
    }
    // A drive keeps its size, and a device is taken whole.
    let with_size = |path: PathBuf| match capacity {
        None if !path.is_file() && !is_block_device(&path) => {
            new_capacity(&path).map(|capacity| DataConfig { path, capacity: Some(capacity) })
        }
        capacity => Ok(DataConfig { path, capacity }),
    };
    paths.into_iter().map(with_size).collect()
}

/// A new file takes a modest share of what is free.
fn new_capacity(path: &Path) -> Result<u64, String> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let room = rustix::fs::statvfs(folder).map_err(|e| {
        let folder = folder.display();
        format!(
            "{} cannot be made: the folder {folder} cannot be used: {e}; make it, or name another place with --data",
            path.display()
        )
    })?;
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    if free < 2 * GIB {
        let (path, free) = (path.display(), format_size(free));
        return Err(format!(
            "{path} would lie where only {free} are free; say how much it may take with --capacity, or name another place with --data"
        ));
    }
    Ok((free / 10).clamp(GIB, 64 * GIB) & !((1 << 20) - 1))
}

fn socket(settings: &Settings) -> Result<PathBuf, String> {
    let path = match settings.path("socket") {
        Some(path) => path,
        None => {
            let path = places::socket_to_serve()?;
            path.parent().map_or(Ok(()), places::make_private)?;
            path
        }
    };
    Address::unix(&path).map_err(|e| format!("{}: {e}", settings.origin("socket")))?;
    Ok(path)
}

fn engine(settings: &Settings) -> Result<EngineKind, String> {
    match settings.text("io") {
        None | Some("auto") => Ok(EngineKind::Auto),
        Some("uring") => Ok(EngineKind::Uring),
        Some("threads") => Ok(EngineKind::Threads),
        Some(other) => {
            Err(format!("{}: {other:?} is no I/O engine; choose auto, uring or threads", settings.origin("io")))
        }
    }
}

fn landings(settings: &Settings) -> Result<Landings, String> {
    match settings.text("landing") {
        None | Some("auto") => Ok(Landings::Auto),
        Some("direct") => Ok(Landings::Direct),
        Some("bounce") => Ok(Landings::Bounce),
        Some(other) => {
            Err(format!("{}: {other:?} is no way to land; choose auto, direct or bounce", settings.origin("landing")))
        }
    }
}

/// Seconds of a pass; 0 is off.
fn scrub(settings: &Settings) -> Result<Option<u64>, String> {
    match settings.text("scrub") {
        None => Ok(None),
        Some("off") => Ok(Some(0)),
        Some(text) => match forebay_types::parse_span_s(text) {
            Ok(seconds) => Ok(Some(seconds.into())),
            Err(why) => Err(format!("{}: {why}; or off", settings.origin("scrub"))),
        },
    }
}

/// Bytes, and in how many seconds.
fn endurance(settings: &Settings) -> Result<Option<(u64, u64)>, String> {
    let Some(text) = settings.text("endurance").filter(|text| *text != "off") else { return Ok(None) };
    let wrong = |why: &str| {
        let origin = settings.origin("endurance");
        format!("{origin}: {text:?} is no SIZE/SPAN ({why}); write it as in 600TB/5y or 1.92TB/1d, or off")
    };
    let (size, span) = text.split_once('/').ok_or_else(|| wrong("there is no /"))?;
    let bytes = forebay_types::parse_size(size).map_err(|e| wrong(&e.to_string()))?;
    let seconds = forebay_types::parse_span_s(span).map_err(|e| wrong(&e.to_string()))?;
    if bytes == 0 {
        return Err(wrong("nothing could be written"));
    }
    Ok(Some((bytes, seconds.into())))
}

fn resolve(origin: &str, text: &str) -> Result<SocketAddr, String> {
    let found = text
        .to_socket_addrs()
        .map_err(|e| format!("{origin}: {text:?} is no HOST:PORT: {e}; write it as in 127.0.0.1:9100"))?;
    found.into_iter().next().ok_or_else(|| format!("{origin}: {text:?} has no address; write it as in 127.0.0.1:9100"))
}

/// Memory of the machine in bytes; a cautious guess where it does not say.
fn machine_memory() -> u64 {
    const GUESS: u64 = 4 * GIB;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map_or(GUESS, |kib| kib * 1024)
}

/// A bar for each thing that takes long; the next thing takes the last one's bar away.
fn progress() -> forebay_node::ProgressFn {
    let mut bar: Option<(String, Progress)> = None;
    Box::new(move |step| {
        let (what, done, total) = match step {
            Step::Formatting { path, done, total } => (format!("making {}", path.display()), done, total),
            Step::Recovering { done, total } => ("recovering shards".to_owned(), done as u64, total as u64),
        };
        if bar.as_ref().is_none_or(|(now, _)| *now != what) {
            bar = Some((what.clone(), Progress::new(&what, total)));
        }
        if let Some((_, bar)) = &mut bar {
            bar.at(done);
        }
        if done >= total {
            bar = None;
        }
    })
}

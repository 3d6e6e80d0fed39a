//! The soak: a node under mixed load from several processes for an hour or so, with one fault after the other, and at its end a verdict: no wrong
//! byte, nothing durable lost, nothing forgotten come back, flat memory, flat descriptors.
//!
//! For the first two fifths the node itself is killed, stopped, ended and started again, and bits of its drives are flipped while it is down. In
//! the second half it lives on under what hostile clients do, so that a leak has time to show. Then it is killed once more, and every block that
//! must be there is asked for.

mod fault;
mod gauge;
mod tally;
mod vandal;
mod verdict;
mod worker;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};

use clap::Args;
use forebay_types::{Class, Entropy, Fingerprint, SeededEntropy};
use serde_json::Value;

use crate::node::{Node, Setup};
use crate::report::say;
use crate::watch::{Watch, pause};
use crate::{Common, Failed, Outcome, why};
use fault::Fault;
use gauge::Course;
use tally::Tally;
use worker::Habit;
pub(crate) use worker::{WorkerArgs, run as work};

#[derive(Args)]
pub(crate) struct SoakArgs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How long, in minutes.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    minutes: u32,
    /// Chooses faults and their moments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Memory the node is given, and the most it may hold of its own: 64 MiB more.
const MEMORY_MIB: u64 = 128;
const DRIVE: &str = "512MiB";

/// Share of the time in which the node itself is killed and started, and the share from which on memory must be flat. Between the two it fills.
const RESTARTS_UNTIL: f64 = 0.4;
const FLAT_FROM: f64 = 0.5;

/// How often a line is shown.
const LINE_S: f64 = 5.0;

/// A worker's process, and what it told last.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    number: u64,
    told: Arc<Mutex<Value>>,
    reader: std::thread::JoinHandle<()>,
}

impl Running {
    fn told(&self) -> Value {
        self.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn tally(&self) -> Tally {
        Tally::of(&self.told())
    }
}

/// Everything there is while it runs.
struct Soak {
    node: Node,
    dir: std::path::PathBuf,
    workers: Vec<Running>,
    next_worker: u64,
    chance: SeededEntropy,
    clock: Watch,
    /// What workers that are gone had counted.
    gone: Tally,
    faults: Vec<(Fault, u64)>,
    flips: u64,
    longest_start_s: f64,
    node_course: Course,
    worker_course: Course,
    failures: Vec<String>,
}

pub(crate) fn run(args: &SoakArgs) -> Outcome<()> {
    let scratch = args.common.scratch("soak")?;
    let dir = scratch.join("n");
    let second = dir.join("drive-2").display().to_string();
    let extra = ["--data", &second, "--prewrite"].map(str::to_owned).to_vec();
    let memory = format!("{MEMORY_MIB}MiB");
    let setup = Setup { dir: dir.clone(), capacity: DRIVE.into(), memory, tcp: true, extra };
    let node = Node::start(&args.common, setup)?;
    let mut soak = Soak {
        node,
        dir,
        workers: Vec::new(),
        next_worker: 1,
        chance: SeededEntropy::new(args.seed),
        clock: Watch::start(),
        gone: Tally::default(),
        faults: Fault::ALL.map(|fault| (fault, 0)).to_vec(),
        flips: 0,
        longest_start_s: 0.0,
        node_course: Course::default(),
        worker_course: Course::default(),
        failures: Vec::new(),
    };
    soak.begin()?;
    let whole_s = f64::from(args.minutes) * 60.0;
    let lasted = soak.last(whole_s);
    if let Err(error) = lasted {
        soak.failures.push(error.0);
    }
    soak.end();
    verdict::tell(&soak, whole_s * FLAT_FROM, args.common.json)
}

impl Soak {
    /// Makes the namespaces and starts the workers. The first lives to the end; the second is the one that is killed.
    fn begin(&mut self) -> Outcome<()> {
        let client = self.node.unix()?;
        let make = |habit: Habit, class, quota| {
            let made = client.create_namespace(habit.namespace(), class, quota, &Fingerprint::default());
            made.map_err(why("making a namespace"))
        };
        make(Habit::Warm, Class::Cache, None)?;
        make(Habit::Kept, Class::Durable, None)?;
        make(Habit::Tight, Class::Durable, Some(32 << 20))?;
        self.start_worker(Habit::Warm, false)?;
        self.start_worker(Habit::Warm, true)?;
        self.start_worker(Habit::Kept, false)?;
        self.start_worker(Habit::Tight, true)
    }

    fn start_worker(&mut self, habit: Habit, tcp: bool) -> Outcome<()> {
        let own = std::env::current_exe().map_err(why("finding this program"))?;
        let number = self.next_worker;
        self.next_worker += 1;
        let mut command = Command::new(own);
        command.args(["soak-worker", "--number", &number.to_string(), "--habit", habit.namespace()]);
        if tcp {
            command.arg("--connect").arg(format!("tcp:127.0.0.1:{}", self.node.tcp_port()));
            command.arg("--token-file").arg(self.dir.join("token"));
        } else {
            command.arg("--connect").arg(format!("unix:{}", self.dir.join("s").display()));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().map_err(why("starting a worker"))?;
        let told = Arc::new(Mutex::new(Value::Null));
        let (stdin, stdout, keep) = (child.stdin.take(), child.stdout.take(), told.clone());
        let read = move || {
            for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()).map_while(Result::ok) {
                if let Ok(value) = serde_json::from_str(&line) {
                    *keep.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = value;
                }
            }
        };
        let reader = std::thread::Builder::new().name("worker".into()).spawn(read).map_err(why("starting a thread"))?;
        self.workers.push(Running { child, stdin, number, told, reader });
        Ok(())
    }

    /// The load with its faults, to the end of its time or the first thing that must not happen.
    fn last(&mut self, whole_s: f64) -> Outcome<()> {
        let (mut fault_s, mut line_s) = (3.0, LINE_S);
        while self.clock.s() < whole_s {
            let now_s = self.clock.s();
            self.sample(now_s);
            self.look_for_ends()?;
            if now_s >= fault_s {
                let restarts = now_s < whole_s * RESTARTS_UNTIL;
                let fault = Fault::pick(&self.chance, restarts);
                fault.commit(self)?;
                if let Some((_, count)) = self.faults.iter_mut().find(|(one, _)| *one == fault) {
                    *count += 1;
                }
                fault_s = self.clock.s() + 1.5 + (self.chance.word() % 3500) as f64 / 1000.0;
            }
            if now_s >= line_s {
                line_s += LINE_S;
                self.show(whole_s);
            }
            pause(250);
        }
        Ok(())
    }

    fn sample(&mut self, now_s: f64) {
        self.node_course.add(now_s, gauge::of(self.node.pid()));
        if let Some(first) = self.workers.first() {
            self.worker_course.add(now_s, gauge::of(first.child.id()));
        }
    }

    /// No process ends by itself.
    fn look_for_ends(&mut self) -> Outcome<()> {
        if let Some(status) = self.node.ended() {
            return Err(Failed(format!("the node ended by itself: {status}")));
        }
        for worker in &mut self.workers {
            if let Ok(Some(status)) = worker.child.try_wait() {
                return Err(Failed(format!("worker {} ended by itself: {status}", worker.number)));
            }
        }
        let all = self.tally();
        if all.wrong_bytes > 0 {
            return Err(Failed(format!("{} wrong bytes were handed over", all.wrong_bytes)));
        }
        Ok(())
    }

    fn tally(&self) -> Tally {
        let mut all = self.gone.clone();
        self.workers.iter().for_each(|worker| all.add(&worker.tally()));
        all
    }

    fn show(&self, whole_s: f64) {
        let (all, now) = (self.tally(), gauge::of(self.node.pid()));
        let faults: u64 = self.faults.iter().map(|(_, count)| count).sum();
        let minutes = |s: f64| format!("{:02}:{:02}", s as u64 / 60, s as u64 % 60);
        say(&format!(
            "{} of {}  {:6.1} GB compared  {} hits  {} misses  {} wrong  {faults} faults  node {} MiB, {} files",
            minutes(self.clock.s()),
            minutes(whole_s),
            all.bytes_out as f64 / 1e9,
            all.hits,
            all.missed_in_all(),
            all.wrong_bytes,
            now.kib >> 10,
            now.files
        ));
    }

    /// A last kill; then every worker asks for all that must be there, and says what it found.
    fn end(&mut self) {
        if let Err(error) = self.node.kill_and_restart() {
            self.failures.push(format!("the last start failed: {}", error.0));
        }
        for worker in &mut self.workers {
            worker.stdin = None;
        }
        for mut worker in std::mem::take(&mut self.workers) {
            let ended = wait(&mut worker.child, 90.0);
            let _ = worker.reader.join();
            let told = worker.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
            if !ended || told["last"] != true {
                self.failures.push(format!("worker {} did not come to its end", worker.number));
            }
            let tally = Tally::of(&told);
            if !tally.counters_add_up {
                self.failures.push(format!("the counters of worker {} do not add up", worker.number));
            }
            self.gone.add(&tally);
        }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.join("s")
    }

    fn drives(&self) -> [std::path::PathBuf; 2] {
        [self.dir.join("drive"), self.dir.join("drive-2")]
    }
}

/// Waits for a process to end; kills it when it does not.
fn wait(child: &mut Child, most_s: f64) -> bool {
    let clock = Watch::start();
    while clock.s() < most_s {
        if let Ok(Some(status)) = child.try_wait() {
            return status.success();
        }
        pause(50);
    }
    let _ = child.kill();
    let _ = child.wait();
    false
}

/// Bytes of a file.
fn len(path: &Path) -> Outcome<u64> {
    Ok(std::fs::metadata(path).map_err(why("looking at a drive"))?.len())
}

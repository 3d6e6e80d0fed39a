//! What the kernel gives: io_uring and each of its features, locked memory, open files, huge pages, memory and cores.

use std::path::Path;

use forebay_types::format_size;

use super::{Finding, Patient};
use crate::shares::{CONNECTIONS_MAX, needed_descriptors};

/// Fewer serve a handful of clients only.
const FILES_MIN: u64 = 256;

/// Locked memory that rings themselves need before they are charged nowhere (kernels before 5.12), and what every user has by default.
const MEMLOCK_SMALL: u64 = 8 << 20;

pub(super) fn findings(patient: &Patient) -> Vec<Finding> {
    let mut all = uring();
    all.push(locked_memory(patient.memory_bytes));
    all.push(open_files());
    all.push(memory(patient.memory_bytes));
    all.push(cores());
    all.push(anonymous_huge_pages());
    all.push(shared_huge_pages());
    all
}

fn uring() -> Vec<Finding> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let ring = forebay_io::probe().ring;
    if !ring.has("io_uring") {
        let why = ring.features.iter().find(|f| f.name == "io_uring").and_then(|f| f.off.clone()).unwrap_or_default();
        let found =
            format!("not here ({why}), on kernel {release}: drives are read and written by threads, at more CPU");
        return vec![Finding::warn("io_uring", found, no_ring_cure())];
    }
    let mut all = vec![Finding::ok("io_uring", format!("kernel {release}"))];
    for feature in &ring.features {
        let (check, cure) = match feature.name {
            "single_issuer" => ("single_issuer", "Linux 6.0 or newer has it"),
            "defer_taskrun" => ("defer_taskrun", "Linux 6.1 or newer has it"),
            "registered_file" => {
                ("registered file", "Linux 5.1 or newer has it; in a container, allow io_uring_register")
            }
            "registered_buffers" => (
                "registered memory",
                "raise the limit of locked memory (`ulimit -l`); in a container, allow io_uring_register",
            ),
            // What deferring makes needless is not missed.
            _ => continue,
        };
        all.push(match &feature.off {
            None => Finding::ok(check, "on"),
            Some(why) => Finding::warn(check, format!("off: {why}"), cure),
        });
    }
    all
}

fn no_ring_cure() -> String {
    match number("/proc/sys/kernel/io_uring_disabled") {
        Some(2) => "`sysctl kernel.io_uring_disabled=0`, and in /etc/sysctl.d to keep it".into(),
        Some(1) => "`sysctl kernel.io_uring_disabled=0`, or let the node's user join the group in kernel.io_uring_group".into(),
        _ => "Linux 5.13 or newer; in a container, a seccomp profile that allows io_uring_setup, io_uring_enter and io_uring_register".into(),
    }
}

fn locked_memory(memory_bytes: u64) -> Finding {
    let check = "locked memory";
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    match limit {
        None => Finding::ok(check, "no limit: all of a node's memory can be registered"),
        Some(limit) if limit >= memory_bytes => Finding::ok(
            check,
            format!("{} may be locked: a node of {} fits", format_size(limit), format_size(memory_bytes)),
        ),
        // The kernel does not count it for those who may lock what they like.
        Some(limit) if may_lock_anything() => {
            Finding::ok(check, format!("the limit of {} does not count for this user", format_size(limit)))
        }
        Some(limit) => Finding::warn(
            check,
            format!(
                "{} may be locked{}, and a node of {} would register all it has: it serves without, at more CPU for drive I/O",
                format_size(limit),
                if limit < MEMLOCK_SMALL { " (less than the usual 8 MiB)" } else { "" },
                format_size(memory_bytes)
            ),
            "`ulimit -l unlimited` before the start, or LimitMEMLOCK=infinity in the systemd unit",
        ),
    }
}

/// CAP_IPC_LOCK, bit 14 of the effective set.
fn may_lock_anything() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).is_some_and(|set| set & 1 << 14 != 0)
}

fn open_files() -> Finding {
    let check = "open files";
    let limits = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    // A node raises its own limit as far as it may, so the hard one counts.
    let most = limits.maximum.unwrap_or(u64::MAX);
    let wanted = needed_descriptors(1) as u64;
    let cure = format!("`ulimit -Hn {wanted}` as root before the start, or LimitNOFILE={wanted} in the systemd unit");
    match most {
        most if most >= wanted => Finding::ok(check, format!("{most} at most, and a node needs up to {wanted}")),
        most if most >= FILES_MIN => Finding::warn(
            check,
            format!(
                "{most} at most: enough for some {} connections with their regions, of {CONNECTIONS_MAX} a node takes",
                most / 2
            ),
            cure,
        ),
        most => Finding::fail(check, format!("{most} at most: too few for a node with clients"), cure),
    }
}

fn memory(memory_bytes: u64) -> Finding {
    let check = "memory";
    let (total, available) = (meminfo("MemTotal:"), meminfo("MemAvailable:"));
    let group = group_limit();
    let most = group.unwrap_or(total).min(total);
    let whose =
        if group.is_some_and(|limit| limit < total) { "this control group may have" } else { "this machine has" };
    // What the process takes in all stays below this.
    let wanted = memory_bytes + (64 << 20);
    if wanted > most {
        return Finding::fail(
            check,
            format!(
                "{whose} {} and a node with --memory {} takes up to {}",
                format_size(most),
                format_size(memory_bytes),
                format_size(wanted)
            ),
            "give a smaller --memory, or raise the control group's memory.max",
        );
    }
    if wanted > available {
        return Finding::warn(
            check,
            format!("{} are available now and a node takes up to {}", format_size(available), format_size(wanted)),
            "give a smaller --memory, or end what uses the memory; a node that is swapped out is slow",
        );
    }
    Finding::ok(
        check,
        format!(
            "{whose} {}, {} of it available; a node takes up to {}",
            format_size(most),
            format_size(available),
            format_size(wanted)
        ),
    )
}

fn cores() -> Finding {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match cores {
        1 => {
            Finding::warn("cores", "1: node and engines take turns on it", "give the node's shards cores of their own")
        }
        cores => Finding::ok("cores", format!("{cores}; each shard keeps up to one busy")),
    }
}

fn anonymous_huge_pages() -> Finding {
    let file = "/sys/kernel/mm/transparent_hugepage/enabled";
    let check = "huge pages, arena";
    match chosen(file).as_deref() {
        Some("always" | "madvise") => Finding::ok(check, "on"),
        chosen => Finding::warn(
            check,
            format!("{file} is {:?}: the arena lies in small pages, and copies cost more", chosen.unwrap_or("absent")),
            format!("`echo madvise > {file}` as root"),
        ),
    }
}

fn shared_huge_pages() -> Finding {
    let check = "huge pages, regions";
    match forebay_io::probe().huge_pages_off {
        None => Finding::ok(check, "on: blocks from the drive are read into clients' memory without a copy"),
        Some(why) => Finding::warn(
            check,
            format!("{why}: clients' regions lie in small pages, so blocks from the drive are copied to them"),
            "`echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled` as root, or Linux 6.7 or newer",
        ),
    }
}

/// The word in brackets.
fn chosen(file: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    Some(text.split('[').nth(1)?.split(']').next()?.to_owned())
}

fn number(file: impl AsRef<Path>) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// A line of /proc/meminfo, in bytes; 0 if it is not there.
fn meminfo(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// The tightest limit of memory on the way to this process's control group (version 2); `None` if there is none.
fn group_limit() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let root = Path::new("/sys/fs/cgroup");
    let own = root.join(own.trim_start_matches('/'));
    own.ancestors()
        .take_while(|group| group.starts_with(root))
        .filter_map(|group| number(group.join("memory.max")))
        .min()
}

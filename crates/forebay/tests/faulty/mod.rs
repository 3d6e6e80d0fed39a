//! A file whose reads, writes and flushes fail with EIO when the test says so: the kernel's own error, out of the kernel's own paths.
//!
//! A file system in user space with one file, which is its root (FUSE, protocol 7.31; `linux/fuse.h` draws each message). The bytes lie in a plain
//! file that outlives every mount. Each node gets a mount in a namespace of its own, so nothing stays when it ends, however it ends.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use super::support::{Node, Place};

/// What can fail, a bit each.
pub(crate) const READS: u8 = 1;
pub(crate) const WRITES: u8 = 2;
pub(crate) const FLUSHES: u8 = 4;

/// Longest write the kernel may send in one message, and longest read it may ask for.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const IN_HEADER: usize = 40;
const OUT_HEADER: usize = 16;

/// Operations of `linux/fuse.h`.
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const INIT: u32 = 26;
const DESTROY: u32 = 38;
/// Forgetting and interrupting, which nobody answers.
const UNANSWERED: [u32; 3] = [2, 36, 42];

/// Errno of what is broken, and of what this file system does not know.
const EIO: i32 = 5;
const ENOSYS: i32 = 38;

pub(crate) struct Faulty {
    place: PathBuf,
    bytes: Arc<File>,
    faults: Arc<AtomicU8>,
    failed: Arc<AtomicU64>,
}

impl Faulty {
    /// A drive named `sick` in `place`, of so many bytes; an error is why nobody may mount one here.
    pub(crate) fn new(place: &Place, bytes: u64) -> Result<Self, String> {
        let options = |path: &str| File::options().read(true).write(true).create(true).truncate(false).open(path);
        let behind = options(&place.text("behind")).expect("the test's own folder");
        behind.set_len(bytes).expect("a sparse file");
        options(&place.text("sick")).expect("the test's own folder");
        let made =
            Faulty { place: place.path(""), bytes: Arc::new(behind), faults: Arc::default(), failed: Arc::default() };
        let mut attempt = Command::new("sh");
        attempt.args(["-c", "exit 0"]);
        let tried = made.mounted(&attempt).map_err(|e| e.to_string()).and_then(|mut command| {
            let ran = command.output().map_err(|e| e.to_string())?;
            if ran.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ran.stderr).trim().to_owned()) }
        });
        tried.map(|()| made)
    }

    /// Starts what serves on `sick`, with the file mounted there for it alone.
    pub(crate) fn start(&self, command: &Command) -> Node {
        Node::start(self.mounted(command).expect("mounted before"))
    }

    /// From now on these fail, and no others. How many have failed so far.
    pub(crate) fn fail(&self, faults: u8) -> u64 {
        self.faults.store(faults, Ordering::SeqCst);
        self.failed.load(Ordering::SeqCst)
    }

    /// `command` in a mount namespace of its own, and somebody who answers for the file until it ends.
    fn mounted(&self, command: &Command) -> std::io::Result<Command> {
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        // Given as its standard input, so that the node itself does not hold it: then the mount would outlive its server.
        let script = "mount -i -t fuse -o fd=0,rootmode=100600,user_id=0,group_id=0 forebay-test sick \
                      && exec \"$0\" \"$@\" </dev/null";
        let mut within = Command::new("unshare");
        within.args(["--mount", "--propagation", "private", "sh", "-c", script]);
        within.arg(command.get_program()).args(command.get_args()).current_dir(&self.place);
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => within.env(name, value),
                None => within.env_remove(name),
            };
        }
        within.stdin(Stdio::from(device.try_clone()?));
        let (bytes, faults, failed) = (self.bytes.clone(), self.faults.clone(), self.failed.clone());
        #[expect(clippy::disallowed_methods, reason = "a file system in user space is served by a thread of the test")]
        // Ends when the mount does: reading the device fails then.
        std::thread::spawn(move || Server { device, bytes, faults, failed }.run());
        Ok(within)
    }
}

struct Server {
    device: File,
    bytes: Arc<File>,
    faults: Arc<AtomicU8>,
    failed: Arc<AtomicU64>,
}

fn word(message: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(message[at..at + 4].try_into().expect("four bytes"))
}

fn long(message: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(message[at..at + 8].try_into().expect("eight bytes"))
}

impl Server {
    fn run(mut self) {
        let mut message = vec![0; MESSAGE_BYTES_MAX + 4096];
        let mut answer = Vec::new();
        while let Some(length) = self.next(&mut message) {
            let (operation, unique) = (word(&message, 4), &message[8..16]);
            if UNANSWERED.contains(&operation) {
                continue;
            }
            answer.clear();
            answer.resize(OUT_HEADER, 0);
            let error = self.answer(operation, &message[IN_HEADER..length], &mut answer).err().unwrap_or(0);
            if error != 0 {
                answer.truncate(OUT_HEADER);
            }
            let total = (answer.len() as u32).to_le_bytes();
            answer[..4].copy_from_slice(&total);
            answer[4..8].copy_from_slice(&(-error).to_le_bytes());
            answer[8..16].copy_from_slice(unique);
            // Whoever asked may have been killed meanwhile.
            let _ = self.device.write(&answer);
        }
    }

    fn next(&mut self, message: &mut [u8]) -> Option<usize> {
        loop {
            match self.device.read(message) {
                Ok(length) if length >= IN_HEADER => return Some(length),
                Ok(_) => return None,
                // Before it is mounted, and after it was, this fails for good; a request withdrawn meanwhile is no end.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(1) => super::support::pause(1),
                Err(_) => return None,
            }
        }
    }

    fn broken(&self, what: u8) -> Result<(), i32> {
        if self.faults.load(Ordering::SeqCst) & what == 0 {
            return Ok(());
        }
        self.failed.fetch_add(1, Ordering::SeqCst);
        Err(EIO)
    }

    /// Appends what the operation answers; an error is its errno.
    fn answer(&self, operation: u32, body: &[u8], out: &mut Vec<u8>) -> Result<(), i32> {
        let errno = |e: std::io::Error| e.raw_os_error().unwrap_or(EIO);
        match operation {
            INIT => {
                // Several reads at once, long writes, direct I/O that does not wait, messages of many pages.
                let flags = word(body, 12) & (1 | 1 << 5 | 1 << 15 | 1 << 22);
                for value in [7, 31, word(body, 8), flags, 64 | 48 << 16, MESSAGE_BYTES_MAX as u32, 1, 256] {
                    out.extend_from_slice(&u32::to_le_bytes(value));
                }
                out.resize(OUT_HEADER + 64, 0);
            }
            GETATTR => {
                let size = self.bytes.metadata().map_err(errno)?.len();
                out.extend_from_slice(&[0; 16]);
                [1, size, size / 512, 0, 0, 0]
                    .iter()
                    .for_each(|value: &u64| out.extend_from_slice(&value.to_le_bytes()));
                let plain_file_of_its_owner = 0o100_600;
                for value in [0, 0, 0, plain_file_of_its_owner, 1, 0, 0, 0, 4096, 0] {
                    out.extend_from_slice(&u32::to_le_bytes(value));
                }
            }
            OPEN => out.extend_from_slice(&[0; 16]),
            READ => {
                self.broken(READS)?;
                out.resize(OUT_HEADER + word(body, 16) as usize, 0);
                let read = self.bytes.read_at(&mut out[OUT_HEADER..], long(body, 8)).map_err(errno)?;
                out.truncate(OUT_HEADER + read);
            }
            WRITE => {
                self.broken(WRITES)?;
                let length = word(body, 16) as usize;
                self.bytes.write_all_at(&body[40..40 + length], long(body, 8)).map_err(errno)?;
                out.extend_from_slice(&(length as u64).to_le_bytes());
            }
            FSYNC => self.broken(FLUSHES)?,
            RELEASE | DESTROY => {}
            _ => return Err(ENOSYS),
        }
        Ok(())
    }
}

//! A directory of a test's own.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use forebay_net::{Listener, Socket};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Long enough for any machine; nothing waits that long unless the test fails.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("forebay-net-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Both ends of a new connection: the one that connected, then the one that was accepted.
pub(crate) fn meet(listener: &Listener) -> (Socket, Socket) {
    let near = Socket::connect(listener.address(), LONG).unwrap();
    let far = loop {
        if let Some(socket) = listener.accept().unwrap() {
            break socket;
        }
        std::thread::yield_now();
    };
    (near, far)
}

//! Where clients knock: Unix sockets whose stale files are replaced and live ones never, and TCP that stays on loopback unless told otherwise.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay_types::Address;
use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, socket_with};

use crate::socket::{again, timespec};
use crate::{ListenError, Socket};

/// Connections that may wait to be accepted. A fleet that starts at once opens some hundreds; the kernel's own ceiling is often 4096.
const BACKLOG: i32 = 1024;
/// How often and how long to wait for a process that makes a socket in the same directory: 2 s in all, for what takes milliseconds.
const LOCK_TRIES: u32 = 1000;
const LOCK_WAIT: Duration = Duration::from_millis(2);

/// A socket that accepts connections, nonblocking. Dropping a Unix one removes its file.
#[derive(Debug)]
pub struct Listener {
    /// Before the descriptor, for fields are dropped in order: while it is open nobody takes the file for stale and puts another in its place.
    file: Option<SocketFile>,
    fd: OwnedFd,
    address: Address,
}

/// The file of a Unix socket: its path, and the device and inode that say whether it is still ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    id: (u64, u64),
}

impl Listener {
    /// Listens on a Unix socket that only this user can connect to (mode 0600). A socket file that nobody listens on any more is replaced; one that
    /// somebody listens on, or a file of another kind, is left alone and is an error.
    pub fn unix(path: impl AsRef<Path>) -> Result<Listener, ListenError> {
        let path = path.as_ref();
        let address = Address::unix(path)?;
        let fail = |source: io::Error| ListenError::Unix { path: path.to_owned(), source };
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !directory.is_dir() {
            return Err(ListenError::NoDirectory { path: path.to_owned(), directory: directory.to_owned() });
        }
        // Without the lock, two that start together could both find a stale file, and the slower one would remove the faster one's socket.
        let lock = lock_directory(directory)?;
        remove_stale(path)?;

        let name = SocketAddrUnix::new(path).map_err(|e| fail(e.into()))?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(|e| fail(e.into()))?;
        rustix::net::bind(&fd, &name).map_err(|e| match e {
            Errno::ADDRINUSE => ListenError::Taken(path.to_owned()),
            e => fail(e.into()),
        })?;
        // Until `listen` nobody can connect, so there is no moment at which the file's first mode matters.
        let made = SocketFile::of(path).and_then(|file| {
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
            rustix::net::listen(&fd, BACKLOG)?;
            Ok(file)
        });
        drop(lock);
        Ok(Listener { fd, address, file: Some(made.map_err(fail)?) })
    }

    /// Listens on `HOST:PORT`; port 0 is any free one. Addresses that other machines can reach are refused unless `insecure_network`.
    pub fn tcp(host_port: &str, insecure_network: bool) -> Result<Listener, ListenError> {
        let fail = |source: io::Error| match source.kind() {
            ErrorKind::AddrInUse => ListenError::TcpTaken(host_port.to_owned()),
            _ => ListenError::Tcp { address: host_port.to_owned(), source },
        };
        let addresses: Vec<SocketAddr> = host_port.to_socket_addrs().map_err(fail)?.collect();
        let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
        if !insecure_network && !addresses.iter().all(is_loopback) {
            return Err(ListenError::Network { address: host_port.to_owned() });
        }
        let listener = TcpListener::bind(addresses.as_slice()).map_err(fail)?;
        let address = Address::Tcp(listener.local_addr().map_err(fail)?.to_string());
        listener.set_nonblocking(true).map_err(fail)?;
        Ok(Listener { fd: listener.into(), address, file: None })
    }

    /// The next connection, or `None` when nobody waits. An error concerns that connection or this process (too many open descriptors), never
    /// the listener: it can be asked again, but after a pause.
    pub fn accept(&self) -> io::Result<Option<Socket>> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        match again(|| accept_with(&self.fd, flags)) {
            Ok(fd) => Socket::accepted(fd, self.file.is_some()).map(Some),
            // Somebody knocked and left: as if nobody had.
            Err(Errno::WOULDBLOCK | Errno::CONNABORTED) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Where it listens; the port is the real one.
    pub fn address(&self) -> &Address {
        &self.address
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl SocketFile {
    fn of(path: &Path) -> io::Result<SocketFile> {
        let meta = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.to_owned(), id: (meta.dev(), meta.ino()) })
    }
}

impl Drop for SocketFile {
    /// A file that another process has put in its place since is not ours to remove.
    fn drop(&mut self) {
        let still_ours = fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.id);
        if still_ours {
            // Nothing can be done about a failure, and the next start removes a stale file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Locks a directory against others of us. `None`: it cannot be locked (not readable, or of a file system without locks), and is used unlocked.
fn lock_directory(directory: &Path) -> Result<Option<File>, ListenError> {
    let Ok(file) = File::open(directory) else { return Ok(None) };
    for _ in 0..LOCK_TRIES {
        match again(|| flock(&file, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => return Ok(Some(file)),
            Err(Errno::WOULDBLOCK) => {
                let _ = rustix::event::poll(&mut [], Some(&timespec(LOCK_WAIT)));
            }
            Err(_) => return Ok(None),
        }
    }
    Err(ListenError::Busy(directory.to_owned()))
}

/// Removes a socket's file when the kernel says that nobody listens on it.
fn remove_stale(path: &Path) -> Result<(), ListenError> {
    let fail = |source: io::Error| ListenError::Unix { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(fail(e)),
        Ok(meta) if !meta.file_type().is_socket() => return Err(ListenError::NotASocket(path.to_owned())),
        Ok(_) => {}
    }
    let probe = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let probe = probe.map_err(|e| fail(e.into()))?;
    ioctl_fionbio(&probe, true).map_err(|e| fail(e.into()))?;
    let name = SocketAddrUnix::new(path).map_err(|e| fail(e.into()))?;
    match again(|| rustix::net::connect(&probe, &name)) {
        Err(Errno::CONNREFUSED) => match fs::remove_file(path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(fail(e)),
            _ => Ok(()),
        },
        // A full backlog is a busy listener, and a socket of another kind has an owner too.
        Ok(()) | Err(Errno::WOULDBLOCK | Errno::PROTOTYPE) => Err(ListenError::Taken(path.to_owned())),
        Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(ListenError::Unclear { path: path.to_owned(), source: e.into() }),
    }
}

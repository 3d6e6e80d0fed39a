//! One end of a connection.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use forebay_types::{Address, Clock, SystemClock};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, getpeername,
    recvmsg, sendmsg, sockopt,
};
use rustix::process::Pid;

/// Most descriptors that one call takes or gives. A message carries one; more in one call come from several messages.
pub const FDS_MAX: usize = 4;
/// Most slices of one call: what the kernel takes. More are for the next call, as after any partial send.
const SLICES_MAX: usize = 1024;
/// Room for [`FDS_MAX`] descriptors in a control message.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(FDS_MAX));

/// Who is at the other end of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// The process that connected, by its number here.
    Process(u32),
    /// The machine.
    Host(std::net::IpAddr),
}

/// A connected stream, Unix or TCP, always nonblocking and closed on exec.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    /// Only Unix sockets carry descriptors and know their peer's uid.
    unix: bool,
}

/// What can be done with a socket without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Readiness {
    /// Bytes, an end or an error can be received.
    pub readable: bool,
    /// Bytes can be sent.
    pub writable: bool,
    /// The other end is gone. Bytes that it sent before may still be there.
    pub hangup: bool,
}

impl Socket {
    /// Connects, within `timeout`. Errors keep the kernel's kind and say what to look at. A host's name is looked up first, by the system and
    /// under its own time limit.
    pub fn connect(address: &Address, timeout: Duration) -> io::Result<Socket> {
        let connected = match address {
            Address::Unix(path) => connect_unix(path, timeout),
            Address::Tcp(host_port) => connect_tcp(host_port, timeout),
        };
        connected.map_err(|e| {
            let what_to_try = match e.kind() {
                ErrorKind::NotFound => "; is the node started, and is the path right?",
                ErrorKind::ConnectionRefused => "; is the node started?",
                ErrorKind::PermissionDenied => {
                    "; the socket belongs to another user: run as the user who runs the node"
                }
                ErrorKind::TimedOut | ErrorKind::WouldBlock => "; the node did not answer in time",
                _ => "",
            };
            let kind = if e.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut } else { e.kind() };
            io::Error::new(kind, format!("cannot connect to {address}: {e}{what_to_try}"))
        })
    }

    /// Begins to connect and does not wait: what is sent waits with `WouldBlock` until the connection is there, and an attempt that fails is told by
    /// whatever is called next. For whoever looks after several at once. Of a host with several addresses the first is tried; its name is
    /// looked up by the system, which may take its time.
    pub fn begin(address: &Address) -> io::Result<Socket> {
        Socket::begin_nth(address, 0).map(|(socket, _)| socket)
    }

    /// The same with the host's address of this number, and how many there are behind it. `NotFound` when there are not so many.
    pub fn begin_nth(address: &Address, nth: usize) -> io::Result<(Socket, usize)> {
        let none = || io::Error::new(ErrorKind::NotFound, "the host has no such address");
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match address {
            Address::Unix(_) if nth > 0 => Err(none()),
            Address::Unix(path) => {
                let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
                rustix::net::connect(&fd, &SocketAddrUnix::new(path.as_path())?)?;
                Ok((Socket { fd, unix: true }, 0))
            }
            Address::Tcp(host_port) => {
                let mut all = host_port.to_socket_addrs()?.skip(nth);
                let to = all.next().ok_or_else(none)?;
                let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let fd = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
                match rustix::net::connect(&fd, &to) {
                    Ok(()) | Err(Errno::INPROGRESS) => {}
                    Err(e) => return Err(e.into()),
                }
                tune_tcp(&fd, Some(to))?;
                Ok((Socket { fd, unix: false }, all.count()))
            }
        }
    }

    /// Two Unix sockets connected to each other.
    pub fn pair() -> io::Result<(Socket, Socket)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        Ok((Socket { fd: a, unix: true }, Socket { fd: b, unix: true }))
    }

    /// Takes over a connected stream socket and makes it nonblocking.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Socket> {
        if sockopt::socket_type(&fd)? != SocketType::STREAM {
            return Err(io::Error::new(ErrorKind::InvalidInput, "the descriptor is not a stream socket"));
        }
        let unix = match sockopt::socket_domain(&fd)? {
            AddressFamily::UNIX => true,
            AddressFamily::INET | AddressFamily::INET6 => false,
            _ => return Err(io::Error::new(ErrorKind::InvalidInput, "the socket is neither Unix nor TCP")),
        };
        ioctl_fionbio(&fd, true)?;
        if !unix {
            tune_tcp(&fd, None)?;
        }
        Ok(Socket { fd, unix })
    }

    /// Gives the descriptor away.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// True for a Unix socket, which can carry descriptors.
    pub fn is_unix(&self) -> bool {
        self.unix
    }

    /// Receives into `bufs` in order; 0 is the peer's end. `WouldBlock`: nothing is there yet. Descriptors are appended to `fds` in the order
    /// they were sent; those of a message can come with bytes that lie *before* it, so keep them in a queue until their message is decoded.
    ///
    /// More than [`FDS_MAX`] at once, or any that this process has no number free for, is `InvalidData`: all of the call are closed, and the
    /// connection cannot be trusted any further.
    ///
    /// # Panics
    /// Debug builds, if `bufs` has no room: 0 could not be told from the peer's end.
    pub fn recv(&self, bufs: &mut [IoSliceMut<'_>], fds: &mut Vec<OwnedFd>) -> io::Result<usize> {
        debug_assert!(bufs.iter().any(|buf| !buf.is_empty()), "receiving needs room");
        let slices = bufs.len().min(SLICES_MAX);
        let bufs = &mut bufs[..slices];
        let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
        let mut control =
            if self.unix { RecvAncillaryBuffer::new(&mut space) } else { RecvAncillaryBuffer::new(&mut []) };
        let received = again(|| recvmsg(&self.fd, bufs, &mut control, RecvFlags::CMSG_CLOEXEC))?;
        if !self.unix {
            return Ok(received.bytes);
        }
        let before = fds.len();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(sent) = message {
                fds.extend(sent);
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) || fds.len() - before > FDS_MAX {
            fds.truncate(before);
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "the peer sent more descriptors than a message carries, or this process has too many open (see `ulimit -n`)",
            ));
        }
        Ok(received.bytes)
    }

    /// Sends from `bufs` in order and gives the number of bytes taken, at least 1. `WouldBlock`: none were. The descriptors ride on the first
    /// byte: after any success they are sent, and what is left goes without them.
    pub fn send(&self, bufs: &[IoSlice<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
        debug_assert!(
            bufs.iter().any(|buf| !buf.is_empty()),
            "descriptors need a byte to ride on, and 0 sent would say nothing"
        );
        if !fds.is_empty() && (!self.unix || fds.len() > FDS_MAX) {
            let why = if self.unix { "more descriptors than one call takes" } else { "TCP carries no descriptors" };
            return Err(io::Error::new(ErrorKind::InvalidInput, why));
        }
        let bufs = &bufs[..bufs.len().min(SLICES_MAX)];
        let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(fds));
            assert!(fits, "the space is for FDS_MAX descriptors");
        }
        let sent = again(|| sendmsg(&self.fd, bufs, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT))?;
        Ok(sent)
    }

    /// Waits until the socket is readable or writable as asked, the other end is gone, or `timeout` is over (then nothing is set).
    pub fn wait(&self, readable: bool, writable: bool, timeout: Duration) -> io::Result<Readiness> {
        let clock = SystemClock::new();
        let mut flags = PollFlags::RDHUP;
        flags.set(PollFlags::IN, readable);
        flags.set(PollFlags::OUT, writable);
        loop {
            let left = timeout.saturating_sub(Duration::from_micros(clock.now_us()));
            let mut polled = [PollFd::new(&self.fd, flags)];
            match poll(&mut polled, Some(&timespec(left))) {
                Ok(_) => return Ok(readiness(polled[0].revents())),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The uid of the process at the other end when it connected; `None` on TCP.
    pub fn peer_uid(&self) -> Option<u32> {
        if !self.unix {
            return None;
        }
        sockopt::socket_peercred(&self.fd).ok().map(|peer| peer.uid.as_raw())
    }

    /// Who is at the other end; `None` when the kernel does not say.
    pub fn peer(&self) -> Option<Peer> {
        if self.unix {
            let peer = sockopt::socket_peercred(&self.fd).ok()?;
            // The kernel says 0 for a process that this one cannot see, though the type knows no 0: the number is looked at as a number.
            let pid = std::hint::black_box(Pid::as_raw(Some(peer.pid)));
            return u32::try_from(pid).ok().filter(|pid| *pid > 0).map(Peer::Process);
        }
        let address = SocketAddr::try_from(getpeername(&self.fd).ok()??).ok()?;
        Some(Peer::Host(address.ip().to_canonical()))
    }

    /// Tells the other end that nothing more comes, and this end that nothing more is wanted. Both wake up.
    pub fn shutdown(&self) -> io::Result<()> {
        match rustix::net::shutdown(&self.fd, Shutdown::Both) {
            Ok(()) | Err(Errno::NOTCONN) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    pub(crate) fn accepted(fd: OwnedFd, unix: bool) -> io::Result<Socket> {
        if !unix {
            tune_tcp(&fd, None)?;
        }
        Ok(Socket { fd, unix })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A call that a signal interrupted did nothing, so it can be made again at once.
pub(crate) fn again<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            done => return done,
        }
    }
}

pub(crate) fn timespec(left: Duration) -> Timespec {
    // Over an hour is as good as an hour to whoever waits, and fits every width of the kernel's.
    let left = left.min(Duration::from_secs(3600));
    Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) as _ }
}

fn readiness(seen: PollFlags) -> Readiness {
    let hangup = seen.intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR);
    Readiness { readable: seen.contains(PollFlags::IN) || hangup, writable: seen.contains(PollFlags::OUT), hangup }
}

fn connect_unix(path: &Path, timeout: Duration) -> io::Result<Socket> {
    let address = SocketAddrUnix::new(path)?;
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // A nonblocking connect fails at once when the node's backlog is full, and nothing tells when it no longer is. A blocking one waits in
    // the kernel, no longer than the socket's time limit for sending.
    let limit = timeout.max(Duration::from_millis(1));
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, Some(limit))?;
    again(|| rustix::net::connect(&fd, &address))?;
    sockopt::set_socket_timeout(&fd, sockopt::Timeout::Send, None)?;
    ioctl_fionbio(&fd, true)?;
    Ok(Socket { fd, unix: true })
}

fn connect_tcp(host_port: &str, timeout: Duration) -> io::Result<Socket> {
    let clock = SystemClock::new();
    let addresses: Vec<SocketAddr> = host_port.to_socket_addrs()?.collect();
    let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for (i, address) in addresses.iter().enumerate() {
        // A share each, so that one address that answers nothing leaves time for the others.
        let left = timeout.saturating_sub(Duration::from_micros(clock.now_us()));
        let share = left / (addresses.len() - i) as u32;
        match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
            // A port nobody listens on can be drawn for this very socket, which then meets itself.
            Ok(stream) if stream.local_addr()? == stream.peer_addr()? => last = ErrorKind::ConnectionRefused.into(),
            Ok(stream) => {
                let fd = OwnedFd::from(stream);
                ioctl_fionbio(&fd, true)?;
                tune_tcp(&fd, None)?;
                return Ok(Socket { fd, unix: false });
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// Small answers leave at once; a peer whose machine is gone is noticed within a minute even when nothing is asked of it. `to` is where a
/// connection goes that may not be there yet.
fn tune_tcp(fd: &OwnedFd, to: Option<SocketAddr>) -> io::Result<()> {
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(fd, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(fd, 3)?;
    if stays_here(fd, to) {
        // There is no path whose bandwidth could be learned, and pacing by timers costs a third of the speed. Only a wish: kernels forbid names.
        let _ = sockopt::set_tcp_congestion(fd, LOOPBACK_CONGESTION);
    }
    Ok(())
}

/// Congestion control of connections inside a machine: in every kernel, allowed to everybody, and without timers (see decision 0018).
const LOOPBACK_CONGESTION: &str = "reno";

/// True if both ends are on this machine, whatever address they call it by.
fn stays_here(fd: &OwnedFd, to: Option<SocketAddr>) -> bool {
    let canonical = |at: SocketAddr| at.ip().to_canonical();
    let ip = |address: SocketAddrAny| SocketAddr::try_from(address).ok();
    let peer = match to {
        Some(to) => Some(to),
        None => rustix::net::getpeername(fd).ok().flatten().and_then(ip),
    };
    let (peer, own) = (peer.map(canonical), rustix::net::getsockname(fd).ok().and_then(ip).map(canonical));
    peer.is_some_and(|peer| peer.is_loopback() || own == Some(peer))
}

//! Answers Prometheus: `GET /metrics`, one asker at a time.
//!
//! Small on purpose: it understands one request line, bounds what it reads and how long it waits, and closes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay_types::Clock;

use crate::NodeError;
use crate::board::Board;
use crate::metrics;

/// A request's head, in bytes at most.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// How long one asker may take in all, to ask and to take the answer: the next one waits behind it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The responder's thread.
#[derive(Debug)]
pub(crate) struct Responder {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Binds the address. Others than loopback only when asked for: the numbers tell names of files and how busy the node is.
pub(crate) fn bind(address: SocketAddr, insecure_network: bool) -> Result<TcpListener, NodeError> {
    if !address.ip().is_loopback() && !insecure_network {
        return Err(NodeError::Config(format!(
            "metrics at {address} could be read from other machines, and nothing asks who reads; give a loopback address such as 127.0.0.1:{}, or --insecure-network if the network is trusted",
            address.port()
        )));
    }
    TcpListener::bind(address).map_err(|error| {
        NodeError::Config(format!("metrics cannot be served at {address}: {error}; give another --metrics HOST:PORT"))
    })
}

impl Responder {
    pub(crate) fn start(listener: TcpListener, board: Arc<Board>) -> Result<Self, NodeError> {
        let failed = |source| NodeError::Os { doing: "starting the metrics thread", source };
        let address = listener.local_addr().map_err(failed)?;
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let serve = move || {
            for stream in listener.incoming() {
                if seen.load(Ordering::Relaxed) {
                    break;
                }
                // An asker that fails hurts nobody but itself.
                if let Ok(stream) = stream {
                    let _ = answer(stream, &board);
                }
            }
        };
        let thread = std::thread::Builder::new().name("metrics".into()).spawn(serve).map_err(failed)?;
        Ok(Responder { address, stop, thread: Some(thread) })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread from its accept.
        let _ = TcpStream::connect_timeout(&self.address, PATIENCE);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A connection with an end to its time: whoever sends or takes byte by byte is let go like whoever is silent.
struct Asker<'a> {
    stream: TcpStream,
    clock: &'a dyn Clock,
    until_us: u64,
}

impl Asker<'_> {
    fn left(&self) -> std::io::Result<Option<Duration>> {
        match self.until_us.saturating_sub(self.clock.now_us()) {
            0 => Err(ErrorKind::TimedOut.into()),
            left_us => Ok(Some(Duration::from_micros(left_us))),
        }
    }

    /// The request's head; `None` when it ends early or is larger than any we answer.
    fn head(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        let mut head = Vec::new();
        let mut chunk = [0; 1024];
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            self.stream.set_read_timeout(self.left()?)?;
            let n = self.stream.read(&mut chunk)?;
            if n == 0 || head.len() + n > HEAD_BYTES_MAX {
                return Ok(None);
            }
            head.extend_from_slice(&chunk[..n]);
        }
        Ok(Some(head))
    }

    fn send(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            self.stream.set_write_timeout(self.left()?)?;
            match self.stream.write(bytes)? {
                0 => return Err(ErrorKind::WriteZero.into()),
                n => bytes = &bytes[n..],
            }
        }
        Ok(())
    }
}

fn answer(stream: TcpStream, board: &Board) -> std::io::Result<()> {
    let clock = board.clock.as_ref();
    let mut asker = Asker { stream, clock, until_us: clock.now_us() + PATIENCE.as_micros() as u64 };
    let Some(head) = asker.head()? else { return Ok(()) };
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or(&[]);
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (status, kind, body) = match (words.next(), words.next().and_then(|path| path.split('?').next())) {
        (Some("GET"), Some("/metrics")) => {
            ("200 OK", "text/plain; version=0.0.4; charset=utf-8", metrics::prometheus(board))
        }
        (Some("GET"), _) => ("404 Not Found", "text/plain", "metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "only GET is answered here\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    asker.send(head.as_bytes())?;
    asker.send(body.as_bytes())
}

//! Redis of the distribution: once in memory alone, over its Unix socket and over TCP, and once with a file it appends to and fsyncs before each answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::verdict::REDIS_TCP;
use super::{Figure, Load, Op, Peer};
use crate::watch::{Watch, pause};
use crate::work::pattern;
use crate::{Failed, Outcome, Scratch, why};

const REDIS: &str = "redis";
const APPEND_ONLY: &str = "redis, appendfsync always";

/// The program in Debian's redis-tools, which is all of Redis; installing redis-server would start a service.
pub(super) const PROGRAM: &str = "redis-check-rdb";

pub(super) struct Redis {
    memory: Server,
    drive: Server,
}

impl Redis {
    pub(super) fn start(dir: &Scratch) -> Outcome<Redis> {
        Ok(Redis {
            memory: Server::start(&dir.join("redis-memory"), &["--appendonly", "no"])?,
            drive: Server::start(
                &dir.join("redis-drive"),
                &["--appendonly", "yes", "--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"],
            )?,
        })
    }
}

impl Peer for Redis {
    fn name(&self) -> &'static str {
        REDIS
    }

    fn round(&mut self, load: &Load, set: u32) -> Outcome<Vec<Figure>> {
        let mut figures = Vec::new();
        for (column, put, mut link) in [
            (REDIS, Op::PutMemory, self.memory.unix()?),
            (REDIS_TCP, Op::PutMemory, self.memory.tcp()?),
            (APPEND_ONLY, Op::Put, self.drive.unix()?),
        ] {
            figures.push(Figure { column, op: put, gb_s: link.puts(load, set)? });
            if put == Op::PutMemory {
                figures.push(Figure { column, op: Op::GetWarm, gb_s: link.gets(load, set)? });
            }
            link.send(&[b"FLUSHALL"])?;
            link.expect_ok()?;
        }
        Ok(figures)
    }
}

struct Server {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl Server {
    fn start(dir: &Path, flags: &[&str]) -> Outcome<Server> {
        std::fs::create_dir_all(dir).map_err(why("making its folder"))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .map_err(why("finding a free port"))?
            .port();
        let mut command = Command::new(PROGRAM);
        command.arg0("redis-server").arg("--dir").arg(dir).arg("--unixsocket").arg(dir.join("s"));
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", ""]).args(flags);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(why("it did not start"))?;
        let server = Server { child, dir: dir.to_owned(), port };
        let watch = Watch::start();
        while server.unix().is_err() {
            if watch.s() > 10.0 {
                return Err(Failed("it does not answer on its socket".into()));
            }
            pause(20);
        }
        Ok(server)
    }

    fn unix(&self) -> Outcome<Link> {
        let socket = UnixStream::connect(self.dir.join("s")).map_err(why("connecting to redis"))?;
        let reader = socket.try_clone().map_err(why("connecting to redis"))?;
        Ok(Link::new(Box::new(reader), Box::new(socket)))
    }

    fn tcp(&self) -> Outcome<Link> {
        let socket = TcpStream::connect(("127.0.0.1", self.port)).map_err(why("connecting to redis"))?;
        socket.set_nodelay(true).map_err(why("connecting to redis"))?;
        let reader = socket.try_clone().map_err(why("connecting to redis"))?;
        Ok(Link::new(Box::new(reader), Box::new(socket)))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that speaks Redis' protocol, with a few commands on their way.
struct Link {
    reader: BufReader<Box<dyn Read>>,
    writer: Box<dyn Write>,
}

impl Link {
    fn new(reader: Box<dyn Read>, writer: Box<dyn Write>) -> Link {
        Link { reader: BufReader::with_capacity(16 << 10, reader), writer }
    }

    fn puts(&mut self, load: &Load, set: u32) -> Outcome<f64> {
        let mut block = pattern(load.bytes);
        let watch = Watch::start();
        for i in 0..load.count + load.in_flight {
            if i >= load.in_flight {
                self.expect_ok()?;
            }
            if i < load.count {
                mark(&mut block, i);
                self.send(&[b"SET", key(set, i).as_bytes(), &block])?;
            }
        }
        Ok(load.total() as f64 / 1e9 / watch.s())
    }

    fn gets(&mut self, load: &Load, set: u32) -> Outcome<f64> {
        let mut block = vec![0u8; load.bytes];
        let mut expected = vec![0u8; load.bytes];
        let watch = Watch::start();
        for i in 0..load.count + load.in_flight {
            if i >= load.in_flight {
                self.read_block(&mut block)?;
                mark(&mut expected, i - load.in_flight);
                if block[..8] != expected[..8] || block[load.bytes - 8..] != expected[load.bytes - 8..] {
                    return Err(Failed("a block came back wrong from redis".into()));
                }
            }
            if i < load.count {
                self.send(&[b"GET", key(set, i).as_bytes()])?;
            }
        }
        Ok(load.total() as f64 / 1e9 / watch.s())
    }

    fn send(&mut self, words: &[&[u8]]) -> Outcome<()> {
        let mut head = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            head.extend(format!("${}\r\n", word.len()).bytes());
            if word.len() > 1024 {
                self.writer
                    .write_all(&head)
                    .and_then(|()| self.writer.write_all(word))
                    .map_err(why("writing to redis"))?;
                head.clear();
            } else {
                head.extend_from_slice(word);
            }
            head.extend_from_slice(b"\r\n");
        }
        self.writer.write_all(&head).map_err(why("writing to redis"))
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        self.reader.read_line(&mut line).map_err(why("reading from redis"))?;
        Ok(line.trim_end().to_owned())
    }

    fn expect_ok(&mut self) -> Outcome<()> {
        match self.line()?.as_str() {
            "+OK" => Ok(()),
            said => Err(Failed(format!("redis said {said:?}"))),
        }
    }

    fn read_block(&mut self, block: &mut [u8]) -> Outcome<()> {
        let head = self.line()?;
        if head != format!("${}", block.len()) {
            return Err(Failed(format!("redis said {head:?} where a block of {} bytes was asked for", block.len())));
        }
        let mut end = [0; 2];
        self.reader.read_exact(block).and_then(|()| self.reader.read_exact(&mut end)).map_err(why("reading from redis"))
    }
}

fn key(set: u32, i: usize) -> String {
    format!("{set}/{i}")
}

fn mark(block: &mut [u8], i: usize) {
    let n = block.len();
    block[..8].copy_from_slice(&(i as u64).to_le_bytes());
    block[n - 8..].copy_from_slice(&(i as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_from_errors() {
        let link = |said: &str| Link::new(Box::new(std::io::Cursor::new(said.to_owned())), Box::new(Vec::new()));
        let mut block = [0; 3];
        link("$3\r\nabc\r\n").read_block(&mut block).unwrap();
        assert_eq!(&block, b"abc");
        let said = link("-OOM no memory\r\n").read_block(&mut block).unwrap_err().to_string();
        assert!(said.contains("OOM"), "{said}");
        assert!(link("$-1\r\n").read_block(&mut block).is_err());
        assert!(link("-ERR\r\n").expect_ok().is_err());
    }
}

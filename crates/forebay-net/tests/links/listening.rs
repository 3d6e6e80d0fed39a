//! Where a node may listen, who is told what, and what is never touched.

use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::sync::Barrier;
use std::time::Duration;
use std::{fs, thread};

use forebay_net::{ListenError, Listener, Socket};
use forebay_types::Address;

use crate::scratch::{LONG, Scratch, meet};

#[test]
fn a_unix_socket_is_for_its_user_alone_and_knows_who_calls() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let listener = Listener::unix(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let (near, far) = meet(&listener);
    let me = rustix::process::getuid().as_raw();
    assert_eq!((near.peer_uid(), far.peer_uid()), (Some(me), Some(me)));
    drop(listener);
    assert!(!path.exists(), "a listener takes its file along");

    let (near, far) = meet(&Listener::tcp("127.0.0.1:0", false).unwrap());
    assert_eq!((near.peer_uid(), far.peer_uid()), (None, None));
}

#[test]
fn after_a_kill_the_stale_socket_is_replaced() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    // What SIGKILL leaves: a file whose listener is gone.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let address = Address::unix(&path).unwrap();
    let error = Socket::connect(&address, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(error.to_string().contains("is the node started?"), "{error}");

    let listener = Listener::unix(&path).unwrap();
    meet(&listener);
}

#[test]
fn a_live_socket_is_left_alone_even_with_its_backlog_full() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let first = Listener::unix(&path).unwrap();
    let error = Listener::unix(&path).unwrap_err();
    assert!(matches!(error, ListenError::Taken(_)), "{error}");
    assert!(error.to_string().contains("choose another path"));
    assert!(path.exists());
    // The probe's own connection is in the queue, already ended; the next caller is behind it.
    let near = Socket::connect(first.address(), LONG).unwrap();
    let ended = first.accept().unwrap().unwrap();
    assert!(ended.wait(true, false, LONG).unwrap().hangup);
    let far = first.accept().unwrap().unwrap();
    assert!(!far.wait(true, false, Duration::ZERO).unwrap().hangup);
    drop(near);

    let busy = scratch.path("busy");
    let full = rustix::net::socket(rustix::net::AddressFamily::UNIX, rustix::net::SocketType::STREAM, None).unwrap();
    rustix::net::bind(&full, &rustix::net::SocketAddrUnix::new(&busy).unwrap()).unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let address = Address::unix(&busy).unwrap();
    let _waiting = Socket::connect(&address, LONG).unwrap();
    let error = Socket::connect(&address, Duration::from_millis(5)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(matches!(Listener::unix(&busy), Err(ListenError::Taken(_))));

    let other = scratch.path("datagram");
    let _datagram = UnixDatagram::bind(&other).unwrap();
    assert!(matches!(Listener::unix(&other), Err(ListenError::Taken(_))));
}

#[test]
fn of_many_that_start_at_once_on_a_stale_socket_one_gets_it() {
    let scratch = Scratch::new();
    let together = Barrier::new(4);
    for round in 0..400 {
        let path = scratch.path(&round.to_string());
        drop(UnixListener::bind(&path).unwrap());
        let start = || {
            together.wait();
            Listener::unix(&path)
        };
        let listeners: Vec<_> = thread::scope(|scope| {
            let starts: Vec<_> = (0..4).map(|_| scope.spawn(start)).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        let (won, lost): (Vec<_>, Vec<_>) = listeners.into_iter().partition(Result::is_ok);
        assert_eq!((won.len(), lost.len()), (1, 3));
        assert!(lost.into_iter().all(|error| matches!(error, Err(ListenError::Taken(_)))));
        meet(won[0].as_ref().unwrap());
    }
}

#[test]
fn what_is_not_a_socket_is_never_removed() {
    let scratch = Scratch::new();
    let file = scratch.path("data");
    fs::write(&file, "precious").unwrap();
    let link = scratch.path("link");
    symlink(&file, &link).unwrap();
    let directory = scratch.path("directory");
    fs::create_dir(&directory).unwrap();
    for path in [&file, &link, &directory] {
        let error = Listener::unix(path).unwrap_err();
        assert!(matches!(error, ListenError::NotASocket(_)), "{error}");
        assert!(error.to_string().contains("choose another path"));
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn a_listener_leaves_a_file_alone_that_is_no_longer_its_own() {
    let scratch = Scratch::new();
    let path = scratch.path("s");
    let first = Listener::unix(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let second = Listener::unix(&path).unwrap();
    drop(first);
    meet(&second);
}

#[test]
fn a_path_that_cannot_be_is_told_why() {
    let scratch = Scratch::new();
    let error = Listener::unix(scratch.path(&"a".repeat(107))).unwrap_err();
    assert!(error.to_string().contains("at most 107"), "{error}");
    let error = Listener::unix(scratch.path("none/s")).unwrap_err();
    assert!(matches!(&error, ListenError::NoDirectory { directory, .. } if directory.ends_with("none")), "{error}");
    assert!(error.to_string().contains("create it first"), "{error}");
    assert!(fs::read_dir(scratch.dir()).unwrap().next().is_none(), "nothing was left behind");
}

#[test]
fn tcp_off_loopback_is_refused_unless_asked_for_aloud() {
    for address in ["0.0.0.0:0", "[::]:0", "[::ffff:192.0.2.1]:0", "192.0.2.1:0"] {
        let error = Listener::tcp(address, false).unwrap_err();
        assert!(matches!(error, ListenError::Network { .. }), "{address}: {error}");
        assert!(error.to_string().contains("--insecure-network") && error.to_string().contains("encrypted"), "{error}");
    }
    let listener = Listener::tcp("0.0.0.0:0", true).unwrap();
    let Address::Tcp(address) = listener.address() else { panic!("not tcp") };
    assert!(!address.ends_with(":0"), "the port is the real one: {address}");
}

#[test]
fn a_tcp_address_in_use_or_malformed_is_told_so() {
    let listener = Listener::tcp("127.0.0.1:0", false).unwrap();
    let Address::Tcp(address) = listener.address() else { panic!("not tcp") };
    let error = Listener::tcp(address, false).unwrap_err();
    assert!(matches!(error, ListenError::TcpTaken(_)), "{error}");
    assert!(matches!(Listener::tcp("127.0.0.1", false), Err(ListenError::Tcp { .. })));
    assert!(Socket::connect(&Address::Tcp("127.0.0.1:none".into()), LONG).is_err());
}

#[test]
fn a_node_that_is_not_there_is_not_waited_for() {
    let scratch = Scratch::new();
    let error = Socket::connect(&Address::unix(scratch.path("none")).unwrap(), LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("is the path right?"), "{error}");

    let listener = Listener::tcp("127.0.0.1:0", false).unwrap();
    let address = listener.address().clone();
    drop(listener);
    let error = Socket::connect(&address, LONG).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
}

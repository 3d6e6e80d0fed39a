//! The control connection, TCP, metrics and the end.

#[expect(dead_code, reason = "this test uses a part of it")]
mod hand;

use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use forebay_coord::Coordinator;
use forebay_node::Node;
use forebay_types::{
    Class, Fingerprint, MissReason, PutOutcome, RefusedReason, Secret, SeededEntropy, ShardId, Tenant,
};
use forebay_wire::{ErrorCode, GetOutcome, Message, Presence};
use hand::{Folder, Hand, assert_identity, block, hello, key};

#[test]
fn namespaces_are_made_listed_and_deleted() {
    let folder = Folder::new();
    let node = folder.start();
    let mut hand = Hand::control(&node);
    let attach = |name: &str, fingerprint: &Fingerprint| Message::Attach {
        request: 1,
        name: name.into(),
        fingerprint: fingerprint.clone(),
    };
    let none = Fingerprint::default();
    let Message::NamespaceIs { namespace: default, .. } = hand.ask(&attach("default", &none)) else { panic!() };
    assert_ne!(default.secret, Secret([0; 32]));
    assert!(matches!(
        hand.ask(&attach("other", &none)),
        Message::Error { request: 1, code: ErrorCode::NamespaceUnknown, .. }
    ));

    let mut fingerprint = Fingerprint::default();
    fingerprint.set("model", "m1").unwrap();
    let create = |class| Message::NamespaceCreate {
        request: 2,
        name: "kv".into(),
        class,
        quota_bytes: Some(1 << 30),
        ttl_s: None,
        fingerprint: fingerprint.clone(),
    };
    let Message::NamespaceIs { namespace: kv, .. } = hand.ask(&create(Class::Cache)) else { panic!() };
    assert!(matches!(hand.ask(&create(Class::Cache)), Message::NamespaceIs { namespace, .. } if namespace == kv));
    assert!(matches!(hand.ask(&create(Class::Durable)), Message::Error { code: ErrorCode::NamespaceExists, .. }));
    let mut other = Fingerprint::default();
    other.set("model", "m2").unwrap();
    match hand.ask(&attach("kv", &other)) {
        Message::Error { code: ErrorCode::NamespaceDiffers, text, .. } => assert!(text.contains("model"), "{text}"),
        other => panic!("{other:?}"),
    }
    match hand.ask(&Message::NamespaceList { request: 3 }) {
        Message::NamespacesAre { namespaces, .. } => {
            let names: Vec<_> = namespaces.iter().map(|ns| ns.name.as_str()).collect();
            assert_eq!(names, ["default", "kv"]);
            assert!(namespaces.iter().all(|ns| ns.secret == Secret([0; 32])), "a list gives no secrets away");
        }
        other => panic!("{other:?}"),
    }

    // A deleted namespace takes its blocks with it, also across a restart.
    let mut shard = Hand::shard(&node);
    assert_eq!(shard.put_stream(kv.id, key(1), &block(1, 5000)), PutOutcome::Cached);
    let delete = Message::NamespaceDelete { request: 4, name: "kv".into() };
    assert_eq!(hand.ask(&delete), Message::Done { request: 4 });
    assert!(matches!(shard.get_stream(kv.id, &[key(1)])[0].0, GetOutcome::Miss(_)));
    node.shutdown(Duration::from_secs(5));
    let node = folder.start();
    let mut hand = Hand::control(&node);
    assert!(matches!(hand.ask(&attach("kv", &none)), Message::Error { code: ErrorCode::NamespaceUnknown, .. }));
    assert!(
        matches!(hand.ask(&attach("default", &none)), Message::NamespaceIs { namespace, .. } if namespace == default)
    );
}

#[test]
fn what_is_another_tenants_is_as_if_it_were_not_there() {
    let folder = Folder::new();
    folder.start().shutdown(Duration::from_secs(5));
    let catalogue = folder.0.join("drive.catalog");
    let coordinator = forebay_coord::Embedded::open(&catalogue, Arc::new(SeededEntropy::new(1))).unwrap();
    let theirs = Tenant(rustix::process::getuid().as_raw() + 1);
    let row = coordinator.create(theirs, "a", Class::Cache, None, None, &Fingerprint::default()).unwrap();
    drop(coordinator);
    let node = folder.start();
    let mut hand = Hand::shard(&node);
    // Whoever knows its number, and even its secret, is told what is told of a number that nobody has.
    assert!(matches!(hand.get_stream(row.id, &[key(1)])[0].0, GetOutcome::Miss(MissReason::Namespace)));
    assert_eq!(hand.put_stream(row.id, key(1), b"x"), PutOutcome::Refused(RefusedReason::Namespace));
    let request = hand.number();
    let (deadline_us, hold_ms, stop_at_gap, keys) = (1_000_000, 0, false, vec![key(1)]);
    let ask = Message::Match { request, namespace: row.id, deadline_us, hold_ms, stop_at_gap, keys };
    let presence = vec![Presence::Not(MissReason::Namespace)];
    assert_eq!(hand.ask(&ask), Message::MatchOutcomes { request, presence });
    let attach = Message::Attach { request: 1, name: "a".into(), fingerprint: Fingerprint::default() };
    let told = Hand::control(&node).ask(&attach);
    assert!(matches!(told, Message::Error { code: ErrorCode::NamespaceUnknown, .. }), "{told:?}");
    assert_identity(&node.metrics_text());
}

#[test]
fn members_are_the_shards_and_keep_their_names() {
    let folder = Folder::new();
    let config = || {
        let mut config = folder.config();
        config.shards_per_drive = 2;
        config
    };
    let ask = |hand: &mut Hand| match hand.ask(&Message::Members { request: 9 }) {
        Message::MembersAre { epoch, members, .. } => (epoch, members),
        other => panic!("{other:?}"),
    };
    let node = Node::start(config()).unwrap();
    let before = ask(&mut Hand::control(&node));
    assert_eq!(before.1.len(), 2);
    assert_eq!(before.1.iter().map(|member| member.shard).collect::<Vec<_>>(), node.shards());
    drop(node);
    let node = Node::start(config()).unwrap();
    assert_eq!(ask(&mut Hand::control(&node)), before);
    // Each is an endpoint of its own.
    for shard in node.shards() {
        Hand::with(&node.addresses()[0], hello(shard, &[]));
    }
    let mut hand = Hand::raw(&node.addresses()[0]);
    hand.send(&Message::Hello(hello(ShardId([9; 16]), &[])));
    assert_eq!(hand.last_error().0, ErrorCode::Shard);
}

#[test]
fn tcp_asks_for_the_token() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.listen = Some("127.0.0.1:0".into());
    assert!(Node::start(config).unwrap_err().to_string().contains("--token-file"));
    let mut config = folder.config();
    config.listen = Some("127.0.0.1:0".into());
    config.token = Some(b"secret".to_vec());
    let node = Node::start(config).unwrap();
    let tcp = &node.addresses()[1];
    for wrong in [&b""[..], b"secre", b"secreT", b"secret1"] {
        let mut hand = Hand::raw(tcp);
        hand.send(&Message::Hello(hello(ShardId::default(), wrong)));
        let (code, text) = hand.last_error();
        assert_eq!(code, ErrorCode::Credential);
        assert!(text.contains("--token-file"), "{text}");
    }
    let (mut control, welcome) = Hand::with(tcp, hello(ShardId::default(), b"secret"));
    assert_eq!(welcome.features, 0, "no regions over TCP");
    let ns = control.namespace("tcp", Class::Cache).id;
    let (mut hand, _) = Hand::with(tcp, hello(node.shards()[0], b"secret"));
    let bytes = block(1, 3_000_000);
    assert_eq!(hand.put_stream(ns, key(1), &bytes[..1 << 20]), PutOutcome::Cached);
    assert!(hand.get_stream(ns, &[key(1)])[0].1 == bytes[..1 << 20]);
    // The same user over the Unix socket is the same tenant.
    assert!(Hand::shard(&node).get_stream(ns, &[key(1)])[0].1 == bytes[..1 << 20]);
}

#[test]
fn a_connection_begins_with_hello() {
    let folder = Folder::new();
    let node = folder.start();
    let address = &node.addresses()[0];
    let mut hand = Hand::raw(address);
    hand.send(&Message::Members { request: 1 });
    assert_eq!(hand.last_error().0, ErrorCode::Protocol);
    let mut hand = Hand::raw(address);
    hand.send_bytes(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", &[]);
    let (code, text) = hand.last_error();
    assert_eq!(code, ErrorCode::Protocol);
    assert!(text.contains("protocol"), "{text}");
    let mut hand = Hand::raw(address);
    let mut old = hello(ShardId::default(), &[]);
    old.version = 0;
    hand.send(&Message::Hello(old));
    assert_eq!(hand.last_error().0, ErrorCode::Version);
    // Requests may follow Hello in the same breath.
    let mut hand = Hand::raw(address);
    let mut bytes = Vec::new();
    forebay_wire::encode(&Message::Hello(hello(node.shards()[0], &[])), &mut bytes).unwrap();
    forebay_wire::encode(&Message::Cancel { request: 3 }, &mut bytes).unwrap();
    hand.send_bytes(&bytes, &[]);
    assert!(matches!(hand.message(), Message::Welcome(_)));
    assert_eq!(hand.message(), Message::Done { request: 3 });
}

#[test]
fn metrics_and_statistics_tell_the_same() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.metrics = Some("127.0.0.1:0".parse().unwrap());
    let node = Node::start(config).unwrap();
    let mut control = Hand::control(&node);
    let ns = control.namespace("m", Class::Cache).id;
    let mut hand = Hand::shard(&node);
    assert_eq!(hand.put_stream(ns, key(1), &block(1, 5000)), PutOutcome::Cached);
    hand.get_stream(ns, &[key(1), key(2), key(1)]);
    let get = |path: &str| {
        let mut stream = std::net::TcpStream::connect(node.metrics_address().unwrap()).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = get("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    assert_identity(body);
    let all = hand::samples(body);
    assert_eq!(all["forebay_get_asked_total"], 3.0);
    assert_eq!(all["forebay_get_hits_total{tier=\"dram\"}"], 2.0);
    assert_eq!(all["forebay_get_misses_total{reason=\"absent\"}"], 1.0);
    assert_eq!(all["forebay_landing_total{kind=\"stream\"}"], 2.0);
    assert_eq!(all["forebay_get_bytes_total"], 10_000.0);
    assert_eq!(all["forebay_latency_seconds_count{verb=\"get\",kind=\"dram\"}"], 2.0);
    assert_eq!(all["forebay_latency_seconds_bucket{verb=\"put\",kind=\"cached\",le=\"+Inf\"}"], 1.0);
    let buckets =
        body.lines().filter(|line| line.starts_with("forebay_latency_seconds_bucket{verb=\"get\",kind=\"dram\""));
    let counts: Vec<f64> = buckets.map(|line| line.split(' ').next_back().unwrap().parse().unwrap()).collect();
    assert!(counts.is_sorted() && counts.len() == 28, "{counts:?}");
    assert!(get("/other").starts_with("HTTP/1.1 404"));
    match control.ask(&Message::Stats { request: 4 }) {
        Message::StatsAre { json, .. } => {
            let stats: serde_json::Value = serde_json::from_str(&json).unwrap();
            assert_eq!(stats["get"]["asked"], 3);
            assert_eq!(stats["get"]["hits"]["dram"], 2);
            assert_eq!(stats["put"]["cached"], 1);
            assert_eq!(stats["latency"]["get_dram"]["count"], 2);
            assert!(stats["latency"]["get_dram"]["p99_us"].as_u64().unwrap() > 0);
            let counts = stats["latency_buckets"]["put_cached"].as_array().unwrap().iter().map(|pair| pair[1].as_u64());
            assert_eq!(counts.map(Option::unwrap).sum::<u64>(), 1);
            assert_eq!(stats["shards"][0]["blocks"], 1);
        }
        other => panic!("{other:?}"),
    }
    let mut far = folder.config();
    far.metrics = Some("0.0.0.0:0".parse().unwrap());
    far.socket = folder.0.join("other");
    assert!(Node::start(far).unwrap_err().to_string().contains("other machines"));
}

/// A scrape hung for a minute behind an asker that sent its request byte by byte.
#[test]
fn who_asks_byte_by_byte_holds_the_metrics_for_two_seconds() {
    let folder = Folder::new();
    let mut config = folder.config();
    config.metrics = Some("127.0.0.1:0".parse().unwrap());
    let node = Node::start(config).unwrap();
    let address = node.metrics_address().unwrap();
    let mut slow = std::net::TcpStream::connect(address).unwrap();
    slow.write_all(b"GET /").unwrap();
    let (answered, was_answered) = std::sync::mpsc::channel();
    let drip = std::thread::Builder::new().spawn(move || {
        // It would have gone on for thirty seconds.
        (0..30).all(|_| was_answered.recv_timeout(Duration::from_secs(1)).is_err() && slow.write_all(b"m").is_ok())
    });
    let mut quick = std::net::TcpStream::connect(address).unwrap();
    write!(quick, "GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = String::new();
    quick.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    answered.send(()).ok();
    assert!(!drip.unwrap().join().unwrap(), "the slow asker was served to its end before the quick one");
}

#[test]
fn a_node_that_stops_says_so_and_leaves_no_socket() {
    let folder = Folder::new();
    let node = folder.start();
    let mut control = Hand::control(&node);
    let mut hand = Hand::shard(&node);
    node.shutdown(Duration::from_secs(5));
    assert_eq!(hand.last_error().0, ErrorCode::Closing);
    assert_eq!(control.last_error().0, ErrorCode::Closing);
    assert!(!folder.0.join("s").exists());
}

//! How long the codecs take for the messages of small blocks: `cargo run --release -p forebay-wire --example codec_times`.
//!
//! Each line is the median and the fastest of many runs in microseconds, with the bytes of the frame. What a plain copy and the body's checksum
//! alone take stands beside it, for that is the floor.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "an example that prints a table and fails as tests do")]

use std::hint::black_box;

use forebay_types::{
    BlockMeta, Clock, Descriptor, Key, LandingKind, NamespaceId, RegionId, SystemClock, Tier, Version, crc64,
};
use forebay_wire::*;

const RUNS: usize = 400;

fn key(i: usize) -> Key {
    Key(u128::from(i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835).to_le_bytes())
}

fn descriptor(i: usize) -> Vec<u8> {
    let mut out = Vec::new();
    Descriptor::of(BlockMeta::plain(NamespaceId(1), key(i), Version(i as u64), 4096), &[7; 4096]).encode(&mut out);
    out
}

/// Median and fastest, in microseconds. Each sample is ten runs, for the clock counts whole microseconds.
fn time(mut run: impl FnMut()) -> (f64, f64) {
    let clock = SystemClock::new();
    let mut samples: Vec<f64> = (0..RUNS)
        .map(|_| {
            let start = clock.now_us();
            (0..10).for_each(|_| run());
            (clock.now_us() - start) as f64 / 10.0
        })
        .collect();
    samples.sort_by(f64::total_cmp);
    (samples[RUNS / 2], samples[0])
}

fn line(name: &str, bytes: usize, (median, fastest): (f64, f64)) {
    println!("{name:<34} {bytes:>8} B {median:>9.1} us {fastest:>9.1} us");
}

fn show(name: &str, message: &Message) {
    let mut frame = Vec::new();
    encode(message, &mut frame).unwrap();
    let header = decode_header(frame.first_chunk().unwrap()).unwrap();
    let body = frame[HEADER_BYTES..].to_vec();
    let bytes = frame.len();
    line(
        &format!("{name}: encode"),
        bytes,
        time(|| {
            frame.clear();
            encode(black_box(message), &mut frame).unwrap();
        }),
    );
    line(
        &format!("{name}: decode"),
        bytes,
        time(|| {
            black_box(decode_body(&header, black_box(&body)).unwrap());
        }),
    );
    match header.kind {
        Kind::GetOutcomes => line(
            &format!("{name}: view"),
            bytes,
            time(|| {
                let view = get_outcomes_view(&header, black_box(&body)).unwrap();
                view.for_each(|outcome| _ = black_box(outcome));
            }),
        ),
        Kind::Put => line(
            &format!("{name}: view"),
            bytes,
            time(|| {
                let view = put_view(&header, black_box(&body)).unwrap();
                view.items().for_each(|item| _ = black_box(item));
            }),
        ),
        _ => {}
    }
    line(
        &format!("{name}: checksum alone"),
        bytes,
        time(|| {
            black_box(crc64(black_box(&body)));
        }),
    );
    let mut copy = Vec::with_capacity(bytes);
    line(
        &format!("{name}: copy alone"),
        bytes,
        time(|| {
            copy.clear();
            copy.extend_from_slice(black_box(&body));
            black_box(&copy);
        }),
    );
}

fn main() {
    println!("{:<34} {:>10} {:>12} {:>12}", "", "frame", "median", "fastest");
    let to = |i: usize| Place { region: RegionId(1), offset: i as u64 * 16_384, room: 16_384 };
    let (request, namespace, deadline_us, hint) = (1, NamespaceId(1), 5_000_000, ReuseHint::default());
    let items = (0..2000).map(|i| GetItem { key: key(i), offset: 0, length: 0, to: to(i) }).collect();
    show("get of 2000", &Message::Get { request, namespace, deadline_us, hint, items });

    let outcome = |i: usize| GetOutcome::Hit {
        tier: Tier::Dram,
        landing: LandingKind::Bounce,
        offset: 0,
        length: 4096,
        descriptor: descriptor(i),
        trailer_offset: 0,
    };
    let outcomes: Vec<_> = (0..2000).map(|i| (i as u32, outcome(i))).collect();
    show("outcomes of 2000", &Message::GetOutcomes { request, outcomes: outcomes.clone() });
    let mut frame = Vec::new();
    let times = time(|| {
        frame.clear();
        let mut writer = GetOutcomesWriter::new(&mut frame, request);
        assert!(outcomes.iter().all(|(item, outcome)| writer.push(*item, black_box(outcome.borrowed()))));
        writer.finish();
    });
    line("outcomes of 2000: writer", frame.len(), times);

    let items = (0..2000).map(|i| PutItem { descriptor: descriptor(i), from: to(i) }).collect();
    show("put of 2000", &Message::Put { request, namespace, deadline_us, hint, caller_keeps: false, items });

    let keys = (0..1024).map(key).collect();
    show("match of 1024", &Message::Match { request, namespace, deadline_us, hold_ms: 0, stop_at_gap: true, keys });
    let presence = vec![Presence::Here { tier: Tier::Dram, leased: true }; 1024];
    show("presence of 1024", &Message::MatchOutcomes { request, presence });

    let data = DataHeader { request, item: 3, offset: 1 << 20, length: 1 << 18 };
    let mut header = [0; HEADER_BYTES];
    line(
        "data header: encode and decode",
        HEADER_BYTES,
        time(|| {
            encode_data_header(black_box(&data), &mut header);
            black_box(decode_header(black_box(&header)).unwrap());
        }),
    );
}

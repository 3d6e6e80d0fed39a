//! The views and the writer that spare a heap block per hit.

use forebay_types::limits::MESSAGE_BYTES_MAX;
use forebay_types::{LandingKind, MissReason, Tier};
use forebay_wire::*;

use crate::samples;

fn split(bytes: &[u8]) -> (FrameHeader, &[u8]) {
    (decode_header(bytes.first_chunk().unwrap()).unwrap(), &bytes[HEADER_BYTES..])
}

fn hit(descriptor: &[u8]) -> GetOutcomeRef<'_> {
    GetOutcomeRef::Hit {
        tier: Tier::Dram,
        landing: LandingKind::Bounce,
        offset: 0,
        length: 70_000,
        descriptor,
        trailer_offset: 0,
    }
}

#[test]
fn the_writer_writes_what_encode_writes() {
    let descriptor = samples::descriptor();
    let outcomes = [(3, hit(&descriptor)), (1, GetOutcomeRef::Miss(MissReason::Busy)), (2, hit(&[]))];
    let mut written = b"before".to_vec();
    let mut writer = GetOutcomesWriter::new(&mut written, 77);
    assert!(outcomes.iter().all(|(item, outcome)| writer.push(*item, *outcome)));
    assert_eq!(writer.count(), 3);
    writer.finish();

    let outcomes: Vec<_> = outcomes.iter().map(|(item, outcome)| (*item, outcome.owned())).collect();
    let message = Message::GetOutcomes { request: 77, outcomes: outcomes.clone() };
    assert_eq!(&written[6..], samples::encoded(&message));

    let (header, body) = split(&written[6..]);
    let view = get_outcomes_view(&header, body).unwrap();
    assert_eq!((view.request(), view.len()), (77, 3));
    assert_eq!(view.map(|(item, outcome)| (item, outcome.owned())).collect::<Vec<_>>(), outcomes);
}

#[test]
fn a_writer_without_outcomes_writes_nothing() {
    let mut written = b"before".to_vec();
    GetOutcomesWriter::new(&mut written, 77).finish();
    assert_eq!(written, b"before");
}

#[test]
fn a_full_message_says_so_and_stays_whole() {
    let large = vec![1; 10_000];
    let mut written = Vec::new();
    let mut writer = GetOutcomesWriter::new(&mut written, 1);
    let mut pushed = 0;
    while writer.push(pushed, hit(&large)) {
        pushed += 1;
    }
    writer.finish();
    assert!(written.len() - HEADER_BYTES <= MESSAGE_BYTES_MAX && pushed > 400);
    let (header, body) = split(&written);
    assert_eq!(get_outcomes_view(&header, body).unwrap().count(), pushed as usize);
}

#[test]
fn a_put_can_be_read_in_place() {
    let (_, message) = samples::all().into_iter().find(|(name, _)| *name == "put").unwrap();
    let bytes = samples::encoded(&message);
    let (header, body) = split(&bytes);
    let view = put_view(&header, body).unwrap();
    let Message::Put { request, namespace, deadline_us, hint, caller_keeps, items } = message else {
        panic!("not a put")
    };
    assert_eq!((view.request, view.namespace, view.deadline_us, view.hint), (request, namespace, deadline_us, hint));
    assert_eq!(view.caller_keeps, caller_keeps);
    let seen: Vec<_> = view.items().map(|it| PutItem { descriptor: it.descriptor.to_vec(), from: it.from }).collect();
    assert_eq!(seen, items);
}

#[test]
fn a_view_finds_damage_as_decoding_does() {
    let (_, message) = samples::all().into_iter().find(|(name, _)| *name == "get-outcomes").unwrap();
    let mut bytes = samples::encoded(&message);
    *bytes.last_mut().unwrap() ^= 1;
    let (header, body) = split(&bytes);
    assert_eq!(get_outcomes_view(&header, body).unwrap_err(), WireError::BodyChecksum);
    assert!(put_view(&header, body).is_err());
}

//! A peer that lies: about counts, kinds and lengths, and at random. Never a panic, never memory for what is not there.

use forebay_types::limits::{KEYS_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX};
use forebay_types::{Entropy, Key, NamespaceId, SeededEntropy, crc64};
use forebay_wire::*;

use crate::samples;

/// A frame with right checksums around whatever the peer wants to say.
fn forged(kind: u8, request: u32, item: u32, length: u32, body: &[u8]) -> Vec<u8> {
    let mut out = vec![b'F', b'B', kind, 0];
    for word in [length, request, item] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.extend_from_slice(&crc64(body).to_le_bytes());
    out.extend_from_slice(&crc64(&out).to_le_bytes());
    out.extend_from_slice(body);
    out
}

fn refused(kind: Kind, request: u32, body: &[u8]) -> WireError {
    next_frame(&forged(kind as u8, request, 0, body.len() as u32, body)).unwrap_err()
}

#[test]
fn a_header_that_lies_is_refused_before_its_body_comes() {
    let header = |kind, item, length| next_frame(&forged(kind, 0, item, length, &[])).unwrap_err();
    assert_eq!(header(99, 0, 0), WireError::UnknownKind(99));
    assert!(matches!(header(Kind::Get as u8, 0, MESSAGE_BYTES_MAX as u32 + 1), WireError::Limit { .. }));
    assert!(matches!(header(Kind::Get as u8, 0, u32::MAX), WireError::Limit { .. }));
    assert!(matches!(header(Kind::Get as u8, 1, 0), WireError::Malformed(_)));
    assert!(matches!(header(Kind::Data as u8, 0, 0), WireError::Malformed(_)));
    assert!(matches!(header(Kind::Data as u8, 0, (256 << 10) + 1), WireError::Limit { .. }));
    assert!(matches!(header(Kind::Data as u8, 4096, 1), WireError::Limit { .. }));
}

#[test]
fn a_data_frame_past_the_largest_block_is_refused() {
    for offset in [64u64 << 20, u64::MAX, u64::MAX - 5] {
        let mut bytes = vec![b'F', b'B', Kind::Data as u8, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&crc64(&bytes).to_le_bytes());
        assert!(matches!(next_frame(&bytes), Err(WireError::Limit { .. })), "{offset}");
    }
}

#[test]
fn counts_that_lie_are_refused_before_anything_is_reserved() {
    let counts = |count: u32, before: usize| [vec![0; before], count.to_le_bytes().to_vec()].concat();
    let counted = [
        (Kind::Get, 13),
        (Kind::GetOutcomes, 0),
        (Kind::Put, 13),
        (Kind::PutGo, 0),
        (Kind::PutOutcomes, 0),
        (Kind::Match, 13),
        (Kind::MatchOutcomes, 0),
        (Kind::Forget, 8),
        (Kind::ForgetOutcomes, 1),
        (Kind::Touch, 9),
        (Kind::Prefetch, 8),
        (Kind::MembersAre, 8),
        (Kind::NamespacesAre, 0),
        (Kind::StatsAre, 0),
    ];
    for (kind, before) in counted {
        assert!(matches!(refused(kind, 0, &counts(u32::MAX, before)), WireError::Limit { .. }), "{kind:?}");
        assert_eq!(refused(kind, 0, &counts(4096, before)), WireError::Short, "{kind:?}");
    }
}

#[test]
fn bytes_behind_the_last_field_are_refused() {
    for (name, message) in samples::all() {
        let bytes = samples::encoded(&message);
        let header = decode_header(bytes.first_chunk().unwrap()).unwrap();
        let body = [&bytes[HEADER_BYTES..], &[0]].concat();
        assert_eq!(refused(header.kind, header.request, &body), WireError::Trailing(1), "{name}");
        for cut in HEADER_BYTES..bytes.len() {
            let error = refused(header.kind, header.request, &bytes[HEADER_BYTES..cut]);
            assert_eq!(error, WireError::Short, "{name} cut at {cut}");
        }
    }
}

#[test]
fn a_newer_hello_or_welcome_may_say_more_and_is_still_understood() {
    for (name, message) in samples::all().into_iter().take(2) {
        let mut frame = samples::encoded(&message);
        let kind = frame[2];
        assert!([Kind::Hello as u8, Kind::Welcome as u8].contains(&kind), "{name}");
        assert_eq!(frame.split_off(frame.len() - 2), [0, 0], "an extension of no bytes");
        frame.extend_from_slice(&[3, 0, 7, 7, 7]);
        let body = &frame[HEADER_BYTES..];
        let newer = forged(kind, 0, 0, body.len() as u32, body);
        assert_eq!(next_frame(&newer), Ok(Some((Frame::Message(message), newer.len()))), "{name}");
    }
}

/// Of 10 prompt tokens the engine had 6 and 5 were used; and sums that would wrap.
#[test]
fn a_report_that_does_not_add_up_is_refused() {
    let body = |counts: [u64; 4]| {
        let numbers = counts.iter().flat_map(|count| count.to_le_bytes());
        7u32.to_le_bytes().into_iter().chain(numbers).collect::<Vec<u8>>()
    };
    for counts in [[1, 10, 6, 5], [1, 10, 11, 0], [1, 10, u64::MAX, 5]] {
        assert!(matches!(refused(Kind::Report, 0, &body(counts)), WireError::Malformed(_)), "{counts:?}");
    }
}

#[test]
fn a_number_on_a_message_that_is_no_request_is_refused() {
    assert!(matches!(refused(Kind::Credit, 1, &[0; 8]), WireError::Malformed(_)));
}

#[test]
fn what_is_over_a_ceiling_is_not_sent_and_leaves_the_buffer_alone() {
    let keys = vec![Key::default(); KEYS_PER_MESSAGE_MAX + 1];
    let outcomes = |bytes| (0..4096).map(|i| (i, hit(bytes))).collect();
    let over = [
        Message::Touch { namespace: NamespaceId(1), hint: ReuseHint::default(), keys },
        Message::PutGo { request: 1, items: vec![4096] },
        Message::GetOutcomes { request: 1, outcomes: outcomes(2000) },
        Message::GetOutcomes { request: 1, outcomes: vec![(0, hit(20_000))] },
        Message::StatsAre { request: 1, json: " ".repeat(MESSAGE_BYTES_MAX) },
        Message::NamespaceDelete { request: 1, name: "n".repeat(300) },
    ];
    for message in over {
        let mut out = b"before".to_vec();
        let error = encode(&message, &mut out).unwrap_err();
        assert_eq!(out, b"before", "{error}");
    }
}

#[test]
fn a_long_sentence_is_cut_between_letters() {
    let text = "é".repeat(1000);
    let bytes = samples::encoded(&Message::Error { request: 0, code: ErrorCode::Closing, text });
    let Ok(Some((Frame::Message(Message::Error { text, .. }), _))) = next_frame(&bytes) else { panic!("no error") };
    assert_eq!(text, "é".repeat(512));
}

#[test]
fn a_credential_is_not_in_a_log() {
    let hello = &samples::all()[0].1;
    let shown = format!("{hello:?}");
    assert!(!shown.contains("token") && !shown.contains("97, 32, 116"), "{shown}");
}

fn hit(descriptor: usize) -> GetOutcome {
    GetOutcome::Hit {
        tier: forebay_types::Tier::Dram,
        landing: forebay_types::LandingKind::Stream,
        offset: 0,
        length: 1,
        descriptor: vec![0; descriptor],
        trailer_offset: 0,
    }
}

/// Changes `bytes` a little: flips, interesting words, cuts, repeats, splices.
fn mutate(bytes: &mut Vec<u8>, chance: &SeededEntropy) {
    for _ in 0..=chance.word() % 4 {
        let at = if bytes.is_empty() { 0 } else { (chance.word() % bytes.len() as u64) as usize };
        match chance.word() % 6 {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << (chance.word() % 8),
            1 if !bytes.is_empty() => bytes[at] = chance.word() as u8,
            2 => {
                let word = [0, 1, u32::MAX, 4096, 4097, 65_536][(chance.word() % 6) as usize].to_le_bytes();
                let end = (at + 4).min(bytes.len());
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
            3 => bytes.truncate(at),
            4 => {
                let end = (at + (chance.word() % 64) as usize).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => bytes.insert(at, chance.word() as u8),
        }
    }
}

#[test]
fn mutated_bytes_break_nothing() {
    let chance = SeededEntropy::new(0x5eed);
    let frames: Vec<Vec<u8>> = samples::all().iter().map(|(_, message)| samples::encoded(message)).collect();
    let place_of = |kind: u8| Kind::ALL.iter().position(|known| *known as u8 == kind).unwrap() as u8;
    let mut accepted = 0;
    for round in 0..20_000 {
        let frame = &frames[round % frames.len()];
        let mut whole = frame.clone();
        mutate(&mut whole, &chance);
        fuzz::stream(&whole);
        fuzz::header(&whole);

        let mut inner = vec![place_of(frame[2])];
        inner.extend_from_slice(&frame[8..12]);
        inner.extend_from_slice(&frame[HEADER_BYTES..]);
        mutate(&mut inner, &chance);
        fuzz::body(&inner);
        if let Some(body) = inner.get(5..) {
            accepted += usize::from(next_frame(&forged(frame[2], 0, 0, body.len() as u32, body)).is_ok());
        }
    }
    // If nearly nothing got through, the mutations would only ever test the first field.
    assert!(accepted > 2_000, "{accepted} mutated bodies were accepted");
}

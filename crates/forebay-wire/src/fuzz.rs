//! What must hold for any bytes, as plain functions: seeded mutations drive them in the tests, cargo-fuzz where it is installed.
//! Each panics when its promise is broken.

use crate::frame::{FrameHeader, HEADER_BYTES, Kind, decode_header};
use crate::{Frame, Message, decode_body, encode, encode_data_header, get_outcomes_view, next_frame, put_view};

/// Any 32 bytes: a header that is accepted is the one that would be written.
pub fn header(bytes: &[u8]) {
    let Some((bytes, _)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return };
    let Ok(header) = decode_header(bytes) else { return };
    let mut again = [0; HEADER_BYTES];
    match header.data() {
        Some(data) => encode_data_header(&data, &mut again),
        None => again = header.encode(),
    }
    assert_eq!(&again, bytes, "a header is canonical");
}

/// Any body of any kind, with its checksum made right so that nothing hides behind it. The first byte is the kind, the next four the request.
pub fn body(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first_chunk::<5>() else { return };
    let kind = Kind::ALL[usize::from(head[0]) % Kind::ALL.len()];
    if kind == Kind::Data || body.len() > forebay_types::limits::MESSAGE_BYTES_MAX {
        return;
    }
    let request = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let header = FrameHeader::of_body(kind, request, body);
    let decoded = decode_body(&header, body);
    views(&header, body, decoded.as_ref().ok());
    let Ok(message) = decoded else { return };
    let mut again = Vec::new();
    let encoded = encode(&message, &mut again);
    assert!(encoded.is_ok(), "what decodes can be sent: {encoded:?}");
    assert!(next_frame(&again) == Ok(Some((Frame::Message(message), again.len()))), "what is sent decodes to the same");
    // Readers skip the extension of these two, so theirs are the only bodies that may hold more than the message says.
    if !matches!(kind, Kind::Hello | Kind::Welcome) {
        assert_eq!(&again[HEADER_BYTES..], body, "a body is canonical");
    }
}

/// Any bytes as they would come from a peer, frame by frame, until one is refused.
pub fn stream(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Some((frame, taken))) = next_frame(rest) {
        assert!(taken >= HEADER_BYTES && taken <= rest.len(), "a frame takes what it has");
        let payload = match frame {
            Frame::Message(_) => 0,
            Frame::Data(data) => data.length as usize,
        };
        rest = rest.get(taken + payload..).unwrap_or(&[]);
    }
}

/// A view and the message it views accept the same bytes and say the same.
fn views(header: &FrameHeader, body: &[u8], message: Option<&Message>) {
    match header.kind {
        Kind::GetOutcomes => {
            let seen = get_outcomes_view(header, body).ok();
            let seen = seen.map(|view| view.map(|(item, outcome)| (item, outcome.owned())).collect::<Vec<_>>());
            match message {
                Some(Message::GetOutcomes { outcomes, .. }) => assert_eq!(seen.as_ref(), Some(outcomes)),
                _ => assert_eq!(seen, None),
            }
        }
        Kind::Put => {
            let seen = put_view(header, body).ok();
            match message {
                Some(Message::Put { items, .. }) => {
                    let seen: Vec<_> = seen.iter().flat_map(|view| view.items()).collect();
                    assert!(seen.len() == items.len());
                    assert!(seen.iter().zip(items).all(|(a, b)| a.descriptor == b.descriptor && a.from == b.from));
                }
                _ => assert!(seen.is_none()),
            }
        }
        _ => {}
    }
}

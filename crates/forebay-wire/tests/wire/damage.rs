//! Bytes that changed on the way never become a message.

use forebay_wire::*;

use crate::samples;

#[test]
fn every_flipped_bit_of_every_kind_is_found() {
    for (name, message) in samples::all() {
        let mut bytes = samples::encoded(&message);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let seen = next_frame(&bytes);
            // Headers stand or fall alone: a reader must not even wait for the body that a damaged one announces.
            assert!(seen.is_err(), "{name}, bit {bit}: {seen:?}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!(next_frame(&bytes), Ok(Some((Frame::Message(message), bytes.len()))));
    }
}

#[test]
fn every_flipped_bit_of_a_data_header_is_found() {
    let mut bytes = [0; HEADER_BYTES];
    encode_data_header(&samples::DATA, &mut bytes);
    for bit in 0..HEADER_BYTES * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode_header(&bytes).is_err(), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn damage_is_blamed_on_the_path_and_a_wrong_protocol_on_the_peer() {
    let mut bytes = samples::encoded(&samples::all()[0].1);
    *bytes.last_mut().unwrap() ^= 1;
    assert_eq!(next_frame(&bytes), Err(WireError::BodyChecksum));
    assert_eq!(WireError::BodyChecksum.blame(), Blame::Path);

    let error = next_frame(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap_err();
    assert_eq!(error, WireError::Magic(u16::from_le_bytes(*b"GE")));
    assert_eq!(error.blame(), Blame::Peer);
    assert!(error.to_string().contains("is the address right?"));
}

#[test]
fn a_body_of_another_length_is_refused() {
    let bytes = samples::encoded(&samples::all()[0].1);
    let header = decode_header(bytes.first_chunk().unwrap()).unwrap();
    let body = &bytes[HEADER_BYTES..];
    assert_eq!(decode_body(&header, &body[1..]), Err(WireError::Short));
    assert_eq!(decode_body(&header, &[body, &[0]].concat()), Err(WireError::Trailing(1)));
}

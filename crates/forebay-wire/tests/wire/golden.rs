//! The bytes of every kind, as they were when their version was drawn. A difference here is a change of the protocol: it needs a version,
//! `docs/wire-format.md`, and new files, written with `FOREBAY_WRITE_GOLDEN=1 cargo test -p forebay-wire`.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use forebay_wire::*;

use crate::samples;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"))
}

/// The header on two lines, then the body: differences read well.
fn hex(bytes: &[u8]) -> String {
    let line = |chunk: &[u8]| chunk.iter().map(|b| format!("{b:02x}")).collect::<String>() + "\n";
    bytes.chunks(16).map(line).collect()
}

fn check(name: &str, bytes: &[u8]) {
    if std::env::var_os("FOREBAY_WRITE_GOLDEN").is_some() {
        fs::write(path(name), hex(bytes)).unwrap();
    }
    let golden = fs::read_to_string(path(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(hex(bytes), golden, "the bytes of {name} changed");
}

#[test]
fn every_kind_has_the_bytes_it_had() {
    let mut kinds = BTreeSet::new();
    for (name, message) in samples::all() {
        let bytes = samples::encoded(&message);
        check(name, &bytes);
        let header = decode_header(bytes.first_chunk().unwrap()).unwrap();
        assert_eq!(decode_body(&header, &bytes[HEADER_BYTES..]), Ok(message), "{name}");
        kinds.insert(header.kind as u8);
    }
    let mut data = [0; HEADER_BYTES];
    encode_data_header(&samples::DATA, &mut data);
    check("data", &data);
    assert_eq!(decode_header(&data).unwrap().data(), Some(samples::DATA));
    kinds.insert(Kind::Data as u8);
    assert_eq!(kinds, Kind::ALL.iter().map(|kind| *kind as u8).collect(), "a kind has no golden file");
}

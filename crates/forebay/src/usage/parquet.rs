//! Rows of a usage log as a Parquet file: one row group, plain and uncompressed columns of which none is ever null. A file is a few MiB at most, so
//! what a library would save in bytes is not worth its tree (docs/decisions/0047-the-usage-log.md). After the Parquet format's own description, its
//! Thrift definitions and Thrift's compact protocol.

use forebay_types::{USAGE_COUNTS, UsageRow};

const MAGIC: &[u8; 4] = b"PAR1";

/// Physical types and what they mean, by their numbers in the format.
#[derive(Clone, Copy)]
enum Kind {
    TimestampMs,
    U32,
    U64,
    Text,
}

impl Kind {
    fn physical(self) -> i64 {
        match self {
            Kind::U32 => 1,
            Kind::TimestampMs | Kind::U64 => 2,
            Kind::Text => 6,
        }
    }

    fn converted(self) -> i64 {
        match self {
            Kind::Text => 0,
            Kind::TimestampMs => 9,
            Kind::U32 => 13,
            Kind::U64 => 14,
        }
    }
}

struct Column {
    name: &'static str,
    kind: Kind,
    /// Plain values, one behind the other.
    values: Vec<u8>,
}

fn column(name: &'static str, kind: Kind, rows: &[UsageRow], value: impl Fn(&UsageRow, &mut Vec<u8>)) -> Column {
    let mut values = Vec::new();
    rows.iter().for_each(|row| value(row, &mut values));
    Column { name, kind, values }
}

fn columns(rows: &[UsageRow]) -> Vec<Column> {
    let time = |utc_s: u64, out: &mut Vec<u8>| out.extend_from_slice(&utc_s.saturating_mul(1000).to_le_bytes());
    let mut columns = vec![
        column("from_utc", Kind::TimestampMs, rows, |row, out| time(row.from_utc_s, out)),
        column("until_utc", Kind::TimestampMs, rows, |row, out| time(row.until_utc_s, out)),
        column("tenant", Kind::U32, rows, |row, out| out.extend_from_slice(&row.tenant.0.to_le_bytes())),
        column("namespace_id", Kind::U32, rows, |row, out| out.extend_from_slice(&row.namespace.0.to_le_bytes())),
        column("namespace", Kind::Text, rows, |row, out| {
            out.extend_from_slice(&(row.name.len() as u32).to_le_bytes());
            out.extend_from_slice(row.name.as_bytes());
        }),
    ];
    for (at, name) in USAGE_COUNTS.iter().enumerate() {
        let count = |row: &UsageRow, out: &mut Vec<u8>| out.extend_from_slice(&row.usage.counts()[at].to_le_bytes());
        columns.push(column(name, Kind::U64, rows, count));
    }
    columns
}

/// The file.
pub(super) fn encode(rows: &[UsageRow]) -> Vec<u8> {
    let columns = columns(rows);
    let mut file = MAGIC.to_vec();
    let mut places = Vec::new();
    for column in &columns {
        let at = file.len();
        file.extend_from_slice(&page_header(column, rows.len()));
        file.extend_from_slice(&column.values);
        places.push((at as i64, (file.len() - at) as i64));
    }
    let footer = footer(&columns, &places, rows.len() as i64);
    file.extend_from_slice(&footer);
    file.extend_from_slice(&(footer.len() as u32).to_le_bytes());
    file.extend_from_slice(MAGIC);
    file
}

fn page_header(column: &Column, rows: usize) -> Vec<u8> {
    let mut out = Thrift::default();
    let bytes = column.values.len() as i64;
    // A data page; its bytes, and as many compressed.
    out.i32(1, 0);
    out.i32(2, bytes);
    out.i32(3, bytes);
    out.structure(5, |out| {
        out.i32(1, rows as i64);
        // Values are plain; levels would be run lengths, and there are none.
        out.i32(2, 0);
        out.i32(3, 3);
        out.i32(4, 3);
    });
    out.end()
}

fn footer(columns: &[Column], places: &[(i64, i64)], rows: i64) -> Vec<u8> {
    let mut out = Thrift::default();
    out.i32(1, 1);
    out.list(2, STRUCT, columns.len() + 1);
    out.element(|root| {
        root.text(4, "usage");
        root.i32(5, columns.len() as i64);
    });
    for column in columns {
        out.element(|element| {
            element.i32(1, column.kind.physical());
            // Required: never null.
            element.i32(3, 0);
            element.text(4, column.name);
            element.i32(6, column.kind.converted());
        });
    }
    out.i64(3, rows);
    // A group of no rows is none.
    out.list(4, STRUCT, usize::from(rows > 0));
    if rows > 0 {
        out.element(|group| row_group(group, columns, places, rows));
    }
    out.text(6, concat!("forebay ", env!("CARGO_PKG_VERSION")));
    out.end()
}

fn row_group(group: &mut Thrift, columns: &[Column], places: &[(i64, i64)], rows: i64) {
    group.list(1, STRUCT, columns.len());
    for (column, (at, bytes)) in columns.iter().zip(places) {
        group.element(|chunk| {
            chunk.i64(2, *at);
            chunk.structure(3, |data| {
                data.i32(1, column.kind.physical());
                data.list(2, I32, 1);
                data.number(0);
                data.list(3, TEXT, 1);
                data.bytes(column.name);
                // Not compressed.
                data.i32(4, 0);
                data.i64(5, rows);
                data.i64(6, *bytes);
                data.i64(7, *bytes);
                data.i64(9, *at);
            });
        });
    }
    group.i64(2, places.iter().map(|(_, bytes)| bytes).sum());
    group.i64(3, rows);
}

const I32: u8 = 5;
const I64: u8 = 6;
const TEXT: u8 = 8;
const LIST: u8 = 9;
const STRUCT: u8 = 12;

/// A structure in Thrift's compact protocol. Fields come in rising order.
#[derive(Default)]
struct Thrift {
    out: Vec<u8>,
    last: u8,
}

impl Thrift {
    fn field(&mut self, id: u8, kind: u8) {
        // All ids are less than 16 apart.
        self.out.push((id - self.last) << 4 | kind);
        self.last = id;
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// Small numbers of either sign in few bytes.
    fn number(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    fn bytes(&mut self, text: &str) {
        self.varint(text.len() as u64);
        self.out.extend_from_slice(text.as_bytes());
    }

    fn i32(&mut self, id: u8, value: i64) {
        self.field(id, I32);
        self.number(value);
    }

    fn i64(&mut self, id: u8, value: i64) {
        self.field(id, I64);
        self.number(value);
    }

    fn text(&mut self, id: u8, text: &str) {
        self.field(id, TEXT);
        self.bytes(text);
    }

    /// The head of a list; its elements follow.
    fn list(&mut self, id: u8, kind: u8, length: usize) {
        self.field(id, LIST);
        if length < 15 {
            self.out.push((length as u8) << 4 | kind);
        } else {
            self.out.push(0xf0 | kind);
            self.varint(length as u64);
        }
    }

    fn structure(&mut self, id: u8, fill: impl FnOnce(&mut Thrift)) {
        self.field(id, STRUCT);
        self.element(fill);
    }

    fn element(&mut self, fill: impl FnOnce(&mut Thrift)) {
        let mut inner = Thrift::default();
        fill(&mut inner);
        self.out.extend_from_slice(&inner.end());
    }

    fn end(mut self) -> Vec<u8> {
        self.out.push(0);
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That others read it is for `python/tests/test_usage.py`; here, that what a reader goes by is where it looks.
    #[test]
    fn a_file_ends_in_its_footer_and_an_empty_one_has_no_rows() {
        for rows in [0, 1, 300] {
            let row = UsageRow {
                from_utc_s: 1,
                until_utc_s: 2,
                tenant: forebay_types::Tenant(1),
                namespace: forebay_types::NamespaceId(2),
                name: "n".into(),
                usage: forebay_types::Usage::default(),
            };
            let file = encode(&vec![row; rows]);
            assert!(file.starts_with(MAGIC) && file.ends_with(MAGIC));
            let at = file.len() - 8;
            let footer = u32::from_le_bytes(std::array::from_fn(|i| file[at + i])) as usize;
            // Version 1, then a list of structures: the root and its columns.
            assert_eq!(file[at - footer..at - footer + 5], [0x15, 2, 0x19, 0xfc, 21]);
            assert!(rows > 0 || footer < at);
        }
    }

    #[test]
    fn numbers_take_few_bytes_whatever_their_sign() {
        let mut out = Thrift::default();
        [0, -1, 1, 300, i64::MIN].into_iter().for_each(|number| out.number(number));
        assert_eq!(out.out[..5], [0, 1, 2, 0xd8, 4]);
        assert_eq!(out.out[5..], [255, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
    }
}

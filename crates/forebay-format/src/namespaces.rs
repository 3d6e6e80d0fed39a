//! The table of namespaces that each slice carries, so that a drive can be read alone. Secrets are not in it: they stay in the catalogue.

use std::collections::BTreeSet;

use forebay_types::limits::NAMESPACES_MAX;
use forebay_types::{
    Class, FINGERPRINT_FIELDS, Fingerprint, Namespace, NamespaceId, Tenant, check_namespace_name, crc64,
};

use crate::FormatError;
use crate::bytes::{put, put_u32, put_u64, u16_at, u32_at, u64_at};

/// Room for one table, in bytes.
pub const NAMESPACE_TABLE_BYTES_MAX: usize = 1 << 20;

const MAGIC: &[u8; 8] = b"fbyNAMES";
const WHAT: &str = "table of namespaces";
const HEADER_BYTES: usize = 64;
const CLOCK_AT: usize = 24;
const WRITE_AT: usize = 48;
const CRC_AT: usize = 56;
const ROW_FIXED_BYTES: usize = 20;
const PAD_BYTES: usize = 4096;
/// Bits of a row's flags.
const WITH_QUOTA: u8 = 1;
const WITH_TTL: u8 = 2;

/// One namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamespaceRow {
    /// Number.
    pub id: NamespaceId,
    /// Owner.
    pub tenant: Tenant,
    /// Promise.
    pub class: Class,
    /// Bytes it may hold; `None` is no bound.
    pub quota_bytes: Option<u64>,
    /// Seconds after which its blocks expire by default; `None` is never.
    pub ttl_s: Option<u32>,
    /// Name.
    pub name: String,
    /// What makes its bytes interchangeable.
    pub fingerprint: Fingerprint,
}

impl From<&Namespace> for NamespaceRow {
    fn from(ns: &Namespace) -> Self {
        NamespaceRow {
            id: ns.id,
            tenant: ns.tenant,
            class: ns.class,
            quota_bytes: ns.quota_bytes,
            ttl_s: ns.ttl_s,
            name: ns.name.clone(),
            fingerprint: ns.fingerprint.clone(),
        }
    }
}

/// How late it is known to be, for expiry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClockMark {
    /// Blocks that expire by then are over, whatever a clock says. Seconds since 1970; 0: nothing has expired yet.
    pub utc_s: u64,
    /// The same for records with a number below `old_seq`: a later time that was once believed and was wrong.
    pub old_utc_s: u64,
    /// See `old_utc_s`.
    pub old_seq: u64,
}

impl ClockMark {
    /// Whether a block that expires then (0 never), and whose record has that number, is over by what the drive knows.
    pub fn is_over(&self, expiry_utc_s: u64, seq: u64) -> bool {
        let by = |utc_s| expiry_utc_s != 0 && expiry_utc_s <= utc_s;
        by(self.utc_s) || seq < self.old_seq && by(self.old_utc_s)
    }
}

/// The account of a day's write budget. Zeros, as builds without one wrote them: nothing was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteMark {
    /// What is spent of it, in MiB; never less than was written.
    pub spent_mib: u32,
    /// When, seconds since 1970.
    pub utc_s: u32,
}

/// The namespaces that may have records in a slice. A record of any other is dead: numbers are never reused.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NamespaceTable {
    /// Counts the versions of the table; the higher counts.
    pub sequence: u64,
    /// How late it is known to be.
    pub clock: ClockMark,
    /// What is spent of the write budget.
    pub write: WriteMark,
    /// Rows, in any order, each number once.
    pub rows: Vec<NamespaceRow>,
}

impl NamespaceTable {
    /// The table's bytes, padded with zeros to 4 KiB; at most [`NAMESPACE_TABLE_BYTES_MAX`]. Rows that [`Self::decode`] would refuse are refused here.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        let mut out = vec![0; HEADER_BYTES];
        for row in &self.rows {
            encode_row(row, &mut out);
        }
        if out.len() > NAMESPACE_TABLE_BYTES_MAX {
            return Err(FormatError::TooLarge { what: WHAT, found: out.len(), most: NAMESPACE_TABLE_BYTES_MAX });
        }
        let len = out.len();
        put(&mut out, 0, MAGIC);
        put_u64(&mut out, 8, self.sequence);
        put_u32(&mut out, 16, self.rows.len() as u32);
        put_u32(&mut out, 20, len as u32);
        put_u64(&mut out, CLOCK_AT, self.clock.utc_s);
        put_u64(&mut out, CLOCK_AT + 8, self.clock.old_utc_s);
        put_u64(&mut out, CLOCK_AT + 16, self.clock.old_seq);
        put_u32(&mut out, WRITE_AT, self.write.spent_mib);
        put_u32(&mut out, WRITE_AT + 4, self.write.utc_s);
        let crc = crc64(&out);
        put_u64(&mut out, CRC_AT, crc);
        // Rows that could not be read back (one number twice, more than 4096, a name too long) must not replace a table that can.
        Self::decode(&out)?;
        out.resize(len.next_multiple_of(PAD_BYTES), 0);
        Ok(out)
    }

    /// From its bytes; what follows them is not looked at.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let malformed = |why| FormatError::Malformed { what: WHAT, why };
        let Some(header) = bytes.get(..HEADER_BYTES) else {
            return Err(FormatError::Short(WHAT));
        };
        if header[..8] != *MAGIC {
            let blank = header.iter().all(|b| *b == 0);
            return Err(if blank { FormatError::Blank(WHAT) } else { FormatError::NotForebay(WHAT) });
        }
        let len = u32_at(header, 20) as usize;
        if !(HEADER_BYTES..=NAMESPACE_TABLE_BYTES_MAX).contains(&len) {
            return Err(malformed("its length is out of bounds"));
        }
        let mut whole = bytes.get(..len).ok_or(FormatError::Short(WHAT))?.to_vec();
        put_u64(&mut whole, CRC_AT, 0);
        if crc64(&whole) != u64_at(header, CRC_AT) {
            return Err(FormatError::Checksum(WHAT));
        }
        let count = u32_at(header, 16) as usize;
        if count > NAMESPACES_MAX {
            return Err(malformed("it has more rows than a catalogue may have"));
        }
        let clock = ClockMark {
            utc_s: u64_at(header, CLOCK_AT),
            old_utc_s: u64_at(header, CLOCK_AT + 8),
            old_seq: u64_at(header, CLOCK_AT + 16),
        };
        let write = WriteMark { spent_mib: u32_at(header, WRITE_AT), utc_s: u32_at(header, WRITE_AT + 4) };
        let mut table = NamespaceTable { sequence: u64_at(header, 8), clock, write, rows: Vec::new() };
        let mut seen = BTreeSet::new();
        let mut rest = &whole[HEADER_BYTES..];
        for _ in 0..count {
            let row = decode_row(&mut rest).ok_or(malformed("a row"))?;
            if !seen.insert(row.id) {
                return Err(malformed("a number stands in two rows"));
            }
            table.rows.push(row);
        }
        if !rest.is_empty() {
            return Err(malformed("bytes follow its last row"));
        }
        Ok(table)
    }

    /// The newer of a slice's two tables; either will do when the other cannot be read. Errors only when neither can.
    pub fn newest(first: &[u8], second: &[u8]) -> Result<Self, FormatError> {
        match (Self::decode(first), Self::decode(second)) {
            (Ok(a), Ok(b)) => Ok(if a.sequence >= b.sequence { a } else { b }),
            (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
            (Err(a), Err(b)) => Err(if a.is_foreign() { b } else { a }),
        }
    }
}

fn encode_row(row: &NamespaceRow, out: &mut Vec<u8>) {
    out.extend_from_slice(&row.id.0.to_le_bytes());
    out.extend_from_slice(&row.tenant.0.to_le_bytes());
    out.push(row.class as u8);
    out.push((u8::from(row.quota_bytes.is_some()) * WITH_QUOTA) | (u8::from(row.ttl_s.is_some()) * WITH_TTL));
    out.push(row.name.len() as u8);
    out.push(row.fingerprint.iter().count() as u8);
    out.extend_from_slice(&row.quota_bytes.unwrap_or(0).to_le_bytes());
    if let Some(ttl_s) = row.ttl_s {
        out.extend_from_slice(&ttl_s.to_le_bytes());
    }
    out.extend_from_slice(row.name.as_bytes());
    // In the order of their codes, which is that of FINGERPRINT_FIELDS: one table has one encoding.
    for (code, field) in FINGERPRINT_FIELDS.iter().enumerate() {
        let value = row.fingerprint.get(field);
        if !value.is_empty() {
            out.push(code as u8 + 1);
            out.extend_from_slice(&(value.len() as u16).to_le_bytes());
            out.extend_from_slice(value.as_bytes());
        }
    }
}

fn decode_row(rest: &mut &[u8]) -> Option<NamespaceRow> {
    let fixed = rest.split_off(..ROW_FIXED_BYTES)?;
    let quota = u64_at(fixed, 12);
    let quota_bytes = match (fixed[9] & WITH_QUOTA, quota) {
        (0, 0) => None,
        (WITH_QUOTA, bytes) => Some(bytes),
        _ => return None,
    };
    let ttl_s = match fixed[9] & !WITH_QUOTA {
        0 => None,
        WITH_TTL => Some(u32_at(rest.split_off(..4)?, 0)).filter(|ttl_s| *ttl_s > 0),
        _ => return None,
    };
    if fixed[9] & WITH_TTL != 0 && ttl_s.is_none() {
        return None;
    }
    let name = std::str::from_utf8(rest.split_off(..usize::from(fixed[10]))?).ok()?.to_owned();
    check_namespace_name(&name).ok()?;
    let mut fingerprint = Fingerprint::default();
    let mut last_code = 0;
    for _ in 0..fixed[11] {
        let head = rest.split_off(..3)?;
        let value = std::str::from_utf8(rest.split_off(..usize::from(u16_at(head, 1)))?).ok()?;
        let field = FINGERPRINT_FIELDS.get(usize::from(head[0].checked_sub(1)?))?;
        if head[0] <= last_code || value.is_empty() {
            return None;
        }
        last_code = head[0];
        fingerprint.set(field, value).ok()?;
    }
    let id = NamespaceId(u32_at(fixed, 0));
    let class = Class::from_code(fixed[8])?;
    let tenant = Tenant(u32_at(fixed, 4));
    (id.0 != 0).then_some(NamespaceRow { id, tenant, class, quota_bytes, ttl_s, name, fingerprint })
}

//! A namespace as the bytes of a row: layout 1, fields in a fixed order, little endian.

use forebay_types::{
    Class, FINGERPRINT_FIELDS, Fingerprint, Namespace, NamespaceId, Secret, Tenant, check_namespace_name,
};

const LAYOUT: u8 = 1;
/// Bits of the third byte. A time to live stands behind everything else.
const WITH_QUOTA: u8 = 1;
const WITH_TTL: u8 = 2;

/// Most bytes of a namespace in the table that each drive carries: 24 and its name, and 3 for each set field and its value.
pub(crate) fn drive_row_bytes(name: &str, fingerprint: &Fingerprint) -> usize {
    24 + name.len() + fingerprint.iter().map(|(_, value)| 3 + value.len()).sum::<usize>()
}

pub(crate) fn encode(ns: &Namespace) -> Vec<u8> {
    let flags = (u8::from(ns.quota_bytes.is_some()) * WITH_QUOTA) | (u8::from(ns.ttl_s.is_some()) * WITH_TTL);
    let mut out = vec![LAYOUT, ns.class as u8, flags, ns.name.len() as u8];
    out.extend_from_slice(&ns.tenant.0.to_le_bytes());
    out.extend_from_slice(&ns.quota_bytes.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&ns.secret.0);
    out.extend_from_slice(ns.name.as_bytes());
    for field in FINGERPRINT_FIELDS {
        let value = ns.fingerprint.get(field);
        out.extend_from_slice(&(value.len() as u16).to_le_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    if let Some(ttl_s) = ns.ttl_s {
        out.extend_from_slice(&ttl_s.to_le_bytes());
    }
    out
}

/// `None` when the bytes are not a row of this layout.
pub(crate) fn decode(id: u32, mut bytes: &[u8]) -> Option<Namespace> {
    let head: &[u8; 4] = bytes.split_off(..4)?.try_into().ok()?;
    if head[0] != LAYOUT {
        return None;
    }
    let tenant = u32::from_le_bytes(bytes.split_off(..4)?.try_into().ok()?);
    let quota = u64::from_le_bytes(bytes.split_off(..8)?.try_into().ok()?);
    let secret = Secret(bytes.split_off(..32)?.try_into().ok()?);
    let name = std::str::from_utf8(bytes.split_off(..usize::from(head[3]))?).ok()?.to_owned();
    check_namespace_name(&name).ok()?;
    let mut fingerprint = Fingerprint::default();
    for field in FINGERPRINT_FIELDS {
        let len = u16::from_le_bytes(bytes.split_off(..2)?.try_into().ok()?);
        fingerprint.set(field, std::str::from_utf8(bytes.split_off(..usize::from(len))?).ok()?).ok()?;
    }
    let ttl_s = match head[2] & WITH_TTL {
        0 => None,
        _ => Some(u32::from_le_bytes(bytes.split_off(..4)?.try_into().ok()?)),
    };
    bytes.is_empty().then_some(Namespace {
        id: NamespaceId(id),
        name,
        tenant: Tenant(tenant),
        class: Class::from_code(head[1])?,
        quota_bytes: (head[2] & WITH_QUOTA != 0).then_some(quota),
        ttl_s,
        fingerprint,
        secret,
    })
}

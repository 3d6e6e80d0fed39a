//! Messages to bytes. What is over a limit is an error here, so that no peer ever sees it.

use forebay_types::limits::{KEYS_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX, NAMESPACES_MAX};
use forebay_types::{FINGERPRINT_FIELDS, Fingerprint, Namespace, Reported};

use crate::bytes::{Put, within};
use crate::frame::{FrameHeader, HEADER_BYTES, Kind};
use crate::limits::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, CREDENTIAL_BYTES_MAX, ERROR_TEXT_BYTES_MAX, MEMBERS_MAX, NAME_BYTES_MAX,
};
use crate::{EncodeError, GetItem, Hello, Member, Message, Presence, ReuseHint, Welcome, get_outcomes, put};

/// Bytes of one key of a get.
pub(crate) const GET_ITEM_BYTES: usize = 32 + put::PLACE_BYTES;
/// Bits of the flags before a namespace's bounds.
pub(crate) const WITH_QUOTA: u8 = 1;
pub(crate) const WITH_TTL: u8 = 2;
/// Longest value of a fingerprint field.
pub(crate) use forebay_types::limits::FINGERPRINT_VALUE_BYTES_MAX as VALUE_MAX;

/// Appends a message's frame to `out`. On an error `out` is as it was; the message must be split or say less.
pub fn encode(message: &Message, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let start = begin(out, body_bytes_about(message));
    let (kind, request) = head(message);
    let written = body(message, out).and_then(|()| seal(out, start, kind, request));
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// Makes room for a header and about `body_bytes` behind it; gives back where the frame starts.
pub(crate) fn begin(out: &mut Vec<u8>, body_bytes: usize) -> usize {
    let start = out.len();
    out.reserve(HEADER_BYTES + body_bytes);
    out.extend_from_slice(&[0; HEADER_BYTES]);
    start
}

/// Writes the header of the body that lies behind it.
pub(crate) fn seal(out: &mut [u8], start: usize, kind: Kind, request: u32) -> Result<(), EncodeError> {
    let (header, body) = out[start..].split_at_mut(HEADER_BYTES);
    within("bytes in a message", body.len(), MESSAGE_BYTES_MAX)?;
    header.copy_from_slice(&FrameHeader::of_body(kind, request, body).encode());
    Ok(())
}

/// What of a body grows with its items, so that the output grows at most once.
fn body_bytes_about(message: &Message) -> usize {
    64 + match message {
        Message::Get { items, .. } => items.len() * GET_ITEM_BYTES,
        Message::Put { items, .. } => items.iter().map(put::put_item_bytes).sum(),
        Message::GetOutcomes { outcomes, .. } => outcomes.iter().map(|(_, o)| get_outcomes::get_outcome_bytes(o)).sum(),
        Message::PutOutcomes { outcomes, .. } => outcomes.len() * 6,
        Message::PutGo { items, .. } => items.len() * 4,
        Message::Match { keys, .. }
        | Message::Forget { keys, .. }
        | Message::Touch { keys, .. }
        | Message::Prefetch { keys, .. } => keys.len() * 16,
        Message::MatchOutcomes { presence, .. } => presence.len(),
        Message::ForgetOutcomes { forgotten, .. } => forgotten.len(),
        Message::StatsAre { json, .. } => json.len(),
        _ => 0,
    }
}

fn head(message: &Message) -> (Kind, u32) {
    match *message {
        Message::Hello(_) => (Kind::Hello, 0),
        Message::Welcome(_) => (Kind::Welcome, 0),
        Message::Error { request, .. } => (Kind::Error, request),
        Message::Members { request } => (Kind::Members, request),
        Message::MembersAre { request, .. } => (Kind::MembersAre, request),
        Message::Attach { request, .. } => (Kind::Attach, request),
        Message::NamespaceCreate { request, .. } => (Kind::NamespaceCreate, request),
        Message::NamespaceIs { request, .. } => (Kind::NamespaceIs, request),
        Message::NamespaceList { request } => (Kind::NamespaceList, request),
        Message::NamespacesAre { request, .. } => (Kind::NamespacesAre, request),
        Message::NamespaceDelete { request, .. } => (Kind::NamespaceDelete, request),
        Message::Done { request } => (Kind::Done, request),
        Message::Stats { request } => (Kind::Stats, request),
        Message::StatsAre { request, .. } => (Kind::StatsAre, request),
        Message::RegionAdd { request, .. } => (Kind::RegionAdd, request),
        Message::RegionDrop { request, .. } => (Kind::RegionDrop, request),
        Message::Get { request, .. } => (Kind::Get, request),
        Message::GetOutcomes { request, .. } => (Kind::GetOutcomes, request),
        Message::Put { request, .. } => (Kind::Put, request),
        Message::PutGo { request, .. } => (Kind::PutGo, request),
        Message::PutOutcomes { request, .. } => (Kind::PutOutcomes, request),
        Message::Match { request, .. } => (Kind::Match, request),
        Message::MatchOutcomes { request, .. } => (Kind::MatchOutcomes, request),
        Message::Forget { request, .. } => (Kind::Forget, request),
        Message::ForgetOutcomes { request, .. } => (Kind::ForgetOutcomes, request),
        Message::Touch { .. } => (Kind::Touch, 0),
        Message::Prefetch { .. } => (Kind::Prefetch, 0),
        Message::Report { .. } => (Kind::Report, 0),
        Message::Corrupt { .. } => (Kind::Corrupt, 0),
        Message::Cancel { request } => (Kind::Cancel, request),
        Message::Credit { .. } => (Kind::Credit, 0),
    }
}

fn body(message: &Message, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match message {
        Message::Members { .. }
        | Message::NamespaceList { .. }
        | Message::Done { .. }
        | Message::Stats { .. }
        | Message::Cancel { .. } => {}
        Message::Hello(it) => hello(it, out)?,
        Message::Welcome(it) => welcome(it, out),
        Message::Error { code, text, .. } => {
            out.u16(*code as u16);
            let cut = text.floor_char_boundary(ERROR_TEXT_BYTES_MAX);
            out.short_bytes("bytes in an error", &text.as_bytes()[..cut], ERROR_TEXT_BYTES_MAX)?;
        }
        Message::MembersAre { epoch, members, .. } => {
            out.u64(epoch.0);
            out.count("members", members.len(), MEMBERS_MAX)?;
            members.iter().try_for_each(|it| member(it, out))?;
        }
        Message::Attach { name, fingerprint: expected, .. } => {
            self::name(name, out)?;
            fingerprint(expected, out)?;
        }
        Message::NamespaceCreate { name, class, quota_bytes, ttl_s, fingerprint: it, .. } => {
            self::name(name, out)?;
            out.u8(*class as u8);
            bounds(*quota_bytes, *ttl_s, out);
            fingerprint(it, out)?;
        }
        Message::NamespaceIs { namespace: it, .. } => namespace(it, out)?,
        Message::NamespacesAre { namespaces, .. } => {
            out.count("namespaces", namespaces.len(), NAMESPACES_MAX)?;
            namespaces.iter().try_for_each(|it| namespace(it, out))?;
        }
        Message::NamespaceDelete { name, .. } => self::name(name, out)?,
        Message::StatsAre { json, .. } => {
            out.count("bytes of statistics", json.len(), MESSAGE_BYTES_MAX)?;
            out.bytes(json.as_bytes());
        }
        Message::RegionAdd { region, length, kind, .. } => {
            out.u32(region.0);
            out.u64(*length);
            out.u8(*kind as u8);
        }
        Message::RegionDrop { region, .. } => out.u32(region.0),
        block_message => return blocks(block_message, out),
    }
    Ok(())
}

fn blocks(message: &Message, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match message {
        Message::Get { namespace, deadline_us, hint: reuse, items, .. } => {
            out.u32(namespace.0);
            out.u32(*deadline_us);
            hint(*reuse, out);
            out.count("items in a message", items.len(), KEYS_PER_MESSAGE_MAX)?;
            for item in items {
                out.bytes(&get_item(item));
            }
        }
        Message::GetOutcomes { outcomes, .. } => {
            out.count("outcomes in a message", outcomes.len(), KEYS_PER_MESSAGE_MAX)?;
            for (item, outcome) in outcomes {
                get_outcomes::write(out, *item, &outcome.borrowed())?;
            }
        }
        Message::Put { namespace, deadline_us, hint: reuse, caller_keeps, items, .. } => {
            out.u32(namespace.0);
            out.u32(*deadline_us);
            debug_assert!(reuse.kind <= 4, "a reuse hint that nobody knows");
            out.u8(reuse.kind | if *caller_keeps { put::CALLER_KEEPS_BIT } else { 0 });
            out.u32(reuse.seconds);
            out.count("items in a message", items.len(), KEYS_PER_MESSAGE_MAX)?;
            items.iter().try_for_each(|item| put::write(out, item))?;
        }
        Message::PutGo { items, .. } => {
            out.count("items in a message", items.len(), KEYS_PER_MESSAGE_MAX)?;
            items.iter().try_for_each(|number| item(*number, out))?;
        }
        Message::PutOutcomes { outcomes, .. } => {
            out.count("outcomes in a message", outcomes.len(), KEYS_PER_MESSAGE_MAX)?;
            for (number, outcome) in outcomes {
                item(*number, out)?;
                let (code, reason) = outcome.codes();
                out.bytes(&[code, reason]);
            }
        }
        Message::Match { namespace, deadline_us, hold_ms, stop_at_gap, keys, .. } => {
            out.u32(namespace.0);
            out.u32(*deadline_us);
            out.u32(*hold_ms);
            out.u8(u8::from(*stop_at_gap));
            out.keys(keys, KEYS_PER_MESSAGE_MAX)?;
        }
        Message::MatchOutcomes { presence: all, .. } => {
            out.count("outcomes in a message", all.len(), KEYS_PER_MESSAGE_MAX)?;
            out.extend(all.iter().map(|it| presence(*it)));
        }
        Message::Forget { namespace, deadline_us, keys, .. } | Message::Prefetch { namespace, deadline_us, keys } => {
            out.u32(namespace.0);
            out.u32(*deadline_us);
            out.keys(keys, KEYS_PER_MESSAGE_MAX)?;
        }
        Message::ForgetOutcomes { failed, forgotten, .. } => {
            out.u8(u8::from(*failed));
            out.count("outcomes in a message", forgotten.len(), KEYS_PER_MESSAGE_MAX)?;
            out.extend(forgotten.iter().map(|was_here| u8::from(*was_here)));
        }
        Message::Touch { namespace, hint: reuse, keys } => {
            out.u32(namespace.0);
            hint(*reuse, out);
            out.keys(keys, KEYS_PER_MESSAGE_MAX)?;
        }
        Message::Report { namespace, reported } => {
            let Reported { requests, prompt_tokens, engine_tokens, used_tokens } = *reported;
            out.u32(namespace.0);
            [requests, prompt_tokens, engine_tokens, used_tokens].into_iter().for_each(|count| out.u64(count));
        }
        Message::Corrupt { namespace, key, version } => {
            out.u32(namespace.0);
            out.bytes(&key.0);
            out.u64(version.0);
        }
        Message::Credit { bytes } => out.u64(*bytes),
        other => unreachable!("{:?} is written by `body`", head(other).0),
    }
    Ok(())
}

fn hello(it: &Hello, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    out.u16(it.version);
    out.u64(it.features);
    out.bytes(&it.shard.0);
    out.u64(it.epoch.0);
    out.u8(it.lane);
    out.u64(it.trace);
    out.u64(it.credit_bytes);
    out.short_bytes("bytes of credential", &it.credential, CREDENTIAL_BYTES_MAX)?;
    out.u16(0);
    Ok(())
}

fn welcome(it: &Welcome, out: &mut Vec<u8>) {
    out.u16(it.version);
    out.u64(it.features);
    out.u64(it.incarnation);
    out.u64(it.epoch.0);
    out.u64(it.block_bytes_max);
    out.u32(it.align);
    out.u64(it.credit_bytes);
    out.u16(0);
}

fn member(it: &Member, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    out.bytes(&it.shard.0);
    out.u32(it.weight);
    within("addresses of a member", it.addresses.len(), ADDRESSES_MAX)?;
    out.u8(it.addresses.len() as u8);
    it.addresses.iter().try_for_each(|text| out.short_bytes("bytes in an address", text.as_bytes(), ADDRESS_BYTES_MAX))
}

fn name(text: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    out.short_bytes("bytes in a name", text.as_bytes(), NAME_BYTES_MAX)
}

/// No quota is written as a zero, so that the field keeps its width; no time to live is not written.
fn bounds(quota_bytes: Option<u64>, ttl_s: Option<u32>, out: &mut Vec<u8>) {
    out.u8((u8::from(quota_bytes.is_some()) * WITH_QUOTA) | (u8::from(ttl_s.is_some()) * WITH_TTL));
    out.u64(quota_bytes.unwrap_or(0));
    if let Some(ttl_s) = ttl_s {
        out.u32(ttl_s);
    }
}

fn fingerprint(it: &Fingerprint, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let fields = || FINGERPRINT_FIELDS.iter().zip(1u8..).map(|(field, number)| (number, it.get(field)));
    out.u8(fields().filter(|(_, value)| !value.is_empty()).count() as u8);
    for (number, value) in fields().filter(|(_, value)| !value.is_empty()) {
        out.u8(number);
        out.short_bytes("bytes in a fingerprint field", value.as_bytes(), VALUE_MAX)?;
    }
    Ok(())
}

fn namespace(it: &Namespace, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    out.u32(it.id.0);
    out.u32(it.tenant.0);
    out.u8(it.class as u8);
    bounds(it.quota_bytes, it.ttl_s, out);
    out.bytes(&it.secret.0);
    name(&it.name, out)?;
    fingerprint(&it.fingerprint, out)
}

fn hint(it: ReuseHint, out: &mut Vec<u8>) {
    debug_assert!(it.kind <= 4, "a reuse hint that nobody knows");
    out.u8(it.kind);
    out.u32(it.seconds);
}

fn get_item(it: &GetItem) -> [u8; GET_ITEM_BYTES] {
    let mut out = [0; GET_ITEM_BYTES];
    out[..16].copy_from_slice(&it.key.0);
    out[16..24].copy_from_slice(&it.offset.to_le_bytes());
    out[24..32].copy_from_slice(&it.length.to_le_bytes());
    out[32..].copy_from_slice(&put::place_bytes(&it.to));
    out
}

fn item(number: u32, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    within("as an item's number", number as usize, KEYS_PER_MESSAGE_MAX - 1)?;
    out.u32(number);
    Ok(())
}

/// High nibble: 0 not asked, 1 here, 2 here and leased, 4 not here. Low nibble: tier or reason.
fn presence(it: Presence) -> u8 {
    match it {
        Presence::NotAsked => 0,
        Presence::Here { tier, leased: false } => 0x10 | tier.code(),
        Presence::Here { tier, leased: true } => 0x20 | tier.code(),
        Presence::Not(reason) => 0x40 | reason.code(),
    }
}

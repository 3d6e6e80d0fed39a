//! Bytes to messages. Nothing here can panic, and nothing is reserved for items that are not there.

use forebay_types::limits::{KEYS_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX, NAMESPACES_MAX};
use forebay_types::{
    Class, Epoch, FINGERPRINT_FIELDS, Fingerprint, Key, MissReason, Namespace, NamespaceId, PutOutcome, RegionId,
    Reported, Secret, ShardId, Tenant, Tier, Version,
};

use crate::bytes::{Reader, u32_at, u64_at, utf8};
use crate::encode::{GET_ITEM_BYTES, VALUE_MAX, WITH_QUOTA, WITH_TTL};
use crate::frame::{FrameHeader, HEADER_BYTES, Kind, decode_header};
use crate::limits::{
    ADDRESS_BYTES_MAX, ADDRESSES_MAX, CREDENTIAL_BYTES_MAX, ERROR_TEXT_BYTES_MAX, EXTENSION_BYTES_MAX, MEMBERS_MAX,
    NAME_BYTES_MAX,
};
use crate::put::CALLER_KEEPS_BIT;
use crate::{
    DataHeader, ErrorCode, GetItem, Hello, Member, Message, Presence, PutItem, RegionKind, ReuseHint, Welcome,
    WireError, get_outcomes, put,
};

/// What lies at the start of received bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A whole message.
    Message(Message),
    /// The header of a DATA frame; its payload follows.
    Data(DataHeader),
}

/// Takes one frame off the start of `bytes`, with the number of bytes it took: a message with its body, or DATA's header alone.
/// `None`: more bytes are needed. For ends that can afford to gather whole messages in one buffer.
pub fn next_frame(bytes: &[u8]) -> Result<Option<(Frame, usize)>, WireError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Ok(None);
    };
    let header = decode_header(header)?;
    if let Some(data) = header.data() {
        return Ok(Some((Frame::Data(data), HEADER_BYTES)));
    }
    let length = header.body_len as usize;
    match rest.get(..length) {
        None => Ok(None),
        Some(body) => Ok(Some((Frame::Message(decode_body(&header, body)?), HEADER_BYTES + length))),
    }
}

/// Decodes and checks a message's body, which is exactly `header.body_len` bytes.
pub fn decode_body(header: &FrameHeader, body: &[u8]) -> Result<Message, WireError> {
    header.check_body(body)?;
    let mut reader = Reader::new(body);
    let message = read(header.kind, header.request, &mut reader)?;
    reader.finish()?;
    Ok(message)
}

fn read(kind: Kind, request: u32, body: &mut Reader<'_>) -> Result<Message, WireError> {
    Ok(match kind {
        Kind::Hello => unnumbered(request, Message::Hello(hello(body)?))?,
        Kind::Welcome => unnumbered(request, Message::Welcome(welcome(body)?))?,
        Kind::Error => {
            let code = error_code(body.u16()?).ok_or(WireError::Malformed("an unknown error code"))?;
            Message::Error { request, code, text: body.text("bytes in an error", ERROR_TEXT_BYTES_MAX)?.to_owned() }
        }
        Kind::Members => Message::Members { request },
        Kind::MembersAre => {
            let epoch = Epoch(body.u64()?);
            Message::MembersAre { request, epoch, members: list(body, "members", MEMBERS_MAX, 21, member)? }
        }
        Kind::Attach => Message::Attach { request, name: name(body)?, fingerprint: fingerprint(body)? },
        Kind::NamespaceCreate => {
            let (name, class, (quota_bytes, ttl_s)) = (name(body)?, class(body)?, bounds(body)?);
            let fingerprint = fingerprint(body)?;
            Message::NamespaceCreate { request, name, class, quota_bytes, ttl_s, fingerprint }
        }
        Kind::NamespaceIs => Message::NamespaceIs { request, namespace: namespace(body)? },
        Kind::NamespaceList => Message::NamespaceList { request },
        Kind::NamespacesAre => {
            let namespaces = list(body, "namespaces", NAMESPACES_MAX, 53, namespace)?;
            Message::NamespacesAre { request, namespaces }
        }
        Kind::NamespaceDelete => Message::NamespaceDelete { request, name: name(body)? },
        Kind::Done => Message::Done { request },
        Kind::Stats => Message::Stats { request },
        Kind::StatsAre => {
            let length = body.count("bytes of statistics", MESSAGE_BYTES_MAX, 1)?;
            Message::StatsAre { request, json: utf8(body.take(length)?)?.to_owned() }
        }
        Kind::RegionAdd => {
            let (region, length, kind) = (RegionId(body.u32()?), body.u64()?, body.u8()?);
            let kind = RegionKind::ALL.into_iter().find(|known| *known as u8 == kind);
            Message::RegionAdd { request, region, length, kind: kind.ok_or(WireError::Malformed("a kind of region"))? }
        }
        Kind::RegionDrop => Message::RegionDrop { request, region: RegionId(body.u32()?) },
        block_kind => blocks(block_kind, request, body)?,
    })
}

fn blocks(kind: Kind, request: u32, body: &mut Reader<'_>) -> Result<Message, WireError> {
    Ok(match kind {
        Kind::Get => {
            let (namespace, deadline_us, hint) = (NamespaceId(body.u32()?), body.u32()?, hint(body)?);
            let count = body.count("items in a message", KEYS_PER_MESSAGE_MAX, GET_ITEM_BYTES)?;
            let items = body.take(count * GET_ITEM_BYTES)?.as_chunks().0.iter().map(get_item).collect();
            Message::Get { request, namespace, deadline_us, hint, items }
        }
        Kind::GetOutcomes => {
            let bytes = get_outcomes::HEAD_BYTES;
            let outcomes = list(body, "outcomes in a message", KEYS_PER_MESSAGE_MAX, bytes, |body| {
                get_outcomes::read(body).map(|(item, outcome)| (item, outcome.owned()))
            })?;
            Message::GetOutcomes { request, outcomes }
        }
        Kind::Put => {
            let (namespace, deadline_us) = (NamespaceId(body.u32()?), body.u32()?);
            let (hint, caller_keeps) = put_hint(body)?;
            let items = list(body, "items in a message", KEYS_PER_MESSAGE_MAX, put::FIXED_BYTES, |body| {
                put::read(body).map(|item| PutItem { descriptor: item.descriptor.to_vec(), from: item.from })
            })?;
            Message::Put { request, namespace, deadline_us, hint, caller_keeps, items }
        }
        Kind::PutGo => {
            Message::PutGo { request, items: list(body, "items in a message", KEYS_PER_MESSAGE_MAX, 4, item)? }
        }
        Kind::PutOutcomes => {
            let outcomes = list(body, "outcomes in a message", KEYS_PER_MESSAGE_MAX, 6, |body| {
                let (item, codes) = (item(body)?, body.array::<2>()?);
                let outcome = PutOutcome::from_codes(codes[0], codes[1]);
                Ok((item, outcome.ok_or(WireError::Malformed("an unknown outcome of a put"))?))
            })?;
            Message::PutOutcomes { request, outcomes }
        }
        Kind::Match => Message::Match {
            request,
            namespace: NamespaceId(body.u32()?),
            deadline_us: body.u32()?,
            hold_ms: body.u32()?,
            stop_at_gap: body.flag()?,
            keys: body.keys(KEYS_PER_MESSAGE_MAX)?,
        },
        Kind::MatchOutcomes => {
            let count = body.count("outcomes in a message", KEYS_PER_MESSAGE_MAX, 1)?;
            let presence = body.take(count)?.iter().map(|code| presence(*code)).collect::<Result<_, _>>()?;
            Message::MatchOutcomes { request, presence }
        }
        Kind::Forget => Message::Forget {
            request,
            namespace: NamespaceId(body.u32()?),
            deadline_us: body.u32()?,
            keys: body.keys(KEYS_PER_MESSAGE_MAX)?,
        },
        Kind::ForgetOutcomes => {
            let failed = body.flag()?;
            let forgotten = list(body, "outcomes in a message", KEYS_PER_MESSAGE_MAX, 1, Reader::flag)?;
            Message::ForgetOutcomes { request, failed, forgotten }
        }
        Kind::Touch => {
            let (namespace, hint) = (NamespaceId(body.u32()?), hint(body)?);
            let keys = body.keys(KEYS_PER_MESSAGE_MAX)?;
            unnumbered(request, Message::Touch { namespace, hint, keys })?
        }
        Kind::Prefetch => {
            let (namespace, deadline_us) = (NamespaceId(body.u32()?), body.u32()?);
            let keys = body.keys(KEYS_PER_MESSAGE_MAX)?;
            unnumbered(request, Message::Prefetch { namespace, deadline_us, keys })?
        }
        Kind::Report => {
            let namespace = NamespaceId(body.u32()?);
            let (requests, prompt_tokens) = (body.u64()?, body.u64()?);
            let reported = Reported { requests, prompt_tokens, engine_tokens: body.u64()?, used_tokens: body.u64()? };
            if !reported.adds_up() {
                return Err(WireError::Malformed("a report of more tokens than its prompts have"));
            }
            unnumbered(request, Message::Report { namespace, reported })?
        }
        Kind::Corrupt => {
            let (namespace, key) = (NamespaceId(body.u32()?), Key(*body.array()?));
            unnumbered(request, Message::Corrupt { namespace, key, version: Version(body.u64()?) })?
        }
        Kind::Cancel => Message::Cancel { request },
        Kind::Credit => unnumbered(request, Message::Credit { bytes: body.u64()? })?,
        _ => return Err(WireError::Malformed("DATA is no message")),
    })
}

fn unnumbered(request: u32, message: Message) -> Result<Message, WireError> {
    if request == 0 { Ok(message) } else { Err(WireError::Malformed("a number on a message that is no request")) }
}

fn list<'a, T>(
    body: &mut Reader<'a>,
    what: &'static str,
    max: usize,
    item_bytes: usize,
    mut one: impl FnMut(&mut Reader<'a>) -> Result<T, WireError>,
) -> Result<Vec<T>, WireError> {
    let count = body.count(what, max, item_bytes)?;
    let mut items = Vec::with_capacity(count);
    for _ in 0..count {
        items.push(one(body)?);
    }
    Ok(items)
}

fn hello(body: &mut Reader<'_>) -> Result<Hello, WireError> {
    let hello = Hello {
        version: body.u16()?,
        features: body.u64()?,
        shard: ShardId(*body.array()?),
        epoch: Epoch(body.u64()?),
        lane: body.u8()?,
        trace: body.u64()?,
        credit_bytes: body.u64()?,
        credential: body.short_bytes("bytes of credential", CREDENTIAL_BYTES_MAX)?.to_vec(),
    };
    body.short_bytes("bytes of extension", EXTENSION_BYTES_MAX)?;
    Ok(hello)
}

fn welcome(body: &mut Reader<'_>) -> Result<Welcome, WireError> {
    let welcome = Welcome {
        version: body.u16()?,
        features: body.u64()?,
        incarnation: body.u64()?,
        epoch: Epoch(body.u64()?),
        block_bytes_max: body.u64()?,
        align: body.u32()?,
        credit_bytes: body.u64()?,
    };
    body.short_bytes("bytes of extension", EXTENSION_BYTES_MAX)?;
    Ok(welcome)
}

fn member(body: &mut Reader<'_>) -> Result<Member, WireError> {
    let (shard, weight) = (ShardId(*body.array()?), body.u32()?);
    let count = usize::from(body.u8()?);
    if count > ADDRESSES_MAX {
        let (have, max) = (count as u64, ADDRESSES_MAX as u64);
        return Err(WireError::Limit { what: "addresses of a member", have, max });
    }
    let address = |_| body.text("bytes in an address", ADDRESS_BYTES_MAX).map(str::to_owned);
    Ok(Member { shard, weight, addresses: (0..count).map(address).collect::<Result<_, _>>()? })
}

fn name(body: &mut Reader<'_>) -> Result<String, WireError> {
    body.text("bytes in a name", NAME_BYTES_MAX).map(str::to_owned)
}

fn class(body: &mut Reader<'_>) -> Result<Class, WireError> {
    Class::from_code(body.u8()?).ok_or(WireError::Malformed("an unknown class"))
}

/// Quota in bytes and time to live in seconds.
fn bounds(body: &mut Reader<'_>) -> Result<(Option<u64>, Option<u32>), WireError> {
    let (flags, bytes) = (body.u8()?, body.u64()?);
    if flags & !(WITH_QUOTA | WITH_TTL) != 0 {
        return Err(WireError::Malformed("an unknown bound of a namespace"));
    }
    let quota_bytes = match (flags & WITH_QUOTA, bytes) {
        (0, 0) => None,
        (0, _) => return Err(WireError::Malformed("a quota that is not set has 0 bytes")),
        (_, bytes) => Some(bytes),
    };
    let ttl_s = match flags & WITH_TTL {
        0 => None,
        _ => Some(body.u32()?),
    };
    if ttl_s == Some(0) {
        return Err(WireError::Malformed("a time to live that is set is not 0"));
    }
    Ok((quota_bytes, ttl_s))
}

fn fingerprint(body: &mut Reader<'_>) -> Result<Fingerprint, WireError> {
    let mut fingerprint = Fingerprint::default();
    let mut last = 0;
    for _ in 0..body.u8()? {
        let number = body.u8()?;
        let value = body.text("bytes in a fingerprint field", VALUE_MAX)?;
        if number <= last || value.is_empty() {
            return Err(WireError::Malformed("fingerprint fields are in order, each once, none empty"));
        }
        let field = FINGERPRINT_FIELDS.get(usize::from(number) - 1);
        let field = field.ok_or(WireError::Malformed("an unknown fingerprint field"))?;
        fingerprint
            .set(field, value)
            .map_err(|_| WireError::Malformed("a fingerprint field with control characters"))?;
        last = number;
    }
    Ok(fingerprint)
}

fn namespace(body: &mut Reader<'_>) -> Result<Namespace, WireError> {
    let (id, tenant, class) = (NamespaceId(body.u32()?), Tenant(body.u32()?), class(body)?);
    let (quota_bytes, ttl_s) = bounds(body)?;
    let (secret, name, fingerprint) = (Secret(*body.array()?), name(body)?, fingerprint(body)?);
    Ok(Namespace { id, name, tenant, class, quota_bytes, ttl_s, fingerprint, secret })
}

pub(crate) fn hint(body: &mut Reader<'_>) -> Result<ReuseHint, WireError> {
    let hint = ReuseHint { kind: body.u8()?, seconds: body.u32()? };
    if hint.kind > 4 { Err(WireError::Malformed("an unknown reuse hint")) } else { Ok(hint) }
}

/// A put's, which also says whether the caller keeps the blocks.
pub(crate) fn put_hint(body: &mut Reader<'_>) -> Result<(ReuseHint, bool), WireError> {
    let (kind, seconds) = (body.u8()?, body.u32()?);
    let hint = ReuseHint { kind: kind & !CALLER_KEEPS_BIT, seconds };
    if hint.kind > 4 {
        return Err(WireError::Malformed("an unknown reuse hint"));
    }
    Ok((hint, kind & CALLER_KEEPS_BIT != 0))
}

fn get_item(bytes: &[u8; GET_ITEM_BYTES]) -> GetItem {
    GetItem {
        key: Key(std::array::from_fn(|i| bytes[i])),
        offset: u64_at(bytes, 16),
        length: u64_at(bytes, 24),
        to: put::place(&bytes[32..]),
    }
}

fn item(body: &mut Reader<'_>) -> Result<u32, WireError> {
    let number = u32_at(body.array::<4>()?, 0);
    if number as usize >= KEYS_PER_MESSAGE_MAX {
        let max = KEYS_PER_MESSAGE_MAX as u64 - 1;
        return Err(WireError::Limit { what: "as an item's number", have: u64::from(number), max });
    }
    Ok(number)
}

fn presence(code: u8) -> Result<Presence, WireError> {
    let presence = match (code & 0xf0, code & 0x0f) {
        (0, 0) => Some(Presence::NotAsked),
        (0x10, tier) => Tier::from_code(tier).map(|tier| Presence::Here { tier, leased: false }),
        (0x20, tier) => Tier::from_code(tier).map(|tier| Presence::Here { tier, leased: true }),
        (0x40, reason) => MissReason::from_code(reason).map(Presence::Not),
        _ => None,
    };
    presence.ok_or(WireError::Malformed("an unknown presence"))
}

fn error_code(code: u16) -> Option<ErrorCode> {
    ErrorCode::ALL.iter().copied().find(|known| *known as u16 == code)
}

//! Namespaces: the scope of keys, with what makes their bytes interchangeable and what they promise.

use std::collections::BTreeMap;
use std::fmt;

use crate::limits::{FINGERPRINT_VALUE_BYTES_MAX, NAMESPACE_NAME_BYTES_MAX};
use crate::{NamespaceId, Tenant};

/// The promise a namespace makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum Class {
    /// May be evicted; loss is a miss.
    #[default]
    Cache = 1,
    /// Survives; never evicted.
    Durable = 2,
}

impl Class {
    /// The one word for it.
    pub fn word(self) -> &'static str {
        match self {
            Class::Cache => "cache",
            Class::Durable => "durable",
        }
    }

    /// From its word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Class::Cache, Class::Durable].into_iter().find(|class| class.word() == word)
    }

    /// From its code on wire and disk.
    pub fn from_code(code: u8) -> Option<Self> {
        [Class::Cache, Class::Durable].into_iter().find(|class| *class as u8 == code)
    }
}

/// The fields of a fingerprint, in their order. An unset field and an empty one are the same.
pub const FINGERPRINT_FIELDS: [&str; 10] =
    ["model", "weights", "lora", "dtype", "quant", "layout", "block_tokens", "hash", "hash_seed", "shape"];

/// Everything that makes KV bytes interchangeable.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Fingerprint(BTreeMap<&'static str, String>);

impl Fingerprint {
    /// Sets a field. Errors name the unknown field or the value's bound.
    pub fn set(&mut self, field: &str, value: &str) -> Result<(), NamespaceError> {
        let Some(known) = FINGERPRINT_FIELDS.iter().find(|known| **known == field) else {
            return Err(NamespaceError::UnknownField(field.chars().take(80).collect()));
        };
        if value.len() > FINGERPRINT_VALUE_BYTES_MAX || value.chars().any(char::is_control) {
            return Err(NamespaceError::FieldValue(known));
        }
        match value {
            "" => self.0.remove(known),
            value => self.0.insert(known, value.to_owned()),
        };
        Ok(())
    }

    /// A field's value; empty if unset.
    pub fn get(&self, field: &str) -> &str {
        self.0.get(field).map_or("", String::as_str)
    }

    /// Set fields in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(field, value)| (*field, value.as_str()))
    }

    /// True when nothing is set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All fields in which two fingerprints differ, in the order of [`FINGERPRINT_FIELDS`].
    pub fn differences(&self, other: &Fingerprint) -> Vec<&'static str> {
        FINGERPRINT_FIELDS.into_iter().filter(|field| self.get(field) != other.get(field)).collect()
    }

    /// The first field, in the order of [`FINGERPRINT_FIELDS`], in which two fingerprints differ.
    pub fn first_difference(&self, other: &Fingerprint) -> Option<&'static str> {
        FINGERPRINT_FIELDS.into_iter().find(|field| self.get(field) != other.get(field))
    }
}

/// 256 random bits that key the derivation of keys. Given to authorised clients when they attach; never printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A namespace as the catalogue knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Number; never reused.
    pub id: NamespaceId,
    /// Name, unique for its tenant.
    pub name: String,
    /// Owner.
    pub tenant: Tenant,
    /// Promise.
    pub class: Class,
    /// Bytes on each mesh with padding that it may hold; `None` is no bound but the drives'.
    pub quota_bytes: Option<u64>,
    /// Seconds after which a block expires whose put says nothing else; `None` is never.
    pub ttl_s: Option<u32>,
    /// What makes its bytes interchangeable.
    pub fingerprint: Fingerprint,
    /// What keys its keys.
    pub secret: Secret,
}

/// What is wrong with a namespace's description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamespaceError {
    /// Not a name.
    #[error("a namespace's name is 1 to 64 letters, digits, '-', '_', '.', '/' or ':', this is {0:?}")]
    Name(String),
    /// Not a field.
    #[error(
        "a fingerprint has no field {0:?}; its fields are model, weights, lora, dtype, quant, layout, block_tokens, hash, hash_seed, shape"
    )]
    UnknownField(String),
    /// Not a value.
    #[error("the fingerprint field {0} takes at most 256 bytes without control characters")]
    FieldValue(&'static str),
}

/// Accepts 1 to 64 letters, digits, `-`, `_`, `.`, `/` and `:` of ASCII.
pub fn check_namespace_name(name: &str) -> Result<(), NamespaceError> {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    if name.is_empty() || name.len() > NAMESPACE_NAME_BYTES_MAX || !name.chars().all(fine) {
        return Err(NamespaceError::Name(name.chars().take(80).collect()));
    }
    Ok(())
}

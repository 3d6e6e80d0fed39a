//! What may be the reason that lookups miss, most telling first. Numbers in, sentences out.

use forebay_types::Namespace;
use serde_json::Value;

use crate::say::grouped;

/// Fingerprints that differ in no more than this are a slip, and not another model.
const NEAR_FIELDS_MAX: usize = 2;
/// Keys of a question below which its prompt is hardly longer than a block.
const SHORT_KEYS: u64 = 2;
/// Share of the lookups from which on a reason is told, in per mille.
const TOLD_PER_MILLE: u64 = 20;

/// A namespace and what became of its keys.
#[derive(Debug, Clone)]
pub(super) struct Space {
    pub(super) namespace: Namespace,
    pub(super) stored: u64,
    pub(super) bytes: u64,
    counts: Value,
}

/// What was found, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    /// One word for programs.
    pub(super) kind: &'static str,
    pub(super) what: String,
    pub(super) next: String,
}

impl Space {
    /// With its row of the node's list.
    pub(super) fn new(namespace: Namespace, all: &[Value]) -> Space {
        let mine = |row: &&Value| row.get("id").and_then(Value::as_u64) == Some(u64::from(namespace.id.0));
        let counts = all.iter().find(mine).cloned().unwrap_or(Value::Null);
        let (stored, bytes) = (number(&counts, "/put/stored"), number(&counts, "/bytes"));
        Space { namespace, stored, bytes, counts }
    }

    fn misses(&self, of: &str, reason: &str) -> u64 {
        number(&self.counts, &format!("/{of}/misses/{reason}"))
    }

    /// Keys looked up, those behind a gap left out.
    pub(super) fn lookups(&self) -> u64 {
        self.hits() + sum(&self.counts, "/lookup/misses")
    }

    pub(super) fn hits(&self) -> u64 {
        number(&self.counts, "/lookup/hits")
    }

    /// Keys asked for with their bytes.
    pub(super) fn gets(&self) -> u64 {
        number(&self.counts, "/get/hits") + sum(&self.counts, "/get/misses")
    }

    fn questions(&self) -> u64 {
        number(&self.counts, "/lookup/questions")
    }

    fn refused(&self, reason: &str) -> u64 {
        number(&self.counts, &format!("/put/refused/{reason}"))
    }
}

fn number(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

fn sum(value: &Value, pointer: &str) -> u64 {
    let counts = value.pointer(pointer).and_then(Value::as_object);
    counts.map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum())
}

/// Why lookups of this namespace miss; a sentence also when nothing is wrong.
pub(super) fn explain(space: &Space, all: &[Space]) -> Vec<Finding> {
    let mut found = Vec::new();
    let missed = space.lookups() - space.hits();
    if space.lookups() + space.gets() == 0 {
        found.push(Finding {
            kind: "unasked",
            what: "Nobody has looked anything up here since the node started.".into(),
            next: "Does the engine's log name this namespace and this node's address, and are its prompts longer than a block?".into(),
        });
    }
    if missed > 0 && (space.hits() == 0 || space.bytes == 0) {
        found.extend(near_misses(space, all, missed));
    }
    for reason in ["quota", "full", "admission"] {
        let refused = space.refused(reason);
        if refused > 0 && refused * 1000 >= (space.stored + refused) * TOLD_PER_MILLE {
            found.push(refusals(space, reason, refused));
        }
    }
    found.extend(gone(space, missed));
    if found.is_empty() || space.hits() > 0 {
        found.extend(chains(space));
    }
    if found.is_empty() {
        let what = match missed {
            0 => "Everything that was looked up was found.",
            _ => "Nothing is wrong that the node could see: what was missed had never been here.",
        };
        found.push(Finding {
            kind: "nothing",
            what: what.into(),
            next: "The first run of a prompt always misses; run it twice.".into(),
        });
    }
    found
}

/// Blocks that had been here, or were not reached in time.
fn gone(space: &Space, missed: u64) -> Vec<Finding> {
    let mut found = Vec::new();
    let told = |count: u64| count > 0 && count * 1000 >= missed * TOLD_PER_MILLE;
    let evicted = space.misses("lookup", "evicted");
    if told(evicted) {
        let quota = space.namespace.quota_bytes.is_some_and(|quota| space.bytes * 10 >= quota * 9);
        let next = match quota {
            true => {
                "The namespace is at its quota: make it larger (a namespace with another quota is made under another name), or store less."
            }
            false => {
                "`forebay plan --trace` says what a larger drive would keep; `forebay serve --capacity` makes it larger."
            }
        };
        let what =
            format!("{} lookups came for blocks that had been here and were evicted for others.", grouped(evicted));
        found.push(Finding { kind: "evicted", what, next: next.into() });
    }
    let late = space.misses("lookup", "deadline") + space.misses("get", "deadline");
    if told(late) {
        found.push(Finding {
            kind: "deadline",
            what: format!("{} keys were not answered within their deadline.", grouped(late)),
            next: "`forebay top` shows where they wait, `forebay doctor` how fast the drive is; the adapters' lookup_deadline_ms and load_deadline_ms are how long they wait.".into(),
        });
    }
    let expired = space.misses("lookup", "expired");
    if told(expired) {
        found.push(Finding {
            kind: "expired",
            what: format!("{} lookups came for blocks whose time to live was over.", grouped(expired)),
            next: "Give the namespace a longer time to live, or none.".into(),
        });
    }
    found
}

/// What is stored is not what is asked for again.
fn chains(space: &Space) -> Option<Finding> {
    let mut found = Vec::new();
    let (questions, lookups) = (space.questions(), space.lookups());
    if questions > 0 && space.hits() * 2 < lookups && space.stored < SHORT_KEYS * questions {
        let few = space.stored + number(&space.counts, "/put/exists");
        if few == 0 && space.bytes == 0 {
            found.push(Finding {
                kind: "nothing_stored",
                what: format!("{} questions were asked and nothing was ever stored.", grouped(questions)),
                next: "Prompts shorter than a block have nothing to store (vLLM: --block-size). Does the engine store at all (kv_role kv_both), and does its log say that blocks were dropped?".into(),
            });
        } else if few > 0 {
            found.push(Finding {
                kind: "short_chains",
                what: format!("Chains are short: {} blocks were stored for {} questions.", grouped(few), grouped(questions)),
                next: "Prompts share what lies before their first difference, in whole blocks: put what is the same for all (system prompt, tools) first, and dates and names last.".into(),
            });
        }
    }
    found.pop()
}

/// Namespaces with blocks whose fingerprint differs a little: the nearest first.
fn near_misses(space: &Space, all: &[Space], missed: u64) -> Vec<Finding> {
    let mut near: Vec<(Vec<&'static str>, &Space)> = all
        .iter()
        .filter(|other| other.namespace.id != space.namespace.id && other.bytes > 0)
        .map(|other| (space.namespace.fingerprint.differences(&other.namespace.fingerprint), other))
        .filter(|(fields, _)| (1..=NEAR_FIELDS_MAX).contains(&fields.len()))
        .collect();
    near.sort_by_key(|(fields, other)| (fields.len(), std::cmp::Reverse(other.bytes)));
    near.truncate(3);
    let one = |(fields, other): (Vec<&'static str>, &Space)| {
        let named: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
        let values: Vec<String> = fields
            .iter()
            .map(|field| {
                let (here, there) = (space.namespace.fingerprint.get(field), other.namespace.fingerprint.get(field));
                format!("{field} is {:?} here and {:?} there", here, there)
            })
            .collect();
        let what = format!(
            "{} lookups match the existing namespace {} in all but {}: {}.",
            grouped(missed),
            other.namespace.name,
            named.join(" and "),
            values.join("; ")
        );
        let mut next: Vec<&str> = fields.iter().map(|field| remedy(field)).collect();
        next.dedup();
        Finding { kind: "near_miss", what, next: next.join(" ") }
    };
    near.into_iter().map(one).collect()
}

/// What makes this field the same, where it should be.
fn remedy(field: &str) -> &'static str {
    match field {
        "hash_seed" => {
            "Set PYTHONHASHSEED to the same number for all engines, or use sha256 (vLLM: --prefix-caching-hash-algo)."
        }
        "hash" => "Use one hash for all engines (vLLM: --prefix-caching-hash-algo sha256).",
        "weights" => {
            "The weights are others, or the digest was given by hand in one of the two: load the same revision, or give both the same weights_digest."
        }
        "lora" => "Another adapter's weights make other KV; there is nothing to share.",
        "dtype" | "quant" => {
            "Run both with the same --dtype, --kv-cache-dtype and quantisation: the bytes mean something else otherwise."
        }
        "block_tokens" => "Use the same --block-size in both.",
        "layout" => {
            "Another version of the engine, attention backend, processor or configuration lays its KV out differently: use the same, or let the new one fill its own namespace."
        }
        "shape" => "Use the same tensor and pipeline parallelism: each rank stores its own part.",
        "model" => {
            "Is it the same model under two names? Weights tell; give it one name (--served-model-name changes nothing here, the path's last part does)."
        }
        _ => "Make them the same, if they should be.",
    }
}

fn refusals(space: &Space, reason: &str, refused: u64) -> Finding {
    let put = space.stored + refused;
    let what = format!("{} of {} puts were refused: {reason}.", grouped(refused), grouped(put));
    let (kind, next) = match reason {
        "quota" => (
            "quota",
            "The namespace's quota is smaller than a block, or full of durable ones: make a namespace with a larger one.",
        ),
        "full" => ("full", "The drive is full of durable blocks: delete some, or give the node a larger drive."),
        _ => (
            "admission",
            "The write budget is short, and what was not asked for before is not written: see --write-day, or a drive with more endurance.",
        ),
    };
    Finding { kind, what, next: next.into() }
}

#[cfg(test)]
mod tests {
    use forebay_types::{Class, Fingerprint, NamespaceId, Secret, Tenant};
    use serde_json::json;

    use super::*;

    fn space(id: u32, fields: &[(&str, &str)], counts: Value) -> Space {
        let mut fingerprint = Fingerprint::default();
        fields.iter().for_each(|(field, value)| fingerprint.set(field, value).unwrap());
        let namespace = Namespace {
            id: NamespaceId(id),
            name: format!("vllm-{id}"),
            tenant: Tenant(0),
            class: Class::Cache,
            quota_bytes: None,
            ttl_s: None,
            fingerprint,
            secret: Secret([0; 32]),
        };
        let mut counts = counts;
        counts["id"] = json!(id);
        Space::new(namespace, &[counts])
    }

    fn kinds(of: &Space, all: &[Space]) -> Vec<&'static str> {
        explain(of, all).into_iter().map(|finding| finding.kind).collect()
    }

    const MODEL: [(&str, &str); 3] = [("model", "llama"), ("weights", "ab"), ("hash_seed", "PYTHONHASHSEED 0")];

    #[test]
    fn another_seed_is_named_with_what_to_do() {
        let full = space(1, &MODEL, json!({ "bytes": 1 << 30, "put": { "stored": 900 } }));
        let mut other = MODEL;
        other[2].1 = "PYTHONHASHSEED 17";
        let missing = space(2, &other, json!({ "lookup": { "questions": 9, "misses": { "absent": 2113 } } }));
        let unlike = space(3, &[("model", "qwen"), ("weights", "cd"), ("hash_seed", "x")], json!({ "bytes": 1 << 31 }));
        let found = explain(&missing, &[full, missing.clone(), unlike]);
        assert_eq!(found[0].kind, "near_miss");
        assert!(
            found[0].what.starts_with("2,113 lookups match the existing namespace vllm-1 in all but `hash_seed`"),
            "{found:?}"
        );
        assert!(found[0].next.contains("PYTHONHASHSEED") && found[0].next.contains("sha256"), "{found:?}");
        assert_eq!(
            found.iter().filter(|finding| finding.kind == "near_miss").count(),
            1,
            "another model is no slip: {found:?}"
        );
    }

    #[test]
    fn each_reason_is_found_and_small_ones_are_not() {
        let lookup = |misses: Value| json!({ "bytes": 1, "put": { "stored": 5000 }, "lookup": { "questions": 10, "hits": 9000, "misses": misses } });
        let one = |counts: Value| kinds(&space(1, &MODEL, counts), &[]);
        assert_eq!(one(lookup(json!({ "absent": 100 }))), ["nothing"]);
        assert_eq!(one(lookup(json!({ "absent": 100, "evicted": 900 }))), ["evicted"]);
        assert_eq!(one(lookup(json!({ "absent": 9000, "deadline": 900, "expired": 1 }))), ["deadline"]);
        assert_eq!(one(lookup(json!({ "expired": 10 }))), ["expired"]);
        assert_eq!(
            one(
                json!({ "put": { "stored": 1, "refused": { "quota": 40 } }, "lookup": { "misses": { "absent": 40 } } })
            ),
            ["quota"]
        );
        assert_eq!(one(json!({ "lookup": { "questions": 5, "misses": { "absent": 5 } } })), ["nothing_stored"]);
        let short = json!({ "bytes": 1, "put": { "stored": 12 }, "lookup": { "questions": 10, "hits": 1, "misses": { "absent": 10 } } });
        assert_eq!(one(short), ["short_chains"]);
        assert_eq!(one(json!({})), ["unasked"]);
    }
}

//! What blocks saved and cost, told: by tenant and namespace, in tokens, seconds, bytes, and in dollars of the default book.

use std::collections::BTreeMap;

use forebay_store::Money;
use forebay_tokenomics::{gpu_second_dollars, written_byte_dollars};
use forebay_types::{NamespaceId, Tenant};
use serde_json::{Value, json};

use crate::board::{Board, BoardShard};
use crate::metrics::{Family, Sample};
use crate::spaces::Spaces;

/// What tenants' blocks saved and cost, and what other capacities would find.
pub(crate) fn families(board: &Board) -> Vec<Family> {
    let spaces: Vec<Spaces> = board.shards.iter().map(BoardShard::spaces).collect();
    let accounts = accounts(&spaces);
    type Of = fn(&Money) -> f64;
    let numbers: [(&str, &str, Of); 7] = [
        ("forebay_tokens_hit_total", "Tokens of blocks that gets found.", |m| m.hit_tokens as f64),
        ("forebay_tokens_missed_total", "Tokens of blocks that were put: computed, since they were not here.", |m| {
            m.missed_tokens as f64
        }),
        ("forebay_tokens_refused_total", "Of these, of blocks that admission refused.", |m| m.refused_tokens as f64),
        ("forebay_gpu_saved_seconds_total", "GPU time that computing what was found would have taken.", saved_s),
        ("forebay_saved_dollars_total", "The same at the price of a GPU in the default book.", |m| {
            saved_s(m) * gpu_second_dollars()
        }),
        ("forebay_written_bytes_total", "Bytes written to drives, cleaning's share with them.", |m| {
            m.written_bytes as f64
        }),
        ("forebay_written_dollars_total", "What that wore off a drive of the default book.", written_dollars),
    ];
    let family = |(name, help, of): (&'static str, &'static str, Of)| {
        let sample = |(tenant, namespace, money): &(Tenant, String, Money)| Sample {
            labels: vec![("tenant", tenant.0.to_string()), ("namespace", namespace.clone())],
            value: of(money),
        };
        Family { name, help, kind: "counter", samples: accounts.iter().map(sample).collect() }
    };
    let mut all: Vec<Family> = numbers.into_iter().map(family).collect();
    let told = crate::curve::CAPACITIES.iter().zip(crate::curve::found(board));
    all.push(Family {
        name: "forebay_curve_found_ratio",
        help: "Share of blocks asked for of late that LRU would find with half of the capacity, with what there is, and with twice as much.",
        kind: "gauge",
        samples: told
            .filter_map(|(capacity, found)| Some(Sample { labels: vec![("capacity", (*capacity).to_owned())], value: found? }))
            .collect(),
    });
    all
}

/// Seconds and dollars of an account: by the default book's GPU and drive.
pub(crate) fn json(money: &Money, model: &str) -> Value {
    json!({
        "model": model,
        "tokens_hit": money.hit_tokens,
        "tokens_missed": money.missed_tokens,
        "tokens_refused": money.refused_tokens,
        "gpu_s_saved": saved_s(money),
        "gpu_s_missed": money.missed_gpu_us as f64 / 1e6,
        "dollars_saved": saved_s(money) * gpu_second_dollars(),
        "written_bytes": money.written_bytes,
        "written_dollars": written_dollars(money),
    })
}

/// GPU seconds saved.
fn saved_s(money: &Money) -> f64 {
    money.saved_gpu_us as f64 / 1e6
}

/// What writing wore off the drives, in dollars.
fn written_dollars(money: &Money) -> f64 {
    money.written_bytes as f64 * written_byte_dollars()
}

/// Namespaces that are told apart where everybody's are told at once; of a node with more, those that saved most.
const TOLD_APART: usize = 256;

/// Accounts of all tenants' namespaces over all shards, by tenant and name; behind the first [`TOLD_APART`], what is left of each tenant's as `*`.
fn accounts(shards: &[Spaces]) -> Vec<(Tenant, String, Money)> {
    let mut all: BTreeMap<NamespaceId, (Tenant, &str, Money)> = BTreeMap::new();
    for (id, counts) in shards.iter().flatten().filter(|(_, counts)| !counts.name.is_empty()) {
        let (.., money) = all.entry(*id).or_insert((counts.tenant, counts.name.as_str(), Money::default()));
        money.add(&counts.money);
    }
    let mut all: Vec<_> = all.into_values().collect();
    all.sort_by_key(|(.., money)| std::cmp::Reverse(money.saved_gpu_us));
    let rest = all.split_off(all.len().min(TOLD_APART));
    let mut others: BTreeMap<Tenant, Money> = BTreeMap::new();
    rest.iter().for_each(|(tenant, _, money)| others.entry(*tenant).or_default().add(money));
    let first = all.into_iter().map(|(tenant, name, money)| (tenant, name.to_owned(), money));
    first.chain(others.into_iter().map(|(tenant, money)| (tenant, "*".to_owned(), money))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spaces::SpaceCounts;

    /// 300 namespaces of two tenants on two shards: the 256 that saved most by name, what is left in one account each, and nothing lost.
    #[test]
    fn accounts_add_up_and_their_number_is_bounded() {
        let shard: Spaces = (0..300u32)
            .map(|n| {
                let money = Money { saved_gpu_us: u64::from(n), hit_tokens: 10, ..Money::default() };
                let (name, tenant) = (format!("n{n}"), Tenant(n % 2));
                (NamespaceId(n), SpaceCounts { money, name, tenant, ..SpaceCounts::default() })
            })
            .collect();
        let told = accounts(&[shard.clone(), shard]);
        assert_eq!(told.len(), TOLD_APART + 2);
        assert_eq!((told[0].1.as_str(), told[0].2.saved_gpu_us), ("n299", 598));
        assert_eq!(told.iter().map(|(.., money)| money.hit_tokens).sum::<u64>(), 6000);
        assert!(told[TOLD_APART..].iter().all(|(_, name, money)| name == "*" && money.hit_tokens == 22 * 20));
    }
}

//! What blocks saved and cost, told: by tenant and namespace, in tokens, seconds, bytes, and in dollars of the node's book.

use std::collections::{BTreeMap, BTreeSet};

use forebay_store::{AdmitsBy, Money};
use forebay_tokenomics::Reckoning;
use forebay_types::{NamespaceId, Tenant, Usage};
use serde_json::{Value, json};

use crate::board::{Board, BoardShard};
use crate::metrics::{Family, Sample};
use crate::spaces::{SpaceCounts, Spaces};
use crate::usage::Recorded;

/// What tenants' blocks saved and cost, and what other capacities would find.
pub(crate) fn families(board: &Board) -> Vec<Family> {
    let spaces: Vec<Spaces> = board.shards.iter().map(BoardShard::spaces).collect();
    let mut told = board.told.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let accounts = told.accounts(&spaces, &board.usage);
    drop(told);
    let by = board.reckoning;
    let (saved_dollars, written_dollars) =
        (move |m: &Money| saved_s(m) * by.gpu_second_dollars(), move |m: &Money| written_dollars(m, by));
    type Of<'o> = &'o dyn Fn(&Money) -> f64;
    let numbers: [(&str, &str, Of<'_>); 7] = [
        ("forebay_tokens_hit_total", "Tokens of blocks that gets found.", &|m| m.hit_tokens as f64),
        ("forebay_tokens_missed_total", "Tokens of blocks that were put: computed, since they were not here.", &|m| {
            m.missed_tokens as f64
        }),
        ("forebay_tokens_refused_total", "Of these, of blocks that admission refused.", &|m| m.refused_tokens as f64),
        ("forebay_gpu_saved_seconds_total", "GPU time that computing what was found would have taken.", &saved_s),
        ("forebay_saved_dollars_total", "The same at the price of a GPU in the book.", &saved_dollars),
        ("forebay_written_bytes_total", "Bytes written to drives, cleaning's share with them.", &|m| {
            m.written_bytes as f64
        }),
        ("forebay_written_dollars_total", "What that wore off a drive of the book.", &written_dollars),
    ];
    let mut all: Vec<Family> = numbers
        .into_iter()
        .map(|(name, help, of)| family(&accounts, name, help, None, &[("", &|told: &Figures| of(&told.money))]))
        .collect();
    all.extend(refused_and_used(&accounts));
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

/// What admission refused, and what the usage log has recorded.
fn refused_and_used(accounts: &[(Tenant, String, Figures)]) -> [Family; 3] {
    [
        family(
            accounts,
            "forebay_admission_refused_total",
            "Blocks that admission refused.",
            Some("reason"),
            &[
                ("will_not_pay", &|told: &Figures| told.money.will_not_pay_blocks as f64),
                ("over_budget", &|told: &Figures| told.money.over_budget_blocks as f64),
            ],
        ),
        family(
            accounts,
            "forebay_usage_tokens_total",
            "What the usage log says over all lives of the node: tokens that gets asked for, served by tier, missed, used of what was served as adapters reported, put and kept.",
            Some("kind"),
            &[
                ("offered", &|told: &Figures| told.usage.offered_tokens as f64),
                ("served_dram", &|told: &Figures| told.usage.served_dram_tokens as f64),
                ("served_nvme", &|told: &Figures| told.usage.served_nvme_tokens as f64),
                ("missed", &|told: &Figures| told.usage.missed_tokens as f64),
                ("used", &|told: &Figures| told.usage.used_tokens as f64),
                ("written", &|told: &Figures| told.usage.written_tokens as f64),
            ],
        ),
        family(
            accounts,
            "forebay_usage_held_token_seconds_total",
            "The same of tokens held, times seconds: 3,600 are a token-hour.",
            None,
            &[("", &|told: &Figures| told.usage.held_token_s as f64)],
        ),
    ]
}

/// One figure of an account.
type Figure<'f> = &'f dyn Fn(&Figures) -> f64;

/// Figures of all accounts; where there are several of each, `label` tells them apart.
fn family(
    accounts: &[(Tenant, String, Figures)],
    name: &'static str,
    help: &'static str,
    label: Option<&'static str>,
    of: &[(&str, Figure<'_>)],
) -> Family {
    let sample = |(tenant, namespace, told): &(Tenant, String, Figures), (word, of): &(&str, Figure<'_>)| {
        let labels = [("tenant", tenant.0.to_string()), ("namespace", namespace.clone())];
        let labels = labels.into_iter().chain(label.map(|label| (label, (*word).to_owned()))).collect();
        Sample { labels, value: of(told) }
    };
    let samples = accounts.iter().flat_map(|account| of.iter().map(move |of| sample(account, of))).collect();
    Family { name, help, kind: "counter", samples }
}

/// What is told of an account: since the start, and over all lives.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Figures {
    money: Money,
    usage: Usage,
}

impl Figures {
    fn add(&mut self, other: &Figures) {
        self.money.add(&other.money);
        self.usage.add(&other.usage);
    }
}

/// Tokens, seconds and dollars of a namespace: by the book's GPU and drive. A drive is paid for by what is written to it or by the time it is held,
/// whichever is more, and never by both.
pub(crate) fn json(space: &SpaceCounts, by: Reckoning) -> Value {
    let money = &space.money;
    let held_dollars = space.held_byte_us as f64 / 1e6 * by.held_byte_second_dollars();
    json!({
        "model": space.model,
        "admission": space.admits_by.map_or("", AdmitsBy::word),
        "pays_from_share": space.pays_from,
        "refused_blocks": { "will_not_pay": money.will_not_pay_blocks, "over_budget": money.over_budget_blocks },
        "tokens_hit": money.hit_tokens,
        "tokens_missed": money.missed_tokens,
        "tokens_refused": money.refused_tokens,
        "gpu_s_saved": saved_s(money),
        "gpu_s_missed": money.missed_gpu_us as f64 / 1e6,
        "dollars_saved": saved_s(money) * by.gpu_second_dollars(),
        "written_bytes": money.written_bytes,
        "written_dollars": written_dollars(money, by),
        "held_token_s": u64::try_from(space.held_token_us / 1_000_000).unwrap_or(u64::MAX),
        "held_dollars": held_dollars,
        "storage_dollars": written_dollars(money, by).max(held_dollars),
    })
}

/// GPU seconds saved.
fn saved_s(money: &Money) -> f64 {
    money.saved_gpu_us as f64 / 1e6
}

/// What writing wore off the drives, in dollars.
fn written_dollars(money: &Money, by: Reckoning) -> f64 {
    money.written_bytes as f64 * by.written_byte_dollars()
}

/// Namespaces that are told apart where everybody's are told at once.
const TOLD_APART: usize = 256;

/// Accounts as they are told, so that no counter goes down or is told twice: who is told by name stays so, and who is told with others as `*` does too,
/// and is still in that sum when it is deleted.
#[derive(Debug, Default)]
pub(crate) struct Told {
    by_name: BTreeSet<NamespaceId>,
    /// Those in `*`, with what was told of them last. As many as live at most.
    together: BTreeMap<NamespaceId, (Tenant, Figures)>,
    /// What those in `*` had that are no more.
    gone: BTreeMap<Tenant, Figures>,
}

impl Told {
    /// Accounts of all tenants' namespaces over all shards, by tenant and name; of a node with more than [`TOLD_APART`], those by name that were first, and
    /// of those that are seen together for the first time those that saved most. What is left of each tenant's is `*`.
    fn accounts(&mut self, shards: &[Spaces], recorded: &Recorded) -> Vec<(Tenant, String, Figures)> {
        let mut all: BTreeMap<NamespaceId, (Tenant, &str, Figures)> = BTreeMap::new();
        for (id, counts) in shards.iter().flatten().filter(|(_, counts)| !counts.name.is_empty()) {
            let (.., figures) = all.entry(*id).or_insert((
                counts.tenant,
                &*counts.name,
                Figures { money: Money::default(), usage: recorded.usage(*id) },
            ));
            figures.money.add(&counts.money);
        }
        self.by_name.retain(|id| all.contains_key(id));
        let ended: Vec<NamespaceId> = self.together.keys().filter(|id| !all.contains_key(id)).copied().collect();
        for (tenant, money) in ended.iter().filter_map(|id| self.together.remove(id)) {
            self.gone.entry(tenant).or_default().add(&money);
        }
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by_key(|(_, (.., figures))| std::cmp::Reverse(figures.money.saved_gpu_us));
        let mut told = Vec::new();
        for (id, (tenant, name, money)) in all {
            if !self.together.contains_key(&id) && self.by_name.len() < TOLD_APART {
                self.by_name.insert(id);
            }
            if self.by_name.contains(&id) {
                told.push((tenant, name.to_owned(), money));
            } else {
                // While it is deleted its shards let it go one after the other.
                let (_, last) = self.together.entry(id).or_insert((tenant, money));
                *last = most(last, &money);
            }
        }
        let mut others = self.gone.clone();
        self.together.values().for_each(|(tenant, money)| others.entry(*tenant).or_default().add(money));
        told.extend(others.into_iter().map(|(tenant, money)| (tenant, "*".to_owned(), money)));
        told
    }
}

/// The larger of each.
fn most(a: &Figures, b: &Figures) -> Figures {
    let (mine, theirs) = (a.usage.counts(), b.usage.counts());
    let usage = Usage::of_counts(std::array::from_fn(|at| mine[at].max(theirs[at])));
    let (a, b) = (&a.money, &b.money);
    let money = Money {
        hit_tokens: a.hit_tokens.max(b.hit_tokens),
        missed_tokens: a.missed_tokens.max(b.missed_tokens),
        refused_tokens: a.refused_tokens.max(b.refused_tokens),
        saved_gpu_us: a.saved_gpu_us.max(b.saved_gpu_us),
        missed_gpu_us: a.missed_gpu_us.max(b.missed_gpu_us),
        written_bytes: a.written_bytes.max(b.written_bytes),
        kept_blocks: a.kept_blocks.max(b.kept_blocks),
        kept_payload_bytes: a.kept_payload_bytes.max(b.kept_payload_bytes),
        will_not_pay_blocks: a.will_not_pay_blocks.max(b.will_not_pay_blocks),
        over_budget_blocks: a.over_budget_blocks.max(b.over_budget_blocks),
    };
    Figures { money, usage }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(saved: impl Iterator<Item = (u32, u64)>) -> Spaces {
        let space = |(n, saved_gpu_us): (u32, u64)| {
            let money = Money { saved_gpu_us, hit_tokens: 10, ..Money::default() };
            (
                NamespaceId(n),
                SpaceCounts { money, name: format!("n{n}").into(), tenant: Tenant(n % 2), ..SpaceCounts::default() },
            )
        };
        saved.map(space).collect()
    }

    /// A GB held for a day is 100 $ x 0.001 / 1,825 days; writing it once is as much, since the drive is rated for one write a day.
    #[test]
    fn storage_is_paid_for_by_writes_or_by_time() {
        let day_us = 86_400u128 * 1_000_000;
        let space = |writes: u64, days: u128| {
            let money = Money { written_bytes: writes * 1_000_000_000, ..Money::default() };
            let (held_byte_us, held_token_us) = (1_000_000_000 * days * day_us, 7000 * days * day_us);
            let space = SpaceCounts { money, held_byte_us, held_token_us, ..SpaceCounts::default() };
            json(&space, Reckoning::default())
        };
        let dollars = |told: &Value| told["storage_dollars"].as_f64().unwrap() * 1825.0 / 0.1;
        assert!((dollars(&space(3, 1)) - 3.0).abs() < 1e-6);
        assert!((dollars(&space(1, 4)) - 4.0).abs() < 1e-6);
        assert_eq!(space(1, 4)["held_token_s"], 7000u64 * 4 * 86_400);
    }

    /// 300 namespaces of two tenants on two shards: the 256 that saved most by name, what is left in one account each, and nothing lost.
    #[test]
    fn accounts_add_up_and_their_number_is_bounded() {
        let shard = shard((0..300).map(|n| (n, u64::from(n))));
        let told = Told::default().accounts(&[shard.clone(), shard], &Recorded::default());
        assert_eq!(told.len(), TOLD_APART + 2);
        assert_eq!((told[0].1.as_str(), told[0].2.money.saved_gpu_us), ("n299", 598));
        assert_eq!(told.iter().map(|(.., told)| told.money.hit_tokens).sum::<u64>(), 6000);
        assert!(told[TOLD_APART..].iter().all(|(_, name, money)| name == "*" && money.money.hit_tokens == 22 * 20));
    }

    /// Those that saved least overtake the others, some are deleted, shard by shard, and new ones come: nobody's counter goes down, and what lives is told once.
    #[test]
    fn whoever_overtakes_whom_no_counter_goes_down() {
        let (mut told, mut before) = (Told::default(), BTreeMap::new());
        for step in 0..40u64 {
            let lives =
                |n: u32, shard: u64| u64::from(n) >= (2 * step + shard).saturating_sub(20) && n < 280 + step as u32;
            let saved = |n: u32| if n < 40 { step * u64::from(n) * 50 } else { u64::from(n) + step };
            let shards = [0, 1].map(|at| shard((0..400).filter(|n| lives(*n, at)).map(|n| (n, saved(n)))));
            let now = told.accounts(&shards, &Recorded::default());
            let names: BTreeMap<(Tenant, String), Figures> =
                now.iter().map(|(tenant, name, money)| ((*tenant, name.clone()), *money)).collect();
            assert_eq!(names.len(), now.len(), "nobody is told twice");
            for (name, money) in names.iter().filter(|(name, _)| name.1 == "*") {
                let last: Figures = before.get(name).copied().unwrap_or_default();
                assert_eq!(most(&last, money), *money, "step {step}");
            }
            let all: u64 = now.iter().map(|(.., told)| told.money.saved_gpu_us).sum();
            let living: u64 = (0..400).map(|n| (0..2).filter(|at| lives(n, *at)).count() as u64 * saved(n)).sum();
            assert!(all >= living, "step {step}: {all} of {living}");
            before = names;
        }
    }
}

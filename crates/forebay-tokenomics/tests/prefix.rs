//! Policies over the prefix tree, through the public face: small cases worked by hand, and what must hold on any trace.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

use forebay_tokenomics::cost::{Assumptions, CostCurve, model_by_name};
use forebay_tokenomics::prefix::tree::{ExtentId, Splits, Tree};
use forebay_tokenomics::prefix::{
    Clairvoyant, Future, Gdsf, InstantCount, Min, PrefixLru, PrefixPolicy, PrefixS3Fifo, Sieve, Use, Victim, Worth,
    replay_instant, replay_on, upper_bound_s,
};
use forebay_tokenomics::trace::{Plan, PlanParams, parse_trace};
use forebay_tokenomics::{ReplayCount, replay_lru};

/// A chat trace of these prompts, one every three seconds, each with a token more than its blocks hold.
fn plan_of(prompts: &[impl AsRef<[u64]>]) -> Plan {
    let line = |(i, ids): (usize, &[u64])| {
        let tokens = ids.len() * 512 + 1;
        format!(r#"{{"timestamp":{},"input_length":{tokens},"hash_ids":{ids:?}}}"#, i * 3000)
    };
    let text: Vec<String> = prompts.iter().map(AsRef::as_ref).enumerate().map(line).collect();
    Plan::new(&parse_trace(text.join("\n").as_bytes()).unwrap(), PlanParams::default()).unwrap()
}

fn curve() -> CostCurve {
    CostCurve::new(model_by_name("llama-3.1-70b").unwrap(), &Assumptions::default())
}

const ONLINE: [&str; 5] = ["lru", "s3fifo", "sieve", "gdsf", "worth"];

fn run(policy: &str, plan: &Plan, capacity: u32) -> InstantCount {
    let curve = curve();
    let mut online: Box<dyn PrefixPolicy> = match policy {
        "lru" => Box::new(PrefixLru::new()),
        "s3fifo" => Box::new(PrefixS3Fifo::new(capacity)),
        "sieve" => Box::new(Sieve::new()),
        "gdsf" => Box::new(Gdsf::new(curve, plan.block_tokens)),
        "worth" => Box::new(Worth::new(curve, plan.block_tokens, capacity, true)),
        "min" => {
            let (tree, future) = Future::new(plan);
            return replay_on(tree, plan, &curve, capacity, &mut Min::new(future));
        }
        "clairvoyant" => {
            let (tree, future) = Future::new(plan);
            return replay_on(tree, plan, &curve, capacity, &mut Clairvoyant::new(future, plan, curve));
        }
        other => panic!("{other}"),
    };
    assert_eq!(online.name(), policy);
    replay_instant(plan, &curve, capacity, online.as_mut())
}

fn hits(policy: &str, prompts: &[&[u64]], capacity: u32) -> u64 {
    run(policy, &plan_of(prompts), capacity).count.hit_blocks
}

/// Prompts of a forest: each goes on from an earlier one, or branches off, or begins anew, from a seed.
fn forest(seed: u64, prompts: usize) -> Vec<Vec<u64>> {
    let mut state = seed;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut out, mut fresh): (Vec<Vec<u64>>, u64) = (Vec::new(), 0);
    for _ in 0..prompts {
        let mut prompt = match out.len() as u64 {
            0 => Vec::new(),
            len if next(4) > 0 => out[(len - 1 - next(len.min(12))) as usize].clone(),
            _ => Vec::new(),
        };
        if next(3) == 0 {
            let keep = next(prompt.len() as u64 + 1) as usize;
            prompt.truncate(keep);
        }
        for _ in 0..next(7) {
            // Ids that count upwards for a while and then jump, as recorded ones do.
            fresh += if next(5) == 0 { 10 } else { 1 };
            prompt.push(fresh);
        }
        out.push(prompt);
    }
    out
}

#[test]
fn lru_over_extents_is_lru_over_blocks() {
    for seed in 0..40 {
        let plan = plan_of(&forest(seed, 120));
        for capacity in [0, 1, 3, 10, 40, 1000] {
            assert_eq!(run("lru", &plan, capacity).count, replay_lru(&plan, Some(capacity)), "{seed} {capacity}");
        }
    }
}

/// Ids that do not name prefixes (7 behind 1, and behind 2) are told apart by what is before them; nothing is found that is not there.
#[test]
fn blocks_of_one_id_behind_different_heads_are_different_blocks() {
    assert_eq!(hits("lru", &[&[1, 7], &[2, 7], &[1, 7], &[2, 7, 9]], 100), 4);
    assert_eq!(hits("lru", &[&[3, 3, 3], &[3, 3]], 100), 2);
    // Under worth, chains of equal density tie, and the sums of such ties depend on how chains are cut.
    for policy in ["lru", "s3fifo", "sieve", "gdsf"] {
        assert_eq!(
            hits(policy, &[&[1, 7, 8], &[2, 7, 8], &[2, 7], &[1, 7, 8, 9], &[2, 7, 8]], 3),
            hits(policy, &[&[1, 17, 18], &[2, 27, 28], &[2, 27], &[1, 17, 18, 19], &[2, 27, 28]], 3),
            "{policy}"
        );
    }
}

/// Room for 2: a is used, then the loop b c b c ... passes.
/// LRU: every block of a loop of three through two places is gone when it comes again: no hit.
/// MIN keeps one of the loop's blocks from one use to the next, each time the one that is used next. By hand, with uses a b c a b c a b:
/// a; a b; at c the furthest of {a b c} is c (itself: bypass); hit a; hit b -> at b: next a at 6, b at 7; at c (5) the next are a 6, b 7: c never
/// comes again, bypass; hit a (6); hit b (7). So 4 hits.
#[test]
fn min_bypasses_what_is_used_last_and_lru_loses_a_loop() {
    let uses: [&[u64]; 8] = [&[10], &[20], &[30], &[10], &[20], &[30], &[10], &[20]];
    assert_eq!(hits("lru", &uses, 2), 0);
    assert_eq!(hits("min", &uses, 2), 4);
}

/// Room for 3. The prompts [1 2 3] and [5] compete: under MIN, after 5 came, of {1 2 3 5} the next uses are 1 and 2 at 2, 5 at 3, 3 never: 3 goes,
/// though 1 is older. All of [1 2] and [5] is found.
#[test]
fn min_takes_the_tail_of_a_chain_and_not_its_head() {
    assert_eq!(hits("min", &[&[1, 2, 3], &[5], &[1, 2], &[5]], 3), 3);
}

/// Room for 3: [1 2] twice, then singles 10, 20, 30 once each, then [1 2].
/// LRU holds 30 20 and the head 1... by hand: {1 2}; 10: {1 2 10}; 20: 2 is the oldest leaf, {1 10 20}; 30: now 1 is, {10 20 30}; then 0 of 2 found.
/// SIEVE: 2 and 1 (inserted tail first) have their marks from the second use; at 20 the hand clears 2's mark, passes 1 (not a leaf), finds 10 without:
/// {1 2 20}; at 30 it goes on to 20, without: {1 2 30}; then 2 found. In all LRU 2, SIEVE 4.
#[test]
fn sieve_lets_what_is_used_once_pass() {
    let prompts: [&[u64]; 6] = [&[1, 2], &[1, 2], &[10], &[20], &[30], &[1, 2]];
    assert_eq!(hits("lru", &prompts, 3), 2);
    assert_eq!(hits("sieve", &prompts, 3), 4);
}

/// Room for 2: blocks 1 and 2 alternate often, so that each has five uses; two strangers pass. GDSF: a stranger's value is clock + 1 use, theirs
/// 5 uses, of equal cost (all are first blocks): the strangers bypass, and 1 and 2 are found again. LRU lost both.
#[test]
fn gdsf_keeps_what_was_used_often() {
    let mut prompts: Vec<&[u64]> = [&[1u64] as &[u64], &[2]].repeat(5);
    prompts.extend([&[30u64] as &[u64], &[40], &[1], &[2]]);
    assert_eq!((hits("gdsf", &prompts, 2), hits("lru", &prompts, 2)), (8 + 2, 8));
}

/// Room for 20, so the small queue is 2 long. Blocks 1 and 2 are used twice and then 30 strangers pass: with LRU 1 and 2 are gone, S3-FIFO has them still.
#[test]
fn s3_fifo_lets_a_scan_pass() {
    let mut prompts: Vec<Vec<u64>> = [[1u64], [20], [1], [20]].map(Vec::from).into();
    prompts.extend((0..30).map(|i| vec![1000 + 10 * i]));
    prompts.extend([vec![1], vec![20]]);
    let plan = plan_of(&prompts);
    assert_eq!(run("s3fifo", &plan, 20).count.hit_blocks, 4);
    assert_eq!(run("lru", &plan, 20).count.hit_blocks, 2);
}

/// Room for 4. Chain A = [1 2 3 4] comes back after one request, chain B = [51 52 53 54] after two; both cost the same. One must go: the clairvoyant
/// lets B go whole (its cost over time is half of A's), and A saves all of its four.
#[test]
fn the_clairvoyant_keeps_the_chain_that_comes_back_first() {
    let prompts: [&[u64]; 4] = [&[1, 2, 3, 4], &[51, 52, 53, 54], &[1, 2, 3, 4], &[51, 52, 53, 54]];
    assert_eq!(hits("clairvoyant", &prompts, 4), 4);
}

#[test]
fn nothing_finds_more_blocks_than_min_and_more_room_never_hurts_it() {
    for seed in 0..30 {
        let plan = plan_of(&forest(1000 + seed, 150));
        let mut before = 0;
        for capacity in [0, 2, 5, 12, 30, 80] {
            let best = run("min", &plan, capacity).count.hit_blocks;
            assert!(best >= before, "{seed} {capacity}");
            before = best;
            for policy in ONLINE.into_iter().chain(["clairvoyant"]) {
                let found = run(policy, &plan, capacity).count.hit_blocks;
                assert!(found <= best, "{policy} finds {found}, MIN {best}: {seed} {capacity}");
            }
        }
    }
}

#[test]
fn with_room_for_everything_all_policies_are_one() {
    let plan = plan_of(&forest(7, 200));
    let unlimited: ReplayCount = replay_lru(&plan, None);
    for policy in ONLINE.into_iter().chain(["min", "clairvoyant"]) {
        let all = run(policy, &plan, plan.distinct());
        assert_eq!((all.count, all.evicted_blocks), (unlimited, 0), "{policy}");
        let none = run(policy, &plan, 0);
        assert_eq!((none.count.hit_blocks, none.gpu_s_saved), (0, 0.0), "{policy}");
    }
}

#[test]
fn what_is_saved_is_what_the_found_tokens_cost() {
    let plan = plan_of(&[&[1u64, 2, 3] as &[u64], &[1, 2, 3, 4]]);
    let out = run("lru", &plan, 10);
    let curve = curve();
    assert_eq!(out.gpu_s_total, curve.prefill_s(0, 3 * 512 + 1) + curve.prefill_s(0, 4 * 512 + 1));
    assert_eq!(out.gpu_s_saved, curve.saved_s(3 * 512, 4 * 512 + 1));
}

/// Writes down what a policy decides: after each request, which blocks leave, named as the trace names them.
struct Decisions<'a> {
    policy: &'a mut dyn PrefixPolicy,
    plan: &'a Plan,
    taken: Vec<(u32, Vec<u64>)>,
}

impl Splits for Decisions<'_> {
    fn split(&mut self, lower: ExtentId, upper: ExtentId) {
        self.policy.split(lower, upper);
    }
}

impl PrefixPolicy for Decisions<'_> {
    fn name(&self) -> &'static str {
        self.policy.name()
    }
    fn touch(&mut self, tree: &Tree, path: &[ExtentId], request: &Use) {
        self.taken.push((request.index, Vec::new()));
        self.policy.touch(tree, path, request);
    }
    fn victim(&mut self, tree: &Tree, need: u32) -> Victim {
        self.policy.victim(tree, need)
    }
    fn evicted(&mut self, tree: &Tree, extent: ExtentId) {
        let gone = tree.extent(extent);
        let blocks = (gone.first..gone.first + gone.blocks).map(|number| self.plan.origin(number).1);
        self.taken.last_mut().unwrap().1.extend(blocks);
        self.policy.evicted(tree, extent);
    }
}

/// The same prompts up to the 200th, other prompts after it: until then every policy takes the same blocks at the same requests. MIN, which knows the
/// future, does not, so the test sees a difference where there is one.
#[test]
fn what_comes_later_changes_no_decision_before() {
    let (begin, ends) = (forest(3, 200), [(forest(77, 150), true), (forest(78, 150), false)]);
    let plans = ends.map(|(end, late_first)| {
        // New prompts with ids of their own, and after each an old one again: the late ones first, or the early ones.
        let mut old = begin.clone();
        if late_first {
            old.reverse();
        }
        let new = end.into_iter().map(|prompt| prompt.into_iter().map(|id| id + 1_000_000).collect());
        let after = new.zip(old).flat_map(|(new, old): (Vec<u64>, _)| [new, old]);
        plan_of(&begin.iter().cloned().chain(after).collect::<Vec<_>>())
    });
    let curve = curve();
    // With little room MIN looks no further than the other policies can.
    for capacity in [5, 40, 90] {
        for policy in ONLINE.into_iter().chain(["min"]) {
            let taken = plans.each_ref().map(|plan| {
                let (tree, future) = Future::new(plan);
                let mut min = Min::new(future);
                let mut own: Box<dyn PrefixPolicy> = match policy {
                    "lru" => Box::new(PrefixLru::new()),
                    "s3fifo" => Box::new(PrefixS3Fifo::new(capacity)),
                    "sieve" => Box::new(Sieve::new()),
                    "gdsf" => Box::new(Gdsf::new(curve, plan.block_tokens)),
                    _ => Box::new(Worth::new(curve, plan.block_tokens, capacity, true)),
                };
                let (tree, policy): (Tree, &mut dyn PrefixPolicy) =
                    if policy == "min" { (tree, &mut min) } else { (Tree::new(plan.distinct()), own.as_mut()) };
                let mut decisions = Decisions { policy, plan, taken: Vec::new() };
                replay_on(tree, plan, &curve, capacity, &mut decisions);
                decisions.taken.truncate(begin.len());
                // In one request the order is of the tree's making.
                decisions.taken.iter_mut().for_each(|(_, blocks)| blocks.sort_unstable());
                decisions.taken
            });
            assert_eq!(taken[0].len(), begin.len());
            assert!(taken[0].iter().any(|(_, blocks)| !blocks.is_empty()));
            if policy != "min" {
                assert!(taken[0] == taken[1], "{policy} {capacity}");
            } else if capacity == 90 {
                assert!(taken[0] != taken[1], "nothing comes later here");
            }
        }
    }
}

/// Room for 40. Five chains of 8 come back every minute, and between each two of them three strangers of 8 come and never again.
/// Under LRU the strangers push the chains out before they return; worth learns that nobody comes back to what a stranger left.
#[test]
fn worth_learns_who_comes_back() {
    let (mut prompts, mut fresh) = (Vec::new(), 100_000);
    for _ in 0..60 {
        for slot in 0..20 {
            // Every fourth prompt is one of five chains.
            let id = if slot % 4 == 0 {
                100 * (1 + slot / 4)
            } else {
                fresh += 100;
                fresh
            };
            prompts.push((id..id + 8).collect::<Vec<u64>>());
        }
    }
    let plan = plan_of(&prompts);
    let (lru, worth) = (run("lru", &plan, 40), run("worth", &plan, 40));
    assert_eq!(lru.count.hit_blocks, 0);
    let most = 59 * 5 * 8;
    assert!(worth.count.hit_blocks > most / 2, "{} of {most}", worth.count.hit_blocks);
}

#[test]
fn nothing_saves_more_seconds_than_the_upper_bound() {
    let curve = curve();
    for seed in 0..12 {
        let plan = plan_of(&forest(2000 + seed, 150));
        for capacity in [0, 1, 5, 12, 30, 80, 2000] {
            let bound_s = upper_bound_s(&plan, &curve, capacity);
            for policy in ONLINE.into_iter().chain(["min", "clairvoyant"]) {
                let saved_s = run(policy, &plan, capacity).gpu_s_saved;
                assert!(
                    saved_s <= bound_s * (1.0 + 1e-9),
                    "{policy} saves {saved_s}, the bound is {bound_s}: {seed} {capacity}"
                );
            }
        }
    }
}

/// Blocks 1, 20 and 30 each used twice, as 1 20 30 1 20 30, room for one. Whichever is kept from its first use to its second takes the place of all
/// three waits, and one more fits in none: one hit of three at best, and all three cost the same, w. The bound says it: between one and a little more.
#[test]
fn the_upper_bound_is_close_where_it_can_be_worked_by_hand() {
    let uses: [&[u64]; 6] = [&[1], &[20], &[30], &[1], &[20], &[30]];
    let (plan, curve) = (plan_of(&uses), curve());
    // A block with its share of a step; each of the three requests that may save could save one step more.
    let w = curve.prefill_s(0, 512) - curve.c0_s * (1.0 - 512.0 / curve.step_tokens as f64);
    let bound_s = upper_bound_s(&plan, &curve, 1) - 3.0 * curve.c0_s;
    assert!((w..1.15 * w).contains(&bound_s), "{bound_s} of {w}");
    assert_eq!(hits("min", &uses, 1), 1);
}

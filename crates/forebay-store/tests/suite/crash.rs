//! Crashes: at every step of a run the power may go. Durable acks survive, what was forgotten stays forgotten, and what is served is one put's bytes.

use std::cell::RefCell;
use std::rc::Rc;

use forebay_io::sim::Medium;
use forebay_store::{Event, Mutant};
use forebay_types::{Entropy, Key, NamespaceId, PutOutcome, SeededEntropy};

use crate::rig::*;

/// What a crash at some step broke.
pub(crate) type Broken = Rc<RefCell<Vec<String>>>;

/// Opens a copy of a drive after a power cut and asks for everything.
pub(crate) fn check_image(
    image: &Medium,
    oracle: &Oracle,
    seed: u64,
    mutant: Option<Mutant>,
    broken: &mut Vec<String>,
) {
    image.crash(seed);
    let mut rig = Rig::on(image.clone(), 16 << 20, 4 << 20, mutant, seed, Rc::new(RefCell::new(oracle.clone())));
    let mut names: Vec<(NamespaceId, Key)> = oracle.puts.values().map(|(ns, key, _)| (*ns, *key)).collect();
    names.sort_unstable();
    names.dedup();
    for (ns, key) in names {
        let request = rig.request(ns, key, 0, 0);
        let got = match rig.ask(request) {
            Err(reason) => Got::Miss(reason),
            Ok(forebay_store::GetResult::Found(found)) => rig.verify(ns, key, &found),
            Ok(other) => panic!("{other:?}"),
        };
        if let Err(wrong) = rig.oracle.borrow_mut().judge(ns, key, got) {
            broken.push(wrong);
        }
    }
    // A start promises only what it has found whole: nothing it lists may turn out to be bad.
    let corrupt = rig.store.stats().corrupt + rig.oracle.borrow().corrupt;
    if corrupt > 0 {
        broken.push(format!("{corrupt} blocks were promised and are bad"));
    }
}

/// A drive gone round more than once, so that every segment has been something else before; then durable puts, each crashed upon.
pub(crate) fn crash_second_lap(mutant: Option<Mutant>) -> Vec<String> {
    let mut rig = Rig::new(Options { mutant, len: 72 * MIB, ..Options::default() });
    for i in 0..120 {
        assert_eq!(rig.put(CACHE, key(i), 1_000_000), PutOutcome::Cached);
    }
    let mut broken = Vec::new();
    for i in 0..12 {
        assert_eq!(rig.put(DURABLE, key(i), 700_000), PutOutcome::Durable);
        check_image(&rig.medium.clone_image(), &rig.oracle.borrow(), i, mutant, &mut broken);
    }
    broken
}

#[test]
pub(crate) fn segments_written_anew_are_not_taken_for_what_they_were() {
    assert_eq!(crash_second_lap(None), Vec::<String>::new());
}

#[test]
pub(crate) fn small_records_of_one_turn_are_one_write_and_each_is_as_durable_as_alone() {
    let mut rig = Rig::new(Options { orderly: true, ..Options::default() });
    assert_eq!(rig.put(DURABLE, key(1000), 5000), PutOutcome::Durable);
    let writes = rig.medium.counts().writes;
    // Sizes that leave gaps of every kind between payload and trailer, and one that is too large to be gathered.
    let sizes = (0..40).map(|i| if i == 17 { 100_000 } else { 1 + i * 611 % 24_000 });
    let mut waiting = Vec::new();
    for (i, length) in sizes.enumerate() {
        let (token, begun) = rig.begin_put(DURABLE, key(i as u64), length);
        waiting.push((token, key(i as u64), begun.unwrap()));
    }
    // The power goes between any two steps until the last of them is durable.
    let broken: Broken = Rc::default();
    let (oracle, found) = (rig.oracle.clone(), broken.clone());
    rig.medium.on_step(Box::new(move |op, image| {
        check_image(&image, &oracle.borrow(), op, None, &mut found.borrow_mut());
    }));
    while !waiting.is_empty() {
        rig.turn();
        for event in std::mem::take(&mut rig.events) {
            let Event::Put { token, outcome } = event else { continue };
            assert_eq!(outcome, PutOutcome::Durable);
            let at = waiting.iter().position(|(t, ..)| *t == token).unwrap();
            let (_, key, version) = waiting.swap_remove(at);
            rig.oracle.borrow_mut().durable.insert((DURABLE, key), version);
        }
    }
    rig.medium.no_hook();
    assert_eq!(*broken.borrow(), Vec::<String>::new());
    let writes = rig.medium.counts().writes - writes;
    assert!(writes <= 8, "{writes} writes for 40 records");
    for i in 0..40 {
        assert!(matches!(rig.get(DURABLE, key(i)), Got::Hit(_)), "{i}");
    }
}

/// Largest block of a run.
fn large(ns: NamespaceId) -> u64 {
    if ns == CACHE { 1 << 20 } else { 300_000 }
}

/// A run of puts, gets, forgets and restarts, large enough to seal, evict and clean segments; `every`-th step of it is crashed.
pub(crate) fn crash_run(seed: u64, rounds: usize, every: u64, mutant: Option<Mutant>) -> (Vec<String>, u64) {
    let mut rig = Rig::new(Options { seed, mutant, len: 72 * MIB, ..Options::default() });
    let broken: Broken = Rc::default();
    let crashes = Rc::new(RefCell::new(0u64));
    let hook = |rig: &Rig| {
        let (oracle, broken, crashes) = (rig.oracle.clone(), broken.clone(), crashes.clone());
        let mut step = 0;
        rig.medium.on_step(Box::new(move |op, image| {
            step += 1;
            if step % every == 0 {
                *crashes.borrow_mut() += 1;
                check_image(&image, &oracle.borrow(), seed ^ op, mutant, &mut broken.borrow_mut());
            }
        }));
    };
    hook(&rig);
    let random = SeededEntropy::new(seed);
    let below = |n: u64| random.word() % n;
    let mut pending: Vec<(u64, NamespaceId, Key, u64)> = Vec::new();
    let mut forgets: Vec<(u64, Key)> = Vec::new();
    for round in 0..rounds {
        if !broken.borrow().is_empty() {
            break;
        }
        let key = key(below(60));
        let ns = if below(3) == 0 { CACHE } else { DURABLE };
        match below(16) {
            0..=9 => {
                // Small ones are written together with their neighbours.
                let most = if below(3) == 0 { 20_000 } else { large(ns) };
                let length = 1 + below(most) as usize;
                let (token, begun) = rig.begin_put(ns, key, length);
                if let Ok(version) = begun {
                    pending.push((token, ns, key, version));
                }
            }
            10..=11 => {
                let (token, _) = rig.begin_forget(ns, &[key]);
                pending.retain(|(_, n, k, _)| (*n, *k) != (ns, key));
                if ns == DURABLE {
                    forgets.push((token, key));
                }
            }
            12..=14 => {
                let request = rig.request(ns, key, 0, 0);
                let got = match rig.ask(request) {
                    Err(reason) => Got::Miss(reason),
                    Ok(forebay_store::GetResult::Found(found)) => rig.verify(ns, key, &found),
                    Ok(other) => panic!("{other:?}"),
                };
                if let Err(wrong) = rig.oracle.borrow_mut().judge(ns, key, got) {
                    broken.borrow_mut().push(wrong);
                }
            }
            _ => {
                for _ in 0..below(40) {
                    rig.turn();
                }
            }
        }
        // What comes in one turn goes to the drive together.
        if below(3) > 0 {
            rig.turn();
        }
        for event in std::mem::take(&mut rig.events) {
            match event {
                Event::Put { token, outcome: PutOutcome::Durable } => {
                    if let Some((_, ns, key, version)) = pending.iter().find(|(t, ..)| *t == token) {
                        rig.oracle.borrow_mut().durable.insert((*ns, *key), *version);
                    }
                }
                Event::Forgotten { token, ok: true } => {
                    // Versions put since the forget may be served; only those before may not.
                    if let Some((_, key)) = forgets.iter().find(|(t, _)| *t == token) {
                        let mut oracle = rig.oracle.borrow_mut();
                        let newest =
                            oracle.puts.iter().filter(|(_, (n, k, _))| (*n, *k) == (DURABLE, *key)).map(|(v, _)| *v);
                        let served_since =
                            pending.iter().filter(|(_, n, k, _)| (*n, *k) == (DURABLE, *key)).map(|p| p.3).min();
                        let last = newest.filter(|v| served_since.is_none_or(|s| *v < s)).max().unwrap_or(0);
                        oracle.forgotten.insert((DURABLE, *key), last);
                    }
                }
                _ => {}
            }
        }
        if round % 150 == 149 {
            rig.medium.no_hook();
            rig = rig.reopen(below(2) == 0);
            pending.clear();
            forgets.clear();
            hook(&rig);
        }
    }
    rig.medium.no_hook();
    let broken = broken.borrow().clone();
    let crashes = *crashes.borrow();
    (broken, crashes)
}

#[test]
pub(crate) fn a_crash_at_any_step_loses_nothing_durable_and_brings_nothing_back() {
    let mut crashes = 0;
    for seed in 1..=3 {
        let (broken, n) = crash_run(seed, 300, 5, None);
        assert_eq!(broken, Vec::<String>::new(), "seed {seed}");
        crashes += n;
    }
    assert!(crashes > 100, "{crashes} crashes");
    println!("{crashes} crashes");
}

//! What a client has counted, as dictionaries by the words that metrics use.

use forebay_client::{Counters, GetCounters, HintCounters, PutCounters};
use forebay_types::{LandingKind, MissReason, RefusedReason, Tier};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::namespace::Namespace;

#[pymethods]
impl Namespace {
    /// ``client``: what the whole client has counted (``Client.stats``). ``namespace``: as ``describe``. Raises ForkedClient.
    #[pyo3(name = "stats")]
    fn stats_verb<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let all = PyDict::new(py);
        all.set_item("client", counters(py, &self.handle(py)?.counters())?)?;
        all.set_item("namespace", crate::namespace::described(py, self.handle(py)?.namespace())?)?;
        Ok(all)
    }
}

/// All of them.
pub(crate) fn counters<'py>(py: Python<'py>, counters: &Counters) -> PyResult<Bound<'py, PyDict>> {
    let all = PyDict::new(py);
    all.set_item("get", looked(py, &counters.get)?)?;
    all.set_item("contains", looked(py, &counters.contains)?)?;
    all.set_item("match", looked(py, &counters.matched)?)?;
    all.set_item("put", put(py, &counters.put)?)?;
    all.set_item("touch", hinted(py, &counters.touch)?)?;
    all.set_item("prefetch", hinted(py, &counters.prefetch)?)?;
    let landings = LandingKind::ALL.iter().map(|kind| (kind.word(), counters.landings[kind.index()]));
    all.set_item("landings", pairs(py, landings)?)?;
    let lent = LandingKind::ALL.iter().map(|kind| (kind.word(), counters.lent_landings[kind.index()]));
    all.set_item("lent_landings", pairs(py, lent)?)?;
    for (name, number) in [
        ("get_bytes", counters.get_bytes),
        ("put_bytes", counters.put_bytes),
        ("corrupt", counters.corrupt),
        ("moved", counters.moved),
        ("match_broken", counters.match_broken),
        ("broken", counters.broken),
        ("reconnects", counters.reconnects),
        ("restarts", counters.restarts),
        ("attempts", counters.attempts),
        ("breaker_opened", counters.breaker_opened),
        ("probes", counters.probes),
        ("grown", counters.grown),
        ("no_room", counters.no_room),
        ("lost_landings", counters.lost_landings),
        ("lent_copied", counters.lent_copied),
        ("lent_withheld", counters.lent_withheld),
    ] {
        all.set_item(name, number)?;
    }
    Ok(all)
}

fn pairs<'py>(py: Python<'py>, pairs: impl Iterator<Item = (&'static str, u64)>) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (word, number) in pairs {
        dict.set_item(word, number)?;
    }
    Ok(dict)
}

fn looked<'py>(py: Python<'py>, counters: &GetCounters) -> PyResult<Bound<'py, PyDict>> {
    let dict = pairs(py, [("asked", counters.asked), ("not_asked", counters.not_asked)].into_iter())?;
    let tiers = |hits: [u64; Tier::ALL.len()]| Tier::ALL.iter().map(move |tier| (tier.word(), hits[tier.index()]));
    dict.set_item("hits_local", pairs(py, tiers(counters.hits_local))?)?;
    dict.set_item("hits_remote", pairs(py, tiers(counters.hits_remote))?)?;
    let misses = MissReason::ALL.iter().map(|reason| (reason.word(), counters.misses[reason.index()]));
    dict.set_item("misses", pairs(py, misses)?)?;
    Ok(dict)
}

fn put<'py>(py: Python<'py>, counters: &PutCounters) -> PyResult<Bound<'py, PyDict>> {
    let stored = [
        ("asked", counters.asked),
        ("cached", counters.cached),
        ("durable", counters.durable),
        ("exists", counters.exists),
    ];
    let dict = pairs(py, stored.into_iter())?;
    let refused = RefusedReason::ALL.iter().map(|reason| (reason.word(), counters.refused[reason.index()]));
    dict.set_item("refused", pairs(py, refused)?)?;
    Ok(dict)
}

fn hinted<'py>(py: Python<'py>, counters: &HintCounters) -> PyResult<Bound<'py, PyDict>> {
    let numbers = [("asked", counters.asked), ("sent", counters.sent), ("dropped", counters.dropped)];
    pairs(py, numbers.into_iter())
}

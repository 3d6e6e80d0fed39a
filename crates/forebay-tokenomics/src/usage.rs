//! What to make of rows of a usage log: fewer of them, and what an API's bill says of the same tokens.

use std::collections::BTreeMap;

use forebay_types::{NamespaceId, Tenant, Usage, UsageRow};

const HOUR_S: u64 = 3600;
/// Spans that rows are summed to, in seconds: the first with which there are few enough of them.
const SPANS_S: [u64; 4] = [HOUR_S, 24 * HOUR_S, 30 * 24 * HOUR_S, u64::MAX];

/// The rows summed by namespace and hour; if these are more than `most`, by day, by 30 days, by namespace. If even these are more, the namespaces that
/// nobody has used for longest become one of their tenant's, named `*`, so `most` and a row for each tenant are the bound. No count is lost.
pub fn coarsen(rows: &[UsageRow], most: usize) -> Vec<UsageRow> {
    let mut summed = Vec::new();
    for span_s in SPANS_S {
        summed = sum_by(rows, |row| (row.from_utc_s / span_s, row.tenant, row.namespace));
        if summed.len() <= most {
            return summed;
        }
    }
    summed.sort_by_key(|row| (row.until_utc_s, row.namespace));
    let old = summed.len() - most;
    for row in &mut summed[..old] {
        (row.namespace, row.name) = (NamespaceId(0), "*".to_owned());
    }
    sum_by(&summed, |row| (0, row.tenant, row.namespace))
}

type Place = (u64, Tenant, NamespaceId);

fn sum_by(rows: &[UsageRow], place: impl Fn(&UsageRow) -> Place) -> Vec<UsageRow> {
    let mut all: BTreeMap<Place, UsageRow> = BTreeMap::new();
    for row in rows {
        let sum = all.entry(place(row)).or_insert_with(|| UsageRow { usage: Usage::default(), ..row.clone() });
        sum.from_utc_s = sum.from_utc_s.min(row.from_utc_s);
        sum.until_utc_s = sum.until_utc_s.max(row.until_utc_s);
        sum.usage.add(&row.usage);
    }
    all.into_values().collect()
}

/// An API's `cached_tokens` beside what was metered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reconciled {
    /// What the API says.
    pub api_cached_tokens: u64,
    /// Found in the engine's own memory, as adapters report.
    pub engine_tokens: u64,
    /// Served by nodes and used, as adapters report.
    pub used_tokens: u64,
    /// What the API says beyond these; below zero where it says less. Requests in which no adapter had a part, or whose report is lost or to come.
    pub difference_tokens: i128,
}

/// Puts an API's sum of `cached_tokens` beside what adapters reported of the same requests.
pub fn reconcile(api_cached_tokens: u64, usage: &Usage) -> Reconciled {
    let (engine_tokens, used_tokens) = (usage.reported_engine_tokens, usage.used_tokens);
    let difference_tokens = i128::from(api_cached_tokens) - i128::from(engine_tokens) - i128::from(used_tokens);
    Reconciled { api_cached_tokens, engine_tokens, used_tokens, difference_tokens }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(at_s: u64, tenant: u32, namespace: u32) -> UsageRow {
        let usage = Usage { offered_tokens: 10, missed_tokens: 10, ..Usage::default() };
        let name = format!("n{namespace}");
        UsageRow {
            from_utc_s: at_s,
            until_utc_s: at_s + 1,
            tenant: Tenant(tenant),
            namespace: NamespaceId(namespace),
            name,
            usage,
        }
    }

    fn offered(rows: &[UsageRow]) -> u64 {
        rows.iter().map(|row| row.usage.offered_tokens).sum()
    }

    /// Three days of two namespaces, a row every ten minutes: 864 rows are 144 hours, 6 days, 2 months or 2 namespaces, and all say the same.
    #[test]
    fn rows_become_fewer_and_no_count_is_lost() {
        let rows: Vec<UsageRow> = (0..432).flat_map(|at| [row(at * 600, 7, 1), row(at * 600, 7, 2)]).collect();
        for (most, expected) in [(1000, 144), (144, 144), (143, 6), (6, 6), (5, 2), (2, 2)] {
            let fewer = coarsen(&rows, most);
            assert_eq!((fewer.len(), offered(&fewer)), (expected, 8640), "at most {most}");
            assert!(fewer.iter().all(|row| row.name == format!("n{}", row.namespace.0)));
        }
        let hour = &coarsen(&rows, 1000)[0];
        assert_eq!((hour.from_utc_s, hour.until_utc_s, hour.usage.offered_tokens), (0, 3001, 60));
    }

    /// Namespaces that come and go for ever: the latest keep their names, the others are one row of their tenant's.
    #[test]
    fn namespaces_of_long_ago_are_their_tenants() {
        let rows: Vec<UsageRow> = (0..100).map(|at| row(u64::from(at) * 90 * 86_400, at % 2, at + 1)).collect();
        let fewer = coarsen(&rows, 10);
        assert_eq!((fewer.len(), offered(&fewer)), (12, 1000));
        let named: Vec<&str> = fewer.iter().map(|row| row.name.as_str()).filter(|name| *name != "*").collect();
        assert_eq!(named.len(), 10);
        assert!(named.contains(&"n100") && !named.contains(&"n90"));
        assert_eq!(
            fewer.iter().filter(|row| row.name == "*").map(|row| row.usage.offered_tokens).collect::<Vec<_>>(),
            [450, 450]
        );
        assert_eq!(coarsen(&fewer, 10).len(), 12);
    }

    #[test]
    fn what_an_api_says_more_or_less_is_a_line_of_its_own() {
        let usage = Usage { reported_engine_tokens: 30, used_tokens: 50, ..Usage::default() };
        assert_eq!(reconcile(100, &usage).difference_tokens, 20);
        assert_eq!(reconcile(64, &usage).difference_tokens, -16);
    }
}

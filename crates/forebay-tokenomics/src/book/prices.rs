//! Price lists: what a token is billed at, by class.

use forebay_types::parse_span_s;

use super::BookError;
use super::row::Reader;

/// What writing to a cache costs there, and how long it stays.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CacheWrite {
    /// Seconds it stays behind its last use.
    pub ttl_s: u32,
    /// Dollars per million tokens.
    pub dollars: f64,
}

/// Hours of a day, UTC, from the first up to the second, past midnight where the second is smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeakHours {
    /// 0 to 23.
    pub from: u32,
    /// 0 to 24.
    pub to: u32,
}

impl PeakHours {
    /// Share of the day.
    pub fn share(&self) -> f64 {
        f64::from((self.to + 24 - self.from) % 24) / 24.0
    }

    fn parse(text: &str) -> Result<Self, String> {
        let hours = text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
        match hours {
            Some((from, to)) if from < 24 && to <= 24 && from != to => Ok(PeakHours { from, to }),
            _ => Err(format!("is {text:?}; write two different hours of a day, as in \"14-20\"")),
        }
    }
}

/// A price list: dollars per million tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct PriceList {
    /// Its name in the book.
    pub name: String,
    /// Fresh input.
    pub input: f64,
    /// Output.
    pub output: f64,
    /// Input read from a cache; without one, nothing is sold as cached.
    pub cache_read: Option<f64>,
    /// Input written to a cache, by time to live, shortest first. Without any, written input costs what fresh input costs.
    pub cache_writes: Vec<CacheWrite>,
    /// Holding a million tokens for an hour.
    pub hold_per_token_hour: f64,
    /// All prices are this many times higher in peak hours.
    pub peak_factor: f64,
    /// When peak is; unknown for some lists.
    pub peak_hours: Option<PeakHours>,
    /// Who says so.
    pub source: String,
}

impl PriceList {
    pub(crate) fn read(name: &str, row: &Reader<'_>) -> Result<Self, BookError> {
        let source = row.source()?;
        let mut cache_writes = Vec::new();
        for (ttl, dollars) in row.numbers_behind("cache_write_")? {
            let ttl_s = parse_span_s(&ttl);
            row.check(&format!("cache_write_{ttl}"), ttl_s.is_ok(), || {
                "ends in no time to live, as in cache_write_5m".into()
            })?;
            cache_writes.extend(ttl_s.ok().map(|ttl_s| CacheWrite { ttl_s, dollars }));
        }
        cache_writes.sort_by_key(|write| write.ttl_s);
        let input = row.number("input")?;
        let cache_read = row.number_or("cache_read", Some(f64::NAN))?;
        Ok(PriceList {
            name: name.to_owned(),
            input,
            output: row.number("output")?,
            cache_read: (!cache_read.is_nan()).then_some(cache_read),
            cache_writes,
            hold_per_token_hour: row.number_or("hold_per_token_hour", Some(0.0))?,
            peak_factor: row.number_or("peak_factor", Some(1.0))?,
            peak_hours: row.parsed("peak_hours", PeakHours::parse)?,
            source,
        })
    }

    /// What its prices are multiplied with on average over a day; 1 where it does not say when peak is.
    pub fn day_factor(&self) -> f64 {
        self.peak_hours.map_or(1.0, |hours| 1.0 + (self.peak_factor - 1.0) * hours.share())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Book;
    use super::*;

    #[test]
    fn lists_are_as_published() {
        let book = Book::built_in();
        let sonnet = &book.prices["sonnet-5"];
        assert_eq!((sonnet.input, sonnet.output, sonnet.cache_read), (2.0, 10.0, Some(0.2)));
        let writes: Vec<_> = sonnet.cache_writes.iter().map(|write| (write.ttl_s, write.dollars)).collect();
        assert_eq!(writes, [(300, 2.5), (3600, 4.0)]);
        assert_eq!(book.prices["deepseek-v4-pro"].cache_read, Some(0.0036));
    }

    #[test]
    fn peak_counts_by_its_share_of_the_day_where_its_hours_are_known() {
        let text = "[prices.deepseek-v4-flash]\npeak_hours = \"22-4\"";
        let book = Book::with(&[("my.toml", text)]).unwrap();
        assert_eq!(book.prices["deepseek-v4-flash"].day_factor(), 1.25);
        assert_eq!(Book::built_in().prices["deepseek-v4-flash"].day_factor(), 1.0);
        for bad in ["24-3", "3-3", "morning"] {
            assert!(PeakHours::parse(bad).is_err(), "{bad}");
        }
    }
}

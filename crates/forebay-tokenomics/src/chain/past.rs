//! What was asked before time 0, as far as caches can tell: which chunks were touched, the latest first.
//!
//! Nothing of it is simulated: requests came when their record says. Of sessions that are over, chunks never come back, and take room till they are the
//! coldest; those are told in groups.

use super::sessions::{Numbers, Template};

/// Sessions that began earlier are not looked back at: two days hold what the largest drives are filled with.
pub(super) const PAST_S_MAX: f64 = 48.0 * 3600.0;

/// Chunks that were last touched at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Touched {
    /// By a session that is still at it.
    By { session: u32, numbers: Numbers },
    /// A group of chunks of the `ended`-th session that is over.
    Ended { ended: u32, group: u32 },
}

/// What was touched before time 0.
#[derive(Debug, Clone, Default)]
pub(crate) struct Past {
    /// When, and what.
    all: Vec<(f64, Touched)>,
    /// Chunks of each group.
    groups: Vec<u32>,
    ended: u32,
}

impl Past {
    /// A session that was over at time 0.
    pub(super) fn ended(&mut self, at_s: f64, template: &Template) {
        for (after_s, chunks) in &template.leaves {
            let group = self.groups.len() as u32;
            self.groups.push(*chunks);
            self.all.push((at_s + after_s, Touched::Ended { ended: self.ended, group }));
        }
        self.ended += 1;
    }

    /// A session that goes on; of one that has yet to begin, nothing.
    pub(super) fn still_at_it(&mut self, session: u32, at_s: f64, template: &Template) {
        for asked in template.requests.iter().filter(|asked| at_s + asked.at_s < 0.0) {
            for left in asked.left.iter().filter(|left| at_s + left.until_s >= 0.0) {
                self.all.push((at_s + asked.at_s, Touched::By { session, numbers: left.numbers }));
            }
        }
    }

    /// Puts it in order. One moment's chunks stay in theirs: heads are touched last.
    pub(super) fn settle(&mut self) {
        self.all.sort_by(|a, b| b.0.total_cmp(&a.0));
    }

    /// The latest first.
    pub(crate) fn touched(&self) -> impl Iterator<Item = Touched> + '_ {
        self.all.iter().map(|(_, touched)| *touched)
    }

    /// Chunks of each group.
    pub(crate) fn groups(&self) -> &[u32] {
        &self.groups
    }
}

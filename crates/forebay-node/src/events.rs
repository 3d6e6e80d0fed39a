//! What happened that an operator should hear of, without noise: read off the counters once a second by the control thread.
//!
//! Nobody on the path of a block says anything: it counts, as it does anyway. Each kind speaks at most once in ten seconds, and then says how often
//! it happened since it last spoke, so a storm is a line and nothing is left out of the count.

use std::sync::atomic::Ordering;

use forebay_store::{Damage, Damaged};
use forebay_types::Class;

use crate::board::{Board, BoardShard};
use crate::counters::PeerFault;

/// How often counters are read.
const LOOK_US: u64 = 1_000_000;
/// How long a kind is silent after it spoke.
const QUIET_US: u64 = 10_000_000;

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something is broken, and stays so until somebody acts.
    Error,
    /// Something went wrong for somebody.
    Warn,
    /// In the ordinary course.
    Info,
}

impl Severity {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Severity::Error => "error",
            Severity::Warn => "warn",
            Severity::Info => "info",
        }
    }
}

/// One line of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// How much it matters.
    pub severity: Severity,
    /// What kind of thing: a word that does not change, for programs.
    pub kind: &'static str,
    /// For people: what happened and what to do.
    pub sentence: String,
    /// How often since this kind last spoke.
    pub count: u64,
    /// Whose: a shard's uuid, or nobody's in particular.
    pub shard: Option<String>,
}

/// Hears of [`Event`]s. It must not wait: the control thread calls it.
pub type EventFn = Box<dyn Fn(Event) + Send>;

/// What a fault of a peer means, in the order of [`PeerFault::ALL`].
const FAULTS: [(Severity, &str, &str); PeerFault::ALL.len()] = [
    (
        Severity::Warn,
        "client_garbage",
        "a peer sent what is no message of the protocol and was let go; is another program connecting here?",
    ),
    (Severity::Warn, "client_over_limit", "a peer sent more than a message may hold and was let go"),
    (
        Severity::Warn,
        "client_damaged",
        "bytes of a peer changed on the way and it was let go; more than a few: look at its memory and the network",
    ),
    (
        Severity::Warn,
        "client_version",
        "a client with no version of the protocol in common was refused; use builds of neighbouring versions",
    ),
    (Severity::Warn, "client_refused", "a client without the right token was refused; give it --token-file"),
    (
        Severity::Warn,
        "client_disorder",
        "a peer sent a message where it does not belong and was let go; report it with the client's version",
    ),
    (Severity::Warn, "connection_cut_half", "a peer sent half a message and was cut off"),
    (Severity::Warn, "connection_cut_slow", "a peer that took no answers was cut off"),
    (
        Severity::Warn,
        "client_turned_away",
        "a client was turned away: the node has its most connections; see `ulimit -n`",
    ),
    (
        Severity::Warn,
        "client_region",
        "a client lent memory that is none, was cut short, or is not there; only its own requests fail",
    ),
    (Severity::Info, "client_vanished", "a client went away with requests unanswered"),
];

/// One thing that is counted.
struct Watched {
    severity: Severity,
    kind: &'static str,
    sentence: String,
    shard: Option<String>,
    count: fn(&Board, usize) -> u64,
    /// Which of its kind: a fault, or a shard.
    index: usize,
    seen: u64,
    pending: u64,
    spoke_us: Option<u64>,
}

/// Looks at the counters and tells what happened.
pub(crate) struct Lookout {
    tell: Option<EventFn>,
    watched: Vec<Watched>,
    next_us: u64,
}

impl Lookout {
    pub(crate) fn new(tell: Option<EventFn>, board: &Board) -> Self {
        let mut watched = Vec::new();
        let mut watch = |severity, kind, sentence: String, shard, count, index| {
            watched.push(Watched {
                severity,
                kind,
                sentence,
                shard,
                count,
                index,
                seen: 0,
                pending: 0,
                spoke_us: None,
            });
        };
        for (index, (severity, kind, sentence)) in FAULTS.into_iter().enumerate() {
            watch(severity, kind, sentence.to_owned(), None, |board, at| board.sum(|c| c.peer_faults[at].get()), index);
        }
        let sentence = "a block's bytes did not match their sums when they came, and it was refused; does a client write into memory that it has put?";
        watch(
            Severity::Warn,
            "put_sum_mismatch",
            sentence.into(),
            None,
            |board, _| board.sum(|c| c.put_sum_mismatch.get()),
            0,
        );
        let sentence = "a client found that a block did not verify, and it was read again; more than a few: look at the drive and the memory";
        watch(
            Severity::Warn,
            "corrupt_report",
            sentence.into(),
            None,
            |board, _| board.sum(|c| c.corrupt_reports.get()),
            0,
        );
        let sentence = "the usage log could not be written; what was used is kept in memory and written when it can be, and is lost if the node ends before; see \"The usage log\" in docs/operations.md";
        watch(
            Severity::Error,
            "usage_not_written",
            sentence.into(),
            None,
            |board, _| board.usage.failures.load(Ordering::Relaxed),
            0,
        );
        for (index, shard) in board.shards.iter().enumerate() {
            let (id, path) = (Some(shard.id.to_string()), shard.path.display());
            let sentence = format!(
                "{path} failed a write or a flush and takes no more: what is there is still served; see \"A drive fails\" in docs/operations.md, `dmesg`, `smartctl -a`"
            );
            watch(
                Severity::Error,
                "drive_failed",
                sentence,
                id.clone(),
                |board, at| u64::from(board.shards[at].stats().write_failed),
                index,
            );
            let sentence = format!(
                "a record on {path} was found bad and dropped; more than a few: look at `dmesg` and `smartctl -a`"
            );
            watch(Severity::Warn, "corrupt_record", sentence, id, |board, at| board.shards[at].stats().corrupt, index);
        }
        Lookout { tell, watched, next_us: 0 }
    }

    /// Looks, if it is time.
    pub(crate) fn look(&mut self, board: &Board, now_us: u64) {
        if self.tell.is_some() && now_us >= self.next_us {
            self.next_us = now_us + LOOK_US;
            self.tell_of(board, now_us, QUIET_US);
        }
    }

    /// Tells what has not been told yet.
    pub(crate) fn last_words(&mut self, board: &Board, now_us: u64) {
        self.tell_of(board, now_us, 0);
    }

    fn tell_of(&mut self, board: &Board, now_us: u64, quiet_us: u64) {
        let Some(tell) = &self.tell else { return };
        for shard in &board.shards {
            shard.take_damage().iter().for_each(|damage| tell(damage_event(shard, damage)));
        }
        for one in &mut self.watched {
            let now = (one.count)(board, one.index);
            one.pending += now.saturating_sub(one.seen);
            one.seen = now;
            if one.pending > 0 && one.spoke_us.is_none_or(|spoke_us| now_us.saturating_sub(spoke_us) >= quiet_us) {
                one.spoke_us = Some(now_us);
                let (severity, kind, count) = (one.severity, one.kind, std::mem::take(&mut one.pending));
                tell(Event { severity, kind, sentence: one.sentence.clone(), count, shard: one.shard.clone() });
            }
        }
    }

    /// Connections cannot be taken.
    pub(crate) fn accept_failed(&mut self, error: &std::io::Error, now_us: u64) {
        let Some(tell) = &self.tell else { return };
        let sentence = format!("a connection cannot be taken: {error}; see `ulimit -n`, and LimitNOFILE in a unit");
        let kind = "accept_failed";
        match self.watched.iter_mut().find(|one| one.kind == kind) {
            Some(one) if one.spoke_us.is_some_and(|spoke_us| now_us.saturating_sub(spoke_us) < QUIET_US) => {
                (one.sentence, one.pending) = (sentence, one.pending + 1);
            }
            Some(one) => {
                one.spoke_us = Some(now_us);
                let count = std::mem::take(&mut one.pending) + 1;
                tell(Event { severity: Severity::Warn, kind, sentence, count, shard: None });
            }
            None => {
                tell(Event { severity: Severity::Warn, kind, sentence: sentence.clone(), count: 1, shard: None });
                let spoke_us = Some(now_us);
                let count: fn(&Board, usize) -> u64 = |_, _| 0;
                self.watched.push(Watched {
                    severity: Severity::Warn,
                    kind,
                    sentence,
                    shard: None,
                    count,
                    index: 0,
                    seen: 0,
                    pending: 0,
                    spoke_us,
                });
            }
        }
    }
}

/// What scrub found, each with its key and its place: it was read twice, so there are few, and each wants an answer.
fn damage_event(shard: &BoardShard, damage: &Damage) -> Event {
    let path = shard.path.display();
    let place = format!("at byte {} of {path}, in segment {}", shard.slice_at + damage.offset, damage.segment);
    let why = if damage.was_read { "does not match its sums" } else { "cannot be read" };
    let see = "see \"Scrub found damage\" in docs/operations.md";
    let (severity, kind, sentence) = match damage.what {
        Damaged::Block { namespace, key, class: Class::Durable } => {
            let kept = if damage.was_read { "it is lost" } else { "it is kept in case it can be read later" };
            let of = format!("durable block {key} of namespace {}", namespace.0);
            (Severity::Error, "scrub_durable", format!("{of} {why}, {place}: {kept}; {see}"))
        }
        Damaged::Block { namespace, key, class: Class::Cache } => {
            let of = format!("block {key} of namespace {}", namespace.0);
            (Severity::Warn, "scrub_cache", format!("{of} {why} and is dropped, {place}; {see}"))
        }
        Damaged::Header => {
            let moved = "what is durable in it is moved elsewhere, its cache a start would not find";
            (Severity::Warn, "scrub_segment", format!("a segment's header {why}, {place}: {moved}; {see}"))
        }
        Damaged::Footer => {
            let scanned = "a start will scan the segment";
            (Severity::Warn, "scrub_segment", format!("a segment's footer {why}, {place}: {scanned}; {see}"))
        }
    };
    Event { severity, kind, sentence, count: 1, shard: Some(shard.id.to_string()) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;
    use std::sync::{Arc, mpsc};

    use forebay_types::{Key, NamespaceId, ShardId, SystemClock};

    use super::*;
    use crate::shard::Shown;

    fn board() -> Board {
        let path = "/mnt/drive".into();
        let shard = BoardShard { id: ShardId([7; 16]), path, slice_at: 4096, slice_bytes: 0, shown: Shown::new() };
        Board {
            shards: vec![shard],
            control: Arc::default(),
            epoch: Arc::new(AtomicU64::new(0)),
            incarnation: 0,
            engine: "",
            memory_bytes: 0,
            connections_max: 0,
            policy: Default::default(),
            reckoning: Default::default(),
            clock: Arc::new(SystemClock::new()),
            started_us: 0,
            told: Default::default(),
            usage: Arc::default(),
        }
    }

    fn lookout(board: &Board) -> (Lookout, mpsc::Receiver<Event>) {
        let (tell, told) = mpsc::channel();
        (Lookout::new(Some(Box::new(move |event| drop(tell.send(event)))), board), told)
    }

    #[test]
    fn a_storm_is_a_line_and_none_of_it_is_left_out_of_the_count() {
        let board = board();
        let (mut lookout, told) = lookout(&board);
        lookout.look(&board, 0);
        assert_eq!(told.try_iter().count(), 0, "nothing happened and nothing is said");
        for second in 1..=25 {
            (0..100).for_each(|_| board.control.fault(PeerFault::SlowReader));
            lookout.look(&board, second * LOOK_US);
        }
        let events: Vec<Event> = told.try_iter().collect();
        assert_eq!(events.iter().map(|event| event.count).collect::<Vec<_>>(), [100, 1000, 1000]);
        assert!(events.iter().all(|event| event.kind == "connection_cut_slow"));
        lookout.last_words(&board, 25 * LOOK_US);
        assert_eq!(told.try_iter().map(|event| event.count).sum::<u64>(), 400);
    }

    #[test]
    fn a_drive_that_fails_is_told_once_with_its_shard() {
        let board = board();
        let (mut lookout, told) = lookout(&board);
        board.shards[0].shown.stats.lock().unwrap().write_failed = true;
        board.shards[0].shown.stats.lock().unwrap().corrupt = 3;
        (1..60).for_each(|second| lookout.look(&board, second * LOOK_US));
        let events: Vec<Event> = told.try_iter().collect();
        let of = |at: usize| (events[at].severity, events[at].kind, events[at].count);
        assert_eq!(
            (events.len(), of(0), of(1)),
            (2, (Severity::Error, "drive_failed", 1), (Severity::Warn, "corrupt_record", 3))
        );
        assert!(events[0].sentence.contains("/mnt/drive") && events[0].shard == Some(ShardId([7; 16]).to_string()));
    }

    #[test]
    fn what_scrub_found_is_told_once_with_key_and_place() {
        let board = board();
        let (mut lookout, told) = lookout(&board);
        let what = Damaged::Block { namespace: NamespaceId(5), key: Key([0xab; 16]), class: Class::Durable };
        let found = [
            Damage { what, segment: 3, offset: 100, was_read: true },
            Damage { what: Damaged::Header, segment: 4, offset: 200, was_read: false },
        ];
        board.shards[0].shown.damage.lock().unwrap().extend(found);
        (1..30).for_each(|second| lookout.look(&board, second * LOOK_US));
        let events: Vec<Event> = told.try_iter().collect();
        assert_eq!((events.len(), events[0].severity, events[1].severity), (2, Severity::Error, Severity::Warn));
        for word in [&"ab".repeat(16), "namespace 5", "at byte 4196 of /mnt/drive, in segment 3", "it is lost"] {
            assert!(events[0].sentence.contains(word), "{}", events[0].sentence);
        }
        assert!(events[1].sentence.contains("cannot be read, at byte 4296"), "{}", events[1].sentence);
    }

    #[test]
    fn connections_that_cannot_be_taken_are_told_now_and_then() {
        let board = board();
        let (mut lookout, told) = lookout(&board);
        for tenth in 0..150 {
            lookout.accept_failed(&std::io::Error::from_raw_os_error(24), tenth * 100_000);
        }
        let counts: Vec<u64> = told.try_iter().map(|event| event.count).collect();
        assert_eq!(counts, [1, 100]);
        lookout.last_words(&board, 15_000_000);
        assert_eq!(told.try_iter().map(|event| event.count).sum::<u64>(), 49);
    }

    #[test]
    fn each_fault_has_a_sentence_of_its_own() {
        let kinds: std::collections::BTreeSet<&str> = FAULTS.iter().map(|(_, kind, _)| *kind).collect();
        assert_eq!(kinds.len(), PeerFault::ALL.len());
    }
}

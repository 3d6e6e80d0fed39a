//! Guards that tests leave out, one at a time, to show that each matters. Nothing that serves is built with the feature.

/// A guard that can be left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "mutants"), expect(unreachable_pub, reason = "built for tests only"))]
pub enum Mutant {
    /// Flushes are said to be done and never asked for.
    NoFlush,
    /// Durable puts are acknowledged when they are submitted.
    AckBeforeCompletion,
    /// Footers are written without waiting for the records.
    FooterBeforeRecords,
    /// A start takes any whole footer for its segment's.
    GenerationIgnored,
    /// Segments are freed while they are being read.
    ReuseWhileRead,
    /// Records read from the drive are not checked.
    SkipCheck,
    /// A later put of a key takes the place of the first.
    LastPutWins,
    /// Forgetting is acknowledged without a tombstone.
    ForgetNotWritten,
    /// The removal of a namespace is acknowledged and not written down.
    RemovalNotWritten,
    /// Namespaces take what they like.
    QuotaIgnored,
    /// Leases are granted and not heeded.
    LeaseNotHeeded,
    /// What has expired is served.
    ExpiryIgnored,
    /// The index grows past its ceiling.
    IndexUnbounded,
    /// The write budget is reckoned and not heeded.
    BudgetIgnored,
    /// What a write costs is reckoned and not heeded.
    PriceIgnored,
    /// Scrub takes what it reads for good.
    ScrubChecksNothing,
    /// Scrub does not hold the segment that it reads.
    ScrubHoldsNothing,
    /// Tombstones stay behind in the segments that cleaning empties.
    TombstonesDropped,
    /// Emptied segments are taken to hold nothing without a header being written over what lies there.
    NotWrittenOver,
    /// Large reads go to the drive as small ones do: whole, and all at once.
    LargeReadsWhole,
    /// What nobody waits for any more is read all the same.
    NothingDropped,
    /// A put of a key that is held takes room for its bytes all the same.
    RoomForWhatExists,
    /// Blocks may have any length.
    AnyLength,
    /// A shard that is full of what may not be evicted is busy for ever.
    FullIsBusy,
    /// Blocks that make room for others are not remembered.
    GhostsForgotten,
    /// Leases hold all that is asked for, not a tenth.
    LeasesUnbounded,
    /// Leases do not end.
    LeasesUnending,
    /// A touch changes no rank.
    TouchIgnored,
    /// What is prefetched is read, and not kept.
    PrefetchNotKept,
    /// A segment takes records up to twice its size.
    SegmentsTwice,
    /// A flush is for one of those that wait for it.
    FlushForOne,
    /// A durable put waits for company before it is flushed.
    FlushInCompany,
    /// A failed flush is taken for done.
    FailedFlushDone,
    /// A failed write is taken for done.
    FailedWriteDone,
    /// What a failed flush did not cover stays.
    RefusedStays,
    /// Who waits for room has none kept.
    NoRoomKept,
    /// Of large puts one is taken at a time.
    OneLargePut,
    /// Of large puts three are taken at a time.
    ThreeLargePuts,
    /// Puts on their way may take the whole arena.
    PutsTakeAll,
    /// Every record is a write of its own.
    NothingGathered,
    /// Records are gathered whether they are neighbours or not.
    StrangersGathered,
    /// Buffers that were taken for gathered writes are kept for them.
    BuffersKept,
}

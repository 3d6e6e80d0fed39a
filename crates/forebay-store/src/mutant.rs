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
}

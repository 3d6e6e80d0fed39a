//! The rule by which a drive of segments is cleaned, in figures: the store, worth's shadow caches and the replay go by the same.

/// Of what is held, so much is cold. Less, and it is used up before it is found anew; more, and what is warm leaves with what is cold. (The replay, which
/// finds it anew for each request, does with a tenth of the room.)
pub const COLD_SHARE: (usize, usize) = (1, 5);
/// For each block that is put, so much may be written beside it: so each byte put is written less than 1.34 times, whatever the size of blocks.
pub const MOVED_PER_PUT: (u64, u64) = (1, 3);
/// Of all segments, so many can be saved up: what is written again at once waits behind nothing, and a drive that was only filled has saved for nobody.
pub const SAVED_SHARE: u64 = 16;
/// Of one victim, so much may be written again: cleaning then still frees a quarter of what it reads.
pub const MOVED_OF_VICTIM: (u64, u64) = (3, 4);

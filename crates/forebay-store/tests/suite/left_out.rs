//! Tests of promises, each run once more with a guard left out. It must fail then: a guard that no test misses is not known to matter.

use std::cell::Cell;
use std::panic::catch_unwind;

use forebay_store::Mutant;

use crate::{crash, faults, grouping, hints, kept, room, story};

thread_local! {
    /// The guard that stores go without which are opened on this thread.
    static LEFT_OUT: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// The guard that a store which is opened now goes without.
pub(crate) fn left_out() -> Option<Mutant> {
    LEFT_OUT.get()
}

/// Runs a test that passes, as it does by itself, and fails without this guard.
#[track_caller]
fn fails_without(guard: Mutant, test: fn()) {
    LEFT_OUT.set(Some(guard));
    let ended = catch_unwind(test);
    LEFT_OUT.set(None);
    assert!(ended.is_err(), "{guard:?} was not found");
}

macro_rules! each_is_missed {
    ($($name:ident: $guard:ident in $suite:ident::$test:ident;)+) => {$(
        #[test]
        fn $name() {
            fails_without(Mutant::$guard, $suite::$test);
        }
    )+};
}

each_is_missed! {
    a_block_of_any_length_is_found: AnyLength in story::blocks_of_every_size_come_back_whole_and_in_ranges;
    a_segment_of_twice_its_size_is_found: SegmentsTwice in room::a_cache_takes_puts_for_ever_and_writes_each_byte_less_than_1_34_times;
    a_durable_segment_of_twice_its_size_is_found: SegmentsTwice in room::a_full_durable_shard_says_so_and_forgetting_makes_room;
    ghosts_that_are_not_remembered_are_found: GhostsForgotten in room::a_namespace_over_quota_loses_its_own_coldest_or_is_refused;
    leases_of_more_than_a_tenth_are_found: LeasesUnbounded in room::leased_blocks_stay_while_the_drive_goes_round_and_a_tenth_is_the_most;
    leases_that_do_not_end_are_found: LeasesUnending in room::leased_blocks_stay_while_the_drive_goes_round_and_a_tenth_is_the_most;
    a_touch_without_effect_is_found: TouchIgnored in hints::a_block_that_is_only_touched_stays_while_ten_times_the_capacity_goes_by;
    a_prefetch_that_keeps_nothing_is_found: PrefetchNotKept in hints::a_prefetched_block_is_in_dram_when_it_is_asked_for;
    a_flush_for_one_is_found: FlushForOne in grouping::durable_puts_at_once_share_flushes;
    a_flush_that_waits_for_company_is_found: FlushInCompany in grouping::a_durable_put_alone_is_flushed_in_the_turn_that_finds_it_written;
    a_failed_flush_taken_for_done_is_found: FailedFlushDone in faults::a_failed_flush_refuses_what_waited_and_all_later_puts_and_still_serves;
    what_a_failed_flush_left_behind_is_found: RefusedStays in faults::a_failed_flush_refuses_what_waited_and_all_later_puts_and_still_serves;
    a_failed_write_taken_for_done_is_found: FailedWriteDone in faults::a_failed_write_takes_its_block_along_and_a_failed_read_does_not;
    room_that_nobody_keeps_is_found: NoRoomKept in grouping::large_puts_and_small_ones_let_each_other_in;
    one_large_put_at_a_time_is_found: OneLargePut in grouping::of_large_puts_one_is_filled_while_the_other_is_written_and_no_third;
    three_large_puts_at_a_time_are_found: ThreeLargePuts in grouping::of_large_puts_one_is_filled_while_the_other_is_written_and_no_third;
    puts_that_take_the_whole_arena_are_found: PutsTakeAll in room::puts_on_their_way_never_take_the_whole_arena;
    a_write_for_every_record_is_found: NothingGathered in crash::small_records_of_one_turn_are_one_write_and_each_is_as_durable_as_alone;
    gathering_strangers_is_found: StrangersGathered in kept::with_room_on_the_drive_nothing_acknowledged_goes_missing;
    keeping_buffers_for_gathered_writes_is_found: BuffersKept in kept::memory_that_gathered_writes_took_for_a_while_is_there_again_for_blocks;
}

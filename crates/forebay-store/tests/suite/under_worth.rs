//! The suites that hold what a store promises, once more with worth as the policy of every store that they open. The tests themselves say what each is about.

use std::cell::Cell;

use forebay_tokenomics::{Policy, policy_by_name};

use crate::{crash, hints, kept, mutants, promises, room, story};

thread_local! {
    /// The policy of stores that are opened on this thread.
    static POLICY: Cell<&'static str> = const { Cell::new("lru") };
}

/// Runs a test with this policy in every store that it opens on this thread.
fn under(policy: &'static str, test: impl FnOnce()) {
    POLICY.set(policy);
    test();
    POLICY.set("lru");
}

/// The policy of a store that is opened now.
pub(crate) fn policy() -> Box<dyn Policy> {
    policy_by_name(POLICY.get()).unwrap()
}

macro_rules! under_worth {
    ($($suite:ident: $($test:ident),+;)+) => {$($(
        #[test]
        fn $test() {
            under("worth", $suite::$test);
        }
    )+)+};
}

under_worth! {
    story: a_block_is_served_from_dram_then_after_a_kill_from_the_drive_then_from_dram_again,
        blocks_of_every_size_come_back_whole_and_in_ranges,
        a_slot_that_is_dropped_leaves_nothing_and_the_first_put_wins,
        a_forgotten_block_stays_forgotten_and_a_removed_namespace_takes_its_blocks_along;
    room: a_cache_takes_puts_for_ever_and_writes_each_byte_less_than_1_34_times,
        ten_times_the_capacity_over_a_full_drive_is_written_less_than_1_34_times,
        with_a_third_of_the_drive_durable_and_changing_it_is_written_less_than_1_5_times,
        a_full_durable_shard_says_so_and_forgetting_makes_room,
        a_namespace_over_quota_loses_its_own_coldest_or_is_refused,
        leased_blocks_stay_while_the_drive_goes_round_and_a_tenth_is_the_most,
        a_leased_block_that_is_dropped_or_moved_leaves_no_lease_behind,
        an_index_at_its_ceiling_evicts_and_never_passes_it;
    crash: segments_written_anew_are_not_taken_for_what_they_were,
        a_crash_at_any_step_loses_nothing_durable_and_brings_nothing_back;
    promises: the_first_put_wins,
        what_is_forgotten_stays_forgotten_after_a_crash,
        a_removed_namespace_stays_removed_after_a_crash,
        a_quota_is_a_quota,
        a_lease_holds_while_it_lasts,
        what_is_over_is_not_served,
        the_index_has_a_ceiling;
    mutants: leaving_out_flushes_is_found,
        a_footer_of_another_generation_is_found,
        a_segment_reused_while_it_is_read_is_found;
    hints: a_block_that_is_only_touched_stays_while_ten_times_the_capacity_goes_by,
        a_prefetched_block_that_cleaning_moves_meanwhile_is_read_where_it_is;
    kept: with_room_on_the_drive_nothing_acknowledged_goes_missing;
}

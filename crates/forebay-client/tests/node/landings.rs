//! The three ways a block comes from the drive into a client's memory give the same bytes, and the client counts which it was.

use forebay_node::Landings;
use forebay_types::LandingKind;

use crate::{Home, LENGTHS, assert_adds_up, assert_all_hit, filled};

#[test]
fn blocks_land_as_the_node_was_told_and_are_the_same_bytes() {
    for (landings, kind) in [(Landings::Direct, LandingKind::Direct), (Landings::Bounce, LandingKind::Bounce)] {
        let mut home = Home::landing(1, landings);
        let blocks = filled(&home.client(&home.unix()).1, "landing", &LENGTHS);
        // What was put lies in DRAM; after a restart it lies on the drive alone.
        home.stop();
        home.start();
        let (client, space) = home.client(&home.unix());
        // The first answer tells the client how long blocks are; only then has every slice room for a whole record.
        assert_all_hit(&space, &blocks);
        let counted = client.counters().landings;
        assert!(counted[kind.index()] > 0, "{landings:?}: {counted:?}");
        if landings == Landings::Bounce {
            assert_eq!(counted[LandingKind::Direct.index()], 0, "{counted:?}");
        }
        // The second reading of a block keeps it in DRAM, from where every way is a copy.
        assert_all_hit(&space, &blocks);
        assert_all_hit(&space, &blocks);
        assert_adds_up(&client);
    }
}

#[test]
fn by_itself_a_node_lands_directly_only_where_regions_have_huge_pages() {
    let mut home = Home::new(1);
    let blocks = filled(&home.client(&home.unix()).1, "auto", &LENGTHS);
    home.stop();
    home.start();
    let (client, space) = home.client(&home.unix());
    assert_all_hit(&space, &blocks);
    let direct = client.counters().landings[LandingKind::Direct.index()];
    assert_eq!(direct > 0, forebay_io::huge_pages_off().is_none(), "{direct} direct landings");
}

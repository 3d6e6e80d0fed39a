//! The three ways a block comes from the drive into a client's memory give the same bytes, and the client counts which it was.

use forebay_client::{Lending, LentMemory, LentResult};
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
fn the_drive_writes_into_lent_memory_and_the_client_tells_it_apart() {
    let mut home = Home::landing(1, Landings::Direct);
    let blocks = filled(&home.client(&home.unix()).1, "lent", &[1 << 20; 6]);
    home.stop();
    home.start();
    let (client, space) = home.client(&home.unix());
    let room = LentMemory::room_for(1 << 20);
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("engine", flags).unwrap();
    rustix::fs::ftruncate(&fd, 6 * room as u64).unwrap();
    rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::SHRINK).unwrap();
    for how in [Lending::Direct, Lending::Copied] {
        let memory = client.lend(fd.try_clone().unwrap(), 6 * room, how).unwrap();
        let asked = blocks.iter().zip(0..).map(|((key, _), n)| (*key, memory.place(n * room, room).unwrap()));
        let direct = how == Lending::Direct;
        for ((result, (_, bytes)), n) in space.get_lent(asked.collect()).into_iter().zip(&blocks).zip(0..) {
            let LentResult::Hit(block) = result else { panic!("{result:?}") };
            assert!(*block == bytes[..] && block.is_direct() == direct);
            let mut seen = vec![0; bytes.len()];
            rustix::io::pread(&fd, &mut seen, (n * room) as u64).unwrap();
            assert!(seen == *bytes, "the engine finds other bytes");
        }
        drop(memory.place(0, 6 * room).expect("every place came back"));
    }
    let counters = client.counters();
    assert_eq!(counters.lent_landings.iter().sum::<u64>(), 6, "{counters:?}");
    // Nothing was in DRAM the first time.
    assert_eq!(counters.lent_landings[LandingKind::Direct.index()], 6, "{counters:?}");
    assert_eq!((counters.lent_copied, counters.lent_withheld), (6, 0));
    assert_adds_up(&client);
    // The node tells them from what landed in the client's own memory, the second time.
    let stats = client.node_stats().unwrap();
    assert!(stats.contains(r#""landing_lent":{"bounce":0,"direct":6,"stream":0}"#), "{stats}");
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

//! Replay onto a drive of segments, as a shard writes one: blocks leave a segment at a time, and few of them are written again.
//!
//! A policy is asked for values and not for victims. What a shard does with them is done here: puts go to one open segment, and what is held is put in order of
//! value. A tenth of the room, and what there is no room for, is cold: each of these blocks counts for its place in that order, and every hot one for as much as the least cold. A hot block is written
//! again when its segment is emptied, so its loss is a write, and that costs the same for all. The victim is the segment whose living blocks count least. What is
//! written again is paid for by what is put, so what cold victims leave over is there for a hot one. So blocks stay that a policy would have let go, blocks leave
//! that it would have kept, and both can be seen in what is found.

use std::collections::VecDeque;

use crate::cleaning::{MOVED_OF_VICTIM, MOVED_PER_PUT, SAVED_SHARE, free_in_advance};
use crate::cost::CostCurve;
use crate::replay::LruList;
use crate::trace::Plan;

use super::drive::{DriveParams, DriveTooSmall, Found, SEGMENT_BLOCKS_MIN, SEGMENTS_MIN, SegmentsCount};
use super::order::{Held, Order};
use super::policy::{Use, Valued};
use super::tree::{ExtentId, Tree};

/// Segments of a drive unless told otherwise: what a drive is cut into when it is formatted.
pub const SEGMENTS_DEFAULT: u32 = 256;
/// Bytes of a segment unless told otherwise: a shard of 64 GiB has such ones, and larger ones have no larger.
const SEGMENT_BYTES: u64 = 256 << 20;
/// When so much of the segments has been freed for one request, what is cold is found anew.
const FREED_SHARE: usize = 16;
/// Free segments that only moved blocks may open.
const SPARE: usize = 2;

const NOWHERE: u32 = u32::MAX;

/// Replays a plan onto a drive with room for `capacity` blocks in at most `segments` segments, fewer where a segment would have less than four blocks.
///
/// # Errors
/// [`DriveTooSmall`].
pub fn replay_segments(
    plan: &Plan,
    curve: &CostCurve,
    capacity: u32,
    segments: u32,
    policy: &mut dyn Valued,
) -> Result<SegmentsCount, DriveTooSmall> {
    let params = DriveParams { capacity, segments, segment_bytes: SEGMENT_BYTES, memory: 0 };
    replay_drive(plan, curve, params, policy, &mut |_| ())
}

/// The same with DRAM in front of the drive, and tells what each request found. What is put is in DRAM as well; what is read from the drive comes back to DRAM
/// when it is asked for a second time. DRAM is least recently used, as a shard's is under LRU.
///
/// # Errors
/// [`DriveTooSmall`].
pub fn replay_drive(
    plan: &Plan,
    curve: &CostCurve,
    params: DriveParams,
    policy: &mut dyn Valued,
    each: &mut dyn FnMut(Found),
) -> Result<SegmentsCount, DriveTooSmall> {
    let DriveParams { capacity, segments, segment_bytes, memory } = params;
    let segments = segments.max(SEGMENTS_MIN).min(capacity / SEGMENT_BLOCKS_MIN);
    if segments < SEGMENTS_MIN {
        return Err(DriveTooSmall { capacity });
    }
    let mut drive = Drive::new(plan.distinct(), segments, capacity / segments, memory, segment_bytes);
    let mut tree = Tree::new(plan.distinct());
    let mut path = Vec::new();
    for (index, request) in plan.requests.iter().enumerate() {
        tree.walk(&request.spans, &mut path, policy);
        drive.place_extents(&tree, &path);
        let leading = request.numbers().take_while(|number| drive.holds(*number)).count() as u32;
        drive.count.instant.add(request, leading, plan.block_tokens, curve);
        let in_memory = request.numbers().take(leading as usize).filter(|n| drive.memory.holds(*n)).count() as u32;
        drive.count.memory_hit_blocks += u64::from(in_memory);
        each(Found { blocks: leading, memory: in_memory });
        let used = Use { index: index as u32, at_s: request.at_s, hint: request.hint };
        policy.touch(&tree, &path, &used);
        // Tail to head: the head is used last and stays longest.
        let found: Vec<u32> = request.numbers().take(leading as usize).collect();
        found.iter().rev().for_each(|number| drive.use_again(*number));
        let missing: Vec<u32> = request.numbers().skip(leading as usize).filter(|n| !drive.holds(*n)).collect();
        for (at, number) in missing.iter().enumerate() {
            if drive.needs_order(at == 0) {
                drive.survey(&tree, &path, policy);
            }
            drive.put(*number, &tree);
        }
        drive.memory.shrink(memory);
    }
    Ok(drive.count)
}

/// Where every block is.
struct Drive {
    count: SegmentsCount,
    /// By block, its segment or [`NOWHERE`].
    places: Vec<u32>,
    /// Blocks in DRAM.
    memory: LruList,
    memory_blocks: u32,
    /// By block, whether it was read since it was put.
    read: Vec<bool>,
    /// By block, the extent it belongs to.
    extents: Vec<ExtentId>,
    /// By segment, what was written there. A block that has moved on has another place.
    written: Vec<Vec<u32>>,
    /// By segment, its living blocks as they were written: of which extent, the first number and how many stand together; old where `stale` says so.
    runs: Vec<Vec<(ExtentId, u32, u32)>>,
    stale: Vec<bool>,
    /// By extent, how many of its blocks are on the drive.
    held: Vec<u32>,
    /// Extents with blocks on the drive, and some that had any, each once.
    listed: Vec<ExtentId>,
    is_listed: Vec<bool>,
    sealed: Vec<bool>,
    free: VecDeque<u32>,
    open: Option<u32>,
    open_moved: Option<u32>,
    /// What blocks count for, what each segment's do together, and segments freed since that was found.
    order: Order,
    sums: Vec<u64>,
    freed: usize,
    /// When each segment was sealed.
    sealed_at: Vec<u64>,
    seals: u64,
    /// What may be written again, in thirds of a block.
    saved: u64,
    /// Segments that should be free in advance, so that puts need not wait.
    advance: usize,
}

impl Drive {
    fn new(distinct: u32, segments: u32, segment_blocks: u32, memory: u32, segment_bytes: u64) -> Self {
        Drive {
            count: SegmentsCount { segments, segment_blocks, ..SegmentsCount::default() },
            places: vec![NOWHERE; distinct as usize],
            memory: LruList::new(distinct),
            memory_blocks: memory,
            read: vec![false; distinct as usize],
            extents: vec![0; distinct as usize],
            written: vec![Vec::new(); segments as usize],
            runs: vec![Vec::new(); segments as usize],
            stale: vec![false; segments as usize],
            held: Vec::new(),
            listed: Vec::new(),
            is_listed: Vec::new(),
            sealed: vec![false; segments as usize],
            free: (0..segments).collect(),
            open: None,
            open_moved: None,
            order: Order::default(),
            sums: vec![0; segments as usize],
            freed: 0,
            sealed_at: vec![0; segments as usize],
            seals: 0,
            saved: u64::from(segment_blocks / 4) * MOVED_PER_PUT.1,
            advance: free_in_advance(segments as usize, segment_bytes),
        }
    }

    fn holds(&self, number: u32) -> bool {
        self.places[number as usize] != NOWHERE
    }

    /// Extents were cut and made: blocks of this path know theirs again. A tail that was cut off keeps its id.
    fn place_extents(&mut self, tree: &Tree, path: &[ExtentId]) {
        if self.held.len() < tree.len() {
            self.held.resize(tree.len(), 0);
            self.is_listed.resize(tree.len(), false);
        }
        for id in path {
            let extent = tree.extent(*id);
            for number in extent.first..extent.first + extent.blocks {
                if self.extents[number as usize] != *id {
                    let place = self.places[number as usize];
                    self.place(number, NOWHERE);
                    self.extents[number as usize] = *id;
                    self.place(number, place);
                }
            }
        }
    }

    /// A block comes to a segment, goes from one to another, or to [`NOWHERE`].
    fn place(&mut self, number: u32, segment: u32) {
        let extent = self.extents[number as usize];
        let before = std::mem::replace(&mut self.places[number as usize], segment);
        if before != NOWHERE {
            self.held[extent as usize] -= 1;
            self.stale[before as usize] = true;
        }
        if segment != NOWHERE {
            self.held[extent as usize] += 1;
            self.stale[segment as usize] = true;
            if !std::mem::replace(&mut self.is_listed[extent as usize], true) {
                self.listed.push(extent);
            }
        }
    }

    /// A block was found and is read.
    fn use_again(&mut self, number: u32) {
        if self.memory.holds(number) || std::mem::replace(&mut self.read[number as usize], true) {
            self.memory.touch(number);
        }
    }

    /// A block has left the drive.
    fn lose(&mut self, number: u32) {
        self.place(number, NOWHERE);
        self.read[number as usize] = false;
        self.memory.take(number);
        self.count.instant.evicted_blocks += 1;
    }

    fn put(&mut self, number: u32, tree: &Tree) {
        if self.open.is_none() {
            // Room is made in advance, as a shard does that has the time.
            while self.free.len() <= self.free_target() && self.clean(tree) {}
            self.open = self.free.pop_front();
        }
        let Some(segment) = self.open else { return };
        self.count.put_blocks += 1;
        let most = u64::from(self.count.segment_blocks) * self.written.len() as u64 * MOVED_PER_PUT.1 / SAVED_SHARE;
        self.saved = (self.saved + MOVED_PER_PUT.0).min(most);
        if self.memory_blocks > 0 {
            self.memory.touch(number);
            self.memory.shrink(self.memory_blocks);
        }
        if self.write(segment, number, tree) {
            self.open = None;
        }
    }

    /// Writes a block; true when that was the segment's last.
    fn write(&mut self, segment: u32, number: u32, tree: &Tree) -> bool {
        self.place(number, segment);
        let at = segment as usize;
        self.sums[at] += self.count_of(number, tree);
        self.written[at].push(number);
        let full = self.written[at].len() >= self.count.segment_blocks as usize;
        if full {
            self.seal(segment);
        }
        full
    }

    fn seal(&mut self, segment: u32) {
        self.seals += 1;
        (self.sealed[segment as usize], self.sealed_at[segment as usize]) = (true, self.seals);
    }

    fn count_of(&self, number: u32, tree: &Tree) -> u64 {
        let extent = self.extents[number as usize];
        self.order.count(extent, number - tree.extent(extent).first)
    }

    /// Free segments that there should be.
    fn free_target(&self) -> usize {
        SPARE + self.advance
    }

    /// Whether what is cold must be found before the next put: room is short, and values are those of another moment or many segments have been freed.
    fn needs_order(&self, first: bool) -> bool {
        let short = self.free.len() <= self.free_target() + 1;
        short && (first || self.freed * FREED_SHARE > self.written.len())
    }

    /// Finds what is cold, of what is held and what is about to come with a path, and what segments count for.
    fn survey(&mut self, tree: &Tree, path: &[ExtentId], policy: &dyn Valued) {
        let ids = self.listed_with(tree, path);
        let mut coming = path.to_vec();
        coming.sort_unstable();
        let room = (self.written.len() - self.free_target()) as u64 * u64::from(self.count.segment_blocks);
        let Drive { order, places, held, .. } = self;
        order.renew(tree, &ids, room, policy, |id, extent| {
            let blocks = extent.blocks;
            if held[id as usize] == blocks || coming.binary_search(&id).is_ok() {
                return Held { leading: blocks, end: blocks, blocks };
            }
            let here = |number: &u32| places[*number as usize] != NOWHERE;
            let numbers = extent.first..extent.first + blocks;
            let leading = numbers.clone().take_while(here).count() as u32;
            let end = numbers.rev().find(here).map_or(0, |last| last + 1 - extent.first);
            Held { leading, end, blocks: held[id as usize] }
        });
        for segment in 0..self.written.len() {
            self.sums[segment] = self.sum_of(segment, tree);
        }
        self.freed = 0;
    }

    /// What a segment's living blocks count for together.
    fn sum_of(&mut self, segment: usize, tree: &Tree) -> u64 {
        let Drive { runs, written, places, extents, stale, order, .. } = self;
        let runs = &mut runs[segment];
        if std::mem::take(&mut stale[segment]) {
            runs.clear();
            for number in written[segment].iter().filter(|number| places[**number as usize] == segment as u32) {
                let extent = extents[*number as usize];
                match runs.last_mut() {
                    Some((last, first, blocks)) if *last == extent && *first + *blocks == *number => *blocks += 1,
                    _ => runs.push((extent, *number, 1)),
                }
            }
        }
        runs.iter().map(|(extent, first, blocks)| order.sum(*extent, first - tree.extent(*extent).first, *blocks)).sum()
    }

    /// Empties the segment that counts least. False where none is sealed.
    fn clean(&mut self, tree: &Tree) -> bool {
        let sealed = (0..self.written.len()).filter(|at| self.sealed[*at]);
        let Some(at) = sealed.min_by_key(|at| (self.sums[*at], self.sealed_at[*at])) else { return false };
        self.close_what_was_moved(self.sums[at]);
        let victim = at as u32;
        let mut living: Vec<(u64, u32)> = std::mem::take(&mut self.written[at])
            .into_iter()
            .filter(|number| self.places[*number as usize] == victim)
            .map(|number| (self.count_of(number, tree), number))
            .collect();
        living.sort_by_key(|(count, number)| (std::cmp::Reverse(*count), *number));
        let may = (self.saved / MOVED_PER_PUT.1) as usize;
        let most = (u64::from(self.count.segment_blocks) * MOVED_OF_VICTIM.0 / MOVED_OF_VICTIM.1) as usize;
        let hot = living.iter().take_while(|(count, _)| self.order.is_hot(*count)).count();
        let kept = hot.min(may).min(most);
        self.saved -= kept as u64 * MOVED_PER_PUT.1;
        for (_, number) in &living[kept..] {
            self.lose(*number);
        }
        (self.sealed[at], self.sums[at]) = (false, 0);
        for (_, number) in &living[..kept] {
            self.move_block(*number, tree);
        }
        self.free.push_back(victim);
        self.freed += 1;
        true
    }

    /// What was written again fills a segment slowly. When it counts less than the next victim, for the room that it has taken, it is closed, and leaves in
    /// its turn.
    fn close_what_was_moved(&mut self, next: u64) {
        let Some(segment) = self.open_moved else { return };
        let written = self.written[segment as usize].len() as u64;
        if self.sums[segment as usize] * u64::from(self.count.segment_blocks) < next * written {
            self.seal(segment);
            self.open_moved = None;
        }
    }

    fn move_block(&mut self, number: u32, tree: &Tree) {
        if self.open_moved.is_none() {
            self.open_moved = self.free.pop_front();
        }
        let Some(segment) = self.open_moved else {
            self.lose(number);
            return;
        };
        self.count.moved_blocks += 1;
        if self.write(segment, number, tree) {
            self.open_moved = None;
        }
    }

    /// Extents of which blocks are held, and those of a path, deepest first.
    fn listed_with(&mut self, tree: &Tree, path: &[ExtentId]) -> Vec<ExtentId> {
        let Drive { held, listed, is_listed, .. } = self;
        listed.retain(|id| {
            is_listed[*id as usize] = held[*id as usize] > 0;
            is_listed[*id as usize]
        });
        // Behind first: what hangs on an extent is known before it. Most are in order from the last time.
        let deepest_first = |id: &ExtentId| std::cmp::Reverse((tree.extent(*id).depth, *id));
        listed.sort_by_key(deepest_first);
        let mut ids = listed.clone();
        ids.extend(path.iter().filter(|id| !is_listed[**id as usize]));
        ids.sort_by_key(deepest_first);
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cost::{Assumptions, model_by_name};
    use crate::prefix::{PrefixLru, Worth, replay_instant};
    use crate::trace::{PlanParams, parse_trace};

    fn curve() -> CostCurve {
        CostCurve::new(model_by_name("llama-3.1-70b").unwrap(), &Assumptions::default())
    }

    /// One prompt of a block of its own every three seconds, and `hot` again after every `often` of them.
    fn plan(prompts: u64, hot: &[u64], often: u64) -> Plan {
        let line = |at: u64, ids: &[u64]| {
            let tokens = ids.len() * 512 + 1;
            format!(r#"{{"timestamp":{at},"input_length":{tokens},"hash_ids":{ids:?}}}"#)
        };
        let mut lines = Vec::new();
        for i in 0..prompts {
            if i % often == 0 {
                lines.push(line(lines.len() as u64 * 3000, hot));
            }
            lines.push(line(lines.len() as u64 * 3000, &[1_000 + 2 * i]));
        }
        Plan::new(
            &parse_trace(
                lines
                    .join(
                        "
",
                    )
                    .as_bytes(),
            )
            .unwrap(),
            PlanParams::default(),
        )
        .unwrap()
    }

    /// 64 segments of 16 blocks; three blocks are asked for again after every 300 strangers, more rarely than a segment is written and more often than the drive
    /// is. LRU over blocks always finds them. On segments they are found too, whether their segment stays for their sake or they are written again.
    #[test]
    fn what_is_hot_stays_when_its_neighbours_leave() {
        let plan = plan(3000, &[1, 2, 3], 300);
        let ideal = replay_instant(&plan, &curve(), 1024, &mut PrefixLru::new());
        assert_eq!(ideal.count.hit_blocks, 9 * 3);
        let drive = replay_segments(&plan, &curve(), 1024, 64, &mut PrefixLru::new()).unwrap();
        assert_eq!((drive.segments, drive.segment_blocks), (64, 16));
        assert_eq!(drive.instant.count.hit_blocks, 9 * 3);
        assert!(drive.write_amplification() < 1.05, "{drive:?}");
        // Every block is put once: nothing that was found is put again.
        assert_eq!(drive.put_blocks, 3000 + 3);
    }

    /// The same, more rarely than the drive is written: LRU loses them each time, on segments as well.
    #[test]
    fn what_comes_back_too_late_is_gone() {
        let plan = plan(3001, &[1, 2, 3], 1500);
        let drive = replay_segments(&plan, &curve(), 1024, 64, &mut PrefixLru::new()).unwrap();
        assert_eq!(drive.instant.count.hit_blocks, 0);
    }

    #[test]
    fn never_more_is_held_than_the_drive_has_and_a_third_more_is_written_at_most() {
        for seed in 0..2u64 {
            let hot: Vec<u64> = (1..=8 + seed).collect();
            let plan = plan(1500, &hot, 20 + seed * 40);
            for capacity in [64, 200, 700] {
                let lru = replay_segments(&plan, &curve(), capacity, 256, &mut PrefixLru::new()).unwrap();
                let mut worth = Worth::new(curve(), 512, capacity, false);
                let worth = replay_segments(&plan, &curve(), capacity, 256, &mut worth).unwrap();
                for count in [lru, worth] {
                    let held = count.put_blocks - count.instant.evicted_blocks;
                    assert!(held <= u64::from(capacity), "{held} of {capacity}");
                    assert!(count.write_amplification() <= 1.34, "{count:?}");
                }
            }
        }
        let small = replay_segments(&plan(10, &[1], 5), &curve(), 63, 256, &mut PrefixLru::new());
        assert!(small.unwrap_err().to_string().contains("16 segments of 4 blocks"));
    }
}

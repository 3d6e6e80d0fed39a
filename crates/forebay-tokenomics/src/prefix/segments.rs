//! Replay onto a drive of segments, as a shard writes one: blocks leave a segment at a time, and few of them are written again.
//!
//! A policy is asked for values and not for victims. What a shard does with them is done here: puts go to one open segment, the victim is the segment
//! whose living blocks are worth least above the coldest one's mean, and of it at most 15/64 is written again, the blocks above the mean of all. What is worth less
//! than what would leave for it is not written. So blocks stay that a policy would have let go, blocks leave that it would have kept, and both can be seen in what is found.

use std::collections::VecDeque;

use crate::cost::CostCurve;
use crate::replay::LruList;
use crate::trace::Plan;

use super::drive::{DriveParams, DriveTooSmall, Found, SEGMENT_BLOCKS_MIN, SEGMENTS_MIN, SegmentsCount};
use super::policy::{Use, Valued};
use super::tree::{ExtentId, Tree};

/// Segments of a drive unless told otherwise: what a drive is cut into when it is formatted.
pub const SEGMENTS_DEFAULT: u32 = 256;
/// Of a victim, so much may be written again.
const REAPPEND_SHARE: (u32, u32) = (15, 64);
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
    replay_drive(plan, curve, DriveParams { capacity, segments, memory: 0 }, policy, &mut |_| ())
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
    let DriveParams { capacity, segments, memory } = params;
    let segments = segments.max(SEGMENTS_MIN).min(capacity / SEGMENT_BLOCKS_MIN);
    if segments < SEGMENTS_MIN {
        return Err(DriveTooSmall { capacity });
    }
    let mut drive = Drive::new(plan.distinct(), segments, capacity / segments, memory);
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
        if leading < request.blocks {
            drive.admit(&tree, &path, policy);
        }
        for number in request.numbers().skip(leading as usize) {
            if !drive.holds(number) && !drive.refuses(number) {
                drive.put(number, &tree, policy);
            }
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
    /// By segment, the extents of its living blocks as they were written, and how many blocks of each stand together; old where `stale` says so.
    runs: Vec<Vec<(ExtentId, u32)>>,
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
    /// Extents of the request at hand that are not written.
    refused: Vec<ExtentId>,
}

impl Drive {
    fn new(distinct: u32, segments: u32, segment_blocks: u32, memory: u32) -> Self {
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
            refused: Vec::new(),
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

    fn refuses(&self, number: u32) -> bool {
        !self.refused.is_empty() && self.refused.binary_search(&self.extents[number as usize]).is_ok()
    }

    fn put(&mut self, number: u32, tree: &Tree, policy: &dyn Valued) {
        if self.open.is_none() {
            // Room is made in advance, as a shard does that has the time.
            while self.free.len() <= self.free_target() && self.clean(tree, policy) {}
            self.open = self.free.pop_front();
        }
        let Some(segment) = self.open else { return };
        self.count.put_blocks += 1;
        if self.memory_blocks > 0 {
            self.memory.touch(number);
            self.memory.shrink(self.memory_blocks);
        }
        if self.write(segment, number) {
            self.open = None;
        }
    }

    /// Writes a block; true when that was the segment's last.
    fn write(&mut self, segment: u32, number: u32) -> bool {
        self.place(number, segment);
        let written = &mut self.written[segment as usize];
        written.push(number);
        let full = written.len() >= self.count.segment_blocks as usize;
        self.sealed[segment as usize] = full;
        full
    }

    /// What sealed segments are worth now, and what a block is worth in them.
    fn survey(&mut self, tree: &Tree, path: &[ExtentId], policy: &dyn Valued) -> Survey {
        let values = self.values(tree, path, policy);
        let (mut all, mut blocks) = (0.0, 0u64);
        let mut sealed: Vec<(u32, f64, u32)> = Vec::with_capacity(self.written.len());
        for segment in 0..self.written.len() {
            let (worth, count) = self.worth_of(segment, &values);
            (all, blocks) = (all + worth, blocks + u64::from(count));
            if self.sealed[segment] {
                sealed.push((segment as u32, worth, count));
            }
        }
        let means = sealed.iter().filter(|(.., count)| *count > 0).map(|(_, worth, count)| worth / f64::from(*count));
        let coldest = means.fold(f64::INFINITY, f64::min);
        let coldest = if coldest.is_finite() { coldest } else { f64::NEG_INFINITY };
        Survey { values, sealed, coldest, mean: all / blocks.max(1) as f64 }
    }

    /// What a segment's living blocks are worth together, and how many these are.
    fn worth_of(&mut self, segment: usize, values: &[f64]) -> (f64, u32) {
        let Drive { runs, written, places, extents, stale, .. } = self;
        let runs = &mut runs[segment];
        if std::mem::take(&mut stale[segment]) {
            runs.clear();
            for number in written[segment].iter().filter(|number| places[**number as usize] == segment as u32) {
                let extent = extents[*number as usize];
                match runs.last_mut() {
                    Some((last, blocks)) if *last == extent => *blocks += 1,
                    _ => runs.push((extent, 1)),
                }
            }
        }
        let (mut worth, mut count) = (0.0, 0);
        for (extent, blocks) in runs.iter() {
            // Added up block by block: a product would be rounded otherwise, and of two segments worth the same another one would leave.
            (0..*blocks).for_each(|_| worth += values[*extent as usize]);
            count += blocks;
        }
        (worth, count)
    }

    /// Which extents of a request that just passed are worth their write: those worth more than what would leave for them.
    fn admit(&mut self, tree: &Tree, path: &[ExtentId], policy: &dyn Valued) {
        self.refused.clear();
        if self.free.len() > self.free_target() + 1 {
            return;
        }
        let survey = self.survey(tree, path, policy);
        self.refused.extend(path.iter().copied().filter(|id| survey.values[*id as usize] < survey.coldest));
        self.refused.sort_unstable();
    }

    /// Free segments that there should be: the spares, and some in advance so that puts need not wait.
    fn free_target(&self) -> usize {
        SPARE + 2 + self.written.len() / 64
    }

    /// Empties the segment that is worth least. False where none is sealed.
    fn clean(&mut self, tree: &Tree, policy: &dyn Valued) -> bool {
        let Survey { values, sealed, coldest, mean } = self.survey(tree, &[], policy);
        let above = |worth: f64, count: u32| worth - f64::from(count) * coldest.max(f64::MIN);
        let victim = sealed.iter().min_by(|a, b| above(a.1, a.2).total_cmp(&above(b.1, b.2)));
        let Some((victim, ..)) = victim.copied() else { return false };
        let mut living: Vec<(u32, f64)> = std::mem::take(&mut self.written[victim as usize])
            .into_iter()
            .filter(|number| self.places[*number as usize] == victim)
            .map(|number| (number, values[self.extents[number as usize] as usize]))
            .collect();
        // Of one extent the head is worth more than the tail: nothing is worth anything without it.
        living.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        let most = (self.count.segment_blocks * REAPPEND_SHARE.0 / REAPPEND_SHARE.1) as usize;
        let kept = living.iter().take(most).take_while(|(_, value)| *value > mean).count();
        for (number, _) in &living[kept..] {
            self.lose(*number);
        }
        self.sealed[victim as usize] = false;
        for (number, _) in &living[..kept] {
            self.move_block(*number);
        }
        self.free.push_back(victim);
        true
    }

    fn move_block(&mut self, number: u32) {
        if self.open_moved.is_none() {
            self.open_moved = self.free.pop_front();
        }
        let Some(segment) = self.open_moved else {
            self.lose(number);
            return;
        };
        self.count.moved_blocks += 1;
        if self.write(segment, number) {
            self.open_moved = None;
        }
    }

    /// What a block of each extent on the drive and of a path is worth now, by extent.
    fn values(&mut self, tree: &Tree, path: &[ExtentId], policy: &dyn Valued) -> Vec<f64> {
        let Drive { held, listed, is_listed, .. } = self;
        listed.retain(|id| {
            is_listed[*id as usize] = held[*id as usize] > 0;
            is_listed[*id as usize]
        });
        // Behind first: what hangs on an extent is known before it. Most are in order from the last time.
        let deepest_first = |id: &ExtentId| std::cmp::Reverse((tree.extent(*id).depth, *id));
        listed.sort_by_key(deepest_first);
        let mut values = vec![0.0; tree.len()];
        if path.iter().all(|id| is_listed[*id as usize]) {
            policy.values(tree, listed, &mut values);
        } else {
            let mut ids = listed.clone();
            ids.extend(path.iter().filter(|id| !is_listed[**id as usize]));
            ids.sort_by_key(deepest_first);
            policy.values(tree, &ids, &mut values);
        }
        values
    }
}

/// What a drive holds, weighed.
struct Survey {
    /// Of a block, by extent.
    values: Vec<f64>,
    /// Sealed segments, what their living blocks are worth together, and how many these are.
    sealed: Vec<(u32, f64, u32)>,
    /// What a block of the coldest sealed segment is worth on average.
    coldest: f64,
    /// What a block of the whole drive is worth on average.
    mean: f64,
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

    /// 64 segments of 16 blocks, of which three may be written again; three blocks are asked for again after every 300 strangers, more rarely than a segment
    /// is written and more often than the drive is. LRU over blocks always finds them. On segments they are found too, and now and then written again.
    #[test]
    fn what_is_hot_moves_on_when_its_segment_leaves() {
        let plan = plan(3000, &[1, 2, 3], 300);
        let ideal = replay_instant(&plan, &curve(), 1024, &mut PrefixLru::new());
        assert_eq!(ideal.count.hit_blocks, 9 * 3);
        let drive = replay_segments(&plan, &curve(), 1024, 64, &mut PrefixLru::new()).unwrap();
        assert_eq!((drive.segments, drive.segment_blocks), (64, 16));
        assert_eq!(drive.instant.count.hit_blocks, 9 * 3);
        assert!(drive.moved_blocks >= 3 && drive.write_amplification() < 1.05, "{drive:?}");
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

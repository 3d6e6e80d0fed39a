//! How likely blocks are to come back, and when: an estimate that learns while requests pass.
//!
//! Blocks of one class (what is known of their past) are taken to return alike. For each class and age the rate of return is events over block-seconds
//! of waiting, whether resident or not, with those that still wait counted in (the estimator of Nelson and Aalen, piecewise constant). From the
//! rates follows what keeping a block is worth by the second: of all ways to wait a while and then give up, the one with the most returns by the second
//! of waiting (the index of Gittins).

mod past;

pub(crate) use past::{CLASSES, Past, class_after};
use past::{class_above, classes_from_the_tail};

/// Ages are told apart in four steps an octave, from a second to 18 hours.
pub(crate) const BINS: usize = 64;

/// What a class borrows from all classes: as if it had seen one return, of a mean prompt, at their rate.
const BORROWED: f64 = 1.0;
/// What all classes borrow from [`UNKNOWN_RATE`].
const ASSUMED: f64 = 0.1;
/// A rate before anything was seen, in returns a second: once in a quarter of an hour.
const UNKNOWN_RATE: f64 = 1.0 / 900.0;

/// The bin of an age, in seconds: 0 below a second, then by exponent and the first two bits of the fraction, which takes no logarithm.
fn bin_of(age_s: f64) -> usize {
    if age_s < 1.0 {
        return 0;
    }
    let quarter = (age_s.to_bits() >> 50) - (1.0f64.to_bits() >> 50);
    (quarter as usize + 1).min(BINS - 1)
}

/// Where a bin begins, in seconds.
fn begin_s(bin: usize) -> f64 {
    if bin == 0 {
        return 0.0;
    }
    f64::from_bits(((1.0f64.to_bits() >> 50) + bin as u64 - 1) << 50)
}

#[derive(Debug, Clone)]
struct Seen {
    events: [f64; BINS],
    /// Weight-seconds of waiting that has ended.
    waited: [f64; BINS],
}

const NOTHING: Seen = Seen { events: [0.0; BINS], waited: [0.0; BINS] };

/// What one refit goes by.
#[derive(Debug, Clone)]
pub(crate) struct Fit {
    all: Seen,
    each: Vec<Seen>,
    index: Vec<[f64; BINS]>,
    until: Vec<[f32; BINS]>,
}

impl Fit {
    /// Fits one class.
    pub(crate) fn class(&mut self, class: usize) {
        let (all, seen) = (&self.all, &self.each[class]);
        let mut rates = [0.0; BINS];
        for (bin, rate) in rates.iter_mut().enumerate() {
            let assumed = UNKNOWN_RATE.min(1.0 / begin_s(bin + 1));
            let common = (all.events[bin] + ASSUMED) / (all.waited[bin] + ASSUMED / assumed);
            *rate = (seen.events[bin] + BORROWED) / (seen.waited[bin] + BORROWED / common);
        }
        self.index[class] = index_of(&rates);
        let mut sum = 0.0;
        for (bin, rate) in rates.iter().enumerate() {
            self.until[class][bin] = sum as f32;
            sum += rate * (begin_s(bin + 1) - begin_s(bin));
        }
    }

    /// Makes a class worth at least what is behind it in a chain may be worth ([`class_above`]), where blocks are ranked one by one and nobody knows
    /// which is behind which: then chance in what was seen takes no head before its tail. All classes must be fitted.
    pub(crate) fn heads_first(&mut self) {
        // From few uses and many turns on: what is raised raises what is above it.
        for class in classes_from_the_tail() {
            for above in class_above(class as u32).into_iter().flatten() {
                let from = self.index[class];
                let to = &mut self.index[above as usize];
                to.iter_mut().zip(from).for_each(|(to, from)| *to = to.max(from));
            }
        }
    }
}

/// Rates of return and what they are worth, by class and age.
#[derive(Debug, Clone)]
pub(crate) struct Returns {
    seen: Vec<Seen>,
    index: Vec<[f64; BINS]>,
    /// Returns that a block which never comes back would have had by the beginning of each bin: the sum of the rates so far.
    until: Vec<[f32; BINS]>,
    /// Weight of what still waits, by class and bin; filled for a refit.
    waiting: Vec<[f64; BINS]>,
}

impl Returns {
    pub(crate) fn new(classes: usize) -> Self {
        Returns {
            seen: vec![NOTHING; classes],
            index: vec![[UNKNOWN_RATE; BINS]; classes],
            until: vec![[0.0; BINS]; classes],
            waiting: vec![[0.0; BINS]; classes],
        }
    }

    /// Bytes it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.seen.capacity() * size_of::<Seen>()
            + (self.index.capacity() + self.waiting.capacity()) * size_of::<[f64; BINS]>()
            + self.until.capacity() * size_of::<[f32; BINS]>()
    }

    /// What came back after `age_s`.
    pub(crate) fn came(&mut self, class: usize, age_s: f64, weight: f64) {
        self.seen[class].events[bin_of(age_s)] += weight;
        self.lost_sight_of(class, age_s, weight);
    }

    /// What was followed for `age_s` without coming back, and is followed no longer.
    pub(crate) fn lost_sight_of(&mut self, class: usize, age_s: f64, weight: f64) {
        let seen = &mut self.seen[class];
        let bin = bin_of(age_s);
        for (i, waited) in seen.waited.iter_mut().enumerate().take(bin) {
            *waited += weight * (begin_s(i + 1) - begin_s(i));
        }
        seen.waited[bin] += weight * (age_s - begin_s(bin)).max(0.0);
    }

    /// What was seen counts so much less from now on.
    pub(crate) fn fade(&mut self, share: f64) {
        for seen in &mut self.seen {
            seen.events.iter_mut().chain(&mut seen.waited).for_each(|sum| *sum *= share);
        }
    }

    /// What waits, before [`Returns::refit`].
    pub(crate) fn waits(&mut self, class: usize, age_s: f64, weight: f64) {
        self.waiting[class][bin_of(age_s)] += weight;
    }

    /// Reckons anew, with all that was said to wait since the last time.
    pub(crate) fn refit(&mut self) {
        let mut fit = self.gather();
        (0..self.index.len()).for_each(|class| fit.class(class));
        self.take(fit);
    }

    /// What a refit goes by, with all that was said to wait since the last time; [`Fit::class`] then takes one class at a time, for whoever has little
    /// time at once, and [`Returns::take`] ends it.
    pub(crate) fn gather(&mut self) -> Fit {
        let mut all = NOTHING;
        let mut each: Vec<Seen> = self.seen.clone();
        for (seen, waiting) in each.iter_mut().zip(&mut self.waiting) {
            let mut older = 0.0;
            for bin in (0..BINS).rev() {
                let width_s = begin_s(bin + 1) - begin_s(bin);
                seen.waited[bin] += older * width_s + waiting[bin] * width_s / 2.0;
                older += waiting[bin];
                waiting[bin] = 0.0;
                all.events[bin] += seen.events[bin];
                all.waited[bin] += seen.waited[bin];
            }
        }
        let (index, until) = (vec![[0.0; BINS]; each.len()], vec![[0.0; BINS]; each.len()]);
        Fit { all, each, index, until }
    }

    /// From now on the index is what was fitted.
    pub(crate) fn take(&mut self, fit: Fit) {
        (self.index, self.until) = (fit.index, fit.until);
    }

    /// The largest index there is.
    pub(crate) fn most(&self) -> f64 {
        self.index.iter().flatten().copied().fold(0.0, f64::max)
    }

    /// Returns by the second of keeping a block of that class and age.
    pub(crate) fn index(&self, class: usize, age_s: f64) -> f64 {
        self.index[class][bin_of(age_s)]
    }
}

impl Returns {
    /// Probability that a block of that class, new or just used, comes back within so many seconds. What was never seen, because nothing has waited so
    /// long yet, is taken to come back.
    pub(crate) fn chance(&self, class: usize, within_s: f64) -> f64 {
        let (until, bin) = (&self.until[class], bin_of(within_s));
        let (from_s, to_s) = (begin_s(bin), begin_s(bin + 1));
        let at = ((within_s - from_s) / (to_s - from_s)).clamp(0.0, 1.0);
        let before = f64::from(until[bin]);
        let after = until.get(bin + 1).map_or(before, |after| f64::from(*after));
        1.0 - (-(before + (after - before) * at)).exp()
    }
}

/// The index of Gittins for each age: the most that any time of waiting gives.
fn index_of(rates: &[f64; BINS]) -> [f64; BINS] {
    // Of what is there at a bin's beginning: the share left at its end, and the seconds waited in it.
    let mut bins = [(1.0, 0.0); BINS];
    for (bin, (left, waited_s)) in bins.iter_mut().enumerate() {
        let width_s = begin_s(bin + 1) - begin_s(bin);
        *left = (-rates[bin] * width_s).exp();
        *waited_s = if rates[bin] > 1e-12 { (1.0 - *left) / rates[bin] } else { width_s };
    }
    let mut index = [0.0; BINS];
    for (from, best) in index.iter_mut().enumerate() {
        let (mut alive, mut waited) = (1.0f64, 0.0);
        for (left, waited_s) in &bins[from..] {
            waited += alive * waited_s;
            alive *= left;
            *best = f64::max(*best, (1.0 - alive) / waited);
            if alive < 1e-4 {
                break;
            }
        }
    }
    index
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_begin_where_the_one_before_ends() {
        for (age_s, bin) in [(0.0, 0), (0.99, 0), (1.0, 1), (1.24, 1), (1.25, 2), (2.0, 5), (3.6, 8), (1e12, BINS - 1)]
        {
            assert_eq!(bin_of(age_s), bin, "{age_s}");
        }
        for bin in 1..BINS {
            assert_eq!(bin_of(begin_s(bin)), bin);
            assert!(begin_s(bin) > begin_s(bin - 1));
        }
        assert!(begin_s(BINS - 1) > 40_000.0);
    }

    /// One return in ten seconds of waiting, at any age: whatever one waits, it gives a tenth of a return by the second.
    #[test]
    fn of_a_constant_rate_the_index_is_the_rate() {
        let index = index_of(&[0.1; BINS]);
        assert!(index.iter().all(|index| (index - 0.1).abs() < 1e-9), "{index:?}");
    }

    /// Nobody returns before 8 seconds, then quickly: the nearer that is, the more it is worth to wait, and behind it nothing is.
    #[test]
    fn what_is_about_to_come_back_is_worth_more_than_what_just_left() {
        let mut rates = [1e-9; BINS];
        let (from, to) = (bin_of(8.0), bin_of(16.0));
        rates[from..to].fill(0.5);
        let index = index_of(&rates);
        assert!(index[0] < index[bin_of(4.0)] && index[bin_of(4.0)] < index[from], "{index:?}");
        assert!(index[to + 1] < index[0] / 1e3);
        // From the start: within 8 s and a wait of about 2 s nearly all come back.
        assert!((0.09..0.105).contains(&index[0]), "{}", index[0]);
    }

    /// By chance what was used twice was seen to come back never, and what was used once always.
    #[test]
    fn a_head_is_worth_no_less_than_what_hangs_on_it() {
        let (mut returns, mut heads_first) = (Returns::new(CLASSES), Returns::new(CLASSES));
        let tail = Past { uses: 1, turn: 4, gap_s: 20.0, hint: 1 };
        let head = Past { uses: 2, turn: 1, ..tail };
        for returns in [&mut returns, &mut heads_first] {
            for _ in 0..100 {
                returns.came(tail.class() as usize, 4.2, 1.0);
                returns.lost_sight_of(head.class() as usize, 1000.0, 1.0);
            }
            let mut fit = returns.gather();
            (0..CLASSES).for_each(|class| fit.class(class));
            returns.take(fit);
        }
        let mut fit = heads_first.gather();
        (0..CLASSES).for_each(|class| fit.class(class));
        fit.heads_first();
        heads_first.take(fit);
        let of = |returns: &Returns, past: Past| returns.index(past.class() as usize, 3.0);
        assert!(of(&returns, head) < of(&returns, tail) / 10.0);
        assert_eq!(of(&heads_first, head), of(&returns, tail));
        assert_eq!(of(&heads_first, tail), of(&returns, tail));
    }

    /// Of 400 blocks 100 come back after some 4 s, the others are still waited for after 100 s: a chance of a quarter within a minute, and of nothing within
    /// a second. Of times that nobody has waited yet, it is taken that blocks come back.
    #[test]
    fn the_chance_to_come_back_in_time_is_the_share_that_did() {
        let mut returns = Returns::new(2);
        for block in 0..400 {
            match block % 4 {
                0 => returns.came(1, 4.2, 1.0),
                _ => returns.waits(1, 100.0, 1.0),
            }
        }
        returns.refit();
        let chance = |within_s: f64| returns.chance(1, within_s);
        assert!((0.22..0.30).contains(&chance(60.0)), "{}", chance(60.0));
        assert!(chance(1.0) < 0.02 && chance(0.0) == 0.0, "{}", chance(1.0));
        assert!(chance(40_000.0) > 0.6 && chance(1e12) <= 1.0, "{}", chance(40_000.0));
        let steps: Vec<f64> = (0..200).map(|n| chance(1.1f64.powi(n))).collect();
        assert!(steps.windows(2).all(|two| two[0] <= two[1]), "longer is never less likely: {steps:?}");
    }

    /// Two in three come back after some 4 s, one in three never does: those that wait count, so the index of old ones falls towards nothing.
    #[test]
    fn what_never_came_back_is_learned_from_too() {
        let mut returns = Returns::new(2);
        for _ in 0..200 {
            returns.came(1, 4.2, 1.0);
        }
        for _ in 0..100 {
            returns.waits(1, 1000.0, 1.0);
        }
        returns.refit();
        assert!(returns.index(1, 1.0) > 20.0 * returns.index(1, 100.0));
        // A class that has seen nothing borrows from the other.
        assert!(returns.index(0, 1.0) > 5.0 * returns.index(0, 100.0));
    }
}

//! Many runs of one answer, one behind the other or several at once. Threads come in by the front door, and no figure depends on how many there are.

use std::sync::{Mutex, PoisonError};

/// Calls `of` with each number below a count, in any order, several at once if it likes.
pub type Crew<'a> = dyn Fn(usize, &(dyn Fn(usize) + Sync)) + 'a;

/// One behind the other.
pub fn alone(count: usize, of: &(dyn Fn(usize) + Sync)) {
    (0..count).for_each(of);
}

/// What `of` gives for each number below `count`, in their order.
pub(super) fn all<T: Send>(crew: &Crew<'_>, count: usize, of: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let done = Mutex::new(Vec::with_capacity(count));
    crew(count, &|i| {
        let one = of(i);
        done.lock().unwrap_or_else(PoisonError::into_inner).push((i, one));
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(i, _)| *i);
    assert!(done.len() == count, "a crew does all that it is given");
    done.into_iter().map(|(_, one)| one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_work_is_nobodys_to_see() {
        let backwards = |count: usize, of: &(dyn Fn(usize) + Sync)| (0..count).rev().for_each(of);
        assert_eq!(all(&backwards, 5, |i| i * i), all(&alone, 5, |i| i * i));
    }
}

//! The asynchronous face: the same verbs, as futures of no particular runtime.
//!
//! A call is handed to a driver thread, which makes it as the blocking face does: same deadlines, same verification, same rules of landing. The
//! future only waits for it. Dropping a future drops the call: one that has not begun never does, and one that has runs to its own end, at the latest
//! its deadline, with the memory it owns; nothing of the caller's is borrowed, so nothing of the caller's is touched.
//!
//! For callers with a loop of their own, [`Completions`] gathers finished calls behind one descriptor.

mod call;
mod completions;
mod driver;

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use forebay_types::{Clock, Key, MissReason, PutOutcome, RefusedReason, Tier};

use crate::put::PutBlock;
use crate::{Client, ClientError, GetResult, Lending, LentMemory, LentResult, Matched, NamespaceHandle, Place};
pub use call::Call;
pub use completions::Completions;
use driver::{Driver, Gate};

/// Most calls that are made at once, each on a thread of its own while it lasts: what a shard gives one client in connections by default.
const THREADS_MAX: usize = 16;

/// A client whose calls are futures. Cloning shares its threads and its bound.
#[derive(Clone)]
pub struct AsyncClient {
    client: Client,
    gate: Arc<Gate>,
}

/// A namespace whose verbs are futures. Cloning is cheap.
#[derive(Clone)]
pub struct AsyncNamespace {
    handle: NamespaceHandle,
    gate: Arc<Gate>,
}

impl Client {
    /// The asynchronous face of this client. At most `calls_max` calls (at least 1) are unfinished at a time; one more is answered `busy` at once.
    /// Up to 16 are made side by side, fewer if `Options::connections` is fewer; the others wait in line, and their deadlines with them.
    pub fn asynchronous(&self, calls_max: usize) -> AsyncClient {
        self.driven(calls_max, false)
    }

    /// The same for callers who mind what handing over costs them more than when a call begins: soon after another call they wake no thread for it,
    /// and it begins up to a fifth of a millisecond later.
    pub fn asynchronous_patient(&self, calls_max: usize) -> AsyncClient {
        self.driven(calls_max, true)
    }

    fn driven(&self, calls_max: usize, is_patient: bool) -> AsyncClient {
        let threads = THREADS_MAX.min(self.core().options.connections);
        AsyncClient { client: self.clone(), gate: Gate::new(Driver::new(threads, calls_max.max(1), is_patient)) }
    }
}

impl AsyncClient {
    /// The blocking face, with the same connections, memory and counters.
    pub fn blocking(&self) -> &Client {
        &self.client
    }

    /// The namespace of that name, opened.
    pub fn namespace(&self, name: &str) -> Call<Result<AsyncNamespace, ClientError>> {
        let (client, name, gate) = (self.client.clone(), name.to_owned(), self.gate.clone());
        let busy = Err(ClientError::Invalid(BUSY.into()));
        self.gate.driver().submit(move || Ok(AsyncNamespace { handle: client.namespace(&name)?, gate }), busy)
    }

    /// See [`Client::lend`]. It waits for nobody, so it is no future.
    pub fn lend(&self, file: OwnedFd, bytes: usize, how: Lending) -> Result<LentMemory, ClientError> {
        self.client.lend(file, bytes, how)
    }

    /// A namespace that is open already.
    pub fn of(&self, handle: &NamespaceHandle) -> AsyncNamespace {
        AsyncNamespace { handle: handle.clone(), gate: self.gate.clone() }
    }

    /// Calls that are not finished: waiting in line or under way.
    pub fn in_flight(&self) -> usize {
        self.gate.driver().in_flight()
    }
}

/// Said of what has no outcome of its own for it.
const BUSY: &str = "too many calls are unfinished; wait for some of them, or allow more with `Client::asynchronous`";

impl AsyncNamespace {
    /// The blocking face.
    pub fn blocking(&self) -> &NamespaceHandle {
        &self.handle
    }

    /// Another handle, on the same threads.
    pub fn of(&self, handle: &NamespaceHandle) -> Self {
        AsyncNamespace { handle: handle.clone(), gate: self.gate.clone() }
    }

    /// See [`NamespaceHandle::with_deadline`]. Time in line counts.
    #[must_use]
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        AsyncNamespace { handle: self.handle.with_deadline(deadline), gate: self.gate.clone() }
    }

    /// See [`NamespaceHandle::get`].
    pub fn get(&self, keys: Vec<Key>) -> Call<Vec<GetResult>> {
        let count = keys.len();
        self.submit(move |handle| handle.get(&keys), || self.busy_gets(count))
    }

    /// See [`NamespaceHandle::get_ranges`].
    pub fn get_ranges(&self, ranges: Vec<(Key, Range<u64>)>) -> Call<Vec<GetResult>> {
        let count = ranges.len();
        self.submit(move |handle| handle.get_ranges(&ranges), || self.busy_gets(count))
    }

    /// See [`NamespaceHandle::get_lent`]. Places belong to the call while it lasts. Of a call that is dropped they are free when it has ended, or
    /// withheld; one too many gives them back at once.
    pub fn get_lent(&self, asked: Vec<(Key, Place)>) -> Call<Vec<LentResult>> {
        let busy = |asked: Vec<(Key, Place)>| {
            self.count_busy_gets(asked.len());
            asked
                .into_iter()
                .map(|(_, place)| LentResult::Miss { reason: MissReason::Busy, place: Some(place) })
                .collect()
        };
        self.submit_with(asked, |handle, asked| handle.get_lent(asked), busy)
    }

    /// See [`NamespaceHandle::put_blocks`]. The bytes are owned, so that a dropped call leaves nothing behind.
    pub fn put_blocks(&self, blocks: Vec<PutBlock<'static>>) -> Call<Vec<PutOutcome>> {
        let count = blocks.len();
        let outcome = PutOutcome::Refused(RefusedReason::Busy);
        let busy = || {
            self.handle.core().cells.add(|all| {
                all.put.asked += count as u64;
                (0..count).for_each(|_| all.put.outcome(outcome));
            });
            vec![outcome; count]
        };
        self.submit(move |handle| handle.put_blocks(blocks), busy)
    }

    /// See [`NamespaceHandle::contains`].
    pub fn contains(&self, keys: Vec<Key>) -> Call<Vec<Result<Tier, MissReason>>> {
        let count = keys.len();
        let busy = || {
            self.handle.core().cells.add(|all| {
                all.contains.asked += count as u64;
                (0..count).for_each(|_| all.contains.miss(MissReason::Busy));
            });
            vec![Err(MissReason::Busy); count]
        };
        self.submit(move |handle| handle.contains(&keys), busy)
    }

    /// See [`NamespaceHandle::match_prefix`].
    pub fn match_prefix(&self, keys: Vec<Key>, hold: Option<Duration>) -> Call<Matched> {
        let count = keys.len() as u64;
        let busy = || {
            if count == 0 {
                return Matched::default();
            }
            self.handle.core().cells.add(|all| {
                all.matched.asked += count;
                all.matched.miss(MissReason::Busy);
                all.matched.not_asked += count - 1;
            });
            Matched { gap: Some(MissReason::Busy), ..Matched::default() }
        };
        self.submit(move |handle| handle.match_prefix(&keys, hold), busy)
    }

    /// See [`NamespaceHandle::forget`].
    pub fn forget(&self, keys: Vec<Key>) -> Call<Result<Vec<bool>, ClientError>> {
        self.submit(move |handle| handle.forget(&keys), || Err(ClientError::Invalid(BUSY.into())))
    }

    /// Any calls of the blocking face, as one: made on one of the threads, with the handle whose deadline is what the wait in line has left of it.
    /// `busy` is the answer when too many are unfinished. What `run` brings along is dropped on that thread, also if the call was dropped in line.
    pub fn call<T: Send + 'static>(
        &self,
        run: impl FnOnce(&NamespaceHandle) -> T + Send + 'static,
        busy: impl FnOnce() -> T,
    ) -> Call<T> {
        self.submit(run, busy)
    }

    /// The same for calls whose end nobody waits for: `run` says itself what came of it, or nothing. False, and nothing is made, when too many are
    /// unfinished.
    pub fn unanswered(&self, run: impl FnOnce(&NamespaceHandle) + Send + 'static) -> bool {
        self.gate.driver().submit_unanswered(self.late(run))
    }

    fn busy_gets(&self, count: usize) -> Vec<GetResult> {
        self.count_busy_gets(count);
        (0..count).map(|_| GetResult::Miss(MissReason::Busy)).collect()
    }

    fn count_busy_gets(&self, count: usize) {
        self.handle.core().cells.add(|all| {
            all.get.asked += count as u64;
            (0..count).for_each(|_| all.get.miss(MissReason::Busy));
        });
    }

    fn submit<T: Send + 'static>(
        &self,
        run: impl FnOnce(&NamespaceHandle) -> T + Send + 'static,
        busy: impl FnOnce() -> T,
    ) -> Call<T> {
        self.submit_with((), |handle, ()| run(handle), |()| busy())
    }

    /// What is `brought` goes to whichever of the two is called.
    fn submit_with<B: Send + 'static, T: Send + 'static>(
        &self,
        brought: B,
        run: impl FnOnce(&NamespaceHandle, B) -> T + Send + 'static,
        busy: impl FnOnce(B) -> T,
    ) -> Call<T> {
        let driver = self.gate.driver();
        if !driver.take_place() {
            return Call::ready(busy(brought));
        }
        driver.submit_within_bound(self.late(|handle| run(handle, brought)))
    }

    /// Time in line is the call's own. What has none left is answered as any call whose deadline has passed.
    fn late<T, F: FnOnce(&NamespaceHandle) -> T>(&self, run: F) -> impl FnOnce() -> T + use<T, F> {
        let handle = self.handle.clone();
        let begun_us = handle.core().clock.now_us();
        move || {
            let waited = handle.core().clock.now_us() - begun_us;
            run(&handle.with_deadline(handle.deadline().saturating_sub(Duration::from_micros(waited))))
        }
    }
}

impl std::fmt::Debug for AsyncClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncClient").field("client", &self.client).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AsyncNamespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AsyncNamespace").field("handle", &self.handle).finish_non_exhaustive()
    }
}

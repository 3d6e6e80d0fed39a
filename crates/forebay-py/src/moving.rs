//! Jobs under way: what the threads that make calls do with blocks that were handed over. `jobs.rs` is the other half, which has the GIL.

use std::ops::Range;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};

use forebay_client::{AsyncNamespace, Completions, NamespaceHandle};
use forebay_types::Key;

use crate::buffers::{Keep, Memory, Shares};
use crate::call::cancellable;
use crate::put::{About, blocks};
use crate::transfers::{kept, whole};

/// Tells that a job is over.
pub(crate) struct Token {
    completions: Completions,
    ticket: u64,
}

impl Token {
    pub(crate) fn new(completions: Completions, ticket: u64) -> Token {
        Token { completions, ticket }
    }
}

/// A job under way. What keeps its memory goes when the last call has ended and its ticket was drained.
pub(crate) struct Moving {
    progress: Mutex<Progress>,
    cancelled: Arc<AtomicBool>,
    token: Token,
    pub(crate) keep: Arc<Vec<Keep>>,
}

struct Progress {
    /// A byte for each block, 0 where there is nothing.
    done: Vec<u8>,
    /// Blocks whose outcome is not known: when there are none, the token is told.
    left: usize,
}

/// Some blocks of a job. When it goes without an answer, there is nothing.
pub(crate) struct Part {
    pub(crate) moving: Arc<Moving>,
    pub(crate) some: Range<usize>,
}

/// What is handed over at once.
pub(crate) struct Batch {
    pub(crate) hashes: Arc<Vec<u8>>,
    pub(crate) width: usize,
    /// Behind every hash.
    pub(crate) suffix: Arc<[u8]>,
    pub(crate) memory: Memory,
    pub(crate) call_blocks: usize,
    pub(crate) put: Option<BatchPut>,
}

pub(crate) struct BatchPut {
    pub(crate) about: About,
    /// Of all blocks if they follow one another, or else of those of each call.
    pub(crate) places: Vec<Place>,
    pub(crate) shares: Arc<Shares>,
}

/// Where blocks that follow one another are in their sequence: the position of the first, and the hash of the one before.
#[derive(Clone, Default)]
pub(crate) struct Place {
    pub(crate) position: Option<u32>,
    pub(crate) parent: Option<Vec<u8>>,
}

/// One call.
struct Call {
    part: Part,
    hashes: Arc<Vec<u8>>,
    width: usize,
    suffix: Arc<[u8]>,
    /// Its hashes.
    some: Range<usize>,
    memory: Memory,
    put: Option<(About, Place, Arc<Shares>)>,
}

impl Batch {
    /// Makes it, in several calls, the first of them here.
    pub(crate) fn make(self, part: Part, handle: &NamespaceHandle, space: &AsyncNamespace) {
        if self.put.is_none() && !self.memory.is_disjoint() {
            return;
        }
        // What the wait in line has left of the deadline is what the others have, too.
        let space = space.of(handle);
        let calls = self.calls(part);
        let mut calls = calls.into_iter();
        let first = calls.next();
        for call in calls {
            space.unanswered(move |handle| call.make(handle));
        }
        if let Some(first) = first {
            first.make(handle);
        }
    }

    fn calls(self, part: Part) -> Vec<Call> {
        let mut rest = part;
        let mut begin = 0;
        let parts = self.memory.split(self.call_blocks).into_iter().enumerate();
        let call = |(number, memory): (usize, Memory)| {
            let some = begin..begin + memory.count();
            begin = some.end;
            let put = self.put.as_ref().map(|put| (put.about, put.place(number, some.start), put.shares.clone()));
            Call {
                part: rest.split_off(some.len()),
                hashes: self.hashes.clone(),
                width: self.width,
                suffix: self.suffix.clone(),
                some,
                memory,
                put,
            }
        };
        parts.map(call).collect()
    }
}

impl BatchPut {
    /// Of the call of that number, which begins with that block.
    fn place(&self, number: usize, first: usize) -> Place {
        match self.places.get(number) {
            Some(place) => place.clone(),
            None => {
                // Its parent is made with its own keys.
                let position = self.places.first().and_then(|place| place.position);
                Place { position: position.map(|position| position.saturating_add(first as u32)), parent: None }
            }
        }
    }
}

impl Call {
    fn make(mut self, handle: &NamespaceHandle) {
        let cancelled = self.part.moving.cancelled.clone();
        let states = cancellable(cancelled, || self.moved(handle));
        let Call { part, memory, .. } = self;
        drop(memory);
        part.answer(&states);
    }

    fn moved(&mut self, handle: &NamespaceHandle) -> Vec<u8> {
        let key = |row: &[u8]| match self.suffix.is_empty() {
            true => handle.derive_key(row),
            false => handle.derive_key(&[row, &self.suffix].concat()),
        };
        let keys = |some: Range<usize>| -> Vec<Key> {
            let rows = self.hashes[some.start * self.width..some.end * self.width].chunks_exact(self.width);
            rows.map(key).collect()
        };
        let mine = keys(self.some.clone());
        match &self.put {
            None => {
                let results = self.memory.fill(handle, &mine);
                whole(&results, &self.memory.lengths())
            }
            Some((about, place, shares)) => {
                let own = place.parent.as_ref().map(|parent| key(parent));
                let before = || self.some.start.checked_sub(1).and_then(|at| keys(at..at + 1).pop());
                let parent = own.or_else(|| place.position.and_then(|_| before()));
                let about = About { parent, position: place.position, ..*about };
                let outcomes = handle.put_blocks(blocks(&mine, &self.memory, shares, about));
                outcomes.into_iter().map(kept).collect()
            }
        }
    }
}

impl Part {
    /// The first so many of them, apart.
    fn split_off(&mut self, count: usize) -> Part {
        let some = self.some.start..self.some.end.min(self.some.start + count);
        self.some.start = some.end;
        Part { moving: self.moving.clone(), some }
    }

    fn answer(mut self, states: &[u8]) {
        let count = self.some.len().min(states.len());
        let mut mine = self.split_off(count);
        self.moving.answer(&mine.some, &states[..count]);
        mine.some.start = mine.some.end;
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.some.is_empty() {
            self.moving.answer(&self.some, &[]);
        }
    }
}

impl Moving {
    pub(crate) fn new(count: usize, token: Token, keep: Arc<Vec<Keep>>) -> Arc<Moving> {
        if count == 0 {
            token.completions.tell(token.ticket);
        }
        let progress = Mutex::new(Progress { done: vec![0; count], left: count });
        Arc::new(Moving { progress, cancelled: Arc::default(), token, keep })
    }

    pub(crate) fn cancelled(&self) -> &Arc<AtomicBool> {
        &self.cancelled
    }

    /// What became of each block.
    pub(crate) fn done(&self) -> Vec<u8> {
        std::mem::take(&mut self.lock().done)
    }

    /// What became of some blocks; nothing, of those that nothing is said of.
    fn answer(&self, some: &Range<usize>, states: &[u8]) {
        let mut progress = self.lock();
        for (done, state) in progress.done[some.clone()].iter_mut().zip(states) {
            *done = *state;
        }
        progress.left -= some.len();
        if progress.left == 0 {
            drop(progress);
            self.token.completions.tell(self.token.ticket);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

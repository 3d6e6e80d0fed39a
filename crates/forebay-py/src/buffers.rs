//! Python's memory as slices, and the only way to it: whoever holds a [`Memory`] holds the exports that keep its bytes where they are.
#![expect(unsafe_code, reason = "the buffer protocol hands out pointers")]

use std::ops::Range;
use std::sync::{Arc, Mutex, Weak};

use forebay_client::{IntoError, NamespaceHandle, PutBytes, Slice};
use forebay_types::Key;
use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;

use crate::errors::invalid;
use crate::region::{Region, Spans};

/// What keeps memory in place. Dropping it needs the GIL, which it takes by itself.
#[expect(dead_code, reason = "held, not read")]
pub(crate) enum Keep {
    Buffer(PyUntypedBuffer),
    Region(Py<Region>),
    /// That of the memory that this was split from.
    Shared(Arc<Vec<Keep>>),
}

#[derive(Clone, Copy)]
struct Span {
    at: *mut u8,
    len: usize,
}

/// One or more spans of memory that somebody in Python owns.
///
/// It does not move and is not freed while this is held. Its bytes may still be changed by other threads: that is the caller's to avoid, as with
/// any call that releases the GIL (`file.readinto`, `hashlib`), and the worst of it is a block that is refused or bytes that are not what was got.
pub(crate) struct Memory {
    spans: Vec<Span>,
    /// Spans of one block, which follow one another.
    per_block: usize,
    readonly: bool,
    keep: Vec<Keep>,
}

// SAFETY: the pointers are into exported buffers, which the exporter may not move or free while the export is held, on whatever thread; exports
// themselves are `Send`.
unsafe impl Send for Memory {}
// SAFETY: as above; a shared reference gives shared slices only.
unsafe impl Sync for Memory {}

impl Memory {
    /// The memory of each object of a sequence, or the spans of a region.
    pub(crate) fn many(given: &Bound<'_, PyAny>) -> PyResult<Memory> {
        let py = given.py();
        let mut memory = Memory { spans: Vec::new(), per_block: 1, readonly: false, keep: Vec::new() };
        if let Ok(spans) = given.cast::<Spans>() {
            let places = spans.get().places();
            memory.per_block = places.len().max(1);
            let blocks = places.first().map_or(0, |(_, ranges)| ranges.len());
            for block in 0..blocks {
                let of_block = places.iter().map(|(region, ranges)| region.bind(py).get().span(&ranges[block]));
                memory.spans.extend(of_block.map(Span::from));
            }
            for (region, _) in places {
                memory.readonly |= region.bind(py).get().is_readonly();
                memory.keep.push(Keep::Region(region.clone_ref(py)));
            }
            return Ok(memory);
        }
        for item in given.try_iter()? {
            memory.add(&item?)?;
        }
        Ok(memory)
    }

    /// Gives the bytes of an item.
    fn add(&mut self, given: &Bound<'_, PyAny>) -> PyResult<usize> {
        let buffer = PyUntypedBuffer::get(given)?;
        if !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err(
                "this memory is not contiguous: a block is one run of bytes; pass a contiguous view, or a copy",
            ));
        }
        self.readonly |= buffer.readonly();
        self.spans.push(Span { at: buffer.buf_ptr().cast(), len: buffer.len_bytes() });
        let item_bytes = buffer.item_size();
        self.keep.push(Keep::Buffer(buffer));
        Ok(item_bytes)
    }

    /// Blocks.
    pub(crate) fn count(&self) -> usize {
        self.spans.len() / self.per_block
    }

    /// Bytes that each block has room for.
    pub(crate) fn lengths(&self) -> Vec<usize> {
        self.spans.chunks(self.per_block).map(|places| places.iter().map(|place| place.len).sum()).collect()
    }

    /// Complains unless there is memory of one block for each key.
    pub(crate) fn for_keys(self, py: Python<'_>, keys: usize) -> PyResult<Memory> {
        if self.count() == keys {
            return Ok(self);
        }
        Err(invalid(py, format!("there are {keys} keys and {} buffers: pass one buffer for each key", self.count())))
    }

    /// Complains unless blocks can be written there, each into memory of its own.
    pub(crate) fn writable(self, py: Python<'_>) -> PyResult<Memory> {
        if self.readonly {
            return Err(invalid(py, "this memory is read-only, and blocks are to be written there"));
        }
        if !self.is_disjoint() {
            return Err(invalid(py, "two of the buffers overlap: each block needs memory of its own"));
        }
        Ok(self)
    }

    /// Whether each block has memory of its own.
    pub(crate) fn is_disjoint(&self) -> bool {
        let mut starts: Vec<(usize, usize)> = self.spans.iter().map(|span| (span.at.addr(), span.len)).collect();
        if !starts.is_sorted() {
            starts.sort_unstable();
        }
        !starts.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0 && pair[1].1 > 0)
    }

    /// Rows of a region that `keep` keeps, of so many bytes each; nothing where one lies outside. To be written only if [`Self::is_disjoint`].
    pub(crate) fn rows(region: &Region, keep: &Arc<Vec<Keep>>, numbers: &[u64], nbytes: usize) -> Option<Memory> {
        let span = |number: &u64| region.row(*number, nbytes).map(Span::from);
        let spans = numbers.iter().map(span).collect::<Option<Vec<_>>>()?;
        let keep = vec![Keep::Shared(keep.clone())];
        Some(Memory { spans, per_block: 1, readonly: region.is_readonly(), keep })
    }

    /// The same as several, of at most so many blocks each, which keep it together.
    pub(crate) fn split(self, blocks: usize) -> Vec<Memory> {
        let keep = Arc::new(self.keep);
        let some = |spans: &[Span]| Memory {
            spans: spans.to_vec(),
            per_block: self.per_block,
            readonly: self.readonly,
            keep: vec![Keep::Shared(keep.clone())],
        };
        self.spans.chunks(blocks * self.per_block).map(some).collect()
    }

    /// The bytes, to be read.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        self.spans.iter().map(|span| span.slice())
    }

    /// The bytes, to be written. Only of what [`Self::writable`] has let pass.
    fn slices_mut(&mut self) -> Vec<&mut [u8]> {
        let readonly = self.readonly;
        let one = |span: &Span| match span.len {
            len if len > 0 && !readonly => {
                // SAFETY: the span is exported writable, stays in place while `self` is borrowed, and overlaps no other (`writable`); `&mut self`
                // keeps any other slice of this export away.
                unsafe { std::slice::from_raw_parts_mut(span.at, len) }
            }
            // A pointer to no bytes may be null.
            _ => &mut [],
        };
        self.spans.iter().map(one).collect()
    }

    /// Blocks into this memory, which [`Self::writable`] has let pass.
    pub(crate) fn fill(&mut self, handle: &NamespaceHandle, keys: &[Key]) -> Vec<Result<usize, IntoError>> {
        let per_block = self.per_block;
        let mut slices = self.slices_mut();
        if per_block == 1 {
            return handle.get_into(keys, &mut slices);
        }
        let mut slices = slices.into_iter();
        let mut places: Vec<Vec<&mut [u8]>> = keys.iter().map(|_| slices.by_ref().take(per_block).collect()).collect();
        handle.get_scattered(keys, &mut places)
    }

    /// What is put: where it lies in a region of the client, the node reads it from there.
    pub(crate) fn put_bytes<'m>(&'m self, shares: &Shares) -> Vec<PutBytes<'m>> {
        if self.per_block > 1 {
            let blocks = self.spans.chunks(self.per_block);
            return blocks.map(|places| PutBytes::Scattered(places.iter().map(Span::slice).collect())).collect();
        }
        let one = |span: &'m Span| match shares.find(span.at.addr(), span.len) {
            Some((slice, range)) => PutBytes::Shared(slice, range),
            None => PutBytes::from(span.slice()),
        };
        self.spans.iter().map(one).collect()
    }
}

impl From<(*mut u8, usize)> for Span {
    fn from((at, len): (*mut u8, usize)) -> Self {
        Span { at, len }
    }
}

impl Span {
    fn slice(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: the span is exported, so it stays in place while the `Memory` is held that this borrows from; see there for writers.
        unsafe { std::slice::from_raw_parts(self.at, self.len) }
    }
}

/// One buffer, to be read while the GIL is held or not.
pub(crate) struct Source(Memory);

impl Source {
    pub(crate) fn new(given: &Bound<'_, PyAny>) -> PyResult<Source> {
        Self::with_items(given).map(|(source, _)| source)
    }

    /// And the bytes of each of its items.
    pub(crate) fn with_items(given: &Bound<'_, PyAny>) -> PyResult<(Source, usize)> {
        let mut memory = Memory { spans: Vec::new(), per_block: 1, readonly: false, keep: Vec::new() };
        let item_bytes = memory.add(given)?;
        Ok((Source(memory), item_bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.slices().next().unwrap_or_default()
    }

    /// A copy, for what is small and must not change any more.
    pub(crate) fn copied(&self) -> Vec<u8> {
        self.bytes().to_vec()
    }
}

/// The regions that Python has from one client, so that a NumPy array or a memoryview inside one is known for what it is.
#[derive(Default)]
pub(crate) struct Shares(Mutex<Vec<Share>>);

struct Share {
    start: usize,
    len: usize,
    slice: Weak<Slice>,
}

impl Shares {
    pub(crate) fn add(&self, slice: &Arc<Slice>) {
        let mut shares = self.lock();
        shares.retain(|share| share.slice.strong_count() > 0);
        shares.push(Share { start: slice.as_ptr().addr(), len: slice.len(), slice: Arc::downgrade(slice) });
    }

    fn find(&self, at: usize, len: usize) -> Option<(Arc<Slice>, Range<usize>)> {
        let shares = self.lock();
        let inside = |share: &&Share| at >= share.start && at - share.start + len <= share.len;
        let share = shares.iter().find(inside)?;
        let start = at - share.start;
        Some((share.slice.upgrade()?, start..start + len))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Share>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Of so many things `count` from number `first` on, or all behind it; nothing where there are fewer.
pub(crate) fn range_of(all: usize, first: usize, count: Option<usize>) -> Option<Range<usize>> {
    let end = count.map_or(Some(all), |count| first.checked_add(count))?;
    (first <= end && end <= all).then_some(first..end)
}

//! Waiting for a disk, for formatting and opening only: before a store is open nobody waits for anything else.

use forebay_io::{Arena, Buf, Disk, DiskDone, DiskError, DiskOp, ReadInto};

use crate::face::StoreError;

/// Bytes of reads in flight at once, arena permitting.
const IN_FLIGHT_BYTES: usize = 16 << 20;

fn failed(doing: &'static str) -> impl Fn(DiskError) -> StoreError {
    move |source| StoreError::Disk { doing, source }
}

fn no_memory(arena: &Arena, need: usize) -> StoreError {
    StoreError::Memory { need: need as u64, found: arena.len() as u64 }
}

/// Reads every `(offset, length)`, many at once, and hands each over as it comes, by its place in the list.
pub(crate) fn read_many(
    disk: &mut impl Disk,
    arena: &Arena,
    list: &[(u64, usize)],
    mut each: impl FnMut(usize, Result<Buf, DiskError>),
) -> Result<(), StoreError> {
    let depth = disk.info().depth;
    let (mut next, mut left, mut bytes) = (0, list.len(), 0);
    let mut done: Vec<DiskDone> = Vec::new();
    while left > 0 {
        while next < list.len() && disk.in_flight() < depth {
            let (offset, len) = list[next];
            if bytes > 0 && bytes + len > IN_FLIGHT_BYTES {
                break;
            }
            let Some(buf) = arena.alloc(len) else {
                if bytes > 0 {
                    break;
                }
                return Err(no_memory(arena, len));
            };
            if disk.submit(DiskOp::Read { token: next as u64, offset, into: ReadInto::Buf(buf) }).is_err() {
                break;
            }
            bytes += len;
            next += 1;
        }
        done.clear();
        disk.wait(&mut done);
        for DiskDone { token, result, read } in done.drain(..) {
            let at = token as usize;
            left -= 1;
            bytes -= list[at].1;
            match (result, read) {
                (Ok(()), Some(ReadInto::Buf(buf))) => each(at, Ok(buf)),
                (Err(error), _) => each(at, Err(error)),
                (Ok(()), _) => each(at, Err(DiskError::Short)),
            }
        }
    }
    Ok(())
}

/// Reads `len` bytes.
pub(crate) fn read_one(
    disk: &mut impl Disk,
    arena: &Arena,
    offset: u64,
    len: usize,
) -> Result<Result<Buf, DiskError>, StoreError> {
    let mut found = Err(DiskError::Short);
    read_many(disk, arena, &[(offset, len)], |_, result| found = result)?;
    Ok(found)
}

/// Writes every `(offset, bytes)`; lengths are multiples of the alignment.
pub(crate) fn write_all(
    disk: &mut impl Disk,
    arena: &Arena,
    doing: &'static str,
    list: &[(u64, &[u8])],
) -> Result<(), StoreError> {
    for (offset, bytes) in list {
        let mut buf = arena.alloc(bytes.len()).ok_or_else(|| no_memory(arena, bytes.len()))?;
        buf.copy_from_slice(bytes);
        run(disk, DiskOp::write(0, *offset, buf.freeze())).map_err(failed(doing))?;
    }
    Ok(())
}

/// Flushes.
pub(crate) fn flush(disk: &mut impl Disk, doing: &'static str) -> Result<(), StoreError> {
    run(disk, DiskOp::Flush { token: 0 }).map_err(failed(doing))
}

fn run(disk: &mut impl Disk, op: DiskOp) -> Result<(), DiskError> {
    debug_assert_eq!(disk.in_flight(), 0);
    if disk.submit(op).is_err() {
        return Err(DiskError::Short);
    }
    let mut done = Vec::new();
    while done.is_empty() {
        disk.wait(&mut done);
    }
    done.into_iter().try_for_each(|one| one.result)
}

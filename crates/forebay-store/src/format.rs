//! Making an empty shard of a slice.

use forebay_format::layout::{NAMESPACE_TABLES_AT, SLICE_SUPERBLOCKS_AT};
use forebay_format::{Features, NamespaceTable, SEGMENT_HEADER_BYTES, SliceLayout, SliceSuperblock, VERSION};
use forebay_io::{Arena, Disk};

use crate::blocking::{flush, write_all};
use crate::face::{FormatParams, StoreError};

/// Makes an empty shard of a slice. Whatever was there is gone.
///
/// The superblocks are wiped first and written last, so that a formatting that is cut off leaves nothing that looks whole; headers of an older shard's
/// segments are wiped in between.
pub fn format_slice(disk: &mut impl Disk, arena: &Arena, params: &FormatParams) -> Result<(), StoreError> {
    let info = disk.info();
    let layout = SliceLayout::new(info.len, info.align, params.segment_bytes)?;
    let doing = "formatting";
    let blank = vec![0; SEGMENT_HEADER_BYTES];
    let wipe: Vec<(u64, &[u8])> = SLICE_SUPERBLOCKS_AT.iter().map(|at| (*at, &blank[..])).collect();
    write_all(disk, arena, doing, &wipe)?;
    flush(disk, doing)?;
    let table = NamespaceTable::default().encode().map_err(|e| StoreError::Format(e.to_string()))?;
    let mut rest: Vec<(u64, &[u8])> = NAMESPACE_TABLES_AT.iter().map(|at| (*at, &table[..])).collect();
    rest.extend((0..layout.segments).map(|i| (layout.segment_at(i), &blank[..])));
    write_all(disk, arena, doing, &rest)?;
    flush(disk, doing)?;
    let superblock = SliceSuperblock {
        version: VERSION,
        features: Features::default(),
        shard: params.shard,
        slice_index: params.slice_index,
        align: info.align as u32,
        segment_bytes: layout.segment_bytes,
        segments: layout.segments,
        created_utc_s: params.utc_s,
    };
    let page = superblock.encode();
    let both: Vec<(u64, &[u8])> = SLICE_SUPERBLOCKS_AT.iter().map(|at| (*at, &page[..])).collect();
    write_all(disk, arena, doing, &both)?;
    flush(disk, doing)
}

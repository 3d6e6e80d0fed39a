//! Superblocks: what a drive and each of its slices are. Written when they are formatted, twice, and never changed after.

use forebay_types::ShardId;

use crate::bytes::{PAGE_BYTES, array_at, check_page, put, put_u32, put_u64, seal_page, u32_at, u64_at};
use crate::layout::{GRAIN_BYTES, SEGMENTS_BASE, SLICES_BASE, SLICES_MAX};
use crate::{DriveLayout, FormatError, SliceLayout};

/// Version of the format that this build writes, and the newest it reads.
pub const VERSION: u32 = 1;
/// Bytes of a superblock.
pub const SUPERBLOCK_BYTES: usize = PAGE_BYTES;

const DRIVE_MAGIC: &[u8; 8] = b"fbyDRIVE";
const SLICE_MAGIC: &[u8; 8] = b"fbySLICE";
const DRIVE: &str = "drive superblock";
const SLICE: &str = "shard superblock";

/// Feature bits. None is defined yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// Unknown bits may be ignored.
    pub compat: u64,
    /// Unknown bits mean that the rest cannot be read.
    pub incompat: u64,
}

impl Features {
    /// Bits of `incompat` that this build knows.
    pub const INCOMPAT_KNOWN: u64 = 0;
}

/// What a drive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DriveSuperblock {
    /// Format version.
    pub version: u32,
    /// Feature bits.
    pub features: Features,
    /// The drive's own name, random.
    pub drive_uuid: [u8; 16],
    /// Number of slices.
    pub slices: u32,
    /// What records are padded to, in bytes.
    pub align: u32,
    /// Bytes of each slice.
    pub slice_len: u64,
    /// When it was formatted, seconds since 1970.
    pub created_utc_s: u64,
}

/// What a slice is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceSuperblock {
    /// Format version.
    pub version: u32,
    /// Feature bits.
    pub features: Features,
    /// The shard that lives here. Placement hashes it.
    pub shard: ShardId,
    /// Which slice of its drive it was formatted as.
    pub slice_index: u32,
    /// What records are padded to, in bytes.
    pub align: u32,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Number of segments.
    pub segments: u32,
    /// When it was formatted, seconds since 1970.
    pub created_utc_s: u64,
}

fn encode_head(magic: &[u8; 8], version: u32, features: Features, uuid: &[u8; 16]) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    put(&mut page, 0, magic);
    put_u32(&mut page, 8, version);
    put_u64(&mut page, 16, features.compat);
    put_u64(&mut page, 24, features.incompat);
    put(&mut page, 32, uuid);
    page
}

/// Magic, checksum, version and features lie at the same places in every version to come, so that a newer one is told from a broken one.
fn decode_head(page: &[u8], magic: &[u8; 8], what: &'static str) -> Result<(u32, Features, [u8; 16]), FormatError> {
    check_page(page, magic, what)?;
    let found = u32_at(page, 8);
    if found == 0 {
        return Err(FormatError::Malformed { what, why: "version 0 was never written" });
    }
    if found > VERSION {
        return Err(FormatError::NewerVersion { what, found, known: VERSION });
    }
    let features = Features { compat: u64_at(page, 16), incompat: u64_at(page, 24) };
    let bits = features.incompat & !Features::INCOMPAT_KNOWN;
    if bits != 0 {
        return Err(FormatError::UnknownFeatures { what, bits });
    }
    Ok((found, features, array_at(page, 32)))
}

impl DriveSuperblock {
    /// The page.
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut page = encode_head(DRIVE_MAGIC, self.version, self.features, &self.drive_uuid);
        put_u32(&mut page, 48, self.slices);
        put_u32(&mut page, 52, self.align);
        put_u64(&mut page, 56, self.slice_len);
        put_u64(&mut page, 64, self.created_utc_s);
        seal_page(&mut page);
        page
    }

    /// From its page.
    pub fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let (version, features, drive_uuid) = decode_head(page, DRIVE_MAGIC, DRIVE)?;
        let found = DriveSuperblock {
            version,
            features,
            drive_uuid,
            slices: u32_at(page, 48),
            align: u32_at(page, 52),
            slice_len: u64_at(page, 56),
            created_utc_s: u64_at(page, 64),
        };
        let malformed = |why| FormatError::Malformed { what: DRIVE, why };
        if found.slices == 0 || found.slices > SLICES_MAX {
            return Err(malformed("a drive has 1 to 1024 slices"));
        }
        if found.slice_len == 0 || !found.slice_len.is_multiple_of(GRAIN_BYTES) {
            return Err(malformed("a slice is a multiple of 1 MiB"));
        }
        if found.slice_len.checked_mul(found.slices.into()).and_then(|all| all.checked_add(SLICES_BASE)).is_none() {
            return Err(malformed("its slices have more bytes than there are numbers"));
        }
        if !found.align.is_power_of_two() || !(512..=4096).contains(&found.align) {
            return Err(malformed("its alignment is not a power of two between 512 and 4096"));
        }
        Ok(found)
    }

    /// From its two pages: either will do. Two good ones that differ mean that formatting was cut off.
    pub fn choose(first: &[u8], second: &[u8]) -> Result<Self, FormatError> {
        choose(Self::decode(first), Self::decode(second), DRIVE)
    }

    /// How a drive of `len` bytes, as it is found now, is divided.
    pub fn layout(&self, len: u64) -> Result<DriveLayout, FormatError> {
        let layout = DriveLayout { slices: self.slices, base: SLICES_BASE, slice_len: self.slice_len };
        if layout.base + u64::from(self.slices) * self.slice_len > len {
            return Err(FormatError::Malformed {
                what: DRIVE,
                why: "its slices need more bytes than the drive has now",
            });
        }
        Ok(layout)
    }
}

impl SliceSuperblock {
    /// The page.
    pub fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        let mut page = encode_head(SLICE_MAGIC, self.version, self.features, &self.shard.0);
        put_u32(&mut page, 48, self.slice_index);
        put_u32(&mut page, 52, self.align);
        put_u64(&mut page, 56, self.segment_bytes);
        put_u32(&mut page, 64, self.segments);
        put_u64(&mut page, 72, self.created_utc_s);
        seal_page(&mut page);
        page
    }

    /// From its page.
    pub fn decode(page: &[u8]) -> Result<Self, FormatError> {
        let (version, features, shard) = decode_head(page, SLICE_MAGIC, SLICE)?;
        let found = SliceSuperblock {
            version,
            features,
            shard: ShardId(shard),
            slice_index: u32_at(page, 48),
            align: u32_at(page, 52),
            segment_bytes: u64_at(page, 56),
            segments: u32_at(page, 64),
            created_utc_s: u64_at(page, 72),
        };
        // Laying out the fewest bytes that hold it checks every bound in one place.
        let layout = found
            .segment_bytes
            .checked_mul(found.segments.into())
            .and_then(|bytes| bytes.checked_add(SEGMENTS_BASE))
            .and_then(|len| SliceLayout::new(len, found.align as usize, Some(found.segment_bytes)).ok());
        match layout {
            Some(layout) if layout.segments == found.segments => Ok(found),
            _ => Err(FormatError::Malformed { what: SLICE, why: "its segments or its alignment are out of bounds" }),
        }
    }

    /// From its two pages, as [`DriveSuperblock::choose`].
    pub fn choose(first: &[u8], second: &[u8]) -> Result<Self, FormatError> {
        choose(Self::decode(first), Self::decode(second), SLICE)
    }

    /// How a slice of `len` bytes on a drive aligned to `align` is divided. The superblock's own alignment counts; the drive's must not be coarser.
    pub fn layout(&self, len: u64, align: usize) -> Result<SliceLayout, FormatError> {
        let malformed = |why| FormatError::Malformed { what: SLICE, why };
        if align > self.align as usize {
            return Err(malformed("it was formatted on a drive with a finer alignment than this one has"));
        }
        let layout =
            SliceLayout { len, align: self.align as usize, segment_bytes: self.segment_bytes, segments: self.segments };
        if layout.segment_at(self.segments - 1) + self.segment_bytes > len {
            return Err(malformed("its segments need more bytes than the slice has"));
        }
        Ok(layout)
    }
}

/// One good copy will do. With none, what is told is what is most worth knowing: a newer format before damage, damage before nothing.
fn choose<T: PartialEq>(
    first: Result<T, FormatError>,
    second: Result<T, FormatError>,
    what: &'static str,
) -> Result<T, FormatError> {
    let newer = |e: &FormatError| matches!(e, FormatError::NewerVersion { .. } | FormatError::UnknownFeatures { .. });
    match (first, second) {
        (Ok(a), Ok(b)) if a == b => Ok(a),
        (Ok(_), Ok(_)) => Err(FormatError::Malformed { what, why: "its two copies differ: formatting was cut off" }),
        (Ok(_), Err(other)) | (Err(other), Ok(_)) if newer(&other) => Err(other),
        (Ok(one), Err(_)) | (Err(_), Ok(one)) => Ok(one),
        (Err(a), Err(b)) => {
            let weight = |e: &FormatError| match e {
                _ if newer(e) => 3,
                FormatError::NotForebay(_) => 1,
                FormatError::Blank(_) => 0,
                _ => 2,
            };
            Err(if weight(&a) >= weight(&b) { a } else { b })
        }
    }
}

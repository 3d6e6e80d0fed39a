//! Kinds of regions, as `RegionAdd` tells them.

/// Whose memory a region is, and what may be done there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionKind {
    /// The engine's: the node reads there, or copies there.
    Borrowed = 0,
    /// Allocated by the client library for landings: drives may write there.
    Owned = 1,
    /// The engine's, lent for landings: drives may write there.
    Lent = 2,
}

impl RegionKind {
    /// All of them.
    pub const ALL: [RegionKind; 3] = [RegionKind::Borrowed, RegionKind::Owned, RegionKind::Lent];

    /// Whether drives may write there.
    pub fn is_for_landings(self) -> bool {
        self != RegionKind::Borrowed
    }
}

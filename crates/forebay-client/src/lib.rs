//! What applications link: placement, deadlines, verification

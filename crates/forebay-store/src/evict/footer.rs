//! A victim's footer: read, and checked a few entries a turn before they are looked up.

use forebay_format::{FOOTER_TAIL_BYTES, FooterTail};
use forebay_io::{Disk, DiskError, ReadInto};

use super::Phase;
use crate::scrub::CHECKS_PER_TURN;
use crate::store::Store;

impl<D: Disk> Store<D> {
    pub(crate) fn victim_footer_done(&mut self, result: Result<(), DiskError>, read: Option<ReadInto>) {
        let Some(cleaning) = &mut self.cleaning else { return };
        let s = self.segments.get(cleaning.victim);
        let begun = match (result, read) {
            (Ok(()), Some(ReadInto::Buf(buf))) => buf
                .len()
                .checked_sub(FOOTER_TAIL_BYTES)
                .and_then(|at| FooterTail::decode(&buf[at..]).ok())
                .filter(|tail| tail.generation == s.generation && tail.nonce == s.nonce)
                .map(|tail| (buf, tail.check())),
            _ => None,
        };
        match begun {
            Some(footer) => (cleaning.footer, cleaning.phase) = (Some(footer), Phase::Checking),
            None => self.without_footer(),
        }
    }

    /// Checks a few entries of the victim's footer, and takes them.
    pub(super) fn check_step(&mut self) -> bool {
        let Some(cleaning) = &mut self.cleaning else { return false };
        let Some((buf, check)) = &mut cleaning.footer else { return false };
        match check.step(buf, CHECKS_PER_TURN) {
            Ok(false) => {}
            Ok(true) => cleaning.phase = Phase::Lookup,
            Err(_) => {
                cleaning.footer = None;
                self.without_footer();
            }
        }
        true
    }

    /// The victim's footer is no use.
    fn without_footer(&mut self) {
        let Some(cleaning) = &mut self.cleaning else { return };
        let s = self.segments.get_mut(cleaning.victim);
        if s.tombstone_seq_max > 0 {
            s.stuck = true;
            self.cleaning = None;
        } else {
            s.footer_count = None;
            cleaning.phase = Phase::Sweep;
        }
    }
}

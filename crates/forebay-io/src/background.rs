//! Threads that work for somebody who has better things to do.
//!
//! The kernel lets a thread that was just woken run at once in place of whoever woke it, which is right for a server and wrong for helpers of a
//! program that hands work over and goes on. The room does not know what the work is.

/// Tells the kernel that this thread is such a helper: it gets as much of the processors as before, but never takes one from a thread that runs.
/// False where that is not to be had, or the process runs under another policy than the usual one, which is left alone.
#[expect(unsafe_code, reason = "no safe wrapper for scheduling policies in the house")]
pub fn work_in_background() -> bool {
    let usual = libc::sched_param { sched_priority: 0 };
    // SAFETY: process 0 is the calling thread, and the kernel only reads `usual`, which is valid for reads.
    unsafe {
        libc::sched_getscheduler(0) == libc::SCHED_OTHER
            && libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const usual) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_of_the_thread_that_says_it_and_of_no_other() {
        #[expect(unsafe_code, reason = "asking the kernel")]
        // SAFETY: process 0 is the calling thread; nothing is read or written.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        if policy() != libc::SCHED_OTHER {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "a thread of the test's own")]
        let helper = std::thread::spawn(move || (work_in_background(), policy(), work_in_background()));
        assert_eq!(helper.join().unwrap(), (true, libc::SCHED_BATCH, false));
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}

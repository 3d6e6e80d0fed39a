//! Why a demo stopped, in one sentence.

use std::fmt;

/// One sentence: what happened, why, and what to try.
#[derive(Debug)]
pub(crate) struct DemoError(String);

impl DemoError {
    /// From the sentence.
    pub(crate) fn new(sentence: String) -> Self {
        DemoError(sentence.replace('\n', " "))
    }
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

//! Why a verb ends without being done, and the exit code that says so.

use std::process::ExitCode;

use crate::say;

/// Why a verb stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// It was asked rightly and could not: one sentence. Exit code 1.
    Failed(String),
    /// It was asked wrongly: one sentence. Exit code 2.
    Misused(String),
    /// It told already, item by item. Exit code 1.
    Told,
    /// Nobody reads the output any more, as in `forebay stat | head -1`. Exit code 0.
    Unread,
}

impl Stop {
    /// What it says.
    pub(crate) fn sentence(&self) -> &str {
        match self {
            Stop::Failed(sentence) | Stop::Misused(sentence) => sentence,
            Stop::Told | Stop::Unread => "",
        }
    }

    /// Tells the person and gives the exit code.
    pub(crate) fn tell(&self) -> ExitCode {
        match self {
            Stop::Failed(sentence) => {
                say::error(sentence);
                ExitCode::FAILURE
            }
            Stop::Misused(sentence) => {
                say::error(sentence);
                ExitCode::from(2)
            }
            Stop::Told => ExitCode::FAILURE,
            Stop::Unread => ExitCode::SUCCESS,
        }
    }
}

impl From<forebay_client::ClientError> for Stop {
    fn from(error: forebay_client::ClientError) -> Self {
        match error {
            // Names and fields come straight from what was typed.
            forebay_client::ClientError::Invalid(sentence) => Stop::Misused(sentence),
            error => Stop::Failed(error.to_string()),
        }
    }
}

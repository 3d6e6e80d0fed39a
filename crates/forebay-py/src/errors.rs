//! Errors of the client as exceptions of `forebay._errors`. The sentences are the client's own.

use forebay_client::ClientError;
use pyo3::prelude::*;
use pyo3::types::PyType;

/// The exception of that name, with this sentence.
pub(crate) fn named(py: Python<'_>, class: &str, text: impl Into<String>) -> PyErr {
    let class = py.import("forebay._errors").and_then(|module| module.getattr(class));
    match class.and_then(|class| class.cast_into::<PyType>().map_err(PyErr::from)) {
        Ok(class) => PyErr::from_type(class, text.into()),
        // The package is not whole; Python says how.
        Err(error) => error,
    }
}

/// A wrong argument.
pub(crate) fn invalid(py: Python<'_>, text: impl Into<String>) -> PyErr {
    named(py, "InvalidArgument", text)
}

/// An error of the client.
pub(crate) fn raised(py: Python<'_>, error: &ClientError) -> PyErr {
    let class = match error {
        ClientError::Connect { .. } => "ConnectionFailed",
        ClientError::Closed { .. } => "ConnectionBroken",
        ClientError::Credential { .. } => "CredentialRefused",
        ClientError::Version { .. } => "VersionMismatch",
        ClientError::NamespaceUnknown { .. } => "NamespaceUnknown",
        ClientError::NamespaceDiffers { .. } => "NamespaceDiffers",
        ClientError::NamespaceExists { .. } => "NamespaceExists",
        ClientError::Invalid(_) | ClientError::PlaceTaken { .. } => "InvalidArgument",
        ClientError::Refused { .. } => "NodeRefused",
        ClientError::Deadline { .. } => "DeadlineExceeded",
        ClientError::Forget { .. } => "ForgetFailed",
        ClientError::RegionFull { .. } => "RegionFull",
    };
    named(py, class, error.to_string())
}

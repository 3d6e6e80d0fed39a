//! `Client`: connections to a mesh.

use std::sync::Arc;

use forebay_client::{ClientError, Options};
use forebay_types::{Address, Class, Fingerprint};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::buffers::Shares;
use crate::call::{Rooted, blocking, deadline, interrupt};
use crate::errors::{invalid, raised};
use crate::namespace::Namespace;
use crate::queue::CallQueue;
use crate::region::Region;

/// Connections to a mesh, shared by everything made from it. Any number of threads may use one client, and a process may have many.
///
/// A forked child cannot use its parent's: whatever it does with it, or with what was made from it, raises ForkedClient.
///
/// Connects to a node. It may go and come again later: the client finds it by itself.
///
/// address: ``unix:PATH`` or ``tcp:HOST:PORT``.
/// token_file: file with the credential for TCP.
/// deadline_ms: how long a call may take unless it says itself; 5,000 by default, 60,000 at most.
/// region_bytes: most memory for blocks held and in flight; 256 MiB by default. Past it blocks come through sockets, which is slower.
/// patience_ms: how long a call tries to reach a node that is down before it answers ``unavailable``; 250 by default.
/// connections: most connections to one shard; 16 by default.
/// spin_us: longest spin before a wait; 150 by default, 0 never spins.
/// block_bytes_hint: length that blocks are expected to have before the first one was seen; 64 KiB by default.
///
/// Raises ConnectionFailed, CredentialRefused, VersionMismatch, DeadlineExceeded, InvalidArgument.
#[pyclass(frozen, module = "forebay")]
pub(crate) struct Client {
    client: Rooted<forebay_client::Client>,
    shares: Arc<Shares>,
}

impl Client {
    pub(crate) fn rust(&self, py: Python<'_>) -> PyResult<&forebay_client::Client> {
        self.client.get(py)
    }
}

#[pymethods]
impl Client {
    #[new]
    #[pyo3(signature = (address, *, token_file=None, deadline_ms=None, region_bytes=None, patience_ms=None, connections=None, spin_us=None, block_bytes_hint=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python constructor")]
    fn new(
        py: Python<'_>,
        address: &str,
        token_file: Option<std::path::PathBuf>,
        deadline_ms: Option<f64>,
        region_bytes: Option<usize>,
        patience_ms: Option<f64>,
        connections: Option<usize>,
        spin_us: Option<u32>,
        block_bytes_hint: Option<usize>,
    ) -> PyResult<Client> {
        let address: Address = address.parse().map_err(|e| invalid(py, format!("{e}")))?;
        let mut options = Options { interrupt: Some(interrupt()), ..Options::default() };
        if let Some(path) = token_file {
            let token = std::fs::read(&path).map_err(|e| {
                let path = path.display();
                invalid(
                    py,
                    format!("the token file {path} cannot be read: {e}; the node's `serve --token-file` names it"),
                )
            })?;
            options.token = Some(token.trim_ascii_end().to_vec());
        }
        if let Some(ms) = deadline_ms {
            options.deadline = deadline(py, ms)?;
        }
        if let Some(ms) = patience_ms {
            options.patience = deadline(py, ms)?;
        }
        options.region_bytes = region_bytes.unwrap_or(options.region_bytes);
        options.connections = connections.unwrap_or(options.connections);
        options.spin_us = spin_us.unwrap_or(options.spin_us);
        options.block_bytes_hint = block_bytes_hint.unwrap_or(options.block_bytes_hint);
        let client = blocking(py, || forebay_client::Client::connect(&address, options))?;
        let client = client.map_err(|error| raised(py, &error))?;
        Ok(Client { client: Rooted::new(client), shares: Arc::default() })
    }

    /// Where it is connected to, as ``unix:PATH`` or ``tcp:HOST:PORT``.
    #[getter]
    fn address(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.rust(py)?.address().to_string())
    }

    /// Opens a namespace; with ``create``, makes it first if it is not there.
    ///
    /// fingerprint: what makes its blocks interchangeable. A namespace that was made with another one is refused. None expects nothing.
    /// cls: the promise it makes: ``cache`` may lose blocks, ``durable`` may not. Only looked at with ``create``.
    /// quota: most bytes on drives, with padding. Only looked at with ``create``.
    /// ttl_s: seconds that its blocks live unless their put says otherwise. Only looked at with ``create``.
    ///
    /// Raises NamespaceUnknown, NamespaceDiffers, NamespaceExists, InvalidArgument, ConnectionBroken, DeadlineExceeded.
    #[pyo3(signature = (name, /, *, create=false, fingerprint=None, cls="cache", quota=None, ttl_s=None))]
    #[expect(clippy::too_many_arguments, reason = "keywords of a Python method")]
    fn namespace(
        &self,
        py: Python<'_>,
        name: &str,
        create: bool,
        fingerprint: Option<&Bound<'_, PyAny>>,
        cls: &str,
        quota: Option<u64>,
        ttl_s: Option<u32>,
    ) -> PyResult<Namespace> {
        let client = self.rust(py)?;
        let class = Class::from_word(cls)
            .ok_or_else(|| invalid(py, format!("a namespace's class is \"cache\" or \"durable\", not {cls:?}")))?;
        let fingerprint = fingerprint.map_or(Ok(Fingerprint::default()), as_fingerprint)?;
        let open = || match create {
            true => client.create_expiring_namespace(name, class, quota, ttl_s, &fingerprint),
            false => client.namespace_expecting(name, &fingerprint),
        };
        let handle = blocking(py, open)?.map_err(|error| raised(py, &error))?;
        Ok(Namespace::new(handle, self.shares.clone()))
    }

    /// The tenant's namespaces, as ``Namespace.describe`` gives them.
    ///
    /// Raises ConnectionBroken, DeadlineExceeded, ForkedClient.
    fn namespaces<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let all = self.control(py, forebay_client::Client::list_namespaces)?;
        all.iter().map(|namespace| crate::namespace::described(py, namespace)).collect()
    }

    /// Deletes a namespace and forgets its blocks.
    ///
    /// Raises NamespaceUnknown, ConnectionBroken, DeadlineExceeded, ForkedClient.
    #[pyo3(signature = (name, /))]
    fn delete_namespace(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        self.control(py, |client| client.delete_namespace(name))
    }

    /// Memory of the library's own: what is put from there is not copied on the way to a node of this machine. It counts against
    /// ``region_bytes`` until it and all views of it are gone. Its bytes are whatever was there.
    ///
    /// nbytes: its length, 1 or more.
    ///
    /// Raises RegionFull, InvalidArgument, ForkedClient.
    #[pyo3(signature = (nbytes, /))]
    fn region(&self, py: Python<'_>, nbytes: usize) -> PyResult<Region> {
        if nbytes == 0 {
            return Err(invalid(py, "a region has at least 1 byte"));
        }
        let slice = self.control(py, |client| client.alloc(nbytes))?;
        let (region, slice) = Region::owned(slice);
        self.shares.add(&slice);
        Ok(region)
    }

    /// Calls to be submitted and drained.
    ///
    /// calls_max: most that are unfinished at a time; one more is answered ``busy``.
    /// patient: for loops to which submitting must cost little. For 30 ms after a call no thread is woken for another, which takes 8 to 30
    /// microseconds; it begins within 0.2 ms, when the thread that made the last one looks again.
    ///
    /// Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (*, calls_max=256, patient=false))]
    fn queue(&self, py: Python<'_>, calls_max: usize, patient: bool) -> PyResult<CallQueue> {
        CallQueue::new(py, self.rust(py)?, calls_max, patient)
    }

    /// Waits until no node is taken for dead, at most ``timeout_ms`` (60,000 at most); true when so.
    ///
    /// Raises InvalidArgument, ForkedClient.
    #[pyo3(signature = (timeout_ms=5000.0))]
    fn wait_reachable(&self, py: Python<'_>, timeout_ms: f64) -> PyResult<bool> {
        const STEP_MS: f64 = 50.0;
        let client = self.rust(py)?;
        deadline(py, timeout_ms)?;
        let mut left_ms = timeout_ms;
        loop {
            let step = deadline(py, left_ms.clamp(0.001, STEP_MS))?;
            let reached = py.detach(|| client.wait_reachable(step));
            py.check_signals()?;
            left_ms -= STEP_MS;
            if reached || left_ms <= 0.0 {
                return Ok(reached);
            }
        }
    }

    /// The node's own statistics, as ``forebay stat --json`` prints them.
    ///
    /// Raises ConnectionFailed (ConnectionBroken where it was there before), DeadlineExceeded, ForkedClient.
    fn node_stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let json = self.control(py, forebay_client::Client::node_stats)?;
        py.import("json")?.call_method1("loads", (json,))
    }

    /// What this client has counted, in keys, by verb and outcome: for each verb ``asked`` is the sum of the others. Asks no node.
    ///
    /// Raises ForkedClient.
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        crate::stats::counters(py, &self.rust(py)?.counters())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<forebay.Client of {}>", self.rust(py)?.address()))
    }
}

impl Client {
    /// A call without outcomes per key.
    fn control<T: Send>(
        &self,
        py: Python<'_>,
        run: impl FnOnce(&forebay_client::Client) -> Result<T, ClientError> + Send,
    ) -> PyResult<T> {
        let client = self.rust(py)?;
        blocking(py, || run(client))?.map_err(|error| raised(py, &error))
    }
}

/// From a mapping of fields to values, or anything with `as_dict()` that gives one.
fn as_fingerprint(given: &Bound<'_, PyAny>) -> PyResult<Fingerprint> {
    let py = given.py();
    let fields = if given.hasattr("as_dict")? { given.call_method0("as_dict")? } else { given.clone() };
    let mut fingerprint = Fingerprint::default();
    for item in fields.call_method0("items")?.try_iter()? {
        let (field, value): (String, Bound<'_, PyAny>) = item?.extract()?;
        let value = if value.is_none() { String::new() } else { value.str()?.to_str()?.to_owned() };
        fingerprint.set(&field, &value).map_err(|e| invalid(py, format!("{e}")))?;
    }
    Ok(fingerprint)
}

//! The client: connections to a mesh, shared by all handles and threads.

use std::sync::Arc;
use std::time::Duration;

use forebay_io::Slice;
use forebay_types::{Address, Class, Fingerprint, Namespace, check_namespace_name};
use forebay_wire::Message;

use crate::counters::Counters;
use crate::handle::Space;
use crate::mesh::Core;
use crate::{ClientError, NamespaceHandle, Options};

/// A client of a mesh. Cloning it shares connections, memory and counters; it is used from any number of threads at once.
#[derive(Clone)]
pub struct Client(Arc<Core>);

impl Client {
    /// Connects to a node and learns who is who. The node may go and come again later: the client finds it by itself.
    pub fn connect(address: &Address, options: Options) -> Result<Client, ClientError> {
        Ok(Client(Core::connect(address, options)?))
    }

    pub(crate) fn core(&self) -> &Core {
        &self.0
    }

    pub(crate) fn shared(&self) -> Arc<Core> {
        self.0.clone()
    }

    /// Opens a namespace by its name.
    pub fn namespace(&self, name: &str) -> Result<NamespaceHandle, ClientError> {
        self.namespace_expecting(name, &Fingerprint::default())
    }

    /// Opens a namespace and makes sure that it was made for this fingerprint. An empty fingerprint expects nothing.
    pub fn namespace_expecting(&self, name: &str, expected: &Fingerprint) -> Result<NamespaceHandle, ClientError> {
        check_namespace_name(name).map_err(|e| ClientError::Invalid(e.to_string()))?;
        let attach = |request| Message::Attach { request, name: name.to_owned(), fingerprint: expected.clone() };
        let namespace = self.namespace_from(name, attach)?;
        if !expected.is_empty()
            && let Some(field) = expected.first_difference(&namespace.fingerprint)
        {
            let (theirs, ours) = (namespace.fingerprint.get(field), expected.get(field));
            let text = format!(
                "the namespace {name:?} has another fingerprint: its field {field} is {theirs:?}, and {ours:?} is asked for; blocks of the two are not interchangeable: choose another name, or ask with the same fingerprint"
            );
            return Err(ClientError::NamespaceDiffers { name: name.to_owned(), text });
        }
        Ok(NamespaceHandle::new(self.0.clone(), Arc::new(Space::new(namespace, &self.0.options))))
    }

    /// Creates a namespace and opens it. Creating it again with the same properties is no error.
    pub fn create_namespace(
        &self,
        name: &str,
        class: Class,
        quota_bytes: Option<u64>,
        fingerprint: &Fingerprint,
    ) -> Result<NamespaceHandle, ClientError> {
        self.create_expiring_namespace(name, class, quota_bytes, None, fingerprint)
    }

    /// The same, whose blocks expire so many seconds after they were put, unless their put says something else.
    pub fn create_expiring_namespace(
        &self,
        name: &str,
        class: Class,
        quota_bytes: Option<u64>,
        ttl_s: Option<u32>,
        fingerprint: &Fingerprint,
    ) -> Result<NamespaceHandle, ClientError> {
        check_namespace_name(name).map_err(|e| ClientError::Invalid(e.to_string()))?;
        if ttl_s == Some(0) {
            return Err(ClientError::Invalid("a time to live is at least 1 second; leave it out for no end".into()));
        }
        let create = |request| Message::NamespaceCreate {
            request,
            name: name.to_owned(),
            class,
            quota_bytes,
            ttl_s,
            fingerprint: fingerprint.clone(),
        };
        let namespace = self.namespace_from(name, create)?;
        Ok(NamespaceHandle::new(self.0.clone(), Arc::new(Space::new(namespace, &self.0.options))))
    }

    fn namespace_from(&self, name: &str, question: impl Fn(u32) -> Message) -> Result<Namespace, ClientError> {
        match self.0.ask(name, self.0.deadline_us(), question)? {
            Message::NamespaceIs { namespace, .. } if namespace.name == name => Ok(namespace),
            _ => Err(self.0.surprised()),
        }
    }

    /// The tenant's namespaces. Their secrets are zeros.
    pub fn list_namespaces(&self) -> Result<Vec<Namespace>, ClientError> {
        match self.0.ask("", self.0.deadline_us(), |request| Message::NamespaceList { request })? {
            Message::NamespacesAre { namespaces, .. } => Ok(namespaces),
            _ => Err(self.0.surprised()),
        }
    }

    /// Deletes a namespace and forgets its blocks. Handles of it miss with `namespace` from then on.
    pub fn delete_namespace(&self, name: &str) -> Result<(), ClientError> {
        check_namespace_name(name).map_err(|e| ClientError::Invalid(e.to_string()))?;
        let delete = |request| Message::NamespaceDelete { request, name: name.to_owned() };
        match self.0.ask(name, self.0.deadline_us(), delete)? {
            Message::Done { .. } => Ok(()),
            _ => Err(self.0.surprised()),
        }
    }

    /// The node's statistics, a JSON object. Fields may be added by newer nodes.
    pub fn node_stats(&self) -> Result<String, ClientError> {
        match self.0.ask("", self.0.deadline_us(), |request| Message::Stats { request })? {
            Message::StatsAre { json, .. } => Ok(json),
            _ => Err(self.0.surprised()),
        }
    }

    /// What this client and all its clones and handles have counted.
    pub fn counters(&self) -> Counters {
        self.0.cells.read()
    }

    /// Waits until no node is taken for dead, at most this long; true when so. For programs that would rather wait for a node that restarts than
    /// miss: calls do not wait for one that is known to be down.
    pub fn wait_reachable(&self, at_most: Duration) -> bool {
        self.0.prober.wait(&self.0, at_most)
    }

    /// Memory that blocks can be put from without copying: fill it and give it to [`crate::PutBlock::new`].
    pub fn alloc(&self, bytes: usize) -> Result<Slice, ClientError> {
        let full = || ClientError::RegionFull { bytes, limit: self.0.regions.limit() };
        self.0.regions.alloc(bytes).map(|(_, slice)| slice).ok_or_else(full)
    }

    /// The address it was connected to.
    pub fn address(&self) -> &Address {
        &self.0.address
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("address", &self.0.address).finish_non_exhaustive()
    }
}

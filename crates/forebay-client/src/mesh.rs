//! Who is who: the table of members, and the control connection it comes over.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};

use forebay_cluster::Placement;
use forebay_types::{Address, Clock, Entropy, Epoch, SeededEntropy, ShardId, SystemClock, SystemEntropy};
use forebay_wire::{Member, Message};

use crate::counters::Cells;
use crate::drive::Spin;
use crate::interrupt::Until;
use crate::link::{Introduction, Link, LinkError, Sink};
use crate::memory::Regions;
use crate::probe::Prober;
use crate::promises::Promises;
use crate::shard::Shard;
use crate::{ClientError, Options};

/// Idle control connections kept. Control is rare; one call after another finds one.
const CONTROL_LINKS_MAX: usize = 2;
/// Longest that a call on blocks looks at who is who before it goes on with what it knows, in microseconds.
const REFRESH_US_MAX: u64 = 250_000;

/// What all clones and handles of a client share.
pub(crate) struct Core {
    pub(crate) options: Options,
    pub(crate) address: Address,
    pub(crate) clock: SystemClock,
    pub(crate) entropy: SystemEntropy,
    pub(crate) regions: Regions,
    pub(crate) cells: Cells,
    pub(crate) spin: Spin,
    pub(crate) promises: Promises,
    pub(crate) prober: Prober,
    /// Chance where it only has to differ from client to client: no call to the kernel.
    pub(crate) chance: SeededEntropy,
    /// For threads that must not keep the client alive.
    pub(crate) this: Weak<Core>,
    /// The table may be out of date: look again before the next call.
    pub(crate) stale: AtomicBool,
    table: RwLock<Arc<Table>>,
    /// Idle control connections.
    control: Mutex<Vec<Link>>,
}

/// The members in one epoch.
pub(crate) struct Table {
    pub(crate) epoch: Epoch,
    pub(crate) shards: Vec<Arc<Shard>>,
    placement: Placement,
}

impl Table {
    fn new(epoch: Epoch, shards: Vec<Arc<Shard>>) -> Self {
        let placement = Placement::new(shards.iter().map(|shard| (shard.id, shard.weight)).collect());
        Table { epoch, shards, placement }
    }

    /// Which of `shards` owns a place; `None` when there is none.
    pub(crate) fn owner(&self, place: u64) -> Option<usize> {
        if self.shards.len() == 1 { Some(0) } else { self.placement.owner(place) }
    }
}

impl Core {
    /// Connects to one node and learns who is who.
    pub(crate) fn connect(address: &Address, options: Options) -> Result<Arc<Core>, ClientError> {
        let options = options.bounded();
        let core = Arc::new_cyclic(|this| Core {
            address: address.clone(),
            clock: SystemClock::new(),
            entropy: SystemEntropy,
            regions: Regions::new(options.region_bytes, matches!(address, Address::Unix(_))),
            cells: Cells::default(),
            spin: Spin::new(options.spin_us),
            promises: Promises::default(),
            prober: Prober::default(),
            chance: SeededEntropy::new(SystemEntropy.word()),
            this: this.clone(),
            stale: AtomicBool::new(false),
            table: RwLock::new(Arc::new(Table::new(Epoch(0), Vec::new()))),
            control: Mutex::default(),
            options,
        });
        core.refresh(core.deadline_us())?;
        Ok(core)
    }

    /// The deadline of a control request that begins now.
    pub(crate) fn deadline_us(&self) -> u64 {
        self.clock.now_us() + self.options.deadline.as_micros() as u64
    }

    /// The table for a call that begins now.
    pub(crate) fn table(&self, deadline_us: u64) -> Arc<Table> {
        if self.stale.swap(false, Ordering::Relaxed) {
            // Should that fail, the old table serves as well as it can; the next connection in another epoch brings it up again.
            let _ = self.refresh(deadline_us.min(self.clock.now_us() + REFRESH_US_MAX));
        }
        self.known_table()
    }

    fn known_table(&self) -> Arc<Table> {
        self.table.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// The epoch of the table as it is known.
    pub(crate) fn known_epoch(&self) -> Epoch {
        self.known_table().epoch
    }

    /// Hears what nodes have said on idle connections about requests that were given up.
    pub(crate) fn settle(&self) {
        self.known_table().shards.iter().for_each(|shard| shard.settle(self));
    }

    /// Shards that are taken for dead.
    pub(crate) fn dead_shards(&self) -> impl Iterator<Item = Arc<Shard>> {
        let dead: Vec<_> = self.known_table().shards.iter().filter(|shard| shard.is_dead()).cloned().collect();
        dead.into_iter()
    }

    /// Whether there are any.
    pub(crate) fn any_dead(&self) -> bool {
        self.known_table().shards.iter().any(|shard| shard.is_dead())
    }

    /// Asks who is who. Connections to shards that stay are kept.
    pub(crate) fn refresh(&self, deadline_us: u64) -> Result<(), ClientError> {
        let answer = self.ask("", deadline_us, |request| Message::Members { request })?;
        let Message::MembersAre { epoch, members, .. } = answer else { return Err(self.surprised()) };
        let mut table = self.table.write().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut known: BTreeMap<ShardId, Arc<Shard>> = table.shards.iter().map(|s| (s.id, s.clone())).collect();
        let mut seen = BTreeSet::new();
        let shards = members
            .iter()
            .filter(|member| seen.insert(member.shard))
            .map(|member| {
                let addresses = self.addresses_of(member);
                match known.remove(&member.shard) {
                    Some(old) if old.addresses == addresses && old.weight == member.weight => old,
                    _ => Arc::new(Shard::new(member.shard, member.weight, addresses)),
                }
            })
            .collect();
        *table = Arc::new(Table::new(epoch, shards));
        Ok(())
    }

    /// Where to look for a member: the address the caller gave, if it is one of the member's; else the member's in order.
    fn addresses_of(&self, member: &Member) -> Vec<Address> {
        let listed: Vec<Address> = member.addresses.iter().filter_map(|text| text.parse().ok()).collect();
        if listed.is_empty() || listed.contains(&self.address) { vec![self.address.clone()] } else { listed }
    }

    /// One question on the control connection and its answer. A connection that turns out broken is made anew once.
    pub(crate) fn ask(
        &self,
        about: &str,
        deadline_us: u64,
        question: impl Fn(u32) -> Message,
    ) -> Result<Message, ClientError> {
        // Not held while waiting: another thread's call has a deadline of its own.
        let kept = self.control_links().pop();
        if let Some(mut link) = kept {
            match self.ask_on(&mut link, deadline_us, &question) {
                Ok(answer) => {
                    self.keep_control(link);
                    return self.checked(about, answer);
                }
                Err(LinkError::Deadline) => return Err(self.client_error(about, LinkError::Deadline)),
                Err(_) => {}
            }
        }
        let mut link = self.control_link(deadline_us)?;
        let answer = self.ask_on(&mut link, deadline_us, &question).map_err(|e| self.client_error(about, e))?;
        self.keep_control(link);
        self.checked(about, answer)
    }

    fn control_links(&self) -> std::sync::MutexGuard<'_, Vec<Link>> {
        self.control.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn keep_control(&self, link: Link) {
        let mut links = self.control_links();
        if links.len() < CONTROL_LINKS_MAX {
            links.push(link);
        }
    }

    fn checked(&self, about: &str, answer: Message) -> Result<Message, ClientError> {
        match answer {
            Message::Error { code, text, .. } => Err(ClientError::from_node(&self.address, about, code, &text)),
            answer => Ok(answer),
        }
    }

    fn control_link(&self, deadline_us: u64) -> Result<Link, ClientError> {
        let about = Introduction {
            shard: ShardId::default(),
            token: self.options.token.as_deref(),
            epoch: Epoch(0),
            regions: false,
            interrupt: self.options.interrupt.as_ref(),
            let_go: Vec::new(),
        };
        let left = std::time::Duration::from_micros(deadline_us.saturating_sub(self.clock.now_us()).max(1));
        Link::connect(&self.address, &about, left, &self.clock).map_err(|error| match error {
            LinkError::Io(source) => ClientError::Connect { address: self.address.clone(), source },
            LinkError::Closed => {
                let source = io::Error::new(io::ErrorKind::ConnectionReset, "it closed the connection at once");
                ClientError::Connect { address: self.address.clone(), source }
            }
            error => self.client_error("", error),
        })
    }

    fn ask_on(
        &self,
        link: &mut Link,
        deadline_us: u64,
        question: &impl Fn(u32) -> Message,
    ) -> Result<Message, LinkError> {
        let request = link.number();
        link.queue(&question(request))?;
        let mut answer = Answer { request, answer: None };
        let mut until = Until::new(self.options.interrupt.as_ref(), deadline_us, self.clock.now_us());
        loop {
            link.step_until(&mut answer, &mut until, &self.clock)?;
            if let Some(answer) = answer.answer.take() {
                return Ok(answer);
            }
        }
    }

    fn client_error(&self, about: &str, error: LinkError) -> ClientError {
        let address = self.address.clone();
        match error {
            LinkError::Refused { code, text } => ClientError::from_node(&address, about, code, &text),
            LinkError::Deadline => {
                ClientError::Deadline { address, deadline_ms: self.options.deadline.as_millis() as u64 }
            }
            LinkError::Wire(error) => ClientError::Version { address, text: error.to_string() },
            LinkError::Protocol(text) => ClientError::Version { address, text: text.into() },
            LinkError::Io(_) | LinkError::Closed => ClientError::Closed { address, text: error.to_string() },
        }
    }

    /// The node answered with something that is no answer.
    pub(crate) fn surprised(&self) -> ClientError {
        ClientError::Version { address: self.address.clone(), text: "it answered another question".into() }
    }
}

/// Waits for the answer to one request.
struct Answer {
    request: u32,
    answer: Option<Message>,
}

impl Sink for Answer {
    fn message(&mut self, message: Message) -> Result<(), LinkError> {
        let about = match &message {
            Message::Error { request, .. }
            | Message::MembersAre { request, .. }
            | Message::NamespaceIs { request, .. }
            | Message::NamespacesAre { request, .. }
            | Message::Done { request }
            | Message::StatsAre { request, .. } => *request,
            _ => return Ok(()),
        };
        if about == self.request {
            self.answer = Some(message);
        }
        Ok(())
    }
}

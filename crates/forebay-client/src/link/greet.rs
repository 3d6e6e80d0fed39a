//! How a link begins: connecting and shaking hands.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use forebay_io::Writer;
use forebay_net::Socket;
use forebay_types::limits::CREDIT_BYTES_DEFAULT;
use forebay_types::{Address, Clock, Epoch, ShardId};
use forebay_wire::{Hello, Message, WIRE_VERSION, Welcome, features};

use super::receive::INBOX_BYTES;
use super::{Link, LinkError, Nothing, Sink};
use crate::Interrupt;
use crate::interrupt::Until;

/// What a link introduces itself with.
pub(crate) struct Introduction<'a> {
    pub(crate) shard: ShardId,
    pub(crate) token: Option<&'a [u8]>,
    pub(crate) epoch: Epoch,
    pub(crate) regions: bool,
    /// Asked while the greeting is waited for.
    pub(crate) interrupt: Option<&'a Interrupt>,
    /// Who was seen to have let go of lent memory, before this.
    pub(crate) let_go: Vec<Writer>,
}

impl Link {
    /// Connects and shakes hands, in at most `timeout`.
    pub(crate) fn connect(
        address: &Address,
        about: &Introduction<'_>,
        timeout: Duration,
        clock: &dyn Clock,
    ) -> Result<Link, LinkError> {
        let deadline_us = clock.now_us().saturating_add(timeout.as_micros() as u64);
        let socket = Socket::connect(address, timeout)?;
        Link::greet(socket, matches!(address, Address::Unix(_)), about, deadline_us, clock)
    }

    /// Shakes hands on a fresh connection.
    pub(crate) fn greet(
        socket: Socket,
        local: bool,
        about: &Introduction<'_>,
        deadline_us: u64,
        clock: &dyn Clock,
    ) -> Result<Link, LinkError> {
        let mut handshake = Handshake::begin(socket, local, about)?;
        let mut until = Until::new(about.interrupt, deadline_us, clock.now_us());
        while !handshake.is_done() {
            handshake.link.step_until(&mut handshake.greeting, &mut until, clock)?;
        }
        handshake.finish()
    }

    /// Before its handshake.
    fn raw(socket: Socket, local: bool) -> Self {
        Link {
            socket,
            welcome: Welcome {
                version: 0,
                features: 0,
                incarnation: 0,
                epoch: Epoch(0),
                block_bytes_max: 0,
                align: 0,
                credit_bytes: 0,
            },
            local,
            with_regions: false,
            let_go: Vec::new(),
            known_regions: Vec::new(),
            witnesses: Vec::new(),
            regions_version: 0,
            adding: Vec::new(),
            out: Vec::new(),
            sent: 0,
            riding: VecDeque::new(),
            sending: None,
            behind: Vec::new(),
            inbox: vec![0; INBOX_BYTES],
            start: 0,
            end: 0,
            coming: None,
            large: false,
            scratch: Vec::new(),
            next_request: 1,
            heard: 0,
            owed_credit: 0,
            lost: Vec::new(),
            lost_bytes: 0,
        }
    }
}

/// A link whose node has not answered yet. It goes on only when it is pumped, so that nobody has to wait for it.
pub(crate) struct Handshake {
    link: Link,
    greeting: Greeting,
    with_regions: bool,
}

impl Handshake {
    /// Says who we are, on a socket that may still be connecting.
    pub(crate) fn begin(socket: Socket, local: bool, about: &Introduction<'_>) -> Result<Self, LinkError> {
        let with_regions = about.regions && local;
        let offered = features::HINTS
            | features::TTL
            | features::CALLER_KEEPS
            | features::REPORTS
            | if with_regions { features::REGIONS | features::DIRECT | features::LENT } else { 0 };
        let hello = Hello {
            version: WIRE_VERSION,
            features: offered,
            shard: about.shard,
            credential: if local { Vec::new() } else { about.token.unwrap_or_default().to_vec() },
            epoch: about.epoch,
            lane: 0,
            trace: 0,
            credit_bytes: CREDIT_BYTES_DEFAULT,
        };
        let mut link = Link::raw(socket, local);
        link.let_go.clone_from(&about.let_go);
        link.queue(&Message::Hello(hello))?;
        Ok(Handshake { link, greeting: Greeting(None), with_regions })
    }

    /// Sends and receives what it can without waiting. True when anything moved.
    pub(crate) fn pump(&mut self) -> Result<bool, LinkError> {
        let sent = self.link.flush(&mut Nothing)?;
        Ok(self.link.receive(&mut self.greeting)? | sent)
    }

    /// The node has answered.
    pub(crate) fn is_done(&self) -> bool {
        self.greeting.0.is_some()
    }

    /// Something waits to be sent.
    pub(crate) fn wants_to_send(&self) -> bool {
        self.link.wants_to_send()
    }

    /// The link, once the node has answered.
    pub(crate) fn finish(mut self) -> Result<Link, LinkError> {
        let Some(welcome) = self.greeting.0 else { return Err(LinkError::Protocol("it has not welcomed")) };
        if welcome.version == 0 || welcome.version > WIRE_VERSION {
            return Err(LinkError::Protocol("it welcomed with a version that was not offered"));
        }
        self.link.with_regions = self.with_regions && welcome.features & features::REGIONS != 0;
        self.link.welcome = welcome;
        Ok(self.link)
    }
}

impl AsFd for Handshake {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

/// Waits for the node's first message.
struct Greeting(Option<Welcome>);

impl Sink for Greeting {
    fn message(&mut self, message: Message) -> Result<(), LinkError> {
        match message {
            Message::Welcome(welcome) if self.0.is_none() => {
                self.0 = Some(welcome);
                Ok(())
            }
            Message::Error { code, text, .. } => Err(LinkError::Refused { code, text }),
            _ => Err(LinkError::Protocol("its first message is not a welcome")),
        }
    }
}

//! What became of requests' prompts, told to the node: sent and not waited for. It is said once or not at all: said twice, it would be counted twice.

use forebay_types::{Clock, NamespaceId, Reported};
use forebay_wire::{Message, features};

use crate::drive::{Lane, Moment, Part, Why, by_owner, drive};
use crate::handle::{CallLimits, NamespaceHandle, Space};
use crate::hints::SEND_US_MAX;
use crate::link::{Link, LinkError, Nothing};
use crate::mesh::Core;

struct Call<'c> {
    namespace: NamespaceId,
    reported: &'c Reported,
    /// It went to a connection, which may have broken before the node had it.
    said: bool,
}

#[derive(Default)]
struct ReportPart {
    over: bool,
}

impl Part<Call<'_>> for ReportPart {
    fn pump(&mut self, link: &mut Link, call: &mut Call<'_>, _at: Moment) -> Result<bool, LinkError> {
        if link.welcome.features & features::REPORTS == 0 {
            self.over = true;
            return Ok(true);
        }
        // Whether the connection still lives is seen before anything is said on it.
        link.receive(&mut Nothing)?;
        if !call.said {
            link.queue(&Message::Report { namespace: call.namespace, reported: *call.reported })?;
            call.said = true;
        }
        let moved = link.flush(&mut Nothing)?;
        self.over = !link.wants_to_send();
        Ok(moved || self.over)
    }

    fn is_done(&self) -> bool {
        self.over
    }

    fn broken(&mut self, call: &mut Call<'_>) {
        self.over = call.said;
    }

    fn give_up(&mut self, _link: &mut Link) -> Result<(), LinkError> {
        Ok(())
    }

    fn fail(&mut self, _why: Why, _call: &mut Call<'_>) {
        self.over = true;
    }
}

impl NamespaceHandle {
    /// Says what became of requests' prompts, for the node's usage log. True: it is on its way, and is not to be said again. False: it was not said, the
    /// node being away or of a build that takes no reports, or it does not add up; it can be said together with the next. Nobody answers; 20 ms at most.
    pub fn report(&self, reported: &Reported) -> bool {
        report(&self.space, &self.core, reported, self.limits)
    }
}

/// Any shard of the namespace's node would do; it is always the same one, so that one connection serves.
fn report(space: &Space, core: &Core, reported: &Reported, limits: CallLimits) -> bool {
    if !reported.adds_up() {
        return false;
    }
    let deadline_us = core.clock.now_us() + limits.deadline_us.min(SEND_US_MAX);
    let namespace = space.namespace.id;
    let mut call = Call { namespace, reported, said: false };
    let table = core.table(deadline_us);
    let (owned, _) = by_owner(&table, 0..1, |_| u64::from(namespace.0));
    let mut lanes: Vec<_> = owned.into_iter().map(|(shard, _)| Lane::new(shard, ReportPart::default())).collect();
    drive(core, table.epoch, &mut lanes, &mut call, deadline_us);
    call.said
}

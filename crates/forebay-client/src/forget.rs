//! Forgetting: durable, or an error.

use forebay_types::limits::KEYS_PER_MESSAGE_MAX;
use forebay_types::{Clock, Key, NamespaceId};
use forebay_wire::Message;

use crate::ClientError;
use crate::drive::{Lane, Moment, Part, Why, by_owner, drive};
use crate::handle::{CallLimits, Space};
use crate::link::{Link, LinkError, Nothing, Sink};
use crate::mesh::Core;

struct Forget<'c> {
    namespace: NamespaceId,
    keys: &'c [Key],
    answers: Vec<Option<bool>>,
    why: &'static str,
    /// The table may be old.
    moved: bool,
    /// A round is still ahead.
    once_more: bool,
}

struct ForgetPart {
    indices: Vec<u32>,
    answered: usize,
    asked: Option<(u32, usize)>,
}

impl Part<Forget<'_>> for ForgetPart {
    fn pump(&mut self, link: &mut Link, forget: &mut Forget<'_>, at: Moment) -> Result<bool, LinkError> {
        let mut moved = false;
        if self.asked.is_none() {
            let rest = &self.indices[self.answered..];
            let count = rest.len().min(KEYS_PER_MESSAGE_MAX);
            let request = link.number();
            link.queue(&Message::Forget {
                request,
                namespace: forget.namespace,
                deadline_us: at.wire_us(),
                keys: rest[..count].iter().map(|index| forget.keys[*index as usize]).collect(),
            })?;
            self.asked = Some((request, count));
            moved = true;
        }
        moved |= link.flush(&mut Nothing)?;
        Ok(moved | link.receive(&mut Answers { part: self, forget })?)
    }

    fn is_done(&self) -> bool {
        self.answered == self.indices.len()
    }

    // Forgetting twice is forgetting once, so it is simply asked again; a key forgotten the first time then answers "was not here".
    fn broken(&mut self, _forget: &mut Forget<'_>) {
        self.asked = None;
    }

    fn give_up(&mut self, link: &mut Link) -> Result<(), LinkError> {
        match self.asked.take() {
            Some((request, _)) => link.give_up(request, Vec::new()),
            None => Ok(()),
        }
    }

    fn fail(&mut self, why: Why, forget: &mut Forget<'_>) {
        forget.why = match why {
            Why::Deadline => "the node did not answer in time",
            Why::Unavailable | Why::Moved => "the node could not be reached",
        };
        forget.moved |= why == Why::Moved;
        self.answered = self.indices.len();
    }

    fn may_move(&self, forget: &Forget<'_>) -> bool {
        forget.once_more
    }
}

struct Answers<'p, 'f, 'c> {
    part: &'p mut ForgetPart,
    forget: &'f mut Forget<'c>,
}

impl Sink for Answers<'_, '_, '_> {
    fn message(&mut self, message: Message) -> Result<(), LinkError> {
        let Some((asked, count)) = self.part.asked else { return Ok(()) };
        match message {
            Message::ForgetOutcomes { request, failed, forgotten } if request == asked => {
                if !failed && forgotten.len() != count {
                    return Err(LinkError::Protocol("another number of outcomes than keys"));
                }
                let indices = &self.part.indices[self.part.answered..][..count];
                if failed {
                    self.forget.why = "the drive could not write it down";
                } else {
                    for (index, was_here) in indices.iter().zip(forgotten) {
                        self.forget.answers[*index as usize] = Some(was_here);
                    }
                }
                self.part.answered += count;
                self.part.asked = None;
                Ok(())
            }
            Message::Error { request, .. } if request == asked => {
                self.forget.why = "the node refused";
                self.part.answered += count;
                self.part.asked = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn run(space: &Space, core: &Core, keys: &[Key], limits: CallLimits) -> Result<Vec<bool>, ClientError> {
    let deadline_us = core.clock.now_us() + limits.deadline_us;
    let namespace = space.namespace.id;
    core.promises.release(namespace, keys);
    let mut forget = Forget {
        namespace,
        keys,
        answers: vec![None; keys.len()],
        why: "no shard owns them",
        moved: false,
        once_more: true,
    };
    // A second round, after a new look at who is who, for keys whose shard has moved.
    for once_more in [true, false] {
        forget.once_more = once_more;
        let table = core.table(deadline_us);
        let open = (0..keys.len() as u32).filter(|index| forget.answers[*index as usize].is_none());
        let open: Vec<u32> = open.collect();
        if open.is_empty() {
            break;
        }
        let (owned, _) = by_owner(&table, open.into_iter(), |index| keys[index as usize].place_token());
        let lane = |(shard, indices)| Lane::new(shard, ForgetPart { indices, answered: 0, asked: None });
        let mut lanes: Vec<_> = owned.into_iter().map(lane).collect();
        drive(core, table.epoch, &mut lanes, &mut forget, deadline_us);
        // A node that is down is no reason to ask it who is who.
        if std::mem::take(&mut forget.moved) {
            core.stale.store(true, std::sync::atomic::Ordering::Relaxed);
            let anew = forget.answers.iter().filter(|answer| answer.is_none()).count() as u64;
            core.cells.add(|all| all.moved += if once_more { anew } else { 0 });
        }
        if core.clock.now_us() >= deadline_us {
            break;
        }
    }
    let failed = forget.answers.iter().filter(|answer| answer.is_none()).count();
    if failed > 0 {
        return Err(ClientError::Forget { failed, asked: keys.len(), why: forget.why });
    }
    Ok(forget.answers.into_iter().flatten().collect())
}

//! A message that asks for several items, while not all of them have their answer.

use crate::link::{Link, LinkError, Owed};

pub(crate) struct Request {
    pub(crate) number: u32,
    /// Items of the part, by slot.
    pub(crate) items: Vec<u32>,
    /// Without an answer.
    pub(crate) left: usize,
}

/// Gives all of them up. `owed` says, of a request's number and one of its items, what the node may still touch of it.
pub(crate) fn give_up(
    requests: &mut Vec<Request>,
    link: &mut Link,
    mut owed: impl FnMut(u32, u32) -> Option<Owed>,
) -> Result<(), LinkError> {
    for request in std::mem::take(requests) {
        let slots = request.items.iter().zip(0..);
        let owed = slots.filter_map(|(at, slot)| Some((slot, owed(request.number, *at)?))).collect();
        link.give_up(request.number, owed)?;
    }
    Ok(())
}

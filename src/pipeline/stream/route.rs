//! Which way each collection's changes take: straight to the workers, or through the spool. Pure.
//!
//! # The argument (G2, G6)
//!
//! Each collection has a position `known`: its changes up to there are applied, handed to the workers, or in
//! the spool, and are not taken from the stream again. The stream is read from the least `known` of all
//! collections that are followed. So nothing is left out as long as every `known` is true, both in memory and
//! when it is rebuilt, after a crash, from what is durable:
//!
//! - PostgreSQL says what is *applied* (the least position of the collection's partitions), and is always
//!   right.
//! - The spool says, by a [`SpoolSpan`], that it holds every change in `(from, to]`. If the applied position
//!   lies in there, then `known` is `to`, and the spool is drained from the applied position on. If not (the
//!   state directory is older, or PostgreSQL was taken back to an earlier time), the span is worthless:
//!   `known` is the applied position.
//!
//! A span is open (`to` is the stored token) as long as the collection's changes go into the spool, and every
//! reply of the stream that moves the token has put its changes into the same write. When its beginning is
//! trimmed away, `from` moves along.
//!
//! A collection goes direct once all its spooled changes have been handed to the workers, in order; later
//! changes go through the same channels, so the order of a document's changes is kept (G3). This does not
//! make the spooled changes durable, and the oplog may have lost them long ago. So their span stays, and
//! stays true: changes that go direct go into the spool as well, until the spooled ones are durable, and the
//! span is forgotten. When the workers are gone, whatever was handed to them counts for nothing: everything
//! is rebuilt from what is durable ([`Flow::resume`]), as after a crash.

use crate::{
    checkpoint::SpoolSpan,
    model::change::{CollectionId, Position},
    pipeline::planted::{self, Bug},
};

/// The routes of all collections.
#[derive(Clone, Debug)]
pub(crate) struct Flow(Vec<CollectionRoute>);

/// One collection's route.
#[derive(Clone, Debug)]
struct CollectionRoute {
    way: Route,
    /// Changes up to here are not taken from the stream again.
    known: Position,
    /// Changes up to here were handed to the workers; if the collection goes direct: those out of the spool.
    given: Position,
    span: Option<SpoolSpan>,
    /// Whether the span still has to be stored.
    begun: bool,
}

/// Where changes from the stream go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Into the spool; nothing takes them out. Entered at every start, until the collection's tables are
    /// complete.
    Held,
    /// Into the spool, from which the workers get them. Left when no more changes wait.
    Draining,
    /// To the workers, and into the spool, too, if there is a span. Left when the workers have no room, or
    /// are gone.
    Direct,
    /// Nowhere: the collection is stopped, or must be copied again. Left when everything starts over, from
    /// what is applied.
    Nowhere,
}

/// A change to a stored span. `None`: the span is forgotten, with all changes that wait in it.
pub(crate) type Saved = (CollectionId, Option<SpoolSpan>);

/// What the spool no longer needs to hold.
#[derive(Debug, PartialEq)]
pub(crate) enum Trim {
    /// Changes up to here.
    Until(Position),
    /// All of the collection.
    All,
}

impl Flow {
    /// Rebuilds the routes, with every collection held, from each collection's applied position, and the
    /// stored spans and token. Also returns the spans that are worthless, and must be forgotten.
    pub(crate) fn resume(
        collections: impl IntoIterator<Item = (Position, Option<SpoolSpan>)>,
        token: Option<&Position>,
    ) -> (Self, Vec<Saved>) {
        let mut routes = Vec::new();
        let mut worthless = Vec::new();
        for (id, (applied, span)) in (0..).map(CollectionId).zip(collections) {
            let end = span.as_ref().and_then(|span| span.to.as_ref().or(token)).cloned();
            let way = Route::Held;
            routes.push(match (span, end) {
                (Some(SpoolSpan { from, .. }), Some(end))
                    if (from <= applied || planted::has(Bug::SpanBelieved)) && applied < end =>
                {
                    let span = Some(SpoolSpan { from, to: Some(end.clone()) });
                    CollectionRoute { way, known: end, given: applied, span, begun: false }
                }
                (span, _) => {
                    worthless.extend(span.map(|_| (id, None)));
                    CollectionRoute { way, known: applied.clone(), given: applied, span: None, begun: false }
                }
            });
        }
        (Self(routes), worthless)
    }

    /// The collections whose changes are not ignored.
    pub(crate) fn followed(&self) -> impl Iterator<Item = CollectionId> {
        let ids = (0..).map(CollectionId).zip(&self.0);
        ids.filter(|(_, route)| route.way != Route::Nowhere).map(|(id, _)| id)
    }

    /// Where the stream must be read from. `None`: no collection needs it. A collection whose changes are
    /// ignored does not hold it back.
    pub(crate) fn start(&self) -> Option<&Position> {
        self.followed().filter_map(|id| self.known(id)).min()
    }

    pub(crate) fn way(&self, id: CollectionId) -> Route {
        self.0.get(id.0).map_or(Route::Held, |route| route.way)
    }

    /// Whether a change has not been taken yet.
    pub(crate) fn is_new(&self, id: CollectionId, position: &Position) -> bool {
        self.0.get(id.0).is_some_and(|route| *position > route.known)
    }

    /// Up to where all changes of a collection are in the spool or handed out.
    pub(crate) fn known(&self, id: CollectionId) -> Option<&Position> {
        self.0.get(id.0).map(|route| &route.known)
    }

    /// The collections on this route.
    pub(crate) fn on(&self, way: Route) -> impl Iterator<Item = CollectionId> {
        let ids = (0..).map(CollectionId).zip(&self.0);
        ids.filter(move |(_, route)| route.way == way).map(|(id, _)| id)
    }

    pub(crate) fn any_on(&self, way: Route) -> bool {
        self.on(way).next().is_some()
    }

    /// Lets the workers have a held collection's changes.
    pub(crate) fn release(&mut self, id: CollectionId) {
        if let Some(route) = self.0.get_mut(id.0).filter(|route| route.way == Route::Held) {
            route.way = Route::Draining;
        }
    }

    /// Ignores a collection's changes from the current reply on: something in the reply happened to the whole
    /// collection. A restart must meet that again, unless it is recorded by then, so the span ends before it.
    /// Returns what must be stored before the token moves.
    pub(crate) fn hold(&mut self, id: CollectionId) -> Option<Saved> {
        let route = self.0.get_mut(id.0).filter(|route| route.way != Route::Nowhere)?;
        route.way = Route::Nowhere;
        if std::mem::take(&mut route.begun) {
            route.span = None;
        }
        let span = route.span.as_mut()?;
        span.to = Some(route.known.clone());
        Some((id, Some(span.clone())))
    }

    /// Ignores a collection's changes. Its span, if there is one, must be forgotten before the token moves.
    pub(crate) fn abandon(&mut self, id: CollectionId) -> Option<Saved> {
        let route = self.0.get_mut(id.0).filter(|route| route.way != Route::Nowhere)?;
        route.way = Route::Nowhere;
        let had_span = route.span.take().is_some();
        (had_span && !std::mem::take(&mut route.begun)).then_some((id, None))
    }

    /// Spools a collection that went direct, because the workers have no room.
    pub(crate) fn turn_away(&mut self, id: CollectionId) {
        if let Some(route) = self.0.get_mut(id.0).filter(|route| route.way == Route::Direct) {
            route.way = Route::Draining;
            route.give(&route.known.clone());
            // Changes that were handed out and not spooled are in no span: here a new one begins. One that
            // found no space yet must still be stored.
            route.begun |= route.span.is_none();
            route.span.get_or_insert(SpoolSpan { from: route.known.clone(), to: None });
        }
    }

    /// Whether a collection's changes go into the spool.
    pub(crate) fn is_spooled(&self, id: CollectionId) -> bool {
        self.0.get(id.0).is_some_and(CollectionRoute::is_spooled)
    }

    /// Whether a span must be stored, even if no changes come.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.iter().any(|route| route.begun)
    }

    pub(crate) fn any_is_spooled(&self) -> bool {
        self.0.iter().any(CollectionRoute::is_spooled)
    }

    /// Records that a reply that reaches `position` goes into the spool, as far as its changes belong to
    /// collections that are spooled, and [`Self::is_new`] was true for them. Returns the spans to store in
    /// the same write.
    pub(crate) fn spool(&mut self, position: &Position) -> Vec<Saved> {
        let mut changed = Vec::new();
        for (id, route) in (0..).map(CollectionId).zip(&mut self.0) {
            let is_new = *position > route.known;
            if !route.is_spooled() || !(is_new || route.begun) {
                continue;
            }
            let is_stored = route.span.as_ref().is_some_and(|span| span.to.is_none()) && !route.begun;
            let from = route.span.take().map_or_else(|| route.known.clone(), |span| span.from);
            let open = SpoolSpan { from, to: None };
            if !is_stored {
                changed.push((id, Some(open.clone())));
            }
            (route.span, route.begun) = (Some(open), false);
            // Changes that go direct are known once they are handed out.
            if is_new && route.way != Route::Direct {
                route.known = position.clone();
            }
        }
        changed
    }

    /// Where draining a collection continues; `None`: it has nothing in the spool.
    pub(crate) fn given(&self, id: CollectionId) -> Option<&Position> {
        let stored = self.0.get(id.0).filter(|route| route.span.is_some() && !route.begun);
        stored.map(|route| &route.given)
    }

    /// Records that the spooled changes up to `position` are handed to the workers.
    pub(crate) fn give(&mut self, id: CollectionId, position: &Position) {
        if let Some(route) = self.0.get_mut(id.0) {
            route.give(position);
        }
    }

    /// Records that all spooled changes are handed to the workers: the collection goes direct.
    pub(crate) fn drained(&mut self, id: CollectionId) {
        if let Some(route) = self.0.get_mut(id.0) {
            route.way = Route::Direct;
            route.give(&route.known.clone());
        }
    }

    /// The collections that go direct, and of which a reply that reaches `position` has all changes up to
    /// there.
    pub(crate) fn reached(&self, position: &Position) -> impl Iterator<Item = CollectionId> {
        self.on(Route::Direct)
            .filter(move |id| self.0.get(id.0).is_some_and(|route| route.known <= *position))
    }

    /// Records that such a reply is handed to the workers.
    pub(crate) fn pass(&mut self, position: &Position) {
        for route in self.0.iter_mut().filter(|route| route.way == Route::Direct) {
            if *position > route.known {
                route.known = position.clone();
            }
        }
    }

    /// Records that a collection is durable up to `applied`, and returns what that makes superfluous.
    pub(crate) fn trim(&mut self, id: CollectionId, applied: &Position) -> Option<Trim> {
        let route = self.0.get_mut(id.0)?;
        let span = route.span.as_mut()?;
        if route.way == Route::Direct && route.given <= *applied {
            (route.span, route.begun) = (None, false);
            return Some(Trim::All);
        }
        // Changes beyond `given` were not handed out by way of the spool.
        if route.begun || *applied <= span.from || *applied > route.given {
            return None;
        }
        span.from = applied.clone();
        Some(Trim::Until(applied.clone()))
    }
}

impl CollectionRoute {
    /// `given` may be further already: collections that are drained together begin at different positions,
    /// and the spool may hold more than is known, if the token has gone back since.
    fn give(&mut self, position: &Position) {
        if self.given < *position {
            self.given = position.clone();
        }
    }

    fn is_spooled(&self) -> bool {
        match self.way {
            Route::Held | Route::Draining => true,
            Route::Direct => self.span.is_some(),
            Route::Nowhere => false,
        }
    }
}

#[cfg(test)]
mod tests;

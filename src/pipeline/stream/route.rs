//! Which way each collection's changes take: straight to the workers, or through the spool. Pure.
//!
//! # The argument (G2, G6)
//!
//! Of every collection there is a position `known`: its changes up to there are applied, handed to the workers, or in
//! the spool, and are not taken from the stream again. The stream is read from the least `known` of all that are followed. So nothing is left out as long
//! as every `known` is true, in memory and, after a crash, as it is rebuilt from what is durable:
//!
//! - PostgreSQL says what is *applied* (the least position of the collection's partitions), and is always right.
//! - The spool says, by a [`SpoolSpan`], that it holds every change in `(from, to]`. If what is applied lies in there, then
//!   `known` is `to`, and the spool is drained from what is applied on. If not (the state directory is older, or
//!   PostgreSQL was taken back to an earlier time), the span is worth nothing: `known` is what is applied.
//!
//! A span is open (`to` is the stored token) as long as its changes go into the spool, and every reply of the stream that
//! moves the token has put its changes into the same write. When its beginning is trimmed away, `from` moves along.
//!
//! A collection goes direct when all that waited has been handed to the workers, in order; what follows goes through the
//! same channels, so the order of a document's changes is kept (G3). What waited is not durable by that, and the oplog may
//! have forgotten it long ago. So its span stays, and stays true: what goes direct goes into the spool as well, until
//! what waited is durable, and the span is forgotten. When the workers are gone, whatever was handed to them counts
//! for nothing: everything is rebuilt from what is durable ([`Flow::resume`]), as after a crash.

use crate::{
    checkpoint::SpoolSpan,
    model::change::{CollectionId, Position},
    pipeline::planted::{self, Bug},
};

/// The ways of all collections.
#[derive(Clone, Debug)]
pub(crate) struct Flow(Vec<CollectionRoute>);

/// One collection's way.
#[derive(Clone, Debug)]
struct CollectionRoute {
    way: Route,
    /// Not taken from the stream again, up to here.
    known: Position,
    /// Handed to the workers, up to here. Where it goes direct: out of the spool.
    given: Position,
    span: Option<SpoolSpan>,
    /// Whether the span is not stored yet.
    begun: bool,
}

/// Where changes go that come from the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Into the spool; nobody takes them out. Entered at every start, until the collection's tables are complete.
    Held,
    /// Into the spool, out of which the workers get them. Left when nothing waits any more.
    Draining,
    /// To the workers, and into the spool, too, where there is a span. Left when they have no room, or are gone.
    Direct,
    /// Nowhere: the collection is stopped, or is to be copied anew. Left when everything begins anew, from what is applied.
    Nowhere,
}

/// A change of a stored span. `None`: it is forgotten, with all that waits.
pub(crate) type Saved = (CollectionId, Option<SpoolSpan>);

/// What is not needed in the spool any more.
#[derive(Debug, PartialEq)]
pub(crate) enum Trim {
    /// Changes up to here.
    Until(Position),
    /// All of the collection.
    All,
}

impl Flow {
    /// Everything is held, with what is applied of each collection, and the spans and the token that are stored. Also
    /// the spans that are worth nothing, to be forgotten.
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

    /// The collections whose changes do not go by.
    pub(crate) fn followed(&self) -> impl Iterator<Item = CollectionId> {
        let ids = (0..).map(CollectionId).zip(&self.0);
        ids.filter(|(_, route)| route.way != Route::Nowhere).map(|(id, _)| id)
    }

    /// The stream is to be read from here. `None`: nobody needs it. A collection whose changes go by does not hold it back.
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

    /// Up to where everything of a collection is in the spool or handed out.
    pub(crate) fn known(&self, id: CollectionId) -> Option<&Position> {
        self.0.get(id.0).map(|route| &route.known)
    }

    /// The collections that go this way.
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

    /// Lets a collection's changes go by from the reply at hand on: something in it happened to the whole collection, which
    /// is to be met again after a restart, unless it is written down by then. So its span ends before. Gives what is to
    /// be stored before the token moves.
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

    /// Lets a collection's changes go by. Its span, if there is one, is to be forgotten before the token moves.
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
            // What was handed out and not spooled is in no span: this is the beginning of a new one. One that found no space yet
            // is still to be stored.
            route.begun |= route.span.is_none();
            route.span.get_or_insert(SpoolSpan { from: route.known.clone(), to: None });
        }
    }

    /// Whether the changes of a collection go into the spool.
    pub(crate) fn is_spooled(&self, id: CollectionId) -> bool {
        self.0.get(id.0).is_some_and(CollectionRoute::is_spooled)
    }

    /// Whether a span is to be stored, though nothing may come.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.iter().any(|route| route.begun)
    }

    pub(crate) fn any_is_spooled(&self) -> bool {
        self.0.iter().any(CollectionRoute::is_spooled)
    }

    /// Notes that a reply that reaches `position` goes into the spool, as far as its changes are of collections that are
    /// spooled and [`Self::is_new`] was true. Gives the spans to be stored in the same write.
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
            // What goes direct is known once it is handed out.
            if is_new && route.way != Route::Direct {
                route.known = position.clone();
            }
        }
        changed
    }

    /// Where the draining of a collection goes on; `None`: there is nothing in the spool.
    pub(crate) fn given(&self, id: CollectionId) -> Option<&Position> {
        let stored = self.0.get(id.0).filter(|route| route.span.is_some() && !route.begun);
        stored.map(|route| &route.given)
    }

    /// Notes that what waited up to `position` is handed to the workers.
    pub(crate) fn give(&mut self, id: CollectionId, position: &Position) {
        if let Some(route) = self.0.get_mut(id.0) {
            route.give(position);
        }
    }

    /// Notes that all that waited is handed to the workers: the collection goes direct.
    pub(crate) fn drained(&mut self, id: CollectionId) {
        if let Some(route) = self.0.get_mut(id.0) {
            route.way = Route::Direct;
            route.give(&route.known.clone());
        }
    }

    /// The collections that go direct, of which a reply that reaches `position` has all changes up to there.
    pub(crate) fn reached(&self, position: &Position) -> impl Iterator<Item = CollectionId> {
        self.on(Route::Direct)
            .filter(move |id| self.0.get(id.0).is_some_and(|route| route.known <= *position))
    }

    /// Notes that such a reply is handed to the workers.
    pub(crate) fn pass(&mut self, position: &Position) {
        for route in self.0.iter_mut().filter(|route| route.way == Route::Direct) {
            if *position > route.known {
                route.known = position.clone();
            }
        }
    }

    /// Notes that a collection is durable up to `applied`, and says what that makes superfluous.
    pub(crate) fn trim(&mut self, id: CollectionId, applied: &Position) -> Option<Trim> {
        let route = self.0.get_mut(id.0)?;
        let span = route.span.as_mut()?;
        if route.way == Route::Direct && route.given <= *applied {
            (route.span, route.begun) = (None, false);
            return Some(Trim::All);
        }
        // What is beyond was not handed out by way of the spool.
        if route.begun || *applied <= span.from || *applied > route.given {
            return None;
        }
        span.from = applied.clone();
        Some(Trim::Until(applied.clone()))
    }
}

impl CollectionRoute {
    /// It may have been further already: those that are drained together begin at different positions, and there may be more in
    /// the spool than is known, if the token has gone back since.
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

//! Routes, spans and restarts.

use mongodb::bson::rawdoc;

use super::*;

const ONE: CollectionId = CollectionId(0);
const TWO: CollectionId = CollectionId(1);

fn at(n: u32) -> Position {
    Position::from_token(&rawdoc! { "_data": format!("82{n:08X}00000001") }).unwrap()
}

fn span(from: u32, to: Option<u32>) -> Option<SpoolSpan> {
    Some(SpoolSpan { from: at(from), to: to.map(at) })
}

fn start(flow: &Flow) -> Position {
    flow.start().unwrap().clone()
}

/// G6: changes that the spool holds are not read again, because the oplog may have lost them.
#[test]
fn continues_after_what_the_spool_holds() {
    let (flow, worthless) = Flow::resume([(at(3), span(2, None)), (at(8), None)], Some(&at(9)));
    assert_eq!((start(&flow), worthless), (at(8), vec![]));
    assert!(!flow.is_new(ONE, &at(9)) && flow.is_new(TWO, &at(9)));
    assert_eq!(flow.given(ONE), Some(&at(3)));
}

/// G7: a span that begins after PostgreSQL's position, or does not reach beyond it, is not believed.
#[test]
fn a_span_beside_what_is_applied_is_worthless() {
    for (applied, stored, token) in [(3, span(4, None), 9), (3, span(1, Some(2)), 9), (9, span(1, None), 9)] {
        let (flow, worthless) = Flow::resume([(at(applied), stored)], Some(&at(token)));
        assert_eq!((start(&flow), worthless), (at(applied), vec![(ONE, None)]));
    }
}

#[test]
fn a_collection_is_spooled_drained_and_goes_direct() {
    let (mut flow, _) = Flow::resume([(at(1), None)], None);
    assert_eq!(flow.spool(&at(5)), [(ONE, span(1, None))]);
    assert_eq!(flow.spool(&at(6)), [], "the span is open already");
    flow.release(ONE);
    flow.give(ONE, &at(4));
    assert_eq!(flow.spool(&at(7)), []);
    assert_eq!(flow.trim(ONE, &at(4)), Some(Trim::Until(at(4))));
    flow.drained(ONE);
    assert!(flow.is_spooled(ONE), "the changes handed out are not durable");
    assert_eq!(flow.spool(&at(8)), []);
    flow.pass(&at(8));
    assert_eq!(flow.trim(ONE, &at(6)), Some(Trim::Until(at(6))));
    assert_eq!(flow.trim(ONE, &at(7)), Some(Trim::All));
    assert_eq!((flow.trim(ONE, &at(9)), flow.spool(&at(9))), (None, vec![]));
}

/// G6: spooled changes may be older than the oplog, so their span does not end before they are durable.
#[test]
fn a_collection_that_is_turned_away_at_once_keeps_its_span() {
    let (mut flow, _) = Flow::resume([(at(1), None)], None);
    flow.spool(&at(5));
    flow.release(ONE);
    flow.drained(ONE);
    flow.spool(&at(7));
    flow.pass(&at(7));
    flow.turn_away(ONE);
    assert_eq!((flow.spool(&at(9)), flow.given(ONE)), (vec![], Some(&at(7))));
    assert_eq!(flow.trim(ONE, &at(3)), Some(Trim::Until(at(3))));
}

/// Changes that a span does not hold are not asked for.
#[test]
fn what_is_given_out_never_goes_back() {
    let (mut flow, _) = Flow::resume([(at(3), span(2, None)), (at(5), span(5, None))], Some(&at(9)));
    [ONE, TWO].into_iter().for_each(|id| flow.give(id, &at(4)));
    assert_eq!((flow.given(ONE), flow.given(TWO)), (Some(&at(4)), Some(&at(5))));
}

/// G2: nothing is claimed to be known of a stopped collection.
#[test]
fn a_stopped_collection_has_no_span() {
    let (mut flow, _) = Flow::resume([(at(1), None), (at(1), None)], None);
    flow.spool(&at(5));
    assert_eq!(flow.abandon(ONE), Some((ONE, None)));
    assert_eq!(flow.abandon(ONE), None);
    assert_eq!(flow.spool(&at(7)), []);
    assert_eq!(flow.trim(ONE, &at(3)), None);
    flow.release(ONE);
    assert_eq!(flow.way(ONE), Route::Nowhere);
}

/// One collection's trouble never affects another: where it stopped is not where the stream begins.
#[test]
fn a_stopped_collection_does_not_hold_the_stream_back() {
    let (mut flow, _) = Flow::resume([(at(1), None), (at(5), None)], None);
    assert_eq!(start(&flow), at(1));
    flow.abandon(ONE);
    assert_eq!(start(&flow), at(5));
    flow.abandon(TWO);
    assert_eq!(flow.start(), None);
}

/// G2: changes that were handed out directly are in no span.
#[test]
fn a_new_span_leaves_out_what_went_direct() {
    let (mut flow, _) = Flow::resume([(at(1), None), (at(1), None)], None);
    flow.spool(&at(5));
    flow.release(ONE);
    flow.drained(ONE);
    flow.trim(ONE, &at(5));
    flow.pass(&at(7));
    flow.turn_away(ONE);
    assert_eq!(flow.trim(ONE, &at(6)), None, "this position is not in the span");
    assert_eq!(
        flow.spool(&at(7)),
        [(ONE, span(7, None))],
        "the span is stored, though there are no new changes"
    );
    assert_eq!(flow.spool(&at(10)), []);
}

/// G6: a span that found no space is stored later, whatever happens to its collection meanwhile.
#[test]
fn a_span_that_found_no_space_is_stored_later() {
    let (mut flow, _) = Flow::resume([(at(1), None)], None);
    flow.release(ONE);
    flow.drained(ONE);
    flow.turn_away(ONE);
    flow.drained(ONE);
    flow.turn_away(ONE);
    assert!(flow.has_begun() && flow.given(ONE).is_none());
    flow.drained(ONE);
    assert_eq!((flow.trim(ONE, &at(1)), flow.has_begun()), (Some(Trim::All), false));
}

/// G3: while the stream is read again for one collection, the other takes nothing twice.
#[test]
fn what_comes_again_is_known() {
    let (mut flow, _) = Flow::resume([(at(3), span(2, None)), (at(4), None)], Some(&at(9)));
    flow.release(ONE);
    flow.release(TWO);
    assert_eq!(flow.spool(&at(6)), [(TWO, span(4, None))]);
    flow.drained(ONE);
    flow.drained(TWO);
    assert_eq!(flow.reached(&at(7)).collect::<Vec<_>>(), [TWO]);
    assert_eq!(flow.reached(&at(9)).collect::<Vec<_>>(), [ONE, TWO]);
}

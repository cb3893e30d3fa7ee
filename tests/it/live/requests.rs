//! Operators' requests to a pipeline, and the one query that shows them.

use docrow::sink::metadata::{
    pauses,
    repair_requests::{self, Repairs},
    requests::{Requested, Requests, look},
    throttles::Throttle,
};

use super::sink::{NS, Place, keys};

/// Every kind of request is seen, for this pipeline alone, until it is answered or withdrawn.
#[tokio::test]
async fn one_question_shows_all_requests() {
    let place = Place::held("requests").await;
    let mut session = place.session().await;
    let nothing = Requested {
        throttle: Throttle::AsConfigured,
        resyncs: vec![],
        paused: vec![],
        unheard: vec![],
        repairs: false,
        letters: false,
    };
    assert_eq!(look(&session, "p", &[]).await.unwrap(), nothing);

    let mut requests = Requests::open(&place.plain()).await.unwrap().unwrap();
    let orders = "shop.orders".to_owned();
    requests.throttle(&Throttle::AtMost("20MiB".to_owned())).await.unwrap();
    requests.resync(&[NS.to_owned()]).await.unwrap();
    requests.pause(&[NS.to_owned(), orders.clone()]).await.unwrap();
    requests.repair(NS, &Repairs { documents: vec![], keys: keys([7]) }).await.unwrap();
    pauses::hold(&mut session, "p", &[NS]).await.unwrap();
    place
        .query(
            "INSERT INTO docrow.dead_letters (pipeline, collection, key, key_hash, reason, retry_at) \
             VALUES ('p', 'shop.users', '1', gen_random_uuid(), 'why', now())",
        )
        .await;
    let all = Requested {
        throttle: Throttle::AtMost("20MiB".to_owned()),
        resyncs: vec![NS.to_owned()],
        paused: vec![NS.to_owned(), orders.clone()],
        unheard: vec![orders],
        repairs: true,
        letters: true,
    };
    let mut found = look(&session, "p", &[]).await.unwrap();
    found.paused.sort_by(|a, b| b.cmp(a));
    assert_eq!(found, all);
    assert_eq!(look(&session, "q", &[]).await.unwrap(), nothing);

    // Repairs of a collection that is not complete wait.
    assert!(!look(&session, "p", &[NS]).await.unwrap().repairs);
    assert_eq!(requests.repairs_left(NS).await.unwrap(), 1);
    assert_eq!(repair_requests::take(&mut session, "p", &[]).await.unwrap().len(), 1);
    requests.throttle(&Throttle::Off).await.unwrap();
    requests.resume(&[NS.to_owned()]).await.unwrap();
    let found = look(&session, "p", &[]).await.unwrap();
    assert_eq!((found.throttle, found.paused, found.repairs), (Throttle::Off, all.unheard, false));
}

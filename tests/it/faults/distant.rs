//! Servers on the other side of the world: every answer takes long, and that alone is no fault.

use std::time::Duration;

use super::{Phase, Scene};
use crate::support::{Home, Link, Pace, Place, port_of};

async fn distant(test: &str, phase: Phase) {
    let place = Place::shared(test).await;
    let pace = Pace { round_trip: Duration::from_millis(150), megabits_per_second: 100.0 };
    let [source, target] =
        [&place.mongodb_uri, &place.postgres_uri].map(|uri| Link::to(port_of(uri).parse().unwrap(), pace));
    let mut home = Home::new(&place);
    home.set("source.uri", source.mongodb_uri());
    let direct = format!(":{}/", port_of(&place.postgres_uri));
    home.set("target.uri", place.postgres_uri.replace(&direct, &format!(":{}/", target.port())));
    Scene::held(place, home, phase).await.converges(&[]).await;
}

#[tokio::test]
async fn distant_servers_during_snapshot() {
    distant("distant_snapshot", Phase::Snapshot).await;
}

#[tokio::test]
async fn distant_servers_during_hand_over() {
    distant("distant_hand_over", Phase::HandOver).await;
}

#[tokio::test]
async fn distant_servers_during_stream() {
    distant("distant_stream", Phase::Stream).await;
}

//! Servers on the other side of the world: every answer takes long, and that alone is no fault.

use std::time::Duration;

use super::{Phase, Scene};
use crate::support::{Home, Pace, Place};

async fn distant(test: &str, phase: Phase) {
    let place = Place::shared(test).await;
    let pace = Pace { round_trip: Duration::from_millis(150), megabits_per_second: 100.0 };
    let mut home = Home::new(&place);
    let _links = home.move_away_from(&place, pace);
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

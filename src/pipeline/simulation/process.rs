//! docrow's process in the simulation: the program itself, from [`Pipeline::replicate`] on.

use std::sync::Arc;

use tokio::sync::watch;

use super::{
    mongo_ports::SimulatedSource, postgres_ports::SimulatedTarget, settings::ScheduleSettings,
    spool_port::SimulatedSpool, world::SharedWorld,
};
use crate::{
    config::{Config, OnDrop, OnHistoryLost, Order},
    error::Result,
    mapping_files::MappingFiles,
    pipeline::{
        context::{Pipeline, Ports, TurnSettings, Until},
        ports::LazySpool,
    },
    sink::metadata::fence::OnHeld,
    telemetry::Reporter,
};

fn configured(config: &Config, set: &ScheduleSettings) -> Config {
    Config {
        on_history_lost: if set.resyncs { OnHistoryLost::Resync } else { OnHistoryLost::Stop },
        on_drop: if set.truncates { OnDrop::Truncate } else { OnDrop::Keep },
        evolve: set.evolves,
        max_dead_letters: set.most_dead,
        parallelism: 2,
        partitions: if set.order == Order::Commit { 1 } else { set.partitions },
        order: set.order,
        batch_rows: set.rows,
        max_spool: set.budget,
        ..config.clone()
    }
}

/// Runs docrow until it ends.
pub(super) async fn docrow(sim: SharedWorld) -> Result<()> {
    let (config, shutdown) = {
        let world = sim.lock();
        (configured(&world.config, &world.set), world.shutdown.clone())
    };
    let opens = sim.clone();
    let ports = Ports {
        source: Arc::new(SimulatedSource(sim.clone())),
        target: Arc::new(SimulatedTarget(sim.clone())),
        spool: Arc::new(LazySpool::new(move || Ok(Arc::new(SimulatedSpool(opens.clone()))))),
    };
    let settings = TurnSettings { config: Arc::new(config), files: MappingFiles::default() };
    let (_settings, current) = watch::channel(Arc::new(settings));
    let pipeline = Pipeline::new(ports, current, OnHeld::Refuse, Reporter::silent(), shutdown);
    {
        let mut world = sim.lock();
        world.demand = Some(pipeline.signals.apply_state.subscribe());
        world.notices = Some(pipeline.signals.tailer_events.subscribe());
        world.vitals = Some(pipeline.monitor.reporter.vitals().clone());
    }
    pipeline.replicate(Until::Stopped).await
}

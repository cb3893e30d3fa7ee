//! docrow's process in the simulation: the real program, from [`Pipeline::replicate`] on.

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

fn configured(config: &Config, settings: &ScheduleSettings) -> Config {
    Config {
        on_history_lost: if settings.resyncs { OnHistoryLost::Resync } else { OnHistoryLost::Stop },
        on_drop: if settings.truncates { OnDrop::Truncate } else { OnDrop::Keep },
        evolve: settings.evolves,
        max_dead_letters: settings.most_dead,
        parallelism: 2,
        partitions: if settings.order == Order::Commit { 1 } else { settings.partitions },
        order: settings.order,
        batch_rows: settings.rows,
        max_spool: settings.budget,
        ..config.clone()
    }
}

/// Runs docrow until it ends.
pub(super) async fn run_docrow(shared: SharedWorld) -> Result<()> {
    let (config, shutdown) = {
        let world = shared.lock();
        (configured(&world.config, &world.settings), world.shutdown.clone())
    };
    let of_spool = shared.clone();
    let ports = Ports {
        source: Arc::new(SimulatedSource(shared.clone())),
        target: Arc::new(SimulatedTarget(shared.clone())),
        spool: Arc::new(LazySpool::new(move || Ok(Arc::new(SimulatedSpool(of_spool.clone()))))),
    };
    let settings = TurnSettings { config: Arc::new(config), files: MappingFiles::default() };
    let (_settings, current) = watch::channel(Arc::new(settings));
    let pipeline = Pipeline::new(ports, current, OnHeld::Refuse, Reporter::silent(), shutdown);
    {
        let mut world = shared.lock();
        world.demand = Some(pipeline.signals.apply_state.subscribe());
        world.notices = Some(pipeline.signals.tailer_events.subscribe());
        world.vitals = Some(pipeline.monitor.reporter.vitals().clone());
    }
    pipeline.replicate(Until::Stopped).await
}

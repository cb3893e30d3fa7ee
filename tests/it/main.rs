//! One integration binary, so that all its tests share two servers.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "a test may fail loudly"
)]

mod bad_input;
mod chaos;
mod check;
mod compare;
mod compatible;
mod configuration;
mod crash;
mod dashboard;
mod dead_letters;
mod demo;
mod errors;
mod evolve;
mod examples;
mod faults;
mod fuzz_live;
mod golden;
mod infer;
mod live;
mod many;
mod mapping;
mod metrics;
mod notify;
mod otlp;
mod packaging;
mod plan;
mod pooler;
mod profile;
mod reload;
mod round_trips;
mod rules;
mod security;
mod serve;
mod servers;
mod services;
mod startup;
mod states;
mod status;
mod support;
mod told;
mod walk;
mod widening;

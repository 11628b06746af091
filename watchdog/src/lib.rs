//! The agent of load-watchdog, in the order in which data flows through it.
//!
//! [`kernel`] → [`identity`] → [`aggregate`] → [`sequential`] → [`verdict`] → [`incident`] → [`action`] →
//! [`metrics`], [`event`], [`control`]. Nothing flows back; [`agent`] calls the stages in order.

pub mod model;
pub mod text;

pub mod kernel;

pub mod identity;

pub mod aggregate;
pub mod environment;
pub mod estimate;
pub mod sequential;
pub mod verdict;

pub mod action;
pub mod decision;
pub mod incident;
pub mod release;
pub mod store;

pub mod control;
pub mod event;
pub mod metrics;
pub mod report;

pub mod agent;
pub mod cli;
pub mod clock;
pub mod config;
pub mod doctor;

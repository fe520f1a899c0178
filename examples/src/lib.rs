//! What the example programs are made of: the transfer protocol, and a sender that runs it over a NIC.
#![warn(missing_docs)]

pub mod capture;
pub mod crew;
pub mod device;
mod error;
pub mod log;
pub mod metrics;
pub mod packet;
pub mod placement;
mod pool;
mod posting;
pub mod report;
pub mod scribble;
pub mod segmented;
pub mod sending;
pub mod source;
pub mod station;
pub mod transfer;
pub mod watch;

pub use error::{Error, Result};

//! What the benches and the race share: NICs that move only when told, a cached file, headers, and the arithmetic of
//! line rates.
//!
//! A device is moved between timed regions, on the same core: what is timed is the driver, and the figures do not depend
//! on how two virtual CPUs share cache lines.

mod cached;
mod device;
mod header;
pub mod kernel;
pub mod line;
pub mod paper;
mod port;
pub mod race;

pub use cached::{Cached, FILE, PATTERN};
pub use device::Device;
pub use header::{TCP_HEADERS, tcp_header, udp_header};
pub use port::Port;

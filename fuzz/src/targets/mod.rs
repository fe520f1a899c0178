//! The targets' bodies, by what they feed.

pub mod attach;
pub mod bring_up;
pub mod firmware;
pub mod frames;
pub mod models;
pub mod package;
pub mod rings;
pub mod text;
pub mod transfer;
pub mod vfio_user;

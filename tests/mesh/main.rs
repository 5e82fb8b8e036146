//! The peer mesh: its protocol under a simulated network, its links on real sockets, its commands.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on has failed")]

mod certificates;
mod commands;
mod protocol;
mod sim;
mod sockets;
mod strangers;
mod support;

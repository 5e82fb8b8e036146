//! The peer mesh: the protocol in a simulated network, links on real sockets, and the commands.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is how a test fails")]

mod certificates;
mod commands;
mod floods;
mod protocol;
mod security;
mod sim;
mod sockets;
mod support;

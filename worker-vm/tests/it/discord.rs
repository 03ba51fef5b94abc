//! `ctx.Discord`, against an HTTP server on loopback that plays Discord.

mod checks;
mod hostile;
mod methods;
mod reports;
mod server;
mod states;

//! `antiraid run` against the simulated Discord, end to end: by its real gateway and REST clients, over real sockets.

use std::io::Read;
use std::process::Child;
use std::time::Duration;

use antiraid_bin::simulator::fault::Fault;
use antiraid_bin::simulator::world::BOT_TOKEN;

use crate::antiraid::Antiraid;
use crate::simulator_servers::{Server, config, run};

/// Fewer than a tenant may send at once (template API, section 10).
const MESSAGES: usize = 18;

const MANIFEST: &str = r#"
name = "answer"
description = "Answers each message."
events = ["MESSAGE"]
capabilities = ["discord:create_message"]
tenants = "all"
"#;

const CODE: &str = r#"
local evt, ctx = ...
ctx.Discord:create_message({ channel_id = evt.data.channel_id, data = { content = "answer to " .. evt.data.content } })
"#;

/// A program that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = tokio::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(50), "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn every_message_is_answered_once_though_connections_drop_and_a_revoked_token_ends_it() {
    let antiraid = Antiraid::new()
        .env("DISCORD_TOKEN", BOT_TOKEN)
        .file("answer/template.toml", MANIFEST)
        .file("answer/init.luau", CODE);
    run(async {
        let server = Server::start(config()).await;
        let guild = server.guild().to_string();
        antiraid.run(["template", "push", "answer", "--tenant", &guild, "--db", "sqlite:a.db"]).with_status(0);
        let url = format!("discord.api_url=http://{}", server.address);
        let args = ["run", "--db", "sqlite:a.db", "--listen", "127.0.0.1:0", "--workers", "1", "--set", &url];
        let mut running = Running(antiraid.command(args).spawn().unwrap());
        until("a bot at the gateway", || server.simulator.connected() == 1).await;
        for number in 0..MESSAGES {
            server.say(server.ada(), &number.to_string());
            if number % 6 == 3 {
                server.simulator.fail(&Fault::Drop { code: Some(4000) });
            }
        }
        let answers = || {
            server.simulator.with_world(|world| {
                let guild = world.guilds().next().unwrap();
                let messages = &guild.channel_named("general").unwrap().messages;
                let mut answers: Vec<_> = (messages.iter())
                    .filter_map(|message| message.content.strip_prefix("answer to ")?.parse::<usize>().ok())
                    .collect();
                answers.sort_unstable();
                answers
            })
        };
        until("all answers", || answers().len() >= MESSAGES).await;
        assert_eq!(answers(), (0..MESSAGES).collect::<Vec<_>>());

        server.simulator.fail(&Fault::RevokeToken);
        let mut status = None;
        while status.is_none() {
            status = running.0.try_wait().unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut said = String::new();
        running.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert_eq!(status.unwrap().code(), Some(3), "{said}");
        assert!(said.contains("does not accept the token"), "{said}");
    });
}

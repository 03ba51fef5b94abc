//! Why the gateway cannot be served at all.

use std::fmt;

use serde::{Deserialize, Serialize};
use worker_vm::Services;

use super::Gateway;
use super::intents::Intents;

/// Why Discord will not have this bot's connections back, in a sentence for whoever runs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayEnd(String);

impl GatewayEnd {
    /// The meaning of a close code that is final
    /// (<https://discord.com/developers/docs/topics/opcodes-and-status-codes#gateway-gateway-close-event-codes>), for a
    /// connection that asked for these intents.
    pub(crate) fn of_close(code: Option<u16>, intents: Intents) -> Self {
        Self(match code {
            Some(4004) => {
                "Discord does not accept the token any more (4004): it is wrong, or was reset; set DISCORD_TOKEN to \
                           the one at https://discord.com/developers/applications, under Bot"
                    .into()
            }
            Some(4010) => "Discord does not know a shard of this number (4010)".into(),
            Some(4011) => {
                "Discord asks for more shards (4011): start again, and leave `discord.shards` at 0 to have as many \
                           as Discord advises"
                    .into()
            }
            Some(4012) => {
                "Discord does not speak this version of the gateway any more (4012): antiraid must be updated".into()
            }
            Some(4013) => format!("Discord does not know one of the intents {intents} (4013): see `discord.intents`"),
            Some(4014) => format!(
                "Discord does not allow one of the intents that were asked for (4014): turn on {} at \
                 https://discord.com/developers/applications, under Bot, or set `discord.intents`",
                intents.switches()
            ),
            Some(code) => format!("Discord ended the connection for good ({code})"),
            None => "the connection to Discord ended for good".into(),
        })
    }

    /// The REST API does not take the token any more.
    pub(crate) fn token_revoked() -> Self {
        Self(
            "Discord does not accept the token any more (401): it was reset; set DISCORD_TOKEN to the one at \
             https://discord.com/developers/applications, under Bot"
                .into(),
        )
    }

    /// Returns when Discord will not have the bot any more, by its gateway or by its REST API.
    pub async fn first(gateway: &Gateway, services: &Services) -> Self {
        let revoked = async {
            let Some(discord) = services.discord() else { return std::future::pending().await };
            let mut revoked = discord.token_revoked();
            if revoked.wait_for(|revoked| *revoked).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            end = gateway.ended() => end,
            () = revoked => Self::token_revoked(),
        }
    }

    /// A task of ours that ended.
    pub(crate) fn broken(what: impl fmt::Display) -> Self {
        Self(format!("the gateway is not served any more: {what}"))
    }
}

impl fmt::Display for GatewayEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GatewayEnd {}

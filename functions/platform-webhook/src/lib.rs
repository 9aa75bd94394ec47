//! The webhook of the platform's own number, by which alerts go out: verifies the signature, records STOP and START.

use http::StatusCode;
use telbuddy::edge::{Access, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::inbound::signature::{Presented, SigningKeys, as_signed, verified_at_either};
use telbuddy::inbound::{Arrived, NotAnEvent};
use telbuddy::live::Need;
use telbuddy::opt_out::{PlatformWord, RecordPlatformWord};
use telbuddy::platform::PlatformKeys;
use telbuddy::secret::ExposeSecret;
use telbuddy::session::Site;

/// The routes of this function.
pub const ROUTES: &[Route] = &[Route { method: "POST", path: "/hooks/platform/messages", access: Access::Open }];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::Tables, Need::PlatformSecret];

/// Takes one text to the platform's own number: path, size, signature, durable row, answer, in this order.
///
/// Twilio answers STOP, START and HELP, so we never do: the answer is the same for every text, and of any but STOP and
/// START nothing is kept.
///
/// AWS calls: 1 conditional update for a STOP or START, none for the rest; once per environment 1 read of the secret.
pub async fn handle<W>(world: &W, site: &Site, request: Request) -> Reply
where
    W: PlatformKeys + RecordPlatformWord + Sync,
{
    answer(request.id, async {
        request.route(ROUTES)?;
        request.check_size()?;
        let platform = world.platform().await?;
        if platform.twilio_auth_tokens.is_empty() {
            return Err(no_number());
        }
        let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
        // From configuration and the raw path, never from Host: what a proxy does to the request must not count.
        let url = |origin: &str| format!("{}{}{query}", as_signed(origin), request.path);
        let (first, second) = (url(&site.origin), site.fallback.as_deref().map(url));
        let presented = Presented {
            signature: request.header("x-twilio-signature"),
            // No shared key signs here: a request that names one is refused.
            shared_key_settings: request.header("x-twilio-webhooks-signature-settings"),
            url: &first,
            content_type: request.header(http::header::CONTENT_TYPE),
            body: &request.body,
        };
        let tokens: Vec<_> = platform.twilio_auth_tokens.iter().map(ExposeSecret::expose_secret).collect();
        let keys = SigningKeys { auth_tokens: &tokens, shared_key: None };
        let params = verified_at_either(&presented, second.as_deref(), &keys).map_err(|rejection| {
            tracing::warn!(request.id = %request.id, cause = %rejection, "a webhook of the platform's number is refused");
            Problem::new(Kind::BadSignature, "the signature does not fit this address and the platform's Auth Token")
        })?;
        let text = Arrived::told(params.get()).map_err(malformed)?;
        if let Some((caller, consent)) = text.word() {
            let heard = PlatformWord { consent, at: request.now };
            // Only what is stored is acknowledged: after any fault Twilio asks again.
            world.record_platform_word(&platform.caller_hash(&caller), text.sid(), heard).await?;
        }
        Ok(no_reply())
    })
    .await
}

fn no_number() -> Problem {
    Problem::not_found("the platform has no number of its own here: its secret holds no Twilio Auth Token")
}

fn malformed(error: NotAnEvent) -> Problem {
    Problem::new(Kind::InvalidInput, format!("{error}: this is not one of Twilio's webhooks"))
}

/// TwiML that answers nothing.
fn no_reply() -> Reply {
    Reply::text(StatusCode::OK, "text/xml", "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response/>".to_owned())
}

#[cfg(test)]
mod tests;

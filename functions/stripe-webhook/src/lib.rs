//! Stripe's webhook: verifies the signature, queues the event's ids, answers. What came stays at Stripe.

use http::StatusCode;
use telbuddy::billing::signature::{MAX_EVENT_BYTES, Presented, Rejection, TOLERANCE, verified};
use telbuddy::billing::{NotAnEvent, StripeEvent};
use telbuddy::edge::{Access, Kind, Problem, Reply, Request, Route, answer};
use telbuddy::live::Need;
use telbuddy::platform::{EnqueueJob, Job, PlatformKeys};
use telbuddy::secret::ExposeSecret;

/// The routes of this function.
pub const ROUTES: &[Route] = &[Route { method: "POST", path: "/hooks/stripe", access: Access::Open }];

/// The services that it calls.
pub const NEEDS: &[Need] = &[Need::PlatformSecret, Need::Queues];

/// Takes one event: path, size, signature, durable queue, answer, in this order.
///
/// Stripe takes 400 for a signature that does not fit, and sends an event again until it gets a 2xx. An unknown type is
/// queued and acknowledged like any other.
///
/// AWS calls: 1 queue message; once per environment 1 read of the secret. Refused: none but that.
pub async fn handle<W>(world: &W, request: Request) -> Reply
where
    W: PlatformKeys + EnqueueJob + Sync,
{
    answer(request.id, async {
        request.route(ROUTES)?;
        if request.body.len() > MAX_EVENT_BYTES {
            return Err(Problem::new(Kind::BodyTooLarge, format!("the event is above {MAX_EVENT_BYTES} bytes")));
        }
        let platform = world.platform().await?;
        if platform.stripe_webhook_secrets.is_empty() {
            return Err(nothing_sold());
        }
        let secrets: Vec<_> = platform.stripe_webhook_secrets.iter().map(ExposeSecret::expose_secret).collect();
        let presented = Presented { signature: request.header("stripe-signature"), body: &request.body };
        let signed =
            verified(&presented, &secrets, request.now, TOLERANCE).map_err(|cause| refused(&request, cause))?;
        let event = StripeEvent::told(signed).map_err(malformed)?;
        tracing::info!(event.id = %event.id, kind = event.kind, secret = signed.secret(), "Stripe tells {}", event.id);
        // Only what the queue has taken is acknowledged.
        world.enqueue(Job::Stripe(event), 0).await?;
        Ok(Reply::empty(StatusCode::NO_CONTENT))
    })
    .await
}

fn nothing_sold() -> Problem {
    Problem::not_found("nothing is sold here: the platform's secret holds no signing secret of Stripe's")
}

fn refused(request: &Request, cause: Rejection) -> Problem {
    tracing::warn!(request.id = %request.id, %cause, "an event of Stripe's is refused");
    Problem::new(Kind::BadEventSignature, cause.to_string())
}

fn malformed(error: NotAnEvent) -> Problem {
    Problem::new(Kind::InvalidInput, format!("{error}: this is not one of Stripe's events"))
}

#[cfg(test)]
mod tests;

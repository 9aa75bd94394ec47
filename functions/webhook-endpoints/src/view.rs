//! What the routes answer.

use jiff::Timestamp;
use serde::Serialize;
use telbuddy::endpoint::{Answer, Attempt, Delivery, DeliveryStatus, Endpoint, EventType, Trouble, WhyDisabled};
use telbuddy::ids::{DeliveryId, EndpointId, EventId};

/// An endpoint, without its secret.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookEndpoint)]
pub struct EndpointView {
    /// Names it.
    #[schema(value_type = String, example = "whep_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    id: EndpointId,
    /// Where events are sent.
    url: String,
    /// Which; `["*"]` stands for all.
    events: Vec<&'static str>,
    /// Whether events of messages have with them what the message says.
    include_content: bool,
    /// What you call it.
    description: String,
    /// Whether anything is sent there.
    enabled: bool,
    /// Since when and why nothing is; null if it is enabled.
    disabled: Option<DisabledView>,
    /// Since when nothing but failures came of tries; after five days it is disabled. Null: the last try worked.
    #[schema(value_type = Option<String>, format = "date-time")]
    failing_since: Option<Timestamp>,
    /// Until when secrets sign that were replaced, the oldest first.
    #[schema(value_type = Vec<String>)]
    previous_secrets_until: Vec<Timestamp>,
    /// When it was made.
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
    /// When you changed it last.
    #[schema(value_type = String, format = "date-time")]
    updated_at: Timestamp,
}

/// That nothing is sent to an endpoint.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookEndpointDisabled)]
pub struct DisabledView {
    /// Since when.
    #[schema(value_type = String, format = "date-time")]
    since: Timestamp,
    /// `customer`: you did it; `gone`: it answered 410; `failing`: nothing but failures for five days.
    reason: WhyDisabled,
}

impl EndpointView {
    pub(crate) fn of(endpoint: &Endpoint) -> Self {
        Self {
            id: endpoint.id,
            url: endpoint.url.as_str().to_owned(),
            events: endpoint.choice.words(),
            include_content: endpoint.include_content,
            description: endpoint.description.clone(),
            enabled: endpoint.disabled.is_none(),
            disabled: endpoint.disabled.map(|disabled| DisabledView { since: disabled.at, reason: disabled.why }),
            failing_since: endpoint.failing_since,
            previous_secrets_until: endpoint.previous.iter().map(|before| before.until).collect(),
            created_at: endpoint.created,
            updated_at: endpoint.updated,
        }
    }
}

/// A new endpoint with its secret.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = NewWebhookEndpoint)]
pub struct NewEndpoint {
    /// The endpoint as lists show it.
    #[serde(flatten)]
    pub(crate) view: EndpointView,
    /// What signs, for your verifier. It is shown here and never again.
    #[schema(example = "whsec_…", format = "password")]
    pub(crate) secret: String,
}

/// An endpoint's new secret.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = NewWebhookSecret)]
pub struct NewSecret {
    /// What signs from now on. It is shown here and never again.
    #[schema(example = "whsec_…", format = "password")]
    pub(crate) secret: String,
    /// Until then the one before signs too: each request has both signatures.
    #[schema(value_type = Option<String>, format = "date-time")]
    pub(crate) previous_valid_until: Option<Timestamp>,
}

/// An account's endpoints.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookEndpointList)]
pub struct EndpointList {
    /// Oldest first; all of them.
    pub(crate) data: Vec<EndpointView>,
    /// Always null.
    #[schema(value_type = Option<String>)]
    pub(crate) next_cursor: (),
}

/// One event on its way to one endpoint.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookDelivery)]
pub struct DeliveryView {
    /// Names the delivery.
    #[schema(value_type = String, example = "wdel_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    id: DeliveryId,
    /// Names the event: the header `webhook-id`, the same at every try and for every endpoint.
    #[schema(value_type = String, example = "evt_01KAV0Z8M1Q4T9W2X5Y7B3C6D8")]
    event_id: EventId,
    /// Its type.
    event_type: EventType,
    /// When it happened.
    #[schema(value_type = String, format = "date-time")]
    event_at: Timestamp,
    /// Where it stands.
    status: DeliveryStatus,
    /// The last 20 tries, oldest first.
    attempts: Vec<AttemptView>,
    /// Not tried before then; null if it is over.
    #[schema(value_type = Option<String>, format = "date-time")]
    next_attempt_at: Option<Timestamp>,
    /// When it was made.
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
}

/// One try.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookAttempt)]
pub struct AttemptView {
    /// When it began.
    #[schema(value_type = String, format = "date-time")]
    at: Timestamp,
    /// The HTTP status; null if there was no answer.
    http_status: Option<u16>,
    /// Bytes of the answer's body that were read, at most 16 KiB; they are not kept.
    response_bytes: Option<u32>,
    /// Why there was no answer.
    error: Option<Trouble>,
    /// How long it took.
    took_ms: u32,
}

impl From<&Attempt> for AttemptView {
    fn from(attempt: &Attempt) -> Self {
        let (http_status, response_bytes, error) = match attempt.result {
            Answer::Http { status, bytes } => (Some(status), Some(bytes), None),
            Answer::None(trouble) => (None, None, Some(trouble)),
        };
        Self { at: attempt.at, http_status, response_bytes, error, took_ms: attempt.took_ms }
    }
}

impl DeliveryView {
    pub(crate) fn of(delivery: &Delivery) -> Self {
        Self {
            id: delivery.id,
            event_id: delivery.event.id,
            event_type: delivery.event.kind,
            event_at: delivery.event.at,
            status: delivery.status,
            attempts: delivery.attempts.iter().map(AttemptView::from).collect(),
            next_attempt_at: delivery.next,
            created_at: delivery.created,
        }
    }
}

/// A delivery with its payload.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookDeliveryDetail)]
pub struct DeliveryDetail {
    /// The delivery as lists show it.
    #[serde(flatten)]
    view: DeliveryView,
    /// What is sent, byte for byte; with `include_content` without the content, which is read at each try and not kept.
    payload: String,
}

impl DeliveryDetail {
    pub(crate) fn of(delivery: &Delivery) -> Self {
        Self { view: DeliveryView::of(delivery), payload: delivery.event.body() }
    }
}

/// A page of deliveries.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookDeliveryPage)]
pub struct DeliveryPage {
    /// Newest first.
    pub(crate) data: Vec<DeliveryView>,
    /// Give this as `cursor` for the next page; null at the end.
    pub(crate) next_cursor: Option<String>,
}

/// What a request to recover came to.
#[derive(Serialize, utoipa::ToSchema)]
#[schema(as = WebhookRecovery)]
pub struct Recovered {
    /// Failed deliveries of this page that are on their way again.
    pub(crate) resent: usize,
    /// Give this as `cursor`, with the same `since`, to go on; null at the end.
    pub(crate) next_cursor: Option<String>,
}

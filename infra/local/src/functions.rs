//! Every function and its trigger, as the template lists them. Each has adapters of its own, with only what it needs.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use telbuddy::edge::{Access, Route};
use telbuddy::fault::Fault;
use telbuddy::live::serve::{self, apigw, sqs};
use telbuddy::live::{Config, ConfigError, Live, Need};
use telbuddy::platform::Queue;
use telbuddy::reconciliation::SETTLED_AFTER;
use utoipa::openapi::RefOr;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};

/// A function as the local system calls it.
pub struct Function {
    /// Its name, the same as its package and its binary.
    pub name: &'static str,
    /// The services that it calls.
    pub needs: &'static [Need],
    /// What starts it.
    pub trigger: Trigger,
}

type Call<Event, Answer> = Box<dyn Fn(Event) -> BoxFuture<'static, Answer> + Send + Sync>;

/// What starts a function.
pub enum Trigger {
    /// Requests through the gateway.
    Http(&'static [Route], Call<apigw::ApiGatewayV2httpRequest, apigw::ApiGatewayV2httpResponse>),
    /// Messages of a queue.
    Queue(Queue, Call<sqs::SqsEvent, sqs::SqsBatchResponse>),
    /// A schedule. On AWS every minute; here more often, so that nobody has to wait.
    Schedule(Duration, Call<(), Result<(), Fault>>),
}

macro_rules! function {
    ($module:ident, $name:literal, $config:expr, |$live:ident| $trigger:expr) => {{
        let $live = Arc::new(Live::new(&$config.named($name), $module::NEEDS)?);
        Function { name: $name, needs: $module::NEEDS, trigger: $trigger }
    }};
}

macro_rules! http {
    ($module:ident, $name:literal, $config:expr, |$live:ident, $request:ident| $call:expr) => {
        function!($module, $name, $config, |shared| {
            Trigger::Http(
                $module::ROUTES,
                Box::new(move |event| {
                    let shared = shared.clone();
                    Box::pin(async move {
                        serve::http_event(&shared, async |$live: &Live, $request| $call.await, event).await
                    })
                }),
            )
        })
    };
}

macro_rules! queue {
    ($module:ident, $name:literal, $config:expr, |$live:ident, $jobs:ident| $call:expr) => {
        function!($module, $name, $config, |shared| {
            Trigger::Queue(
                $module::QUEUE,
                Box::new(move |event| {
                    let shared = shared.clone();
                    Box::pin(async move {
                        serve::queue_event(&shared, async |$live: &Live, $jobs| $call.await, event).await
                    })
                }),
            )
        })
    };
}

macro_rules! schedule {
    ($module:ident, $name:literal, $config:expr, $secs:literal) => {
        function!($module, $name, $config, |shared| {
            Trigger::Schedule(
                Duration::from_secs($secs),
                Box::new(move |()| {
                    let shared = shared.clone();
                    Box::pin(async move {
                        serve::tick_event(&shared, async |live: &Live| $module::handle(live).await).await
                    })
                }),
            )
        })
    };
}

/// All of them.
pub fn all(config: &Config) -> Result<Vec<Function>, ConfigError> {
    Ok(vec![
        http!(signup, "signup", config, |live, request| signup::handle(live, request)),
        http!(sessions, "sessions", config, |live, request| sessions::handle(live, &live.site, request)),
        http!(credentials, "credentials", config, |live, request| credentials::handle(live, &live.site, request)),
        http!(send_sms, "send-sms", config, |live, request| send_sms::handle(live, &live.site, request)),
        http!(templates, "templates", config, |live, request| templates::handle(live, &live.site, request)),
        http!(messages, "messages", config, |live, request| messages::handle(live, &live.site, request)),
        http!(twilio_webhook, "twilio-webhook", config, |live, request| {
            twilio_webhook::handle(live, &live.site, request)
        }),
        http!(platform_webhook, "platform-webhook", config, |live, request| {
            platform_webhook::handle(live, &live.site, request)
        }),
        http!(stripe_webhook, "stripe-webhook", config, |live, request| stripe_webhook::handle(live, request)),
        http!(account, "account", config, |live, request| account::handle(live, &live.site, request)),
        http!(overage, "overage", config, |live, request| overage::handle(live, &live.site, request)),
        http!(sending_policy, "sending-policy", config, |live, request| {
            sending_policy::handle(live, &live.site, request)
        }),
        http!(usage, "usage", config, |live, request| usage::handle(live, &live.site, request)),
        http!(reconciliations, "reconciliations", config, |live, request| {
            reconciliations::handle(live, &live.site, request)
        }),
        http!(access_log, "access-log", config, |live, request| access_log::handle(live, &live.site, request)),
        http!(billing, "billing", config, |live, request| { billing::handle(live, &live.site, &live.prices, request) }),
        http!(numbers, "numbers", config, |live, request| numbers::handle(live, &live.site, request)),
        http!(opt_outs, "opt-outs", config, |live, request| opt_outs::handle(live, &live.site, request)),
        http!(webhook_endpoints, "webhook-endpoints", config, |live, request| {
            webhook_endpoints::handle(live, &live.site, request)
        }),
        http!(meta, "meta", config, |_live, request| meta::handle(request)),
        queue!(sender, "sender", config, |live, jobs| sender::handle(live, &live.site, jobs)),
        queue!(twilio_events, "twilio-events", config, |live, jobs| twilio_events::handle(live, jobs)),
        queue!(stripe_events, "stripe-events", config, |live, jobs| {
            stripe_events::handle(live, &live.prices, jobs)
        }),
        queue!(mailer, "mailer", config, |live, jobs| mailer::handle(live, &live.site, jobs)),
        queue!(settler, "settler", config, |live, jobs| settler::handle(live, &live.listings, jobs)),
        queue!(poster, "poster", config, |live, jobs| poster::handle(live, jobs)),
        queue!(catch_up, "catch-up", config, |live, jobs| catch_up::handle(live, jobs)),
        queue!(self_test, "self-test", config, |live, jobs| self_test::handle(live, &live.site, jobs)),
        queue!(reconciler, "reconciler", config, |live, jobs| reconciler::handle(live, SETTLED_AFTER, jobs)),
        queue!(number_watch, "number-watch", config, |live, jobs| number_watch::handle(live, jobs)),
        queue!(key_rotation, "key-rotation", config, |live, jobs| key_rotation::handle(live, jobs)),
        queue!(deliverer, "deliverer", config, |live, jobs| deliverer::handle(live, jobs)),
        schedule!(sweeper, "sweeper", config, 5),
        schedule!(access_chain, "access-chain", config, 5),
        schedule!(usage_rollup, "usage-rollup", config, 2),
    ])
}

/// The API's description: the parts of all functions together.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut api = utoipa::openapi::OpenApiBuilder::new()
        .info(
            utoipa::openapi::InfoBuilder::new()
                .title("TelBuddy")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some("Your own Twilio account, without writing software for it."))
                .build(),
        )
        .build();
    let parts = vec![
        (signup::openapi(), signup::ROUTES),
        (sessions::openapi(), sessions::ROUTES),
        (account::openapi(), account::ROUTES),
        (overage::openapi(), overage::ROUTES),
        (credentials::openapi(), credentials::ROUTES),
        (send_sms::openapi(), send_sms::ROUTES),
        (messages::openapi(), messages::ROUTES),
        (templates::openapi(), templates::ROUTES),
        (sending_policy::openapi(), sending_policy::ROUTES),
        (usage::openapi(), usage::ROUTES),
        (reconciliations::openapi(), reconciliations::ROUTES),
        (access_log::openapi(), access_log::ROUTES),
        (billing::openapi(), billing::ROUTES),
        (numbers::openapi(), numbers::ROUTES),
        (opt_outs::openapi(), opt_outs::ROUTES),
        (webhook_endpoints::openapi(), webhook_endpoints::ROUTES),
        (meta::openapi(), meta::ROUTES),
    ];
    for (mut part, routes) in parts {
        for route in routes {
            guard(&mut part, route);
        }
        api.merge(part);
    }
    let components = api.components.get_or_insert_default();
    components.add_security_scheme(SESSION, SecurityScheme::ApiKey(ApiKey::Cookie(cookie())));
    components.add_security_scheme(API_KEY, SecurityScheme::Http(bearer()));
    api
}

/// The two ways in, as the description names them.
const SESSION: &str = "session";
const API_KEY: &str = "api_key";

fn cookie() -> ApiKeyValue {
    ApiKeyValue::with_description(
        "__Host-telbuddy_session",
        "A person who logged in; `POST /v1/sessions` sets it. Over plain http (the local system) it is called \
         telbuddy_session. Not together with an API key.",
    )
}

fn bearer() -> Http {
    let about = "A program, with a key from `POST /v1/account/api-keys`. Each route that takes keys names the scope \
                 that it needs. Not together with the cookie.";
    Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("tb_live_…").description(Some(about)).build()
}

/// Says who may call a route, from the same table that decides it.
fn guard(api: &mut utoipa::openapi::OpenApi, route: &Route) {
    let Some(item) = api.paths.paths.get_mut(route.path) else { return };
    let operation = match route.method {
        "GET" => &mut item.get,
        "PUT" => &mut item.put,
        "POST" => &mut item.post,
        "PATCH" => &mut item.patch,
        _ => &mut item.delete,
    };
    let Some(operation) = operation else { return };
    let session = SecurityRequirement::new(SESSION, NO_SCOPES);
    let (ways, refusal) = match route.access {
        Access::Open => (Vec::new(), None),
        Access::Session => (vec![session], Some("No API key may do this, or the request came from another site")),
        Access::Scope(scope) => (
            vec![session, SecurityRequirement::new(API_KEY, [scope.as_str()])],
            Some("The API key lacks the scope, or the request came from another site"),
        ),
    };
    operation.security = Some(ways);
    // A route that has more to say about 403 says it itself.
    let responses = &mut operation.responses.responses;
    if let Some(refusal) = refusal
        && !responses.contains_key("403")
        && let Some(RefOr::T(unauthorized)) = responses.get("401")
    {
        let mut forbidden = unauthorized.clone();
        refusal.clone_into(&mut forbidden.description);
        responses.insert("403".to_owned(), RefOr::T(forbidden));
    }
}

const NO_SCOPES: [&str; 0] = [];

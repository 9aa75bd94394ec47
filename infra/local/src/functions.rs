//! Every function and its trigger, as the template lists them. Each has adapters of its own, with only what it needs.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use telbuddy::edge::Route;
use telbuddy::fault::Fault;
use telbuddy::live::serve::{self, apigw, sqs};
use telbuddy::live::{Config, ConfigError, Live, Need};
use telbuddy::platform::Queue;

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
        http!(sending_policy, "sending-policy", config, |live, request| {
            sending_policy::handle(live, &live.site, request)
        }),
        http!(usage, "usage", config, |live, request| usage::handle(live, &live.site, request)),
        http!(access_log, "access-log", config, |live, request| access_log::handle(live, &live.site, request)),
        http!(numbers, "numbers", config, |live, request| numbers::handle(live, &live.site, request)),
        http!(opt_outs, "opt-outs", config, |live, request| opt_outs::handle(live, &live.site, request)),
        http!(meta, "meta", config, |_live, request| meta::handle(request)),
        queue!(sender, "sender", config, |live, jobs| sender::handle(live, &live.site, jobs)),
        queue!(twilio_events, "twilio-events", config, |live, jobs| twilio_events::handle(live, jobs)),
        queue!(mailer, "mailer", config, |live, jobs| mailer::handle(live, &live.site, jobs)),
        queue!(poster, "poster", config, |live, jobs| poster::handle(live, jobs)),
        queue!(number_watch, "number-watch", config, |live, jobs| number_watch::handle(live, jobs)),
        queue!(key_rotation, "key-rotation", config, |live, jobs| key_rotation::handle(live, jobs)),
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
    for part in [
        signup::openapi(),
        sessions::openapi(),
        credentials::openapi(),
        send_sms::openapi(),
        messages::openapi(),
        templates::openapi(),
        sending_policy::openapi(),
        usage::openapi(),
        access_log::openapi(),
        numbers::openapi(),
        opt_outs::openapi(),
        meta::openapi(),
    ] {
        api.merge(part);
    }
    api
}

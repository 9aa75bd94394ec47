//! Logs: one JSON object per line, with ids and nothing personal.

use tracing_subscriber::EnvFilter;

/// Starts logging to standard output. `RUST_LOG`-like filters are not read from the environment: a level that shows
/// what the HTTP client writes would show tokens.
pub fn start() {
    let filter = EnvFilter::new(FILTER);
    let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(filter);
    // A second start (tests, the local system) keeps the first.
    let _ = subscriber.try_init();
}

/// Ours at `info`, others at `warn`.
pub const FILTER: &str = "warn,telbuddy=info,signup=info,sessions=info,account=info,overage=info,credentials=info,send_sms=info,\
    messages=info,templates=info,sending_policy=info,sender=info,twilio_webhook=info,twilio_events=info,mailer=info,\
    poster=info,settler=info,sweeper=info,numbers=info,number_watch=info,catch_up=info,self_test=info,opt_outs=info,\
    usage=info,usage_rollup=info,reconciler=info,reconciliations=info,access_log=info,access_chain=info,\
    key_rotation=info,webhook_endpoints=info,deliverer=info,platform_webhook=info,stripe_webhook=info,\
    stripe_events=info,billing=info,meta=info";

//! What the policy takes, that it never lifts a freeze, and who may.

use std::pin::pin;

use futures::poll;
use http::{Method, header};
use serde_json::{Value, json};
use telbuddy::account::{CreateAccount, Password, SignedUp, StopSending, Stopped};
use telbuddy::platform::{Chance, Clock};
use telbuddy::secret::{ExposeSecret, Token};
use telbuddy::session::{Session, TOKEN_PREFIX, TRIES_PER_PAIR};
use telbuddy::testing::World;
use telbuddy::testing::fresh::{self, FROZEN, secs};
use telbuddy::testing::setup::{called, request, site, with_header};

use super::*;

const PASSWORD: &str = "correct horse battery";

/// Somebody who is signed in and has a password.
struct Owner {
    account: AccountId,
    user: UserId,
    cookie: String,
}

impl Owner {
    async fn new(world: &World) -> Self {
        let platform = world.platform().await.unwrap();
        let mut new = fresh::new_account(world, 1);
        let email = telbuddy::account::Email::parse("ann@example.com").unwrap();
        let password = Password::parse(PASSWORD.into(), &email).unwrap();
        new.owner.password = platform.peppers.hash(&password, [7; 16]).unwrap();
        let (account, user) = (new.account, new.owner.id);
        assert_eq!(world.create_account(new).await, Ok(SignedUp::Created));
        let token = Token::new(account, world.random().unwrap());
        let cookie = format!("{}={}", site().cookie_name(), token.reveal(TOKEN_PREFIX).expose_secret());
        let session = Session { user, hash: token.hash(), ..fresh::session(world, account) };
        world.start_session(session).await.unwrap();
        world.forget_calls();
        Self { account, user, cookie }
    }

    async fn call(&self, world: &World, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = with_header(request(world, method, path, &body), header::COOKIE, &self.cookie);
        let reply = handle(world, &site(), request).await;
        (reply.status, serde_json::from_str(&reply.body).unwrap())
    }

    async fn shown(&self, world: &World) -> Value {
        let (status, body) = self.call(world, Method::GET, "/v1/sending-policy", &Value::Null).await;
        assert_eq!(status, StatusCode::OK);
        body
    }

    async fn save(&self, world: &World, body: Value) -> (StatusCode, Value) {
        self.call(world, Method::PUT, "/v1/sending-policy", &body).await
    }

    async fn unfreeze(&self, world: &World, body: Value) -> (StatusCode, Value) {
        self.call(world, Method::POST, "/v1/account/sending/unfreeze", &body).await
    }

    async fn freeze(&self, world: &World) {
        assert_eq!(world.stop_sending(self.account, FROZEN, 0, world.now()).await, Ok(Stopped::Now));
        world.forget_calls();
    }
}

fn fields(body: &Value) -> Vec<&str> {
    body["errors"].as_array().unwrap().iter().map(|error| error["field"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_new_account_has_its_own_country_the_first_ceiling_and_no_stop() {
    let world = World::new(1);
    let owner = Owner::new(&world).await;
    let expected = json!({ "countries": ["US"], "daily_ceiling_segments": 500, "quiet_hours": null, "stopped": [],
        "frozen": null, "lifted": null, "risks": [], "sender_rates": [] });
    world.change_gate(owner.account, |gate| gate.sender_rates.clear());
    assert_eq!(owner.shown(&world).await, expected);
    assert_eq!(called(&world), [("load_session", 1), ("load_gate", 1)].into_iter().collect());
}

#[tokio::test]
async fn a_policy_is_saved_whole_and_says_what_it_opens() {
    let world = World::new(1);
    let owner = Owner::new(&world).await;
    let hours = json!({ "from": "21:00", "to": "08:00" });
    let asked = json!({ "countries": ["us", "CA", "US"], "daily_ceiling_segments": 2_000, "quiet_hours": hours });
    let (status, saved) = owner.save(&world, asked.clone()).await;
    assert_eq!(status, StatusCode::OK, "{saved}");
    assert_eq!(called(&world), [("load_session", 1), ("load_gate", 1), ("save_policy", 1)].into_iter().collect());
    let rest = (&saved["daily_ceiling_segments"], &saved["quiet_hours"]);
    assert_eq!((&saved["countries"], rest), (&json!(["CA", "US"]), (&json!(2_000), &hours)));
    let codes: Vec<_> = saved["risks"].as_array().unwrap().iter().map(|risk| risk["code"].clone()).collect();
    assert_eq!(codes, ["ceiling_raised", "countries_added"]);
    let (_, again) = owner.save(&world, asked).await;
    assert_eq!(again["risks"], json!([]), "nothing is opened by what is open");
    assert_eq!(owner.shown(&world).await, again);
    let (_, back) =
        owner.save(&world, json!({ "countries": ["US"], "daily_ceiling_segments": 1, "quiet_hours": null })).await;
    assert_eq!((&back["countries"], &back["quiet_hours"], &back["risks"]), (&json!(["US"]), &Value::Null, &json!([])));
}

#[tokio::test]
async fn senders_have_the_rates_that_were_saved_until_they_are_left_out() {
    let world = World::new(1);
    let owner = Owner::new(&world).await;
    let service = format!("MG{}", "0123456789abcdef".repeat(2));
    let mut asked = json!({ "countries": ["US"], "daily_ceiling_segments": 500, "quiet_hours": null, "sender_rates": [
        { "sender": "+1 (415) 555-0100", "segments_per_second": 12 },
        { "sender": service, "segments_per_second": 225 }] });
    let (status, saved) = owner.save(&world, asked.clone()).await;
    assert_eq!(status, StatusCode::OK, "{saved}");
    let rates = json!([{ "sender": "+14155550100", "segments_per_second": 12 },
        { "sender": service, "segments_per_second": 225 }]);
    assert_eq!((&saved["sender_rates"], &owner.shown(&world).await), (&rates, &saved));
    let gate = world.gate(owner.account).unwrap();
    let of = |own: &str| gate.rate_of(own);
    assert_eq!((of("+14155550100"), of(&service), of("+14155550101")), (Some(12), Some(225), Some(1)));
    asked.as_object_mut().unwrap().remove("sender_rates");
    let (_, saved) = owner.save(&world, asked).await;
    assert_eq!(saved["sender_rates"], json!([]));
}

#[tokio::test]
async fn every_field_that_does_not_fit_is_named_and_nothing_is_written() {
    let world = World::new(1);
    let owner = Owner::new(&world).await;
    let good = json!({ "countries": ["US"], "daily_ceiling_segments": 500, "quiet_hours": null });
    let rate = |sender: &str, per_second: u32| json!({ "sender": sender, "segments_per_second": per_second });
    for (name, value, expected) in [
        ("countries", json!([]), "countries"),
        ("countries", json!(["US", "ZZ", "DE"]), "countries[1]"),
        ("countries", json!(vec!["US"; 301]), "countries"),
        ("countries", Value::Null, "countries"),
        ("daily_ceiling_segments", json!(0), "daily_ceiling_segments"),
        ("daily_ceiling_segments", json!(1_000_001), "daily_ceiling_segments"),
        ("daily_ceiling_segments", json!(-1), "daily_ceiling_segments"),
        ("quiet_hours", json!({ "from": "9pm", "to": "08:00" }), "quiet_hours.from"),
        ("quiet_hours", json!({ "from": "21:00", "to": "24:00" }), "quiet_hours.to"),
        ("quiet_hours", json!({ "from": "21:00", "to": "21:00" }), "quiet_hours.to"),
        ("quiet_hours", json!({ "from": "21:00" }), "quiet_hours.to"),
        ("sender_rates", json!([rate("", 1)]), "sender_rates[0].sender"),
        ("sender_rates", json!([rate("12345", 1), rate("12345", 2)]), "sender_rates[1].sender"),
        ("sender_rates", json!([rate("12345", 0)]), "sender_rates[0].segments_per_second"),
        ("sender_rates", json!([rate("12345", 1_001)]), "sender_rates[0].segments_per_second"),
        (
            "sender_rates",
            json!((0..101).map(|n| rate(&(10_000 + n).to_string(), 1)).collect::<Vec<_>>()),
            "sender_rates",
        ),
        ("frozen", Value::Null, "frozen"),
    ] {
        let mut asked = good.clone();
        asked[name] = value;
        let (status, problem) = owner.save(&world, asked).await;
        assert_eq!((status, fields(&problem)), (StatusCode::UNPROCESSABLE_ENTITY, vec![expected]), "{problem}");
    }
    for missing in ["countries", "daily_ceiling_segments", "quiet_hours"] {
        let mut asked = good.clone();
        asked.as_object_mut().unwrap().remove(missing);
        let (status, problem) = owner.save(&world, asked).await;
        assert_eq!((status, fields(&problem)), (StatusCode::UNPROCESSABLE_ENTITY, vec![missing]), "a whole document");
    }
    assert_eq!(called(&world).get("save_policy"), None);
}

#[tokio::test]
async fn saving_a_policy_never_lifts_a_freeze() {
    let world = World::new(1);
    let owner = Owner::new(&world).await;
    owner.freeze(&world).await;
    let asked = json!({ "countries": ["US"], "daily_ceiling_segments": 1_000, "quiet_hours": null });
    let (status, saved) = owner.save(&world, asked).await;
    assert_eq!((status, &saved["stopped"]), (StatusCode::OK, &json!(["frozen"])));
    assert_eq!(world.gate(owner.account).unwrap().stopped(), Some(FROZEN));
}

#[tokio::test]
async fn a_freeze_is_shown_with_its_reason_and_beside_other_stops() {
    let world = World::new(1);
    let owner = Owner::new(&world).await;
    owner.freeze(&world).await;
    world.stop(owner.account, Stop::CredentialRefused);
    let shown = owner.shown(&world).await;
    assert_eq!(shown["stopped"], json!(["frozen", "credential_refused"]));
    assert_eq!((&shown["frozen"]["reason"], &shown["frozen"]["since"]), (&json!("velocity"), &json!(world.now())));
    assert!(shown["frozen"]["detail"].as_str().unwrap().contains("/v1/account/sending/unfreeze"), "{shown}");
}

#[tokio::test]
async fn the_right_password_lifts_the_freeze_and_it_is_known_who_did() {
    let world = World::new(1);
    let owner = Owner::new(&world).await;
    owner.freeze(&world).await;
    world.stop(owner.account, Stop::CredentialRefused);
    world.advance(secs(30));
    let (status, after) = owner.unfreeze(&world, json!({ "password": PASSWORD })).await;
    assert_eq!(status, StatusCode::OK, "{after}");
    let calls = [
        ("load_session", 1),
        ("load_user", 1),
        ("platform", 1),
        ("count_try", 3),
        ("load_gate", 2),
        ("lift_freeze", 1),
    ];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert_eq!((&after["frozen"], &after["stopped"]), (&Value::Null, &json!(["credential_refused"])));
    assert_eq!(after["lifted"], json!({ "at": world.now(), "by": owner.user }));
    // A second click changes nothing and is no error.
    let (status, again) = owner.unfreeze(&world, json!({ "password": PASSWORD })).await;
    assert_eq!((status, again), (StatusCode::OK, after));
}

#[tokio::test]
async fn a_wrong_password_lifts_nothing_and_tries_are_counted_with_those_of_log_in() {
    let world = World::new(1);
    let owner = Owner::new(&world).await;
    owner.freeze(&world).await;
    for _ in 0..TRIES_PER_PAIR {
        let (status, problem) = owner.unfreeze(&world, json!({ "password": "wrong horse battery" })).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        assert_eq!(problem["type"], "https://telbuddy.dev/problems/wrong-credentials");
    }
    let (status, _) = owner.unfreeze(&world, json!({ "password": PASSWORD })).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "the right one comes too late");
    assert!(world.gate(owner.account).unwrap().frozen.is_some());
    assert_eq!(called(&world).get("lift_freeze"), None);
    // The budget is the user's, not the route's.
    let index = world.load_user(owner.account, owner.user).await.unwrap().unwrap().email;
    let log_in = request(&world, Method::POST, "/v1/sessions", "{}");
    let platform = world.platform().await.unwrap();
    assert!(count_password_try(&world, &platform, &index, &log_in).await.is_err());
}

#[tokio::test]
async fn an_older_click_does_not_lift_a_newer_freeze() {
    let world = World::new(1);
    let owner = Owner::new(&world).await;
    owner.freeze(&world).await;
    let seen = owner.shown(&world).await["frozen"]["since"].clone();
    let click = json!({ "password": PASSWORD, "since": seen });
    assert_eq!(owner.unfreeze(&world, click.clone()).await.0, StatusCode::OK);
    world.advance(secs(60));
    owner.freeze(&world).await;
    let (status, problem) = owner.unfreeze(&world, click).await;
    assert_eq!(
        (status, &problem["type"]),
        (StatusCode::CONFLICT, &json!("https://telbuddy.dev/problems/frozen-again"))
    );
    assert!(world.gate(owner.account).unwrap().frozen.is_some());
}

/// Between the look at the freeze and the write, the freeze is lifted by somebody else and a new one comes.
#[tokio::test]
async fn a_freeze_that_comes_while_the_password_is_checked_stays() {
    let mut met = 0;
    for seed in 0..20 {
        let world = World::new(seed);
        let owner = Owner::new(&world).await;
        owner.freeze(&world).await;
        let (first, later) = (world.now(), world.now() + secs(5));
        let mut click = pin!(owner.unfreeze(&world, json!({ "password": PASSWORD })));
        while poll!(&mut click).is_pending() && !world.calls().contains_key("load_gate") {}
        if world.calls().contains_key("lift_freeze") {
            continue;
        }
        met += 1;
        assert_eq!(world.lift_freeze(owner.account, first, owner.user, first).await, Ok(Lift::Done));
        assert_eq!(world.stop_sending(owner.account, FROZEN, 0, later).await, Ok(Stopped::Now));
        let (status, problem) = click.await;
        assert_eq!(status, StatusCode::CONFLICT, "seed {seed}: {problem}");
        assert_eq!(world.gate(owner.account).unwrap().frozen.map(|freeze| freeze.since), Some(later));
    }
    assert!(met > 3, "{met}");
}

#[tokio::test]
async fn without_a_session_or_from_another_site_nothing_is_looked_at() {
    let world = World::new(1);
    let owner = Owner::new(&world).await;
    owner.freeze(&world).await;
    let body = json!({ "password": PASSWORD }).to_string();
    let path = "/v1/account/sending/unfreeze";
    let strange = handle(&world, &site(), request(&world, Method::POST, path, &body)).await;
    assert_eq!(strange.status, StatusCode::UNAUTHORIZED);
    let foreign = with_header(request(&world, Method::POST, path, &body), header::COOKIE, &owner.cookie);
    let foreign = with_header(foreign, header::ORIGIN, "https://evil.example");
    assert_eq!(handle(&world, &site(), foreign).await.status, StatusCode::FORBIDDEN);
    assert!(called(&world).is_empty(), "{:?}", called(&world));
}

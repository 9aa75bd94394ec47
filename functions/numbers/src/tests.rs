//! Numbers are given back as they were, whatever fails on the way, and what the customer changed is never overwritten.

use http::Method;
use serde_json::Value;
use telbuddy::connection::{NUMBER_FALLBACK, NUMBER_SETTINGS};
use telbuddy::credential::{KeepCredential, SaveCredential, Saved};
use telbuddy::testing::setup::{Customer, called, crash_after, site, site_with_fallback};
use telbuddy::testing::{World, fresh};

use super::*;

const THEIRS: [(&str, &str); 3] =
    [("SmsApplicationSid", "AP1"), ("SmsMethod", "GET"), ("SmsUrl", "https://shop.example/sms?key=k#rc=1")];

/// What a shop has for a number of which the first host failed.
const THEIR_FALLBACK: [(&str, &str); 2] =
    [("SmsFallbackMethod", "GET"), ("SmsFallbackUrl", "https://shop.example/second?key=k")];

fn settings(pairs: [(&str, &str); 3]) -> Settings {
    Settings(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into())
}

/// All settings of a shop's number.
fn all_theirs() -> Settings {
    let fallback = THEIR_FALLBACK.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Settings(settings(THEIRS).0.into_iter().chain(fallback).collect())
}

struct Shop {
    world: World,
    customer: Customer,
    number: Target,
    service: Target,
}

/// A customer with a number and a messaging service at Twilio, both configured for a shop of theirs.
async fn shop(seed: u64) -> Shop {
    let world = World::new(seed);
    let customer = Customer::new(&world).await;
    let sid = |prefix| Target::parse(fresh::sid(&world, prefix).as_str()).unwrap();
    let (number, service) = (sid("PN"), sid("MG"));
    let account_sid = customer.credential.account_sid.as_str();
    let of_service = settings([
        ("InboundMethod", "POST"),
        ("InboundRequestUrl", "https://shop.example/pool"),
        ("UseInboundWebhookOnNumber", "true"),
    ]);
    world.twilio().add_target(account_sid, &number, "+14155550100", settings(THEIRS));
    world.twilio().add_target(account_sid, &service, "Pool", of_service);
    Shop { world, customer, number, service }
}

impl Shop {
    async fn ask(&self, method: Method, path: &str) -> Reply {
        handle(&self.world, &site(), self.customer.request(&self.world, method, path, "")).await
    }

    async fn connect(&self, target: &Target, query: &str) -> Reply {
        self.ask(Method::POST, &format!("/v1/numbers/{}/connection{query}", target.as_str())).await
    }

    async fn disconnect(&self, target: &Target, query: &str) -> Reply {
        self.ask(Method::DELETE, &format!("/v1/numbers/{}/connection{query}", target.as_str())).await
    }

    fn at_twilio(&self, target: &Target) -> Settings {
        self.world.twilio().settings_of(target).unwrap()
    }

    fn ours(&self, target: &Target) -> Settings {
        self.ours_at(&site(), target)
    }

    fn ours_at(&self, site: &Site, target: &Target) -> Settings {
        Settings::ours(target.kind(), &site.origin, site.fallback.as_deref(), &self.customer.credential.hook)
    }

    /// Another number, with its fallback set.
    fn second_number(&self) -> Target {
        let number = Target::parse(fresh::sid(&self.world, "PN").as_str()).unwrap();
        let account_sid = self.customer.credential.account_sid.as_str();
        self.world.twilio().add_target(account_sid, &number, "+14155550101", all_theirs());
        number
    }

    async fn ask_at(&self, site: &Site, method: Method, target: &Target, query: &str) -> Reply {
        let path = format!("/v1/numbers/{}/connection{query}", target.as_str());
        handle(&self.world, site, self.customer.request(&self.world, method, &path, "")).await
    }

    /// How the list says that its connection stands.
    async fn listed(&self, site: &Site, number: &Target) -> Value {
        let reply = handle(&self.world, site, self.customer.request(&self.world, Method::GET, "/v1/numbers", "")).await;
        let listed = body(&reply)["data"].as_array().unwrap().clone();
        listed.iter().find(|one| one["sid"] == number.as_str()).unwrap()["connection"]["state"].clone()
    }

    /// What the number has once it was connected here: the rest stays the shop's.
    fn connected(&self, site: &Site, target: &Target) -> Settings {
        Settings(all_theirs().0.into_iter().chain(self.ours_at(site, target).0).collect())
    }

    fn state(&self) -> Option<State> {
        self.world.connections_of(self.customer.account).first().map(|connection| connection.state)
    }

    fn counted(&self) -> u32 {
        self.world.gate(self.customer.account).unwrap().numbers
    }
}

fn body(reply: &Reply) -> Value {
    serde_json::from_str(&reply.body).unwrap()
}

fn problem(reply: &Reply) -> (u16, String) {
    let kind = body(reply)["type"].as_str().unwrap_or_default().to_owned();
    (reply.status.as_u16(), kind.trim_start_matches("https://telbuddy.dev/problems/").to_owned())
}

#[tokio::test]
async fn connecting_and_disconnecting_gives_every_setting_back_byte_for_byte() {
    let shop = shop(1).await;
    for target in [&shop.number, &shop.service] {
        let before = shop.at_twilio(target);
        assert_eq!(shop.connect(target, "").await.status, StatusCode::OK);
        assert_eq!((shop.at_twilio(target), shop.state()), (shop.ours(target), Some(State::Connected)));
        let reply = shop.disconnect(target, "").await;
        assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
        assert_eq!((shop.at_twilio(target), shop.state(), shop.counted()), (before, None, 0));
    }
}

#[tokio::test]
async fn a_dry_run_shows_the_difference_and_changes_nothing() {
    let shop = shop(1).await;
    let reply = body(&shop.connect(&shop.number, "?dry_run=true").await);
    let change = |name: &str, from: &str, to: &str| serde_json::json!({ "setting": name, "from": from, "to": to });
    let ours = shop.ours(&shop.number);
    let expected = THEIRS.map(|(name, from)| change(name, from, &ours.0[name]));
    assert_eq!((&reply["changes"], &reply["dry_run"]), (&expected.to_vec().into(), &true.into()));
    assert_eq!(reply["state"], Value::Null);
    assert_eq!((shop.world.twilio().writes(), shop.state()), (0, None));
    shop.connect(&shop.number, "").await;
    let reply = body(&shop.connect(&shop.number, "?dry_run=true").await);
    assert_eq!((&reply["changes"], &reply["state"]), (&Value::Array(Vec::new()), &"connected".into()));
}

#[tokio::test]
async fn connecting_costs_four_reads_two_writes_and_two_calls_and_again_nothing_is_written() {
    let shop = shop(1).await;
    shop.connect(&shop.number, "").await;
    let calls = [
        ("load_session", 1),
        ("load_credential", 1),
        ("load_connection", 1),
        ("load_keys", 2),
        ("open_key", 2),
        ("read_settings", 1),
        ("begin_connection", 1),
        ("write_settings", 1),
        ("update_connection", 1),
    ];
    assert_eq!(called(&shop.world), calls.into_iter().collect());
    shop.world.forget_calls();
    assert_eq!(shop.connect(&shop.number, "").await.status, StatusCode::OK);
    let calls = [("load_session", 1), ("load_credential", 1), ("load_connection", 1), ("read_settings", 1)];
    assert_eq!(called(&shop.world), calls.into_iter().collect());
}

#[tokio::test]
async fn what_the_customer_changed_is_told_and_not_overwritten() {
    let shop = shop(1).await;
    shop.connect(&shop.number, "").await;
    shop.world.twilio().change_setting(&shop.number, "SmsUrl", "https://new.example/");
    let changed = shop.at_twilio(&shop.number);
    for reply in [shop.connect(&shop.number, "").await, shop.disconnect(&shop.number, "").await] {
        assert_eq!(problem(&reply), (409, "number-changed".to_owned()));
        assert_eq!(body(&reply)["errors"][0]["field"], "SmsUrl");
        assert_eq!((shop.at_twilio(&shop.number), shop.counted()), (changed.clone(), 1));
    }
    let listed = body(&shop.ask(Method::GET, "/v1/numbers").await);
    assert_eq!(listed["data"][0]["connection"]["state"], "changed");
    let writes = shop.world.twilio().writes();
    assert_eq!(shop.disconnect(&shop.number, "?when_changed=keep").await.status, StatusCode::OK);
    assert_eq!((shop.at_twilio(&shop.number), shop.world.twilio().writes()), (changed.clone(), writes));
    // Connected anew, what stands there now is what comes back.
    shop.connect(&shop.number, "").await;
    shop.disconnect(&shop.number, "").await;
    assert_eq!(shop.at_twilio(&shop.number), changed);
}

#[tokio::test]
async fn what_the_customer_changed_is_overwritten_when_that_is_asked_for() {
    let shop = shop(1).await;
    shop.connect(&shop.number, "").await;
    shop.world.twilio().change_setting(&shop.number, "SmsMethod", "GET");
    assert_eq!(shop.disconnect(&shop.number, "?when_changed=restore").await.status, StatusCode::OK);
    assert_eq!((shop.at_twilio(&shop.number), shop.counted()), (settings(THEIRS), 0));
}

/// A crash at every await point of connecting, then of disconnecting: repeated, each ends as if nothing had happened.
#[tokio::test]
async fn a_crash_anywhere_is_finished_by_repeating_the_request() {
    for polls in 0..60 {
        let shop = shop(polls).await;
        let first = crash_after(usize::try_from(polls).unwrap(), shop.connect(&shop.number, ""));
        let at_twilio = shop.at_twilio(&shop.number);
        assert!(
            at_twilio == settings(THEIRS) || shop.state().is_some(),
            "{polls}: changed, and nobody knows from what"
        );
        if let Some(reply) = &first {
            assert_eq!(reply.status, StatusCode::OK, "{polls}: {}", reply.body);
        }
        let again = shop.connect(&shop.number, "").await;
        assert_eq!((again.status, shop.at_twilio(&shop.number)), (StatusCode::OK, shop.ours(&shop.number)), "{polls}");
        assert_eq!((shop.state(), shop.counted()), (Some(State::Connected), 1), "{polls}");

        let done = crash_after(usize::try_from(polls).unwrap(), shop.disconnect(&shop.number, "")).is_some();
        if !done && shop.state().is_some() {
            let reply = shop.disconnect(&shop.number, "").await;
            assert_eq!(reply.status, StatusCode::OK, "{polls}: {}", reply.body);
        }
        assert_eq!(
            (shop.at_twilio(&shop.number), shop.state(), shop.counted()),
            (settings(THEIRS), None, 0),
            "{polls}"
        );
    }
}

#[tokio::test]
async fn a_crash_of_disconnecting_can_be_taken_back() {
    let shop = shop(1).await;
    shop.connect(&shop.number, "").await;
    shop.world.fail_next("end_connection", Fault::transient("busy"));
    assert_eq!(shop.disconnect(&shop.number, "").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!((shop.state(), shop.at_twilio(&shop.number)), (Some(State::Restoring), settings(THEIRS)));
    assert_eq!(shop.connect(&shop.number, "").await.status, StatusCode::OK);
    assert_eq!((shop.state(), shop.at_twilio(&shop.number)), (Some(State::Connected), shop.ours(&shop.number)));
    shop.disconnect(&shop.number, "").await;
    assert_eq!(shop.at_twilio(&shop.number), settings(THEIRS));
}

#[tokio::test]
async fn a_lost_answer_of_twilio_keeps_the_snapshot_and_a_refusal_leaves_nothing() {
    let shop = shop(1).await;
    shop.world.lose_answer("write_settings", Fault::transient("no answer"));
    assert_eq!(problem(&shop.connect(&shop.number, "").await), (503, "carrier-unavailable".to_owned()));
    assert_eq!((shop.state(), shop.at_twilio(&shop.number)), (Some(State::Connecting), shop.ours(&shop.number)));
    shop.connect(&shop.number, "").await;
    shop.disconnect(&shop.number, "").await;
    assert_eq!(shop.at_twilio(&shop.number), settings(THEIRS));
    for (trouble, expected) in [
        (Trouble::Refused, (422, "carrier-refused-credential")),
        (Trouble::Inactive, (422, "carrier-account-inactive")),
        (Trouble::NotAllowed, (422, "carrier-forbids")),
        (Trouble::NotFound, (404, "not-found")),
        (Trouble::Busy, (503, "carrier-unavailable")),
        (Trouble::Rejected(Some(21502)), (422, "carrier-rejected")),
    ] {
        for change in [false, true] {
            if change {
                shop.world.twilio().no_trouble_next();
            }
            shop.world.twilio().trouble_next(trouble);
            assert_eq!(problem(&shop.connect(&shop.number, "").await), (expected.0, expected.1.to_owned()));
            assert_eq!((shop.state(), shop.counted(), shop.at_twilio(&shop.number)), (None, 0, settings(THEIRS)));
        }
    }
}

#[tokio::test]
async fn a_number_that_is_gone_at_twilio_can_be_forgotten() {
    let shop = shop(1).await;
    shop.connect(&shop.number, "").await;
    shop.world.twilio().remove_target(&shop.number);
    assert_eq!(problem(&shop.connect(&shop.number, "").await).0, 404);
    assert_eq!(shop.disconnect(&shop.number, "").await.status, StatusCode::OK);
    assert_eq!(problem(&shop.disconnect(&shop.number, "").await).0, 404);
    assert_eq!(shop.counted(), 0);
}

/// After the credential was replaced by one of another Twilio account nothing is given back blindly.
#[tokio::test]
async fn a_snapshot_waits_for_its_own_twilio_account() {
    let shop = shop(1).await;
    let Shop { world, customer, number, .. } = &shop;
    shop.connect(number, "").await;
    let other = fresh::sid(world, "AC");
    let save = SaveCredential {
        replaced_sid_hash: Some(customer.sid_hash.clone()),
        numbers: 1,
        ..fresh::credential(world, customer.account, 2, &other).await
    };
    assert_eq!(world.save_credential(save).await, Ok(Saved::Stored));
    let reply = shop.disconnect(number, "").await;
    assert_eq!(problem(&reply), (409, "not-connected".to_owned()));
    assert!(reply.body.contains(customer.credential.account_sid.as_str()), "{}", reply.body);
    assert_eq!((shop.at_twilio(number), shop.counted()), (shop.ours(number), 1));
    let back = fresh::credential(world, customer.account, 3, &customer.credential.account_sid).await;
    assert_eq!(world.save_credential(back).await, Ok(Saved::Stored));
    assert_eq!(shop.disconnect(number, "").await.status, StatusCode::OK);
    assert_eq!(shop.at_twilio(number), settings(THEIRS));
}

#[tokio::test]
async fn the_list_is_live_and_says_whose_webhook_counts() {
    let shop = shop(1).await;
    shop.world.twilio().put_into_pool(&shop.number, &shop.service);
    shop.connect(&shop.service, "").await;
    let listed = body(&shop.ask(Method::GET, "/v1/numbers").await);
    assert_eq!(listed["data"][0]["phone_number"], "+14155550100");
    assert_eq!(listed["data"][0]["messaging_service_sid"], shop.service.as_str());
    assert_eq!(listed["data"][0]["connection"], Value::Null);
    let service = &listed["messaging_services"][0];
    assert_eq!((&service["numbers"], &service["connection"]["state"]), (&1.into(), &"connected".into()));
    // A restricted API key may not list services: the numbers are shown all the same.
    shop.world.twilio().no_trouble_next();
    shop.world.twilio().trouble_next(Trouble::NotAllowed);
    let listed = body(&shop.ask(Method::GET, "/v1/numbers").await);
    assert_eq!((listed["data"].as_array().unwrap().len(), &listed["messaging_services"]), (1, &Value::Null));
    shop.world.fail_next("list_services", Fault::transient("no answer"));
    assert_eq!(shop.ask(Method::GET, "/v1/numbers").await.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_list_comes_in_pages() {
    let shop = shop(1).await;
    let account_sid = shop.customer.credential.account_sid.as_str();
    for n in 0..4 {
        let number = Target::parse(fresh::sid(&shop.world, "PN").as_str()).unwrap();
        shop.world.twilio().add_target(account_sid, &number, &format!("+1415555020{n}"), settings(THEIRS));
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = body(&shop.ask(Method::GET, &format!("/v1/numbers?limit=2{cursor}")).await);
        assert_eq!(page["messaging_services"].is_array(), cursor.is_empty(), "told on the first page only");
        seen.extend(page["data"].as_array().unwrap().iter().map(|number| number["sid"].as_str().unwrap().to_owned()));
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 5);
    for query in ["limit=0", "limit=1001", "cursor=..", "cursor=1.a%26b", "page=2"] {
        assert_eq!(shop.ask(Method::GET, &format!("/v1/numbers?{query}")).await.status.as_u16(), 422, "{query}");
    }
}

#[tokio::test]
async fn another_accounts_number_and_nonsense_are_not_found() {
    let shop = shop(1).await;
    let stranger = Customer::new(&shop.world).await;
    let path = format!("/v1/numbers/{}/connection", shop.number.as_str());
    for method in [Method::POST, Method::DELETE] {
        let reply = handle(&shop.world, &site(), stranger.request(&shop.world, method.clone(), &path, "")).await;
        assert_eq!(problem(&reply).0, 404);
        for sid in ["+14155550100", "PN1", "AC00000000000000000000000000000000", "%2e%2e"] {
            let reply = shop.ask(method.clone(), &format!("/v1/numbers/{sid}/connection")).await;
            assert_eq!(problem(&reply).0, 404, "{sid}");
        }
    }
    assert_eq!(shop.at_twilio(&shop.number), settings(THEIRS));
    assert_eq!(NUMBER_SETTINGS.map(|(form, _)| form), THEIRS.map(|(form, _)| form));
}

#[tokio::test]
async fn what_stands_at_twilio_is_sealed_here() {
    let shop = shop(1).await;
    shop.connect(&shop.number, "").await;
    assert!(!shop.world.holds_in_clear("shop.example"));
}

#[tokio::test]
async fn without_a_second_host_the_fallback_stays_the_customers() {
    let shop = shop(1).await;
    let number = shop.second_number();
    let reply = body(&shop.connect(&number, "").await);
    assert_eq!(reply["changes"].as_array().unwrap().len(), 3);
    assert_eq!(shop.at_twilio(&number), shop.connected(&site(), &number));
    shop.world.twilio().change_setting(&number, "SmsFallbackUrl", "https://other.example/");
    assert_eq!(shop.connect(&number, "").await.status, StatusCode::OK);
    assert_eq!(shop.disconnect(&number, "").await.status, StatusCode::OK);
    shop.world.twilio().change_setting(&number, "SmsFallbackUrl", THEIR_FALLBACK[1].1);
    assert_eq!(shop.at_twilio(&number), all_theirs());
}

#[tokio::test]
async fn with_a_second_host_the_fallback_leads_there_and_is_given_back_too() {
    let shop = shop(1).await;
    let (number, two) = (shop.second_number(), site_with_fallback());
    let reply = body(&shop.ask_at(&two, Method::POST, &number, "?dry_run=true").await);
    let changes: Vec<_> = reply["changes"].as_array().unwrap().iter().map(|change| change["setting"].clone()).collect();
    assert_eq!(changes, ["SmsApplicationSid", "SmsFallbackMethod", "SmsFallbackUrl", "SmsMethod", "SmsUrl"]);
    assert_eq!((shop.at_twilio(&number), shop.state()), (all_theirs(), None));
    assert_eq!(shop.ask_at(&two, Method::POST, &number, "").await.status, StatusCode::OK);
    let now = shop.at_twilio(&number);
    assert_eq!(now, shop.ours_at(&two, &number));
    let path = format!("/hooks/twilio/{}/messages#rc=2&rp=5xx,ct,rt", shop.customer.credential.hook.reveal());
    assert_eq!(now.0["SmsUrl"], format!("https://api.example.com{path}"));
    assert_eq!(now.0["SmsFallbackUrl"], format!("https://second.example.net{path}"));
    assert_eq!(now.0["SmsFallbackMethod"], "POST");
    // Another fallback is a change like any other.
    shop.world.twilio().change_setting(&number, "SmsFallbackUrl", "https://other.example/");
    for method in [Method::POST, Method::DELETE] {
        let reply = shop.ask_at(&two, method, &number, "").await;
        assert_eq!(problem(&reply), (409, "number-changed".to_owned()));
        let errors = body(&reply)["errors"].clone();
        assert_eq!((errors.as_array().unwrap().len(), &errors[0]["field"]), (1, &"SmsFallbackUrl".into()));
    }
    shop.world.twilio().change_setting(&number, "SmsFallbackUrl", &now.0["SmsFallbackUrl"]);
    assert_eq!(shop.ask_at(&two, Method::DELETE, &number, "").await.status, StatusCode::OK);
    assert_eq!((shop.at_twilio(&number), shop.counted()), (all_theirs(), 0));

    assert_eq!(shop.ask_at(&two, Method::POST, &shop.service, "").await.status, StatusCode::OK);
    let service = shop.at_twilio(&shop.service);
    assert_eq!(service.0["FallbackUrl"], format!("https://second.example.net{path}"));
    assert_eq!(NUMBER_FALLBACK.map(|(form, _)| form), THEIR_FALLBACK.map(|(form, _)| form));
}

/// A crash at every await point of connecting anew after a second host was configured, and after it was not any more:
/// repeated, each ends as if nothing had happened, and what stood there before us comes back.
#[tokio::test]
async fn a_second_host_can_come_and_go_and_a_crash_anywhere_forgets_nothing() {
    let (one, two) = (site(), site_with_fallback());
    for polls in 0..40 {
        for (first, then) in [(&one, &two), (&two, &one)] {
            let shop = shop(polls).await;
            let number = shop.second_number();
            assert_eq!(shop.ask_at(first, Method::POST, &number, "").await.status, StatusCode::OK);
            assert_eq!(shop.listed(then, &number).await, "connected", "a host that is configured is no drift");
            let _ = crash_after(usize::try_from(polls).unwrap(), shop.ask_at(then, Method::POST, &number, ""));
            // Given up half-way, it is given back as it was.
            if polls % 2 == 1 {
                let reply = shop.ask_at(then, Method::DELETE, &number, "").await;
                assert_eq!(reply.status, StatusCode::OK, "{polls}: {}", reply.body);
                assert_eq!((shop.at_twilio(&number), shop.counted()), (all_theirs(), 0), "{polls}");
                continue;
            }
            let again = shop.ask_at(then, Method::POST, &number, "").await;
            assert_eq!(again.status, StatusCode::OK, "{polls}: {}", again.body);
            assert_eq!(
                (shop.at_twilio(&number), shop.state()),
                (shop.connected(then, &number), Some(State::Connected))
            );
            // And stands: nothing is written again.
            let writes = shop.world.twilio().writes();
            assert_eq!(shop.ask_at(then, Method::POST, &number, "").await.status, StatusCode::OK);
            assert_eq!(shop.world.twilio().writes(), writes, "{polls}");
            if then.fallback.is_none() {
                // Theirs again, so that they may change it.
                shop.world.twilio().change_setting(&number, "SmsFallbackMethod", "POST");
                assert_eq!(shop.listed(then, &number).await, "connected");
                shop.world.twilio().change_setting(&number, "SmsFallbackMethod", THEIR_FALLBACK[0].1);
            }
            assert_eq!(shop.ask_at(then, Method::DELETE, &number, "").await.status, StatusCode::OK);
            assert_eq!(shop.at_twilio(&number), all_theirs(), "{polls}");
        }
    }
}

/// The plan was written down and Twilio did not take it, certainly or perhaps.
#[tokio::test]
async fn a_second_host_that_twilio_did_not_take_can_be_asked_for_again() {
    let two = site_with_fallback();
    for trouble in [Trouble::Busy, Trouble::Rejected(Some(21502)), Trouble::Unreachable] {
        let shop = shop(1).await;
        let number = shop.second_number();
        shop.connect(&number, "").await;
        let fails = async || {
            shop.world.twilio().no_trouble_next();
            shop.world.twilio().trouble_next(trouble);
            assert!(!shop.ask_at(&two, Method::POST, &number, "").await.status.is_success());
            assert_eq!(
                (shop.at_twilio(&number), shop.state()),
                (shop.connected(&site(), &number), Some(State::Connecting))
            );
        };
        fails().await;
        fails().await;
        assert_eq!(shop.ask_at(&two, Method::POST, &number, "").await.status, StatusCode::OK, "{trouble:?}");
        assert_eq!(shop.at_twilio(&number), shop.ours_at(&two, &number));
        assert_eq!(shop.ask_at(&two, Method::DELETE, &number, "").await.status, StatusCode::OK);
        assert_eq!(shop.at_twilio(&number), all_theirs(), "{trouble:?}");
    }
}

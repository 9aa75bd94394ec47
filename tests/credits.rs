//! Credits to their end: sends until 402, a mail at 50, 80 and 100 percent, and what usage and credits show of it.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Running, eventually, start};

/// The account's mails about credits, oldest first.
fn warnings(running: &Running, email: &str) -> Vec<String> {
    let mails = running.aws.mails().unwrap();
    let of = mails.into_iter().filter(|mail| mail.to.iter().any(|to| to == email));
    let mut texts: Vec<_> = of.map(|mail| mail.text).filter(|text| text.contains("/v1/credits")).collect();
    texts.reverse();
    texts
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_sends_until_the_credits_are_used_up_and_is_warned_at_each_threshold_once() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let zone = json!({ "time_zone": "Pacific/Kiritimati" });
    let account = client.send(Method::PATCH, "/v1/account", Some(zone.to_string()), &[]).await;
    assert_eq!(account.expect(StatusCode::OK)["time_zone"], "Pacific/Kiritimati");
    assert_eq!(client.get("/v1/account").await.expect(StatusCode::OK)["time_zone"], "Pacific/Kiritimati");

    // Ten segments each, so that ten messages are all of the trial's hundred credits.
    let body = "x".repeat(153 * 9 + 1);
    let posted = async |used: u64| {
        eventually("what was sent is posted", async || {
            let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
            let lots = credits["lots"].as_array().unwrap().iter().map(|lot| lot["left_micro"].as_u64().unwrap());
            let sums = ["available_micro", "held_micro"].map(|name| credits[name].as_u64().unwrap());
            assert_eq!(lots.sum::<u64>(), sums.iter().sum::<u64>(), "{credits}");
            (credits["used_micro"] == used * 1_000_000).then_some(credits)
        })
        .await
    };
    for (from, to, percent) in [(0, 4, None), (4, 5, Some(50)), (5, 8, Some(80)), (8, 10, Some(100))] {
        for n in from..to {
            client.accepted(&format!("k{n}"), carrier.text("+14155552671", &body)).await;
        }
        posted(10 * to).await;
        if let Some(percent) = percent {
            eventually("the warning is noted", async || {
                let credits = client.get("/v1/credits").await.expect(StatusCode::OK);
                (credits["warnings"]["warned_percent"] == percent).then_some(())
            })
            .await;
        }
    }
    let refused = client.message("k10", carrier.text("+14155552671", "one more")).await;
    assert_eq!(refused.problem(StatusCode::PAYMENT_REQUIRED), "not-enough-credit");

    let mails = eventually("three mails arrive", async || {
        let mails = warnings(&running, "ann@example.com");
        (mails.len() >= 3).then_some(mails)
    })
    .await;
    let says = ["50 % of the credits", "80 % of the credits", "are used up"];
    assert!(mails.iter().zip(says).all(|(mail, says)| mail.contains(says)), "{mails:?}");
    let shown = client.get("/_local/mail").await.text;
    assert_eq!(
        (shown.matches("Your credits run low").count(), shown.matches("Your credits are used up").count()),
        (2, 1)
    );

    let credits = posted(100).await;
    let numbers = ["available_micro", "held_micro", "owed_micro"].map(|name| credits[name].clone());
    assert_eq!((numbers, &credits["lots"]), ([json!(0), json!(0), json!(0)], &json!([])));
    let warnings_shown = ["credit_micro", "used_micro", "percent", "warned_percent"]
        .map(|name| credits["warnings"][name].as_u64().unwrap());
    assert_eq!(warnings_shown, [100_000_000, 100_000_000, 100, 100]);

    // The day of Kiritimati is a day that UTC may not have yet.
    let rows = eventually("all is counted", async || {
        let list = client.get("/v1/usage?group_by=direction&granularity=month").await.expect(StatusCode::OK);
        (list["data"][0]["messages"] == 10).then(|| list["data"].clone())
    })
    .await;
    let period = rows[0]["period"].as_str().unwrap().to_owned();
    let expected = json!([{ "period": period, "kind": null, "direction": "outbound", "country": null, "messages": 10,
        "segments": 100, "credits_micro": 100_000_000 }]);
    assert_eq!(rows, expected);
    let path = "/v1/usage?group_by=direction&granularity=month";
    let csv = client.send(Method::GET, path, None, &[("accept", "text/csv")]).await;
    assert_eq!(csv.status, StatusCode::OK, "{}", csv.text);
    assert_eq!(
        csv.text.lines().collect::<Vec<_>>(),
        [
            "period,kind,direction,country,messages,segments,credits_micro",
            &format!("{period},,outbound,,10,100,100000000"),
        ]
    );
    let xml = client.send(Method::GET, path, None, &[("accept", "application/xml")]).await;
    assert_eq!(xml.problem(StatusCode::NOT_ACCEPTABLE), "not-acceptable");
    let whole =
        |rows: &Value| rows.as_array().unwrap().iter().map(|row| row["segments"].as_i64().unwrap()).sum::<i64>();
    for granularity in ["hour", "day", "month"] {
        let path = format!("/v1/usage?granularity={granularity}&group_by=");
        let list = client.get(&path).await.expect(StatusCode::OK);
        assert_eq!(whole(&list["data"]), 100, "{list}");
    }
    assert_eq!(warnings(&running, "ann@example.com").len(), 3, "each once");
    running.stop().await;
}

//! Templates through the whole system: made, filled in for many, changed in between, never in clear.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{Client, eventually, start};

async fn template(client: &Client, name: &str, body: &str) -> Value {
    client.post("/v1/templates", json!({ "name": name, "body": body })).await.expect(StatusCode::CREATED)
}

fn path(template: &Value) -> String {
    format!("/v1/templates/{}", template["id"].as_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_is_filled_in_for_each_recipient_and_lies_nowhere_in_clear() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let stored = template(&client, "Table ready", r"Dear {{first_name}}, \{{n}\} tables: {{n}}").await;
    assert_eq!(stored["fields"], json!(["first_name", "n"]));
    let ask = json!({
        "from": carrier.number,
        "to": [
            { "to": "+14155552671", "fields": { "first_name": "Ann" } },
            { "to": "+14155552672", "fields": { "first_name": "Bob {{n}}", "n": "two" } },
            "+14155552673",
        ],
        "template": { "id": stored["id"], "fields": { "n": "one" } },
    });
    let answer = client.message("many", ask.clone()).await.expect(StatusCode::ACCEPTED);
    assert_eq!(answer["data"][2]["error"]["missing_fields"], json!(["first_name"]));
    // Somebody else's words from now on, and the same answer.
    let change = json!({ "name": "Table ready", "body": "changed", "revision": 1 });
    client.put(&path(&stored), change.clone()).await.expect(StatusCode::OK);
    assert_eq!(client.put(&path(&stored), change).await.problem(StatusCode::CONFLICT), "template-changed");
    client.delete(&path(&stored)).await.expect(StatusCode::NO_CONTENT);
    assert_eq!(client.message("many", ask).await.expect(StatusCode::ACCEPTED), answer);
    let sent = eventually("both are sent", async || {
        let journal = running.journal(&carrier).await;
        (journal.len() == 2).then_some(journal)
    })
    .await;
    for at in 0..2 {
        let id = answer["data"][at]["id"].as_str().unwrap();
        client.until(id, "delivered").await;
        let one = client.get(&format!("/v1/messages/{id}?include=content")).await.expect(StatusCode::OK);
        let said = ["Dear Ann, {{n}} tables: one", "Dear Bob {{n}}, {{n}} tables: two"][at];
        assert_eq!(one["content"]["body"], said, "{sent:?}");
    }
    for table in ["messages", "once"] {
        let rows = client.get(&format!("/_local/tables?name={table}")).await.text;
        assert!(rows.contains("IDEM#") || rows.contains("MSG#"), "{rows}");
        for text in ["Dear", "first_name", "Table ready", "changed"] {
            assert!(!rows.contains(text), "{text} in {table}");
        }
    }
    running.no_contract_violations().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_outlives_a_restart() {
    let running = start().await;
    let (client, carrier) = running.connected("ann").await;
    let stored = template(&client, "Hello", "Hello {{name}}").await;
    let cookie = client.cookie.clone();
    let data = running.stop().await;
    let running = crate::support::start_in(data).await;
    let client = Client { cookie, ..running.client() };
    assert_eq!(client.get(&path(&stored)).await.expect(StatusCode::OK), stored);
    let again = client.post("/v1/templates", json!({ "name": "HELLO", "body": "x" })).await;
    assert_eq!(again.problem(StatusCode::CONFLICT), "template-name-taken");
    let ask = json!({ "to": "+14155552671", "from": carrier.number,
        "template": { "id": stored["id"], "fields": { "name": "Ann" } } });
    let id = client.accepted("one", ask).await;
    client.until(&id, "delivered").await;
    assert_eq!(client.get("/v1/templates").await.expect(StatusCode::OK)["data"], json!([stored]));
    running.stop().await;
}

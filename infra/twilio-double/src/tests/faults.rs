//! Faults on demand.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{PHONE, World, message_path};

async fn fault(world: &World, fault: Value) {
    assert_eq!(world.control("/faults", fault).await.0, 200);
}

/// One send that may get no answer.
async fn try_send(world: &World) -> Result<(u16, Value), reqwest::Error> {
    let own = (&world.account.account_sid[..], &world.account.auth_token[..]);
    let form = [("To", PHONE), ("From", world.from()), ("Body", "hello")];
    world.rest_as(own, "POST", "/Messages.json", &form).await
}

#[tokio::test]
async fn accept_then_drop_takes_the_message_and_gives_no_answer() {
    let world = World::new().await;
    fault(&world, json!({"next": 1, "kind": "accept_then_drop"})).await;
    let error = try_send(&world).await.unwrap_err();
    assert!(!error.is_timeout() && !error.is_status() && !error.is_decode(), "{error:?}");
    let journal = world.journal().await;
    assert_eq!(journal.len(), 1);
    world.until(&message_path(&journal[0]), "delivered").await;
    assert_eq!(try_send(&world).await.unwrap().0, 201, "one fault strikes once");
}

#[tokio::test]
async fn drop_takes_nothing_and_429_and_500_say_so() {
    let world = World::new().await;
    fault(&world, json!({"next": 1, "kind": "drop"})).await;
    assert!(try_send(&world).await.is_err());
    for (kind, status, code) in [("429", 429, 20429), ("500", 500, 20500)] {
        fault(&world, json!({"rate": 1, "kind": kind})).await;
        assert_eq!(world.get("/Messages.json").await["messages"], json!([]), "reading goes on");
        let (seen, answer) = try_send(&world).await.unwrap();
        assert_eq!((seen, &answer["code"]), (status, &json!(code)));
        fault(&world, json!({"kind": "none"})).await;
    }
    assert_eq!(world.journal().await.len(), 0);
    fault(&world, json!({"next": 1, "kind": "429", "account_sid": "AC0"})).await;
    assert_eq!(try_send(&world).await.unwrap().0, 201, "the fault is another account's");
}

#[tokio::test]
async fn slow_answers_after_the_message_is_accepted() {
    let world = World::new().await;
    fault(&world, json!({"next": 1, "kind": "slow", "ms": 300})).await;
    let started = Instant::now();
    let (answer, ()) = tokio::join!(try_send(&world), async {
        tokio::time::sleep(Duration::from_millis(150)).await;
        assert_eq!(world.journal().await.len(), 1);
    });
    assert_eq!(answer.unwrap().0, 201);
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn callbacks_come_twice_late_reordered_or_not_at_all() {
    for (kind, expected) in [
        ("callback_twice", &["sending", "sending", "sent", "delivered"][..]),
        ("callback_late", &["sent", "delivered", "sending"]),
        ("callback_reordered", &["delivered", "sent", "sending"]),
        ("callback_lost", &["sent", "delivered"]),
    ] {
        let world = World::new().await;
        fault(&world, json!({"next": 1, "kind": kind, "ms": 200})).await;
        world.send(&[("StatusCallback", &world.receiver.url("/"))]).await;
        assert_eq!(world.receiver.statuses(expected.len()).await, expected, "{kind}");
    }
}

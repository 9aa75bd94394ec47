use crate::dynamodb::{make_table, text};
use crate::world::{self, code};
use aws_sdk_dynamodb::types::{Put, TransactWriteItem};
use local_aws::{Fault, FaultsOff, Injection, Service};
use std::time::{Duration, Instant};

fn error(status: u16, code: &str) -> Fault {
    Fault::Error { status, code: code.into() }
}

#[tokio::test]
async fn the_next_calls_fail_and_then_they_work_again() {
    let world = world::start_with(true).await;
    let client = world.sqs();
    let throttled = error(500, "ServiceUnavailable");
    world.aws.faults().inject(Injection::next(2, Service::Sqs, "CreateQueue", throttled)).unwrap();
    let create = || client.create_queue().queue_name("q").send();
    assert_eq!(code!(create().await), "ServiceUnavailable");
    assert_eq!(code!(create().await), "ServiceUnavailable");
    create().await.unwrap();
    assert!(world.aws.faults().pending().is_empty());
    assert_eq!(world.aws.calls()[&(Service::Sqs, "CreateQueue".to_owned())], 3);
}

#[tokio::test]
async fn a_transaction_conflict_has_a_reason_for_each_item() {
    let world = world::start_with(true).await;
    let client = world.dynamodb();
    make_table(&client, "items").await;
    let conflict = Injection::next(1, Service::DynamoDb, "TransactWriteItems", Fault::TransactionConflict);
    world.aws.faults().inject(conflict.containing("\"items\"")).unwrap();
    let item = |key: &str| {
        let put = Put::builder().table_name("items").item("pk", text(key)).build().unwrap();
        TransactWriteItem::builder().put(put).build()
    };
    let write = || client.transact_write_items().transact_items(item("a")).transact_items(item("b")).send();
    let error = write().await.unwrap_err().into_service_error();
    let aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError::TransactionCanceledException(error) =
        error
    else {
        panic!("{error:?}");
    };
    let reasons: Vec<_> = error.cancellation_reasons().iter().map(|reason| reason.code().unwrap()).collect();
    assert_eq!(reasons, ["TransactionConflict", "None"]);
    assert_eq!(client.scan().table_name("items").send().await.unwrap().count(), 0);
    write().await.unwrap();
}

#[tokio::test]
async fn a_dropped_answer_was_done_and_a_dropped_request_was_not() {
    let world = world::start_with(true).await;
    let client = world.dynamodb();
    make_table(&client, "items").await;
    for (fault, n_items) in [(Fault::DropRequest, 0), (Fault::DropAnswer, 1)] {
        world.aws.faults().inject(Injection::next(1, Service::DynamoDb, "PutItem", fault)).unwrap();
        let put = client.put_item().table_name("items").item("pk", text("a")).send().await;
        assert_eq!(code!(put), "no code");
        assert_eq!(client.scan().table_name("items").send().await.unwrap().count(), n_items);
    }
    let sqs = world.sqs();
    world.aws.faults().inject(Injection::next(1, Service::Sqs, "*", Fault::DropAnswer)).unwrap();
    assert_eq!(code!(sqs.create_queue().queue_name("q").send().await), "no code");
    assert_eq!(world.aws.queues().unwrap().len(), 1);
}

#[tokio::test]
async fn a_rate_is_kept_and_the_same_seed_chooses_the_same() {
    let world = world::start_with(true).await;
    let client = world.kms();
    let mut runs = Vec::new();
    for _ in 0..2 {
        let fault = error(400, "ThrottlingException");
        world.aws.faults().inject(Injection::percent(30, 7, Service::Kms, "DescribeKey", fault)).unwrap();
        let mut throttled = Vec::new();
        for _ in 0..100 {
            let outcome = client.describe_key().key_id("alias/none").send().await;
            throttled.push(code!(outcome) == "ThrottlingException");
        }
        world.aws.faults().clear();
        runs.push(throttled);
    }
    assert_eq!(runs[0], runs[1]);
    let n_throttled = runs[0].iter().filter(|throttled| **throttled).count();
    assert!((15..45).contains(&n_throttled), "{n_throttled}");
}

#[tokio::test]
async fn a_delay_is_kept_and_without_the_option_nothing_is_injected() {
    let world = world::start_with(true).await;
    let delay = Fault::Delay(Duration::from_millis(120));
    world.aws.faults().inject(Injection::next(1, Service::Sqs, "ListQueues", delay.clone())).unwrap();
    let begun = Instant::now();
    world.sqs().list_queues().send().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(120));

    let quiet = world::start().await;
    assert_eq!(quiet.aws.faults().inject(Injection::next(1, Service::Sqs, "ListQueues", delay)), Err(FaultsOff));
}

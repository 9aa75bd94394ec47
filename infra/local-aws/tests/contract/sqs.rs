use crate::world::{self, World, code};
use aws_sdk_sqs::Client;
use aws_sdk_sqs::primitives::Blob;
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry, Message, MessageAttributeValue,
    MessageSystemAttributeName, QueueAttributeName, SendMessageBatchRequestEntry,
};
use std::time::{Duration, Instant};

struct Queue {
    client: Client,
    url: String,
}

async fn queue(world: &World, name: &str, attributes: &[(QueueAttributeName, &str)]) -> Queue {
    let client = world.sqs();
    let mut create = client.create_queue().queue_name(name);
    for (name, value) in attributes {
        create = create.attributes(name.clone(), *value);
    }
    let url = create.send().await.unwrap().queue_url.unwrap();
    Queue { client, url }
}

impl Queue {
    async fn send(&self, body: &str) {
        self.client.send_message().queue_url(&self.url).message_body(body).send().await.unwrap();
    }

    async fn send_in(&self, group: &str, body: &str) {
        let send = self.client.send_message().queue_url(&self.url).message_body(body).message_group_id(group);
        send.send().await.unwrap();
    }

    async fn receive(&self, most: i32) -> Vec<Message> {
        self.receive_for(most, 0).await
    }

    async fn receive_for(&self, most: i32, wait_secs: i32) -> Vec<Message> {
        let receive = self.client.receive_message().queue_url(&self.url).max_number_of_messages(most);
        let receive = receive.message_system_attribute_names(MessageSystemAttributeName::All);
        receive.wait_time_seconds(wait_secs).send().await.unwrap().messages.unwrap_or_default()
    }

    async fn delete(&self, message: &Message) {
        let handle = message.receipt_handle().unwrap();
        self.client.delete_message().queue_url(&self.url).receipt_handle(handle).send().await.unwrap();
    }

    async fn hide(&self, message: &Message, secs: i32) -> Result<(), String> {
        let change = self.client.change_message_visibility().queue_url(&self.url).visibility_timeout(secs);
        let outcome = change.set_receipt_handle(message.receipt_handle.clone()).send().await;
        if outcome.is_ok() { Ok(()) } else { Err(code!(outcome)) }
    }

    async fn attribute(&self, name: QueueAttributeName) -> String {
        let get = self.client.get_queue_attributes().queue_url(&self.url).attribute_names(name.clone());
        get.send().await.unwrap().attributes.unwrap().remove(&name).unwrap()
    }
}

fn bodies(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|message| message.body().unwrap()).collect()
}

fn attribute<'m>(message: &'m Message, name: &MessageSystemAttributeName) -> Option<&'m str> {
    message.attributes().and_then(|attributes| attributes.get(name)).map(String::as_str)
}

#[tokio::test]
async fn a_message_comes_back_as_it_was_sent() {
    let world = world::start().await;
    let queue = queue(&world, "hints", &[]).await;
    let text = MessageAttributeValue::builder().data_type("String").string_value("v1").build().unwrap();
    let bytes = MessageAttributeValue::builder().data_type("Binary").binary_value(Blob::new([0, 255])).build().unwrap();
    let sent = queue
        .client
        .send_message()
        .queue_url(&queue.url)
        .message_body("héllo \u{1F600}\n")
        .message_group_id("account-1")
        .message_attributes("schema", text)
        .message_attributes("raw", bytes)
        .send()
        .await
        .unwrap();
    assert_eq!(sent.md5_of_message_body(), Some(format!("{:x}", md5::compute("héllo \u{1F600}\n")).as_str()));

    let receive = queue.client.receive_message().queue_url(&queue.url).message_attribute_names("All");
    let receive = receive.message_system_attribute_names(MessageSystemAttributeName::All);
    let message = receive.send().await.unwrap().messages.unwrap().remove(0);
    assert_eq!(message.message_id(), sent.message_id());
    assert_eq!(message.body(), Some("héllo \u{1F600}\n"));
    assert_eq!(message.md5_of_message_attributes(), sent.md5_of_message_attributes());
    let attributes = message.message_attributes().unwrap();
    assert_eq!(attributes["schema"].string_value(), Some("v1"));
    assert_eq!(attributes["raw"].binary_value().unwrap().as_ref(), [0, 255]);
    assert_eq!(attribute(&message, &MessageSystemAttributeName::ApproximateReceiveCount), Some("1"));
    assert_eq!(attribute(&message, &MessageSystemAttributeName::MessageGroupId), Some("account-1"));
    let sent_ms: i64 = attribute(&message, &MessageSystemAttributeName::SentTimestamp).unwrap().parse().unwrap();
    assert!(sent_ms > 1_700_000_000_000);
}

#[tokio::test]
async fn the_attribute_checksum_is_that_of_aws() {
    // One String attribute "a" = "b": lengths as four bytes each, then the type byte 1 before the value.
    let world = world::start().await;
    let queue = queue(&world, "sums", &[]).await;
    let value = MessageAttributeValue::builder().data_type("String").string_value("b").build().unwrap();
    let send = queue.client.send_message().queue_url(&queue.url).message_body("x").message_attributes("a", value);
    let expected = md5::compute(b"\0\0\0\x01a\0\0\0\x06String\x01\0\0\0\x01b");
    assert_eq!(send.send().await.unwrap().md5_of_message_attributes(), Some(format!("{expected:x}").as_str()));
}

#[tokio::test]
async fn a_received_message_is_hidden_for_its_time_and_then_comes_again_with_a_new_handle() {
    let world = world::start().await;
    let queue = queue(&world, "hidden", &[(QueueAttributeName::VisibilityTimeout, "1")]).await;
    queue.send("one").await;
    let first = queue.receive(10).await.remove(0);
    assert!(queue.receive(10).await.is_empty());
    assert_eq!(queue.attribute(QueueAttributeName::ApproximateNumberOfMessagesNotVisible).await, "1");

    let begun = Instant::now();
    let second = queue.receive_for(10, 5).await.remove(0); // the poll wakes when it becomes visible
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(attribute(&second, &MessageSystemAttributeName::ApproximateReceiveCount), Some("2"));
    assert_ne!(first.receipt_handle(), second.receipt_handle());

    queue.delete(&first).await; // succeeds and deletes nothing
    assert_eq!(queue.attribute(QueueAttributeName::ApproximateNumberOfMessagesNotVisible).await, "1");
    assert_eq!(queue.hide(&first, 0).await, Err("AWS.SimpleQueueService.MessageNotInflight".into()));
    queue.delete(&second).await;
    assert_eq!(queue.attribute(QueueAttributeName::ApproximateNumberOfMessagesNotVisible).await, "0");
    queue.delete(&second).await; // again: still a success
}

#[tokio::test]
async fn a_long_poll_wakes_at_once_for_sends_and_returned_messages() {
    let world = world::start().await;
    let queue = queue(&world, "woken", &[(QueueAttributeName::ReceiveMessageWaitTimeSeconds, "20")]).await;
    let begun = Instant::now();
    let send_later = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        queue.send("one").await;
    };
    let (received, ()) = tokio::join!(queue.receive_for(1, 20), send_later);
    assert_eq!(bodies(&received), ["one"]);
    let return_later = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        queue.hide(&received[0], 0).await.unwrap();
    };
    let (again, ()) = tokio::join!(queue.receive_for(1, 20), return_later);
    assert_eq!(bodies(&again), ["one"]);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_long_poll_whose_caller_has_gone_takes_nothing() {
    let world = world::start().await;
    let queue = queue(&world, "left", &[]).await;
    let gone = tokio::time::timeout(Duration::from_millis(100), queue.receive_for(1, 20)).await;
    assert!(gone.is_err());
    tokio::time::sleep(Duration::from_millis(50)).await;
    queue.send("one").await;
    assert_eq!(bodies(&queue.receive(1).await), ["one"]);
}

#[tokio::test]
async fn an_empty_long_poll_ends_after_its_time() {
    let world = world::start().await;
    let queue = queue(&world, "empty", &[]).await;
    let begun = Instant::now();
    assert!(queue.receive_for(1, 1).await.is_empty());
    assert!((1000..1500).contains(&begun.elapsed().as_millis()));
}

#[tokio::test]
async fn a_delayed_message_waits() {
    let world = world::start().await;
    let queue = queue(&world, "delayed", &[]).await;
    let send = queue.client.send_message().queue_url(&queue.url).message_body("later").delay_seconds(1);
    send.send().await.unwrap();
    assert!(queue.receive(1).await.is_empty());
    let view = world.aws.queues().unwrap().remove(0);
    assert_eq!((view.visible, view.in_flight, view.delayed), (0, 0, 1));
    assert_eq!(bodies(&queue.receive_for(1, 5).await), ["later"]);
}

#[tokio::test]
async fn a_message_received_too_often_goes_to_the_dead_letters() {
    let world = world::start().await;
    let dead = queue(&world, "jobs-dead", &[]).await;
    let arn = dead.attribute(QueueAttributeName::QueueArn).await;
    let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":"2"}}"#);
    let jobs = queue(&world, "jobs", &[(QueueAttributeName::RedrivePolicy, &policy)]).await;
    jobs.send("poison").await;
    for _ in 0..2 {
        let message = jobs.receive(1).await.remove(0);
        jobs.hide(&message, 0).await.unwrap();
    }
    let (none, found) = tokio::join!(jobs.receive(1), dead.receive_for(1, 5));
    assert!(none.is_empty());
    assert_eq!(bodies(&found), ["poison"]);
    let source = jobs.attribute(QueueAttributeName::QueueArn).await;
    assert_eq!(attribute(&found[0], &MessageSystemAttributeName::DeadLetterQueueSourceArn), Some(source.as_str()));
    let views = world.aws.queues().unwrap();
    assert_eq!(
        views.iter().map(|view| (view.name.as_str(), view.messages.len())).collect::<Vec<_>>(),
        [("jobs", 0), ("jobs-dead", 1)]
    );
    assert_eq!((views[1].messages[0].body.as_str(), views[1].messages[0].receives), ("poison", 3));
    assert_eq!(views[0].dead_letters.as_deref(), Some("jobs-dead"));
}

#[tokio::test]
async fn a_redrive_policy_to_nowhere_is_refused() {
    let world = world::start().await;
    let client = world.sqs();
    let policy = r#"{"deadLetterTargetArn":"arn:aws:sqs:us-east-1:000000000000:none","maxReceiveCount":3}"#;
    let create = client.create_queue().queue_name("jobs").attributes(QueueAttributeName::RedrivePolicy, policy);
    assert_eq!(code!(create.send().await), "InvalidAttributeValue");
}

#[tokio::test]
async fn groups_are_served_in_turn() {
    let world = world::start().await;
    let queue = queue(&world, "fair", &[]).await;
    for n in 0..6 {
        queue.send_in("big", &format!("big-{n}")).await;
    }
    queue.send_in("small", "small-0").await;
    queue.send_in("tiny", "tiny-0").await;
    assert_eq!(bodies(&queue.receive(4).await), ["big-0", "small-0", "tiny-0", "big-1"]);

    queue.send_in("small", "small-1").await;
    // One at a time and deleted at once: the big group still does not keep the small one waiting.
    let mut order = Vec::new();
    for _ in 0..3 {
        let message = queue.receive(1).await.remove(0);
        order.push(message.body.clone().unwrap());
        queue.delete(&message).await;
    }
    assert_eq!(order[..2].iter().filter(|body| *body == "small-1").count(), 1, "{order:?}");
}

#[tokio::test]
async fn without_groups_the_oldest_comes_first() {
    let world = world::start().await;
    let queue = queue(&world, "plain", &[]).await;
    for n in 0..12 {
        queue.send(&n.to_string()).await;
    }
    assert_eq!(bodies(&queue.receive(10).await), ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(bodies(&queue.receive(10).await), ["10", "11"]);
}

fn entry(id: &str, body: &str) -> SendMessageBatchRequestEntry {
    SendMessageBatchRequestEntry::builder().id(id).message_body(body).build().unwrap()
}

#[tokio::test]
async fn a_batch_succeeds_and_fails_entry_by_entry() {
    let world = world::start().await;
    let queue = queue(&world, "batch", &[]).await;
    let late = SendMessageBatchRequestEntry::builder().id("late").message_body("x").delay_seconds(901).build().unwrap();
    let batch = queue.client.send_message_batch().queue_url(&queue.url);
    let sent = batch.entries(entry("good", "1")).entries(entry("bad", "\u{1}")).entries(late).send().await.unwrap();
    assert_eq!(
        sent.successful().iter().map(aws_sdk_sqs::types::SendMessageBatchResultEntry::id).collect::<Vec<_>>(),
        ["good"]
    );
    let failed: Vec<_> =
        sent.failed().iter().map(|failed| (failed.id(), failed.code(), failed.sender_fault())).collect();
    assert_eq!(failed, [("bad", "InvalidMessageContents", true), ("late", "InvalidParameterValue", true)]);

    let message = queue.receive(10).await.remove(0);
    let change = |id: &str, handle: &str| {
        ChangeMessageVisibilityBatchRequestEntry::builder()
            .id(id)
            .receipt_handle(handle)
            .visibility_timeout(0)
            .build()
            .unwrap()
    };
    let handle = message.receipt_handle().unwrap();
    let batch = queue.client.change_message_visibility_batch().queue_url(&queue.url);
    let changed = batch.entries(change("a", handle)).entries(change("b", "junk")).send().await.unwrap();
    assert_eq!((changed.successful().len(), changed.failed()[0].code()), (1, "ReceiptHandleIsInvalid"));

    let message = queue.receive(10).await.remove(0);
    let delete = |id: &str, handle: &str| {
        DeleteMessageBatchRequestEntry::builder().id(id).receipt_handle(handle).build().unwrap()
    };
    let batch = queue.client.delete_message_batch().queue_url(&queue.url);
    let deleted = batch
        .entries(delete("a", message.receipt_handle().unwrap()))
        .entries(delete("b", "junk"))
        .send()
        .await
        .unwrap();
    assert_eq!((deleted.successful().len(), deleted.failed()[0].code()), (1, "ReceiptHandleIsInvalid"));
    assert_eq!(queue.attribute(QueueAttributeName::ApproximateNumberOfMessages).await, "0");
}

#[tokio::test]
async fn a_batch_as_a_whole_has_limits() {
    let world = world::start().await;
    let queue = queue(&world, "limits", &[]).await;
    let send = |entries: Vec<SendMessageBatchRequestEntry>| {
        queue.client.send_message_batch().queue_url(&queue.url).set_entries(Some(entries)).send()
    };
    let code_of = |name: &str| format!("AWS.SimpleQueueService.{name}");
    assert_eq!(code!(send(Vec::new()).await), code_of("EmptyBatchRequest"));
    let eleven = (0..11).map(|n| entry(&n.to_string(), "x")).collect();
    assert_eq!(code!(send(eleven).await), code_of("TooManyEntriesInBatchRequest"));
    assert_eq!(code!(send(vec![entry("a", "x"), entry("a", "y")]).await), code_of("BatchEntryIdsNotDistinct"));
    assert_eq!(code!(send(vec![entry("no spaces", "x")]).await), code_of("InvalidBatchEntryId"));
    let half = "x".repeat(524_288);
    assert_eq!(send(vec![entry("a", &half), entry("b", &half)]).await.unwrap().successful().len(), 2);
    assert_eq!(
        code!(send(vec![entry("a", &half), entry("b", &half), entry("c", "x")]).await),
        code_of("BatchRequestTooLong")
    );
    let too_long = "x".repeat(1_048_577);
    let one = queue.client.send_message().queue_url(&queue.url).message_body(too_long).send().await;
    assert_eq!(code!(one), "InvalidParameterValue");
}

#[tokio::test]
async fn queues_are_made_once_found_listed_set_and_purged() {
    let world = world::start().await;
    let seconds = [(QueueAttributeName::VisibilityTimeout, "180")];
    let first = queue(&world, "tel-a", &seconds).await;
    let again = queue(&world, "tel-a", &seconds).await;
    assert_eq!(first.url, again.url);
    let client = world.sqs();
    let other = client.create_queue().queue_name("tel-a").attributes(QueueAttributeName::VisibilityTimeout, "60");
    assert_eq!(code!(other.send().await), "QueueAlreadyExists");
    assert_eq!(code!(client.create_queue().queue_name("tel.fifo").send().await), "InvalidParameterValue");
    queue(&world, "other", &[]).await;

    assert_eq!(client.get_queue_url().queue_name("tel-a").send().await.unwrap().queue_url.as_ref(), Some(&first.url));
    assert_eq!(
        client.list_queues().queue_name_prefix("tel").send().await.unwrap().queue_urls(),
        std::slice::from_ref(&first.url)
    );
    let error = client.get_queue_url().queue_name("none").send().await.unwrap_err().into_service_error();
    assert!(error.is_queue_does_not_exist(), "{error:?}");
    let gone = client.send_message().queue_url(first.url.replace("tel-a", "none")).message_body("x").send().await;
    assert!(gone.unwrap_err().into_service_error().is_queue_does_not_exist());

    let set = client.set_queue_attributes().queue_url(&first.url);
    set.attributes(QueueAttributeName::VisibilityTimeout, "90").send().await.unwrap();
    assert_eq!(first.attribute(QueueAttributeName::VisibilityTimeout).await, "90");
    let set = client.set_queue_attributes().queue_url(&first.url);
    assert_eq!(
        code!(set.attributes(QueueAttributeName::VisibilityTimeout, "43201").send().await),
        "InvalidAttributeValue"
    );

    first.send("one").await;
    client.purge_queue().queue_url(&first.url).send().await.unwrap();
    assert!(first.receive(1).await.is_empty());
}

use crate::world::{self, World, code};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TimeToLiveSpecification,
};
use std::sync::Arc;

pub async fn make_table(client: &aws_sdk_dynamodb::Client, name: &str) {
    client
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(
            AttributeDefinition::builder().attribute_name("pk").attribute_type(ScalarAttributeType::S).build().unwrap(),
        )
        .key_schema(KeySchemaElement::builder().attribute_name("pk").key_type(KeyType::Hash).build().unwrap())
        .send()
        .await
        .unwrap();
}

pub fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.into())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_32_parallel_conditional_writes_one_wins() {
    for faults in [false, true] {
        let world: World = world::start_with(faults).await;
        let client = Arc::new(world.dynamodb());
        make_table(&client, "once").await;
        let writes: Vec<_> = (0..32)
            .map(|n| {
                let put = client
                    .put_item()
                    .table_name("once")
                    .item("pk", text("key"))
                    .item("by", text(&n.to_string()))
                    .condition_expression("attribute_not_exists(pk)");
                tokio::spawn(put.send())
            })
            .collect();
        let mut refusals = Vec::new();
        for write in writes {
            let outcome = write.await.unwrap();
            if outcome.is_err() {
                refusals.push(code!(outcome));
            }
        }
        assert_eq!(refusals, vec!["ConditionalCheckFailedException"; 31]);
        let n_counted =
            world.aws.calls().iter().filter(|((_, action), _)| action == "PutItem").map(|(_, n)| *n).sum::<u64>();
        assert_eq!(n_counted, if faults { 32 } else { 0 }, "calls are counted by the proxy alone");
    }
}

#[tokio::test]
async fn the_database_is_there_to_inspect_and_to_sweep() {
    let world = world::start().await;
    let client = world.dynamodb();
    make_table(&client, "sessions").await;
    let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name("ends").build().unwrap();
    client.update_time_to_live().table_name("sessions").time_to_live_specification(ttl).send().await.unwrap();
    let put = client.put_item().table_name("sessions").item("pk", text("old"));
    put.item("ends", AttributeValue::N("1700000000".into())).send().await.unwrap();
    assert_eq!(world.aws.database().table_count().unwrap(), 1);
    assert_eq!(world.aws.database().sweep_ttl().unwrap(), 1);
    assert_eq!(client.scan().table_name("sessions").send().await.unwrap().count(), 0);
}

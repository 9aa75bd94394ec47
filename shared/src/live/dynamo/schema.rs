//! The tables as the local system creates them and as the template has to declare them (a test compares).

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ScalarAttributeType, TimeToLiveSpecification,
};

use super::keys::{DUE_INDEX, ENTRIES_INDEX, Table};
use super::{Fault, fault};
use crate::live::config::{Config, ConfigError, TABLE_PREFIX, aws_config};

/// Creates the tables that are missing. For the local system and tests; on AWS the template does it.
pub async fn create_tables(config: &Config) -> Result<(), Fault> {
    let wrong = |error: ConfigError| Fault::Permanent(error.to_string());
    let aws = config.aws(true).map_err(wrong)?;
    let client = Client::from_conf(aws_config!(aws_sdk_dynamodb, config, &aws, "DYNAMODB"));
    let prefix = config.required(TABLE_PREFIX, true).map_err(wrong)?;
    for table in Table::ALL {
        create_table(&client, &format!("{prefix}{}", table.name()), table).await?;
    }
    Ok(())
}

async fn create_table(client: &Client, name: &str, table: Table) -> Result<(), Fault> {
    let text = ScalarAttributeType::S;
    let mut create = client
        .create_table()
        .table_name(name)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute("pk", text.clone())?)
        .attribute_definitions(attribute("sk", text.clone())?)
        .key_schema(element("pk", KeyType::Hash)?)
        .key_schema(element("sk", KeyType::Range)?);
    if table == Table::Ledger {
        let index = GlobalSecondaryIndex::builder()
            .index_name(ENTRIES_INDEX)
            .key_schema(element("statement", KeyType::Hash)?)
            .key_schema(element("entry", KeyType::Range)?)
            .projection(Projection::builder().projection_type(ProjectionType::All).build());
        create = create
            .attribute_definitions(attribute("statement", text.clone())?)
            .attribute_definitions(attribute("entry", text.clone())?)
            .global_secondary_indexes(index.build().map_err(incomplete)?);
    }
    if matches!(table, Table::Messages | Table::Ledger) {
        let index = GlobalSecondaryIndex::builder()
            .index_name(DUE_INDEX)
            .key_schema(element("due_shard", KeyType::Hash)?)
            .key_schema(element("due_at", KeyType::Range)?)
            .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build());
        create = create
            .attribute_definitions(attribute("due_shard", text)?)
            .attribute_definitions(attribute("due_at", ScalarAttributeType::N)?)
            .global_secondary_indexes(index.build().map_err(incomplete)?);
    }
    match create.send().await {
        Ok(_) => {}
        Err(error)
            if error.as_service_error().is_some_and(
                aws_sdk_dynamodb::operation::create_table::CreateTableError::is_resource_in_use_exception,
            ) =>
        {
            return Ok(());
        }
        Err(error) => return Err(fault("create table", &error)),
    }
    if table.has_ttl() {
        let ttl = TimeToLiveSpecification::builder().enabled(true).attribute_name("ttl").build().map_err(incomplete)?;
        let set = client.update_time_to_live().table_name(name).time_to_live_specification(ttl).send().await;
        set.map_err(|error| fault("time to live", &error))?;
    }
    Ok(())
}

fn incomplete<E>(_: E) -> Fault {
    Fault::permanent("a table's definition did not build")
}

fn attribute(name: &str, kind: ScalarAttributeType) -> Result<AttributeDefinition, Fault> {
    AttributeDefinition::builder().attribute_name(name).attribute_type(kind).build().map_err(incomplete)
}

fn element(name: &str, kind: KeyType) -> Result<KeySchemaElement, Fault> {
    KeySchemaElement::builder().attribute_name(name).key_type(kind).build().map_err(incomplete)
}

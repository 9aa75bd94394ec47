use crate::world::{self, code};
use aws_sdk_secretsmanager::primitives::Blob;

#[tokio::test]
async fn a_secret_is_found_by_name_and_arn_and_keeps_its_last_two_values() {
    let world = world::start().await;
    let client = world.secrets();
    let made = client.create_secret().name("telbuddy/index").secret_string("first").send().await.unwrap();
    let arn = made.arn().unwrap();
    client.put_secret_value().secret_id("telbuddy/index").secret_string("second").send().await.unwrap();
    let last = client.put_secret_value().secret_id(arn).secret_binary(Blob::new([0, 255])).send().await.unwrap();

    let current = client.get_secret_value().secret_id(arn).send().await.unwrap();
    assert_eq!(current.secret_binary().unwrap().as_ref(), [0, 255]);
    assert_eq!(current.secret_string(), None);
    assert_eq!(
        (current.version_id(), current.version_stages()),
        (last.version_id(), ["AWSCURRENT".to_owned()].as_slice())
    );
    let previous =
        client.get_secret_value().secret_id("telbuddy/index").version_stage("AWSPREVIOUS").send().await.unwrap();
    assert_eq!(previous.secret_string(), Some("second"));
    let first = client.get_secret_value().secret_id(arn).set_version_id(made.version_id.clone()).send().await.unwrap();
    assert_eq!(first.secret_string(), Some("first"));

    let described = client.describe_secret().secret_id(arn).send().await.unwrap();
    assert_eq!(described.name(), Some("telbuddy/index"));
    assert_eq!(described.version_ids_to_stages().unwrap().len(), 2);
}

#[tokio::test]
async fn the_wrong_name_and_a_taken_one_are_told_apart() {
    let world = world::start().await;
    let client = world.secrets();
    assert_eq!(code!(client.get_secret_value().secret_id("none").send().await), "ResourceNotFoundException");
    assert_eq!(
        code!(client.put_secret_value().secret_id("none").secret_string("x").send().await),
        "ResourceNotFoundException"
    );
    let create = |value: &str, token: &str| {
        client.create_secret().name("one").secret_string(value).client_request_token(token.repeat(32)).send()
    };
    create("value", "a").await.unwrap();
    create("value", "a").await.unwrap(); // a retry of the same call
    assert_eq!(code!(create("other", "a").await), "ResourceExistsException");
    assert_eq!(code!(create("value", "b").await), "ResourceExistsException");
}

#[tokio::test]
async fn no_file_shows_a_secret() {
    let world = world::start().await;
    world.secrets().create_secret().name("one").secret_string("canary-5f1c").send().await.unwrap();
    for file in world.aws.raw_files() {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(11).any(|part| part == b"canary-5f1c"), "{}", file.display());
    }
}

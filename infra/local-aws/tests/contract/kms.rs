use crate::world::{self, code};
use aws_sdk_kms::Client;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, KeyState};

async fn new_key(client: &Client) -> aws_sdk_kms::types::KeyMetadata {
    client.create_key().description("vault").send().await.unwrap().key_metadata.unwrap()
}

#[tokio::test]
async fn a_data_key_opens_with_its_context_and_no_other() {
    let world = world::start().await;
    let client = world.kms();
    let key = new_key(&client).await;
    let made = client
        .generate_data_key()
        .key_id(key.key_id())
        .key_spec(DataKeySpec::Aes256)
        .encryption_context("account", "a1")
        .encryption_context("purpose", "send")
        .send()
        .await
        .unwrap();
    let blob = made.ciphertext_blob.unwrap();
    let ask = || client.decrypt().ciphertext_blob(blob.clone());

    let opened = ask().encryption_context("purpose", "send").encryption_context("account", "a1").send().await.unwrap();
    assert_eq!(opened.plaintext, made.plaintext);
    assert_eq!(opened.plaintext.unwrap().as_ref().len(), 32);
    assert_eq!(opened.key_id, key.arn);

    let wrong = [
        ask().encryption_context("account", "a2").encryption_context("purpose", "send"),
        ask().encryption_context("account", "a1"),
        ask().encryption_context("account", "a1purpose").encryption_context("", "send"),
        ask(),
    ];
    for call in wrong {
        let error = call.send().await.unwrap_err().into_service_error();
        assert!(error.is_invalid_ciphertext_exception(), "{error:?}");
    }
    let other = new_key(&client).await;
    let right_context = ask().encryption_context("account", "a1").encryption_context("purpose", "send");
    assert_eq!(code!(right_context.key_id(other.key_id()).send().await), "IncorrectKeyException");
}

#[tokio::test]
async fn every_changed_byte_is_refused() {
    let world = world::start().await;
    let client = world.kms();
    let key = new_key(&client).await;
    let sealed = client.encrypt().key_id(key.key_id()).plaintext(Blob::new("hello")).send().await.unwrap();
    let blob = sealed.ciphertext_blob.unwrap().into_inner();
    for n in 0..blob.len() {
        let mut changed = blob.clone();
        changed[n] ^= 1;
        let error = client.decrypt().ciphertext_blob(Blob::new(changed)).send().await.unwrap_err();
        assert!(error.into_service_error().is_invalid_ciphertext_exception(), "byte {n}");
    }
    for short in [0, 1, 17, 29, blob.len() - 1] {
        let outcome = client.decrypt().ciphertext_blob(Blob::new(&blob[..short])).send().await;
        assert_eq!(code!(outcome), "InvalidCiphertextException");
    }
}

#[tokio::test]
async fn a_key_is_found_by_id_arn_and_alias() {
    let world = world::start().await;
    let client = world.kms();
    let key = new_key(&client).await;
    let arn = key.arn().unwrap();
    client.create_alias().alias_name("alias/vault").target_key_id(arn).send().await.unwrap();
    let alias_arn = "arn:aws:kms:us-east-1:000000000000:alias/vault";
    for name in [key.key_id(), arn, "alias/vault", alias_arn] {
        let found = client.describe_key().key_id(name).send().await.unwrap().key_metadata.unwrap();
        assert_eq!(found.key_id(), key.key_id());
    }
    client.enable_key_rotation().key_id("alias/vault").send().await.unwrap();
    for unknown in ["alias/none", "00000000-0000-4000-8000-000000000000"] {
        assert_eq!(code!(client.describe_key().key_id(unknown).send().await), "NotFoundException");
    }
    let again = client.create_alias().alias_name("alias/vault").target_key_id(arn).send().await;
    assert_eq!(code!(again), "AlreadyExistsException");
}

#[tokio::test]
async fn a_disabled_key_and_one_to_be_deleted_open_nothing() {
    let world = world::start().await;
    let client = world.kms();
    let key = new_key(&client).await;
    let id = key.key_id();
    let sealed = client.encrypt().key_id(id).plaintext(Blob::new("hello")).send().await.unwrap();
    let decrypt = || client.decrypt().set_ciphertext_blob(sealed.ciphertext_blob.clone()).send();

    client.disable_key().key_id(id).send().await.unwrap();
    assert_eq!(code!(decrypt().await), "DisabledException");
    client.enable_key().key_id(id).send().await.unwrap();
    decrypt().await.unwrap();
    client.schedule_key_deletion().key_id(id).pending_window_in_days(7).send().await.unwrap();
    assert_eq!(code!(decrypt().await), "KMSInvalidStateException");
    let metadata = client.describe_key().key_id(id).send().await.unwrap().key_metadata.unwrap();
    assert_eq!(metadata.key_state(), Some(&KeyState::PendingDeletion));
    assert!(metadata.deletion_date().is_some());
}

#[tokio::test]
async fn a_blob_moves_to_another_key_and_context() {
    let world = world::start().await;
    let client = world.kms();
    let (from, to) = (new_key(&client).await, new_key(&client).await);
    let sealed = client
        .encrypt()
        .key_id(from.key_id())
        .plaintext(Blob::new("hello"))
        .encryption_context("v", "1")
        .send()
        .await
        .unwrap();
    let moved = client
        .re_encrypt()
        .set_ciphertext_blob(sealed.ciphertext_blob)
        .source_encryption_context("v", "1")
        .destination_key_id(to.key_id())
        .destination_encryption_context("v", "2")
        .send()
        .await
        .unwrap();
    assert_eq!((moved.source_key_id, moved.key_id), (from.arn, to.arn));
    let opened =
        client.decrypt().set_ciphertext_blob(moved.ciphertext_blob).encryption_context("v", "2").send().await.unwrap();
    assert_eq!(opened.plaintext.unwrap().as_ref(), b"hello");
}

#[cfg(unix)]
#[tokio::test]
async fn key_material_is_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let world = world::start().await;
    new_key(&world.kms()).await;
    let files: Vec<_> =
        world.aws.raw_files().into_iter().filter(|file| file.to_string_lossy().contains("sqlite")).collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", file.display());
    }
}

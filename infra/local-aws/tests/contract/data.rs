//! What happens to the data: kills, locks, damage.

use crate::dynamodb::{make_table, text};
use crate::world::{self, World, client, options};
use aws_sdk_kms::primitives::Blob;
use local_aws::{LocalAws, StartError};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const FOLDER: &str = "LOCAL_AWS_TEST_FOLDER";

/// Not a test by itself: the process that `what_was_answered_survives_kill_9` kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by what_was_answered_survives_kill_9"]
async fn the_process_that_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let aws = LocalAws::start(options(&PathBuf::from(folder), false)).await.unwrap();
    println!("\nurls {} {}", aws.dynamodb_url(), aws.aws_url());
    std::future::pending::<()>().await;
}

/// Killed with SIGKILL when dropped, so that a failing test leaves none behind.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Doubles in a process of their own, with the URLs of DynamoDB and of the rest.
fn start_process(folder: &Path) -> (Process, String, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "data::the_process_that_is_killed", "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.into_iter().find(|line| line.starts_with("urls ")).unwrap();
    let urls: Vec<&str> = line.split(' ').collect();
    (Process(child), urls[1].into(), urls[2].into())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let (process, dynamodb_url, aws_url) = start_process(folder.path());
    let dynamodb = client!(aws_sdk_dynamodb, &dynamodb_url);
    let (kms, sqs) = (client!(aws_sdk_kms, &aws_url), client!(aws_sdk_sqs, &aws_url));
    let secrets = client!(aws_sdk_secretsmanager, &aws_url);
    make_table(&dynamodb, "items").await;
    let key = kms.create_key().send().await.unwrap().key_metadata.unwrap();
    let sealed = kms.encrypt().key_id(key.key_id()).plaintext(Blob::new("hello")).send().await.unwrap();
    secrets.create_secret().name("one").secret_string("value").send().await.unwrap();
    let url = sqs.create_queue().queue_name("q").send().await.unwrap().queue_url.unwrap();
    for n in 0..200 {
        sqs.send_message().queue_url(&url).message_body(n.to_string()).send().await.unwrap();
        dynamodb.put_item().table_name("items").item("pk", text(&n.to_string())).send().await.unwrap();
    }
    assert!(matches!(LocalAws::start(options(folder.path(), false)).await, Err(StartError::DataInUse { .. })));
    drop(process);

    let aws = LocalAws::start(options(folder.path(), false)).await.unwrap();
    let world = World { aws, folder };
    assert_eq!(world.dynamodb().scan().table_name("items").send().await.unwrap().count(), 200);
    assert_eq!(world.aws.queues().unwrap()[0].visible, 200);
    // The URL from before names the queue, though the port is another one.
    assert_eq!(world.sqs().receive_message().queue_url(&url).send().await.unwrap().messages().len(), 1);
    let opened = world.kms().decrypt().set_ciphertext_blob(sealed.ciphertext_blob).send().await.unwrap();
    assert_eq!(opened.plaintext.unwrap().as_ref(), b"hello");
    let secret = world.secrets().get_secret_value().secret_id("one").send().await.unwrap();
    assert_eq!(secret.secret_string(), Some("value"));
}

#[tokio::test]
async fn a_stop_wakes_long_polls_and_frees_the_folder() {
    let world = world::start_with(true).await;
    let sqs = world.sqs();
    let url = sqs.create_queue().queue_name("q").send().await.unwrap().queue_url.unwrap();
    let begun = Instant::now();
    let poll = tokio::spawn(sqs.receive_message().queue_url(url).wait_time_seconds(20).send());
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.aws.stop().await;
    assert!(poll.await.unwrap().unwrap().messages().is_empty());
    assert!(begun.elapsed().as_secs() < 3, "{:?}", begun.elapsed());
    LocalAws::start(options(world.folder.path(), false)).await.unwrap();
}

#[tokio::test]
async fn dropping_the_last_handle_frees_the_folder_too() {
    let World { aws, folder } = world::start().await;
    drop(aws);
    for _ in 0..100 {
        match LocalAws::start(options(folder.path(), false)).await {
            Ok(_) => return,
            Err(error) => assert!(matches!(error, StartError::DataInUse { .. }), "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the folder stayed in use");
}

#[tokio::test]
async fn a_file_of_a_newer_build_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("aws.sqlite");
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 9).unwrap();
    let error = LocalAws::start(options(folder.path(), false)).await.unwrap_err();
    assert!(error.to_string().contains("it has layout 9, and this build knows only 1"), "{error}");
}

#[tokio::test]
async fn a_damaged_file_is_named_and_left_alone() {
    for name in ["aws.sqlite", "dynamodb.sqlite"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        let junk = b"this is not a database, and long enough to have a header of one hundred bytes. ".repeat(20);
        std::fs::write(&file, &junk).unwrap();
        let error = LocalAws::start(options(folder.path(), false)).await.unwrap_err();
        let expected = format!(
            "the data file {} is damaged (file is not a database); move it away or start with another --data folder",
            file.display()
        );
        assert_eq!(error.to_string(), expected);
        assert_eq!(std::fs::read(&file).unwrap(), junk);
    }
}

#[tokio::test]
async fn an_overwritten_page_is_found_before_the_start() {
    for name in ["aws.sqlite", "dynamodb.sqlite"] {
        let world = world::start().await;
        world.kms().create_key().send().await.unwrap();
        make_table(&world.dynamodb(), "items").await;
        let World { aws, folder } = world;
        aws.stop().await;
        drop(aws);
        let file = folder.path().join(name);
        // Into the file itself, then without the log, as if the disk had lost it.
        rusqlite::Connection::open(&file).unwrap().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[4096..12288].fill(0xaa);
        std::fs::write(&file, bytes).unwrap();
        for log in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(folder.path().join(format!("{name}{log}")));
        }
        let error = LocalAws::start(options(folder.path(), false)).await.unwrap_err();
        assert!(matches!(error, StartError::DataDamaged { .. }), "{error}");
        assert!(!error.to_string().contains('\n'));
    }
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let world = world::start().await;
    let port: u16 = world.aws.aws_url().rsplit_once(':').unwrap().1.parse().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut options = options(folder.path(), false);
    options.dynamodb_port = port;
    let error = LocalAws::start(options).await.unwrap_err();
    assert!(matches!(error, StartError::PortTaken { .. }));
    assert!(error.to_string().starts_with(&format!("port {port} for DynamoDB cannot be opened")), "{error}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = LocalAws::start(options(&file.join("data"), false)).await.unwrap_err();
    assert!(matches!(error, StartError::DataNotWritable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_call_is_refused() {
    let world = world::start().await;
    let authority = world.aws.aws_url().replace("http://", "");
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(authority).unwrap();
        let request = "POST / HTTP/1.1\r\nhost: aws\r\nx-amz-target: AmazonSQS.ListQueues\r\n\
                       content-length: 2\r\nconnection: close\r\n\r\n{}";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    });
    let answer = answer.await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("MissingAuthenticationToken"), "{answer}");
}

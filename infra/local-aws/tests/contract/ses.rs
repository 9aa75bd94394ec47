use crate::world::{self, code};
use aws_sdk_sesv2::types::{Body, Content, Destination, EmailContent, Message};

fn content(text: &str) -> Content {
    Content::builder().data(text).build().unwrap()
}

#[tokio::test]
async fn a_mail_is_written_and_read_back_newest_first() {
    let world = world::start().await;
    let client = world.ses();
    let send = |subject: &str| {
        let body = Body::builder().text(content("Your code is 123")).html(content("<b>123</b>")).build();
        client
            .send_email()
            .from_email_address("TelBuddy <no-reply@telbuddy.example>")
            .destination(Destination::builder().to_addresses("ann@example.com").build())
            .content(
                EmailContent::builder().simple(Message::builder().subject(content(subject)).body(body).build()).build(),
            )
            .send()
    };
    send("first").await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    let newest = send("second").await.unwrap();

    let mails = world.aws.mails().unwrap();
    assert_eq!(mails.iter().map(|mail| mail.subject.as_str()).collect::<Vec<_>>(), ["second", "first"]);
    assert_eq!(Some(mails[0].id.as_str()), newest.message_id());
    assert_eq!(mails[0].to, ["ann@example.com"]);
    assert_eq!((mails[0].text.as_str(), mails[0].html.as_deref()), ("Your code is 123", Some("<b>123</b>")));
    let file = world.folder.path().join("mail").join(format!("{}.json", mails[0].id));
    assert!(std::fs::read_to_string(file).unwrap().contains("\"subject\": \"second\""));
}

#[tokio::test]
async fn a_mail_to_nobody_is_refused() {
    let world = world::start().await;
    let body = Body::builder().text(content("text")).build();
    let outcome = world
        .ses()
        .send_email()
        .from_email_address("no-reply@telbuddy.example")
        .destination(Destination::builder().to_addresses("ann").build())
        .content(EmailContent::builder().simple(Message::builder().subject(content("s")).body(body).build()).build())
        .send()
        .await;
    assert_eq!(code!(outcome), "BadRequestException");
    assert!(world.aws.mails().unwrap().is_empty());
}

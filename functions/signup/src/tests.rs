//! Sign-up tells nothing about who has an account, and leaves a whole account or none.

use http::Method;
use telbuddy::account::{FindUser, MailToken};
use telbuddy::fault::Fault;
use telbuddy::platform::{Clock, Queue};
use telbuddy::testing::World;
use telbuddy::testing::fresh::secs;
use telbuddy::testing::setup::{called, request};

use super::*;

const ADDRESS: &str = "ann@example.com";
const PASSWORD: &str = "correct horse battery";

fn asking(world: &World, email: &str) -> Request {
    let body = json!({ "name": "Ann", "email": email, "company": "Example", "password": PASSWORD, "country": "US" });
    request(world, Method::POST, "/v1/signup", &body.to_string())
}

async fn sign_up(world: &World, email: &str) -> Reply {
    handle(world, asking(world, email)).await
}

/// The user whom an address belongs to, once confirmed.
/// Whom mails are on their way to, oldest first.
fn mailed(world: &World) -> Vec<(AccountId, UserId)> {
    let of = |job| match job {
        Job::Mail { account, user, mail: Mail::SignUp } => (account, user),
        other => panic!("{other:?}"),
    };
    world.jobs().into_iter().map(of).collect()
}

/// Opens a link.
async fn opened(world: &World, token: &str) -> StatusCode {
    let body = json!({ "token": token }).to_string();
    handle(world, request(world, Method::POST, "/v1/email-verifications", &body)).await.status
}

/// The token of a link, as the mailer makes and keeps it.
async fn link(world: &World, (account, user): (AccountId, UserId)) -> String {
    let token = Token::new(account, world.random().unwrap());
    let expires = world.now() + secs(60);
    world.keep_mail_token(MailToken { account, user, hash: token.hash(), expires }).await.unwrap();
    world.forget_calls();
    token.reveal(LINK_PREFIX).expose_secret().to_owned()
}

/// A sign-up whose link was opened.
async fn confirmed(world: &World) -> (AccountId, UserId) {
    sign_up(world, ADDRESS).await;
    let owner = *mailed(world).last().unwrap();
    assert_eq!(opened(world, &link(world, owner).await).await, StatusCode::NO_CONTENT);
    world.take_jobs(Queue::Mail);
    world.forget_calls();
    owner
}

async fn verified(world: &World, (account, user): (AccountId, UserId)) -> bool {
    world.load_user(account, user).await.unwrap().unwrap().verified
}

#[tokio::test]
async fn a_known_address_gets_the_same_answer_by_the_same_calls_as_a_new_one() {
    let world = World::new(1);
    let owner = confirmed(&world).await;
    let mut seen = Vec::new();
    for address in ["bob@example.com", ADDRESS] {
        world.forget_calls();
        let reply = sign_up(&world, address).await;
        seen.push((reply.status, reply.body, world.calls()));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].0, StatusCode::ACCEPTED);
    let calls = [("platform", 1), ("count_try", 2), ("mint_key", 3), ("create_account", 1), ("enqueue", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    let mailed = mailed(&world);
    assert!(mailed[0] != owner && mailed[1] == owner, "the owner is told");
}

#[tokio::test]
async fn what_is_stored_of_a_person_is_sealed_and_nothing_is_opened() {
    let world = World::new(1);
    sign_up(&world, ADDRESS).await;
    for text in [ADDRESS, "Example", PASSWORD] {
        assert!(!world.holds_in_clear(text), "{text}");
    }
    assert_eq!(world.openings(), []);
}

#[tokio::test]
async fn a_fault_before_the_account_is_written_leaves_nothing_and_the_next_try_works() {
    for method in ["platform", "count_try", "random", "mint_key", "create_account"] {
        let world = World::new(1);
        let request = asking(&world, ADDRESS);
        world.fail_next(method, Fault::transient("busy"));
        assert_eq!(handle(&world, request).await.status, StatusCode::SERVICE_UNAVAILABLE, "{method}");
        assert_eq!(mailed(&world), [], "{method}");
        confirmed(&world).await;
    }
}

#[tokio::test]
async fn a_mail_that_got_lost_is_made_up_for_by_signing_up_again() {
    for (method, lost) in [("enqueue", false), ("create_account", true)] {
        let world = World::new(1);
        if lost {
            world.lose_answer(method, Fault::Ambiguous("reset".to_owned()));
        } else {
            world.fail_next(method, Fault::transient("busy"));
        }
        assert_eq!(sign_up(&world, ADDRESS).await.status, StatusCode::SERVICE_UNAVAILABLE, "{method}");
        assert_eq!(mailed(&world), [], "{method}");
        confirmed(&world).await;
    }
}

#[tokio::test]
async fn of_sign_ups_with_one_address_at_the_same_time_the_one_counts_whose_link_is_opened() {
    for seed in 0..4 {
        let world = World::new(seed);
        let (one, two) = tokio::join!(sign_up(&world, ADDRESS), sign_up(&world, " ANN@example.com"));
        assert_eq!((one.status, one.body), (two.status, two.body));
        let mailed = mailed(&world);
        let links = [link(&world, mailed[0]).await, link(&world, mailed[1]).await];
        let (one, two) = tokio::join!(opened(&world, &links[0]), opened(&world, &links[1]));
        let mut statuses = [one.as_u16(), two.as_u16()];
        statuses.sort_unstable();
        assert_eq!(statuses, [204, 422], "seed {seed}");
        assert_ne!(verified(&world, mailed[0]).await, verified(&world, mailed[1]).await);
    }
}

#[tokio::test]
async fn after_twenty_tries_nothing_is_hashed_minted_or_written_until_the_window_is_over() {
    let world = World::new(1);
    let peer = world.platform().await.unwrap().hash("peer", "198.51.100.7");
    for _ in 0..TRIES {
        assert_eq!(world.count_try(&format!("signup#{peer}"), TRIES, WINDOW_SECS, world.now()).await, Ok(true));
    }
    world.forget_calls();
    assert_eq!(sign_up(&world, ADDRESS).await.status, StatusCode::TOO_MANY_REQUESTS);
    // A hash would have come with a salt, an account with two ids: chance named the request only.
    let calls = [("platform", 1), ("count_try", 1), ("random", 1)];
    assert_eq!(world.calls(), calls.into_iter().collect());
    world.advance(secs(WINDOW_SECS.into()));
    assert_eq!(sign_up(&world, ADDRESS).await.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn a_mailbox_gets_five_mails_in_an_hour_and_the_caller_sees_no_difference() {
    let world = World::new(1);
    let mut replies = Vec::new();
    for _ in 0..=MAILS {
        let reply = sign_up(&world, ADDRESS).await;
        replies.push((reply.status, reply.body));
    }
    assert!(replies.windows(2).all(|two| two[0] == two[1]));
    assert_eq!(mailed(&world).len(), 5);
    world.advance(secs(MAIL_WINDOW_SECS.into()));
    sign_up(&world, ADDRESS).await;
    assert_eq!(mailed(&world).len(), 6);
}

#[tokio::test]
async fn fields_that_do_not_fit_cost_no_call_at_all() {
    let world = World::new(1);
    let reply = sign_up(&world, "nobody").await;
    assert_eq!((reply.status, called(&world)), (StatusCode::UNPROCESSABLE_ENTITY, [].into()));
}

#[tokio::test]
async fn a_link_confirms_once_and_a_text_that_is_no_token_is_not_looked_up() {
    let world = World::new(1);
    sign_up(&world, ADDRESS).await;
    let owner = mailed(&world)[0];
    let token = link(&world, owner).await;
    assert_eq!(opened(&world, &token).await, StatusCode::NO_CONTENT);
    let calls = [("platform", 1), ("count_try", 1), ("confirm_email", 1)];
    assert_eq!((called(&world), verified(&world, owner).await), (calls.into_iter().collect(), true));
    assert_eq!(opened(&world, &token).await, StatusCode::UNPROCESSABLE_ENTITY);
    world.forget_calls();
    assert_eq!(opened(&world, &token.replace(LINK_PREFIX, "tbs_")).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(called(&world), [("platform", 1), ("count_try", 1)].into_iter().collect());
}

#[tokio::test]
async fn a_fault_of_the_confirmation_leaves_the_link_working() {
    let world = World::new(1);
    sign_up(&world, ADDRESS).await;
    let owner = mailed(&world)[0];
    let token = link(&world, owner).await;
    world.fail_next("confirm_email", Fault::transient("busy"));
    assert_eq!(opened(&world, &token).await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!verified(&world, owner).await);
    assert_eq!(opened(&world, &token).await, StatusCode::NO_CONTENT);
}

//! Sign-up tells nothing about who has an account, and leaves a whole account or none.

use http::Method;
use telbuddy::account::{FindUser, MailToken};
use telbuddy::fault::Fault;
use telbuddy::platform::Clock;
use telbuddy::testing::World;
use telbuddy::testing::fresh::secs;
use telbuddy::testing::setup::{called, request};

use super::*;

const PASSWORD: &str = "correct horse battery";

fn asking(world: &World, email: &str) -> Request {
    let body = json!({ "name": "Ann", "email": email, "company": "Example", "password": PASSWORD, "country": "US" });
    request(world, Method::POST, "/v1/signup", &body.to_string())
}

async fn sign_up(world: &World, email: &str) -> Reply {
    handle(world, asking(world, email)).await
}

async fn user(world: &World, email: &str) -> Option<User> {
    let index = world.platform().await.unwrap().email_index(&Email::parse(email).unwrap());
    world.find_user(&index).await.unwrap()
}

async fn confirmed(world: &World, token: &str) -> StatusCode {
    let body = json!({ "token": token }).to_string();
    handle(world, request(world, Method::POST, "/v1/email-verifications", &body)).await.status
}

/// A token for a user, as the mailer keeps it.
async fn mail_token(world: &World, user: &User) -> String {
    let token = Token::new(user.account, world.random().unwrap());
    let expires = world.now() + secs(60);
    world
        .keep_mail_token(MailToken { account: user.account, user: user.id, hash: token.hash(), expires })
        .await
        .unwrap();
    world.forget_calls();
    token.reveal(LINK_PREFIX).expose_secret().to_owned()
}

#[tokio::test]
async fn a_known_address_gets_the_same_answer_by_the_same_calls_as_a_new_one() {
    let world = World::new(1);
    let mut seen = Vec::new();
    for _ in ["new", "known"] {
        world.forget_calls();
        let reply = sign_up(&world, "ann@example.com").await;
        seen.push((reply.status, reply.body, world.calls()));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(seen[0].0, StatusCode::ACCEPTED);
    let calls = [("platform", 1), ("count_try", 1), ("mint_key", 3), ("create_account", 1), ("enqueue", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    let jobs = world.jobs();
    assert_eq!((jobs.len(), &jobs[0]), (2, &jobs[1]), "both mails go to the one owner");
}

#[tokio::test]
async fn what_is_stored_of_a_person_is_sealed_and_nothing_is_opened() {
    let world = World::new(1);
    sign_up(&world, "ann@example.com").await;
    for text in ["ann@example.com", "Example", PASSWORD] {
        assert!(!world.holds_in_clear(text), "{text}");
    }
    assert_eq!(world.openings(), []);
}

#[tokio::test]
async fn a_fault_before_the_account_is_written_leaves_nothing_half_made() {
    for method in ["platform", "count_try", "random", "mint_key", "create_account"] {
        let world = World::new(1);
        let request = asking(&world, "ann@example.com");
        world.fail_next(method, Fault::transient("busy"));
        assert_eq!(handle(&world, request).await.status, StatusCode::SERVICE_UNAVAILABLE, "{method}");
        assert_eq!((user(&world, "ann@example.com").await, world.jobs()), (None, Vec::new()), "{method}");
        assert_eq!(sign_up(&world, "ann@example.com").await.status, StatusCode::ACCEPTED, "{method}");
        assert!(user(&world, "ann@example.com").await.is_some());
    }
}

#[tokio::test]
async fn an_account_whose_mail_got_lost_is_reached_by_signing_up_again() {
    for (method, lost) in [("enqueue", false), ("create_account", true)] {
        let world = World::new(1);
        match lost {
            true => world.lose_answer(method, Fault::Ambiguous("reset".to_owned())),
            false => world.fail_next(method, Fault::transient("busy")),
        }
        assert_eq!(sign_up(&world, "ann@example.com").await.status, StatusCode::SERVICE_UNAVAILABLE);
        let owner = user(&world, "ann@example.com").await.expect("the account was written");
        assert_eq!(sign_up(&world, "ann@example.com").await.status, StatusCode::ACCEPTED);
        assert_eq!(
            world.jobs(),
            [Job::Mail { account: owner.account, user: owner.id, mail: Mail::SignUp }],
            "{method}"
        );
    }
}

#[tokio::test]
async fn of_sign_ups_with_one_address_at_the_same_time_one_makes_the_account_and_all_look_the_same() {
    for seed in 0..4 {
        let world = World::new(seed);
        let (one, two) = tokio::join!(sign_up(&world, "ann@example.com"), sign_up(&world, "ANN@example.com "));
        assert_eq!((one.status, one.body), (two.status, two.body));
        let owner = user(&world, "ann@example.com").await.unwrap();
        let job = Job::Mail { account: owner.account, user: owner.id, mail: Mail::SignUp };
        assert_eq!(world.jobs(), [job.clone(), job]);
    }
}

#[tokio::test]
async fn after_twenty_tries_nothing_is_hashed_minted_or_written_until_the_window_is_over() {
    let world = World::new(1);
    for _ in 0..TRIES {
        confirmed(&world, "tbv_x").await;
    }
    world.forget_calls();
    assert_eq!(sign_up(&world, "ann@example.com").await.status, StatusCode::TOO_MANY_REQUESTS);
    // A hash would have come with a salt, an account with two ids: chance named the request only.
    let calls = [("platform", 1), ("count_try", 1), ("random", 1)];
    assert_eq!(world.calls(), calls.into_iter().collect());
    world.advance(secs(WINDOW_SECS.into()));
    assert_eq!(sign_up(&world, "ann@example.com").await.status, StatusCode::ACCEPTED);
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
    sign_up(&world, "ann@example.com").await;
    let owner = user(&world, "ann@example.com").await.unwrap();
    let token = mail_token(&world, &owner).await;
    assert_eq!(confirmed(&world, &token).await, StatusCode::NO_CONTENT);
    let calls = [("platform", 1), ("count_try", 1), ("confirm_email", 1)];
    assert_eq!(called(&world), calls.into_iter().collect());
    assert!(user(&world, "ann@example.com").await.unwrap().verified);
    assert_eq!(confirmed(&world, &token).await, StatusCode::UNPROCESSABLE_ENTITY);
    world.forget_calls();
    assert_eq!(confirmed(&world, &token.replace(LINK_PREFIX, "tbs_")).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(called(&world), [("platform", 1), ("count_try", 1)].into_iter().collect());
}

#[tokio::test]
async fn a_fault_of_the_confirmation_leaves_the_link_working() {
    let world = World::new(1);
    sign_up(&world, "ann@example.com").await;
    let token = mail_token(&world, &user(&world, "ann@example.com").await.unwrap()).await;
    world.fail_next("confirm_email", Fault::transient("busy"));
    assert_eq!(confirmed(&world, &token).await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(!user(&world, "ann@example.com").await.unwrap().verified);
    assert_eq!(confirmed(&world, &token).await, StatusCode::NO_CONTENT);
}

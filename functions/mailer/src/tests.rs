//! A mail goes out, or its job comes again; a token is nowhere but in the mail.

use telbuddy::account::{CreateAccount, NewAccount, SignedUp};
use telbuddy::endpoint::{Choice, EventType};
use telbuddy::ids::EndpointId;
use telbuddy::testing::World;
use telbuddy::testing::fresh;
use telbuddy::testing::setup::{called, site};

use super::*;

const ADDRESS: &str = "ann@example.com";

/// An account with a profile that opens, as sign-up leaves it.
async fn signed_up(world: &World, verified: bool) -> NewAccount {
    let mut new = fresh::new_account(world, 100);
    let (key, wrapped) = fresh::minted(world, new.account, Purpose::Profile, 1).await;
    let profile = Profile { name: "Ann".to_owned(), email: ADDRESS.to_owned(), company: "Example".to_owned() };
    new.profile = profile.seal(&key, world.random().unwrap()).unwrap();
    new.keys.push(wrapped);
    new.owner.verified = verified;
    assert_eq!(world.create_account(new.clone()).await, Ok(SignedUp::Created));
    world.forget_calls();
    new
}

fn job(new: &NewAccount) -> Job {
    Job::Mail { account: new.account, user: new.owner.id, mail: Mail::SignUp }
}

async fn mailed(world: &World, new: &NewAccount) -> Handled {
    handle(world, &site(), vec![job(new)]).await[0]
}

/// The token in the link of the n-th mail.
fn token(world: &World, n: usize) -> Token {
    let text = world.mails()[n].text.clone();
    let text = text.split("https://app.example.com/verify-email?token=").nth(1).expect("a link");
    Token::parse(LINK_PREFIX, text.split_whitespace().next().unwrap()).expect("a token")
}

#[tokio::test]
async fn a_mail_costs_three_reads_a_write_and_an_opening_when_cold_and_two_reads_and_a_write_when_warm() {
    let world = World::new(1);
    let new = signed_up(&world, false).await;
    let warm = [("load_user", 1), ("load_profile", 1), ("keep_mail_token", 1), ("send_mail", 1)];
    assert_eq!(mailed(&world, &new).await, Handled::Done);
    assert_eq!(called(&world), warm.into_iter().chain([("load_keys", 1), ("open_key", 1)]).collect());
    world.forget_calls();
    assert_eq!(mailed(&world, &new).await, Handled::Done);
    assert_eq!((called(&world), world.openings().len()), (warm.into_iter().collect(), 1));
}

#[tokio::test]
async fn the_token_is_in_the_mail_only_and_its_hash_confirms_the_address() {
    let world = World::new(1);
    let new = signed_up(&world, false).await;
    mailed(&world, &new).await;
    let token = token(&world, 0);
    let mail = &world.mails()[0];
    assert_eq!((mail.to.as_str(), mail.text.contains("Ann")), (ADDRESS, false));
    let text = token.reveal(LINK_PREFIX);
    assert!(!world.holds_in_clear(&text.expose_secret()[30..]) && world.holds_in_clear(&token.hash().0));
    assert!(!world.holds_in_clear(ADDRESS));
    assert_eq!(world.confirm_email(new.account, &token.hash(), world.now()).await, Ok(true));
}

#[tokio::test]
async fn a_link_works_for_a_day_and_no_longer() {
    for (late, works) in [(-1, true), (0, false)] {
        let world = World::new(1);
        let new = signed_up(&world, false).await;
        mailed(&world, &new).await;
        world.advance(VERIFICATION_LIFE + fresh::secs(late));
        assert_eq!(world.confirm_email(new.account, &token(&world, 0).hash(), world.now()).await, Ok(works));
    }
}

#[tokio::test]
async fn a_mail_for_an_account_that_is_gone_is_done_without_a_mail() {
    let world = World::new(1);
    let gone = fresh::new_account(&world, 100);
    assert_eq!(mailed(&world, &gone).await, Handled::Done);
    assert_eq!((world.mails(), world.openings()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn a_fault_at_any_step_gives_the_job_back_and_the_next_time_mails_a_link_that_works() {
    for method in ["load_user", "load_profile", "load_keys", "open_key", "random", "keep_mail_token", "send_mail"] {
        let world = World::new(1);
        let new = signed_up(&world, false).await;
        world.fail_next(method, Fault::transient("busy"));
        assert_eq!(mailed(&world, &new).await, Handled::Again, "{method}");
        assert_eq!(world.mails(), [], "{method}");
        assert_eq!(mailed(&world, &new).await, Handled::Done, "{method}");
        assert_eq!(world.confirm_email(new.account, &token(&world, 0).hash(), world.now()).await, Ok(true));
    }
}

#[tokio::test]
async fn a_job_that_comes_twice_mails_two_links_that_both_work() {
    let world = World::new(1);
    let new = signed_up(&world, false).await;
    world.lose_answer("send_mail", Fault::Ambiguous("reset".to_owned()));
    assert_eq!([mailed(&world, &new).await, mailed(&world, &new).await], [Handled::Again, Handled::Done]);
    for n in [0, 1] {
        assert_eq!(world.confirm_email(new.account, &token(&world, n).hash(), world.now()).await, Ok(true));
    }
}

#[tokio::test]
async fn who_has_an_account_is_told_so_and_gets_no_token() {
    let world = World::new(1);
    let new = signed_up(&world, true).await;
    assert_eq!(mailed(&world, &new).await, Handled::Done);
    let mails = world.mails();
    assert_eq!((mails.len(), mails[0].to.as_str()), (1, ADDRESS));
    assert!(!mails[0].text.contains(LINK_PREFIX) && !called(&world).contains_key("keep_mail_token"));
}

#[tokio::test]
async fn one_mail_that_fails_keeps_no_other_of_its_batch() {
    let world = World::new(1);
    let (one, two) = (signed_up(&world, false).await, signed_up(&world, false).await);
    let message = telbuddy::ids::MessageId::from_bits(1);
    let wrong = Job::Post { account: one.account, message };
    let handled = handle(&world, &site(), vec![wrong, job(&one), job(&two)]).await;
    assert_eq!(handled, [Handled::Again, Handled::Done, Handled::Done]);
    assert_eq!(world.mails().len(), 2);
}

fn told(new: &NewAccount, alert: Alert) -> Job {
    Job::Alert { account: new.account, alert, since: new.now }
}

#[tokio::test]
async fn an_alert_goes_to_the_owner_and_says_what_happened_since_when_and_what_to_do() {
    let world = World::new(1);
    let new = signed_up(&world, true).await;
    assert_eq!(handle(&world, &site(), vec![told(&new, Alert::CredentialRefused)]).await, [Handled::Done]);
    let calls = [
        ("tell_endpoints", 1),
        ("load_owner", 1),
        ("load_profile", 1),
        ("load_keys", 1),
        ("open_key", 1),
        ("send_mail", 1),
    ];
    assert_eq!(called(&world), calls.into_iter().collect());
    let mails = world.mails();
    assert_eq!((mails.len(), mails[0].to.as_str()), (1, ADDRESS));
    for part in
        ["Hello Ann,", "Since: 2026-11-24 06:00 UTC", "PUT /v1/credentials/twilio", "GET https://api.example.com"]
    {
        assert!(mails[0].text.contains(part), "{part} is not in {}", mails[0].text);
    }
}

#[tokio::test]
async fn an_address_that_nobody_confirmed_gets_no_alert_and_opens_nothing() {
    let world = World::new(1);
    let new = signed_up(&world, false).await;
    let gone = fresh::new_account(&world, 100);
    let jobs = vec![told(&new, Alert::CredentialRefused), told(&gone, Alert::CredentialRefused)];
    assert_eq!(handle(&world, &site(), jobs).await, [Handled::Done; 2]);
    assert_eq!((world.mails(), world.openings()), (Vec::new(), Vec::new()));
}

#[tokio::test]
async fn an_alert_that_meets_a_fault_comes_again_and_is_not_lost() {
    for method in ["load_owner", "load_profile", "load_keys", "open_key", "send_mail"] {
        let world = World::new(1);
        let new = signed_up(&world, true).await;
        world.fail_next(method, Fault::transient("busy"));
        let alert = || vec![told(&new, Alert::CredentialRefused)];
        assert_eq!(handle(&world, &site(), alert()).await, [Handled::Again], "{method}");
        assert_eq!(handle(&world, &site(), alert()).await, [Handled::Done], "{method}");
        assert_eq!(world.mails().len(), 1, "{method}");
    }
}

#[tokio::test]
async fn endpoints_are_told_once_what_the_owner_is_alerted_to_even_if_the_mail_comes_again() {
    let world = World::new(1);
    let new = signed_up(&world, false).await;
    let (all, deaf) = (EndpointId::from_bits(1), EndpointId::from_bits(2));
    world.change_gate(new.account, |gate| {
        gate.listeners.0.insert(all, Choice::All);
        gate.listeners.0.insert(deaf, Choice::parse(&["message.sent"]).unwrap());
    });
    let since = world.now();
    let job = Job::Alert { account: new.account, alert: Alert::CredentialRefused, since };
    for _ in 0..2 {
        assert_eq!(handle(&world, &site(), vec![job.clone()]).await, [Handled::Done]);
        world.advance(fresh::secs(60));
    }
    let told = world.deliveries_of(new.account, all);
    assert_eq!((told.len(), told[0].event.kind, told[0].event.at), (1, EventType::CredentialRefused, since));
    assert_eq!(world.deliveries_of(new.account, deaf), []);
}

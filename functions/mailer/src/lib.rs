//! Queue `mail`: writes and sends mails. Tokens are made here and stored as hashes, so that no queue ever holds one.

use futures::future::join_all;
use jiff::Timestamp;
use telbuddy::account::{Email, FindUser, KeepMailTokens, LINK_PREFIX, MailToken, Profile, User, VERIFICATION_LIFE};
use telbuddy::alert::{self, Alert, Names};
use telbuddy::credential::{LoadKeys, OpenKey, data_key};
use telbuddy::endpoint::{Delivery, Event, TellEndpoints};
use telbuddy::fault::Fault;
use telbuddy::ids::{AccountId, UserId};
use telbuddy::live::Need;
use telbuddy::platform::{Chance, Clock, EnqueueJob, Handled, Job, Letter, Mail, Queue, SendMail};
use telbuddy::seal::Purpose;
use telbuddy::secret::{ExposeSecret, Token};
use telbuddy::session::Site;

/// The queue of this function.
pub const QUEUE: Queue = Queue::Mail;

/// The services that it calls. It may open the purpose profile.
pub const NEEDS: &[Need] = &[Need::Tables, Need::Keys, Need::Queues, Need::Mail];

/// Works through a batch. A job that comes twice sends a second mail: of two links both work, and an alert that is read
/// twice does less harm than one that is lost. What fails comes again by the queue, and at last lies in its dead
/// letters.
///
/// What the owner is alerted to, endpoints are told too: before the mail, since a mail that went out is not taken back.
///
/// AWS calls for each mail: 2 reads, 1 mail, for a link 1 write of its token's hash, for an alert 1 read and, if an
/// endpoint listens, 1 transaction and 1 hint; once in five minutes and account 1 read more and 1 KMS call with its
/// entry in the access log.
pub async fn handle<W>(world: &W, site: &Site, jobs: Vec<Job>) -> Vec<Handled>
where
    W: FindUser + KeepMailTokens + TellEndpoints + EnqueueJob + OpenKey + LoadKeys + SendMail + Clock + Chance + Sync,
{
    join_all(jobs.into_iter().map(async |job| match send(world, site, job).await {
        Ok(()) => Handled::Done,
        Err(fault) => {
            tracing::warn!(%fault, "a mail could not be sent");
            Handled::Again
        }
    }))
    .await
}

async fn send<W>(world: &W, site: &Site, job: Job) -> Result<(), Fault>
where
    W: FindUser + KeepMailTokens + TellEndpoints + EnqueueJob + OpenKey + LoadKeys + SendMail + Clock + Chance + Sync,
{
    let (account, letter) = match job {
        Job::Mail { account, user, mail: Mail::SignUp } => (account, sign_up(world, site, account, user).await?),
        Job::Alert { account, alert, since } => {
            tell_endpoints(world, account, &alert, since).await?;
            (account, told(world, site, account, &alert, since).await?)
        }
        _ => return Err(Fault::permanent("this queue takes mails only")),
    };
    let Some(letter) = letter else {
        tracing::warn!(account.id = %account, "nobody to write to: gone, or not confirmed");
        return Ok(());
    };
    world.send_mail(letter).await?;
    tracing::info!(account.id = %account, "sent a mail");
    Ok(())
}

async fn tell_endpoints<W>(world: &W, account: AccountId, alert: &Alert, since: Timestamp) -> Result<(), Fault>
where
    W: TellEndpoints + EnqueueJob,
{
    let told = world.tell_endpoints(account, &Event::of_alert(account, alert, since)).await?;
    if told.is_empty() {
        return Ok(());
    }
    if let Err(fault) = world.enqueue_all(told.iter().map(Delivery::job).collect(), 0).await {
        tracing::warn!(%fault, "the hints for some deliveries are lost; the sweeper will find them");
    }
    Ok(())
}

/// `None`: the account is gone.
async fn sign_up<W>(world: &W, site: &Site, account: AccountId, user: UserId) -> Result<Option<Letter>, Fault>
where
    W: FindUser + KeepMailTokens + OpenKey + LoadKeys + Clock + Chance + Sync,
{
    let Some(user) = world.load_user(account, user).await? else { return Ok(None) };
    let Some(profile) = open_profile(world, account).await? else { return Ok(None) };
    if user.verified { known(&profile) } else { confirm(world, site, &user, &profile).await }.map(Some)
}

/// `None`: the account is gone, or nobody has shown that the owner's address is theirs.
async fn told<W: FindUser + OpenKey + LoadKeys>(
    world: &W,
    site: &Site,
    account: AccountId,
    alert: &Alert,
    since: Timestamp,
) -> Result<Option<Letter>, Fault> {
    if !world.load_owner(account).await?.is_some_and(|owner| owner.verified) {
        return Ok(None);
    }
    let Some(profile) = open_profile(world, account).await? else { return Ok(None) };
    let written = alert::letter(alert, since, Names { owner: &profile.name, api: &site.origin });
    letter(&profile, written.subject, written.text).map(Some)
}

async fn open_profile<W: FindUser + OpenKey + LoadKeys>(
    world: &W,
    account: AccountId,
) -> Result<Option<Profile>, Fault> {
    let Some(profile) = world.load_profile(account).await? else { return Ok(None) };
    let key = data_key(world, account, Purpose::Profile, Some(profile.key_version()?)).await?;
    Profile::open(&profile, &key).map(Some)
}

async fn confirm<W>(world: &W, site: &Site, user: &User, profile: &Profile) -> Result<Letter, Fault>
where
    W: KeepMailTokens + Clock + Chance + Sync,
{
    let token = new_token(world, user.account, user.id).await?;
    let link = format!("{}/verify-email?token={}", site.app, token.reveal(LINK_PREFIX).expose_secret());
    let text = format!(
        "Hello,\n\nplease confirm this address for your TelBuddy account:\n\n{link}\n\nThe link works for a day, with the \
         password given at that sign-up. If you did not sign up, ignore this mail.\n"
    );
    letter(profile, "Confirm your address", text)
}

async fn new_token<W>(world: &W, account: AccountId, user: UserId) -> Result<Token, Fault>
where
    W: KeepMailTokens + Clock + Chance + Sync,
{
    let token = Token::new(account, world.random()?);
    let expires = world.now() + VERIFICATION_LIFE;
    world.keep_mail_token(MailToken { account, user, hash: token.hash(), expires }).await?;
    Ok(token)
}

fn known(profile: &Profile) -> Result<Letter, Fault> {
    let text = format!(
        "Hello {},\n\nsomebody signed up for TelBuddy with this address, which has an account already. If it was you, \
         just log in. If not, there is nothing to do: nothing was changed.\n",
        profile.name
    );
    letter(profile, "You have a TelBuddy account already", text)
}

fn letter(profile: &Profile, subject: &str, text: String) -> Result<Letter, Fault> {
    let to = Email::parse(&profile.email).map_err(|_| Fault::permanent("a stored address does not read"))?;
    Ok(Letter { to, subject: subject.to_owned(), text })
}

#[cfg(test)]
mod tests;

//! Twilio's error codes as a person needs them: who is at fault, what to do, and whether repeating is of any use.
//!
//! The codes are those of `infra/twilio-double/error-codes.json`, which is our own work from Twilio's error pages and
//! holds no text of theirs; a test compares.

use serde::Serialize;

use AtFault::{Carrier, Customer, Recipient, Telbuddy, Twilio};

/// Who has to do something about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AtFault {
    /// You: the request, your Twilio account or its settings.
    Customer,
    /// The person at the other end, or their telephone.
    Recipient,
    /// A carrier between Twilio and the recipient.
    Carrier,
    /// TelBuddy: we look at it.
    Telbuddy,
    /// Twilio itself.
    Twilio,
    /// A code that we do not know.
    Unknown,
}

/// What an error code means for whoever reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advice {
    /// Who has to do something.
    pub fault: AtFault,
    /// What to do.
    pub advice: &'static str,
    /// Whether the same message would only fail again.
    pub permanent: bool,
}

/// What to do about one of Twilio's error codes. Of one that is not known nothing is promised: nobody is blamed, and it
/// counts as permanent, because a message that is sent again blindly may be sent twice.
pub fn advice(code: u32) -> Advice {
    let found = TABLE.binary_search_by_key(&code, |(code, ..)| *code).ok().and_then(|at| TABLE.get(at));
    match found {
        Some((_, fault, permanent, advice)) => Advice { fault: *fault, advice, permanent: *permanent },
        None => Advice {
            fault: AtFault::Unknown,
            advice: "look the code up on Twilio's page about it before you send this again",
            permanent: true,
        },
    }
}

/// Code, who is at fault, whether it is permanent, what to do; by code.
const TABLE: [(u32, AtFault, bool, &str); 128] = [
    (10001, Customer, true, "your Twilio account is disabled: ask Twilio's support"),
    (10002, Customer, true, "trial accounts cannot do this: upgrade the Twilio account"),
    (10004, Customer, false, "too many calls at once: call later, or upgrade the Twilio account"),
    (11100, Customer, true, "a URL at Twilio has a wrong form: connect the number again"),
    (11200, Telbuddy, true, "our webhook did not answer as it should: we look at it"),
    (11205, Telbuddy, true, "our webhook could not be reached: we look at it"),
    (11206, Telbuddy, true, "our webhook's answer was malformed: we look at it"),
    (11210, Telbuddy, true, "our webhook's host name did not resolve: we look at it"),
    (11215, Telbuddy, true, "our webhook redirected too often: we look at it"),
    (11220, Telbuddy, true, "our webhook's TLS failed: we look at it"),
    (11235, Telbuddy, true, "our webhook's certificate did not fit its host: we look at it"),
    (11236, Telbuddy, true, "our webhook's certificate had expired: we look at it"),
    (11237, Telbuddy, true, "our webhook's certificate chain was incomplete: we look at it"),
    (11750, Telbuddy, true, "our answer to Twilio was too large: we look at it"),
    (11751, Customer, true, "the media is too large: send a smaller file"),
    (12100, Telbuddy, true, "our answer to Twilio was not well-formed: we look at it"),
    (12200, Telbuddy, true, "our answer to Twilio did not follow its schema: we look at it"),
    (12300, Telbuddy, true, "our answer to Twilio had a wrong content type: we look at it"),
    (13214, Customer, true, "the caller id is not allowed: use a number of your account or a verified one"),
    (13223, Customer, true, "the number to call is not in international form: correct it"),
    (13224, Customer, true, "the number to call is not valid: check it"),
    (13225, Twilio, true, "Twilio blocks this destination: do not repeat it, ask Twilio's support"),
    (13226, Customer, true, "the country code of the number to call is not known: correct it"),
    (13227, Customer, true, "allow the country under Voice geo permissions in the Twilio Console"),
    (13805, Customer, true, "a trial call ended after ten minutes: upgrade the Twilio account"),
    (14107, Telbuddy, false, "two numbers answered each other in a loop: stop the automatic reply, wait a minute"),
    (14109, Telbuddy, true, "too many replies to one text: we look at it"),
    (15003, Telbuddy, true, "our answer to a status report was not accepted: we look at it"),
    (20001, Telbuddy, true, "we sent Twilio a parameter that it does not know: we look at it"),
    (20002, Customer, true, "the name is not accepted: choose a shorter or another one"),
    (20003, Customer, true, "Twilio refuses the credential: connect the account again"),
    (20004, Telbuddy, true, "we used a method that Twilio does not allow: we look at it"),
    (20005, Customer, true, "your Twilio account is not active: often a balance is due; look at the Console"),
    (20006, Customer, true, "the API key lacks a permission: connect with another key"),
    (20008, Customer, true, "these are test credentials: connect with the live ones"),
    (20009, Customer, false, "the message is not finished at Twilio: wait a minute or more and repeat"),
    (20403, Customer, true, "Twilio forbids this: check the key's permissions and the account's state"),
    (20404, Customer, true, "Twilio has no such thing in this account and region: check what is connected"),
    (20429, Customer, false, "too many requests at once at your Twilio account: nothing was sent, send it again"),
    (20500, Twilio, false, "Twilio failed and may have sent it: look before you send it again"),
    (20503, Twilio, false, "Twilio was not available and may have sent it: look before you send it again"),
    (21201, Customer, true, "a call needs a number to call"),
    (21203, Customer, true, "allow international calls in the Twilio Console"),
    (21205, Telbuddy, true, "we gave Twilio a URL that is not valid: we look at it"),
    (21210, Customer, true, "the caller id is neither a number of your account nor verified: choose another"),
    (21211, Customer, true, "the recipient's number is not valid: correct it"),
    (21212, Customer, true, "the sender is not valid: choose a number of your account"),
    (21213, Customer, true, "a call needs a number to call from"),
    (21214, Recipient, true, "this number cannot be called: check it"),
    (21215, Customer, true, "allow the country under Voice geo permissions in the Twilio Console"),
    (21216, Twilio, true, "Twilio blocks this destination: do not repeat it, ask Twilio's support"),
    (21217, Customer, true, "the number does not look valid: write it in international form"),
    (21218, Customer, true, "the TwiML application does not exist: connect the number again"),
    (21219, Customer, true, "trial accounts call verified numbers only: verify it, or upgrade"),
    (21220, Customer, true, "the call has ended or cannot be changed any more"),
    (21266, Customer, true, "sender and recipient are the same number: choose another"),
    (21404, Customer, true, "trial accounts cannot buy this number: upgrade the Twilio account"),
    (21408, Customer, true, "allow the country under Messaging geo permissions in the Twilio Console"),
    (21421, Customer, true, "the number to buy is not valid: search again"),
    (21422, Customer, true, "the number to buy is not available any more: search again"),
    (21451, Customer, true, "the area code is not valid: choose another"),
    (21452, Customer, true, "there are no numbers in this area code: choose another"),
    (21601, Customer, true, "this number cannot receive texts: choose another"),
    (21602, Customer, true, "a message needs a text or media"),
    (21603, Customer, true, "a message needs a sender"),
    (21604, Customer, true, "a message needs a recipient"),
    (21606, Customer, true, "this sender is not yours or cannot text there: choose another number"),
    (21607, Customer, true, "trial accounts send from their trial number only: use it, or upgrade"),
    (21608, Customer, true, "the recipient is not verified: verify the number, or upgrade and file the profile"),
    (21610, Recipient, true, "the recipient has opted out: do not text them; only their START lifts it"),
    (21611, Customer, false, "the sender's queue at Twilio is full: wait, send slower, or add numbers"),
    (21612, Customer, true, "this sender cannot reach this recipient: use another number or number type"),
    (21614, Recipient, true, "the recipient's number is not a mobile one: call instead"),
    (21615, Customer, true, "the number needs a local address: add one in the Twilio Console"),
    (21617, Customer, true, "the text is longer than 1,600 characters: split or shorten it"),
    (21619, Customer, true, "Twilio could not read the content: check text and media"),
    (21620, Customer, true, "an address of media is malformed: correct it"),
    (21622, Customer, true, "your Twilio account cannot send MMS: send text only"),
    (21631, Customer, true, "the number needs an address: add one in the Twilio Console"),
    (21635, Recipient, true, "the recipient's number is a landline: call instead"),
    (21655, Customer, true, "the content template does not exist at Twilio: choose another"),
    (21656, Customer, true, "the template's variables do not fit it: correct them"),
    (21659, Customer, true, "the sender is no Twilio number, or a short code of another country: choose another"),
    (21660, Customer, true, "the sender belongs to another Twilio account: connect the one that has it"),
    (21703, Customer, true, "no sender of the messaging service reaches this recipient: add a suitable one"),
    (21704, Customer, true, "the messaging service has no senders: add numbers to it"),
    (21705, Customer, true, "the messaging service does not exist: check its SID"),
    (21712, Customer, true, "the number is in another messaging service: take it out there first"),
    (22005, Customer, false, "more than a day of calls waits at Twilio: call slower"),
    (30001, Customer, false, "it waited too long at Twilio: send it later, slower, or add numbers"),
    (30002, Customer, true, "your Twilio account was suspended: look at the Twilio Console"),
    (30003, Recipient, false, "the telephone was off or out of reach: try once more in an hour"),
    (30004, Recipient, true, "the recipient or their carrier blocks this sender: do not text them from it"),
    (30005, Recipient, true, "the number is not in service any more: remove it"),
    (30006, Recipient, true, "the number is a landline or cannot be reached by text: call instead"),
    (30007, Customer, true, "filtered as unwanted: change the text or register the sender; do not repeat it"),
    (30008, Carrier, false, "the carrier gave no reason: try once more in some minutes, not more often"),
    (30009, Carrier, true, "a part of a long text got lost on its way: ask for it again"),
    (30010, Customer, true, "the price was above the limit that was set: raise it or leave it out"),
    (30022, Customer, false, "the campaign's rate at the carrier is used up: send slower"),
    (30023, Customer, false, "the brand's daily limit at the carrier is used up: send it tomorrow"),
    (30032, Customer, true, "the toll-free number is not verified: complete its verification at Twilio"),
    (30034, Customer, true, "the number has no approved A2P 10DLC campaign: register brand and campaign at Twilio"),
    (30035, Customer, false, "the number's A2P 10DLC registration is not finished: wait for it"),
    (30036, Customer, false, "its time ran out before it was sent: send it again if it still matters"),
    (30044, Customer, true, "too many segments for a trial account: shorten it, or upgrade"),
    (30400, Telbuddy, true, "we asked Twilio for a change that is not possible: we look at it"),
    (30409, Customer, true, "too late to take it back: count it as sent"),
    (30410, Carrier, false, "it may have arrived: send it again only if twice does no harm"),
    (30450, Customer, true, "blocked as SMS pumping: look for fraud, or put the number on Twilio's safe list"),
    (30500, Twilio, false, "it failed inside Twilio: try once more"),
    (32016, Carrier, false, "no carrier took the call within a minute: call later"),
    (34002, Recipient, false, "the line was busy: call later"),
    (35111, Telbuddy, true, "we asked Twilio to schedule without a time: we look at it"),
    (35114, Customer, true, "the time to send is too near or too far: 5 minutes to 35 days ahead"),
    (35118, Customer, true, "scheduling at Twilio needs a messaging service: send with one"),
    (35125, Customer, false, "too many messages are scheduled at Twilio: wait until some are sent"),
    (57012, Telbuddy, true, "a signature did not fit: if the Auth Token was changed, connect the account again"),
    (63017, Customer, false, "your Twilio account sends too much at once: send slower"),
    (63018, Customer, false, "the channel's rate limit is reached: send slower"),
    (63038, Customer, false, "the Twilio account's daily limit is reached: send it tomorrow, ask Twilio for more"),
    (64101, Telbuddy, true, "we gave Twilio a voice setting that is not valid: we look at it"),
    (64102, Telbuddy, true, "Twilio could not open our voice connection: we look at it"),
    (64105, Telbuddy, true, "our voice connection ended unexpectedly: we look at it"),
    (64107, Telbuddy, true, "Twilio refused a part of our voice connection: we look at it"),
    (70051, Customer, true, "the API key lacks a permission: it needs Messages, Calls and IncomingPhoneNumbers"),
    (572_005, Customer, true, "the trial recipient is not verified yet: finish the verification at Twilio"),
    (573_005, Customer, true, "the trial recipient is not verified yet: finish the verification at Twilio"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(serde::Deserialize)]
    struct Catalogue {
        errors: Vec<Listed>,
    }

    #[derive(serde::Deserialize)]
    struct Listed {
        code: u32,
        retryable: String,
    }

    fn catalogue() -> BTreeMap<u32, String> {
        let text = include_str!("../../../infra/twilio-double/error-codes.json");
        let listed = serde_json::from_str::<Catalogue>(text).unwrap().errors;
        listed.into_iter().map(|error| (error.code, error.retryable)).collect()
    }

    #[test]
    fn every_code_of_the_catalogue_has_advice_and_no_other() {
        let catalogue = catalogue();
        assert_eq!(catalogue.len(), 128);
        assert!(TABLE.iter().map(|row| row.0).eq(catalogue.keys().copied()), "in order of code, so that one is found");
        for (code, retryable) in catalogue {
            let Advice { fault, advice, permanent } = advice(code);
            assert_eq!(permanent, retryable == "no", "{code}");
            assert_ne!(fault, AtFault::Unknown, "{code}");
            assert!((20..100).contains(&advice.len()) && !advice.ends_with('.'), "{code}: {advice}");
        }
    }

    #[test]
    fn what_nobody_knows_is_nobodys_fault_and_not_repeated() {
        for code in [0, 1, 30_999, u32::MAX] {
            assert_eq!((advice(code).fault, advice(code).permanent), (AtFault::Unknown, true), "{code}");
        }
    }

    #[test]
    fn advice_fits_what_happened() {
        for (code, fault, permanent) in [
            (21610, AtFault::Recipient, true),
            (30003, AtFault::Recipient, false),
            (30007, AtFault::Customer, true),
            (30008, AtFault::Carrier, false),
            (20500, AtFault::Twilio, false),
            (11200, AtFault::Telbuddy, true),
        ] {
            assert_eq!((advice(code).fault, advice(code).permanent), (fault, permanent), "{code}");
        }
    }
}

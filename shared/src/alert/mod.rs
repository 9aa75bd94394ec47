//! Alerts: what TelBuddy itself tells the owner of an account by mail. They hold nothing personal and no secret: what
//! is shown of an account is shown by its API.

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::account::FreezeReason;
use crate::connection::{Target, TargetKind};
use crate::endpoint::WhyDisabled;
use crate::ids::EndpointId;
use crate::quarantine::Cause;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "alert", rename_all = "snake_case", deny_unknown_fields)]
pub enum Alert {
    /// Webhooks come whose signature does not fit, for a cause that is new.
    SignatureFailed {
        /// Why they were refused.
        cause: Cause,
        /// Whether the webhook secret was replaced in the days before.
        recently_rotated: bool,
    },
    /// Twilio answered 401 or 403 to the credential: sending is stopped.
    CredentialRefused,
    /// A connected number or messaging service has other settings at Twilio than those that we set.
    NumberDrifted {
        /// Which.
        number_sid: Target,
    },
    /// Sending is frozen.
    SendingFrozen {
        /// Why.
        reason: FreezeReason,
    },
    /// So much of the period's credits is used.
    CreditsUsed {
        /// In percent.
        percent: u8,
    },
    /// What was charged on a day differs from Twilio's list by more than is posted without a person.
    ReconciliationDiffers {
        /// The UTC day.
        day: Date,
    },
    /// Events do not arrive at an endpoint: nothing is sent there any more.
    EndpointDisabled {
        /// Which.
        endpoint: EndpointId,
        /// Why.
        why: WhyDisabled,
    },
}

/// Who is written to, and where the API is that shows more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names<'a> {
    /// The owner's name.
    pub owner: &'a str,
    /// Origin of the API, such as `https://api.example.com`.
    pub api: &'a str,
}

/// Subject and plain text of a mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// One line.
    pub subject: &'static str,
    /// What happened, since when, what to do, and which call shows more.
    pub text: String,
}

/// The parts of an alert's text.
struct Parts {
    subject: &'static str,
    happened: String,
    to_do: String,
    shown_by: &'static str,
}

/// The mail for an alert about what began at `since`.
pub fn letter(alert: &Alert, since: Timestamp, names: Names<'_>) -> Written {
    let Parts { subject, happened, to_do, shown_by } = parts(alert);
    let Names { owner, api } = names;
    let since = since.strftime("%Y-%m-%d %H:%M UTC");
    let text = format!(
        "Hello {owner},\n\n{happened}\n\nSince: {since}\n\nWhat to do: {to_do}\n\nMore: GET {api}{shown_by}\n\nThis \
         mail comes from TelBuddy itself and holds no link to log in with.\n"
    );
    Written { subject, text }
}

fn parts(alert: &Alert) -> Parts {
    match alert {
        Alert::SignatureFailed { cause: cause @ (Cause::SelfTestRefused | Cause::SelfTestUnanswered), .. } => Parts {
            subject: "Your webhook address did not pass our daily test",
            happened: format!(
                "once a day we call your account's webhook address as Twilio would. It did not come through ({}), so \
                 texts and statuses that Twilio tells of may not come through either.",
                cause.code()
            ),
            to_do: cause.advice(false).to_owned(),
            shown_by: "/v1/quarantine",
        },
        Alert::SignatureFailed { cause: cause @ Cause::SelfTestFallback, .. } => Parts {
            subject: "Your second webhook address did not pass our daily test",
            happened: format!(
                "once a day we call your account's webhook at both of its addresses as Twilio would. The second one, \
                 where Twilio goes once the first has failed, did not let it through ({}).",
                cause.code()
            ),
            to_do: cause.advice(false).to_owned(),
            shown_by: "/v1/quarantine",
        },
        Alert::SignatureFailed { cause, recently_rotated } => Parts {
            subject: "Webhooks with a signature that does not fit",
            happened: format!(
                "requests reach your account's webhook address and are refused, because their signature cannot be \
                 believed ({}). If they are from Twilio, texts and statuses that they tell of are missing here.",
                cause.code()
            ),
            to_do: cause.advice(*recently_rotated).to_owned(),
            shown_by: "/v1/quarantine",
        },
        Alert::CredentialRefused => Parts {
            subject: "Twilio refuses the credential: sending is stopped",
            happened: "Twilio refuses what we ask with your credential: Account SID and Auth Token (or API key and \
                       secret) do not fit any more, the Twilio account is not active, or the key lacks a permission. \
                       Your account sends nothing until a credential is stored anew; what was accepted and not sent \
                       yet is refused and not charged."
                .to_owned(),
            to_do: "Look in the Twilio Console whether the account is active, whether the token was changed or the key \
                    deleted or restricted, then connect again \
                    with PUT /v1/credentials/twilio, or POST /v1/credentials/twilio/rotation. Sending goes on at once. \
                    If it was not you who changed it, find out at Twilio who did."
                .to_owned(),
            shown_by: "/v1/credentials/twilio",
        },
        Alert::NumberDrifted { number_sid } => number_drifted(number_sid),
        Alert::SendingFrozen { reason } => Parts {
            subject: "Sending is frozen",
            happened: format!(
                "{}, so your account's sending is frozen before it costs you more. What is accepted and not sent yet \
                 is refused and not charged.",
                reason.detail()
            ),
            to_do: "Look at the last messages (GET /v1/messages). If you know them all, lift the freeze with POST \
                    /v1/account/sending/unfreeze. If not, first end the sessions that you do not know (GET /v1/sessions, \
                    DELETE /v1/sessions/{id}) and revoke such API keys (GET /v1/account/api-keys, DELETE \
                    /v1/account/api-keys/{id})."
                .to_owned(),
            shown_by: "/v1/sending-policy",
        },
        Alert::CreditsUsed { percent } => credits_used(*percent),
        Alert::ReconciliationDiffers { day } => reconciliation_differs(*day),
        Alert::EndpointDisabled { endpoint, why } => Parts {
            subject: "A webhook endpoint was disabled",
            happened: match why {
                WhyDisabled::Gone => {
                    format!("your endpoint {endpoint} answered 410 Gone. We send nothing there any more.")
                }
                WhyDisabled::Failing | WhyDisabled::Customer => format!(
                    "for five days your endpoint {endpoint} took none of the events that we sent. We send nothing there \
                     any more."
                ),
            },
            to_do: format!(
                "If you do not need it, remove it with DELETE /v1/webhook-endpoints/{endpoint}. If you do, mend it, \
                 enable it with PATCH /v1/webhook-endpoints/{endpoint} {{\"enabled\": true}}, and have the failed events \
                 sent again with POST /v1/webhook-endpoints/{endpoint}/recover. What happens while it is disabled is not \
                 sent later."
            ),
            shown_by: "/v1/webhook-endpoints",
        },
    }
}

fn number_drifted(number_sid: &Target) -> Parts {
    let what = match number_sid.kind() {
        TargetKind::Number => "number",
        TargetKind::MessagingService => "messaging service",
    };
    Parts {
        subject: "A connected number was changed at Twilio",
        happened: format!(
            "the {what} {} has other webhook settings at Twilio than those that we set, or is gone. Texts that \
             arrive there may not reach us.",
            number_sid.as_str()
        ),
        to_do: format!(
            "If that was meant, there is nothing to do. If not, connect it again with POST \
             /v1/numbers/{}/connection, first with ?dry_run=true to see the difference. We change nothing by \
             ourselves.",
            number_sid.as_str()
        ),
        shown_by: "/v1/numbers",
    }
}

fn credits_used(percent: u8) -> Parts {
    Parts {
        subject: if percent >= 100 { "Your credits are used up" } else { "Your credits run low" },
        happened: if percent >= 100 {
            "the credits that your account had for this period are used up. What the credits do not cover is not \
             accepted; what was accepted before is sent."
                .to_owned()
        } else {
            format!("{percent} % of the credits that your account has for this period are used.")
        },
        to_do: "See what they were used for (GET /v1/usage, and GET /v1/credits/entries for each posting), and buy \
                more if you need more."
            .to_owned(),
        shown_by: "/v1/credits",
    }
}

fn reconciliation_differs(day: Date) -> Parts {
    Parts {
        subject: "A day's charges differ from Twilio's list: please decide",
        happened: format!(
            "what was charged for the messages of {day} (UTC) differs from the segments that Twilio lists for them, by \
             more than we put right by ourselves. Nothing was changed."
        ),
        to_do: format!(
            "Look at the differences. Then have the corrections posted, with POST /v1/reconciliations/{day}/decision \
             {{\"decision\": \"post\"}}, or keep what was charged, with {{\"decision\": \"keep\"}}."
        ),
        shown_by: "/v1/reconciliations",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbound::signature::Rejection;

    fn every() -> Vec<Alert> {
        let number_sid = Target::parse(&format!("PN{}", "0a".repeat(16))).unwrap();
        let failed = |cause| [false, true].map(|recently_rotated| Alert::SignatureFailed { cause, recently_rotated });
        let mut alerts: Vec<_> = Cause::all().flat_map(failed).collect();
        alerts.push(Alert::CredentialRefused);
        alerts.push(Alert::NumberDrifted { number_sid });
        for reason in [FreezeReason::Pumping, FreezeReason::Velocity, FreezeReason::PaymentFraud, FreezeReason::Unnamed]
        {
            alerts.push(Alert::SendingFrozen { reason });
        }
        alerts.push(Alert::ReconciliationDiffers { day: Date::constant(2026, 11, 24) });
        alerts.extend([50, 80, 100].map(|percent| Alert::CreditsUsed { percent }));
        for why in [WhyDisabled::Gone, WhyDisabled::Failing] {
            alerts.push(Alert::EndpointDisabled { endpoint: EndpointId::from_bits(1), why });
        }
        alerts
    }

    #[test]
    fn each_says_since_when_what_to_do_and_where_more_is() {
        for alert in every() {
            let names = Names { owner: "Ann", api: "https://api.example.com" };
            let Written { subject, text } = letter(&alert, Timestamp::UNIX_EPOCH, names);
            assert!(!subject.is_empty() && !subject.contains('\n'), "{alert:?}");
            for part in
                ["Hello Ann,", "Since: 1970-01-01 00:00 UTC", "What to do: ", "More: GET https://api.example.com/v1/"]
            {
                assert!(text.contains(part), "{alert:?}: {text}");
            }
        }
    }

    #[test]
    fn it_reads_as_a_person_would_write_it() {
        let cause = Cause::Rejected(Rejection::MissingHeader);
        let alert = Alert::SignatureFailed { cause, recently_rotated: false };
        let names = Names { owner: "Ann", api: "https://api.example.com" };
        insta::assert_snapshot!(letter(&alert, Timestamp::UNIX_EPOCH, names).text);
    }

    #[test]
    fn a_job_holds_it_under_its_name_and_nothing_else() {
        let json = |alert: &Alert| serde_json::to_string(alert).unwrap();
        assert_eq!(json(&Alert::CredentialRefused), r#"{"alert":"credential_refused"}"#);
        let cause = Cause::OtherAccount;
        assert_eq!(
            json(&Alert::SignatureFailed { cause, recently_rotated: true }),
            r#"{"alert":"signature_failed","cause":"other_account","recently_rotated":true}"#
        );
        for alert in every() {
            assert_eq!(serde_json::from_str::<Alert>(&json(&alert)).unwrap(), alert);
        }
    }
}

//! Numbers (2010-04-01 `IncomingPhoneNumbers`) and messaging services (Messaging v1 `Services`): lists, reads, changes.

use std::collections::BTreeMap;

use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;

use super::{Twilio, authorized, error_code};
use crate::connection::{
    Capabilities, CarrierNumber, CarrierService, ConfigureNumbers, NumberPage, PageMark, Settings, Target, TargetKind,
    Trouble,
};
use crate::credential::Carrier;
use crate::live::Live;

#[derive(Deserialize)]
struct NumbersAnswer {
    incoming_phone_numbers: Vec<NumberAnswer>,
    next_page_uri: Option<String>,
}

#[derive(Deserialize)]
struct NumberAnswer {
    sid: String,
    phone_number: String,
    #[serde(default)]
    friendly_name: Option<String>,
    #[serde(default)]
    capabilities: Capabilities,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct ServicesAnswer {
    services: Vec<ServiceAnswer>,
}

#[derive(Deserialize)]
struct ServiceAnswer {
    sid: String,
    #[serde(default)]
    friendly_name: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
struct PoolAnswer {
    phone_numbers: Vec<PoolNumber>,
}

#[derive(Deserialize)]
struct PoolNumber {
    sid: String,
}

/// The settings that we touch, as texts: Twilio answers `null` for what is not set, and takes an empty text to unset it.
fn settings(kind: TargetKind, answer: &BTreeMap<String, Value>) -> Settings {
    let text = |name: &str| match answer.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(_) | None => String::new(),
    };
    Settings(kind.settings().map(|(form, name)| (form.to_owned(), text(name))).collect())
}

/// The mark in `next_page_uri`; the address itself is never called.
pub(super) fn mark(uri: &str) -> Option<PageMark> {
    let (_, query) = uri.split_once('?')?;
    let value = |name: &str| form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, v)| v);
    PageMark::new(value("Page")?.parse().ok()?, value("PageToken").as_deref().unwrap_or_default())
}

async fn read<T: serde::de::DeserializeOwned>(answer: Response) -> Result<T, Trouble> {
    if answer.status().is_success() {
        return answer.json().await.map_err(|_| Trouble::Unreachable);
    }
    Err(trouble(answer).await)
}

/// What an answer that is no success says.
pub(super) async fn trouble(answer: Response) -> Trouble {
    let status = answer.status();
    if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
        return Trouble::Unreachable;
    }
    let code = error_code(answer).await;
    match (status, code) {
        // 20005: the account is not active.
        (_, Some(20005)) => Trouble::Inactive,
        (StatusCode::UNAUTHORIZED, _) => Trouble::Refused,
        (StatusCode::FORBIDDEN, _) => Trouble::NotAllowed,
        (StatusCode::NOT_FOUND, _) => Trouble::NotFound,
        (StatusCode::TOO_MANY_REQUESTS, _) => Trouble::Busy,
        _ if status.is_client_error() => Trouble::Rejected(code),
        // A redirect, which is never followed.
        _ => Trouble::Unreachable,
    }
}

impl Twilio {
    /// Where a number or a service is.
    fn target_url(&self, carrier: &Carrier, target: &Target) -> String {
        let sid = target.as_str();
        match target.kind() {
            TargetKind::Number => self.url(carrier, &format!("/IncomingPhoneNumbers/{sid}.json")),
            TargetKind::MessagingService => self.messaging_url(carrier, &format!("/{sid}")),
        }
    }

    fn messaging_url(&self, carrier: &Carrier, path: &str) -> String {
        let origin = self.base.clone().unwrap_or_else(|| format!("https://{}", carrier.region.messaging_host()));
        format!("{origin}/v1/Services{path}")
    }

    pub(super) async fn call<T: serde::de::DeserializeOwned>(
        &self,
        carrier: &Carrier,
        method: Method,
        url: String,
        pairs: &[(&str, &str)],
    ) -> Result<T, Trouble> {
        let client = self.client().map_err(|_| Trouble::Unreachable)?;
        let request = authorized(client.request(method.clone(), url), carrier);
        let request = if method == Method::GET { request.query(pairs) } else { request.form(pairs) };
        read(request.send().await.map_err(|_| Trouble::Unreachable)?).await
    }
}

impl ConfigureNumbers for Live {
    async fn list_numbers(
        &self,
        carrier: &Carrier,
        limit: u16,
        from: Option<&PageMark>,
    ) -> Result<NumberPage, Trouble> {
        let (limit, page) = (limit.to_string(), from.map(|mark| mark.page.to_string()));
        let mut pairs = vec![("PageSize", limit.as_str())];
        if let (Some(mark), Some(page)) = (from, &page) {
            pairs.extend([("Page", page.as_str()), ("PageToken", mark.token.as_str())]);
        }
        let url = self.twilio.url(carrier, "/IncomingPhoneNumbers.json");
        let answer: NumbersAnswer = self.twilio.call(carrier, Method::GET, url, &pairs).await?;
        let number = |answer: NumberAnswer| {
            Some(CarrierNumber {
                target: Target::parse(&answer.sid)?,
                friendly_name: answer.friendly_name.unwrap_or_default(),
                phone_number: answer.phone_number,
                capabilities: answer.capabilities,
                settings: settings(TargetKind::Number, &answer.rest),
            })
        };
        Ok(NumberPage {
            numbers: answer.incoming_phone_numbers.into_iter().filter_map(number).collect(),
            next: answer.next_page_uri.as_deref().and_then(mark),
        })
    }

    async fn list_services(&self, carrier: &Carrier, limit: u16) -> Result<Vec<CarrierService>, Trouble> {
        let limit = limit.to_string();
        let url = self.twilio.messaging_url(carrier, "");
        let answer: ServicesAnswer =
            self.twilio.call(carrier, Method::GET, url, &[("PageSize", limit.as_str())]).await?;
        let service = |answer: ServiceAnswer| {
            Some(CarrierService {
                target: Target::parse(&answer.sid)?,
                friendly_name: answer.friendly_name.unwrap_or_default(),
                settings: settings(TargetKind::MessagingService, &answer.rest),
            })
        };
        Ok(answer.services.into_iter().filter_map(service).collect())
    }

    async fn list_pool(&self, carrier: &Carrier, service: &Target) -> Result<Vec<Target>, Trouble> {
        let url = self.twilio.messaging_url(carrier, &format!("/{}/PhoneNumbers", service.as_str()));
        let answer: PoolAnswer = self.twilio.call(carrier, Method::GET, url, &[("PageSize", "1000")]).await?;
        Ok(answer.phone_numbers.iter().filter_map(|number| Target::parse(&number.sid)).collect())
    }

    async fn read_settings(&self, carrier: &Carrier, target: &Target) -> Result<Settings, Trouble> {
        let url = self.twilio.target_url(carrier, target);
        let answer = self.twilio.call(carrier, Method::GET, url, &[]).await?;
        Ok(settings(target.kind(), &answer))
    }

    /// A repeated change has the same effect: it may be asked for again when its answer got lost.
    async fn write_settings(
        &self,
        carrier: &Carrier,
        target: &Target,
        changed: &Settings,
    ) -> Result<Settings, Trouble> {
        let url = self.twilio.target_url(carrier, target);
        let pairs: Vec<_> = changed.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let answer = self.twilio.call(carrier, Method::POST, url, &pairs).await?;
        Ok(settings(target.kind(), &answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_a_mark_and_no_address() {
        let uri = "/2010-04-01/Accounts/AC1/IncomingPhoneNumbers.json?PageSize=2&Page=1&PageToken=PAPN0a";
        assert_eq!(mark(uri), PageMark::new(1, "PAPN0a"));
        for wrong in ["/x", "/x?PageSize=2", "/x?Page=one&PageToken=a", "/x?Page=1&PageToken=a%26b"] {
            assert_eq!(mark(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nothing_reads_as_an_empty_text_and_a_flag_as_its_word() {
        let answer = serde_json::json!({ "sms_url": null, "sms_method": "GET", "use_inbound_webhook_on_number": true });
        let answer: BTreeMap<String, Value> = serde_json::from_value(answer).unwrap();
        let number = settings(TargetKind::Number, &answer);
        assert_eq!((number.0["SmsUrl"].as_str(), number.0["SmsMethod"].as_str()), ("", "GET"));
        assert_eq!(settings(TargetKind::MessagingService, &answer).0["UseInboundWebhookOnNumber"], "true");
    }
}

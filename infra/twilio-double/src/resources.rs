//! Documents in the JSON of Twilio's answers.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::errors::meaning;
use crate::state::{Account, Call, Key, Media, Message, Number, Service};
use crate::{API_VERSION, ROOT};

pub(crate) fn rfc_2822(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

pub(crate) fn iso_8601(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

pub(crate) fn account(account: &Account) -> Value {
    let sid = &account.sid;
    let below = |name: &str| format!("{ROOT}/Accounts/{sid}/{name}.json");
    json!({
        "sid": sid,
        "friendly_name": "twilio-double account",
        "status": account.status,
        "type": account.kind,
        "auth_token": account.token,
        "owner_account_sid": account.account,
        "date_created": rfc_2822(account.created),
        "date_updated": rfc_2822(account.created),
        "uri": format!("{ROOT}/Accounts/{sid}.json"),
        "subresource_uris": {
            "messages": below("Messages"),
            "calls": below("Calls"),
            "incoming_phone_numbers": below("IncomingPhoneNumbers"),
            "outgoing_caller_ids": below("OutgoingCallerIds"),
            "available_phone_numbers": below("AvailablePhoneNumbers"),
            "usage": below("Usage"),
            "balance": below("Balance"),
            "keys": below("Keys"),
        },
    })
}

pub(crate) fn message(message: &Message) -> Value {
    let uri = format!("{ROOT}/Accounts/{}/Messages/{}", message.account, message.sid);
    json!({
        "sid": message.sid,
        "account_sid": message.account,
        "api_version": API_VERSION,
        "body": if message.redacted { "" } else { &message.body },
        "direction": message.direction,
        "from": message.from,
        "to": message.to,
        "status": message.status,
        "messaging_service_sid": message.service,
        "num_segments": message.n_segments.to_string(),
        "num_media": message.n_media.to_string(),
        "price": message.price,
        "price_unit": message.price.as_ref().map(|_| "USD"),
        "error_code": message.error,
        "error_message": message.error.map(meaning),
        "date_created": rfc_2822(message.created),
        "date_updated": rfc_2822(message.updated),
        "date_sent": message.sent.map(rfc_2822),
        "uri": format!("{uri}.json"),
        "subresource_uris": {"media": format!("{uri}/Media.json"), "feedback": format!("{uri}/Feedback.json")},
    })
}

pub(crate) fn media(media: &Media) -> Value {
    let Media { sid, account, message, .. } = media;
    json!({
        "sid": sid,
        "account_sid": account,
        "parent_sid": message,
        "content_type": media.content_type,
        "date_created": rfc_2822(media.created),
        "date_updated": rfc_2822(media.created),
        "uri": format!("{ROOT}/Accounts/{account}/Messages/{message}/Media/{sid}.json"),
    })
}

pub(crate) fn call(call: &Call) -> Value {
    let uri = format!("{ROOT}/Accounts/{}/Calls/{}", call.account, call.sid);
    json!({
        "sid": call.sid,
        "account_sid": call.account,
        "api_version": API_VERSION,
        "direction": call.direction,
        "from": call.from,
        "from_formatted": call.from,
        "to": call.to,
        "to_formatted": call.to,
        "status": call.status,
        "start_time": call.answered.map(rfc_2822),
        "end_time": call.ended.map(rfc_2822),
        "duration": call.seconds().map(|seconds| seconds.to_string()),
        "queue_time": "0",
        "date_created": rfc_2822(call.created),
        "date_updated": rfc_2822(call.updated),
        "answered_by": null, "caller_name": null, "forwarded_from": null, "group_sid": null, "parent_call_sid": null,
        "phone_number_sid": null, "price": null, "price_unit": "USD", "trunk_sid": null,
        "uri": format!("{uri}.json"),
        "subresource_uris": {"recordings": format!("{uri}/Recordings.json")},
    })
}

/// A number as it is before anything is set; the keys are all that can be set.
pub(crate) fn number(number: &Number) -> Value {
    let mut answer = json!({
        "sid": number.sid,
        "account_sid": number.account,
        "phone_number": number.number,
        "friendly_name": number.number,
        "api_version": API_VERSION,
        "beta": false,
        "origin": "twilio",
        "status": "in-use",
        "type": "local",
        "capabilities": {"mms": true, "sms": true, "voice": true, "fax": false},
        "address_requirements": "none",
        "emergency_status": "Inactive",
        "emergency_address_status": "unregistered",
        "voice_receive_mode": "voice",
        "voice_caller_id_lookup": false,
        "sms_url": "", "sms_method": "POST", "sms_fallback_url": "", "sms_fallback_method": "POST",
        "voice_url": "", "voice_method": "POST", "voice_fallback_url": "", "voice_fallback_method": "POST",
        "status_callback": "", "status_callback_method": "POST",
        "sms_application_sid": null, "voice_application_sid": null, "trunk_sid": null, "address_sid": null,
        "bundle_sid": null, "identity_sid": null, "emergency_address_sid": null,
        "date_created": rfc_2822(number.created),
        "date_updated": rfc_2822(number.updated),
        "uri": format!("{ROOT}/Accounts/{}/IncomingPhoneNumbers/{}.json", number.account, number.sid),
    });
    if let Some(fields) = answer.as_object_mut() {
        fields.extend(number.settings.clone());
    }
    answer
}

/// The settings in a form, under the names of the answer: `SmsUrl` is `sms_url`.
pub(crate) fn settings(pairs: &[(String, String)]) -> Map<String, Value> {
    let settable = pairs.iter().filter(|(name, _)| !matches!(&name[..], "PhoneNumber" | "AreaCode" | "AccountSid"));
    let value = |name: &str, text: &str| match text {
        "" if name.ends_with("Sid") => Value::Null,
        "true" | "false" if name == "VoiceCallerIdLookup" => Value::Bool(text == "true"),
        _ => Value::from(text),
    };
    settable.map(|(name, text)| (snake_case(name), value(name, text))).collect()
}

pub(crate) fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

/// Is it the name of a setting that is a URL?
pub(crate) fn is_url(name: &str) -> bool {
    name.ends_with("_url") || name == "status_callback"
}

/// A service as it is before anything is set, with what the example of Twilio's documentation has.
pub(crate) fn service(service: &Service, base_url: &str) -> Value {
    let url = format!("{base_url}/v1/Services/{}", service.sid);
    let below = |name: &str| format!("{url}/{name}");
    let mut answer = json!({
        "sid": service.sid,
        "account_sid": service.account,
        "friendly_name": "My Messaging Service",
        "date_created": iso_8601(service.created),
        "date_updated": iso_8601(service.updated),
        "inbound_request_url": null, "inbound_method": "POST", "fallback_url": null, "fallback_method": "POST",
        "status_callback": null,
        "sticky_sender": true, "mms_converter": true, "smart_encoding": false, "scan_message_content": "inherit",
        "fallback_to_long_code": false, "area_code_geomatch": false, "synchronous_validation": false,
        "validity_period": 36_000,
        "usecase": "undeclared",
        "us_app_to_person_registered": false,
        "use_inbound_webhook_on_number": false,
        "url": url,
        "links": {
            "phone_numbers": below("PhoneNumbers"),
            "short_codes": below("ShortCodes"),
            "alpha_senders": below("AlphaSenders"),
            "channel_senders": below("ChannelSenders"),
            "destination_alpha_senders": below("DestinationAlphaSenders"),
            "messages": below("Messages"),
            "us_app_to_person": below("Compliance/Usa2p"),
            "us_app_to_person_usecases": below("Compliance/Usa2p/Usecases"),
        },
    });
    if let Some(fields) = answer.as_object_mut() {
        fields.extend(service.settings.clone());
    }
    answer
}

pub(crate) fn key(key: &Key) -> Value {
    json!({
        "sid": key.sid,
        "friendly_name": key.name,
        "date_created": rfc_2822(key.created),
        "date_updated": rfc_2822(key.updated),
    })
}

pub(crate) fn caller_id(account: &Account, sid: &str, number: &str) -> Value {
    json!({
        "sid": sid,
        "account_sid": account.sid,
        "phone_number": number,
        "friendly_name": number,
        "date_created": rfc_2822(account.created),
        "date_updated": rfc_2822(account.created),
        "uri": format!("{ROOT}/Accounts/{}/OutgoingCallerIds/{sid}.json", account.sid),
    })
}

/// A number that can be bought, shown as of San Francisco whatever its area code.
pub(crate) fn available(number: &str, country: &str) -> Value {
    json!({
        "phone_number": number,
        "friendly_name": number,
        "iso_country": country,
        "locality": "San Francisco", "rate_center": "SNFC CNTRL", "region": "CA", "postal_code": "94107",
        "lata": "722", "latitude": 37.78, "longitude": -122.4,
        "address_requirements": "none",
        "beta": false,
        "capabilities": {"mms": true, "sms": true, "voice": true, "fax": false},
    })
}

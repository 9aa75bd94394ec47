//! Faults on purpose: refuse a call, lose its answer, make it slow. For tests that ask "and if AWS fails just here?".

use crate::calls::{Call, Service};
use crate::reply::{Refusal, Reply, reply};
use serde_json::{Value, json};
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What happens to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is done, and this error is answered, as in `(400, "ThrottlingException")` or `(500, "InternalFailure")`.
    Error {
        /// The HTTP status; an SDK retries from 500 up.
        status: u16,
        /// The error code.
        code: String,
    },
    /// DynamoDB only: nothing is done, and the answer is that another transaction held the first item.
    TransactionConflict,
    /// Nothing is done, and the connection closes without an answer.
    DropRequest,
    /// Everything is done, and the connection closes without an answer: the caller cannot know.
    DropAnswer,
    /// The call is done after this time.
    Delay(Duration),
}

/// Which of the matching calls meet the fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// The next so many.
    Next(u32),
    /// About so many in a hundred until cleared, chosen by a generator with this seed: the same seed, the same choice.
    Percent {
        /// From 0 to 100.
        percent: u8,
        /// Where the generator starts.
        seed: u64,
    },
}

/// A fault and the calls that it is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injection {
    /// The service.
    pub service: Service,
    /// The action, as in `SendMessage`; `*` for all of the service.
    pub action: String,
    /// Only calls whose request body has this text, for example a table's or a queue's name.
    pub containing: Option<String>,
    /// What happens.
    pub fault: Fault,
    /// To which of the calls.
    pub when: When,
}

impl Injection {
    /// `fault` for the next `n` calls of `action`.
    pub fn next(n: u32, service: Service, action: &str, fault: Fault) -> Injection {
        Injection { service, action: action.into(), containing: None, fault, when: When::Next(n) }
    }

    /// `fault` for about `percent` in a hundred calls of `action`.
    pub fn percent(percent: u8, seed: u64, service: Service, action: &str, fault: Fault) -> Injection {
        Injection { service, action: action.into(), containing: None, fault, when: When::Percent { percent, seed } }
    }

    /// Only for calls whose request body has this text.
    #[must_use]
    pub fn containing(mut self, text: &str) -> Injection {
        self.containing = Some(text.into());
        self
    }

    fn is_for(&self, call: &Call, body: &[u8]) -> bool {
        let in_body = |text: &String| text.is_empty() || body.windows(text.len()).any(|part| part == text.as_bytes());
        self.service == call.service
            && (self.action == "*" || self.action == call.action)
            && self.containing.as_ref().is_none_or(in_body)
    }

    /// Whether this call meets the fault; counts down or moves the generator on.
    fn strikes(&mut self) -> bool {
        match &mut self.when {
            When::Next(n) => match n.checked_sub(1) {
                Some(left) => {
                    *n = left;
                    true
                }
                None => false,
            },
            When::Percent { percent, seed } => {
                // splitmix64: small, and even for any seed
                *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = *seed;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                (z ^ (z >> 31)) % 100 < u64::from(*percent)
            }
        }
    }

    fn is_spent(&self) -> bool {
        self.when == When::Next(0)
    }
}

/// [`crate::Options::faults`] is off, so nothing can be injected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("faults are off; start with Options {{ faults: true, .. }}")]
pub struct FaultsOff;

/// The faults to come. The first injection that fits a call is the one that it meets.
#[derive(Debug)]
pub struct Faults {
    on: bool,
    injections: Mutex<Vec<Injection>>,
}

impl Faults {
    pub(crate) fn new(on: bool) -> Faults {
        Faults { on, injections: Mutex::default() }
    }

    /// Adds an injection. `Err` when faults are off: a test that disturbs nothing would prove nothing.
    pub fn inject(&self, injection: Injection) -> Result<(), FaultsOff> {
        if !self.on {
            return Err(FaultsOff);
        }
        self.injections.lock().unwrap_or_else(PoisonError::into_inner).push(injection);
        Ok(())
    }

    /// Takes all injections back.
    pub fn clear(&self) {
        self.injections.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The injections that have not struck yet, or not as often as they will.
    pub fn pending(&self) -> Vec<Injection> {
        self.injections.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Does `work`, or what a fault makes of it.
    pub(crate) async fn around(
        &self,
        call: &Call,
        body: &[u8],
        work: impl Future<Output = Reply>,
    ) -> Result<Reply, Dropped> {
        match self.strike(call, body) {
            None => Ok(work.await),
            Some(Fault::Error { status, code }) => {
                let refusal = Refusal { status, code, message: "a fault injected by a test".into() };
                Ok(reply(call.service, Err(refusal), "injected"))
            }
            Some(Fault::TransactionConflict) => Ok(transaction_conflict(call, body)),
            Some(Fault::DropRequest) => Err(Dropped),
            Some(Fault::DropAnswer) => {
                work.await;
                Err(Dropped)
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                Ok(work.await)
            }
        }
    }

    fn strike(&self, call: &Call, body: &[u8]) -> Option<Fault> {
        let mut injections = self.injections.lock().unwrap_or_else(PoisonError::into_inner);
        let fitting = injections.iter_mut().filter(|injection| injection.is_for(call, body));
        let fault = fitting.into_iter().find_map(|injection| injection.strikes().then(|| injection.fault.clone()));
        injections.retain(|injection| !injection.is_spent());
        fault
    }
}

/// A transaction is canceled with one reason for each of its items; a single write has an error of its own.
fn transaction_conflict(call: &Call, body: &[u8]) -> Reply {
    let request: Value = serde_json::from_slice(body).unwrap_or_default();
    let Some(items) = request.get("TransactItems").and_then(Value::as_array) else {
        let message = "Transaction is ongoing for the item";
        return reply(call.service, Err(Refusal::new("TransactionConflictException", message)), "injected");
    };
    let reasons: Vec<Value> = (0..items.len())
        .map(|n| match n {
            0 => json!({ "Code": "TransactionConflict", "Message": "Transaction is ongoing for the item" }),
            _ => json!({ "Code": "None" }),
        })
        .collect();
    let codes: Vec<&str> = reasons.iter().filter_map(|reason| reason.get("Code")?.as_str()).collect();
    let document = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": format!("Transaction cancelled, please refer cancellation reasons for specific reasons [{}]", codes.join(", ")),
        "CancellationReasons": reasons,
    });
    let mut answer = reply(call.service, Ok(document), "injected");
    *answer.status_mut() = http::StatusCode::BAD_REQUEST;
    answer
}

/// The connection is to be closed without an answer.
#[derive(Debug)]
pub(crate) struct Dropped;

impl fmt::Display for Dropped {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a fault drops this connection")
    }
}

impl std::error::Error for Dropped {}

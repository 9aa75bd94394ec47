//! Which request, batch or tick is being worked on: named in log lines and in the access log, without a parameter of
//! ports.

use tracing::Instrument;

use crate::ids::RequestId;

tokio::task_local! {
    static REQUEST: RequestId;
}

/// Runs `work` under a name; log lines of it carry it as a span.
pub(super) async fn within<T>(id: RequestId, work: impl Future<Output = T>) -> T {
    let span = tracing::info_span!("request", request.id = %id);
    REQUEST.scope(id, work.instrument(span)).await
}

/// What is being worked on; `None` outside of requests, batches and ticks.
pub(super) fn request_id() -> Option<RequestId> {
    REQUEST.try_with(|id| *id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_that_a_request_awaits_has_its_name_and_nothing_else_has() {
        let [one, two] = [1, 2].map(RequestId::from_bits);
        let ask = || futures::future::join_all([0, 1].map(async |_| request_id()));
        let (of_one, of_two) = tokio::join!(within(one, ask()), within(two, ask()));
        assert_eq!((of_one, of_two), (vec![Some(one); 2], vec![Some(two); 2]));
        assert_eq!(request_id(), None);
    }
}

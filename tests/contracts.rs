//! The ports' contracts against the live adapters: the same facts that the fake world passes in `telbuddy`'s own tests.

telbuddy::contracts!(*crate::support::live_store().await);

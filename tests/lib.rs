//! TelBuddy's tests across functions: stories over real HTTP against the local system in process, each with its own data;
//! the contracts of the ports on the real store; vectors; and the canary.
#![cfg(test)]

mod access_log;
mod api;
mod api_keys;
mod canary;
mod canary_secrets;
mod content;
mod contracts;
mod credentials;
mod credits;
mod freeze;
mod inbound;
mod keys;
mod ledger;
mod main_job;
mod month;
mod numbers;
mod opt_outs;
mod pace;
mod quarantine;
mod reconciliation;
mod seal;
mod second_host;
mod sending;
mod settling;
mod sign_in;
mod simulation;
mod stripe;
mod support;
mod templates;
mod vectors;
mod webhooks;
mod wrong_input;

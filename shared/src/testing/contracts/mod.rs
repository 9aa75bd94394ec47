//! The contracts of the ports: facts that every implementation has to show, each a function of a world.
//!
//! They use accounts of their own and take times as arguments, so that they can run at the same time against one live
//! store and never sleep. [`contracts!`](crate::contracts) makes a test of each.
#![allow(missing_docs, reason = "a fact's name says it")]

pub mod accepting;
pub mod access;
pub mod accounts;
pub mod api_keys;
pub mod arriving;
pub mod batches;
pub mod billing;
pub mod connections;
pub mod credentials;
pub mod credits;
pub mod due;
pub mod endpoints;
pub mod keys;
pub mod opt_outs;
pub mod pace;
pub mod policy;
pub mod posting;
pub mod quarantine;
pub mod reconciling;
pub mod rotation;
pub mod routines;
pub mod sending;
pub mod sessions;
pub mod settling;
pub mod templates;
pub mod usage;
pub mod velocity;

use futures::future::join_all;

/// Runs `n` of them at once.
async fn at_once<T, F: Future<Output = T>>(n: usize, one: impl Fn(usize) -> F) -> Vec<T> {
    join_all((0..n).map(one)).await
}

/// How many are equal to `wanted`.
fn count<T: PartialEq>(all: &[T], wanted: &T) -> usize {
    all.iter().filter(|one| *one == wanted).count()
}

/// One `#[tokio::test]` for each fact, in a module for each noun. `$world` is an expression that may await; it is
/// evaluated for each test, and the fact gets a reference to it. The calling crate has to depend on tokio.
///
/// ```ignore
/// telbuddy::contracts!(telbuddy::testing::World::new(7));
/// telbuddy::contracts!(*crate::support::live_store().await);
/// ```
#[macro_export]
macro_rules! contracts {
    ($world:expr) => {
        $crate::contracts! { @ $world;
            accounts:
                of_many_confirmations_of_one_address_one_counts,
                a_confirmed_account_is_found_by_address_and_by_id,
                a_mailed_token_confirms_once,
                of_many_uses_of_a_mailed_token_one_counts,
                an_expired_token_confirms_nothing,
                a_token_confirms_nothing_in_another_account,
                tries_stop_exactly_at_the_limit,
                a_new_window_counts_anew;
            sessions:
                a_session_loads_as_it_was_started,
                a_touch_moves_the_last_call_and_never_back,
                a_revoked_session_is_gone_and_no_touch_brings_it_back,
                a_session_is_revoked_in_its_own_account_only,
                the_list_shows_live_sessions_newest_first;
            api_keys:
                an_api_key_loads_as_it_was_made,
                a_touch_moves_the_last_use_and_never_back,
                a_revoked_key_is_gone_and_no_touch_brings_it_back,
                of_a_touch_and_a_revocation_at_once_no_key_is_left,
                a_key_is_revoked_in_its_own_account_only,
                of_thirty_keys_made_at_once_twenty_are_kept,
                of_many_revocations_at_once_one_counts,
                the_list_shows_every_key_newest_first;
            billing:
                a_customer_is_kept_and_found_from_either_side,
                of_many_customers_made_at_once_the_account_has_one_and_the_others_are_nobodys,
                a_customer_is_one_accounts,
                what_was_read_is_stored_over_what_was_loaded_only,
                of_many_readings_at_once_one_is_stored,
                an_event_that_was_applied_is_remembered_for_its_time_and_from_the_last_time;
            keys:
                a_minted_key_opens_again,
                another_accounts_wrapped_key_does_not_open,
                another_purposes_wrapped_key_does_not_open,
                a_changed_wrapped_key_does_not_open,
                an_opened_key_is_remembered_and_no_other,
                a_key_that_is_nearly_used_up_is_opened_again,
                keys_opened_at_once_are_the_same,
                a_version_that_is_not_there_does_not_open,
                keys_load_by_account_and_purpose;
            access:
                every_opening_is_pending_until_it_is_linked,
                of_two_writers_of_a_chain_one_appends;
            credentials:
                a_credential_reads_back_and_its_version_rises,
                a_version_that_does_not_follow_is_refused,
                a_twilio_account_belongs_to_one_account,
                of_two_accounts_at_once_one_gets_the_twilio_account,
                of_two_saves_at_once_one_is_stored,
                a_replaced_twilio_account_is_free_again,
                a_removed_credential_leaves_nothing_but_its_version,
                a_removal_of_an_older_version_removes_nothing,
                a_hook_is_found_by_its_secret_only,
                a_new_credential_ends_a_stop_for_a_refused_one,
                a_new_credential_does_not_lift_a_freeze,
                each_stop_ends_by_itself,
                a_refusal_stays_untold_until_it_is_noted_or_over;
            quarantine:
                of_fifty_failures_at_once_all_count_and_one_is_the_first,
                a_record_shows_the_first_and_what_the_last_looked_like,
                each_cause_and_each_account_counts_by_itself,
                the_owner_is_told_once_a_day_at_most_and_what_is_owed_stays_owed,
                a_record_ends_a_month_after_its_last_failure;
            rotation:
                a_walk_in_pages_finds_every_row_once,
                of_keys_replaced_at_once_one_is_written,
                a_profile_is_replaced_as_it_was_read_only,
                a_resealed_credential_has_the_next_version_and_lifts_no_stop,
                of_a_customers_change_and_a_reseal_at_once_one_takes_place,
                what_was_disconnected_is_not_resealed,
                a_credential_is_not_saved_over_keys_that_changed_since_they_were_read;
            routines:
                routines_come_with_a_credential_and_go_with_it,
                a_rotation_keeps_what_was_looked_at_and_another_twilio_account_begins_anew,
                of_many_looks_at_once_one_moves_the_progress,
                a_recorded_sid_is_seen_in_its_own_account_only;
            accepting:
                an_accepted_message_is_there_with_its_hold,
                parallel_accepts_take_exactly_what_the_credit_covers,
                a_message_that_is_not_covered_is_refused_with_the_figures,
                the_same_key_gives_the_stored_answer,
                of_fifty_with_the_same_key_one_is_accepted,
                an_expired_key_counts_as_new,
                another_accounts_key_is_another_key,
                the_daily_ceiling_is_exact,
                parallel_accepts_stop_at_the_daily_ceiling,
                a_new_day_counts_anew,
                a_new_day_is_counted_exactly_by_parallel_accepts,
                a_message_above_the_ceiling_is_refused_on_a_fresh_day,
                the_sender_loads_with_all_that_a_decision_needs,
                the_sender_loads_with_its_api_key_in_the_same_call,
                an_account_that_is_not_there_has_no_facts,
                messages_list_newest_first_in_pages;
            sending:
                of_many_workers_one_claims,
                a_claim_hands_out_the_payload_and_counts_the_attempt,
                a_retry_waits_for_its_time,
                a_retry_remembers_whether_the_message_was_counted,
                what_is_in_line_waits_for_its_slot_and_keeps_it_once,
                an_outcome_removes_the_payload,
                a_message_that_is_not_there_has_nothing_to_send,
                only_the_fence_may_record,
                an_outcome_does_not_undo_what_a_callback_told,
                a_late_answer_of_the_same_claim_settles_what_was_unknown,
                a_late_answer_of_another_claim_settles_nothing,
                an_outcome_recorded_twice_stays,
                an_update_needs_the_revision_that_it_read,
                of_two_different_updates_at_once_one_is_written,
                an_update_removes_the_payload,
                the_latest_word_of_a_recipient_counts_in_any_order,
                stop_wins_a_tie,
                a_stop_said_before_the_last_check_is_seen,
                a_stop_is_for_its_sender_and_account_only,
                guards_come_in_order_with_the_keys_that_were_asked_for,
                guards_see_a_stopped_account;
            policy:
                a_policy_reads_back_and_replaces_the_one_before,
                of_a_policy_and_a_freeze_at_once_both_stand,
                a_time_zone_reads_back_and_saving_it_again_changes_nothing,
                of_a_time_zone_a_policy_and_a_freeze_at_once_all_stand,
                of_many_freezes_at_once_one_counts,
                a_refused_credential_is_told_once,
                a_freeze_stays_untold_until_it_is_noted_or_lifted,
                a_lift_ends_the_freeze_that_was_seen_and_nothing_else,
                a_freeze_of_no_time_is_lifted_too,
                of_many_lifts_at_once_one_counts,
                a_newer_freeze_is_never_lifted_by_an_older_click;
            velocity:
                an_account_is_counted_exactly_by_fifty_batches_at_once,
                a_prefix_is_counted_exactly_by_fifty_batches_at_once,
                the_same_message_in_a_prefix_counts_once,
                counters_are_of_one_account_minute_prefix_and_beginning;
            pace:
                of_fifty_at_once_each_gets_a_stretch_of_its_own,
                a_line_begins_anew_once_its_end_has_passed,
                a_line_that_is_too_long_is_not_joined_and_not_made_longer,
                each_sender_of_each_account_has_a_line;
            arriving:
                a_text_is_recorded_once_however_often_it_comes,
                the_same_sid_in_another_account_is_another_text;
            batches:
                of_many_beginnings_of_a_batch_one_counts,
                a_chunk_is_recorded_whole_with_one_hold,
                of_one_chunk_at_once_one_is_recorded,
                a_chunk_that_is_not_covered_writes_nothing,
                a_chunk_on_a_new_day_counts_that_day,
                a_held_message_goes_out_at_its_time_and_not_before,
                what_is_not_handed_over_can_be_taken_back,
                what_is_handed_over_cannot_be_taken_back,
                of_a_cancel_and_a_claim_at_once_one_wins;
            opt_outs:
                an_entry_stands_until_its_removal_and_both_read_back,
                no_removal_lifts_what_the_recipient_said,
                words_come_to_the_same_end_in_any_order,
                of_an_entry_and_a_removal_at_the_same_time_the_entry_stands,
                of_a_stop_and_a_removal_at_once_the_stop_stands,
                of_many_removals_at_once_one_lifts,
                a_removal_of_nothing_leaves_nothing,
                many_are_entered_removed_and_looked_up_in_their_order,
                opt_outs_list_by_sender_and_in_pages,
                the_last_check_sees_entries_of_its_own_sender_only,
                the_last_word_to_the_platform_stands_in_any_order,
                a_text_to_the_platform_that_is_played_back_changes_nothing,
                of_words_to_the_platform_at_once_the_stop_stands,
                words_to_the_platform_and_to_a_customer_never_mix;
            templates:
                a_template_reads_back_in_its_account_only,
                templates_list_newest_first_in_pages,
                of_many_templates_with_one_name_at_once_one_is_stored,
                an_account_has_so_many_templates_and_no_more,
                of_many_changes_at_once_one_is_stored,
                a_new_name_is_taken_and_the_one_before_is_free,
                of_a_change_and_a_removal_at_once_one_takes_place,
                a_template_is_sealed_anew_as_it_was_read_and_keeps_its_revision;
            connections:
                a_connection_reads_back_and_is_counted,
                of_two_updates_at_once_one_is_written,
                of_many_beginnings_at_once_one_is_stored_and_counted,
                only_the_newest_credential_connects_numbers,
                a_number_connected_meanwhile_keeps_its_twilio_account,
                due_connections_come_when_it_is_their_time;
            endpoints:
                an_endpoint_reads_back_and_the_gate_knows_it,
                of_many_new_endpoints_at_once_exactly_ten_are_stored,
                of_two_changes_of_an_endpoint_at_once_one_is_written,
                of_many_disablings_at_once_one_counts_and_it_is_told_once,
                an_endpoint_that_works_again_is_not_disabled,
                a_message_loads_with_whoever_is_to_be_told,
                an_event_is_told_once_to_each_that_listens,
                deliveries_list_newest_first_and_oldest_first_in_pages,
                of_many_workers_one_gets_a_delivery_and_it_is_due_when_its_lease_ends,
                an_attempt_is_recorded_by_the_holder_of_the_claim,
                what_waits_longer_than_a_queue_holds_is_due_at_its_time,
                of_many_resendings_at_once_one_counts,
                of_a_resending_and_a_claim_at_once_nothing_is_lost,
                due_deliveries_come_earliest_first,
                what_is_told_of_a_posting_is_written_with_it_once,
                a_posting_of_a_status_that_changed_meanwhile_tells_nothing,
                what_is_told_of_a_change_is_written_with_it_or_not_at_all,
                what_is_told_of_an_adoption_is_written_with_it_or_not_at_all;
            due:
                due_messages_come_earliest_first_and_not_before_their_time,
                an_outcome_moves_a_message_to_its_next_time,
                a_claim_is_due_when_its_lease_ends,
                a_lease_ends_once_and_not_early,
                a_later_look_needs_the_same_revision,
                what_nothing_has_to_be_done_about_leaves_the_list;
            settling:
                what_is_not_known_keeps_its_payload_and_says_since_when,
                a_listing_is_recorded_on_the_revision_that_it_read_and_keeps_the_payload,
                an_adopted_sid_is_the_messages_and_the_payload_is_gone,
                of_identical_messages_at_once_one_adopts_a_sid,
                of_an_adoption_and_a_callback_at_once_one_is_written,
                a_sid_that_was_charged_for_or_arrived_is_not_free,
                what_is_given_up_keeps_its_payload_and_a_late_answer_still_counts,
                what_is_given_up_is_released_and_looked_at_again_when_the_time_to_decide_is_over,
                a_resend_replaces_the_message_whole,
                of_decisions_and_a_callback_at_once_one_counts,
                a_resend_that_is_not_covered_leaves_the_decision_open,
                what_was_not_known_and_waits_again_begins_anew;
            credits:
                a_new_account_has_its_first_credits_as_an_entry,
                credits_are_given_once_for_each_source,
                purse_and_allowance_go_together_while_messages_are_accepted_and_charged,
                credits_end_once_and_what_is_reserved_ends_when_it_is_given_back,
                of_an_end_and_a_hold_at_once_no_credit_is_lost_or_made,
                what_is_taken_back_after_it_was_spent_is_owed_and_stops_sending_until_it_is_paid,
                what_is_confirmed_after_its_hold_was_given_back_is_charged_once_and_may_be_owed,
                a_late_answer_after_the_hold_was_given_back_is_to_be_charged,
                a_warning_is_noted_once,
                beyond_all_credit_exactly_the_room_may_be_used_and_it_is_billed_once;
            posting:
                a_charge_is_posted_once_and_no_credit_appears_or_vanishes,
                a_release_gives_the_hold_back_once,
                of_a_charge_and_a_release_at_once_one_is_posted,
                a_posted_message_is_settled_and_no_longer_due,
                one_sid_is_charged_once,
                a_text_that_arrived_is_posted_without_a_hold;
            reconciling:
                of_eight_postings_of_a_correction_at_once_one_counts,
                of_corrections_and_a_charge_at_once_all_count,
                a_correction_that_takes_back_more_than_was_ever_used_is_refused,
                of_many_writers_of_a_report_at_once_one_counts,
                reports_list_newest_first_in_pages,
                what_a_list_had_and_what_differs_are_noted_once_for_each_attempt,
                messages_list_by_the_time_of_their_ids,
                days_come_in_order_and_another_twilio_account_begins_anew;
            usage:
                posted_usage_is_counted_once_however_often_the_roll_up_runs,
                of_roll_ups_at_once_one_counts,
                usage_reads_by_range_and_granularity,
                what_failed_is_counted_by_error_beside_what_was_used,
                usage_reads_in_pages,
                counted_again_from_its_entries_an_accounts_usage_is_the_same_and_what_is_wrong_is_put_right_once,
                an_account_sees_its_own_usage_only;
        }
    };
    (@ $world:expr; $($noun:ident: $($fact:ident),+;)+) => {
        $(
            mod $noun {
                $(
                    #[tokio::test]
                    async fn $fact() {
                        $crate::testing::contracts::$noun::$fact(&$world).await;
                    }
                )+
            }
        )+
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, fresh};

    mod with_one_order_of_steps {
        crate::contracts!(crate::testing::World::new(1));
    }

    mod with_another_order_of_steps {
        crate::contracts!(crate::testing::World::new(2026));
    }

    #[tokio::test]
    async fn an_opening_tells_how_often_the_one_before_was_used() {
        let world = World::new(3);
        let over = async || world.advance(fresh::secs(300));
        access::an_opening_tells_how_often_the_one_before_was_used(&world, over).await;
    }

    #[tokio::test]
    async fn ten_openings_at_once_are_noted_as_one() {
        let world = World::new(3);
        keys::ten_openings_at_once_are_noted_as_one(&world, async |account| {
            world.openings().iter().filter(|opening| opening.account == account).count()
        })
        .await;
    }

    /// A fact that is written and not listed would never run.
    #[test]
    fn every_fact_is_listed() {
        let files = [
            include_str!("accepting.rs"),
            include_str!("access.rs"),
            include_str!("accounts.rs"),
            include_str!("api_keys.rs"),
            include_str!("arriving.rs"),
            include_str!("batches.rs"),
            include_str!("connections.rs"),
            include_str!("credentials.rs"),
            include_str!("credits.rs"),
            include_str!("due.rs"),
            include_str!("endpoints.rs"),
            include_str!("keys.rs"),
            include_str!("opt_outs.rs"),
            include_str!("policy.rs"),
            include_str!("posting.rs"),
            include_str!("quarantine.rs"),
            include_str!("rotation.rs"),
            include_str!("routines.rs"),
            include_str!("sending.rs"),
            include_str!("sessions.rs"),
            include_str!("settling.rs"),
            include_str!("templates.rs"),
            include_str!("usage.rs"),
            include_str!("velocity.rs"),
        ];
        let listed = include_str!("mod.rs");
        let facts: Vec<_> = files.iter().flat_map(|file| file.split("pub async fn ").skip(1)).collect();
        for fact in &facts {
            let name = fact.split(['<', '(']).next().unwrap();
            assert!(
                listed.contains(&format!(" {name},"))
                    || listed.contains(&format!(" {name};"))
                    || listed.contains(&format!("::{name}(")),
                "{name} is not listed"
            );
        }
        assert!(facts.len() > 70, "{}", facts.len());
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_world() {
        let ids = async |seed| fresh::account_with_keys(&World::new(seed), 1).await;
        assert_eq!(ids(5).await, ids(5).await);
        assert_ne!(ids(5).await, ids(6).await);
    }
}

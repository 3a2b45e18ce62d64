"""The promises of the gateway and where each is kept to: a test that is renamed or gone is noticed here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

PROMISES: dict[str, tuple[str, ...]] = {
    "G1 never more in flight than the true slots; 131 at once within 1.05 of the ideal": (
        "shell/test_promises_fair.py::test_g1_131_at_once_use_every_slot_to_the_end_and_not_one_more",
        "shell/test_gateway_order.py::test_an_embedding_model_gets_one_call_at_a_time_once_it_is_known_for_one",
    ),
    "G2 each of 131 agents within 131 turns; a flooder costs one turn; across classes a bound in seconds": (
        "shell/test_promises_fair.py::test_g2_of_131_agents_with_20_requests_each_one_is_served_within_131_turns",
        "shell/test_promises_fair.py::test_g2_a_flooder_costs_every_other_agent_at_most_one_turn_for_as_long_as_it_floods",
        "shell/test_promises_fair.py"
        "::test_g2_across_the_shipped_classes_no_wait_is_longer_than_the_gap_of_priorities_and_one_round",
    ),
    "G3 a leaver is gone within 250 ms wherever it stands; nothing starts for nobody": (
        "shell/test_promises_leavers.py"
        "::test_g3_whatever_the_form_and_wherever_it_stands_a_leavers_slot_is_free_by_the_rule",
        "shell/test_promises_leavers.py::test_g3_ten_leavers_of_the_queue_start_nothing_at_ollama",
        "shell/test_promises_leavers.py::test_g3_an_agent_that_is_killed_is_out_of_every_place_at_once",
        "shell/test_gateway_leavers.py::test_500_leavers_at_random_moments_cost_no_slot_of_a_leaking_ollama",
        "shell/test_gateway_leavers.py::test_a_leaver_during_a_load_aborts_nothing",
    ),
    "G4 client faults never open the breaker; an open one, and an Ollama that is away, hold the queue": (
        "shell/test_gateway_breaker.py::test_two_calls_stall_and_the_twenty_behind_them_are_answered",
        "shell/test_gateway_breaker.py::test_fifty_leavers_and_fifty_callers_who_are_wrong_never_open_it",
        "shell/test_gateway_breaker.py"
        "::test_five_faults_open_the_breaker_who_waits_goes_on_waiting_and_a_few_tokens_for_nobody_close_it",
        "shell/test_gateway_breaker.py::test_ollama_is_away_for_ten_minutes_and_nobody_who_has_the_time_is_lost",
    ),
    "G5 after a kill callers that return get their answers": (
        "shell/test_gateway_recovery.py::test_52_callers_that_come_back_with_their_keys_get_52_answers",
        "shell/test_gateway_async.py::test_it_outlives_its_connection_its_agent_and_the_supervisor",
        "shell/test_gateway_comments.py"
        "::test_what_was_promised_with_a_comment_outlives_a_crash_and_who_comes_back_hears_comments",
        "system/test_random_kills.py::test_nothing_acknowledged_is_lost_whenever_the_daemon_is_killed",
    ),
    "G6 nothing starts after its deadline; estimates within 30 % at the median": (
        "shell/test_gateway_estimates.py::test_at_twice_the_capacity_nothing_starts_late_and_estimates_come_true",
    ),
    "G7 ceilings hold; every class with work keeps a tenth": (
        "shell/test_promises_fair.py::test_g7_every_class_with_work_keeps_a_tenth_of_the_slots",
        "shell/test_promises_fair.py::test_g7_nobody_is_served_above_the_ceiling_of_its_class",
    ),
    "G8 ten identical deterministic calls are one; ten at temperature 0.8 are ten": (
        "shell/test_gateway_coalesce.py::test_ten_deterministic_calls_are_one_upstream_call_and_ten_complete_answers",
        "shell/test_gateway_coalesce.py::test_ten_calls_at_temperature_0_8_stay_ten",
        "shell/test_gateway_coalesce.py::test_the_leaders_end_leaves_nine_complete_answers",
    ),
    "G9 a changed option is a miss; what is not a whole plain answer is never stored": (
        "unit/gateway/test_cache_keys.py::test_changing_any_known_field_changes_the_key",
        "unit/gateway/test_cache_keys.py::test_changing_any_known_option_changes_the_key",
        "shell/test_gateway_cache.py::test_what_is_not_a_whole_plain_answer_is_not_kept",
    ),
    "G10 a hundred alternating calls for two models: at most six swaps": (
        "shell/test_gateway_order.py::test_two_models_that_do_not_fit_together_are_swapped_few_times",
    ),
    "G11 twenty values of num_ctx: no reload; an agent's keep_alive 0 unloads nothing": (
        "shell/test_gateway_order.py::test_agents_with_twenty_num_ctx_reload_nothing",
        "shell/test_gateway_order.py::test_an_agents_unload_is_answered_and_does_nothing_and_the_owners_does",
    ),
    "G12 upstream cut at every byte: never a clean success": (
        "shell/test_gateway_relay.py::test_an_answer_cut_at_any_byte_is_never_a_clean_success",
        "contract/test_conformance_streams.py::test_34_a_cut_at_any_byte_is_never_a_clean_success",
    ),
    "G13 equal to Ollama itself, for every face": (
        "shell/test_gateway_relay.py::test_answers_equal_those_of_ollama_itself",
        "contract/test_conformance_list.py::test_a_check_has_a_test_or_a_reason",
    ),
    "G16 embeds that wait together are one call with the vectors of single ones": (
        "shell/test_gateway_batch.py::test_three_embeds_behind_a_busy_slot_are_one_call_with_the_vectors_of_single_ones",
    ),
    "G17 a hung engine is noticed within 30 s and the queue survives": (
        "shell/test_gateway_breaker.py::test_a_hung_engine_is_noticed_restarted_once_and_the_queue_survives",
        "system/test_backends.py"
        "::test_an_ollama_that_hangs_is_restarted_by_its_owners_command_and_who_waited_is_answered",
    ),
}


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.partition(" ")[0])
def test_a_promise_has_its_tests(promise: str) -> None:
    for place in PROMISES[promise]:
        file, _, name = place.partition("::")
        tree = ast.parse((TESTS / file).read_text())
        found = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in found, place

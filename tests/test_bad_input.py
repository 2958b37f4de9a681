"""What people, clients, disks and clocks do wrong: the tests of each class, or why it has none.

The tests prove; this table only says where, and breaks when one of them goes.
"""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
MATRIX: dict[str, tuple[str, ...]] = {
    "configurations of adapters": (
        "adapters/test_lint.py::test_configurations",
        "adapters/test_lint.py::test_configurations_that_cannot_be_read",
        "adapters/test_lint_expressions.py",
        "adapters/test_hostile.py::test_a_hostile_folder_is_linted_unharmed",
        "e2e/test_lint_matrix.py::test_lint_says_what_the_engine_does",
    ),
    "another base": (
        "adapters/test_lint.py::test_another_base",
        "adapters/test_registry.py::test_a_base_that_is_known_is_compared",
        "serve/routes/test_routing.py::test_a_version_of_another_base_is_refused_naming_both",
        "e2e/test_refusals.py::test_an_adapter_of_another_base_is_refused_and_not_listed",
    ),
    "tensors": (
        "adapters/test_lint.py::test_tensors",
        "adapters/test_lint.py::test_adapters_that_change_nothing",
        "e2e/test_residency.py::test_weights_that_do_nothing_are_refused_and_the_alias_stays",
        "e2e/traps/test_traps.py::test_ours_does_not_fall_into",
    ),
    "safetensors that are none": (
        "adapters/test_lint.py::test_files_that_are_not_whole",
        "adapters/test_hostile.py::test_a_hostile_folder_is_never_published",
        "adapters/test_lint_sense.py::test_time_and_memory_are_bounded",
    ),
    "pickles": (
        "adapters/test_lint.py::test_a_pickle_is_not_even_opened",
        "adapters/test_hostile.py::test_a_hostile_folder_is_not_imported",
        "e2e/test_bad_input.py::test_files_that_are_not_what_was_published",
    ),
    "links, pipes, sockets and files that are swapped": (
        "adapters/test_hostile.py::test_a_hostile_folder_is_never_published",
        "adapters/test_hostile.py::test_nothing_is_deleted_through_a_link",
        "adapters/test_registry.py::test_verify_trusts_no_link",
        "e2e/test_bad_input.py::test_files_that_are_not_what_was_published",
    ),
    "names": (
        "adapters/test_hostile.py::test_a_hostile_name_never_reaches_a_path",
        "adapters/test_types.py::test_whatever_parses_is_written_as_it_was_read_and_stays_in_its_folder",
        "serve/routes/test_routing.py::test_no_text_gets_anything_but_an_answer_or_a_typed_error",
        "e2e/test_refusals.py::test_a_model_that_cannot_be_served",
    ),
    "publications at once": (
        "contract/test_registry_backend.py::test_many_processes_write_at_once",
        "adapters/test_registry_at_once.py::test_any_verbs_of_several_processes_at_once",
    ),
    "an alias moves under load": (
        "adapters/test_registry.py::test_promotions_from_many_processes_lose_no_line",
        "e2e/test_hot_swap.py::"
        "test_an_alias_moves_under_load_on_two_servers_and_no_request_fails_nor_mixes_versions",
        "e2e/test_hot_swap.py::test_an_experiment_is_sticky_and_pins_bypass_it",
    ),
    "kill -9": (
        "contract/test_registry_backend.py::test_a_killed_writer_leaves_a_whole_version_or_none",
        "adapters/test_registry_at_once.py::test_a_verb_may_be_killed_at_every_step",
        "adapters/test_transfer.py::test_a_killed_puller_leaves_nothing_torn_and_nothing_behind",
        "train/test_resume.py::test_killed_at_random_steps_it_ends_with_the_same_bits",
        "serve/experiments/test_killed.py",
        "serve/experiments/store/test_durability.py",
    ),
    "full and broken disks": (
        "adapters/test_full_disk.py::test_on_a_full_disk_a_verb_is_done_or_refused",
        "adapters/test_full_disk.py::test_where_no_byte_can_be_written_nothing_changes",
        "serve/watching/test_logs.py::test_where_nothing_can_be_written_it_serves_all_the_same",
    ),
    "damaged and deleted files": (
        "adapters/test_registry.py::test_verify_finds_every_change",
        "e2e/test_bad_input.py::test_files_that_are_not_what_was_published",
        "e2e/test_housekeeping.py::test_a_loaded_version_is_held_until_it_is_retired",
        "serve/test_deletion.py::test_what_the_engine_loads_keeps_its_files",
        "e2e/traps/test_traps.py::test_ours_does_not_fall_into",
    ),
    "clocks that jump": (
        "serve/test_clock.py",
        "serve/experiments/test_feedback.py::test_a_clock_that_goes_backwards_loses_nothing",
    ),
    "a database that is damaged, full or away": (
        "serve/experiments/store/test_schema.py::test_a_damaged_database_is_named",
        "serve/experiments/store/test_durability.py::"
        "test_a_full_database_acknowledges_nothing_and_goes_on_once_there_is_room",
        "serve/experiments/test_feedback.py::"
        "test_a_database_that_is_gone_acknowledges_nothing_and_says_when_to_come_back",
        "serve/experiments/test_store_flag.py",
    ),
    "forged feedback": (
        "serve/experiments/test_token.py::test_changed_anywhere_it_is_not_ours",
        "serve/experiments/test_feedback.py::test_tokens_that_are_none_of_ours",
        "serve/experiments/test_feedback.py::test_tokens_of_ours_that_say_what_never_was",
        "serve/experiments/test_feedback.py::"
        "test_a_key_posts_for_what_it_sees_and_the_rest_is_not_there",
    ),
    "outcomes that cannot be counted": (
        "serve/experiments/test_feedback.py::test_what_is_no_outcome_is_a_400_that_says_why",
        "serve/experiments/test_feedback.py::test_after_the_experiment_stopped_it_is_late",
    ),
    "bodies and fields made to harm": (
        "e2e/test_bad_input.py::test_a_body_made_to_harm",
        "e2e/test_bad_input.py::test_a_field_made_to_harm",
        "e2e/traps/test_traps.py::test_half_sent_requests",
    ),
    "clients that leave": (
        "e2e/test_bad_input.py::test_clients_that_leave",
        "serve/tenants/test_keys.py::test_who_leaves_pays_for_what_was_reserved_or_for_what_came",
    ),
    "the engine dies": (
        "e2e/test_endings.py::test_killed_engine_then_the_same_adapters_again_then_a_drained_end",
    ),
    "what vLLM falls into": ("e2e/traps/test_traps.py::test_ours_does_not_fall_into",),
    "secrets and prompts where they do not belong": (
        "e2e/test_keys.py::test_secrets_and_prompts_are_shown_nowhere",
        "serve/watching/test_logs.py::test_neither_keys_nor_prompts_nor_answers_are_logged",
        "adapters/test_card.py::test_a_local_base_shows_no_path_of_this_machine",
    ),
    "other people's adapters": (
        "serve/test_visibility.py::test_a_hidden_adapter_and_a_missing_one_are_the_same",
        "serve/tenants/test_keys.py::test_a_stored_response_is_its_keys_alone",
        "e2e/test_keys.py::test_two_keys_share_nothing_in_the_prefix_cache_and_one_does",
    ),
    "floods of names, more adapters than places": (
        "e2e/traps/test_traps.py::test_ours_does_not_fall_into",
        "e2e/test_residency.py::test_with_few_places_every_answer_is_right_and_pins_stay",
        "serve/watching/test_metrics.py::test_series_are_few_and_those_unasked_for_longest_make_room",
    ),
    "requests to elsewhere in the server's name": (
        "e2e/test_flags.py::test_nothing_is_fetched_for_a_client",
        "e2e/test_bad_input.py::test_a_field_made_to_harm",
    ),
    "a registry that is away": (
        "serve/watching/test_readiness.py::test_the_folder_of_a_registry_gone_is_no_empty_registry",
        "e2e/test_hub_away.py::"
        "test_what_is_loaded_is_served_while_the_hub_is_away_and_a_second_signal_ends_it_at_once",
    ),
}
WITHOUT = {
    "archives": "nothing takes one: adapters are folders, over HTTP none comes in",
    "pages that run what they show": "no page is served",
}


@pytest.mark.parametrize("named", sorted({each for tests in MATRIX.values() for each in tests}))
def test_what_the_table_names_is_there(named: str) -> None:
    path, _, test = named.partition("::")
    assert f"def {test or 'test_'}" in (TESTS / path).read_text()


def test_every_class_is_one_or_the_other() -> None:
    assert not MATRIX.keys() & WITHOUT.keys()
    assert all(MATRIX.values())
    assert len(MATRIX) + len(WITHOUT) >= 25

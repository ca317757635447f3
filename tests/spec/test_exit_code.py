"""Exit codes by themselves and in their namespace."""

from __future__ import annotations

import copy

import pytest

from treadle.engine.errors import SpecError
from treadle.engine.exit_code import BASE_EXIT_CODES, ExitCode, ExitCodesNamespace
from treadle.engine.spec import ProcessSpec


def test_an_exit_code_is_success_by_default():
    assert ExitCode() == ExitCode(status=0, message=None, invalidates_cache=False)


def test_an_exit_code_keeps_what_it_was_made_of():
    code = ExitCode(310, 'no {what}', True)
    assert (code.status, code.message, code.invalidates_cache) == (310, 'no {what}', True)


def test_an_exit_code_unpacks_in_order():
    status, message, invalidates_cache = ExitCode(310, 'gone', True)
    assert (status, message, invalidates_cache) == (310, 'gone', True)


def test_exit_codes_compare_as_tuples():
    assert ExitCode(1, 'm', True) == ExitCode(1, 'm', True)
    assert ExitCode(1, 'm', True) != ExitCode(2, 'm', True)
    assert ExitCode() == (0, None, False)
    for other in ({}, [], (), 0, (0, None), [0, None, False], (0, None, False, 'more')):
        assert ExitCode() != other


def test_an_exit_code_cannot_be_changed():
    with pytest.raises(AttributeError):
        ExitCode().status = 3


def test_format_returns_a_new_code():
    template = ExitCode(420, 'no {what} after {n:d} tries', True)
    filled = template.format(what='convergence', n=3)
    assert filled == ExitCode(420, 'no convergence after 3 tries', True)
    assert isinstance(filled, ExitCode)
    assert template.message == 'no {what} after {n:d} tries'


@pytest.mark.parametrize('arguments', [{}, {'other': 1}, {'what': 'x'}, {'what': 'x', 'n': 'three'}])
def test_format_with_arguments_that_do_not_fit(arguments):
    with pytest.raises(ValueError, match='exit code 420'):
        ExitCode(420, 'no {what} after {n:d} tries').format(**arguments)


def test_format_of_a_positional_placeholder_and_of_no_message():
    with pytest.raises(ValueError, match='keyword argument'):
        ExitCode(420, 'no {}').format(what='x')
    with pytest.raises(ValueError, match='no message'):
        ExitCode(420).format(what='x')


@pytest.fixture
def codes() -> ExitCodesNamespace:
    spec = ProcessSpec(label='Relax')
    spec.exit_code(410, 'ERROR_NEGATIVE', message='n is negative')
    spec.exit_code(411, 'ERROR_TOO_LARGE', 'n is too large', invalidates_cache=True)
    return spec.exit_codes


def test_a_code_is_found_in_four_ways(codes):
    expected = ExitCode(410, 'n is negative', False)
    assert expected == codes.ERROR_NEGATIVE
    assert codes['ERROR_NEGATIVE'] == expected
    assert codes('ERROR_NEGATIVE') == expected
    assert codes(410) == expected
    assert codes.ERROR_TOO_LARGE.invalidates_cache


def test_what_is_not_there_is_named_with_what_is_near(codes):
    with pytest.raises(AttributeError, match='did you mean ERROR_NEGATIVE'):
        _ = codes.ERROR_NEGATIV
    with pytest.raises(KeyError, match='did you mean ERROR_NEGATIVE'):
        codes['error_negative']
    with pytest.raises(ValueError, match='did you mean ERROR_TOO_LARGE'):
        codes('ERROR_TO_LARGE')
    with pytest.raises(ValueError, match='410 ERROR_NEGATIVE'):
        codes(999)
    assert not hasattr(codes, 'ERROR_NOTHING_LIKE_IT')


def test_a_namespace_lists_copies_and_completes(codes):
    assert list(codes) == [*BASE_EXIT_CODES, 'ERROR_NEGATIVE', 'ERROR_TOO_LARGE']
    assert 'ERROR_NEGATIVE' in dir(codes)
    assert copy.deepcopy(codes) == codes
    assert all(isinstance(code, ExitCode) for code in codes.values())


def test_every_spec_has_the_base_codes_with_aiidas_numbers():
    codes = ProcessSpec().exit_codes
    assert {code.status: label for label, code in codes.items()} == {
        1: 'ERROR_UNSPECIFIED',
        10: 'ERROR_INVALID_OUTPUT',
        11: 'ERROR_MISSING_OUTPUT',
    }


def test_a_later_definition_of_a_label_wins():
    spec = ProcessSpec()
    spec.exit_code(400, 'ERROR_X', 'from the base class')
    spec.exit_code(401, 'ERROR_X', 'from the subclass')
    assert ExitCode(401, 'from the subclass') == spec.exit_codes.ERROR_X
    with pytest.raises(ValueError, match='400'):
        spec.exit_codes(400)


def test_one_spec_does_not_change_anothers_codes():
    ProcessSpec().exit_code(400, 'ERROR_X', 'x')
    assert 'ERROR_X' not in ProcessSpec().exit_codes


@pytest.mark.parametrize(
    ('status', 'label', 'message', 'named'),
    [
        ('400', 'ERROR_X', 'm', 'int >= 0'),
        (True, 'ERROR_X', 'm', 'int >= 0'),
        (-1, 'ERROR_X', 'm', 'int >= 0'),
        (400, 256, 'm', 'upper-case identifier'),
        (400, 'error_x', 'm', 'upper-case identifier'),
        (400, 'ERROR X', 'm', 'upper-case identifier'),
        (400, 'ERROR_X', 8, 'must be a str'),
    ],
)
def test_a_wrong_definition_is_refused(status, label, message, named):
    spec = ProcessSpec(label='Relax')
    with pytest.raises(SpecError, match=f'Relax: .*{named}'):
        spec.exit_code(status, label, message)
    assert len(spec.exit_codes) == len(BASE_EXIT_CODES)


def test_a_flag_that_is_no_bool_is_refused():
    with pytest.raises(SpecError, match='invalidates_cache'):
        ProcessSpec().exit_code(400, 'ERROR_X', 'm', invalidates_cache=1)

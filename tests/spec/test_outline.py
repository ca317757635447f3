"""The outline language: what it compiles to, where it leads, and what it refuses."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from treadle.engine.errors import SpecError
from treadle.engine.exit_code import ExitCode
from treadle.engine.spec import ProcessSpec
from treadle.engine.spec.outline import End, Op, Outline, Step, compile_outline, if_, return_, while_


class Chain:
    """Methods to make outlines of; nothing here is called."""

    def a(self): ...

    def b(self): ...

    def c(self): ...

    def d(self): ...

    async def slow(self): ...

    def yes(self): ...

    def no(self): ...

    def more(self): ...

    def with_default(self, n=3): ...

    def with_keyword(self, *, n): ...

    def with_keywords(self, **options): ...

    def without(): ...  # type: ignore[misc]

    def anything(*args): ...

    async def ask(self): ...

    @classmethod
    def of_class(cls): ...

    @staticmethod
    def static(one): ...

    def __hidden(self): ...

    hidden = __hidden
    alias = a


def walk(outline: Outline, test: Callable[[str], object], limit: int = 1000) -> list[object]:
    """Names of the steps and conditions in the order in which they come, then the End."""
    trace: list[object] = []

    def noted(name: str) -> object:
        trace.append(f'{name}?')
        return test(name)

    position = 0
    for _ in range(limit):
        found = outline.next_step(position, noted)
        if isinstance(found, End):
            return [*trace, found]
        trace.append(found.name)
        position = found.after
    raise AssertionError('no end')


def answers(**values: object) -> Callable[[str], object]:
    """Conditions with constant answers, or with lists that are used up."""
    queues = {
        name: iter(value) if isinstance(value, list) else itertools.repeat(value)
        for name, value in values.items()
    }
    return lambda name: next(queues[name])


class TestWhereItLeads:
    def test_a_sequence(self):
        outline = compile_outline(Chain, Chain.a, Chain.b)
        assert outline.next_step(0, answers()) == Step('a', 0, 1)
        assert outline.next_step(1, answers()) == Step('b', 1, 2)
        assert outline.next_step(2, answers()) == End(None)
        assert [outline.ends_at(p) for p in range(3)] == [False, False, True]

    @pytest.mark.parametrize(
        ('yes', 'no', 'expected'),
        [
            (True, False, ['yes?', 'a', 'd']),
            (False, True, ['yes?', 'no?', 'b', 'd']),
            (False, False, ['yes?', 'no?', 'c', 'd']),
        ],
    )
    def test_one_branch_of_an_if(self, yes, no, expected):
        outline = compile_outline(
            Chain, if_(Chain.yes)(Chain.a).elif_(Chain.no)(Chain.b).else_(Chain.c), Chain.d
        )
        assert walk(outline, answers(yes=yes, no=no)) == [*expected, End(None)]

    def test_an_if_without_else(self):
        outline = compile_outline(Chain, if_(Chain.yes)(Chain.a, Chain.b))
        assert walk(outline, answers(yes=True)) == ['yes?', 'a', 'b', End(None)]
        assert walk(outline, answers(yes=False)) == ['yes?', End(None)]

    def test_a_while_asks_before_each_round(self):
        outline = compile_outline(Chain, Chain.a, while_(Chain.more)(Chain.b, Chain.c), Chain.d)
        assert walk(outline, answers(more=[True, True, False])) == [
            'a', 'more?', 'b', 'c', 'more?', 'b', 'c', 'more?', 'd', End(None),
        ]  # fmt: skip

    def test_while_around_if_around_while(self):
        outline = compile_outline(
            Chain, while_(Chain.more)(if_(Chain.yes)(while_(Chain.no)(Chain.a)).else_(return_(7)), Chain.b)
        )
        assert walk(outline, answers(more=True, yes=[True, False], no=[True, True, False])) == [
            'more?', 'yes?', 'no?', 'a', 'no?', 'a', 'no?', 'b', 'more?', 'yes?', End(ExitCode(7)),
        ]  # fmt: skip

    def test_conditions_may_have_effects_and_a_loop_may_reach_no_step(self):
        outline = compile_outline(Chain, while_(Chain.more)(if_(Chain.yes)(Chain.a)))
        assert walk(outline, answers(more=[True] * 99 + [False], yes=False))[-1] == End(None)

    def test_what_a_condition_raises_passes_through(self):
        outline = compile_outline(Chain, while_(Chain.more)(if_(Chain.yes)(Chain.a)))

        class Stop(BaseException):
            pass

        def test(name):
            if name == 'yes':
                raise Stop
            return True

        with pytest.raises(Stop):
            outline.next_step(0, test)

    def test_return_ends_with_success_or_an_exit_code(self):
        code = ExitCode(410, 'n is negative')
        outline = compile_outline(
            Chain, if_(Chain.yes)(return_).elif_(Chain.no)(return_(code)).else_(Chain.a), Chain.b
        )
        assert walk(outline, answers(yes=True))[-1] == End(None)
        assert walk(outline, answers(yes=False, no=True))[-1] == End(code)
        assert walk(outline, answers(yes=False, no=False)) == ['yes?', 'no?', 'a', 'b', End(None)]

    def test_blocks_are_flattened(self):
        assert compile_outline(Chain, (Chain.a, [Chain.b]), Chain.c) == compile_outline(
            Chain, Chain.a, Chain.b, Chain.c
        )

    def test_one_step_in_two_places(self):
        outline = compile_outline(Chain, Chain.a, Chain.a)
        assert walk(outline, answers()) == ['a', 'a', End(None)]
        assert outline.step_names == ('a',)

    def test_an_end_is_known_without_asking(self):
        outline = compile_outline(Chain, if_(Chain.yes)(Chain.a).else_(Chain.b), return_)
        steps = {found.name: found for found in (outline.next_step(0, answers(yes=y)) for y in (True, False))}
        assert outline.ends_at(steps['a'].after)
        assert outline.ends_at(steps['b'].after)
        assert not outline.ends_at(0)
        looped = compile_outline(Chain, while_(Chain.more)(Chain.a))
        assert not looped.ends_at(looped.next_step(0, answers(more=True)).after)

    @pytest.mark.parametrize('position', [-1, 3])
    def test_a_position_outside(self, position):
        outline = compile_outline(Chain, Chain.a, Chain.b)
        with pytest.raises(IndexError, match='outside'):
            outline.next_step(position, answers())
        with pytest.raises(IndexError, match='outside'):
            outline.ends_at(position)


class TestConditions:
    class BoolLike:
        def __init__(self, value):
            self.value = value

        def __bool__(self):
            return self.value

    @pytest.mark.parametrize('construct', [if_, while_])
    @pytest.mark.parametrize('verdict', [BoolLike(True), 1, np.True_])
    def test_what_is_like_a_bool_counts(self, construct, verdict):
        outline = compile_outline(Chain, construct(Chain.yes)(Chain.a), Chain.b)
        assert outline.next_step(0, answers(yes=verdict)).name == 'a'

    @pytest.mark.parametrize('verdict', [BoolLike(False), 0, None, np.False_])
    def test_what_is_like_false_counts_too(self, verdict):
        outline = compile_outline(Chain, if_(Chain.yes)(Chain.a), Chain.b)
        assert outline.next_step(0, answers(yes=verdict)).name == 'b'

    @pytest.mark.parametrize('construct', [if_, while_])
    @pytest.mark.parametrize('verdict', ['true', [], {'a': 1}, object()])
    def test_what_is_no_bool_is_refused(self, construct, verdict):
        outline = compile_outline(Chain, construct(Chain.yes)(Chain.a))
        with pytest.raises(TypeError, match='the condition yes returned'):
            outline.next_step(0, lambda name: verdict)


class TestNames:
    def test_steps_are_kept_by_name(self):
        class Sub(Chain):
            def a(self): ...

        inherited = compile_outline(Sub, Chain.a, Sub.a, if_(Chain.yes)(Chain.b))
        assert inherited.step_names == ('a', 'b')
        assert inherited.condition_names == ('yes',)

    def test_async_steps_are_steps(self):
        assert compile_outline(Chain, Chain.slow).step_names == ('slow',)

    def test_mangled_names_and_aliases_lead_to_an_attribute(self):
        for item in (Chain.hidden, Chain.alias):
            (name,) = compile_outline(Chain, item).step_names
            assert getattr(Chain, name) is item

    def test_a_decorator_that_hides_the_name(self):
        def hide(function):
            return lambda self: function(self)

        class Hidden:
            @hide
            def step(self): ...

        assert compile_outline(Hidden, Hidden.step).step_names == ('step',)

    def test_a_method_that_takes_anything(self):
        assert compile_outline(Chain, Chain.anything, Chain.with_keywords).step_names == (
            'anything',
            'with_keywords',
        )


class TestBadOutlines:
    @pytest.mark.parametrize(
        ('item', 'message'),
        [
            (5, r'outline\[1\] is 5 \(int\), not a step'),
            ('b', r"outline\[1\] is 'b' \(str\), not a step; give a method, as in cls.step"),
            (None, r'outline\[1\] is None'),
            (Chain, r'outline\[1\] is .*Chain'),
            (lambda self: None, r'outline\[1\] is <lambda>, which is no method of Chain'),
            (lambda x, y: None, r'outline\[1\] is <lambda>, but a step takes self and nothing else'),
            (Chain.with_default, 'takes self and nothing else'),
            (Chain.with_keyword, 'takes self and nothing else'),
            (Chain.without, 'takes self and nothing else'),
            (Chain.of_class, 'bound already'),
            (Chain().a, 'bound already'),
            (Chain.static, 'no method of Chain'),
            (walk, 'takes self and nothing else'),
            (if_(Chain.yes), r'outline\[1\] if_\(yes\) has no body'),
            (if_(Chain.yes)(Chain.a).elif_(Chain.no), r'outline\[1\] elif_\(no\) has no body'),
            (while_(Chain.more), r'outline\[1\] while_\(more\) has no body'),
            (if_(5)(Chain.a), r'outline\[1\] is 5 \(int\), not a condition'),
            (while_(Chain.ask)(Chain.a), 'ask, a coroutine function; a condition is a plain method'),
            (while_(Chain.more)(Chain.a, [5]), r'outline\[1\].while_\(more\)\[1\]\[0\] is 5'),
            (if_(Chain.yes)(Chain.a).else_(5), r'outline\[1\].else_\[0\] is 5'),
            ((), r'outline\[1\] is empty'),
        ],
    )
    def test_the_item_and_its_place_are_named(self, item, message):
        with pytest.raises(SpecError, match=f'Chain: .*{message}'):
            compile_outline(Chain, Chain.a, item)

    @pytest.mark.parametrize(
        ('build', 'message'),
        [
            (lambda: if_(Chain.yes)(), r'body of if_\(yes\) is empty'),
            (lambda: while_(Chain.more)(), r'body of while_\(more\) is empty'),
            (lambda: if_(Chain.yes)(Chain.a).else_(), 'body of else_ is empty'),
            (lambda: if_(Chain.yes)(Chain.a)(Chain.b), 'has its body already'),
            (lambda: while_(Chain.more)(Chain.a)(Chain.b), 'has its body already'),
            (lambda: if_(Chain.yes).else_(Chain.a), 'has no body'),
            (lambda: if_(Chain.yes).elif_(Chain.no), 'has no body'),
            (lambda: if_(Chain.yes)(Chain.a).else_(Chain.b).else_(Chain.c), 'else_ comes last'),
            (lambda: if_(Chain.yes)(Chain.a).else_(Chain.b).elif_(Chain.no), 'else_ comes last'),
            (lambda: if_(Chain.yes)(Chain.a).else_(Chain.b)(Chain.c), 'has its body already'),
            (lambda: return_('410'), 'return_'),
            (lambda: return_(True), 'return_'),
            (lambda: return_(-1), 'return_'),
            (lambda: return_(None), 'return_'),
            (lambda: compile_outline(Chain), 'Chain: outline is empty'),
        ],
    )
    def test_wrong_use_of_the_words(self, build, message):
        with pytest.raises(SpecError, match=message):
            build()

    def test_a_spec_without_a_class_checks_what_it_can(self):
        spec = ProcessSpec()
        for wrong in (5, lambda x, y: None, lambda self: None):
            with pytest.raises(SpecError, match=r'outline\[0\]'):
                spec.outline(wrong)
        assert spec.compiled_outline is None
        spec.outline(Chain.a)
        assert spec.compiled_outline.step_names == ('a',)

    def test_a_later_outline_replaces_an_earlier_one(self):
        spec = ProcessSpec(process_class=Chain)
        spec.outline(Chain.a)
        spec.outline(Chain.b)
        assert spec.compiled_outline.step_names == ('b',)


class TestTextAndDigest:
    def test_the_text_is_indented(self):
        outline = compile_outline(
            Chain,
            Chain.a,
            while_(Chain.more)(if_(Chain.yes)(Chain.b).elif_(Chain.no)(return_).else_(return_(410)), Chain.c),
        )
        assert str(outline).split('\n') == [
            'a',
            'while_(more)',
            '    if_(yes)',
            '        b',
            '    elif_(no)',
            '        return_',
            '    else_',
            '        return_(410)',
            '    c',
        ]

    def test_the_digest_is_the_same_in_every_process(self):
        # A constant on purpose: stored processes are compared by it, whatever version reads them.
        outline = compile_outline(Chain, Chain.a, while_(Chain.more)(Chain.b), return_(3))
        assert (
            outline.digest == compile_outline(Chain, Chain.a, while_(Chain.more)(Chain.b), return_(3)).digest
        )
        assert outline.digest == '46d35098e9cd6b28'

    def test_the_digest_tells_outlines_apart(self):
        outlines = [
            compile_outline(Chain, *steps)
            for steps in (
                [Chain.a],
                [Chain.b],
                [Chain.a, Chain.b],
                [Chain.b, Chain.a],
                [if_(Chain.yes)(Chain.a)],
                [while_(Chain.yes)(Chain.a)],
                [if_(Chain.yes)(Chain.a, Chain.b)],
                [if_(Chain.yes)(Chain.a), Chain.b],
                [if_(Chain.yes)(Chain.a).else_(Chain.b)],
                [Chain.a, return_],
                [Chain.a, return_(0)],
                [Chain.a, return_(1)],
            )
        ]
        assert len({outline.digest for outline in outlines}) == len(outlines)

    def test_a_reworded_message_changes_no_digest(self):
        first, second = (compile_outline(Chain, return_(ExitCode(1, text))) for text in ('a', 'b'))
        assert first.digest == second.digest
        assert first != second


def test_deep_nesting():
    body = Chain.a
    for level in range(150):
        body = (while_ if level % 2 else if_)(Chain.yes)(body)
    outline = compile_outline(Chain, body)
    assert outline.next_step(0, answers(yes=True)).name == 'a'
    assert walk(outline, answers(yes=False)) == ['yes?', End(None)]


# -- random outlines against a plain interpreter of the tree ------------------------------------------


class Returned(Exception):
    pass


def interpret(tree: list, test: Callable[[str], bool]) -> Iterator[str]:
    """What the tree does, said as directly as Python can."""
    for node in tree:
        match node:
            case str():
                yield node
            case ('return', status):
                raise Returned(status)
            case ('while', condition, body):
                while test(condition):
                    yield from interpret(body, test)
            case ('if', branches):
                for condition, body in branches:
                    if condition is None or test(condition):
                        yield from interpret(body, test)
                        break


def build(tree: list) -> list:
    commands: list = []
    for node in tree:
        match node:
            case str():
                commands.append(getattr(Chain, node))
            case ('return', status):
                commands.append(return_ if status is None else return_(status))
            case ('while', condition, body):
                commands.append(while_(getattr(Chain, condition))(*build(body)))
            case ('if', branches):
                chosen = None
                for condition, body in branches:
                    if chosen is None:
                        chosen = if_(getattr(Chain, condition))(*build(body))
                    elif condition is None:
                        chosen.else_(*build(body))
                    else:
                        chosen.elif_(getattr(Chain, condition))(*build(body))
                commands.append(chosen)
    return commands


def random_tree(rng: random.Random, depth: int) -> list:
    def node() -> object:
        kind = rng.random()
        if depth == 0 or kind < 0.5:
            return rng.choice('abcd')
        if kind < 0.55:
            return ('return', rng.choice([None, 0, 5]))
        if kind < 0.75:
            return ('while', rng.choice(['yes', 'no', 'more']), random_tree(rng, depth - 1))
        branches = [
            (rng.choice(['yes', 'no']), random_tree(rng, depth - 1)) for _ in range(rng.randint(1, 3))
        ]
        if rng.random() < 0.5:
            branches.append((None, random_tree(rng, depth - 1)))
        return ('if', branches)

    return [node() for _ in range(rng.randint(1, 4))]


@pytest.mark.parametrize('seed', range(200))
def test_random_outlines_do_what_their_tree_says(seed):
    rng = random.Random(seed)
    tree = random_tree(rng, 4)
    outline = compile_outline(Chain, *build(tree))
    replies = [rng.random() < 0.6 for _ in range(200)]

    expected: list[object] = []
    budget = iter(replies)

    def test(name: str) -> bool:
        # Once the replies are used up every condition is false, so that every loop ends.
        answer = next(budget, False)
        expected.append((name, answer))
        return answer

    end = End(None)
    try:
        expected.extend(interpret_into(expected, tree, test))
    except Returned as returned:
        (status,) = returned.args
        end = End(None if status is None else ExitCode(status))

    actual: list[object] = []
    budget_again = iter(replies)

    def ask(name: str) -> bool:
        answer = next(budget_again, False)
        actual.append((name, answer))
        return answer

    position = 0
    while True:
        certain = outline.ends_at(position)
        before = len(actual)
        found = outline.next_step(position, ask)
        if certain:
            assert isinstance(found, End)
            assert len(actual) == before
        if isinstance(found, End):
            break
        assert outline.instructions[found.position].op is Op.STEP
        # A checkpoint may also hold the step's own position: it leads to the step again.
        assert outline.next_step(found.position, ask) == found
        actual.append(found.name)
        position = found.after
    assert actual == expected
    assert found == end


def interpret_into(record: list[object], tree: list, test: Callable[[str], bool]) -> list[object]:
    """Run :func:`interpret`, recording steps as they come, between the conditions that ``test`` records."""
    for step in interpret(tree, test):
        record.append(step)
    return []

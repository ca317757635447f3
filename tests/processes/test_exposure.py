"""Work chains that wrap others: inputs handed down, outputs handed up."""

from __future__ import annotations

import pytest

from treadle.engine import ToContext, WorkChain, calcfunction, run, run_get_node

pytestmark = pytest.mark.usefixtures('engine')


class Child(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('a', valid_type=int)
        spec.input('b', valid_type=float)
        spec.input('c', valid_type=bool)
        spec.output('a', valid_type=float)
        spec.output('b', valid_type=float)
        spec.output('c', valid_type=bool)
        spec.output('inner.sum', valid_type=float, required=False)
        spec.outline(cls.work)

    def work(self):
        self.out('a', self.inputs.a + self.inputs.b)
        self.out('b', self.inputs.b)
        self.out('c', self.inputs.c)


class Parent(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        for expose in (spec.expose_inputs, spec.expose_outputs):
            expose(Child, include=['a'])
            expose(Child, exclude=['a'], namespace='sub_1')
            expose(Child, include=['b'], namespace='sub_2')
            expose(Child, include=['c'], namespace='sub_2.sub_3')
        spec.outline(cls.start, cls.gather)

    def start(self):
        inputs = self.exposed_inputs(Child, namespace='sub_1', agglomerate=False)
        one = self.submit(Child, a=self.exposed_inputs(Child)['a'], **inputs)
        two = self.submit(Child, self.exposed_inputs(Child, namespace='sub_2.sub_3'))
        return ToContext(one=one, two=two)

    def gather(self):
        self.out_many(self.exposed_outputs(self.ctx.one, Child, namespace='sub_1', agglomerate=False))
        self.out_many(self.exposed_outputs(self.ctx.two, Child, namespace='sub_2.sub_3'))


class GrandParent(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.expose_inputs(Parent, namespace='sub.sub')
        spec.expose_outputs(Parent, namespace='sub.sub')
        spec.outline(cls.start, cls.gather)

    def start(self):
        return ToContext(child=self.submit(Parent, **self.exposed_inputs(Parent, namespace='sub.sub')))

    def gather(self):
        self.out_many(self.exposed_outputs(self.ctx.child, Parent, namespace='sub.sub'))


INPUTS = {'a': 1, 'sub_1': {'b': 2.5, 'c': True}, 'sub_2': {'b': 1.25, 'sub_3': {'c': False}}}
OUTPUTS = {'a': 2.25, 'sub_1': {'b': 2.5, 'c': True}, 'sub_2': {'b': 1.25, 'sub_3': {'c': False}}}


def test_parts_of_a_child_at_several_places():
    assert run(Parent, INPUTS) == OUTPUTS


def test_two_levels():
    assert run(GrandParent, sub={'sub': INPUTS}) == {'sub': {'sub': OUTPUTS}}


def in_step(function):
    """What a function returns that is called in a step of a work chain which exposes ``Box``'s ports."""
    seen = []

    class Probe(WorkChain):
        @classmethod
        def define(cls, spec):
            super().define(spec)
            spec.expose_inputs(Box, namespace='box')
            spec.expose_inputs(Box, namespace='lazy', namespace_options={'required': False, 'lazy': True})
            spec.expose_outputs(Box, namespace='box')
            spec.expose_outputs(Box)
            spec.outputs.required = False
            spec.outline(cls.step)

        def step(self):
            seen.append(function(self))

    run(Probe, box={'settings': {'deep': {'x': 1}}, 'tags': ['a']})
    return seen[0]


class Box(WorkChain):
    @classmethod
    def define(cls, spec):
        super().define(spec)
        spec.input('settings', valid_type=dict)
        spec.input('tags', valid_type=list)
        spec.input('options.level', default=3)
        spec.output('inner.value', valid_type=int, required=False)
        spec.output('plain', valid_type=int, required=False)
        spec.outline(cls.step)

    def step(self):
        self.out('inner.value', 7)
        self.out('plain', 8)


def test_inputs_are_copies_that_can_be_changed():
    def change(self):
        inputs = self.exposed_inputs(Box, 'box')
        inputs.options.level = 4
        inputs.settings['deep']['x'] = 2
        inputs.tags.append('b')
        inputs.pop('tags')
        return self.inputs.box, inputs

    kept, inputs = in_step(change)
    assert kept == {'settings': {'deep': {'x': 1}}, 'tags': ['a'], 'options': {'level': 3}}
    assert inputs == {'settings': {'deep': {'x': 2}}, 'options': {'level': 4}}


def test_a_namespace_that_was_not_given():
    assert in_step(lambda self: self.exposed_inputs(Box, namespace='lazy')) == {}


def test_outputs_get_their_names():
    _, node = run_get_node(Box, settings={}, tags=[])
    assert in_step(lambda self: self.exposed_outputs(node, Box)) == {'inner': {'value': 7}, 'plain': 8}
    expected = {'box.inner': {'value': 7}, 'box.plain': 8}
    assert in_step(lambda self: self.exposed_outputs(node, Box, namespace='box')) == expected


@pytest.mark.parametrize(
    'ask',
    [
        lambda self: self.exposed_inputs(Box, namespace='bxo'),
        lambda self: self.exposed_inputs(Box),
        lambda self: self.exposed_inputs(Child, namespace='box'),
        lambda self: self.exposed_outputs(self.node, Box, namespace='bxo'),
        lambda self: self.exposed_outputs(self.node, Child),
    ],
)
def test_what_was_not_exposed(ask):
    with pytest.raises(ValueError, match=r'of (Box|Child) were exposed .*exposed are those in: box \(Box\)'):
        in_step(ask)


def test_a_process_function():
    @calcfunction
    def scale(x: int, factor: int = 2):
        return {'scaled': x * factor}

    class Scaler(WorkChain):
        @classmethod
        def define(cls, spec):
            super().define(spec)
            spec.expose_inputs(scale, namespace='scale')
            spec.expose_outputs(scale)
            spec.output('scaled', valid_type=int)
            spec.outline(cls.step)

        def step(self):
            self.out_many(scale(**self.exposed_inputs(scale, 'scale')))

    assert run(Scaler, scale={'x': 4}) == {'scaled': 8}

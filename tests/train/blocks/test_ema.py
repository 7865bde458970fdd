from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from zoo.train.blocks.ema import (
    copy_state,
    evaluating,
    set_dropout,
    teacher_of,
    update_teacher,
    without_dropout,
)

DECAY = 0.995


@pytest.fixture
def student() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Dropout2d()).double()


def parameters(module: nn.Module) -> Tensor:
    return nn.utils.parameters_to_vector(module.parameters()).detach().clone()


def buffers(module: nn.Module) -> list[Tensor]:
    return [buffer.clone() for buffer in module.buffers()]


def randomize(module: nn.Module) -> None:
    with torch.no_grad():
        for value in (*module.parameters(), *module.buffers()):
            value.copy_(torch.rand(value.shape) * 10)


def test_a_teacher_is_an_equal_copy_that_takes_no_gradient(student: nn.Sequential) -> None:
    teacher = teacher_of(student)
    assert torch.equal(parameters(teacher), parameters(student))
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    randomize(student)
    assert not torch.equal(parameters(teacher), parameters(student))


def test_after_n_steps_the_teacher_is_where_the_closed_form_says(student: nn.Sequential) -> None:
    teacher = teacher_of(student)
    start = parameters(teacher)
    students = []
    for _ in range(20):
        randomize(student)
        students.append(parameters(student))
        update_teacher(teacher, student, DECAY)
    expected = DECAY**20 * start + sum(
        (1 - DECAY) * DECAY ** (19 - n) * each for n, each in enumerate(students)
    )
    torch.testing.assert_close(parameters(teacher), expected, atol=1e-12, rtol=0)


def test_an_update_leaves_the_teachers_buffers_and_the_student_alone(student: nn.Sequential) -> None:
    teacher = teacher_of(student)
    randomize(student)
    before, of_student = buffers(teacher), parameters(student)
    update_teacher(teacher, student, DECAY)
    assert all(torch.equal(a, b) for a, b in zip(before, buffers(teacher), strict=True))
    assert torch.equal(parameters(student), of_student)


def test_a_copied_state_has_the_sources_parameters_and_buffers(student: nn.Sequential) -> None:
    target = teacher_of(student)
    randomize(student)
    copy_state(student, target)
    for name, value in student.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


def test_copying_a_state_keeps_the_optimizers_grip_on_the_parameters(student: nn.Sequential) -> None:
    identities = [id(p) for p in student.parameters()]
    copy_state(teacher_of(student), student)
    assert [id(p) for p in student.parameters()] == identities


def test_switching_dropout_leaves_batch_norm_in_its_mode(student: nn.Sequential) -> None:
    set_dropout(student, active=False)
    assert [child.training for child in student] == [True, True, False, False]
    set_dropout(student, active=True)
    assert [child.training for child in student] == [True, True, True, True]


def test_evaluating_restores_the_mode_of_every_layer(student: nn.Sequential) -> None:
    student[1].eval()
    with evaluating(student):
        assert not any(module.training for module in student.modules())
    assert student.training
    assert [child.training for child in student] == [True, False, True, True]


def test_evaluating_restores_the_modes_after_an_error(student: nn.Sequential) -> None:
    with pytest.raises(ValueError, match="inside"), evaluating(student):
        raise ValueError("inside")
    assert all(module.training for module in student.modules())


def test_without_dropout_batch_norm_goes_on_and_the_modes_come_back(student: nn.Sequential) -> None:
    with without_dropout(student):
        assert [child.training for child in student] == [True, True, False, False]
    assert all(module.training for module in student.modules())


def test_without_dropout_an_evaluated_module_stays_in_evaluation(student: nn.Sequential) -> None:
    student.eval()
    with without_dropout(student):
        pass
    assert not any(module.training for module in student.modules())

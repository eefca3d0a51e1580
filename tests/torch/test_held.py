"""What a model computes with is what is verified: through wrappers, hooks and subclasses, whatever it says."""

from __future__ import annotations

import mmap
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: install hashbench[torch]")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

from wrapping_tensors import Quantised  # noqa: E402  # after what it needs is known to be there

from hashbench.torch import TensorError, manifest, verified, verify  # noqa: E402
from hashbench.torch.held import inner_names  # noqa: E402
from hashbench.torch.places import host_bytes  # noqa: E402
from hashbench.torch.watch import Finding, Watch  # noqa: E402

nn = torch.nn


def small() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), nn.ModuleDict({"norm": nn.BatchNorm1d(6)}), nn.Linear(6, 4))


# The memory that the module's code reads ------------------------------------------------------------------------------


def test_a_state_dict_that_lies_is_not_believed() -> None:
    module = small()
    trusted = manifest(module)
    good = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module.register_state_dict_post_hook(lambda module, state, prefix, local: state.update(good))
    assert verify(module, trusted).ok
    with torch.no_grad():
        module[0].weight.zero_()
    assert verify(module, trusted).differs == ("0.weight",)


def test_a_module_that_overrides_its_state_dict_is_not_believed() -> None:
    class Liar(nn.Linear):  # type: ignore[misc,name-defined]
        def state_dict(self, *args: Any, **kwargs: Any) -> Any:
            return {"weight": torch.ones(3, 2), "bias": torch.zeros(3)}

    module = Liar(2, 3)
    nn.init.zeros_(module.weight)
    nn.init.zeros_(module.bias)
    trusted = manifest(module.state_dict())
    assert verify(module, trusted).differs == ("weight",)


@pytest.mark.parametrize("where", ["instance", "class"])
def test_a_parameter_that_an_attribute_hides_is_a_problem(where: str) -> None:
    class Linear(nn.Linear):  # type: ignore[misc,name-defined]
        pass

    module = Linear(2, 3)
    trusted = manifest(module)
    assert verify(module, trusted).ok
    zeros = torch.zeros(3, 2)
    if where == "instance":
        module.__dict__["weight"] = zeros
    else:
        Linear.weight = zeros
    assert not module(torch.ones(1, 2)).sub(module.bias).any()  # it computes with zeros
    report = verify(module, trusted)
    (problem,) = report.problems
    assert problem.startswith("tensor 'weight': an attribute of the same name hides it")
    assert (report.ok, report.missing, report.differs) == (False, (), ())
    with pytest.raises(TensorError, match="hides it"):
        manifest(module)


def nested() -> Any:
    """A model whose module `body.lin` can be hidden."""

    class Body(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
            self.lin.register_buffer("mask", torch.ones(4), persistent=False)

    return nn.ModuleDict({"body": Body()})


@pytest.mark.parametrize("where", ["instance", "class", "parameters", "buffers"])
def test_all_tensors_of_a_module_that_an_attribute_hides_are_a_problem(where: str) -> None:
    module = nested()
    trusted, whole = manifest(module), manifest(module, everything=True)
    assert verify(module, whole).ok
    body, other = module["body"], nn.Linear(4, 4)
    if where == "instance":
        body.__dict__["lin"] = other
    elif where == "class":
        type(body).lin = other
    else:
        other = getattr(body, f"_{where}")["lin"] = None
    assert body.lin is other
    report = verify(module, trusted)
    (problem,) = report.problems
    assert problem.startswith(
        "tensor 'body.lin.0.weight' and 6 more: an attribute of the same name hides the module 'body.lin', so that"
    )
    assert (report.ok, report.missing, report.differs) == (False, (), ())
    (problem,) = verify(module, whole).problems
    assert "and 7 more: an attribute of the same name hides the module 'body.lin'" in problem
    with pytest.raises(TensorError, match=r"hides the module 'body\.lin'"):
        manifest(module)


def test_a_monitor_finds_that_a_module_is_hidden() -> None:
    module = nested()
    found: list[Finding] = []
    watch = Watch(module, manifest(module), None, (), 60.0, random.Random(0), 0.0, found.append)
    module["body"].__dict__["lin"] = nn.Linear(4, 4)
    watch.look(1.0)
    assert {finding.kind for finding in found} == {"gone"}
    assert {finding.tensor for finding in found} == manifest(nested()).by_name.keys()
    assert "hides the module 'body.lin'" in str(found[0])


@pytest.mark.parametrize("where", ["instance", "class", "parameters"])
def test_a_buffer_that_something_else_hides_is_a_problem(where: str) -> None:
    class Norm(nn.BatchNorm1d):  # type: ignore[misc,name-defined]
        pass

    module = Norm(4)
    module.register_buffer("mask", torch.ones(4), persistent=False)
    trusted = manifest(module, everything=True)
    for name in ("running_mean", "mask"):
        if where == "class":
            setattr(Norm, name, None)
        else:
            {"instance": module.__dict__, "parameters": module._parameters}[where][name] = None
        assert getattr(module, name) is None
    report = verify(module, trusted)
    (problem,) = report.problems
    assert problem.startswith("tensor 'mask' and 1 more: an attribute of the same name hides it")
    assert (report.ok, report.missing) == (False, ())


def test_an_attribute_that_the_class_computes_is_a_problem() -> None:
    module = Rotary()
    trusted = manifest(module, everything=True)
    module.__class__ = type("Computed", (Rotary,), {"original": property(lambda self: torch.zeros(4))})
    assert not module.original.any()
    (problem,) = verify(module, trusted).problems
    assert problem.startswith("tensor 'original': an attribute of the same name hides it")


def test_a_parameter_is_no_buffer_whatever_a_set_of_names_says() -> None:
    module = nn.Linear(2, 3)
    trusted = manifest(module)
    module.register_parameter("more", nn.Parameter(torch.ones(2)))
    module._non_persistent_buffers_set.add("more")
    assert verify(module, trusted).extra == ("more",)


def test_a_recurrent_module_computes_with_its_parameters_or_has_a_problem() -> None:
    module = nn.LSTM(3, 4)
    trusted = manifest(module)
    assert verify(module, trusted).ok
    module._flat_weights[0] = torch.zeros_like(module.weight_ih_l0)
    (problem,) = verify(module, trusted).problems
    assert problem.startswith("tensor 'weight_ih_l0': the module computes with another tensor")


def test_hooks_that_add_numbers_to_a_state_dict_do_no_harm() -> None:
    module = small()
    trusted = manifest(module)
    module.register_state_dict_post_hook(lambda module, state, prefix, local: state.update(step=3, name="x", none=None))
    state = module.state_dict()
    assert {"step", "name", "none"} <= state.keys()
    assert verify(module, trusted).ok
    assert verify(state, trusted).ok
    assert manifest(state) == manifest(module) == trusted


def test_extra_state_that_is_a_tensor_has_an_entry() -> None:
    class Scaled(nn.Linear):  # type: ignore[misc,name-defined]
        def get_extra_state(self) -> Any:
            return torch.arange(3)

        def set_extra_state(self, state: Any) -> None:
            pass

    module = nn.Sequential(Scaled(2, 3))
    trusted = manifest(module.state_dict())
    assert [entry.name for entry in trusted.entries] == ["0._extra_state", "0.bias", "0.weight"]
    assert verify(module, trusted).ok


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.ones(2, 8)), torch.fx.symbolic_trace]
)
def test_compiled_modules_have_the_names_of_their_sources(make: Callable[[Any], Any]) -> None:
    module = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))
    trusted = manifest(module)
    compiled = make(module)
    assert verify(compiled, trusted).ok
    with torch.no_grad():
        module[2].bias[1] += 1
    assert verify(compiled, trusted).differs == ("2.bias",)


# Wrappers -------------------------------------------------------------------------------------------------------------


def compiled(module: Any) -> Any:
    return torch.compile(module, backend="eager")  # whose wrapper is that of all backends


def parallel(module: Any) -> Any:
    """DistributedDataParallel without a process group, which its names do not need."""
    wrapped = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = module
    return wrapped


def partly_compiled(module: Any) -> Any:
    module[1]["norm"] = compiled(module[1]["norm"])
    return module


WRAPPED: dict[str, Callable[[Any], Any]] = {
    "compile": compiled,
    "compiled layers": partly_compiled,
    "data parallel": nn.DataParallel,
    "distributed": parallel,
    "average": torch.optim.swa_utils.AveragedModel,
    "compiled, distributed": lambda module: compiled(parallel(module)),
    "distributed, compiled": lambda module: parallel(compiled(module)),
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers_are_seen_through(how: str) -> None:
    module = small()
    trusted = manifest(module)
    wrapped = WRAPPED[how](module)
    assert verify(wrapped, trusted).ok
    assert manifest(wrapped) == trusted
    if how != "average":  # whose state dict has a count, too
        state = wrapped.state_dict()
        assert any(name not in trusted.by_name for name in state)
        assert verify(state, trusted).ok
        assert verify(module, manifest(state)).ok
    with torch.no_grad():
        next(wrapped.parameters()).view(-1)[0] += 1
    assert verify(wrapped, trusted).differs == ("0.weight",)


def test_what_wrappers_compute_with_is_not_passed_over() -> None:
    class Compiled(nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self._orig_mod, self.head = inner, nn.Linear(4, 2)
            self.scale = nn.Parameter(torch.ones(1))

    class Parallel(nn.DataParallel):  # type: ignore[misc,name-defined]
        def __init__(self, inner: Any) -> None:
            super().__init__(inner)
            self.head = nn.Linear(4, 2)
            self.register_buffer("scale", torch.ones(1))

    module = small()
    trusted = manifest(module)
    for wrapped in (Compiled(module), Parallel(module), compiled(Parallel(module)), parallel(Compiled(module))):
        report = verify(wrapped, trusted)
        assert (report.extra, report.missing, report.differs) == (("head.bias", "head.weight", "scale"), (), ())
        assert {"0.weight", "head.weight", "scale"} <= {entry.name for entry in manifest(wrapped).entries}
    average = torch.optim.swa_utils.AveragedModel(module)
    average.head = nn.Linear(4, 2)
    assert verify(average, trusted).extra == ("head.bias", "head.weight")


def test_a_wrapped_module_that_an_attribute_hides_is_a_problem() -> None:
    module = small()
    trusted = manifest(module)
    for wrapped in (parallel(module), compiled(module)):
        (name,) = wrapped._modules
        wrapped.__dict__[name] = small()
        (problem,) = verify(wrapped, trusted).problems
        assert f"an attribute of the same name hides the module '{name}'" in problem


def test_an_attribute_that_is_the_very_same_hides_nothing() -> None:
    class Engine(nn.Module):  # type: ignore[misc,name-defined]
        """A wrapper as DeepSpeed's, which keeps the model in both places."""

        def __init__(self, inner: Any) -> None:
            super().__init__()
            self._modules["module"] = self.__dict__["module"] = inner

    engine = Engine(small())
    trusted = manifest(engine.module)
    assert verify(engine, trusted).ok
    engine.__dict__["module"] = small()
    assert "hides the module 'module'" in verify(engine, trusted).problems[0]


def test_wrappers_below_the_whole_model_keep_their_names() -> None:
    module = nn.Sequential(nn.DataParallel(nn.Linear(2, 3)), torch.optim.swa_utils.AveragedModel(nn.Linear(3, 2)))
    trusted = manifest(module.state_dict())
    assert trusted.by_name.keys() > {"0.module.weight", "1.module.weight", "1.n_averaged"}
    assert manifest(module) == trusted


class LoraLinear(nn.Module):  # type: ignore[misc,name-defined]
    """A layer as PEFT wraps it."""

    def __init__(self, base: Any) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})


def adapted(module: Any) -> Any:
    """A model as PEFT 0.21 wraps it for LoRA."""
    module[0] = LoraLinear(module[0])
    return nn.ModuleDict({"base_model": nn.ModuleDict({"model": module})})


def test_adapters_are_extra_and_what_is_below_them_is_verified() -> None:
    module = small()
    trusted = manifest(module)
    model = adapted(module)
    lora = "base_model.model.0.lora_A.default.weight"
    assert "base_model.model.0.base_layer.weight" in model.state_dict()
    for held in (model, model.state_dict()):
        report = verify(held, trusted)
        assert (report.extra, report.missing, report.differs, report.problems) == ((lora,), (), (), ())
        report = verify(held, trusted, ignore=["*.lora_*"])
        assert (report.ok, report.ignored) == (True, (lora,))
    with torch.no_grad():
        module[0].base_layer.weight[1, 1] += 1
    assert verify(model, trusted, ignore=["*.lora_*"]).differs == ("0.weight",)


def test_a_tensor_is_taken_for_another_only_where_that_is_missing() -> None:
    weight = torch.ones(3)
    trusted = manifest({"a.weight": weight})
    other = torch.zeros(3)
    assert verify({"a.base_layer.weight": weight}, trusted).ok
    report = verify({"a.weight": weight, "a.base_layer.weight": other}, trusted)
    assert (report.differs, report.extra) == ((), ("a.base_layer.weight",))
    report = verify({"a.base_layer.weight": weight, "a._orig_mod.weight": other}, trusted)
    assert not report.ok
    ambiguous = manifest({"x.base_layer.w": weight, "module.x.w": weight})
    assert verify({"x.w": weight}, ambiguous).missing == ("module.x.w", "x.base_layer.w")


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("module._orig_mod.a.weight", ["a.weight"]),
        ("_orig_mod.module.a.weight", ["a.weight"]),
        ("base_model.model.model.q.base_layer.weight", ["model.q.weight", "model.model.q.weight"]),
        ("base_model.model.module.q.weight", ["q.weight", "model.module.q.weight"]),
        ("module.base_model.transformer.wte.weight", ["transformer.wte.weight"]),
        ("a.module.weight", ["a.module.weight"]),
    ],
)
def test_names_without_what_wrappers_add(name: str, inner: list[str]) -> None:
    assert list(inner_names(name)) == inner


@pytest.mark.parametrize("own", ["", "model.", "transformer."])
def test_models_with_tuned_prompts_are_seen_through(own: str) -> None:
    """PEFT 0.21 wraps a model for prompt tuning without the `model` that it adds for adapters."""
    state = {f"{own}{name}": tensor for name, tensor in small().state_dict().items()}
    tuned = {f"base_model.{name}": tensor for name, tensor in state.items()} | {"prompt_encoder.w": torch.ones(3)}
    assert verify(tuned, manifest(state)).extra == ("prompt_encoder.w",)
    assert verify(tuned, manifest(state), ignore=["prompt_encoder.*"]).ok
    assert verify(state, manifest(tuned), ignore=["prompt_encoder.*"]).ok
    tuned[f"base_model.{own}2.bias"] = torch.ones(4)
    assert verify(tuned, manifest(state)).differs == (f"{own}2.bias",)


# Names, and what is left out ------------------------------------------------------------------------------------------


def test_names_may_be_given() -> None:
    module = small()
    trusted = manifest(module)
    state = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    assert verify(state, trusted, names="model.").ok
    assert verify(state, trusted, names=lambda name: name.partition(".")[2]).ok
    assert manifest(state, names="model.") == trusted
    with pytest.raises(ValueError, match="two tensors of the model have the name 'x'"):
        verify(module, trusted, names=lambda name: "x")
    with pytest.raises(TypeError, match="returned a int: it must return a string"):
        verify(module, trusted, names=lambda name: 1)  # type: ignore[arg-type,return-value]


def test_a_missing_prefix_is_one_line() -> None:
    state = {f"layers.{number}.weight": torch.ones(1) for number in range(720)}
    trusted = manifest(state)
    report = verify({f"model.{name}": tensor for name, tensor in state.items()}, trusted)
    assert str(report) == ("missing and extra: 720 names begin with model. in the model, but not in the manifest")


def test_what_is_ignored_is_said() -> None:
    module = small()
    trusted = manifest(module)
    with torch.no_grad():
        module[2].bias.zero_()
    del module[1]
    report = verify(module, trusted, ignore=["1.*", "2.*"])
    assert report.ok
    assert report.ignored == ("1.bias", "1.weight")  # which the manifest has as 2.bias and 2.weight
    assert report.notes == ("not compared, as `ignore` says: 7 tensors that the manifest lists",)
    assert [entry.name for entry in manifest(module, ignore=["*.bias"]).entries] == ["0.weight", "1.weight"]
    assert verify(module, trusted, ignore=iter(["1.*", "2.*"])) == report
    assert manifest(module, ignore=iter(["*.bias"])) == manifest(module, ignore=["*.bias"])
    with pytest.raises(TypeError, match=r"the string '1\.\*' is not accepted: pass a list of patterns"):
        verify(module, trusted, ignore="1.*")


# What no state dict has -----------------------------------------------------------------------------------------------


class Rotary(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("inv_freq", torch.arange(4.0), persistent=False)
        self.original = self.inv_freq.clone()
        self.list = [torch.ones(1)]


def test_buffers_and_attributes_can_be_in_a_manifest() -> None:
    module = nn.ModuleDict({"rope": Rotary()})
    assert [entry.name for entry in manifest(module).entries] == ["rope.weight"]
    whole = manifest(module, everything=True)
    assert [entry.name for entry in whole.entries] == ["rope.inv_freq", "rope.original", "rope.weight"]
    assert manifest(compiled(module), everything=True) == whole
    assert verify(module, whole).ok
    module["rope"].inv_freq[2] += 1
    assert verify(module, whole).differs == ("rope.inv_freq",)
    module["rope"].inv_freq[2] -= 1
    module["rope"].original = torch.zeros(4)
    assert verify(module, whole).differs == ("rope.original",)


def test_attributes_are_extra_only_if_that_is_asked_for() -> None:
    module = nn.ModuleDict({"rope": Rotary()})
    trusted = manifest(module)
    assert verify(module, trusted).ok
    assert verify(module, trusted, everything=True).extra == ("rope.inv_freq", "rope.original")


# What cannot be hashed ------------------------------------------------------------------------------------------------


def test_one_tensor_that_cannot_be_hashed_leaves_the_others_verified() -> None:
    module = small()
    trusted = manifest(module)
    with torch.no_grad():
        module[2].weight[0, 0] += 1
    module[0].to("meta")
    report = verify(module, trusted)
    assert (report.differs, report.missing, report.extra) == (("2.weight",), (), ())
    (problem,) = report.problems
    assert problem.startswith("tensor '0.weight' and 1 more: it is on the meta device")
    with pytest.raises(TensorError, match=r"'0\.weight' and 1 more: it is on the meta device"):
        manifest(module)
    report = verify(module, trusted, ignore=["0.*", "2.weight"])
    assert report.ok


def test_what_accelerate_offloads_is_told_in_words_that_help() -> None:
    module = small()
    trusted = manifest(module)
    module[0].to("meta")
    module[0]._hf_hook = object()  # as accelerate's AlignDevicesHook lies there
    (problem,) = verify(module, trusted).problems
    assert problem.startswith("tensor '0.weight' and 1 more: accelerate offloads it")
    assert "load the model without offloading" in problem


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_packed_weights_are_told_in_words_that_help() -> None:
    module = small()
    trusted = manifest(module)
    quantised = torch.ao.quantization.quantize_dynamic(module, {nn.Linear})
    report = verify(quantised, trusted)
    (problem,) = report.problems
    assert problem.startswith("tensor '0._packed_params._packed_params' and 1 more: the weights are packed")
    assert report.missing == ("0.bias", "0.weight", "2.bias", "2.weight")
    of_state = verify(quantised.state_dict(), trusted)
    assert of_state.problems == (problem.replace("_packed_params._packed_params' and 1", "scale' and 5"),)
    assert (of_state.missing, of_state.extra) == (report.missing, ())
    recurrent = torch.ao.quantization.quantize_dynamic(nn.ModuleList([nn.LSTM(3, 4)]), {nn.LSTM})
    (problem,) = verify(recurrent.state_dict(), trusted).problems
    assert problem.startswith("tensor '0._all_weight_values.0.param': the weights are packed")


# Subclasses that wrap other tensors -----------------------------------------------------------------------------------


def test_a_subclass_is_the_tensors_that_it_says_it_wraps() -> None:
    qdata, scale = torch.arange(12, dtype=torch.int8).reshape(3, 4), torch.ones(3, 1)
    module = nn.Sequential(nn.Linear(4, 3))
    module[0].weight = nn.Parameter(Quantised(qdata, scale), requires_grad=False)
    trusted = manifest({"0._weight_qdata": qdata, "0._weight_scale": scale, "0.bias": module[0].bias})
    assert manifest(module) == trusted
    assert verify(module, trusted).ok
    assert verify(compiled(module), trusted).ok
    scale[2] = 0
    assert verify(module, trusted).differs == ("0._weight_scale",)
    hollow = type("Hollow", (Quantised,), {"__tensor_flatten__": lambda self: ([], None)})(qdata, scale)
    assert "wraps no tensors" in verify({"w": qdata, "x": hollow}, manifest({"w": qdata})).problems[0]
    nested = {"w": Quantised(qdata, Quantised(qdata, scale))}
    assert [entry.name for entry in manifest(nested).entries] == ["__w_scale_qdata", "__w_scale_scale", "_w_qdata"]


# Memory that is a file's ----------------------------------------------------------------------------------------------


def test_tensors_that_a_file_can_change_are_told(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors_torch.save_file({"a": torch.ones(5000), "b": torch.zeros(5000)}, path)
    mapped = safetensors_torch.load_file(path)
    trusted = manifest(mapped)
    report = verify(mapped, trusted)
    assert report.ok
    (note,) = report.notes
    assert note.startswith(f"2 tensors are mapped from {path}: a change there changes them after this verdict")
    second = tmp_path / "second.safetensors"
    safetensors_torch.save_file({"c": torch.ones(5000)}, second)
    both = mapped | safetensors_torch.load_file(second)
    assert verify(both, manifest(both)).notes[0].startswith(f"3 tensors are mapped from {path} and 1 more: ")
    with path.open("r+b") as file:
        file.seek(-4, 2)
        file.write(b"\1\2\3\4")
    assert verify(mapped, trusted).differs == ("b",)  # as the note said
    assert verify({name: tensor.clone() for name, tensor in mapped.items()}, trusted).notes == ()


def test_memory_without_a_file_is_not_taken_for_a_mapping() -> None:
    private = torch.frombuffer(mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=torch.uint8)
    state = {"a": private, "b": torch.ones(1 << 20), "c": torch.empty(0)}
    assert verify(state, manifest(state)).notes == ()


@pytest.mark.parametrize("shape", [(0,), (1,), (300, 7)])
def test_memory_that_was_hashed_can_be_resized(shape: tuple[int, ...]) -> None:
    def resized(tensor: Any) -> bool:
        tensor.untyped_storage().resize_(tensor.nbytes + 64)
        return bool(tensor.untyped_storage().nbytes() == tensor.nbytes + 64)

    trusted = manifest({"w": torch.zeros(shape)} | {"one": torch.zeros(1)})
    state = {"w": torch.zeros(shape), "one": torch.zeros(1)}
    assert verify(state, trusted).ok
    assert manifest(state) == trusted
    assert all(tensor is state[name] for name, tensor in verified(state.items(), trusted))
    assert all(map(resized, state.values()))
    assert verify(state, trusted).ok


def test_memory_that_is_hashed_lives_as_long_as_what_shares_it() -> None:
    data = host_bytes(torch.arange(1 << 20, dtype=torch.uint8))
    other = torch.zeros(1 << 20, dtype=torch.uint8)
    assert not other.any()
    assert bytes(data[:512]) == bytes(range(256)) * 2

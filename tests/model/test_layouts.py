"""Layouts: what is derived from leaf hashes alone is what hashing the tensors in memory gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import in_own_process, in_process
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from profiles import examples

import hashbench
from hashbench.merkle.rfc9162 import chunks_of, merkle_tree_hash
from hashbench.model.layouts import Derived, LayoutError, Part, Rule, derive, parse_layout, read_layout, shipped
from hashbench.model.manifest import Manifest, read_manifest
from hashbench.model.sidecar import opened_sidecar

CHUNK = 64
Array = np.ndarray[Any, np.dtype[Any]]
State = Mapping[str, Array]


def array(shape: Sequence[int], seed: int = 0, dtype: str = "uint16") -> Array:
    """Random bytes, as a dtype of files has them."""
    return (
        np.random.default_rng(seed)
        .integers(1, 256, size=(*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
        .view(dtype)[..., 0]
    )


def derived(
    folder: Path,
    state: State,
    rules: Sequence[Rule],
    ranks: int = 1,
    rank: int = 0,
    chunk_size: int = CHUNK,
    kv_heads: int | None = None,
) -> Derived:
    """What follows from the manifest and the leaf hashes of a file with these tensors."""
    header, end = {}, 0
    for name, value in state.items():
        dtype = {"uint16": "BF16", "float32": "F32", "uint8": "U8"}[str(value.dtype)]
        header[name] = {"dtype": dtype, "shape": list(value.shape), "data_offsets": [end, end := end + value.nbytes]}
    text = json.dumps(header).encode()
    path = folder / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for value in state.values()))
    manifest = hashbench.manifest(path, chunk_size=chunk_size, leaves=folder / "leaves", kernel="hashlib")
    path.unlink()  # no weights are read from here on
    with opened_sidecar(folder / "leaves", manifest) as leaves:
        return derive(manifest, leaves, rules, ranks, rank, kv_heads)


def content(manifest: Manifest) -> dict[str, tuple[tuple[int, ...], int, bytes]]:
    return {entry.name: (entry.shape, entry.nbytes, entry.root) for entry in manifest.tensors}


def hashed(state: State, chunk_size: int = CHUNK) -> dict[str, tuple[tuple[int, ...], int, bytes]]:
    """The same of tensors in memory."""
    return {
        name: (value.shape, value.nbytes, merkle_tree_hash(chunks_of(value.tobytes(), chunk_size), "sha256"))
        for name, value in state.items()
    }


def padded(value: Array, multiple: int) -> Array:
    rows = -(-len(value) // multiple) * multiple
    return np.concatenate([value, np.zeros((rows - len(value), *value.shape[1:]), value.dtype)])


# The rules ------------------------------------------------------------------------------------------------------------

WIDTH = 32  # elements of two bytes: a row is a chunk


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_fused_tensors_are_those_of_their_parts(ranks: int, tmp_path: Path) -> None:
    q, k, v = array((16, WIDTH), 1), array((8, WIDTH), 2), array((4, WIDTH), 3)
    rule = Rule("qkv", (Part("q", 0), Part("k", 0), Part("v", 0)))
    for rank in range(ranks):
        found = derived(tmp_path, {"q": q, "k": k, "v": v}, [rule], ranks, rank)
        parts = [np.split(part, ranks)[rank] for part in (q, k, v)]
        assert content(found.manifest) == hashed({"qkv": np.concatenate(parts)})
        assert (found.refused, found.unused) == ({}, ())


def test_heads_that_ranks_share(tmp_path: Path) -> None:
    q, k = array((16, WIDTH), 1), array((4, WIDTH), 2)
    rule = Rule("qk", (Part("q", 0), Part("k", 0, most=2)))
    for rank in range(8):
        found = derived(tmp_path, {"q": q, "k": k}, [rule], 8, rank)
        expected = np.concatenate([np.split(q, 8)[rank], np.split(k, 2)[rank // 4]])
        assert content(found.manifest) == hashed({"qk": expected})
    assert "are not for 3 ranks alike" in derived(tmp_path, {"q": array((18, WIDTH)), "k": k}, [rule], 3).refused["qk"]


def test_heads_that_ranks_share_must_be_counted(tmp_path: Path) -> None:
    state = {"q": array((16, WIDTH), 1), "k": array((8, WIDTH), 2)}
    rules = [Rule("qk", (Part("q", 0), Part("k", 0, most="kv_heads")))]
    for kv_heads, ranks in ((1, 2), (2, 2), (4, 2), (2, 4), (4, 1), (None, 1)):
        shards = min(kv_heads or 1, ranks)
        for rank in range(ranks):
            found = derived(tmp_path, state, rules, ranks, rank, kv_heads=kv_heads)
            shared = np.split(state["k"], shards)[rank * shards // ranks]
            assert content(found.manifest) == hashed(
                {"qk": np.concatenate([np.split(state["q"], ranks)[rank], shared])}
            )
    with pytest.raises(LayoutError, match=r"'k' is cut by key and value heads, .* give their number \(--kv-heads\)"):
        derived(tmp_path, state, rules, 2)
    with pytest.raises(ValueError, match="8 key and value heads are not accepted for 3 ranks"):
        derived(tmp_path, state, rules, 3, kv_heads=8)
    with pytest.raises(ValueError, match="0 key and value heads are not accepted"):
        derived(tmp_path, state, rules, kv_heads=0)
    with pytest.raises(LayoutError, match="cuts nothing by key and value heads: their number has no use"):
        derived(tmp_path, state, [Rule("q", (Part("q", 0),))], 2, kv_heads=8)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_vocabulary_is_padded_with_zeros(ranks: int, tmp_path: Path) -> None:
    weight = array((37, WIDTH), 1)
    for rank in range(ranks):
        found = derived(tmp_path, {"w": weight}, [Rule("w", (Part("w", 0, pad=16),))], ranks, rank)
        assert content(found.manifest) == hashed({"w": np.split(padded(weight, 16), ranks)[rank]})


def test_columns_are_derived_where_rows_are_cut_between_chunks(tmp_path: Path) -> None:
    weight = array((6, 4 * WIDTH), 1)
    for rank in range(4):
        found = derived(tmp_path, {"w": weight}, [Rule("w", (Part("w", 1),))], 4, rank)
        assert content(found.manifest) == hashed({"w": np.ascontiguousarray(np.split(weight, 4, 1)[rank])})
    found = derived(tmp_path, {"w": weight}, [Rule("w", (Part("w", 1),))], 8)
    assert content(found.manifest) == {}
    assert found.refused == {"w": "it has 32 bytes from each 256 of 'w', which is within a chunk of 64 bytes"}


def test_experts_are_stacked(tmp_path: Path) -> None:
    state = {f"e.{n}.w{w}": array((4, WIDTH), 10 * n + w) for n in range(12) for w in (1, 3)}
    rule = Rule("w13", (Part("e.{expert}.w1", 0), Part("e.{expert}.w3", 0)), "expert")
    for rank in range(2):
        found = derived(tmp_path, state, [rule], 2, rank)
        experts = [np.concatenate([np.split(state[f"e.{n}.w{w}"], 2)[rank] for w in (1, 3)]) for n in range(12)]
        assert content(found.manifest) == hashed({"w13": np.stack(experts)})
    del state["e.5.w1"]
    with pytest.raises(LayoutError, match=r"'w13': the numbers for \{expert\} are not all from 0 on"):
        derived(tmp_path, state, [rule])
    state["e.5.w1"] = array((2, WIDTH))
    assert derived(tmp_path, state, [rule]).refused == {"w13": "what is stacked has different shapes"}


def test_what_cannot_be_derived_is_named(tmp_path: Path) -> None:
    state = {
        "short": array((33,), 1),
        "next": array((32,), 2),
        "wide": array((4, WIDTH), 3),
        "f": array((4, WIDTH // 2), 4, "float32"),
        "scalar": array((), 5),
        "left": array((1,), 6),
    }
    rules = [
        Rule("a", (Part("short"), Part("next"))),
        Rule("b", (Part("next"), Part("short"))),
        Rule("c", (Part("wide"), Part("next"))),
        Rule("d", (Part("wide"), Part("f"))),
        Rule("e", (Part("wide", 0),)),
        Rule("g", (Part("wide", 3),)),
        Rule("h", (Part("scalar"), Part("scalar"))),
        Rule("i", (Part("scalar"),)),
        Rule("none", (Part("none"),)),
    ]
    found = derived(tmp_path, state, rules, 3)
    joined = np.concatenate([state["next"], state["short"]])
    assert content(found.manifest) == hashed({"b": joined, "i": state["scalar"]})
    assert found.refused == {
        "a": "'short' ends within a chunk of 64 bytes",
        "c": "its parts have shapes that cannot be joined along the first dimension",
        "d": "its parts have different dtypes",
        "e": "the 4 of dimension 0 of 'wide' are not 3 shards",
        "g": "'wide' has no dimension 3 to cut",
        "h": "its parts have shapes that cannot be joined along the first dimension",
    }
    assert found.unused == ("left",)


def test_padding_within_a_chunk_and_without_end_is_refused(tmp_path: Path) -> None:
    state = {"w": array((3, 5)), "v": array((1, WIDTH))}
    assert "'w' ends within" in derived(tmp_path, state, [Rule("w", (Part("w", pad=8),))]).refused["w"]
    two = Rule("x", (Part("v", pad=2), Part("v", pad=2)))
    assert content(derived(tmp_path, state, [two]).manifest) == hashed({"x": np.tile(padded(state["v"], 2), (2, 1))})
    huge = Rule("v", (Part("v", pad=1 << 27),))
    assert "more than 4,294,967,296 bytes" in derived(tmp_path, state, [huge]).refused["v"]


def test_a_name_is_made_once_and_of_what_is_there(tmp_path: Path) -> None:
    state = {"a.0": array((2,)), "b.0": array((2,)), "a.1": array((2,)), "a.01": array((2,))}
    copy = Rule("x.{n}", (Part("a.{n}"),))
    assert sorted(content(derived(tmp_path, state, [copy]).manifest)) == ["x.0", "x.1"]
    with pytest.raises(LayoutError, match=r"two rules make 'x\.0'"):
        derived(tmp_path, state, [copy, copy])
    with pytest.raises(LayoutError, match=r"'x\.1': the manifest has no tensor 'b\.1'"):
        derived(tmp_path, state, [Rule("x.{n}", (Part("a.{n}"), Part("b.{n}")))])
    with pytest.raises(LayoutError, match="makes no tensor of what the manifest lists"):
        derived(tmp_path, state, [Rule("x", (Part("c"),))])
    for ranks, rank in ((0, 0), (2, 2), (2, -1), (1 << 20, 0)):
        with pytest.raises(ValueError, match="is not accepted: ranks are counted from 0"):
            derived(tmp_path, state, [copy], ranks, rank)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], parent=examples(40))
@given(data=st.data())
def test_any_layout_is_derived_right_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Numpy makes the tensors in memory: their roots are those that were derived, for every rank."""
    draw = data.draw
    ranks = draw(st.sampled_from([1, 2, 3, 4]))
    columns = draw(st.sampled_from([8, 32, 64, 96, 128]))
    dimension, pad = draw(st.sampled_from([(0, 1), (0, 4), (1, 1)]))
    count = draw(st.integers(1, 3))
    rows = [draw(st.integers(1, 12)) for _ in range(count)]
    state = {f"t{n}": array((length, columns), n) for n, length in enumerate(rows)}
    rule = Rule("t", tuple(Part(name, dimension, pad=pad) for name in state))
    rank = draw(st.integers(0, ranks - 1))
    found = derived(tmp_path, state, [rule], ranks, rank)
    if found.refused:
        whole = columns * 2 % CHUNK == 0 and all(-(-length // pad) * pad % ranks == 0 for length in rows)
        assert dimension == 1 or not whole
        return
    parts = [np.split(padded(part, pad), ranks, dimension)[rank] for part in state.values()]
    assert content(found.manifest) == hashed({"t": np.concatenate(parts)})


# Frameworks' layouts --------------------------------------------------------------------------------------------------


def llama(layers: int = 2, hidden: int = 128, heads: int = 8, shared: int = 4, mlp: int = 256) -> dict[str, Array]:
    """A model with Llama's names, small enough for chunks of 64 bytes."""
    head, seed = hidden // heads, iter(range(1000))
    state = {
        "model.embed_tokens.weight": array((100, hidden), next(seed)),
        "model.norm.weight": array((hidden,), next(seed)),
    }
    state["lm_head.weight"] = array((100, hidden), next(seed))
    for layer in range(layers):
        for name, shape in {
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (shared * head, hidden),
            "self_attn.v_proj": (shared * head, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (mlp, hidden),
            "mlp.up_proj": (mlp, hidden),
            "mlp.down_proj": (hidden, mlp),
        }.items():
            state[f"model.layers.{layer}.{name}.weight"] = array(shape, next(seed))
    return state


def in_vllm(state: State, ranks: int, rank: int, kv_heads: int = 4) -> dict[str, Array]:
    """What vLLM's loaders make of a model with Llama's names, or Mixtral's."""

    def cut(name: str, dimension: int) -> Array:
        shards = min(ranks, kv_heads) if "k_proj" in name or "v_proj" in name else ranks
        return np.ascontiguousarray(np.split(state[name], shards, dimension)[rank * shards // ranks])

    made = {}
    for name, value in state.items():
        layer = name.rpartition(".self_attn")[0] or name.partition(".mlp")[0].partition(".block")[0]
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            made[name] = np.split(padded(value, 64), ranks)[rank]
        elif "q_proj" in name:
            parts = [cut(f"{layer}.self_attn.{part}_proj.weight", 0) for part in "qkv"]
            made[f"{layer}.self_attn.qkv_proj.weight"] = np.concatenate(parts)
        elif "gate_proj" in name:
            parts = [cut(f"{layer}.mlp.{part}_proj.weight", 0) for part in ("gate", "up")]
            made[f"{layer}.mlp.gate_up_proj.weight"] = np.concatenate(parts)
        elif "o_proj" in name or "down_proj" in name:
            made[name] = cut(name, 1)
        elif "experts.0.w1" in name:
            experts = f"{layer}.block_sparse_moe.experts"
            count = sum(other.startswith(f"{experts}.") and other.endswith(".w1.weight") for other in state)
            w13 = [np.concatenate([cut(f"{experts}.{n}.{w}.weight", 0) for w in ("w1", "w3")]) for n in range(count)]
            made[f"{experts}.routed_experts.w13_weight"] = np.stack(w13)
            w2 = [cut(f"{experts}.{n}.w2.weight", 1) for n in range(count)]
            made[f"{experts}.routed_experts.w2_weight"] = np.stack(w2)
        elif not any(part in name for part in ("k_proj", "v_proj", "up_proj", "experts")):
            made[name] = value
    return made


@pytest.mark.parametrize(
    ("ranks", "rank", "kv_heads"), [(1, 0, 4), (2, 0, 4), (2, 1, 4), (4, 3, 4), (4, 2, 2), (4, 3, 1)]
)
def test_llama_in_vllm(ranks: int, rank: int, kv_heads: int, tmp_path: Path) -> None:
    state = llama(shared=kv_heads)
    found = derived(tmp_path, state, read_layout("vllm-llama"), ranks, rank, kv_heads=kv_heads)
    assert (found.refused, found.unused) == ({}, ())
    assert content(found.manifest) == hashed(in_vllm(state, ranks, rank, kv_heads))


@pytest.mark.parametrize(("ranks", "rank", "kv_heads"), [(1, 0, 4), (2, 1, 4), (2, 1, 1)])
def test_mixtral_in_vllm(ranks: int, rank: int, kv_heads: int, tmp_path: Path) -> None:
    state = {name: value for name, value in llama(1, shared=kv_heads).items() if ".mlp." not in name}
    moe = "model.layers.0.block_sparse_moe"
    state[f"{moe}.gate.weight"] = array((4, 128), 1)
    for n in range(4):
        for w, shape in (("w1", (64, 128)), ("w2", (128, 64)), ("w3", (64, 128))):
            state[f"{moe}.experts.{n}.{w}.weight"] = array(shape, 100 + 10 * n + int(w[1]))
    found = derived(tmp_path, state, read_layout("vllm-mixtral"), ranks, rank, kv_heads=kv_heads)
    assert (found.refused, found.unused) == ({}, ())
    assert content(found.manifest) == hashed(in_vllm(state, ranks, rank, kv_heads))


# Files ----------------------------------------------------------------------------------------------------------------


def test_the_layouts_of_this_package_are_valid() -> None:
    assert shipped() == ["vllm-llama", "vllm-mixtral"]
    for name in shipped():
        assert read_layout(name)


def document(**changes: Any) -> bytes:
    tensor = {"name": "a", "parts": [{"tensor": "b"}]}
    return json.dumps({"kind": "hashbench-layout", "version": 1, "tensors": [tensor]} | changes).encode()


BAD = {
    "no JSON": (b"{", "not JSON|JSON"),
    "another kind": (document(kind="x"), "does not follow the schema"),
    "another version": (document(version=2), "its version is 2; accepted is 1"),
    "a field more": (document(more=1), "does not follow the schema"),
    "no tensors": (document(tensors=[]), "does not follow the schema"),
    "a placeholder too many": (
        document(tensors=[{"name": "a", "parts": [{"tensor": "b.{n}"}]}]),
        r"'b\.\{n\}' does not have the placeholders of 'a'",
    ),
    "a placeholder too few": (
        document(tensors=[{"name": "a.{n}", "parts": [{"tensor": "b.{n}"}, {"tensor": "c"}]}]),
        r"'c' does not have the placeholders",
    ),
    "numbers that could end anywhere, which took hours for one name": (
        document(tensors=[{"name": "a.{n}.{m}", "parts": [{"tensor": "b.{n}1{m}.c"}]}]),
        r"'b\.\{n\}1\{m\}\.c' has placeholders with nothing but digits between them",
    ),
    "numbers side by side": (
        document(tensors=[{"name": "a.{n}.{m}", "parts": [{"tensor": "{n}{m}"}]}]),
        r"'\{n\}\{m\}' has placeholders with nothing but digits between them",
    ),
    "stacked by its own": (
        document(tensors=[{"name": "a.{n}", "stack": "n", "parts": [{"tensor": "b.{n}"}]}]),
        "has the placeholder by which it is stacked",
    ),
    "another number": (
        document(tensors=[{"name": "a", "parts": [{"tensor": "b", "shard": 0, "most": "heads"}]}]),
        "does not follow the schema",
    ),
    "padded and cut": (
        document(tensors=[{"name": "a", "parts": [{"tensor": "b", "shard": 1, "pad": 8}]}]),
        "is padded along the first dimension, and cut along another",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_layout_is_refused(what: str, tmp_path: Path) -> None:
    data, reason = BAD[what]
    with pytest.raises(LayoutError, match=reason):
        parse_layout(data)
    (tmp_path / "layout").write_bytes(data)
    with pytest.raises(LayoutError, match="layout is not a valid layout: "):
        read_layout(tmp_path / "layout")


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_writes_a_manifest_and_names_the_rest(tmp_path: Path) -> None:
    state = llama(1) | {"model.layers.0.rotary.inv_freq": array((4,))}
    derived(tmp_path, state, read_layout("vllm-llama"))
    # The manifest and leaves that it made, by the command.
    header, end = {}, 0
    for name, value in state.items():
        header[name] = {"dtype": "BF16", "shape": list(value.shape), "data_offsets": [end, end := end + value.nbytes]}
    text = json.dumps(header).encode()
    path, files = tmp_path / "model.safetensors", [tmp_path / name for name in ("manifest", "leaves", "out")]
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(value.tobytes() for value in state.values()))
    manifest, leaves, out = map(str, files)
    made = in_process(
        "manifest", str(path), "-o", manifest, "--leaves", leaves, "--chunk-size", "64", "--kernel", "hashlib"
    )
    assert made.returncode == 0
    path.unlink()
    call = ["derive", manifest, "--leaves", leaves, "--kv-heads", "4", "--layout", "vllm-llama", "-o", out]
    done = in_process(*call, "--ranks", "8", "--rank", "1")
    assert done.returncode == 0
    assert "not in the layout: 'model.layers.0.rotary.inv_freq'" in done.stderr.decode()
    uncounted = in_process(*call[:4], *call[6:], "--ranks", "8", "--rank", "1")
    assert uncounted.returncode == 2
    assert b"is cut by key and value heads" in uncounted.stderr
    done = in_process(*call, "--ranks", "2", "--rank", "1")
    assert done.returncode == 0
    assert content(read_manifest(Path(out))) == hashed(
        in_vllm({n: v for n, v in state.items() if "rotary" not in n}, 2, 1)
    )
    shown = in_process(*call, "--json")
    assert json.loads(shown.stdout)["unused"] == ["model.layers.0.rotary.inv_freq"]
    assert in_process(*call[:-2], "--json").returncode == 2
    unknown = in_process(*call[:-3], "vllm-lama")
    assert unknown.returncode == 2
    assert unknown.stderr.decode().endswith(
        "'vllm-lama' is neither a file nor one of the layouts vllm-llama, vllm-mixtral; did you mean 'vllm-llama'?\n"
    )
    before = files[0].read_bytes()
    same = in_process(*call[:-1], manifest)
    assert same.returncode == 2
    assert f"{manifest} is what is read: it is not overwritten" in same.stderr.decode()
    assert files[0].read_bytes() == before
    assert in_own_process("derive", "-", *call[2:], input=before).returncode == 0  # over what it wrote before

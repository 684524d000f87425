"""Presets, what each row of the papers changes, and combinations that are refused with what would fit."""

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest
from conftest import ROWS

from fastsquid.config import ABLATIONS, PRESETS, SCORES, Config, ConfigError, preset


@pytest.mark.parametrize(
    "name, memory, grid, slots, selection, rho, values, size, width, scope, order",
    [
        ("squid", "queue", 2, 200, "exact", 0.95, "unit", 128, 32, "subwindow", "separate"),
        ("simsid", "matrix", 4, 100, "exact", 1, "symmetric", 128, 32, "subwindow", "shared"),
        ("squid-published", "queue", 2, 200, "published", 0.95, "unit", 128, 32, "subwindow", "separate"),
        ("simsid-published", "matrix", 2, 200, "published", 1, "symmetric", 128, 32, "subwindow", "shared"),
        ("squid-small", "queue", 2, 200, "exact", 0.95, "unit", 64, 16, "subwindow", "separate"),
        ("simsid-small", "matrix", 4, 100, "exact", 1, "symmetric", 64, 16, "subwindow", "shared"),
        ("digits", "queue", 3, 200, "exact", 0.95, "unit", 48, 8, "patch", "shared"),
    ],
)
def test_presets_are_the_papers(name, memory, grid, slots, selection, rho, values, size, width, scope, order):
    c = preset(name)
    assert (c.memory, c.grid, c.slots, c.selection, c.shortcut, c.value_range) == (
        memory,
        grid,
        slots,
        selection,
        rho,
        values,
    )
    assert (c.image_size, c.width, c.decoder_scope, c.order, c.top_k, c.decoder_memory) == (
        size,
        width,
        scope,
        order,
        5,
        2,
    )
    assert c.preset == name


def test_the_choices_of_score_are_the_table_of_scores():
    field = next(f for f in dataclasses.fields(Config) if f.name == "score")
    assert get_args(field.type) == tuple(SCORES)


def test_papers_schedule():
    for name in PRESETS:
        c = preset(name)
        assert (c.student_weight, c.teacher_weight, c.distillation_weight) == (10, 0.01, 0.001)
        assert (c.adversarial_weight, c.discriminator_weight, c.weight_decay) == (0.005, 0.005, 1e-5)
        assert (c.batch_size, c.beta1, c.beta2, c.shift, c.zoom) == (16, 0.5, 0.999, 0.05, 0.05)
        if not c.reject_reconstructions:  # a classifier, of which the papers have nothing
            continue
        assert c.generator_every == (2 if c.discriminator else 1)  # with nothing between, every iteration is its
        if not name.endswith("digits"):
            ours = name.startswith("fastsquid")
            lr, epochs, select = (6e-4, 12, "last") if ours else (1e-4, 200, "auc")
            assert (c.lr, c.lr_final, c.epochs, c.select) == (lr, 2e-5, epochs, select)
        if not name.startswith("fastsquid"):  # what the papers do not have
            assert (c.negatives, c.crop, c.rotation, c.closer, c.appearance) == ("none", False, 0, 0, 0)
            assert (c.discriminator_head, c.discriminator_norm, c.discriminator_stride) == ("image", "batch", 32)
        assert c.decay_discriminator == ("published" not in name)


def test_sizes_follow():
    squid, simsid = preset("squid"), preset("simsid")
    assert (squid.patch_size, squid.channels, squid.feature_size, squid.token_dim) == (64, 512, 4, 2048)
    assert (simsid.patches, simsid.patch_size, simsid.feature_size, simsid.token_dim) == (16, 32, 2, 512)


def test_dict_and_back():
    config = preset("simsid", slots=50)
    assert Config.from_dict(config.to_dict()) == config


def test_a_record_of_an_earlier_version():
    """A field that it lacks is the default; it alone may name a choice that is no more."""
    config = preset("fastsquid")
    record = {**config.to_dict(), "select": "synthetic"}
    assert Config.from_dict(record) == config and record["select"] == "synthetic"
    del record["crop"]
    assert Config.from_dict(record) == preset("fastsquid", crop=False)
    with pytest.raises(ConfigError, match="select = 'synthetic' .*auc, last"):
        preset("fastsquid", select="synthetic")


@pytest.mark.parametrize("name, folder", [("digits", "digits"), ("fastsquid-digits", "digits/fastsquid")])
def test_presets_for_digits_are_those_of_the_committed_runs(name, folder):
    """What changes in a preset for X-rays must not change them: their results are committed."""
    run = Path(__file__).parent.parent / "bench" / "results" / folder / "seed-0"
    assert Config.from_dict(json.loads((run / "config.json").read_text())["config"]) == preset(name)


@pytest.mark.parametrize("system, row", ROWS)
def test_every_row_of_table_2_is_a_configuration(system, row):
    config = preset(system, **ABLATIONS[system][row])
    assert isinstance(config, Config) and config != preset(system)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            dict(image_size=130),
            "image_size = 130 .*2 x 2 .* 16 .*image_size 128 or 160$",
        ),
        (dict(grid=3), "image_size 96 or 144.* grid 1 or 2 or 4 or 8 .*image_size 128$"),
        (dict(top_k=201), "top_k = 201 .*slots = 200.* top_k <= 200$"),
        (dict(heads=7), "heads = 7 .* 2048.* heads 1 or 2"),
        (dict(image_size=32), "image_size = 32 .*discriminator_stride = 32"),
        (dict(width=1, levels=1, combine=1, skips=1, decoder_memory=1), "width = 1 .* width 2 or 4$"),
        (dict(grid=1, border="mask"), "border = mask .*1 x 1.* border pad.* grid 2"),
        (dict(decoder_memory=3), "decoder_memory = 3 .*combine = 2.* decoder_memory <= 2$"),
        (dict(skips=3), "skips = 3 .*combine = 2.* skips <= 2$"),
        (dict(levels=2, combine=3), "combine = 3 .* 0 .*levels = 2"),
        (dict(image_size=64, grid=1, levels=6), "levels = 6 .* levels <= 5.* grid 2"),
        (dict(shortcut=0.0), r"shortcut = 0.0 .* 0 .* 1\b"),
        (dict(lr=float("nan")), "^lr = nan "),
        (dict(slots=0), "^slots = 0 .* 1$"),
        (
            dict(discriminator=False),
            "score = discriminator .* residual, patch_residual, memory_distance$",
        ),
        (dict(inpainting="off", score="memory_distance"), "score = memory_distance .* residual, patch_residual"),
        (dict(averaging=0.9, discriminator=False, score="residual"), "averaging = 0.9 .* averaging 0"),
        (dict(entropy_weight=0.1), "entropy_weight = 0.1 .* shrinkage hard.* entropy_weight 0$"),
        (dict(averaging=1.0), "averaging = 1.0 .* 0 .* 1$"),
        (dict(slots=2.5), r"slots = 2.5 .*\bint$"),
        (dict(distillation=1), r"distillation = 1 .*\bbool$"),
        (dict(memory="queues"), r"memory = 'queues' .*queue, matrix \(.* queue\?\)$"),
        (dict(slot=3), r"'slot'.* slots\b"),
    ],
)
def test_impossible_combinations_say_what_would_fit(changes, message):
    with pytest.raises(ConfigError, match=message):
        preset("squid", **changes)


def test_without_a_discriminator_its_stride_is_no_limit():
    assert preset("auto-encoder", image_size=32).image_size == 32


def test_any_name_of_a_field_is_looked_up():
    with pytest.raises(ConfigError, match="'name'"):
        preset("squid", **{"name": 3})


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ConfigError, match="'simsids'.* simsid"):
        preset("simsids")


def test_what_is_suggested_is_accepted():
    preset("squid", image_size=160)
    preset("squid", grid=3, image_size=144)
    preset("squid", grid=8)
    preset("squid", width=2, levels=1, combine=1, skips=1, decoder_memory=1)


@pytest.mark.parametrize(
    "changes, name",
    [
        (dict(), "combined"),
        (dict(score="discriminator"), "discriminator"),
        (dict(score="discriminator_image"), "discriminator_image"),
        (dict(score="patch_residual"), "residual"),
        (dict(score="memory_distance"), "residual"),
        (dict(discriminator_head="image"), "residual"),
    ],
)
def test_the_map_that_explains_the_score(changes, name):
    assert preset("fastsquid", **changes).map == name
    assert all(preset(each).map == "residual" for each in ("squid", "simsid", "memae", "digits", "fastsquid-digits"))

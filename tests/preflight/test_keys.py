# Copyright (c) monai-sa2va contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec

import pytest
from monai.bundle import ConfigParser

from monai_sa2va.errors import ConfigError
from monai_sa2va.preflight.keys import check_keys, find_unknown, find_unknown_argument, refuse_dropped

SHIPPED = {"learning_rate": 1, "warmup_steps": 2, "train": {"trainer": {"_target_": "x"}}}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"learning_rate": 1}, None),
        ({"learning_rat": 1}, ("learning_rat", "learning_rate")),
        ({"zzz": 1}, ("zzz", None)),
        # nothing refers to it any more, as where the schedule was replaced, but it is the bundle's own
        ({"warmup_steps": 3}, None),
        ({"mine": 1, "run": ["$print(@mine)"]}, None),
        ({"mine": {"deep": 1}, "run": ["$print(@mine#deep)"]}, None),
        ({"mine": {"deep": 1, "odd": 2}, "run": ["$print(@mine#deep)"]}, ("mine#odd", None)),
        ({"mine": {"deep": 1, "odd": 2}, "run": ["$print(@mine)"]}, None),
        ({"train": {"trainer": {"_target_": "x", "anything": 1}}}, None),
        ({"train": {"trainr": {"_target_": "x"}}}, ("train#trainr", "train#trainer")),
        # text that only looks like a reference is none
        ({"mine": 1, "run": "see @mine"}, ("mine", None)),
        ({"_meta_": {"version": "1"}, "imports": [], "initialize": [], "finalize": [], "training": []}, None),
    ],
)
def test_keys_that_nothing_uses_are_found(config, expected):
    assert find_unknown(config, SHIPPED) == expected


def test_macros_count_as_use():
    parser = ConfigParser(
        {"mine": {"_target_": "x", "a": 1}, "train": {"trainer": "%mine"}, "run": ["$@train#trainer"]}
    )
    parser.parse()
    assert find_unknown(parser.get(), {}) is None


def test_from_inside_a_running_configuration():
    parser = ConfigParser(
        {
            "imports": ["$from monai_sa2va.preflight.keys import check_keys"],
            "initialize": ["$check_keys('train')"],
            "learning_rat": 3e-4,
        }
    )
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("initialize#0")
    assert isinstance(caught.value.__cause__, ConfigError)
    assert str(caught.value.__cause__) == (
        "[CONFIG] unknown key learning_rat: nothing in the configuration uses it; did you mean learning_rate?"
    )


def test_outside_of_a_configuration_there_is_no_parser():
    with pytest.raises(ConfigError, match="expressions of a configuration"):
        check_keys("train")


def test_a_none_that_monai_leaves_out_is_refused():
    config = {"clip_norm": 1.0, "datalist": None, "validate": {"mask_size": 128}}
    refuse_dropped(["datalist", "validate#datalist", "logging_file"], config)
    with pytest.raises(ConfigError, match=r"--clip_norm None changes nothing, .*; write --clip_norm '\$None'"):
        refuse_dropped(["datalist", "clip_norm"], config)
    with pytest.raises(ConfigError, match="--validate#mask_size None changes nothing"):
        refuse_dropped(["validate#mask_size"], config)


@pytest.mark.parametrize("words", [["--clip_norm", "None"], ["--clip_norm=None"], ["--x", "1", "--clip_norm", "None"]])
def test_a_none_behind_the_run_is_refused(monkeypatch: pytest.MonkeyPatch, words: list[str]):
    parser = ConfigParser(
        {
            "imports": ["$from monai_sa2va.preflight.keys import check_keys"],
            "initialize": ["$check_keys('train')"],
            "clip_norm": 1.0,
        }
    )
    monkeypatch.setattr(sys, "argv", ["run", "--resume", "True", *words])
    parser.get_parsed_content("initialize#0", eval_expr=True)
    # only the program of monai.bundle is given overrides as words
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("monai.bundle.__main__", None))
    parser.parse(reset=True)
    with pytest.raises(RuntimeError) as caught:
        parser.get_parsed_content("initialize#0")
    assert str(caught.value.__cause__).startswith("[CONFIG] --clip_norm None changes nothing")


@pytest.mark.parametrize(
    ("component", "expected"),
    [
        ({"_target_": "Identityd", "keys": "image", "allow_missing_keys": True}, None),
        ({"_target_": "Identityd", "key": "image"}, ("part#key", "Identityd", "part#keys")),
        (
            {"_target_": "monai_sa2va.losses.sa2va_loss.Sa2VALoss", "mask_weigth": 1},
            ("part#mask_weigth", "Sa2VALoss", "part#mask_weight"),
        ),
        ({"_target_": "SimpleInferer", "zzz": 1}, ("part#zzz", "SimpleInferer", None)),
        ({"_target_": "Identityd", "keys": "image", "_disabled_": True, "_desc_": "of no use"}, None),
        # takes anything, can't be found, is no name
        ({"_target_": "builtins.dict", "anything": 1}, None),
        ({"_target_": "monai_sa2va.nowhere.Nothing", "anything": 1}, None),
        ({"_target_": "$dict", "anything": 1}, None),
    ],
)
def test_arguments_that_nothing_takes_are_found(component, expected):
    parser = ConfigParser({"part": component, "all": [{"_target_": "SimpleInferer"}]})
    parser.parse()
    assert find_unknown_argument(parser) == expected
    deep = ConfigParser({"all": {"of": [component]}})
    deep.parse()
    found = find_unknown_argument(deep)
    assert (found and found[0]) == (expected and expected[0].replace("part", "all#of#0"))
